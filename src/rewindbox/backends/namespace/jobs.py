"""A running job: one program, ended together with everything it started. Runs in the supervisor."""

import os
import resource
from typing import Any

from rewindbox.backends.namespace.growth import Growth
from rewindbox.backends.namespace.machine import Machine
from rewindbox.backends.namespace.processes import Spare, kill_all, processes, strike
from rewindbox.backends.namespace.spawner import Spawner
from rewindbox.backends.namespace.watch import TICK, Disk, Watched


class Job(Watched):
    """One running job."""

    def __init__(
        self, machine: Machine, disk: Disk, limits: dict[str, float], spawner: Spawner, spare: Spare | None
    ) -> None:
        """`spawner` has been told to start it; `spare`: who is none of its processes, None: nobody."""
        super().__init__(machine, disk, limits, machine.groups.jobs, lambda: spawner.ipc_ns, Growth())
        self.spawner, self._spare = spawner, spare
        self._struck: set[int] = set()
        self._children_before = _children_cpu()

    def members(self) -> list[int]:
        """See `Watched.members`."""
        found = processes(self.machine.proc)
        return found if self._spare is None else [pid for pid in found if not self._spare(pid)]

    def cpu_s(self, spent_ticks: int) -> float:
        """See `Watched.cpu_s`."""
        return max(spent_ticks / TICK, self.counted_s())

    def reaped_ticks(self) -> int:
        """See `Watched.reaped_ticks`."""
        return int(self._reaped_s() * TICK)

    def _reaped_s(self) -> float:
        return _children_cpu() - self._children_before

    def reap(self) -> dict[str, Any]:
        """Call when the job's first process has ended or was killed: end the rest, say how it was."""
        assert self.spawner.pid is not None
        _, status, usage = os.wait4(self.spawner.pid, 0)
        wall_s = self.elapsed_s()
        kill_all(self.machine.proc, self._spare, self._struck)
        self.ran_out_of_memory()
        self.spawner.close()
        return {
            "status": status,
            "why": self.why,
            "wall_s": wall_s,
            "cpu_s": max(self._reaped_s(), self.spent_s),
            "memory_peak_bytes": self.counted_bytes(usage.ru_maxrss * 1024),
        }

    def kill(self) -> None:
        """SIGKILL to all there are: five hundred that go on leave nobody else much time. `reap` does the rest."""
        if not self._struck:
            struck = strike(self.machine.proc, self._spare)
            self._struck = struck if self.spawner.pid is not None else set()


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
