"""The processes of a vm, seen from its supervisor: who is there, signals by handle, and an end for all of them."""

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Iterator

from rewindbox.backends.namespace.machine import PROC

_DEADLY_S = 10.0
"""Where of killed processes none has gone for so long, they sit in the kernel: the vm is broken."""
_RESTING_S = 0.1
_PAUSE_S, _PAUSE_FOR_EACH_S = 0.002, 0.00002
"""Longest between two looks at who is left, at least and for each. Five hundred forks of a python take the kernel 70 to
160 ms to tear down, and it wants every processor for that."""

_FORGETTING_S = 0.2
"""After so long a number may have been given to another process: those that were killed are looked at anew."""

Spare = Callable[[int], bool]
"""Whether the process with this pid (as the vm numbers it) is to live on."""


class StillAlive(Exception):
    """Processes survived SIGKILL for too long."""


def processes(proc: int) -> list[int]:
    """Pids in the vm (as the vm numbers them) besides its pid 1.

    Read by a descriptor of its own: a descriptor has one place where it is read, and who lists by the same one at the
    same time, in another thread, takes from us what he has read. Raises OSError: nothing, as of `entries`, would mean
    that all have ended.
    """
    folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    try:
        return [int(name) for name in os.listdir(folder) if name.isdigit() and name != "1"]
    finally:
        os.close(folder)


def signal_each(proc: int, pids: list[int], number: int) -> None:
    """Send a signal to processes of the vm, by handles: a pid that was given away meanwhile is not hit."""
    for pid in pids:
        with contextlib.suppress(OSError):  # ended meanwhile
            handle = os.open(str(pid), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
            try:
                signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


def stop_all(proc: int, spare: Spare | None = None, rested: set[int] | None = None) -> set[int]:
    """Stop every process of the vm but those to spare, however fast they fork: what is stopped does not. Says whom.

    Pid 1 of a pid namespace may stop all below it by one call, by which the kernel stops also what is just being
    forked. Who is spared and ran goes on at once. `rested`: who is spared and did not run; None: to be found out,
    which takes time that five hundred which go on do not leave us.
    """
    if os.getpid() != 1:
        return _stop_each(proc, spare)
    if spare is not None and rested is None:
        rested = {pid for pid in processes(proc) if is_stopped(proc, pid)}
    with contextlib.suppress(ProcessLookupError):  # nobody but us
        os.kill(-1, signal.SIGSTOP)
    there = set(processes(proc))
    doomed = there if spare is None else {pid for pid in there if not spare(pid)}
    signal_each(proc, [1, *(there - doomed - (rested or set()))], signal.SIGCONT)
    return doomed


def _stop_each(proc: int, spare: Spare | None) -> set[int]:
    known: set[int] = set()
    while fresh := [pid for pid in processes(proc) if pid not in known and _is_doomed(proc, pid, spare)]:
        signal_each(proc, fresh, signal.SIGSTOP)
        known.update(fresh)
    return known


def rest(proc: int, pids: list[int]) -> list[int]:
    """Stop these, and wait until no thread of them runs: the call that one is in is ended first. Says who never rested.

    One that waits for a child of vfork(2), stopped, does not stop, and does nothing. So nobody is waited for long.
    """
    signal_each(proc, pids, signal.SIGSTOP)
    deadline = time.monotonic() + _RESTING_S
    while (pids := [pid for pid in pids if not _rests(proc, pid)]) and time.monotonic() < deadline:
        time.sleep(0.0001)
    return pids


def _rests(proc: int, pid: int) -> bool:
    try:
        threads = os.listdir(f"{PROC}/self/fd/{proc}/{pid}/task")
    except OSError:
        return True
    states = (read(proc, f"{pid}/task/{thread}/stat").rpartition(b")")[2].split()[:1] for thread in threads)
    return all(state in ([], [b"T"], [b"t"], [b"Z"], [b"X"]) for state in states)


def strike(proc: int, spare: Spare | None = None) -> set[int]:
    """SIGKILL to every process of the vm but pid 1 and those to spare; says to whom.

    First stop them all: one that is stopped makes no room for another.
    """
    doomed = stop_all(proc, spare)
    signal_each(proc, list(doomed), signal.SIGKILL)
    return doomed


def kill_all(proc: int, spare: Spare | None = None, killed: set[int] | None = None) -> None:
    """End every process of the vm but pid 1 and those to spare, however fast they fork; returns when none is left.

    `killed`: whom `strike` has killed already. Nobody is killed or asked about twice: what ends needs the processor
    more than we do.
    """
    if spare is None and _is_empty(proc):
        return
    pause, since, fewest = 0.0001, time.monotonic(), math.inf
    killed, forget_at = killed or strike(proc, spare), since + _FORGETTING_S
    while there := processes(proc):
        fresh = [pid for pid in there if pid not in killed and _is_doomed(proc, pid, spare)]
        # Ended is enough for those that were killed where their parent may be spared.
        if not fresh and not any(pid in killed and (spare is None or not has_ended(proc, pid)) for pid in there):
            return
        if len(there) < fewest:
            fewest, since = len(there), time.monotonic()
        signal_each(proc, fresh, signal.SIGKILL)
        killed = killed.union(fresh)
        _reap()
        if time.monotonic() > since + _DEADLY_S:
            raise StillAlive(f"{len(there)} processes survive SIGKILL")
        time.sleep(pause)
        pause = min(pause * 2, max(_PAUSE_S, len(there) * _PAUSE_FOR_EACH_S))
        if time.monotonic() > forget_at:
            killed, forget_at = set(), time.monotonic() + _FORGETTING_S


def _is_doomed(proc: int, pid: int, spare: Spare | None) -> bool:
    """Whether it is to end. Where some are spared they may be parents of some that have ended."""
    return spare is None or (not spare(pid) and not has_ended(proc, pid))


def _is_empty(proc: int) -> bool:
    """Quicker than a scan: an orphan's parent is pid 1 or, if it was cloned with CLONE_PARENT, we ourselves.

    So nobody is left when pid 1 has no child, and we have none but pid 1.
    """
    try:
        threads = os.listdir(f"{PROC}/self/task")
        ours = [pid for thread in threads for pid in _read_some(f"{PROC}/self/task/{thread}/children").split()]
        return len(ours) == 1 and not _read_some("1/task/1/children", proc)
    except OSError:
        return False


def _reap() -> None:
    """Who was cloned with CLONE_PARENT is our child, and stays in /proc until we have waited for it."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def stat_fields(proc: int, pid: int) -> list[bytes]:
    """What /proc/PID/stat says behind the name: [0] state, [1] parent, [11] [12] own CPU ticks, [13] [14] those
    of children it waited for, [17] threads, [21] resident pages, [49] how it ended; empty when it is gone."""
    return read(proc, f"{pid}/stat").rpartition(b")")[2].split()


def has_ended(proc: int, pid: int) -> bool:
    """It is gone, or nobody has looked at its exit code yet. A first thread that ended before others has not."""
    fields = stat_fields(proc, pid)
    return not fields or (fields[0] in (b"Z", b"X") and fields[17] in (b"0", b"1"))


def living(proc: int, pid: int) -> tuple[int, list[bytes]]:
    """A thread that knows what its process uses: the first, or another one where the first has ended. And its stat."""
    fields = stat_fields(proc, pid)
    if fields[:1] != [b"Z"] or fields[17] == b"1":
        return pid, fields
    with entries(proc, f"{pid}/task") as (_, threads):
        other = next((int(name) for name in threads if int(name) != pid), pid)
    return other, stat_fields(proc, other)


def ipc_ns_of(proc: int, pid: int) -> int:
    """The number of a process's ipc namespace; 0: it is gone. A first thread that has ended has none any more."""
    with contextlib.suppress(OSError):
        return os.stat(f"{pid}/ns/ipc", dir_fd=proc).st_ino
    with contextlib.suppress(OSError):
        return os.stat(f"{living(proc, pid)[0]}/ns/ipc", dir_fd=proc).st_ino
    return 0


def is_stopped(proc: int, pid: int) -> bool:
    return stat_fields(proc, pid)[:1] == [b"T"]


@contextlib.contextmanager
def entries(proc: int, path: str) -> Iterator[tuple[int, list[str]]]:
    """A folder of a process, open, and the names in it; none where it has ended meanwhile."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    except OSError:
        yield -1, []
        return
    try:
        names = []
        with contextlib.suppress(OSError):
            names = os.listdir(folder)
        yield folder, names
    finally:
        os.close(folder)


def lines(proc: int, name: str) -> Iterator[bytes]:
    """Of a file of /proc that may have hundreds of MiB: each of 65,530 mappings can name a path of 4 KiB."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    except OSError:  # it is gone
        return
    with contextlib.suppress(OSError), open(descriptor, "rb") as file:
        yield from file


def status(outer: int) -> Iterator[tuple[str, list[str]]]:
    """The lines of /proc/PID/status of a process, by our numbers; a name there may have all but a line feed in it."""
    with open(f"{PROC}/{outer}/status", encoding="utf-8", errors="replace", newline="\n") as file:
        for name, _, value in (line.partition(":") for line in file):
            yield name, value.split()


def read(folder: int, name: str) -> bytes:
    """The first 4 KiB of a file of /proc; empty when it is gone."""
    try:
        return _read_some(name, folder)
    except OSError:
        return b""


def _read_some(name: str, folder: int | None = None) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
