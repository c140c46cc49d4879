"""Files that take the disk though no folder has them: deleted, or never named, while a process of the vm holds them.

Seen through descriptors. What is held otherwise, by a mapping alone or in a socket on its way, has no size that
one could ask for: then we say that there is more.
"""

import contextlib
import os
import stat
from functools import cache

from rewindbox.backends.namespace import occupied, parked
from rewindbox.backends.namespace.machine import MEMORY
from rewindbox.backends.namespace.processes import entries, lines, living, processes

_MAPS_MAX = 4 << 20
"""Bytes of a list of mappings that we read."""
_DELETED = b" (deleted)\n"

File = tuple[int, int]
"""Device and inode."""


def usage(proc: int) -> tuple[occupied.Usage, bool]:
    """What those files occupy that processes of a vm hold, and whether there may be more of them."""
    found: dict[File, int] = {}
    is_more = False
    pids = [living(proc, pid)[0] for pid in processes(proc)]
    for pid in pids:
        is_more = _look_at_descriptors(proc, pid, found) or is_more
    inodes = {inode for _, inode in found}
    is_more = is_more or any(_maps_others(proc, pid, inodes) for pid in pids)
    return occupied.Usage(len(found), sum(found.values())), is_more


def _look_at_descriptors(proc: int, pid: int, found: dict[File, int]) -> bool:
    """Add the files that a process has open; whether descriptors lie in one of its sockets."""
    parks = False
    with entries(proc, f"{pid}/fd") as (folder, names):
        for name in names:
            with contextlib.suppress(OSError):  # closed meanwhile
                status = os.stat(name, dir_fd=folder)
                if stat.S_ISSOCK(status.st_mode):
                    parks = parks or parked.is_parking(proc, pid, name)
                elif stat.S_ISREG(status.st_mode) and not status.st_nlink and status.st_dev not in _in_memory():
                    found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return parks


def _maps_others(proc: int, pid: int, inodes: set[int]) -> bool:
    """Whether a deleted file is in its memory that no process has open; too many mappings hide one, for all we know."""
    room = _MAPS_MAX
    for line in lines(proc, f"{pid}/maps"):
        room -= len(line)
        if room <= 0:
            return True
        if line.endswith(_DELETED):
            device, inode = line.split(None, 5)[3:5]
            major, minor = (int(part, 16) for part in device.split(b":"))
            if os.makedev(major, minor) not in _in_memory() and int(inode) not in inodes:
                return True
    return False


@cache
def _in_memory() -> frozenset[int]:
    """Devices whose files are memory, which is counted as such: of the vm's own, of memory files and segments."""
    return frozenset((os.stat(MEMORY).st_dev, parked.memory_device()))
