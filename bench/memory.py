"""Memory of idle vms and of checkpoints: what one more of them takes from the machine, as the kernel tells it.

Counted for each vm: Private_Clean and Private_Dirty of its supervisor and of its pid 1. Not counted: pages that
they share (libraries, and what a supervisor still shares with the launcher). The launcher and the machine that it
keeps ready are there once for all vms and have a line of their own.

A checkpoint is a fork: it shares pages with the session's head, and some only with other checkpoints, which are then
nobody's alone. So it is by how much the proportional sets (Pss: a shared page counts for its share) of all the vm's
processes grow with each of them. Not counted, here as there, is what the kernel needs: page tables, stacks.
"""

import os
import statistics
import time
from collections.abc import Mapping, Sequence

from bench.runner import Case, Missing, Row
from rewindbox import Rewindbox, Vm


class IdleVms(Case):
    """Vms that have run something and now wait."""

    rows = (
        Row(name="memory", work="private memory of an idle vm: supervisor and pid 1", at_most=5.0, unit="MiB"),
        Row(name="memory new", work="the same before its first execution", unit="MiB"),
        Row(
            name="memory once",
            work="private memory of what all vms share: launcher, the machine kept ready",
            unit="MiB",
        ),
    )
    is_sampled_once = True

    def __init__(self, box: Rewindbox, count: int = 50) -> None:
        self._box, self._count = box, count
        self._vms: list[Vm] = []

    def sample(self) -> Mapping[str, float]:
        self._vms = [self._box.vm() for _ in range(self._count)]
        for vm in self._vms:
            vm.list(".")  # what starts it
        new = statistics.median(self._each_kib())
        for vm in self._vms:
            vm.execute("python", "pass")
        used, launcher = self._each_kib(), launcher_pid()
        every = sum(map(private_kib, (launcher, *descendants(launcher))))
        return {
            "memory": statistics.median(used) / 1024,
            "memory new": new / 1024,
            "memory once": (every - sum(used)) / 1024,
        }

    def _each_kib(self) -> list[int]:
        """Of each of our vms, which are known by the folder in which their supervisors work."""
        return [sum(map(private_kib, (pid, *descendants(pid)))) for pid in supervisors(self._vms)]

    def close(self) -> None:
        for vm in self._vms:
            vm.remove()
        self._vms = []


class Checkpoints(Case):
    """Sessions with few checkpoints, and then with all that are kept."""

    rows = (
        Row(name="checkpoint", work="memory of each kept checkpoint of a session", at_most=2.0, unit="MiB"),
        Row(name="checkpoint private", work="of which no other process has a share", unit="MiB"),
        Row(name="session memory", work="memory that a vm's first session takes beside them", unit="MiB"),
    )
    is_sampled_once = True

    def __init__(self, box: Rewindbox, count: int = 4) -> None:
        """`count`: sessions, each in a vm of its own."""
        self._box, self._count = box, count
        self._vms: list[Vm] = []

    def sample(self) -> Mapping[str, float]:
        each = [self._of_one() for _ in range(self._count)]
        return {row.name: statistics.median(values[row.name] for values in each) / 1024 for row in self.rows}

    def _of_one(self) -> dict[str, float]:
        """Of a session whose every execution changes one number; KiB."""
        vm = self._box.vm()
        self._vms.append(vm)
        vm.list(".")
        empty = self._at_rest(vm)
        session = vm.session()
        found = {}
        for executions in range(1, _EXECUTIONS + 1):
            assert session.execute(f"x = {executions}").success
            if executions in (2, _EXECUTIONS):  # the first execution of a session writes to more than others do
                found[len(vm.live_points())] = self._at_rest(vm)
        if len(found) < 2:
            raise Missing("no checkpoints are kept")
        (few, before), (many, after) = found.items()
        each, private = ((b - a) / (many - few) for a, b in zip(before, after, strict=True))
        return {"checkpoint": each, "checkpoint private": private, "session memory": before[0] - few * each - empty[0]}

    def _at_rest(self, vm: Vm) -> tuple[int, int]:
        """Pss and private memory of all its processes, as soon as they stay what they are; KiB."""
        (supervisor,) = supervisors([vm])
        last, deadline = (0, 0), time.monotonic() + 5
        while time.monotonic() < deadline:
            pids = (supervisor, *descendants(supervisor))
            found = sum(map(proportional_kib, pids)), sum(map(private_kib, pids))
            if abs(found[0] - last[0]) + abs(found[1] - last[1]) <= _STILL_KIB:
                return found
            last = found
            time.sleep(0.05)  # what they do at rest takes 1 ms
        raise Missing("the memory of a session does not come to rest")

    def close(self) -> None:
        for vm in self._vms:
            vm.remove()
        self._vms = []


_EXECUTIONS = 20
"""Leave as many checkpoints as are kept: the oldest have gone by then."""
_STILL_KIB = 16
"""Other programs that start or end take or leave their share of a library's pages."""


def supervisors(vms: Sequence[Vm]) -> list[int]:
    """The process of each, known by the folder in which it works. Raises Missing."""
    names = {vm.id for vm in vms}
    found = [pid for pid in children(launcher_pid()) if os.path.basename(os.readlink(f"/proc/{pid}/cwd")) in names]
    if len(found) != len(names):
        raise Missing(f"{len(names)} vms have {len(found)} supervisors that we can see")
    return found


def launcher_pid() -> int:
    """Our child that starts vms."""
    for pid in children(os.getpid()):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if b"launcher.main()" in file.read():
                return pid
    raise Missing("no launcher among our child processes")


def children(pid: int) -> set[int]:
    """Processes whose parent is `pid`."""
    return {child for child, parent in parents().items() if parent == pid}


def descendants(pid: int) -> set[int]:
    """Its children, their children, and so on."""
    known, found = parents(), {pid}
    while more := {child for child, parent in known.items() if parent in found} - found:
        found |= more
    return found - {pid}


def parents() -> dict[int, int]:
    """The parent of every process that we see."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                found[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:  # it has ended
            continue
    return found


def private_kib(pid: int) -> int:
    """Private_Clean and Private_Dirty of a process. Raises Missing: we may not read them."""
    return _rollup_kib(pid, ("Private_Clean:", "Private_Dirty:"))


def proportional_kib(pid: int) -> int:
    """Pss of a process: what it shares is divided among all who share it. Raises Missing."""
    return _rollup_kib(pid, ("Pss:",))


def _rollup_kib(pid: int, names: tuple[str, ...]) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith(names))
    except (FileNotFoundError, ProcessLookupError):  # it has ended: it takes nothing
        return 0
    except OSError as error:
        raise Missing(f"the kernel does not show a vm's memory here: {error.strerror}") from error
