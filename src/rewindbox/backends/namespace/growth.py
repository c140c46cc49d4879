"""What the host has more of than before, by the lines of its /proc/meminfo: the most that a vm has out of sight."""

import os

PINNED = b"pinned"
"""In what `host_bytes` tells: pages of files that are in no file any more, and held, as a pipe holds all of a huge one
for a byte of it. The kernel lists them, and counts them in no file's cache."""
UNLISTED = b"unlisted"
"""There, too: what is not free and in no line, as what lies in sockets."""
_LISTED = (
    *(b"MemFree:", b"Buffers:", b"Cached:", b"SwapCached:", b"AnonPages:", b"Slab:", b"KernelStack:"),
    *(b"PageTables:", b"SecPageTables:", b"VmallocUsed:", b"Percpu:"),
)


class Growth:
    """By how much lines of the host's memory have grown since their lowest: what others give back hides nothing."""

    def __init__(self, *lasting: bytes) -> None:
        """`lasting`: of these lines others take so little that nobody is to begin anew."""
        self._lasting = lasting
        self.known: dict[bytes, int] = {}
        """Of each line, at the last look."""
        self._lowest: dict[bytes, int] = {}

    def become(self, known: dict[bytes, int]) -> None:
        """What it was at another time."""
        self.known, self._lowest = known, {}

    def go_on(self, now: dict[bytes, int]) -> None:
        """Begin, or go on after a time that nobody has looked at: what the host took meanwhile is not counted."""
        lasting = {name: size for name, size in self._lowest.items() if name in self._lasting}
        self._lowest = {name: size - self.known.get(name, 0) for name, size in now.items()} | lasting

    def until(self, now: dict[bytes, int]) -> dict[bytes, int]:
        """Of each line. Call it as often as may be: what comes and goes between two looks is not seen."""
        if not self._lowest:
            self.go_on(now)
        self._lowest = {name: min(size, now[name]) for name, size in self._lowest.items()}
        self.known = {name: now[name] - size for name, size in self._lowest.items()}
        return self.known


def host_bytes(*names: bytes) -> dict[bytes, int]:
    """Lines of the host's /proc/meminfo, `PINNED` and `UNLISTED`; 0 where this kernel has no such line."""
    descriptor = os.open("/proc/meminfo", os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = _Lines(os.read(descriptor, 8192))
    finally:
        os.close(descriptor)
    return {name: _MADE_UP[name](lines) if name in _MADE_UP else lines.sum_bytes(name) for name in names}


class _Lines:
    """/proc/meminfo, gone through once: it is read at every look."""

    def __init__(self, text: bytes) -> None:
        self._lines = {line.partition(b" ")[0]: line for line in text.splitlines()}

    def sum_bytes(self, *names: bytes) -> int:
        return sum(int(self._lines[name].split(None, 2)[1]) for name in names if name in self._lines) * 1024


def _pinned_bytes(lines: _Lines) -> int:
    """The smaller of two, each of which sees something else, too: what programs have given back and the kernel not yet
    taken (`MADV_FREE`), and huge pages of which they have given back a part. Can be below zero.
    """
    cached = lines.sum_bytes(b"Cached:", b"Buffers:")
    of_files = lines.sum_bytes(b"Active(file):", b"Inactive(file):", b"Shmem:")
    of_all = lines.sum_bytes(b"Active:", b"Inactive:", b"Unevictable:")
    return min(of_files, of_all - lines.sum_bytes(b"AnonPages:", b"SwapCached:")) - cached


def _unlisted_bytes(lines: _Lines) -> int:
    return lines.sum_bytes(b"MemTotal:") - lines.sum_bytes(*_LISTED)


_MADE_UP = {PINNED: _pinned_bytes, UNLISTED: _unlisted_bytes}
