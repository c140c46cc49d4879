"""Programs that want all there is get what their limits give, end, and leave the host as it was; told from the host."""

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from exhaustion import FULL, GREEDY, Greedy

import skeletons
from conftest import (
    cpu_s,
    eventually,
    has_ready_thread,
    job,
    members,
    namespace,
    needs,
    out,
    remove,
    status_of,
    survivors,
)
from rewindbox import backends
from rewindbox.backends.base import Job, Outcome
from rewindbox.backends.namespace import occupied, starting
from rewindbox.backends.namespace.growth import Growth, host_bytes

pytestmark = pytest.mark.anyio
_SLACK_KIB = 16 * 1024


class Host:
    """What one vm holds of the host, looked at from outside it."""

    def __init__(self, inside: str) -> None:
        first = next(pid for pid in members(inside) if status_of(pid)["NSpid"].split()[-1] == "1")
        self.supervisor = int(status_of(first)["PPid"])

    def is_ready(self) -> bool:
        """The supervisor has the thread that will start the next program."""
        return has_ready_thread(self.supervisor)

    def look(self) -> dict[str, object]:
        """What must be the same before and after."""
        proc = Path(f"/proc/{self.supervisor}")
        return {
            "ready": self.is_ready(),
            "descriptors": len(list((proc / "fd").iterdir())),
            "mounts": (proc / "mountinfo").read_text(),
            "our descriptors": len(os.listdir("/proc/self/fd")),
        }

    async def at_rest(self) -> dict[str, object]:
        """As `look`, of what stays so: its threads open files for a moment."""
        looks = [self.look()]

        def is_steady() -> bool:
            looks.append(self.look())
            return len(looks) > 3 and all(look == looks[-1] for look in looks[-4:])

        await eventually(is_steady, "the host is at rest")
        return looks[-1]

    def resident_kib(self) -> int:
        return int(status_of(self.supervisor)["VmRSS"].split()[0])


async def settled(vm) -> None:
    """A run, after which everything is as after every run."""
    assert await out(vm, "echo fine") == "fine\n"


async def endure(vm, greedy: Greedy, ended: tuple[str, ...], limits: dict[str, float], seen) -> None:
    """Run it as a process of its own; compare the host before and after."""
    await settled(vm)
    inside = await namespace(vm)
    host = Host(inside)
    await eventually(host.is_ready, "the vm is ready for the next")
    before, resident = await host.at_rest(), host.resident_kib()
    order = job(greedy.code, greedy.language, **limits)
    check(order, await attended(vm, order, greedy, ended, lambda quantity: seen(inside, quantity)), ended)
    assert survivors(inside) == []
    await settled(vm)
    await eventually(lambda: host.look() == before, f"the host is as before: {before}")
    assert host.resident_kib() < resident + _SLACK_KIB


async def attended(vm, order: Job, greedy: Greedy, ended: tuple[str, ...], seen: Callable[[str], "Seen"]) -> Outcome:
    """Run it; one that says that it is full is looked at then, and cancelled."""
    if ended != FULL or greedy.past is None:
        return await vm.execute(order)
    quantity, bound = greedy.past
    looked = seen(quantity)
    outcome = await looked.until(order, lambda: b"full" in looked.heard)
    assert 0 < looked.most <= bound, looked.most
    return outcome


def check(order: Job, outcome: Outcome, ended: tuple[str, ...]) -> None:
    """How it ended, and that what was kept of its output is bounded."""
    said = outcome.stderr[-2000:].decode(errors="replace")
    assert outcome.ended in (ended if ended != FULL else ("killed",)), (outcome, said)
    if ended == ("timeout",):
        assert ("CPU" in outcome.error) == (order.limits.cpu_s < order.limits.wall_s), outcome
    if ended == ("exit",):
        assert outcome.exit_code == 0, said
    assert max(len(outcome.stdout), len(outcome.stderr)) <= order.limits.output_bytes
    assert outcome.truncated == (outcome.ended == "output")


class Seen:
    """How much of something the host sees a vm have, while a program runs there."""

    def __init__(self, vm, folder: Path, inside: str, quantity: str) -> None:
        """`folder`: where its files are; `inside`: its pid namespace; `quantity`: a name of the table below."""
        self._vm, self._inside, self._started = vm, inside, 0.0
        self.heard, self.most = bytearray(), 0.0
        self._quantity: Callable[[], float] = {
            "resident bytes": lambda: sum(1024 * _number(status, "VmRSS") for status in self._statuses()),
            "threads": lambda: sum(_number(status, "Threads") for status in self._statuses()),
            "descriptors": lambda: max((len(_listed(f"/proc/{pid}/fd")) for pid in survivors(self._inside)), default=0),
            "descriptors in sockets": lambda: sum(map(_parked, survivors(self._inside))),
            "watchers of files": lambda: sum(_linked(pid, "anon_inode:inotify") for pid in survivors(self._inside)),
            "watches of files": lambda: sum(map(_watches, survivors(self._inside))),
            "terminals": lambda: sum(_linked(pid, "/dev/pts/ptmx") for pid in survivors(self._inside)),
            "timers": lambda: max((_queued(status) for status in self._statuses()), default=0),
            "bytes in a file": lambda: max(map(_largest, survivors(self._inside)), default=0),
            "bytes on disk": lambda: occupied.usage(str(folder)).size_bytes,
            "files": lambda: occupied.usage(str(folder)).files,
            "bytes of output": lambda: len(self.heard),
            "seconds of CPU": lambda: cpu_s(survivors(self._inside)),
            "seconds": lambda: time.monotonic() - self._started,
        }[quantity]

    async def until(self, order: Job, is_enough: Callable[[], bool]) -> Outcome:
        """Run it until then, or until it ends by itself."""
        outcomes: list[Outcome] = []

        async def execute() -> None:
            outcomes.append(await self._vm.execute(order, lambda _, data: self.heard.extend(data)))

        self._started = time.monotonic()
        async with anyio.create_task_group() as group:
            group.start_soon(execute)
            await eventually(lambda: bool(outcomes) or is_enough(), "it has what it can, or is over")
            self.look()
            await self._vm.cancel()
        return outcomes[0]

    def look(self) -> float:
        """The most that was seen so far."""
        self.most = max(self.most, self._quantity())
        return self.most

    def _statuses(self) -> list[dict[str, str]]:
        """Of its processes and of what ended and nobody waited for, which has no namespace any more."""
        pids = survivors(self._inside)
        ended = {child for pid in pids for child in _children(pid)} - {*pids}
        return [status_of(pid) for pid in (*pids, *ended)]


def _number(status: dict[str, str], name: str) -> int:
    return int(status.get(name, "0").split()[0])


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _parked(pid: int) -> int:
    """Descriptors that lie in sockets of this process."""
    found = 0
    for name in _listed(f"/proc/{pid}/fdinfo"):
        with contextlib.suppress(OSError):
            _, is_there, rest = Path(f"/proc/{pid}/fdinfo/{name}").read_text().partition("scm_fds:")
            found += int(rest.split()[0]) if is_there else 0
    return found


def _linked(pid: int, target: str) -> int:
    """How many of its descriptors are called so."""
    found = 0
    for name in _listed(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/{pid}/fd/{name}") == target
    return found


def _watches(pid: int) -> int:
    """What its watchers of files look at."""
    found = 0
    for name in _listed(f"/proc/{pid}/fdinfo"):
        with contextlib.suppress(OSError):
            found += Path(f"/proc/{pid}/fdinfo/{name}").read_text().count("inotify wd:")
    return found


def _queued(status: dict[str, str]) -> int:
    """What counts as waiting signals of its user in its vm: each timer does."""
    return int(status.get("SigQ", "0/0").partition("/")[0])


def _largest(pid: int) -> int:
    """The size of the largest file that it has open."""
    sizes = [0]
    for name in _listed(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            sizes.append(os.stat(f"/proc/{pid}/fd/{name}").st_size)
    return max(sizes)


@pytest.fixture
def seen(backend, vm):
    """Makes what looks at a quantity of the vm."""
    return lambda inside, quantity: Seen(vm, Path(backend.folder, vm.id), inside, quantity)


def cases(greedy: list[Greedy]) -> list[object]:
    """Whose own pages of files others might be taken to hold has the host for itself."""
    return [pytest.param(one, marks=[pytest.mark.alone] * (one.id == "pages-in-pipes")) for one in greedy]


@pytest.mark.parametrize("greedy", cases(GREEDY), ids=lambda greedy: greedy.id)
async def test_greedy_programs(backend, vm, seen, greedy, record_property):
    """The run ends as its limit says, nothing of it is left, and the vm goes on."""
    record_property("road", greedy.id)
    needs(backend, greedy.language)
    await endure(vm, greedy, greedy.ended, greedy.limits, seen)


BY_THEMSELVES = [greedy for greedy in GREEDY if greedy.more and greedy.past is None]
FURTHER = [greedy for greedy in GREEDY if greedy.more and greedy.past is not None]


@pytest.mark.parametrize("greedy", cases(BY_THEMSELVES), ids=lambda greedy: greedy.id)
async def test_it_is_the_limit(vm, seen, greedy, record_property):
    """With a higher limit the same program ends by itself: it was that limit that ended it."""
    record_property("road's control", greedy.id)
    await endure(vm, greedy, ("exit",), greedy.more, seen)


@pytest.mark.parametrize("greedy", FURTHER, ids=lambda greedy: greedy.id)
async def test_it_gets_further(backend, tmp_path, greedy, record_property):
    """With a higher limit the host sees the same program have more than the lower one allows."""
    record_property("road's control", greedy.id)
    needs(backend, greedy.language)
    quantity, bound = greedy.past
    with lifted(greedy.lifted):
        made = backends.load("namespace", str(skeletons.lend(tmp_path / "vms")), spare=False)
        made.warm()
    try:
        vm = await made.create("vm_more")
        looked = Seen(vm, tmp_path / "vms" / vm.id, await namespace(vm), quantity)
        outcome = await looked.until(job(greedy.code, greedy.language, **greedy.more), lambda: looked.look() > bound)
        assert looked.most > bound, (looked.most, outcome)
    finally:
        await made.close()
        remove(tmp_path / "vms")


@contextlib.contextmanager
def lifted(code: str):
    """Vms that are made meanwhile do without a bound that no limit raises."""
    with pytest.MonkeyPatch.context() as patch:
        boot = (
            starting._BOOT.replace("import launcher; ", f"import launcher, machine; {code}; ")
            if code
            else starting._BOOT
        )
        patch.setattr(starting, "_BOOT", boot)
        yield


def test_every_road_is_shown_to_be_closed_by_its_limit(record_property):
    """Each has limits under which it gets further, or says why there are none."""
    for greedy in GREEDY:
        assert bool(greedy.more) != bool(greedy.unshown), greedy.id
        if greedy.unshown:
            record_property("road without", f"{greedy.id}: {greedy.unshown}")
    assert len({greedy.id for greedy in GREEDY}) == len(GREEDY)
    counts = f"{len(GREEDY)} | {sum(bool(greedy.more) for greedy in GREEDY)}"
    page = (Path(__file__).parents[2] / "SECURITY.md").read_text()
    assert f"| programs that want all there is | {counts} |" in page


INNOCENT = {
    "given-back": """
import mmap, time
part = mmap.mmap(-1, 150 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for n in range(0, len(part), 4096): part[n] = 1
part.madvise(mmap.MADV_FREE); time.sleep(0.3)""",
    "given-back-in-turns": """
import mmap, time
parts = []
for _ in range(4):
    parts.append(mmap.mmap(-1, 150 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    for n in range(0, len(parts[-1]), 4096): parts[-1][n] = 1
    parts[-1].madvise(mmap.MADV_FREE); time.sleep(0.1)""",
    "closed-sockets": """
import socket, time
held = []
for _ in range(40):
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        sender, reader = socket.socketpair(socket.AF_UNIX, kind)
        sender.send(b"x"); sender.close(); held.append(reader)
time.sleep(0.3)""",
    "mapped-file": """
import mmap, os, time
file = os.open("large", os.O_RDWR | os.O_CREAT)
for _ in range(400): os.write(file, bytes(1 << 20))
part = mmap.mmap(file, 0, prot=mmap.PROT_READ)
seen = sum(part[n] for n in range(0, len(part), 4096)); time.sleep(0.3)""",
}
"""Programs that take less than 250 MiB, in ways that look like more."""


@pytest.mark.parametrize("code", INNOCENT.values(), ids=INNOCENT)
@pytest.mark.parametrize("session", [None, "s"], ids=["execution", "session"])
async def test_who_keeps_to_the_limit_is_not_ended(vm, code, session):
    """What is no memory of its own, or no longer, counts for nobody."""
    await out(vm, code, "python", session=session, memory_mib=250)


@pytest.mark.alone
async def test_what_others_take_ends_nobody(vm, tmp_path):
    """A program with children that stays within its limit goes on while others take more of the host than that."""
    code = """
import os, time
for _ in range(4): os.fork() or time.sleep(1000)
while True: print("on", flush=True); time.sleep(0.05)"""
    heard, outcomes = bytearray(), []

    async def execute() -> None:
        outcomes.append(await vm.execute(job(code, "python", memory_mib=50), lambda _, data: heard.extend(data)))

    async with anyio.create_task_group() as group:
        group.start_soon(execute)
        await eventually(lambda: b"on" in heard, "it runs")
        with taken_of_the_host(tmp_path):
            most = heard.count(b"on") + 20
            await eventually(lambda: bool(outcomes) or heard.count(b"on") > most, "it has been looked at")
        await vm.cancel()
    assert outcomes[0].ended == "killed", outcomes


@pytest.mark.alone
async def test_what_another_vm_pins_ends_nobody(backend, vm):
    """A program with pipes, empty or not, goes on while another vm has huge pages of files in its own."""
    code = """
import os, time
end, theirs = os.pipe(), os.pipe()
os.write(theirs[1], b"much")
while True: print("on", flush=True); time.sleep(0.02)"""
    pins = next(greedy for greedy in GREEDY if greedy.id == "pages-in-pipes")
    heard, outcomes = bytearray(), []

    async def execute() -> None:
        outcomes.append(await vm.execute(job(code, "python", memory_mib=50), lambda _, data: heard.extend(data)))

    other = await backend.create("vm_other")
    async with anyio.create_task_group() as group:
        group.start_soon(execute)
        await eventually(lambda: b"on" in heard, "it runs")
        await out(other, pins.code, "python", **pins.more)
        most = heard.count(b"on") + 5
        await eventually(lambda: bool(outcomes) or heard.count(b"on") > most, "it has been looked at")
        await vm.cancel()
    assert outcomes[0].ended == "killed", outcomes


@contextlib.contextmanager
def taken_of_the_host(folder: Path):
    """Much of what is not in the resident set of anybody: locks, and memory files."""
    lines = (b"SUnreclaim:", b"Shmem:")
    growth = Growth()
    growth.go_on(host_bytes(*lines))
    with contextlib.ExitStack() as held:
        memory = held.enter_context(open(os.memfd_create("much"), "wb", buffering=0))
        memory.write(bytes(80 << 20))
        for n in range(400):
            file = held.enter_context(open(folder / f"lock{n}", "wb", buffering=0))
            for place in range(1000):
                fcntl.fcntl(file, fcntl.F_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 2 * place, 1, 0))
            grown = growth.until(host_bytes(*lines))
        assert min(grown.values()) > 50 << 20, grown
        yield


@pytest.mark.parametrize("greedy", cases([g for g in GREEDY if g.in_session]), ids=lambda greedy: greedy.id)
async def test_greedy_sessions(vm, seen, greedy):
    """In a live session the same: it ends as its limit says, goes back to what it was, and nothing but it is left."""
    fixed = {name: value for name, value in greedy.limits.items() if name in ("processes", "file_mib", "open_files")}
    assert (await vm.execute(job("kept = 41", "python", session="s", **fixed))).ended == "exit"
    point = (await vm.take_point()).state
    inside = await namespace(vm)
    order = job(greedy.code, greedy.language, session="s", **greedy.limits)
    ended = greedy.ended_in_session or greedy.ended
    check(order, await attended(vm, order, greedy, ended, lambda quantity: seen(inside, quantity)), ended)
    await vm.go_to(point)
    again = job("print(kept + 1)", "python", session="s", **fixed)
    assert (await vm.execute(again)).stdout == b"42\n"
    await vm.end_session("s", again.language)
    assert await out(vm, "echo fine; ls -A /dev/shm /run | grep -v -e : -e code -e '^$' | wc -l") == "fine\n0\n"
    alive = {" ".join(status_of(pid).get("Name", "").split()) for pid in survivors(inside)}
    assert len(survivors(inside)) < 12 and alive == {"python3"}, alive  # the template and checkpoints of the session
