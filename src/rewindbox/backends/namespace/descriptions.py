"""What processes of a session have that does not go back with its variables, in words for a person."""

import os
import re
from collections.abc import Iterable

from rewindbox.backends.namespace.processes import has_ended, lines, read, stat_fields

_THREADS_THAT_COME_BACK = re.compile(rb"openblas|libgomp|libiomp|libmkl|libtbb|libblis")
"""Libraries that start their worker threads anew in a forked process."""
_OWN_FD = 900
_NAMED_MAX = 8
_MAPS_MAX = 4 << 20
"""Bytes of a list of mappings; that of a big Java has 300 KiB."""


def of_company(proc: int, head: int, python_threads: int, members: Iterable[int]) -> list[str]:
    """Of a session's processes what is more than an idle head. `python_threads`: those of the head."""
    found, more = list[str](), 0
    for pid in sorted(members):
        if pid != head and len(found) >= _NAMED_MAX:
            more += 1
        elif (fields := stat_fields(proc, pid)) and pid == head:
            found += of_head(proc, pid, int(fields[17]) - 1, python_threads)
        elif fields and not has_ended(proc, pid):
            found.append(of_child(proc, pid))
    return [*found, f"{more} more"] if more else found


def of_head(proc: int, pid: int, threads: int, python_threads: int) -> list[str]:
    """Its threads and sockets. `threads`: all but the first; `python_threads`: so many of them say to be python's."""
    found = []
    python = min(threads, python_threads)
    if python:
        found.append(_count(python, "thread"))
    if threads > python and not any(map(_THREADS_THAT_COME_BACK.search, lines(proc, f"{pid}/maps"))):
        found.append(_count(threads - python, "native thread"))
    if sockets := _lonely_sockets(proc, pid):
        found.append(_count(sockets, "socket"))
    return found


def of_child(proc: int, pid: int) -> str:
    """A process that the code started."""
    return f"process {pid} ({_spelled(read(proc, f'{pid}/comm').decode(errors='replace').strip())})"


def of_open_files(proc: int, pid: int, session: str) -> list[str]:
    """Regular files that it has open for writing."""
    found = []
    for number, target in _descriptors(proc, pid):
        if target.startswith("/") and not target.startswith(("/dev/", "/proc/")) and _is_for_writing(proc, pid, number):
            name = _spelled(target.removesuffix(" (deleted)"))
            found.append(f"{name} is open for writing in session {session}: what it writes there is lost")
    return found


def mapped_files(proc: int, pid: int) -> set[str] | None:
    """Paths of regular files whose mapping in its memory is shared and writable; None: they are too many to be read."""
    found, room = set(), _MAPS_MAX
    for line in lines(proc, f"{pid}/maps"):
        room -= len(line)
        if room < 0:
            return None
        words = line.split(None, 5)
        if len(words) == 6 and words[1][1:2] == b"w" and words[1][3:4] == b"s":
            found.add(os.fsdecode(words[5].rstrip(b"\n")))
    return {path for path in found if path.startswith("/") and not path.startswith(("/dev/", "/memfd:"))}


def _spelled(name: str) -> str:
    """A name that code has chosen, without what a terminal would obey or no text can have."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"


def _lonely_sockets(proc: int, pid: int) -> int:
    """Sockets without those of a pair, by which an event loop wakes itself: their inode numbers follow each other."""
    inodes = sorted(int(target[8:-1]) for _, target in _descriptors(proc, pid) if target.startswith("socket:["))
    lonely = 0
    while inodes:
        first = inodes.pop(0)
        if inodes and inodes[0] == first + 1:
            inodes.pop(0)
        else:
            lonely += 1
    return lonely


def _descriptors(proc: int, pid: int) -> list[tuple[int, str]]:
    """Number and target of what is not ours."""
    found = []
    try:
        folder = os.open(f"{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    except OSError:
        return []
    try:
        for name in os.listdir(folder):
            if 2 < int(name) < _OWN_FD:
                found.append((int(name), os.readlink(name, dir_fd=folder)))
    except OSError:  # it ends just now
        pass
    finally:
        os.close(folder)
    return found


def _is_for_writing(proc: int, pid: int, number: int) -> bool:
    for line in read(proc, f"{pid}/fdinfo/{number}").splitlines():
        if line.startswith(b"flags:"):
            return int(line.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY
    return False
