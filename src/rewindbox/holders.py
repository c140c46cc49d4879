"""Who has a vm: which process holds the lock of which vm of a store, and how to make a command let go of it.

Reads /proc/locks, because trying a lock would, for a moment, take it.
"""

import os
import select
import signal
from contextlib import suppress
from itertools import pairwise

from rewindbox.errors import VmBusy, VmNotAvailable

_PATIENCE_MS = 15_000
"""An interrupted command still records what it ran."""


def find(folder: str) -> dict[str, int]:
    """Vm id -> the process that holds it."""
    locks = os.path.join(folder, "locks")
    holding = _flocks()
    found = {}
    with suppress(OSError):
        for entry in os.scandir(locks):
            pid = _noted(entry.path)
            if pid is not None and (pid, entry.inode()) in holding:  # /proc/locks names devices as mounts do not
                found[entry.name] = pid
    return found


def stop(folder: str, vm_id: str, name: str) -> bool:
    """Interrupt the command that holds the vm, and wait for its end. False: nobody holds it.

    Raises:
        VmBusy: who holds it is no command of ours, but a program that uses the library.
        VmNotAvailable: it does not end.
    """
    pid = find(folder).get(vm_id)
    if pid is None:
        return False
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if find(folder).get(vm_id) != pid:  # the descriptor could be of another process with its number
            return True
        if not _is_command(pid):
            raise VmBusy(f"{name} is in use by process {pid}", remedy="that is no command of ours: end it yourself")
        signal.pidfd_send_signal(process, signal.SIGTERM)
        ended, _, _ = select.select([process], [], [], _PATIENCE_MS / 1000)
    finally:
        os.close(process)
    if not ended:
        raise VmNotAvailable(f"process {pid}, which uses {name}, does not end", remedy=f"kill -9 {pid}")
    return True


def _flocks() -> set[tuple[int, int]]:
    """(process, inode) of every lock that is held."""
    found = set()
    with open("/proc/locks", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if words[1] == "FLOCK":
                found.add((int(words[4]), int(words[5].rpartition(":")[2])))
    return found


def _noted(path: str) -> int | None:
    """The process that a lock's file names."""
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return None


def _is_command(pid: int) -> bool:
    """`rewindbox ...` or `python -m rewindbox ...`."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().split(b"\0")
    names = [os.path.basename(word) for word in words[:4]]
    return b"rewindbox" in names[:2] or (b"-m", b"rewindbox") in pairwise(words[:6])
