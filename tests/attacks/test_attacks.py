"""Every attack of the corpus, inside real vms: in an execution of its own, in a live session, and without its defence.

The verdict comes from outside: from the host's canaries and servers, and from what its /proc says of every process of
the vm while the attack still lives (`rewindbox.attacks.trial`). An attack that is held proves something only where
the same code breaks through: in a vm that lacks the defence (`defences.py`), or as a program of the host.
"""
# ruff: noqa: E501  programs that are run inside stand here as they are

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from corpus import LEFT_BEHIND

from conftest import job, namespace, out, remove, run, survivors
from defences import DEFENCES, can_be_off, without
from rewindbox import backends
from rewindbox.attacks import CORPUS, GROUPS, Attack, source
from rewindbox.attacks.attack import PRELUDE
from rewindbox.attacks.host import Host
from rewindbox.attacks.trial import attempt
from rewindbox.backends.namespace import seccomp

pytestmark = pytest.mark.anyio


def is_of_this_machine(attack: Attack) -> bool:
    """Some system calls are of x86-64 only."""
    call = re.match(r'must_not_arrive\("(\w+)"', attack.code)
    return call is None or call[1] in seccomp.refused_calls(os.uname().machine)


CASES = [(attack, place) for attack in CORPUS for place in ("execution", "session") if getattr(attack, f"in_{place}")]
CONTROLS = sorted(
    (a for a in CORPUS if a.held_by and can_be_off(a.held_by) and is_of_this_machine(a)), key=lambda a: a.held_by
)
ALONE = [(attack, name) for attack in CONTROLS if len(attack.held_by) > 1 for name in attack.held_by]
ALONE.sort(key=lambda case: [name for name in case[0].held_by if name != case[1]])
OUTSIDE = [attack for attack in CORPUS if attack.outside == "plain" or (attack.outside == "root" and os.getuid() == 0)]
NOTICED_ELSEWHERE = {"effective set until exec"}
INNOCENT = Attack(id="nothing", tries="nothing", code='say("HELD")', unshown="it does nothing")


def look() -> dict[str, object]:
    """What of this machine must not change, whatever the test did."""
    return {
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "limits": Path("/proc/self/limits").read_text(),
        "programs": sorted(
            (entry.name, status.st_mode, status.st_size, status.st_mtime_ns)
            for entry in os.scandir("/usr/bin")
            if (status := entry.stat(follow_symlinks=False))
        ),
    }


@pytest.fixture
def host(canaries):
    """The host; whatever the test did, it is as it was."""
    before = look()
    yield canaries
    assert canaries.touched() == []
    assert look() == before


@pytest.fixture(scope="module")
async def vms(backend):
    """A vm for executions and one for sessions, which attacks share; and the pid namespace of the first."""
    made = {place: await backend.create(f"vm_{place}") for place in ("execution", "session")}
    return made, await namespace(made["execution"])


@pytest.mark.parametrize(("attack", "place"), CASES, ids=lambda value: getattr(value, "id", value))
async def test_attack_is_held(vms, host, attack, place, record_property):
    """The attack fails inside, leaves the host as it was, leaves nothing behind, and the vm goes on."""
    record_property("attack", f"{attack.id} in {place}")
    vm, inside = vms[0][place], vms[1]
    if place == "execution":
        verdict = await attempt(vm, attack, host)
        assert survivors(inside) == []
    else:
        older = await vm.live_checkpoints([])
        assert await turn(vm, "x = 1; print('fine')") == "fine\n"
        newest = await vm.live_checkpoints([]) - older
        verdict = await attempt(vm, attack, host, session="main")
        assert newest and newest <= await vm.live_checkpoints([]), "what the session goes back to is gone"
        assert await turn(vm, "print('fine')") == "fine\n"
    assert verdict.held, verdict
    assert await out(vm, "echo fine; cat /proc/sys/kernel/hostname") == "fine\nrewindbox\n"


async def turn(vm, code: str) -> str:
    """What a block of the session `main` writes, which must succeed."""
    outcome = await vm.execute(in_session(code))
    assert (outcome.ended, outcome.exit_code) == ("exit", 0), outcome
    return outcome.stdout.decode()


def in_session(code: str, **limits):
    return job(code, "python", session="main", **limits)


class Weakened:
    """Vms without some of their defences. One launcher at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.names, self.backend, self.count = folder, None, None, 0
        self.usual: set[str] = set()

    async def vm(self, names: tuple[str, ...], host: Host):
        """A new vm without these, and what the host sees there of a program that does nothing."""
        if names != self.names:
            await self.close()
            with without(names, {"CANARY": host.secret}):
                place = "of-root" if "kernel ids" in names else "vms"  # what all vms share is made once
                self.backend = backends.load("namespace", str(self.folder / place), spare=False)
                self.backend.warm()
            self.names = names
            self.usual = {*(await attempt(await self.new(), INNOCENT, host)).seen}
        return await self.new()

    async def new(self):
        self.count += 1
        return await self.backend.create(f"vm_{self.count}")

    async def close(self) -> None:
        if self.backend is not None:
            await self.backend.close()
        self.backend = self.names = None


@pytest.fixture(scope="module")
async def weakened(anyio_backend, tmp_path_factory):
    """Makes vms without defences."""
    made = Weakened(tmp_path_factory.mktemp("weakened"))
    yield made
    await made.close()
    remove(made.folder, was_weak=True)


@pytest.mark.parametrize("attack", CONTROLS, ids=lambda attack: attack.id)
async def test_attack_breaks_through_without(weakened, host, attack, record_property):
    """Without the defences that are said to hold it the same code breaks through, or the host sees it."""
    record_property("control", attack.id)
    vm = await weakened.vm(attack.held_by, host)
    verdict = await attempt(vm, attack, host, session=None if attack.in_execution else "main")
    assert verdict.said.startswith("BROKE") or set(verdict.seen) - weakened.usual, verdict


@pytest.mark.parametrize(("attack", "kept"), ALONE, ids=lambda value: getattr(value, "id", value))
async def test_each_defence_holds_alone(weakened, host, attack, kept):
    """Where several defences are said to hold an attack, any one of them does without the others."""
    vm = await weakened.vm(tuple(name for name in attack.held_by if name != kept), host)
    verdict = await attempt(vm, attack, host, session=None if attack.in_execution else "main")
    assert verdict.said.startswith("HELD"), verdict


@pytest.mark.parametrize("attack", OUTSIDE, ids=lambda attack: attack.id)
def test_attack_breaks_through_outside(host, attack, tmp_path, record_property):
    """Where nothing contains it the same code succeeds: the other test proves something."""
    record_property("control", attack.id)
    told = outside(host, attack, tmp_path)
    assert "BROKE" in told and "HELD" not in told, told


def outside(host: Host, attack: Attack, folder: Path) -> str:
    """What the same code says as a program of the host, with a terminal of its own."""
    file, told = folder / "attack", folder / "told"
    file.write_text(host.fill_in(source(attack)))
    ours, terminal = pty.openpty()
    with told.open("w") as output, open(ours, "rb"), open(terminal, "rb", buffering=0):
        words = ["setsid", "--ctty", sys.executable, str(file)]
        process = subprocess.Popen(words, cwd=folder, stdin=terminal, stdout=output, stderr=output)
        process.wait(60)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it started may go on
    return told.read_text()


def test_every_attack_is_shown_to_be_one(record_property):
    """Each entry names the defences that hold it, or where it succeeds, or why neither can be shown; all are known."""
    for attack in CORPUS:
        if attack not in (*CONTROLS, *OUTSIDE):
            record_property("uncontrolled", f"{attack.id}: {attack.unshown or 'only root can show it'}")
    for attack in CORPUS:
        assert [bool(attack.held_by), attack.outside is not None, bool(attack.unshown)].count(True) == 1, attack.id
        assert set(attack.held_by) <= set(DEFENCES), attack.id
    assert len({attack.id for attack in CORPUS}) == len(CORPUS)
    assert sum(len(group) for group in GROUPS.values()) == len(CORPUS)
    shown = sum(not attack.unshown for attack in CORPUS)
    assert f"| attacks | {len(CORPUS)} | {shown} |" in (Path(__file__).parents[2] / "SECURITY.md").read_text()


def test_every_defence_is_attacked():
    """No defence can be taken away without an attack that notices."""
    assert set(DEFENCES) - {name for attack in CORPUS for name in attack.held_by} - NOTICED_ELSEWHERE == set()


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
