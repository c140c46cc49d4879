"""Lists that the kernel keeps for code: locks on files, what epolls wait for, mappings, filters of calls.

They are in no process's resident set and nothing bounds them all. /proc tells of them, a microsecond a line: they are
read only where the host's kernel has grown by enough to matter, and no more of them than `_MOST_READ_BYTES`.
Every list that can be long hangs on a process here. Those that do not are refused by the filter (seccomp.py): locks
of an open file (F_OFD_SETLK), which lives on where no process has it, what hangs on a single thread's table of
descriptors, rules of Landlock.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from rewindbox.backends.namespace import parked
from rewindbox.backends.namespace.processes import entries

_LINE_BYTES = 256
"""A lock takes 192 to 224 bytes, a descriptor that an epoll waits for 200, an open file 240 and has four lines."""
_MAPPING_BYTES, _ANCESTOR_BYTES = 512, 64
"""A mapping with its place in a tree and a name of its own; what ties it to each process that it was forked from."""
_FILTER_BYTES, _INSTRUCTION_BYTES = os.sysconf("SC_PAGE_SIZE") + (4 << 10), 48
"""A filter of calls (seccomp), and each of its instructions: kept as given, translated and compiled."""
_OWN_FILTERS, _LONGEST_FILTER, _INSTRUCTIONS_MAX, _BETWEEN = 1, 4096, 32768, 4
"""Every process wears ours. The kernel bounds the instructions of all that one wears; each filter counts 4 more."""
_MOST_READ_BYTES = 64 << 20
"""A million locks, 200 MB; reading them takes a second."""
_OPENING_BYTES = 1 << 10
"""What opening one of /proc counts: it takes as long as reading so much."""
_CHUNK_BYTES = 1 << 16


class TooLong(Exception):
    """There is more than is worth reading: an ordinary program has a thousandth of it."""


@dataclass
class Lists:
    """What was read of some processes."""

    size_bytes: int = 0
    """The most that all entries take."""
    memory: set[int] = field(default_factory=set)
    """Inodes of memory without a name that is mapped: all of such a file stays while any page of it is mapped."""
    left_bytes: int = _MOST_READ_BYTES
    """How much more may be read."""


def of(proc: int, pids: list[int], ancestors: int) -> Lists:
    """The lists of these processes. `ancestors`: the most that any has, living or not.

    Raises TooLong.
    """
    lists, mapping_bytes = Lists(), _MAPPING_BYTES + _ANCESTOR_BYTES * ancestors
    device = parked.memory_device()
    memory = re.compile(rb" %02x:%02x (\d+) +/(?!SYSV)" % (os.major(device), os.minor(device)))
    for pid in pids:
        for name in _names(proc, f"{pid}/fdinfo"):
            lists.size_bytes += _LINE_BYTES * sum(chunk.count(b"\n") for chunk in _chunks(proc, name, lists))
        for chunk in _chunks(proc, f"{pid}/maps", lists):
            lists.size_bytes += mapping_bytes * chunk.count(b"\n")
            lists.memory.update(map(int, memory.findall(chunk)))
        for name in _names(proc, f"{pid}/task"):
            lists.size_bytes += filters_bytes(b"".join(_chunks(proc, f"{name}/status", lists)))
    return lists


def filters_bytes(status: bytes) -> int:
    """The most that filters of calls can take which a thread has put on, by what its /proc/PID/status says."""
    _, _, rest = status.partition(b"\nSeccomp_filters:")
    count = int((rest.split(None, 1) or [b"0"])[0]) - _OWN_FILTERS
    instructions = min(count * _LONGEST_FILTER, _INSTRUCTIONS_MAX - count * _BETWEEN)
    return count * _FILTER_BYTES + max(instructions, 0) * _INSTRUCTION_BYTES if count > 0 else 0


def _names(proc: int, path: str) -> list[str]:
    """The names in a folder of a process, with its own before them."""
    with entries(proc, path) as (_, names):
        return [f"{path}/{name}" for name in names]


def _chunks(proc: int, name: str, lists: Lists) -> Iterator[bytes]:
    """A file of /proc, in pieces of whole lines; what is gone meanwhile has none."""
    lists.left_bytes -= _OPENING_BYTES
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    except OSError:
        return
    try:
        while chunk := os.read(descriptor, _CHUNK_BYTES):
            lists.left_bytes -= len(chunk)
            if lists.left_bytes < 0:
                raise TooLong
            yield chunk
    except OSError:
        return
    finally:
        os.close(descriptor)
