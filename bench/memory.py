"""Private memory of idle vms: what one more of them takes from the machine, as the kernel tells it.

Counted for each vm: Private_Clean and Private_Dirty of its supervisor and of its pid 1. Not counted: pages that
they share (libraries, and what a supervisor still shares with the launcher), and the launcher, one for all vms,
which has a line of its own.
"""

import os
import statistics
from collections.abc import Mapping

from bench.runner import Case, Missing, Row
from rewindbox import Rewindbox, Vm


class IdleVms(Case):
    """Vms that have run something and now wait."""

    rows = (
        Row(name="memory", work="private memory of an idle vm: supervisor and pid 1", at_most=5.0, unit="MiB"),
        Row(name="memory new", work="the same before its first execution", unit="MiB"),
        Row(name="memory launcher", work="private memory of the launcher, one for all vms", unit="MiB"),
    )
    is_sampled_once = True

    def __init__(self, box: Rewindbox, count: int = 50) -> None:
        self._box, self._count = box, count
        self._vms: list[Vm] = []

    def sample(self) -> Mapping[str, float]:
        launcher = launcher_pid()
        before = children(launcher)
        self._vms = [self._box.vm() for _ in range(self._count)]
        for vm in self._vms:
            vm.list(".")
        supervisors = children(launcher) - before
        if len(supervisors) != self._count:
            raise Missing(f"{self._count} vms have {len(supervisors)} supervisors")
        new = _median_mib(supervisors)
        for vm in self._vms:
            vm.execute("python", "pass")
        return {
            "memory": _median_mib(supervisors),
            "memory new": new,
            "memory launcher": private_kib(launcher) / 1024,
        }

    def close(self) -> None:
        for vm in self._vms:
            vm.remove()
        self._vms = []


def _median_mib(supervisors: set[int]) -> float:
    return statistics.median(_vm_kib(supervisor) for supervisor in supervisors) / 1024


def _vm_kib(supervisor: int) -> int:
    inside = children(supervisor)
    if len(inside) != 1:
        raise Missing(f"an idle vm has {len(inside)} processes besides its supervisor")
    return sum(map(private_kib, (supervisor, *inside)))


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
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith(("Private_Clean:", "Private_Dirty:")))
    except OSError as error:
        raise Missing(f"the kernel does not show a vm's memory here: {error.strerror}") from error
