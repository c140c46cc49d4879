"""What sessions do while no execution of theirs runs, watched: memory, and the disk. Runs in the supervisor.

A session may leave processes and threads running, and its head has timers. Who has used no processor since the last
look has taken nothing, which is cheap to see; so a vm at rest is looked at four times a second.
"""

import math
import signal

from rewindbox.backends.namespace.forks import mark_of
from rewindbox.backends.namespace.jobs import Job
from rewindbox.backends.namespace.machine import Machine
from rewindbox.backends.namespace.processes import processes, stat_fields
from rewindbox.backends.namespace.sessions import Session, Sessions
from rewindbox.backends.namespace.turn import Turn
from rewindbox.backends.namespace.watch import Disk, Watched

_QUIET_S = 0.25
_COUNTING_MAX_S = 2.0
"""Who cannot be counted in that time, stopped, has too much."""
_NONE: dict[str, float] = dict.fromkeys(("wall_s", "cpu_s"), math.inf) | dict.fromkeys(("disk_mib", "inodes"), 1 << 40)


class Rest(Watched):
    """All live sessions of a vm but the one whose execution runs."""

    def __init__(self, machine: Machine, disk: Disk, sessions: Sessions) -> None:
        super().__init__(machine, disk, _NONE, machine.groups.sessions, lambda: sessions.ipc_ns, sessions.growth)
        self._sessions = sessions
        self._beside: Job | Turn | None = None
        self._most: dict[str, float] = {}
        self._trace: object = None

    def allow(self, limits: dict[str, float]) -> None:
        """The limits of an execution: its session may go on having as much, as any other."""
        self._most = {name: max(most, self._most.get(name, 0)) for name, most in limits.items()}

    @property
    def next_look(self) -> float | None:
        """When it is time; None: nobody rests."""
        return self._next_look if self.sessions() else None

    def sessions(self) -> list[Session]:
        """Those that rest, and have not been ended for it."""
        running = self._beside.session if isinstance(self._beside, Turn) else None
        return [session for session in self._sessions.live.values() if session is not running and not session.struck]

    def beside(self, job: Job | Turn | None) -> None:
        """What runs in the vm."""
        if job is not self._beside:
            self.let_go()
            self._beside, self._trace = job, None
            self._sessions.beside_job = isinstance(job, Job)

    def members(self) -> list[int]:
        """See `Watched.members`."""
        if self._sessions.guard is None:
            return []
        others = self._sessions.guard.protected - {process.pid for process in self._sessions.coming}
        others |= self._sessions.leaving
        if isinstance(self._beside, Turn):
            others = others | self._beside.session.seen
        found = [pid for pid in processes(self.machine.proc) if pid not in others]
        return found if self._beside is None else [pid for pid in found if self._is_of_one_at_rest(pid)]

    def _is_of_one_at_rest(self, pid: int) -> bool:
        marks = {session.mark for session in self.sessions()}
        return self._sessions.owns(pid) and mark_of(self.machine.proc, pid) in marks

    def _hold(self) -> None:
        """Nobody who is to be stopped for good, when it has forked, must go on later."""
        if not self._sessions.coming:
            super()._hold()

    def cpu_s(self, spent_ticks: int) -> float:
        """See `Watched.cpu_s`. It is nobody's."""
        return 0.0

    def ran_out_of_memory(self) -> bool:
        """See `Watched.ran_out_of_memory`. Whose it was is not known; the kernel has ended one."""
        return False

    def _look(self, now: float) -> float:
        resting, coming = self.sessions(), self._sessions.coming
        if not resting and not coming:
            return _QUIET_S
        fields = [stat_fields(self.machine.proc, pid) for pid in self.members()]
        trace = [(one[11], one[12], one[17], one[21]) for one in fields if len(one) > 21]
        if (self._trace is None or trace == self._trace) and not isinstance(self._beside, Turn):
            self._memory.settle(processes(self.machine.proc))
            self._memory.go_on()
        if trace == self._trace:
            return _QUIET_S
        self._trace = trace
        self.limits = {**_NONE, "memory_mib": self._most["memory_mib"] * (len(resting) + len(coming))}
        if self._beside is None:  # else what the disk has less is not theirs
            self.limits |= {name: self._most[name] for name in ("disk_mib", "inodes")}
        self.deadline = now + _COUNTING_MAX_S
        pause_s = super()._look(now)
        if self.why is not None:
            self.why = None
            for session in resting:
                self._sessions.strike(session)
            for checkpoint in coming:
                checkpoint.signal(signal.SIGKILL)
        return pause_s
