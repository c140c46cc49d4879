"""Limits hold between a session's executions, too: for what it left running, beside a job, beside another session."""

import os
import secrets
from functools import partial

import anyio
import pytest

import skeletons
from conftest import boot_after, eventually, namespace, out, run, status_of, survivors
from rewindbox import backends
from rewindbox.backends.namespace import starting

pytestmark = pytest.mark.anyio
LATER = """
import ctypes, os, time
x = globals().get("x", 0) + 1
if os.fork() == 0:
    ctypes.CDLL(None).prctl(15, {name!r}.encode())
    while not os.path.exists("/dev/shm/{name}"): time.sleep(0.01)
    kept = bytearray(b"x" * (300 << 20))
    open("/dev/shm/{name}.has", "w").close()
    time.sleep(1000)
"""
"""Leaves a process that takes 300 MiB when it is told to, and not before."""
TELL = "open('/dev/shm/{name}', 'w').close()"
UNWATCHED = "from rewindbox.backends.namespace import rest\nrest.Rest._look = lambda *_: 0.25"
SMALL = {"memory_mib": 100}


def lives(name: str) -> bool:
    found = [status_of(pid) for pid in os.listdir("/proc") if pid.isdigit()]
    return any(one.get("Name") == name and one["State"][0] not in "ZX" for one in found)


async def planted(vm) -> str:
    """The name of what session `s` has left, which waits."""
    name = f"rest{secrets.token_hex(4)}"
    await out(vm, LATER.format(name=name), "python", session="s", **SMALL)
    await vm.take_point()
    await eventually(lambda: lives(name), "it has its name")
    return name


async def is_hard(made) -> bool:
    """Whether the kernel counts memory here; then it ends whomever of the sessions it likes, which share a limit."""
    return {report.limit: report.enforcement for report in await made.limits()}["memory_mib"] == "hard"


async def test_who_takes_too_much_at_rest_is_ended(backend, vm):
    """It is, and the session goes back to what it was; a job and another session that run meanwhile go on."""
    beside = run if await is_hard(backend) else out
    await run(vm, "y = 1", "python", session="other", **SMALL)
    await vm.take_point()
    name = await planted(vm)
    await run(vm, f"touch /dev/shm/{name}")
    await eventually(lambda: not lives(name), "it is ended at rest")
    name = await planted(vm)
    async with anyio.create_task_group() as group:
        group.start_soon(
            out, vm, f"touch /dev/shm/{name}; sleep 1000 & while kill -0 $! && [ ! -e end ]; do sleep 0.02; done"
        )
        await eventually(lambda: not lives(name), "it is ended beside a job")
        await vm.write("end", b"")
    name = await planted(vm)
    waiting = f"{TELL.format(name=name)}\nimport os, time\nwhile not os.path.exists('done'): time.sleep(0.02)\nprint(y)"
    async with anyio.create_task_group() as group:
        group.start_soon(partial(beside, vm, waiting, "python", session="other", **SMALL))
        await eventually(lambda: not lives(name), "it is ended beside another session")
        await vm.write("done", b"")
    assert await out(vm, "print(x)", "python", session="s", **SMALL) == "3\n"


PARK = """
import os, socket, time
parked = globals().get("parked", [])
pair = socket.socketpair()
parked.append(pair)
for _ in range(6):
    file = os.memfd_create("x")
    for _ in range(10): os.write(file, bytes(1 << 20))
    socket.send_fds(pair[0], [b"x"], [file])
    os.close(file)
print(len(parked)); time.sleep(0.3)
"""
"""Puts 60 MiB where no process shows them, and can be looked at."""


async def test_what_executions_park_adds_up(vm):
    """Memory that the executions of a session leave in sockets counts for the next ones, whose limit it is, too."""
    for count, limit, ended in ((1, 100, "exit"), (1, 100, "memory"), (2, 500, "exit"), (2, 100, "memory")):
        outcome = await run(vm, PARK, "python", session="s", memory_mib=limit)
        assert outcome.ended == ended, (outcome, count)
        if ended == "exit":
            assert outcome.stdout == b"%d\n" % count
            point = (await vm.take_point()).state
        else:
            await vm.go_to(point)


WAITS = "import os, time\nprint(1, flush=True)\nwhile not os.path.exists('told'): time.sleep(0.01)\nos.unlink('told')"
HIDES = "import mmap, time\nshared = mmap.mmap(-1, 4096); shared[0] = 1\ntime.sleep(0.2)"


@pytest.mark.alone
async def test_what_others_take_does_not_add_up(vm):
    """What the host has more of with each execution is not a session's that had nothing out of sight then."""
    for _ in range(3):
        begun = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(
                partial(run, vm, WAITS, "python", on_output=lambda *_, begun=begun: begun.set(), session="s", **SMALL)
            )
            await begun.wait()
            taken = os.memfd_create("much")
            for _ in range(60):
                os.write(taken, bytes(1 << 20))
            await vm.write("told", b"")
        await vm.take_point()  # its checkpoint is taken: nobody looks any more
        os.close(taken)
    await out(vm, HIDES, "python", session="s", **SMALL)


def resident_kib(inside: str) -> int:
    return max(int(status_of(pid).get("VmRSS", "0").split()[0]) for pid in survivors(inside))


GREEDY_FORK = """
import os, time
def take():
    global kept
    kept = bytearray(b"x" * (300 << 20))
    time.sleep(1000)
os.register_at_fork(before=take)
y = 2
"""


async def test_who_takes_too_much_while_it_is_to_fork_is_ended(vm):
    """A session is looked at while its checkpoint is made: what the code does then has its limit."""
    await out(vm, "y = 1", "python", session="s", **SMALL)
    point = (await vm.take_point()).state
    inside = await namespace(vm)
    await run(vm, GREEDY_FORK, "python", session="s", **SMALL)
    await eventually(lambda: resident_kib(inside) < 100 << 10, "it has no more than it may")
    await vm.go_to(point)
    assert await out(vm, "print(y)", "python", session="s", **SMALL) == "1\n"


async def test_unwatched_it_has_what_it_takes(tmp_path, monkeypatch):
    """Where nobody looks at sessions that rest, it has all of it."""
    monkeypatch.setattr(starting, "_BOOT", boot_after(UNWATCHED))
    made = backends.load("namespace", str(skeletons.lend(tmp_path / "vms")))
    try:
        if await is_hard(made):
            pytest.skip("the kernel counts memory here, and needs nobody to look")
        vm = await made.create("vm_unwatched")
        name = await planted(vm)
        await run(vm, f"touch /dev/shm/{name}; while [ ! -e /dev/shm/{name}.has ]; do sleep 0.02; done")
        assert lives(name)
    finally:
        await made.close()
