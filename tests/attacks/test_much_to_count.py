"""Code that has so much of everything that counting it takes longer than it may run, or than it takes to take more."""

import anyio
import pytest

import skeletons
from conftest import boot_after, out, run
from rewindbox import backends
from rewindbox.backends.namespace import starting

pytestmark = pytest.mark.anyio
NEVER_IN_TIME = "watch._COUNTING_S = (-1, -1)"
"""Every count comes too late while the code runs, as of two hundred processes that have a thousand sockets each."""
FOR_EVER = """
import time
def used_bytes(self, pids, *_):
    while True:
        for pid in pids: time.sleep(0.02)
watch.Memory.used_bytes = used_bytes"""

SLOWLY = """
import time
seen, used_bytes = [], watch.Memory.used_bytes
def slow_used_bytes(self, pids, *given):
    if self in seen:
        time.sleep(0.1)
        for pid in pids: pass
    seen.append(self)
    return used_bytes(self, pids, *given)
watch.Memory.used_bytes = slow_used_bytes"""
"""A count takes twice as long as anybody may go on unasked, but the first of an execution."""

WALKING = "import time; watch.Disk._measure = lambda _: time.sleep(1000)"
"""What is on the disk is not known before the code has ended, as of millions of files."""
AWAKE = """
import ctypes, signal, struct, time
libc, timer = ctypes.CDLL(None), ctypes.c_void_p()
signal.signal(signal.SIGCONT, lambda *_: None)
for number in range(1, 2000):
    libc.timer_create(1, struct.pack("qii48x", 0, signal.SIGCONT, 0), ctypes.byref(timer))
    libc.timer_settime(timer, 0, struct.pack("4q", 0, 0, *divmod(number * 10**7, 10**9)), None)
for number in range(100):
    with open(str(number), "wb") as file: file.write(b"x" * (5 << 20))
    time.sleep(0.02)
time.sleep(1000)
"""
"""Whoever stops it, it goes on 10 ms later."""

UNREAD = "from rewindbox.backends.namespace import descriptions; descriptions._MAPS_MAX = 10"


@pytest.fixture
async def slow_vm(request, tmp_path, monkeypatch):
    """A vm whose supervisor counts as `request.param` says."""
    lines = f"from rewindbox.backends.namespace import watch\n{request.param}"
    monkeypatch.setattr(starting, "_BOOT", boot_after(lines))
    made = backends.load("namespace", str(skeletons.lend(tmp_path / "vms")))
    yield await made.create("vm_slow")
    await made.close()


@pytest.mark.parametrize("slow_vm", [NEVER_IN_TIME], indirect=True, ids=["never-in-time"])
async def test_who_is_not_counted_in_time_is_stopped_meanwhile(slow_vm):
    """It goes on when it was counted, and what is too much is too much; so in a session."""
    assert await out(slow_vm, "for i in $(seq 20); do sleep 0.01; done; echo through") == "through\n"
    assert await out(slow_vm, "import time\nfor _ in range(20): time.sleep(0.01)", "python", session="s") == ""
    hog = "x = bytearray(b'x' * (300 << 20))\nimport time; time.sleep(50)"
    for session in (None, "s"):
        assert (await run(slow_vm, hog, "python", session=session, memory_mib=100)).ended == "memory"


@pytest.mark.parametrize("slow_vm", [SLOWLY], indirect=True, ids=["slowly"])
async def test_who_has_much_left_is_not_stopped_for_a_slow_count(slow_vm):
    """It goes on meanwhile: a process that was stopped and goes on tells its parent so."""
    code = (
        "import os, time\n"
        "if not (pid := os.fork()): time.sleep(1); os._exit(0)\n"
        "print(os.WIFCONTINUED(os.waitpid(pid, os.WCONTINUED)[1]))"
    )
    for session in (None, "s"):
        assert await out(slow_vm, code, "python", session=session, memory_mib=1024) == "False\n"


@pytest.mark.parametrize("slow_vm", [FOR_EVER], indirect=True, ids=["for-ever"])
async def test_counting_puts_off_no_deadline(slow_vm):
    """A count that never ends is given up at the deadline, and the code is ended."""
    with anyio.fail_after(30):
        for session in (None, "s"):
            outcome = await run(slow_vm, "import time; time.sleep(50)", "python", session=session, wall_s=0.5)
            assert (outcome.ended, outcome.exit_code) == ("timeout", 124)


@pytest.mark.parametrize("slow_vm", [WALKING], indirect=True, ids=["walking"])
@pytest.mark.parametrize("session", [None, "s"])
async def test_who_wakes_himself_while_files_are_counted_has_too_much(slow_vm, session):
    """Code that is stopped until its files are counted, goes on by itself, and writes as much again, is ended."""
    outcome = await run(slow_vm, AWAKE, "python", session=session, disk_mib=20)
    assert (outcome.ended, outcome.exit_code) == ("killed", 137), outcome


@pytest.mark.parametrize("slow_vm", [WALKING], indirect=True, ids=["walking"])
async def test_who_is_stopped_while_files_are_counted_is_not_ended(slow_vm):
    """However much others write meanwhile, it waits, until its time is up."""
    code = "x = b'x' * (30 << 20)\nfor number in range(9): open(str(number), 'wb').write(x)"

    async def write() -> None:
        for number in range(5):
            await slow_vm.write(f"/tmp/{number}", b"x" * (30 << 20))
            await anyio.sleep(0)

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        outcome = await run(slow_vm, code, "python", disk_mib=20, wall_s=3)
    assert outcome.ended == "timeout", outcome


@pytest.mark.parametrize("slow_vm", [UNREAD], indirect=True, ids=["unread"])
async def test_who_has_too_many_mappings_may_have_changed_any_file(slow_vm, tmp_path):
    """What is written through a mapping leaves no trace in times; a point has it, also where nobody reads of it."""
    code = "import mmap; f = open('n', 'w+b'); f.write(b'0'); f.flush(); m = mmap.mmap(f.fileno(), 1)"
    for number in range(5):
        await out(slow_vm, f"{'' if number else code}\nm[0:1] = b'{number}'", "python", session="s")
        copy = (await slow_vm.take_point()).state["copy"]
        assert (tmp_path / "vms/vm_slow" / copy / "home/agent/n").read_bytes() == b"%d" % number
