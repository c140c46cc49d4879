"""Memory that code leaves with the kernel, where it is in no process's resident set: page tables, messages, sockets.

Runs in the supervisor, which shares the vm's network namespace. Not seen, and bounded by the kernel for all of a
user's processes: pipes (64 MiB, then 8 KiB for each).
"""

import contextlib
import fcntl
import os
import socket
import stat
import struct
import termios
from collections import Counter
from collections.abc import Iterator
from functools import cache

from rewindbox.backends.namespace.processes import entries, read

_NETLINK_SOCK_DIAG = 4
_HEADER, _ATTRIBUTE = struct.Struct("IHHII"), struct.Struct("HH")
_BY_FAMILY, _REQUEST_DUMP, _DONE, _ERROR = 20, 0x301, 3, 2
_TCP, _UDP = 6, 17
_ALL = 0xFFFFFFFF
_PEER, _UNREAD = 2, 4
"""Attributes of a Unix socket: who it is tied to (0: who was closed); what it has not read, of datagrams the first."""
_UNIX = (struct.pack("BBHIIIII", socket.AF_UNIX, 0, 0, _ALL, 0, 0x34, 0, 0), 16, 5)
_KINDS = (
    _UNIX,
    *(
        (struct.pack("BBBxI48x", family, protocol, 1 << 6, _ALL), 72, 7)
        for family in (socket.AF_INET, socket.AF_INET6)
        for protocol in (_TCP, _UDP)
    ),
    (struct.pack("BBHIIII", socket.AF_NETLINK, 255, 0, 0, 1, 0, 0), 28, 0),
)
"""Of each kind of sockets: a question for the memory of all, in any state, how long the fixed part of an answer is, and
which attribute has it."""
_TO_READ, _SENT, _TO_SEND, _IN_HAND = 0, 2, 5, 7
"""Which of the numbers about a socket's memory is what. What a Unix socket has sent is its own until it is read."""
_ANSWER_BYTES = 1 << 16
_STREAM, _STREAMS, _OTHERS = b"0001", b"UNIX-STREAM", b"UNIX"
"""The type in /proc/net/unix, and names in /proc/net/protocols; before Linux 5.15 there is only the last, for all."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_OPTIONS_MAX_BYTES = 128 << 10
"""net.core.optmem_max, as kernels have it that give a socket the most."""
_SEMAPHORE_BYTES = 64
"""Each has a line of the processor's cache to itself."""
_UNDOING_BYTES, _UNDONE_BYTES = 192, 4
"""What a process has for each set that it is to undo something in, and for each semaphore of it; allocated in powers of
two."""
_HUGE_BYTES = 2 << 20
"""The largest that a file's pages are."""
_WITHOUT_BOUND = 1 << 62
_EVENT_BYTES = 512
"""Of a watcher of files, with a long name."""


def tables_bytes(proc: int, pids: list[int]) -> int:
    """What the page tables of processes take: touching a page in every 2 MiB costs as much again as nothing shows."""
    total = 0
    for pid in pids:
        total += _told_bytes(read(proc, f"{pid}/status"), b"VmPTE:")
    return total


def system_v_bytes() -> int:
    """What segments, messages and semaphores (System V) of our own ipc namespace have in memory."""
    return _column("shm", b"rss") + _column("msg", b"cbytes") + _column("sem", b"nsems") * _SEMAPHORE_BYTES


def most_undone_bytes(processes: int) -> int:
    """The most that so many processes take for what the semaphores of our own ipc namespace are to be undone by."""
    (_, *sets), semaphores = _rows("sem"), _column("sem", b"nsems")
    return processes * (len(sets) * _UNDOING_BYTES + semaphores * _UNDONE_BYTES)


def _column(table: str, name: bytes) -> int:
    """The sum of a column of a table in /proc/sysvipc."""
    head, *rows = _rows(table)
    column = head.index(name)
    return sum(int(row[column]) for row in rows)


def _rows(table: str) -> list[list[bytes]]:
    """A table in /proc/sysvipc, its head first."""
    with open(f"/proc/sysvipc/{table}", "rb") as file:
        return [line.split() for line in file.read().splitlines()]


def most_in_sockets_bytes() -> int:
    """More than all sockets of our network namespace can hold: their number, which is cheap to ask, times the most.

    TCP may hold far more in each, and tells what it has in all of the host.
    """
    used, pages = _sockets()
    return used * _most_in_one_bytes() + pages * _PAGE


def most_in_options_bytes() -> int:
    """More than all options of these sockets can take: filters, memberships of groups."""
    return _sockets()[0] * _OPTIONS_MAX_BYTES


def most_left_behind_bytes() -> tuple[int, int]:
    """More than Unix sockets hold that are closed, and whose data others have not read: no list has them any more.

    Of streams, and of those that send datagrams. Of streams it is `sockets_bytes` that tells the data.
    """
    with open("/proc/self/net/protocols", "rb") as file:
        there = Counter({row[0]: int(row[2]) for row in (line.split(None, 3) for line in file.read().splitlines()[1:])})
    with open("/proc/self/net/unix", "rb") as file:
        types = Counter(line.split(None, 5)[4] for line in file.read().splitlines()[1:])
    listed_streams = types[_STREAM] if _STREAMS in there else 0
    streams, others = there[_STREAMS] - listed_streams, there[_OTHERS] - types.total() + listed_streams
    others -= sum(fixed[1] == socket.SOCK_SEQPACKET and _is_orphan(more) for fixed, more in _answers(*_UNIX[:2]))
    return max(streams, 0) * _most_in_one_bytes(), max(others, 0) * _most_in_one_bytes()


@cache
def most_queued_bytes() -> int:
    """The most that waits for whoever reads from a watcher of files (inotify)."""
    with open("/proc/sys/fs/inotify/max_queued_events", "rb") as file:
        return int(file.read()) * _EVENT_BYTES


def _sockets() -> tuple[int, int]:
    """How many there are in our network namespace, and how many pages TCP has in all of the host."""
    with open("/proc/self/net/sockstat", "rb") as file:
        text = file.read(4096)
    return int(text.split(None, 3)[2]), int(text.partition(b"\nTCP:")[2].partition(b"\n")[0].rpartition(b" mem ")[2])


@cache
def _most_in_one_bytes() -> int:
    """A sender is stopped when it is over its buffer, which is as large as it may ask for: one more fits in before."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
        return 2 * probe.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def sockets_bytes() -> int:
    """What was written to sockets of our network namespace and not read, wherever those sockets are.

    Asked by sock_diag(7); a kernel without it, or without it for a kind, says nothing, which counts as nothing.
    """
    return sum(
        _held_bytes(attributes, memory)
        for question, fixed_bytes, memory in _KINDS
        for _, attributes in _answers(question, fixed_bytes)
    )


def _answers(question: bytes, fixed_bytes: int) -> Iterator[tuple[bytes, dict[int, bytes]]]:
    """Of each socket the fixed part, and the attributes."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as link:
        link.send(_HEADER.pack(_HEADER.size + len(question), _BY_FAMILY, _REQUEST_DUMP, 1, 0) + question)
        while True:
            answer = link.recv(_ANSWER_BYTES)
            while answer:
                size, kind, *_ = _HEADER.unpack_from(answer)
                if kind in (_DONE, _ERROR):
                    return
                body = answer[_HEADER.size : size]
                yield body[:fixed_bytes], _attributes(body[fixed_bytes:])
                answer = answer[_aligned(size) :]


def _attributes(rest: bytes) -> dict[int, bytes]:
    found = {}
    while rest:
        size, kind = _ATTRIBUTE.unpack_from(rest)
        found[kind] = rest[_ATTRIBUTE.size : size]
        rest = rest[_aligned(size) :]
    return found


def _is_orphan(attributes: dict[int, bytes]) -> bool:
    """Whether the socket on the other side was closed."""
    return attributes.get(_PEER) == bytes(4)


def _held_bytes(attributes: dict[int, bytes], memory: int) -> int:
    """What a socket has of what was sent to it or by it; and what was sent by one that is closed."""
    told = struct.unpack_from("8I", attributes.get(memory, bytes(32)))
    (unread,) = struct.unpack_from("I", attributes.get(_UNREAD, bytes(4))) if _is_orphan(attributes) else (0,)
    return int(told[_TO_READ] + max(told[_SENT], told[_TO_SEND]) + told[_IN_HAND] + unread)


def _aligned(size: int) -> int:
    return (size + 3) & ~3


def is_parking(proc: int, pid: int, name: str) -> bool:
    """Whether in this socket of a process lie descriptors that nobody has taken out yet."""
    _, found, rest = read(proc, f"{pid}/fdinfo/{name}").partition(b"scm_fds:")
    return bool(found) and int(rest.split(None, 1)[0]) > 0


@cache
def memory_device() -> int:
    """The device of memory that has no name in any folder: of memory files, shared mappings and segments."""
    file = os.memfd_create("probe", os.MFD_CLOEXEC)
    try:
        return os.fstat(file).st_dev
    finally:
        os.close(file)


def most_in_pipes_bytes(proc: int, pids: list[int]) -> int:
    """More than what lies in the pipes of processes can hold of files' pages; each byte may keep a huge one."""
    pipes: dict[int, int] = {}
    for pid in pids:
        with entries(proc, f"{pid}/fd") as (folder, names):
            for name in names:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # closed meanwhile
                    status = os.stat(name, dir_fd=folder)
                    if stat.S_ISFIFO(status.st_mode) and status.st_ino not in pipes:
                        pipes[status.st_ino] = _most_pieces(folder, name)
    return sum(pipes.values()) * _HUGE_BYTES


def _most_pieces(folder: int, name: str) -> int:
    """How many pieces lie in a pipe, at most. Whoever opens it to read takes nothing, and lets no writer wait."""
    try:
        pipe = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except (FileNotFoundError, ProcessLookupError):
        raise
    except OSError:  # we may not look
        return _WITHOUT_BOUND
    try:
        (filled,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
        return min(int(filled), fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) // _PAGE)
    finally:
        os.close(pipe)


def _told_bytes(text: bytes, name: bytes) -> int:
    """What a line of /proc that begins so tells in kB; 0 where there is none."""
    _, found, rest = text.partition(b"\n" + name)
    return int(rest.split(None, 1)[0]) * 1024 if found else 0
