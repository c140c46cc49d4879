"""Every attack of the corpus, inside a real vm; the verdict comes from the host."""
# ruff: noqa: E501  programs that are run inside stand here as they are

import contextlib
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from corpus import CORPUS, LEFT_BEHIND, PRELUDE

from conftest import namespace, out, run, survivors
from rewindbox.backends.namespace import seccomp

pytestmark = pytest.mark.anyio
SECRET = "canary-5d1f0c"

CAGE = """
import os, sys
from rewindbox.backends.namespace import kernel
uid, gid = os.getuid(), os.getgid()
kernel.unshare(kernel.NEWUSER | kernel.NEWNS | kernel.NEWNET | kernel.NEWIPC | kernel.NEWUTS)
for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
    with open(f"/proc/self/{name}", "w") as file: file.write(text)
kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Runs a program in namespaces of its own, with every capability there."""


class Host:
    """What of the host an attack could reach, and what it looked like before."""

    def __init__(self, folder: Path) -> None:
        self.canary = folder / "canary"
        self.canary.write_text(SECRET)
        self.canary.chmod(0o666)
        folder.chmod(0o755)
        self.tcp = socket.create_server(("0.0.0.0", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("0.0.0.0", 0))
        self.abstract, self.by_file = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        self.abstract_name = f"rewindbox-{secrets.token_hex(8)}"
        self.abstract.bind(f"\0{self.abstract_name}")
        self.short_folder = tempfile.mkdtemp()
        self.socket_name = os.path.join(self.short_folder, "socket")
        self.by_file.bind(self.socket_name)
        for server in (self.tcp, self.abstract, self.by_file):
            server.listen()
        for server in (self.tcp, self.udp, self.abstract, self.by_file):
            server.setblocking(False)
        self.before = self.look()

    def close(self) -> None:
        for server in (self.tcp, self.udp, self.abstract, self.by_file):
            server.close()
        shutil.rmtree(self.short_folder)

    def look(self) -> dict[str, object]:
        """What must not change."""
        settings = ("core_pattern", "hostname", "panic", "overflowuid")
        return {
            **{name: Path(f"/proc/sys/kernel/{name}").read_text() for name in settings},
            "canary": self.canary.read_text(),
            "beside": sorted(os.listdir(self.canary.parent)),
            "mounts": Path("/proc/self/mountinfo").read_text(),
            "programs": sorted(
                (entry.name, status.st_mode, status.st_size, status.st_mtime_ns)
                for entry in os.scandir("/usr/bin")
                if (status := entry.stat(follow_symlinks=False))
            ),
            "env": hashlib.sha256(Path("/usr/bin/env").read_bytes()).hexdigest(),
            "limits": Path("/proc/self/limits").read_text(),
        }

    def heard(self) -> list[str]:
        """Who came to our servers since we last asked."""
        visits = []
        for name, server in (("tcp", self.tcp), ("abstract", self.abstract), ("file", self.by_file)):
            try:
                server.accept()[0].close()
                visits.append(name)
            except BlockingIOError:
                pass
        try:
            self.udp.recv(100)
            visits.append("udp")
        except BlockingIOError:
            pass
        return visits

    def address(self) -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))
                return str(probe.getsockname()[0])
            except OSError:
                return "127.0.0.2"

    def fill_in(self, code: str) -> str:
        """The code with the names of this host in it; the secret reversed, so that it is not in the code."""
        tables = {**seccomp._REFUSED, **seccomp._ABSENT, **seccomp._CHECKED}
        column = {"x86_64": 0, "aarch64": 1}[os.uname().machine]
        names = {
            "NUMBERS": repr({name: numbers[column] for name, numbers in tables.items() if numbers[column] is not None}),
            "PORT": self.tcp.getsockname()[1],
            "UDP": self.udp.getsockname()[1],
            "ADDRESS": self.address(),
            "ABSTRACT": self.abstract_name,
            "SOCKET": self.socket_name,
            "CANARY": self.canary,
            "SECRET": SECRET[::-1],
            "PID": os.getpid(),
            "USER": pwd.getpwuid(os.getuid()).pw_name
            if os.getuid() in {p.pw_uid for p in pwd.getpwall()}
            else "nobody-here",
        }
        for name, value in names.items():
            code = code.replace(f"@{name}@", str(value))
        return code


@pytest.fixture
def host(tmp_path, monkeypatch):
    """The host, with canaries; whatever the test did, it is as it was."""
    monkeypatch.setenv("CANARY", SECRET)
    (tmp_path / "host").mkdir()
    found = Host(tmp_path / "host")
    yield found
    found.close()
    assert found.look() == found.before


def outside(host: Host, attack, folder: Path) -> str:
    """What the same code says where nothing contains it."""
    file = folder / "attack"
    file.write_text(host.fill_in((PRELUDE if attack.language == "python" else "") + attack.code))
    words = [{"python": sys.executable, "bash": "/bin/bash"}[attack.language], str(file)]
    if attack.control == "caged":
        words = [sys.executable, "-c", CAGE, *words]
    place, told = folder / "place", folder / "told"
    place.mkdir()
    with told.open("w") as file:
        process = subprocess.Popen(words, cwd=place, stdout=file, stderr=file, start_new_session=True)
        process.wait(60)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it started may go on
    return told.read_text()


@pytest.mark.parametrize("attack", CORPUS, ids=lambda attack: attack.id)
async def test_attack_fails(vm, host, attack):
    """The attack fails inside, leaves the host as it was, and the vm goes on."""
    code = host.fill_in((PRELUDE if attack.language == "python" else "") + attack.code)
    inside = await namespace(vm)
    outcome = await run(vm, code, attack.language, **attack.limits)
    told = outcome.stdout.decode(errors="replace") + outcome.stderr.decode(errors="replace")
    assert outcome.stdout.decode().splitlines()[-1:] and outcome.stdout.decode().splitlines()[-1].startswith("HELD"), (
        told
    )
    assert SECRET not in told
    assert host.heard() == []
    assert survivors(inside) == []
    assert await out(vm, "echo fine; cat /proc/sys/kernel/hostname") == "fine\nrewindbox\n"


@pytest.mark.parametrize("attack", [a for a in CORPUS if a.control], ids=lambda attack: attack.id)
def test_attack_is_one(host, attack, tmp_path):
    """Where nothing contains it the same code succeeds: the other test proves something."""
    if attack.control == "root" and os.getuid() != 0:
        pytest.skip("only root can show this")
    told = outside(host, attack, tmp_path)
    assert "BROKE" in told and "HELD" not in told, told
    host.heard()


async def test_every_refused_call(vm, host):
    """Every system call of the tables fails inside, whatever its arguments: none is forgotten."""
    names = [*seccomp._REFUSED, *seccomp._ABSENT]
    code = (
        PRELUDE
        + f"""
for name in {names!r}:
    if name in NUMBERS:
        result, number = call(name, 0, 0, 0, 0, 0, 0)
        print(name, result, errno.errorcode.get(number))
print("HELD")"""
    )
    told = [line.split() for line in (await out(vm, host.fill_in(code), "python")).splitlines()]
    assert told.pop() == ["HELD"]
    assert len(told) > 80
    assert [line for line in told if line[1] != "-1" or line[2] not in ("EPERM", "ENOSYS")] == []


@pytest.mark.parametrize("name", LEFT_BEHIND)
async def test_nothing_outlives_its_execution(vm, name):
    """Whatever a program leaves running is dead when its execution is over, as the host sees it."""
    inside = await namespace(vm)
    for _ in range(3):
        outcome = await run(vm, LEFT_BEHIND[name], wall_s=20, processes=300)
        assert survivors(inside) == []
        assert outcome.ended == "exit", outcome
    assert await out(vm, "ps -e -o comm=") == "bash\nps\n"


@pytest.mark.parametrize("name", ["forks-for-ever", "stops-every-next-pid", "ignores-every-signal"])
async def test_nothing_outlives_its_deadline(vm, name):
    """The same for what is still at it when its time is up."""
    inside = await namespace(vm)
    outcome = await run(vm, LEFT_BEHIND[name] + "\nwhile :; do sleep 1000; done", wall_s=1, processes=300)
    assert outcome.ended == "timeout"
    assert survivors(inside) == []
    assert await out(vm, "echo fine") == "fine\n"


async def test_memory_that_belongs_to_nobody(vm):
    """Shared memory and /run left behind are gone with their execution, and bounded while it runs."""
    code = """
import ctypes, errno, os
open("/dev/shm/left", "w").write("x"); os.makedirs("/run/left/deep"); os.symlink("/etc", "/run/link"); os.mkfifo("/dev/shm/pipe")
os.chmod("/run/left", 0)
written = 0
try:
    with open("/dev/shm/big", "wb", 0) as f:
        while written < 4 << 30: written += f.write(bytes(1 << 20))
except OSError as e: print(errno.errorcode[e.errno], written < 1 << 30)
"""
    assert await out(vm, code, "python") == "ENOSPC True\n"
    listing = await out(vm, "ls -A /run /dev/shm")
    assert not {"left", "link", "big", "pipe"} & set(listing.split())


async def test_memory_with_a_key(vm):
    """System V shared memory, semaphores and queues left behind are gone with their execution."""
    await out(vm, "ipcmk -M 1000000 -S 3 -Q > /dev/null")
    assert await out(vm, "cat /proc/sysvipc/shm /proc/sysvipc/msg /proc/sysvipc/sem | wc -l") == "3\n"


@pytest.mark.parametrize("kind", ["mapped", "headless", "memfd", "sysv"])
async def test_memory_that_no_process_has_mapped(vm, kind):
    """Memory counts against the limit wherever it is kept."""
    code = {
        "mapped": "import mmap\nm = [mmap.mmap(-1, 1 << 20) for _ in range(400)]\nfor x in m: x[:] = b'x' * len(x)",
        "headless": (
            "import ctypes, platform, threading, time\ndef fill():\n    x = bytearray(b'x' * (400 << 20)); time.sleep(2); print('done', flush=True)\n"
            "threading.Thread(target=fill).start()\n"
            "ctypes.CDLL(None).syscall({'x86_64': 60, 'aarch64': 93}[platform.machine()], 0)"
        ),
        "memfd": "import os\nfor n in range(4):\n    f = os.memfd_create('x')\n    for _ in range(100): os.write(f, b'x' * (1 << 20))",
        "sysv": (
            "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.shmat.restype = ctypes.c_void_p\n"
            "for n in range(400):\n    i = libc.shmget(0, 1 << 20, 0o1600)\n    p = libc.shmat(i, None, 0)\n"
            "    ctypes.memset(p, 1, 1 << 20)\n    libc.shmdt(ctypes.c_void_p(p))"
        ),
    }[kind]
    outcome = await run(vm, code + "\nimport time\ntime.sleep(1)", "python", memory_mib=100)
    assert outcome.ended == "memory"
