"""A running job: watched, and ended together with everything it started. Runs in the supervisor."""

import contextlib
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from rewindbox.backends.namespace import trees
from rewindbox.backends.namespace.machine import PROC, Machine
from rewindbox.backends.namespace.memory import Memory
from rewindbox.backends.namespace.spawner import Spawner

_TICK = os.sysconf("SC_CLK_TCK")
_FASTEST_GROWTH = 4 << 30
"""Bytes a second that we believe a program can touch; says how long we may look away."""
_LOOK_S = (0.002, 0.05)
_DEADLY_S = 10.0
"""A killed process that is not gone by then sits in the kernel: the vm is broken."""


class StillAlive(Exception):
    """Processes survived SIGKILL for too long."""


class Job:
    """One running job."""

    def __init__(self, machine: Machine, disk: "Disk", limits: dict[str, float], spawner: Spawner) -> None:
        """`spawner` has been told to start it."""
        self.machine, self.limits, self.spawner, self._disk = machine, limits, spawner, disk
        self.why: str | None = None
        self.peak_bytes = 0
        self._memory = Memory(machine.proc, lambda: spawner.ipc_ns)
        self._cpu_before = _children_cpu()
        self.started = time.monotonic()
        self.deadline = self.started + limits["wall_s"]
        self._next_look = min(self.started + _LOOK_S[0], self.deadline)

    def look_when_due(self) -> float:
        """See whether a limit is passed (then `why` says which); returns how long we may look away.

        A look takes 0.2 ms: not more of them than needed, and none in the first moments of a job.
        """
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + self._look(now)
        return max(self._next_look - now, 0.0)

    def _look(self, now: float) -> float:
        if now >= self.deadline:
            self.why = "wall"
            return 0.0
        used_bytes, cpu_s = self._consumption()
        self.peak_bytes = max(self.peak_bytes, used_bytes)
        limit_bytes = int(self.limits["memory_mib"]) << 20
        if used_bytes > limit_bytes and self._is_over_when_stopped(limit_bytes):
            self.why = "memory"
        elif cpu_s > self.limits["cpu_s"]:
            self.why = "cpu"
        elif self._disk.is_over(self.limits):
            self.why = "disk"
        pause = (limit_bytes - used_bytes) / _FASTEST_GROWTH
        return float(min(max(pause, _LOOK_S[0]), _LOOK_S[1], self.deadline - now))

    def _is_over_when_stopped(self, limit_bytes: int) -> bool:
        """Count again while nobody forks; those that were running go on where the count was wrong."""
        proc = self.machine.proc
        running = [pid for pid in processes(proc) if not _is_stopped(proc, pid)]
        signal_each(proc, running, signal.SIGSTOP)
        if self._memory.exact_bytes([_living(proc, pid) for pid in processes(proc)]) > limit_bytes:
            return True
        signal_each(proc, running, signal.SIGCONT)
        return False

    def _consumption(self) -> tuple[int, float]:
        """Bytes of memory and CPU seconds of all processes."""
        pages, ticks, limit = 0, 0, int(self.limits["memory_mib"]) << 20
        pids = [_living(self.machine.proc, pid) for pid in processes(self.machine.proc)]
        for pid in pids:
            fields = _read(self.machine.proc, f"{pid}/stat").rpartition(b")")[2].split()
            if len(fields) > 21:
                pages += int(fields[21])
                ticks += int(fields[11]) + int(fields[12])
        used = self._memory.used_bytes(pids, pages, limit)
        return used, ticks / _TICK + _children_cpu() - self._cpu_before

    def reap(self) -> dict[str, Any]:
        """Call when the job's first process has ended or was killed: end the rest, say how it was."""
        assert self.spawner.pid is not None
        _, status, usage = os.wait4(self.spawner.pid, 0)
        wall_s = time.monotonic() - self.started
        kill_all(self.machine.proc)
        self.spawner.close()
        return {
            "status": status,
            "why": self.why,
            "wall_s": wall_s,
            "cpu_s": _children_cpu() - self._cpu_before,
            "memory_peak_bytes": max(self.peak_bytes, usage.ru_maxrss * 1024),
        }

    def kill(self) -> None:
        """SIGKILL to the first process; `reap` does the rest. While it is being started: to all there are."""
        if self.spawner.pid is not None:
            os.kill(self.spawner.pid, signal.SIGKILL)
        else:
            signal_all(self.machine.proc, signal.SIGKILL)


class Disk:
    """What the vm's files occupy. Walking them is slow, so we walk, in a thread, only when the host's free
    space, which is cheap to ask, has fallen by enough that the limit could be passed."""

    def __init__(self, usage: Callable[[], trees.Usage], *, is_new: bool) -> None:
        self._usage = usage
        self._known = trees.Usage() if is_new else None
        self._free = os.statvfs(".")
        self._walk: threading.Thread | None = None
        self._not_before = 0.0

    def is_over(self, limits: dict[str, float]) -> bool:
        """Whether the last walk found more than the limits allow; starts a walk when one is due."""
        if self._walk is not None and self._walk.is_alive():
            return False
        limit_bytes, limit_files = int(limits["disk_mib"]) << 20, int(limits["inodes"])
        known, now = self._known, os.statvfs(".")
        if known is not None:
            if known.size_bytes > limit_bytes or known.files > limit_files:
                self._known = None  # look again at the next job
                return True
            grown_bytes = (self._free.f_bfree - now.f_bfree) * now.f_frsize
            grown_files = self._free.f_ffree - now.f_ffree
            if known.size_bytes + grown_bytes <= limit_bytes and known.files + grown_files <= limit_files:
                return False
        if time.monotonic() >= self._not_before:
            self._walk = threading.Thread(target=self._measure, daemon=True)
            self._walk.start()
        return False

    def forget(self) -> None:
        """The vm stands on other files now."""
        self._known = None

    def _measure(self) -> None:
        began = time.monotonic()
        self._free = os.statvfs(".")
        self._known = self._usage()
        self._not_before = time.monotonic() + 10 * (time.monotonic() - began)


def processes(proc: int) -> list[int]:
    """Pids in the vm (as the vm numbers them) besides its pid 1."""
    return [int(name) for name in os.listdir(proc) if name.isdigit() and name != "1"]


def signal_all(proc: int, number: int) -> int:
    """Send a signal to every process of the vm but pid 1; returns how many there were."""
    pids = processes(proc)
    signal_each(proc, pids, number)
    return len(pids)


def signal_each(proc: int, pids: list[int], number: int) -> None:
    """Send a signal to processes of the vm, by handles: a pid that was given away meanwhile is not hit."""
    for pid in pids:
        with contextlib.suppress(OSError):  # ended meanwhile
            handle = os.open(str(pid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
            try:
                signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


def kill_all(proc: int) -> None:
    """End every process of the vm but pid 1, however fast they fork; returns when none is left.

    First stop them all, until a pass finds no new one: a stopped process does not fork. Then kill.
    """
    if _is_empty(proc):
        return
    known: set[int] = set()
    while fresh := set(processes(proc)) - known:
        signal_all(proc, signal.SIGSTOP)
        known |= fresh
    pause, deadline = 0.0001, time.monotonic() + _DEADLY_S
    while signal_all(proc, signal.SIGKILL):
        _reap()
        if time.monotonic() > deadline:
            raise StillAlive(f"{len(processes(proc))} processes survive SIGKILL")
        time.sleep(pause)
        pause = min(pause * 2, 0.01)


def _is_empty(proc: int) -> bool:
    """Quicker than a scan: an orphan's parent is pid 1 or, if it was cloned with CLONE_PARENT, we ourselves.

    So nobody is left when pid 1 has no child, and we have none but pid 1.
    """
    try:
        threads = os.listdir(f"{PROC}/self/task")
        ours = [pid for thread in threads for pid in _read_path(f"{PROC}/self/task/{thread}/children").split()]
        return len(ours) == 1 and not _read(proc, "1/task/1/children")
    except OSError:
        return False


def _read_path(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read(4096)


def _reap() -> None:
    """Who was cloned with CLONE_PARENT is our child, and stays in /proc until we have waited for it."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _living(proc: int, pid: int) -> int:
    """A thread that knows what its process uses: the first, or another one where the first has ended."""
    fields = _read(proc, f"{pid}/stat").rpartition(b")")[2].split()
    if fields[:1] != [b"Z"] or fields[17] == b"1":
        return pid
    with contextlib.suppress(OSError):
        folder = os.open(f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
        try:
            return next((int(name) for name in os.listdir(folder) if int(name) != pid), pid)
        finally:
            os.close(folder)
    return pid


def _is_stopped(proc: int, pid: int) -> bool:
    return _read(proc, f"{pid}/stat").rpartition(b")")[2].split()[:1] == [b"T"]


def _read(folder: int, name: str) -> bytes:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return b""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
