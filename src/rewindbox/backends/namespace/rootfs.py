"""What the root file system of vm type `host` looks like before anything is mounted on it.

In: the host's tree, read only. Out: a skeleton: empty mount points, folders that the vm may fill, and a
small made-up /etc. Of the host's /etc only what programs in /usr point to is copied (`_COPIED`), and of that
only what everybody on the host may read. The host's users, secrets, tokens, names and mounts are never in it.

It mounts nothing and asks for no privilege. Everything in the skeleton belongs to whoever calls `build`; if
the agent has another id in the vm, the caller gives `home/agent` away.
Not covered: /usr itself, which the caller binds read-only, and what the host's administrator put into the
copied files (certificates of the house, folders in ld.so.conf): a vm can read that.

Only the standard library, and little of it: the tiny process that starts vms imports this.
"""

import os
import stat
from collections.abc import Iterator

VERSION = 3
"""Raised with every change to what `build` makes: old skeletons are then not used again."""

USR_LINKS = ("bin", "sbin", "lib", "lib64", "lib32", "libx32")
_FILE, _FOLDER, _OPEN_TO_ALL = 0o644, 0o755, 0o1777
_FOLDERS = (
    *("usr", "proc", "dev", "run"),  # mount points; no /sys: it names the host's hardware
    *("etc", "home", "home/agent", "root", "mnt", "media", "opt", "srv"),
    *("var", "var/cache", "var/lib", "var/local", "var/log", "var/mail", "var/opt", "var/spool"),
)
_LINKS = {
    "etc/mtab": "../proc/self/mounts",
    "var/run": "/run",
    "var/lock": "/run/lock",
}
_LINKS_INTO_USR = {
    "etc/localtime": "/usr/share/zoneinfo/UTC",
    "etc/os-release": "../usr/lib/os-release",
}
"""Made only where the host has the file they lead to."""

_FILES = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        "agent:x:1000:1000:agent:/home/agent:/bin/bash\n"
    ),
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\nagent:x:1000:\n",
    "etc/hostname": "rewindbox\n",
    "etc/hosts": ("127.0.0.1\tlocalhost\n127.0.1.1\trewindbox\n::1\tlocalhost ip6-localhost ip6-loopback\n"),
    "etc/host.conf": "multi on\n",
    "etc/resolv.conf": "# This vm has no network, so nobody to ask for names.\n",
    # Go before 1.20, where no dns is named, takes a name that nobody has for one without addresses, and says no error.
    # glibc asks no further than files, and answers at once that there is no such name.
    "etc/nsswitch.conf": "hosts: files [NOTFOUND=return] dns\n"
    + "".join(
        f"{database}: files\n"
        for database in (
            *("passwd", "group", "shadow", "networks"),
            *("protocols", "services", "ethers", "rpc"),
        )
    ),
    "etc/timezone": "Etc/UTC\n",
    "etc/shells": "/bin/sh\n/bin/bash\n",
    "etc/profile": (
        "# Read by login shells. PATH stays as it was given.\n"
        'export PATH="${PATH:-/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin}"\n'
        'if [ -n "${BASH_VERSION:-}" ] && [ -r /etc/bash.bashrc ]; then . /etc/bash.bashrc; fi\n'
    ),
    "etc/bash.bashrc": (
        "# Read by interactive shells.\n[ -n \"${PS1:-}\" ] || return 0\nshopt -s checkwinsize\nPS1='\\u@\\h:\\w\\$ '\n"
    ),
}

_COPIED = (
    # Where programs of /usr find their libraries and each other.
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives"),
    # Certificates, and nothing beside them: keys lie in folders next door.
    *("ssl/certs", "ssl/cert.pem", "ssl/openssl.cnf", "ca-certificates/extracted"),
    *("pki/tls/certs", "pki/tls/cert.pem", "pki/tls/openssl.cnf", "pki/ca-trust/extracted"),
    *("crypto-policies/back-ends", "crypto-policies/config"),
    # Settings that /usr links to or looks for: without jvm.cfg Java does not start, nor matplotlib without its own.
    *("python3", "python3.*", "matplotlibrc", "java", "java-*"),
    # What R cannot start in order without; its *.site files are the administrator's.
    *("R/Renviron", "R/ldpaths", "R/Makeconf"),
    # Which of php's extensions are loaded; php.ini is the administrator's. What mvn and man cannot start without.
    *("php/*/mods-available", "php/*/cli/conf.d", "php/conf.d", "php.d"),
    *("maven/m2.conf", "maven/logging", "manpath.config", "groff"),
    # Tables that are the same on every host of a release.
    *("mime.types", "services", "protocols", "rpc", "magic", "magic.mime", "debian_version", "fonts"),
    *("locale.alias", "xattr.conf"),
)
"""Below /etc; a final * of a name stands for any ending. In the order of need: what exceeds the bounds stays behind."""

_MOST_ENTRIES = 3000
_MOST_BYTES = 8 * 1024 * 1024

_Entry = tuple[str, str, int, int]
"""Path below the root; "folder", "link" or "file"; bytes of a file; mtime in ns or 0 (see `_walk`)."""


def build(target: str, host: str = "/") -> None:
    """Make the skeleton in `target`, an empty folder of the caller's, from what `host` has.

    The result does not depend on the caller's umask. It is not made whole at once: on an error, or if we are
    killed, the folder holds a part; so build under another name, then rename.

    Raises:
        ValueError: `host` keeps programs outside /usr, so binding /usr would not give a working system.
        OSError: `target` cannot be written, or is not empty.
    """
    links = _usr_links(host)
    os.chmod(target, _FOLDER)
    for folder in _FOLDERS:
        _make_folder(os.path.join(target, folder))
    for folder in ("tmp", "var/tmp"):
        _make_folder(os.path.join(target, folder), _OPEN_TO_ALL)
    for path, text in _FILES.items():
        _write(os.path.join(target, path), text.encode())
    for path, to in {**links, **_LINKS, **_links_into_usr(host)}.items():
        os.symlink(to, os.path.join(target, path))
    for path, kind, *_ in _selected(host):
        _copy(path, kind, target, host)


def fingerprint(host: str = "/") -> str:
    """Sixteen hex digits that change whenever `build` would make something else from `host`.

    Taken from names, sizes and times, not from contents: about 2 ms, and 5 the first time in a process.
    Raises as `build` does.
    """
    from hashlib import sha256  # noqa: PLC0415  # takes 6 ms and loads OpenSSL: for those who ask only

    made_up = (VERSION, sorted(_usr_links(host).items()), sorted(_links_into_usr(host)))
    lines = [repr(made_up), *map(repr, _selected(host))]
    return sha256("\n".join(lines).encode()).hexdigest()[:16]


def _usr_links(host: str) -> dict[str, str]:
    """The links from the root into /usr, as the host has them."""
    links = {}
    for name in USR_LINKS:
        path = os.path.join(host, name)
        if os.path.islink(path) and os.readlink(path).lstrip("/").startswith("usr/"):
            links[name] = os.readlink(path)
        elif os.path.lexists(path) or name == "bin":
            raise ValueError(
                f"{path} is not a link into /usr; vms of type host need a host whose programs and libraries"
                " all lie in /usr (a merged /usr)"
            )
    return links


def _links_into_usr(host: str) -> dict[str, str]:
    """Those of `_LINKS_INTO_USR` that would lead somewhere."""
    there = {}
    for path, to in _LINKS_INTO_USR.items():
        if os.path.lexists(os.path.join(host, _landing(path, to))):
            there[path] = to
    return there


def _selected(host: str) -> list[_Entry]:
    """Everything of the host's /etc that is copied: folders before what is in them, in a fixed order.

    A name of `_COPIED` comes whole or not at all, so that a bound never cuts a set of certificates in two.
    """
    chosen: list[_Entry] = []
    room = _MOST_BYTES
    for path in _named(host):
        found = list(_walk(host, path))
        size = sum(entry[2] for entry in found)
        if len(chosen) + len(found) <= _MOST_ENTRIES and size <= room:
            chosen += found
            room -= size
    return chosen


def _named(host: str) -> Iterator[str]:
    """The names of `_COPIED`, those with a * resolved; none that lies behind a link or a closed folder."""
    for name in _COPIED:
        yield from _matching(host, "etc", name.split("/"))


def _matching(host: str, folder: str, names: list[str]) -> Iterator[str]:
    """Where `names`, one below the other, lead from `folder`."""
    entry, (name, *below) = _look(host, folder), names
    if entry is None or entry[1] != "folder":
        return
    beside = [found for found, _ in _inside(host, folder)] if name.endswith("*") else [name]
    for path in (f"{folder}/{found}" for found in beside if found.startswith(name.rstrip("*"))):
        yield from _matching(host, path, below) if below else (path,)


def _walk(host: str, path: str) -> Iterator[_Entry]:
    """`path` and what is below it, without what is not public. Links are not followed.

    Those below are not even looked at, as there are hundreds: a link cannot be changed, only replaced, which
    shows in the time of its folder.
    """
    entry = _look(host, path)
    if entry is None:
        return
    yield entry
    for name, is_link in _inside(host, path) if entry[1] == "folder" else ():
        if is_link:
            yield f"{path}/{name}", "link", 0, 0
        else:
            yield from _walk(host, f"{path}/{name}")


def _inside(host: str, folder: str) -> list[tuple[str, bool]]:
    """Each name in `folder`, sorted, and whether it is a link; nothing if it cannot be listed."""
    try:
        with os.scandir(os.path.join(host, folder)) as listing:
            return sorted((item.name, item.is_symlink()) for item in listing)
    except OSError:
        return []


def _look(host: str, path: str) -> _Entry | None:
    """What is at `path`; None if there is nothing, or nothing that everybody on the host may read."""
    try:
        status = os.lstat(os.path.join(host, path))
    except OSError:
        return None
    mode = status.st_mode
    if stat.S_ISLNK(mode):
        return path, "link", 0, status.st_mtime_ns
    if stat.S_ISDIR(mode) and mode & 0o005 == 0o005:
        return path, "folder", 0, status.st_mtime_ns
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        return path, "file", status.st_size, status.st_mtime_ns
    return None


def _copy(path: str, kind: str, target: str, host: str) -> None:
    """One entry; what has vanished or changed its kind since it was listed is left out."""
    source, goal = os.path.join(host, path), os.path.join(target, path)
    _make_parents(target, os.path.dirname(path))
    if kind == "folder":
        _make_folder(goal)
    elif kind == "link":
        _copy_link(source, path, goal)
    else:
        content = _read_public(source)
        if content is not None:
            _write(goal, content)


def _copy_link(source: str, path: str, goal: str) -> None:
    """A link, unless it leads out of /etc and /usr: its text may name a user's folder."""
    try:
        to = os.readlink(source)
    except OSError:
        return
    if _landing(path, to).split("/")[0] in ("etc", "usr", *USR_LINKS):
        os.symlink(to, goal)


def _landing(path: str, to: str) -> str:
    """Where a link at `path` with the text `to` leads, below the root, by its text alone."""
    return os.path.normpath(os.path.join("/", os.path.dirname(path), to)).lstrip("/")


def _read_public(source: str) -> bytes | None:
    """A file that everybody may read; None if it is no longer one."""
    try:
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        public = stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IROTH
        return file.read(_MOST_BYTES) if public else None


def _write(path: str, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        os.fchmod(file.fileno(), _FILE)


def _make_folder(path: str, mode: int = _FOLDER) -> None:
    os.mkdir(path)
    os.chmod(path, mode)


def _make_parents(target: str, folder: str) -> None:
    """Folders above a copied name, such as etc/ssl."""
    if not os.path.isdir(os.path.join(target, folder)):
        _make_parents(target, os.path.dirname(folder))
        _make_folder(os.path.join(target, folder))
