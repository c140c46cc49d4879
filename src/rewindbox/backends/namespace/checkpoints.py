"""The checkpoints of a vm's live sessions: what they can go back to, and how much of that is kept.

A checkpoint is a frozen process. Kept are the newest so many, in so much memory, and beyond that what a live session
stands on, whoever knows how a head ended, and what somebody has given a name. Runs in the supervisor.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rewindbox.backends.namespace.forks import Process
from rewindbox.backends.namespace.memory import proportional_bytes
from rewindbox.backends.namespace.processes import stat_fields

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MEASURE_S = 1.0
"""Least time between two measurements of memory, which take 0.3 ms for each checkpoint and 10 MiB."""

Key = tuple[str, str]
"""A session's name, and the id of the checkpoint."""


@dataclass(eq=False)
class Checkpoint:
    """A frozen session."""

    process: Process
    mark: int
    count: int
    may_map: bool
    growth: dict[bytes, int]
    """What of the host's memory may be its session's, besides what its processes show."""


@dataclass(frozen=True)
class Budget:
    """Of the checkpoints of a vm, those that no live session stands on and nobody has named."""

    count: int
    """Each is a process and 1 to 2 MiB, and what was changed since."""
    memory_mib: int


class Checkpoints:
    """Those of one vm, oldest first."""

    def __init__(
        self,
        proc: int,
        budget: Budget,
        needed: Callable[[], tuple[set[str], list[Process]]],
        on_end: Callable[[int], None],
    ) -> None:
        """`proc`: the vm's /proc. `needed`: ids and processes that stay. `on_end` has the pid of each that ended."""
        self.measure_at: float | None = None
        """When to measure their memory next; None: nothing has changed."""
        self.named: set[str] = set()
        """Ids that the budget does not touch: somebody has given them a name."""
        self._proc, self._budget, self._needed, self._on_end = proc, budget, needed, on_end
        self._all: dict[Key, Checkpoint] = {}
        self._dying: list[Process] = []
        self._measured_at = 0.0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Key]:
        return iter(list(self._all))

    @property
    def pids(self) -> set[int]:
        """Of all that are frozen, also of those on their way out."""
        return {checkpoint.process.pid for checkpoint in self._all.values()} | {process.pid for process in self._dying}

    def find(self, key: Key) -> Checkpoint | None:
        """None: it was given up, or there never was one."""
        return self._all.get(key)

    def is_kept(self, key: Key) -> bool:
        """Whether a session can go back to there."""
        found = self._all.get(key)
        return found is not None and found.process.is_alive

    def add(self, key: Key, checkpoint: Checkpoint) -> None:
        """One more; then as many as the budget has not are given up, the oldest first."""
        self._all[key] = checkpoint
        spendable = self._spendable()
        for other in spendable[: max(0, len(spendable) - self._budget.count)]:
            self.drop(other)
        self._bury()
        self.measure_at = max(time.monotonic(), self._measured_at + _MEASURE_S)

    def drop(self, key: Key) -> None:
        """Give one up. Its end takes a millisecond, which nobody waits for."""
        process = self._all.pop(key).process
        process.signal(signal.SIGKILL)
        self._dying.append(process)

    def _spendable(self) -> list[Key]:
        ids, processes = self._needed()
        ids |= self.named
        return [key for key, found in self._all.items() if key[1] not in ids and found.process not in processes]

    def keep_to_memory(self) -> None:
        """Call when nobody waits: give up the oldest as long as all take too much together."""
        self._bury()
        self._measured_at, self.measure_at = time.monotonic(), None
        spendable = self._spendable()
        if spendable and self._is_over_memory():
            self.drop(spendable[0])
            self.measure_at = self._measured_at + _MEASURE_S / 50

    def _is_over_memory(self) -> bool:
        """Pages that several have count once; first an estimate that counts them every time."""
        limit, pids = self._budget.memory_mib << 20, [found.process.pid for found in self._all.values()]
        resident = sum(int(fields[21]) * _PAGE for pid in pids if len(fields := stat_fields(self._proc, pid)) > 21)
        return resident > limit and sum(proportional_bytes(self._proc, pid) for pid in pids) > limit

    def _bury(self) -> None:
        """Those that have ended; until then their pids are nobody else's."""
        for process in [process for process in self._dying if not process.is_alive]:
            self._on_end(process.pid)
            process.close()
            self._dying.remove(process)
