"""The skeleton has what programs need and nothing that is the host's business."""

import ast
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rewindbox.backends.namespace import rootfs

CANARY = "canary-mallory"
"""In every secret of the made-up host, and in the name of its user."""

HOST_FOLDERS = """
    usr/bin usr/lib usr/lib64 usr/sbin usr/share/zoneinfo usr/share/ca-certificates etc/alternatives
    etc/ld.so.conf.d etc/ssl/certs/java etc/ssl/private etc/ssh etc/sudoers.d etc/cron.d etc/python3
    etc/python3.11 etc/java-17-openjdk/security etc/pki/tls etc/fonts etc/postgresql home/mallory
    etc/php/8.2/cli/conf.d etc/php/8.2/mods-available etc/php/8.2/fpm etc/maven
"""
PUBLIC = {
    "usr/lib/os-release": "ID=debian\n",
    "usr/share/zoneinfo/UTC": "TZif2",
    "usr/bin/mawk": "",
    "etc/ld.so.cache": "cache",
    "etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n",
    "etc/ld.so.conf.d/local.conf": "/usr/local/lib\n",
    "etc/ssl/openssl.cnf": "[default]\n",
    "etc/ssl/certs/ca-certificates.crt": "CERTIFICATE",
    "etc/ssl/certs/java/cacerts": "CERTIFICATE",
    "etc/python3.11/sitecustomize.py": "",
    "etc/java-17-openjdk/jvm.cfg": "-server KNOWN\n",
    "etc/services": "http 80/tcp\n",
    "etc/fonts/fonts.conf": "<fontconfig/>\n",
    "etc/php/8.2/mods-available/ctype.ini": "extension=ctype.so\n",
    "etc/maven/m2.conf": "main is org.apache\n",
}
SECRET = {
    "etc/passwd": f"root:x:0:0::/root:/bin/sh\n{CANARY}:x:1000:1000::/home/{CANARY}:/bin/sh\n",
    "etc/group": f"{CANARY}:x:1000:\n",
    "etc/shadow": f"{CANARY}:$6$\n",
    "etc/hostname": f"{CANARY}\n",
    "etc/hosts": f"10.0.0.1 {CANARY}\n",
    "etc/machine-id": f"{CANARY}\n",
    "etc/fstab": f"{CANARY} / ext4\n",
    "etc/crontab": f"{CANARY}\n",
    "etc/resolv.conf": f"search {CANARY}\n",
    "etc/environment": f"TOKEN={CANARY}\n",
    "etc/pip.conf": f"https://{CANARY}@host\n",
    "etc/profile": f"{CANARY}\n",
    "etc/bash.bashrc": f"{CANARY}\n",
    "etc/ssh/ssh_host_ed25519_key": CANARY,
    "etc/sudoers.d/admins": CANARY,
    "etc/cron.d/job": CANARY,
    "etc/ssl/private/server.key": CANARY,
    "etc/postgresql/pg_hba.conf": CANARY,
    "etc/php/8.2/cli/php.ini": f"mysqli.default_pw={CANARY}\n",
    "etc/php/8.2/fpm/www.conf": CANARY,
    "etc/maven/settings.xml": CANARY,
}
CLOSED = {
    "etc/ssl/certs/server.pem": CANARY,
    "etc/java-17-openjdk/jmxremote.password": CANARY,
    "etc/ld.so.conf.d/secret.conf": CANARY,
    "etc/java-17-openjdk/security/token": CANARY,
}
"""In places that are copied, but not for everybody to read."""

LINKS = {
    **{name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")},
    "etc/alternatives/awk": "/usr/bin/mawk",
    "etc/alternatives/relative": "../../usr/bin/mawk",
    "etc/alternatives/merged": "/bin/mawk",
    "etc/ssl/certs/0a.0": "ca-certificates.crt",
    "etc/php/8.2/cli/conf.d/20-ctype.ini": "/etc/php/8.2/mods-available/ctype.ini",
}
STRAY_LINKS = {
    "etc/alternatives/tool": f"/home/{CANARY}/bin/tool",
    "etc/alternatives/climb": f"../../../home/{CANARY}/tool",
    "etc/alternatives/detour": f"/usr/../opt/{CANARY}",
    "etc/ssl/certs/ca.pem": f"/home/{CANARY}/ca.pem",
}


@pytest.fixture
def host(tmp_path: Path) -> str:
    """A made-up host with a merged /usr, whose secrets hold the canary."""
    root = tmp_path / "host"
    for folder in HOST_FOLDERS.split():
        (root / folder).mkdir(parents=True)
    for path, text in {**PUBLIC, **SECRET, **CLOSED}.items():
        (root / path).write_text(text)
        (root / path).chmod(0o640 if path in CLOSED else 0o644)
    for path, to in {**LINKS, **STRAY_LINKS}.items():
        (root / path).symlink_to(to)
    (root / "etc/java-17-openjdk/security").chmod(0o750)
    os.mkfifo(root / "etc/alternatives/pipe", 0o666)
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())]:
        if folder.stat().st_mode & 0o777 != 0o750:
            folder.chmod(0o755)
    return str(root)


@pytest.fixture
def target(tmp_path: Path) -> str:
    folder = tmp_path / "target"
    folder.mkdir(mode=0o700)
    return str(folder)


def tree(root: str) -> dict[str, os.stat_result]:
    """Everything below `root` by its relative path."""
    return {str(path.relative_to(root)): path.lstat() for path in Path(root).rglob("*")}


def words(root: str) -> str:
    """All names, link texts and contents below `root` in one text."""
    found = []
    for path, status in tree(root).items():
        found.append(path)
        if stat.S_ISLNK(status.st_mode):
            found.append(os.readlink(os.path.join(root, path)))
        elif stat.S_ISREG(status.st_mode):
            found.append(Path(root, path).read_bytes().decode("latin-1"))
    return "\n".join(found)


def needs_merged_usr() -> None:
    if not os.path.islink("/bin"):
        pytest.skip("this host keeps programs outside /usr")


def test_nothing_of_the_host_s_secrets(host, target):
    """No user, secret, name or stray link of the host is in the skeleton, nor anything closed to others."""
    assert CANARY in words(host)
    rootfs.build(target, host)
    assert CANARY not in words(target)
    built = tree(target)
    assert not {*CLOSED, *STRAY_LINKS, "etc/java-17-openjdk/security", "etc/alternatives/pipe"} & built.keys()
    assert not {"etc/shadow", "etc/gshadow", "etc/machine-id", "etc/sudoers", "etc/fstab", "sys"} & built.keys()


def test_what_programs_need_is_there(host, target):
    """Public files of the listed places come with their contents, links with their text."""
    rootfs.build(target, host)
    for path, text in PUBLIC.items():
        if path.startswith("etc/"):
            assert Path(target, path).read_text() == text
    for path, to in LINKS.items():
        assert os.readlink(os.path.join(target, path)) == to
    assert os.readlink(os.path.join(target, "etc/localtime")) == "/usr/share/zoneinfo/UTC"
    assert os.readlink(os.path.join(target, "etc/os-release")) == "../usr/lib/os-release"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes_do_not_depend_on_the_umask(host, target, umask):
    """All is readable by everybody, writable by the owner only (but for the two tmp), and of plain kinds."""
    before = os.umask(umask)
    try:
        rootfs.build(target, host)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(target).st_mode) == 0o755
    for path, status in tree(target).items():
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            assert mode == (0o1777 if path in ("tmp", "var/tmp") else 0o755), path
        elif not stat.S_ISLNK(status.st_mode):
            assert stat.S_ISREG(status.st_mode) and mode == 0o644, path


def test_mount_points_and_home_are_empty(host, target):
    """The folders that something is mounted on, or that the vm fills, are there and empty."""
    rootfs.build(target, host)
    for folder in ("usr", "proc", "dev", "run", "tmp", "var/tmp", "home/agent", "root", "mnt", "opt", "srv"):
        assert os.listdir(os.path.join(target, folder)) == []


def test_made_up_users(host, target):
    """The vm knows root, nobody and agent (1000, /home/agent, bash), and calls itself rewindbox."""
    rootfs.build(target, host)
    etc = Path(target, "etc")
    users = [line.split(":") for line in (etc / "passwd").read_text().splitlines()]
    assert [user[0] for user in users] == ["root", "nobody", "agent"]
    assert users[2][2:4] + users[2][5:] == ["1000", "1000", "/home/agent", "/bin/bash"]
    assert all(len(user) == 7 and user[1] == "x" for user in users)
    groups = {line.split(":")[2] for line in (etc / "group").read_text().splitlines()}
    assert {user[3] for user in users} <= groups
    assert (etc / "hostname").read_text() == "rewindbox\n"
    assert "127.0.0.1\tlocalhost" in (etc / "hosts").read_text()
    assert "nameserver" not in (etc / "resolv.conf").read_text()
    assert "hosts: files [NOTFOUND=return] dns\n" in (etc / "nsswitch.conf").read_text()


def test_shell_files_are_silent(host, target):
    """Login and interactive shells read the made-up files without a word, and PATH stays as given."""
    rootfs.build(target, host)
    etc = Path(target, "etc")
    profile = (etc / "profile").read_text().replace("/etc/", f"{etc}/")
    for name, text in {"profile": profile, "bash.bashrc": (etc / "bash.bashrc").read_text()}.items():
        script = f"set -eu; PS1=x\n{text}\necho $PATH"
        done = subprocess.run(
            ["bash", "-c", script],
            env={"PATH": "/usr/bin:/bin", "BASH_ENV": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "/usr/bin:/bin\n", ""), name


def test_separate_bin_is_refused(host, target):
    """A host whose /bin is a real folder is refused with a sentence, before anything is made."""
    (Path(host) / "bin").unlink()
    (Path(host) / "bin").mkdir()
    for refuse in (lambda: rootfs.build(target, host), lambda: rootfs.fingerprint(host)):
        with pytest.raises(ValueError, match=r"/bin is not a link into /usr; .*merged /usr"):
            refuse()
    assert os.listdir(target) == []


@pytest.mark.parametrize("to", ["opt/bin", "/home/bin", "../usr"])
def test_bin_that_leads_elsewhere_is_refused(host, target, to):
    """A /bin that is a link, but not into /usr, is refused as well."""
    (Path(host) / "bin").unlink()
    (Path(host) / "bin").symlink_to(to)
    with pytest.raises(ValueError, match="is not a link into /usr"):
        rootfs.build(target, host)


def test_used_target_is_refused(host, target):
    """Nothing is built over an older skeleton."""
    rootfs.build(target, host)
    with pytest.raises(FileExistsError):
        rootfs.build(target, host)


def test_bare_host(tmp_path, target):
    """A host with an empty /etc gives a skeleton all the same, without links that lead nowhere."""
    root = tmp_path / "bare"
    (root / "usr/bin").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "bin").symlink_to("usr/bin")
    rootfs.build(target, str(root))
    assert os.path.isfile(os.path.join(target, "etc/passwd"))
    assert not os.path.lexists(os.path.join(target, "etc/localtime"))
    assert not os.path.lexists(os.path.join(target, "lib64"))


@pytest.mark.parametrize("bound", ["_MOST_ENTRIES", "_MOST_BYTES"])
def test_copies_are_bounded(host, target, monkeypatch, bound):
    """A place that exceeds the bounds stays behind as a whole; what fits comes."""
    room = {"_MOST_ENTRIES": 12, "_MOST_BYTES": 1000}
    for number in range(20):
        (Path(host) / f"etc/ssl/certs/{number}.crt").write_text("x" * 100)
    monkeypatch.setattr(rootfs, bound, room[bound])
    rootfs.build(target, host)
    assert os.path.lexists(os.path.join(target, "etc/alternatives/awk"))
    assert os.path.exists(os.path.join(target, "etc/ld.so.cache"))
    assert not os.path.exists(os.path.join(target, "etc/ssl/certs"))


def test_links_are_not_followed(host, target):
    """Where the host has a link in place of a folder, the link is copied, not what it leads to."""
    outside = Path(host) / "home/mallory"
    (outside / "ssl.conf").write_text(CANARY)
    for place in ("fonts", "java-99", "pki/tls", "php/9.9"):
        path = Path(host) / "etc" / place
        if path.is_dir():
            subprocess.run(["rm", "-r", path], check=True)
        path.symlink_to(outside)
    (outside / "openssl.cnf").write_text(CANARY)
    (outside / "certs").mkdir()
    (outside / "mods-available").mkdir()
    (outside / "mods-available" / "x.ini").write_text(CANARY)
    rootfs.build(target, host)
    assert CANARY not in words(target)
    assert not {"etc/fonts", "etc/java-99", "etc/pki", "etc/php/9.9"} & tree(target).keys()


def touch_again(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def replace_link(path: Path, to: str) -> None:
    path.unlink()
    path.symlink_to(to)
    touch_again(path.parent)


CHANGES = {
    "a file grew": lambda h: (h / "etc/services").write_text("http 80/tcp\nssh 22/tcp\n"),
    "a file was touched": lambda h: touch_again(h / "etc/ssl/certs/java/cacerts"),
    "a file went": lambda h: (h / "etc/services").unlink(),
    "a file was closed": lambda h: (h / "etc/ssl/certs/ca-certificates.crt").chmod(0o600),
    "a file was opened": lambda h: (h / "etc/ssl/certs/server.pem").chmod(0o644),
    "a file came": lambda h: (h / "etc/mime.types").write_text(""),
    "a file came deep down": lambda h: (h / "etc/ssl/certs/java/more").write_text(""),
    "a folder was closed": lambda h: (h / "etc/ssl/certs").chmod(0o750),
    "a runtime came": lambda h: (h / "etc/python3.12").mkdir(),
    "a runtime came deep down": lambda h: (h / "etc/php/8.4/mods-available").mkdir(parents=True),
    "a link came in place of a file": lambda h: replace_link(h / "etc/services", "/usr/share/services"),
    "a link was replaced": lambda h: replace_link(h / "etc/alternatives/awk", "/usr/bin/gawk"),
    "a link from the root changed": lambda h: replace_link(h / "sbin", "usr/bin"),
    "the time zones went": lambda h: (h / "usr/share/zoneinfo/UTC").unlink(),
}


def test_fingerprint_sees_links_beside_secrets(host):
    """A link that is copied from a folder of which little else is, changes it too when it leads elsewhere."""
    link = Path(host) / "etc/ssl/cert.pem"
    link.symlink_to("certs/ca-certificates.crt")
    before = rootfs.fingerprint(host)
    link.unlink()
    link.symlink_to("certs/other.crt")
    assert rootfs.fingerprint(host) != before


@pytest.mark.parametrize("change", CHANGES)
def test_fingerprint_changes_with_the_host(host, change):
    """Whatever would make another skeleton changes the fingerprint."""
    before = rootfs.fingerprint(host)
    CHANGES[change](Path(host))
    assert rootfs.fingerprint(host) != before


def test_fingerprint_is_stable(host, target, monkeypatch):
    """It is 16 hex digits, the same whatever else of the host changes; a new VERSION changes it."""
    before = rootfs.fingerprint(host)
    assert len(before) == 16 and int(before, 16) >= 0
    rootfs.build(target, host)
    for path in SECRET:
        (Path(host) / path).write_text("other")
    assert rootfs.fingerprint(host) == before
    monkeypatch.setattr(rootfs, "VERSION", rootfs.VERSION + 1)
    assert rootfs.fingerprint(host) != before


def test_odd_names(host, target):
    """Names that are no UTF-8, or hold newlines, are copied and fingerprinted like others."""
    folder = os.path.join(host, "etc/ssl/certs").encode()
    before = rootfs.fingerprint(host)
    Path(os.fsdecode(folder + b"/\xff\n.crt")).write_text("x")
    rootfs.build(target, host)
    assert os.path.exists(os.path.join(target.encode(), b"etc/ssl/certs/\xff\n.crt"))
    assert rootfs.fingerprint(host) != before


# The same with the real host.


def test_this_host(target):
    """Of this host no user but root and nobody appears, no name, nothing big, nothing closed to others."""
    needs_merged_usr()
    rootfs.build(target)
    built = tree(target)
    files = {path: status.st_size for path, status in built.items() if stat.S_ISREG(status.st_mode)}
    assert len(built) < 3100 and sum(files.values()) < 9 * 1024 * 1024
    users = {user.pw_name for user in pwd.getpwall()} - {"root", "nobody"}
    made_up = Path(target, "etc/passwd").read_text() + Path(target, "etc/group").read_text()
    assert not {line.split(":")[0] for line in made_up.splitlines()} & (users - {"agent", "tty"})
    for path in ("/etc/machine-id", "/etc/hostname"):
        secret = Path(path).read_text().strip() if os.path.exists(path) else ""
        assert len(secret) < 6 or secret not in words(target)
    for path in files:
        source = Path("/", path)
        assert path in rootfs._FILES or source.stat().st_mode & 0o004


def test_links_of_this_host_lead_into_etc_or_usr(target):
    """No link of the skeleton leads out of it, but for those to the mounts of the vm itself."""
    needs_merged_usr()
    rootfs.build(target)
    for path, status in tree(target).items():
        if stat.S_ISLNK(status.st_mode):
            landing = os.path.normpath(os.path.join("/", os.path.dirname(path), os.readlink(Path(target, path))))
            assert landing.split("/")[1] in ("etc", "usr", "run", "proc", "bin", "sbin", "lib", "lib64"), path


@pytest.mark.skipif(os.geteuid() != 0, reason="already an ordinary user")
def test_ordinary_user_gets_the_same(host, target):
    """An ordinary user builds the same, also by relative names below folders that are closed to him."""
    rootfs.build(target, host)
    other = Path(target).parent / "other"
    other.mkdir()
    os.chown(other, 61234, 61234)
    other.parent.chmod(0o711)
    code = """
import os, sys
from rewindbox.backends.namespace import rootfs
import hashlib
os.chdir(sys.argv[1])
os.setgroups([]), os.setresgid(61234, 61234, 61234), os.setresuid(61234, 61234, 61234)
rootfs.build("other", "host")
print(rootfs.fingerprint("host"))
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", code, str(other.parent)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == rootfs.fingerprint(host)
    assert words(str(other)) == words(target)
    assert {status.st_uid for status in tree(str(other)).values()} == {61234}


def test_imports_are_of_the_standard_library():
    """The module imports nothing but the standard library."""
    tree = ast.parse(Path(rootfs.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
