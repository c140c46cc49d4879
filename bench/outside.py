"""What the host looks like from outside, before and after: the proof that a run left nothing on it.

Read `look` and `differences` first. Everything is compared exactly. Other programs of the machine go on meanwhile;
so processes count when they descend from us (`adopt_orphans` makes sure that none can escape that), and a new
socket or shared memory counts unless it is seen to belong to a process that does not.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from bench.memory import descendants

Facts = Mapping[str, str]
"""A name (a path, a socket ...) and all that is compared of it."""
_PROCESSES = "processes that descend from us"
_PR_SET_CHILD_SUBREAPER = 36
_LISTENING = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}


@dataclass(frozen=True, slots=True)
class View:
    """The host at one moment: for each thing looked at, what there was."""

    facts: Mapping[str, Facts]

    def counts(self) -> dict[str, int]:
        """How much of each thing was looked at."""
        return {name: len(facts) for name, facts in self.facts.items()}


def adopt_orphans() -> None:
    """From now on a descendant whose parent ends becomes our child: it cannot leave our sight."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl PR_SET_CHILD_SUBREAPER")


def look(canaries: str, home: str) -> View:
    """Look at the host. `canaries`: a folder compared with its contents; `home`: its top level is compared."""
    looks: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
        _PROCESSES: _descendants,
        "mounts": lambda: _lines("/proc/self/mountinfo"),
        "canary files": lambda: _tree(canaries, contents=True),
        "/etc": lambda: _tree("/etc"),
        "/usr/local": lambda: _tree("/usr/local"),
        "the caller's home, top level": lambda: _entries(home),
        "listening sockets": _sockets,
        "/dev/shm": lambda: _tree("/dev/shm"),
        "System V IPC": _ipc,
        "cgroups": _cgroups,
        "network interfaces": lambda: ((name, "") for name in os.listdir("/sys/class/net")),
        "our open descriptors": _descriptors,
    }
    return View({name: dict(function()) for name, function in looks.items()})


def settle(before: View, patience_s: float = 5.0) -> float:
    """Bury the dead that became our children, and wait for those that are dying; seconds that it took.

    A process is out of reach as soon as its sockets are closed, and gone some milliseconds later.
    """
    started = time.monotonic()
    known = {int(name.split()[0]) for name in before.facts[_PROCESSES]}
    while (new := {pid for pid, _ in _family()} - known) and time.monotonic() - started < patience_s:
        for pid in new:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.001)
    return time.monotonic() - started


def differences(before: View, after: View) -> list[str]:
    """A sentence for everything that appeared, went or changed."""
    found = []
    for what, old in before.facts.items():
        new = after.facts[what]
        found += [f"{what}: new: {name} {new[name]}".rstrip() for name in new if name not in old]
        found += [f"{what}: gone: {name}" for name in old if name not in new]
        found += [
            f"{what}: changed: {name} from {old[name]} to {new[name]}"
            for name in old
            if name in new and new[name] != old[name]
        ]
    return found


def _descendants() -> Iterator[tuple[str, str]]:
    for pid, name in _family():
        yield f"{pid} {name}", _link(f"/proc/{pid}/ns/pid")


def _family() -> Iterator[tuple[int, str]]:
    for pid in sorted(descendants(os.getpid())):
        yield pid, _read(f"/proc/{pid}/comm").strip()


def _tree(root: str, *, contents: bool = False) -> Iterator[tuple[str, str]]:
    """Everything below a folder: path, size, time of change, mode, owner."""
    yield root, _facts(root)
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            yield path, _facts(path) + (f" {_digest(path)}" if contents and os.path.isfile(path) else "")


def _entries(folder: str) -> Iterator[tuple[str, str]]:
    """The top level of a folder; the times of folders in it are other programs' business (caches)."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        yield path, _facts(path) if not os.path.isdir(path) else _facts(path).split()[0]


def _facts(path: str) -> str:
    try:
        status = os.lstat(path)
    except OSError:  # it went while we looked
        return "gone"
    mode, owner = stat.filemode(status.st_mode), f"{status.st_uid}:{status.st_gid}"
    return f"{mode} {owner} {status.st_size} {status.st_mtime_ns}"


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _sockets() -> Iterator[tuple[str, str]]:
    """Sockets that somebody could connect to, but for those that other programs are seen to hold."""
    listening, foreign = list(_listening()), _foreign_sockets()
    for kind, address, inode in listening:
        if inode not in foreign:
            yield f"{kind} {address}", ""


def _listening() -> Iterator[tuple[str, str, str]]:
    for kind, state in _LISTENING.items():
        for line in _read(f"/proc/net/{kind}").splitlines()[1:]:
            words = line.split()
            if words[3] == state and os.getuid() in (0, int(words[7])):  # another user's are not of our making
                yield kind, words[1], words[9]
    for line in _read("/proc/net/unix").splitlines()[1:]:
        words = line.split(maxsplit=7)
        if len(words) == 8 and int(words[3], 16) & 0x10000:  # it accepts connections
            yield "unix", words[7], words[6]


def _foreign_sockets() -> set[str]:
    """Inodes of sockets held by processes that do not descend from us."""
    ours = {pid for pid, _ in _family()} | {os.getpid()}
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) in ours:
            continue
        try:
            links = [_link(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        found |= {link[8:-1] for link in links if link.startswith("socket:[")}
    return found


def _ipc() -> Iterator[tuple[str, str]]:
    for kind in ("shm", "sem", "msg"):
        for line in _read(f"/proc/sysvipc/{kind}").splitlines()[1:]:
            yield f"{kind} {' '.join(line.split()[:3])}", ""


def _cgroups() -> Iterator[tuple[str, str]]:
    others = _groups_of_others()
    for folder, inside, _ in os.walk("/sys/fs/cgroup"):
        inside[:] = [name for name in inside if os.path.join(folder, name) not in others]
        yield folder, ""


@functools.cache
def _groups_of_others() -> frozenset[str]:
    """Those that other launchers had when we first looked: they go when those end, which is none of our doing."""
    found = (os.path.join(folder, name) for folder, inside, _ in os.walk("/sys/fs/cgroup") for name in inside)
    return frozenset(path for path in found if re.fullmatch(r"rewindbox-\d+", os.path.basename(path)))


def _descriptors() -> Iterator[tuple[str, str]]:
    for number in os.listdir("/proc/self/fd"):
        target = _link(f"/proc/self/fd/{number}")
        if target and not target.endswith("/fd"):  # not the one that lists them
            yield number, target


def _lines(path: str) -> Iterator[tuple[str, str]]:
    for line in _read(path).splitlines():
        yield line, ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
