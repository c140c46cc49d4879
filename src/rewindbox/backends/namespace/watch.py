"""What runs is watched: its time, memory, CPU and disk. Runs in the supervisor."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from rewindbox.backends.namespace import occupied
from rewindbox.backends.namespace.groups import Nowhere
from rewindbox.backends.namespace.growth import Growth
from rewindbox.backends.namespace.machine import Machine
from rewindbox.backends.namespace.memory import Memory, proportional_bytes
from rewindbox.backends.namespace.processes import (
    has_ended,
    is_stopped,
    living,
    processes,
    rest,
    signal_each,
    stat_fields,
)
from rewindbox.backends.namespace.processor import Shown, Spent

_PAGE = os.sysconf("SC_PAGE_SIZE")
TICK = os.sysconf("SC_CLK_TCK")
_FASTEST_GROWTH = 4 << 30
"""Bytes a second that we believe a program can touch; says how long we may look away."""
_LOOK_S = (0.002, 0.05)
_COUNTING_S = (0.05, 0.25)
"""So long the code may go on while it is counted what it has, at least and at most, see `Watched._patience_s`."""
_PATIENCE_S = 0.05
"""So long what may have passed its limit of the disk goes on while that is counted: a walk over 15,000 files. The next
walk begins after as long as one took."""
_SAMPLE_S = 0.1
_LONGEST_LOOK_S = 0.1
"""At five hundred processes it takes 10 to 40 ms. One that takes longer does not put off the next."""


class Watched:
    """Something that runs in the vm, and its limits."""

    def __init__(
        self,
        machine: Machine,
        disk: "Disk",
        limits: dict[str, float],
        group: Nowhere,
        ipc_ns: Callable[[], int],
        growth: Growth,
    ) -> None:
        """`group`: where it runs. `ipc_ns`: gives a descriptor of the ipc namespace whose segments count.

        `growth`: see `Memory`.
        """
        self.machine, self.limits, self._disk = machine, limits, disk
        self.why: str | None = None
        """The limit that was passed, or another reason to end it."""
        self.peak_bytes = self._left_bytes = 0
        self.spent_s = 0.0
        """CPU time, as far as it was counted."""
        self._held: list[int] = []
        """Whom we have stopped until it is known what they have on the disk."""
        self._stood: set[int] = set()
        """Of those, who was seen to stand still."""
        self.most_threads = math.inf
        """Above so many it ends; infinite where the kernel refuses the next one."""
        self._memory = Memory(machine.proc, ipc_ns, growth)
        self._group, self._kills_before, self._cpu_before = group, group.kills(), group.cpu_s()
        self._spent = Spent()
        disk.begin()
        self.begin()

    def begin(self, at: float | None = None) -> None:
        """From now on time counts, or from a moment that was."""
        self.started = time.monotonic() if at is None else at
        self.deadline = self.started + self.limits["wall_s"]
        self._next_look = min(self.started + _LOOK_S[0], self.deadline)

    def members(self) -> list[int]:
        """The pids, as the vm numbers them, of all processes that count."""
        return processes(self.machine.proc)

    def cpu_s(self, spent_ticks: int) -> float:
        """What was used since it began; `spent_ticks`: what members have used in their lives, and `reaped_ticks`."""
        raise NotImplementedError

    def reaped_ticks(self) -> int:
        """Of members that we ourselves have waited for."""
        return 0

    def counted_s(self) -> float:
        """What the kernel counts for its group, others that are in there included."""
        return self._group.cpu_s() - self._cpu_before

    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def look_when_due(self) -> float:
        """See whether a limit is passed (then `why` says which); returns how long we may look away.

        A look takes 0.2 ms: not more of them than needed, and none in the first moments. After a longer one there is a
        pause as long (0.25 s at most), if what is left cannot be taken by then: forty processes that share 300 MiB take
        0.4 s to be counted.
        """
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = min(now + self._look(now), self.deadline)
            if self._disk.is_awaited:
                self._hold()
            else:
                self.let_go()
            took_s = min(time.monotonic() - now, _LONGEST_LOOK_S)
            if self._next_look + 2 * took_s > self.deadline > now:  # it could end after the deadline
                self._next_look = self.deadline
        return max(self._next_look - time.monotonic(), 0.0)

    def _hold(self) -> None:
        """Whoever goes on unasked (by a timer, by SIGCONT of others) while the disk falls has too much.

        He stood still before, or sleeps: who was told to stop and could not yet (a long call) is not asleep.
        """
        proc = self.machine.proc
        fresh = [pid for pid in self.members() if not is_stopped(proc, pid)]
        never = rest(proc, fresh)
        goes_on = [pid for pid in fresh if pid in self._stood and not has_ended(proc, pid)]
        goes_on += [pid for pid in never if stat_fields(proc, pid)[:1] == [b"S"]]
        if goes_on and self._disk.falls_on(self.limits):
            self.why = "disk"
        self._stood.update(set(fresh).difference(never))
        self._held += fresh

    def let_go(self) -> None:
        """Whom we hold goes on."""
        self._continue(self._held)
        self._held, self._stood = [], set()

    def _continue(self, stopped: list[int]) -> None:
        """The youngest first: a parent that goes on is not to see a child that is stopped (`WUNTRACED`)."""
        signal_each(self.machine.proc, stopped[::-1], signal.SIGCONT)

    def _look(self, now: float) -> float:
        if now >= self.deadline:
            self.why = "wall"
            return 0.0
        if self.ran_out_of_memory():
            return 0.0
        limit_bytes = int(self.limits["memory_mib"]) << 20
        counted = now
        used = self._used(limit_bytes, min(now + self._patience_s(), self.deadline))
        if used is None or used[0] > limit_bytes:
            used = self._used_when_stopped(limit_bytes) if time.monotonic() < self.deadline else None
            counted = time.monotonic()  # it could take nothing meanwhile
        if used is None:
            self.why = "wall"
            return 0.0
        used_bytes, spent_s, threads = used
        self.spent_s = max(self.spent_s, spent_s)
        self.peak_bytes, self._left_bytes = max(self.peak_bytes, used_bytes), limit_bytes - used_bytes
        if used_bytes > limit_bytes:
            self.why = "memory"
        elif self.spent_s > self.limits["cpu_s"]:
            self.why = "cpu"
        elif threads > self.most_threads:
            self.why = "processes"
        elif self._disk.is_over(self.limits):
            self.why = "disk"
        least_s, most_s = _LOOK_S
        took_s = time.monotonic() - now
        as_long_again_s = took_s + min(took_s, _COUNTING_S[1]) - (counted - now)
        return counted - now + self._out_of_reach_s((least_s, max(most_s, as_long_again_s)))

    def _patience_s(self) -> float:
        """How long it may go on while it is counted: it is stopped where it could have taken all there is by then.

        Five hundred that are stopped and go on again all want the processor, and keep us from it for 0.1 s.
        """
        return _COUNTING_S[1] if self._group.counts("memory") else self._out_of_reach_s(_COUNTING_S)

    def _out_of_reach_s(self, bounds: tuple[float, float]) -> float:
        """How long it takes to fill what was left of its memory at the last look; at least and at most `bounds`."""
        least, most = bounds
        return min(max(self._left_bytes / _FASTEST_GROWTH, least), most)

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel has ended one of its processes for want of memory: then the rest goes, too."""
        if self.why is None and self._group.kills() > self._kills_before:
            self.why = "oom"
            self.peak_bytes = int(self.limits["memory_mib"]) << 20
        return self.why == "oom"

    def counted_bytes(self, seen_bytes: int) -> int:
        """The most that counted against the limit, as far as was seen.

        Pages of files may not have counted: who was not ended for it has not passed the limit, and where the kernel
        counts nobody does.
        """
        peak, is_held = max(self.peak_bytes, seen_bytes), self._group.holds() or self.why != "memory"
        return min(peak, int(self.limits["memory_mib"]) << 20) if is_held else peak

    def _used_when_stopped(self, limit_bytes: int) -> tuple[int, float, int] | None:
        """Count again while nobody forks or takes more; those that were running go on where it is not too much."""
        proc = self.machine.proc
        running = [pid for pid in self.members() if not is_stopped(proc, pid)]
        signal_each(proc, running, signal.SIGSTOP)
        used = self._used(limit_bytes, self.deadline)
        if used is not None and used[0] <= limit_bytes:
            self._continue(running)
        return used

    def _used(self, limit_bytes: int, until: float) -> tuple[int, float, int] | None:
        """Bytes of memory, CPU seconds and threads of all members; None: by then it was not counted."""
        proc, found, pages, threads, shown = self.machine.proc, [], 0, 0, Shown()
        try:
            for member in _InTime(self.members(), until):
                pid, fields = living(proc, member)
                found.append(pid)
                if len(fields) > 21:
                    pages += int(fields[21])
                    first = fields if pid == member else stat_fields(proc, member) or fields
                    shown[member, first[19]] = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
                    threads += int(fields[17])
            resident_bytes = min(pages * _PAGE, self._most_bytes())
            used_bytes = self._memory.used_bytes(_InTime(found, until), resident_bytes, limit_bytes)
            return used_bytes, self.cpu_s(self._spent.ticks(shown, self.reaped_ticks())), threads
        except _Late:
            return None

    def _most_bytes(self) -> float:
        """More than all of them have, by what the kernel counts: what is shared once, which takes long to find out."""
        return self._group.used_bytes() if self._group.counts("memory") else math.inf


class _Late(Exception):
    """The time for counting is over."""


class _InTime(list[int]):
    """Processes that are gone through until then: who has much to be counted must not gain time by it."""

    def __init__(self, pids: Iterable[int], until: float) -> None:
        super().__init__(pids)
        self._until = until

    def __iter__(self) -> Iterator[int]:
        for pid in super().__iter__():
            if time.monotonic() > self._until:
                raise _Late
            yield pid


def usage(proc: int, files: occupied.Usage) -> dict[str, float]:
    """What all processes of a vm have, and what its files occupy; see `base.Usage`. Takes a tenth of a second."""
    before, since = _ticks(proc), time.monotonic()
    time.sleep(_SAMPLE_S)
    used_s, pids = (_ticks(proc) - before) / TICK, processes(proc)
    return {
        "processes": len(pids),
        "memory_bytes": sum(proportional_bytes(proc, pid) for pid in pids),
        "cpu_percent": max(0.0, 100 * used_s / (time.monotonic() - since)),
        "disk_bytes": files.size_bytes,
        "files": files.files,
    }


def _ticks(proc: int) -> int:
    """Those of living processes, and of their children that have ended."""
    found = [stat_fields(proc, pid) for pid in processes(proc)]
    return sum(int(ticks) for fields in found for ticks in fields[11:15])


class Disk:
    """What the vm's files occupy. Walking them is slow, so we walk, in a thread, only when the host's free
    space, which is cheap to ask, has fallen by enough that the limit could be passed."""

    def __init__(
        self, usage: Callable[[], occupied.Usage], held: Callable[[], tuple[occupied.Usage, bool]], *, is_new: bool
    ) -> None:
        """`held`: of files that no folder has, see nameless.py."""
        self._usage, self._held = usage, held
        self._known = occupied.Usage() if is_new else None
        self._free = self._before = os.statvfs(".")
        self._walk: threading.Thread | None = None
        self._began = self._not_before = 0.0
        self._is_pressing = False
        """By what the disk has less the limit may be passed."""

    def begin(self) -> None:
        """Something begins to run."""
        self._before = os.statvfs(".")

    @property
    def is_awaited(self) -> bool:
        """It takes long to say whether a limit is passed: nobody should write meanwhile."""
        is_walking = self._walk is not None and self._walk.is_alive()
        return self._is_pressing and is_walking and time.monotonic() > self._began + _PATIENCE_S

    def falls_on(self, limits: dict[str, float]) -> bool:
        """Whether it has lost as much as the limit once more since it is walked over."""
        return _fallen_bytes(self._free, os.statvfs(".")) > int(limits["disk_mib"]) << 20

    def is_over(self, limits: dict[str, float]) -> bool:
        """Whether the last walk found more than the limits allow; starts a walk when one is due."""
        limit_bytes, limit_files = int(limits["disk_mib"]) << 20, int(limits["inodes"])
        known, now = self._known, os.statvfs(".")
        if self._walk is not None and self._walk.is_alive():
            self._is_pressing = self._is_pressing or _fallen_bytes(self._before, now) > limit_bytes
            return False
        if known is not None:
            if known.size_bytes > limit_bytes or known.files > limit_files:
                self._known = None  # look again at the next job
                return True
            grown_files = self._free.f_ffree - now.f_ffree
            grown_bytes = _fallen_bytes(self._free, now)
            if known.size_bytes + grown_bytes <= limit_bytes and known.files + grown_files <= limit_files:
                return False
        if time.monotonic() >= self._not_before:
            self._began, self._is_pressing = time.monotonic(), known is not None
            self._walk = threading.Thread(target=self._measure, daemon=True)
            self._walk.start()
        return False

    def forget(self) -> None:
        """The vm stands on other files now."""
        self._known = None

    def _measure(self) -> None:
        self._free = os.statvfs(".")
        self._known = self._counted()
        self._not_before = 2 * time.monotonic() - self._began

    def _counted(self) -> occupied.Usage:
        """Where files are held whose size nobody sees, what the disk has less than before is taken to be theirs."""
        tree, (held, is_more) = self._usage(), self._held()
        size_bytes = tree.size_bytes + held.size_bytes
        if is_more:
            size_bytes = max(size_bytes, _fallen_bytes(self._before, os.statvfs(".")))
        return occupied.Usage(tree.files + held.files, size_bytes)


def _fallen_bytes(before: os.statvfs_result, now: os.statvfs_result) -> int:
    return (before.f_bfree - now.f_bfree) * now.f_frsize
