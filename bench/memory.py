"""Private memory of idle vms: what one more of them takes from the machine, as the kernel tells it.

Counted for each vm: Private_Clean and Private_Dirty of its supervisor and of its pid 1. Not counted: pages that
they share (libraries, and what a supervisor still shares with the launcher). The launcher and the machine that it
keeps ready are there once for all vms and have a line of their own.
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
        names = {vm.id for vm in self._vms}
        mine = [pid for pid in children(launcher_pid()) if os.path.basename(os.readlink(f"/proc/{pid}/cwd")) in names]
        if len(mine) != len(names):
            raise Missing(f"{len(names)} vms have {len(mine)} supervisors that we can see")
        return [sum(map(private_kib, (pid, *descendants(pid)))) for pid in mine]

    def close(self) -> None:
        for vm in self._vms:
            vm.remove()
        self._vms = []


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
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith(("Private_Clean:", "Private_Dirty:")))
    except OSError as error:
        raise Missing(f"the kernel does not show a vm's memory here: {error.strerror}") from error
