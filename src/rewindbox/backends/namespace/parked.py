"""Memory that code leaves with the kernel, where it is in no process's resident set: page tables, messages, sockets.

Runs in the supervisor, which shares the vm's network namespace. Not seen, and bounded by the kernel for all of a
user's or all of the host's processes: pipes (64 MiB, then 8 KiB for each) and TCP (net.ipv4.tcp_mem). Nor seen, as
counting them takes a microsecond each: mappings (14 MB a process), descriptors that an epoll waits for, locks on files.
"""

import os
import socket
import struct
from functools import cache

from rewindbox.backends.namespace.processes import read

_NETLINK_SOCK_DIAG = 4
_HEADER, _DIAG, _ATTRIBUTE = struct.Struct("IHHII"), struct.Struct("BBHIIIII"), struct.Struct("HH")
_BY_FAMILY, _REQUEST_DUMP, _DONE, _ERROR = 20, 0x301, 3, 2
_SHOW_MEMORY, _MEMORY = 0x20, 5
_MESSAGE_BYTES = 16
_ANSWER_BYTES = 1 << 16
_SEMAPHORE_BYTES = 64
"""Each has a line of the processor's cache to itself."""


def tables_bytes(proc: int, pids: list[int]) -> int:
    """What the page tables of processes take: touching a page in every 2 MiB costs as much again as nothing shows."""
    total = 0
    for pid in pids:
        total += _told_bytes(read(proc, f"{pid}/status"), b"VmPTE:")
    return total


def messages_bytes() -> int:
    """What lies in System V message queues of our own ipc namespace."""
    return _column("msg", b"cbytes")


def semaphores_bytes() -> int:
    """What the System V semaphores of our own ipc namespace take."""
    return _column("sem", b"nsems") * _SEMAPHORE_BYTES


def segments_bytes() -> int:
    """What System V segments of our own ipc namespace have in memory."""
    return _column("shm", b"rss")


def _column(table: str, name: bytes) -> int:
    """The sum of a column of a table in /proc/sysvipc."""
    with open(f"/proc/sysvipc/{table}", "rb") as file:
        head, *rows = file.read().splitlines()
    column = head.split().index(name)
    return sum(int(row.split()[column]) for row in rows)


def most_in_sockets_bytes() -> int:
    """More than all sockets of our network namespace can hold: their number, which is cheap to ask, times the most."""
    with open("/proc/self/net/sockstat", "rb") as file:
        count = int(file.readline().split()[2])
    return count * _most_in_one_bytes()


@cache
def _most_in_one_bytes() -> int:
    """A sender is stopped when it is over its buffer, which is as large as it may ask for: one more fits in before."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
        return 2 * probe.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def sockets_bytes() -> int:
    """What was written to Unix sockets of our network namespace and not read, wherever those sockets are.

    Asked by sock_diag(7); a kernel without it says nothing, which counts as nothing.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as link:
        question = _DIAG.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_MEMORY, 0, 0)
        link.send(_HEADER.pack(_HEADER.size + len(question), _BY_FAMILY, _REQUEST_DUMP, 1, 0) + question)
        total = 0
        while True:
            answer = link.recv(_ANSWER_BYTES)
            while answer:
                size, kind, *_ = _HEADER.unpack_from(answer)
                if kind in (_DONE, _ERROR):
                    return total
                total += _held_bytes(answer[_HEADER.size + _MESSAGE_BYTES : size])
                answer = answer[_aligned(size) :]


def _held_bytes(attributes: bytes) -> int:
    """What a socket has sent that nobody has read: the third of the numbers about its memory."""
    while attributes:
        size, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _MEMORY:
            return int(struct.unpack_from("I", attributes, _ATTRIBUTE.size + 2 * 4)[0])
        attributes = attributes[_aligned(size) :]
    return 0


def _aligned(size: int) -> int:
    return (size + 3) & ~3


def is_parking(proc: int, pid: int, name: str) -> bool:
    """Whether in this socket of a process lie descriptors that nobody has taken out yet."""
    _, found, rest = read(proc, f"{pid}/fdinfo/{name}").partition(b"scm_fds:")
    return bool(found) and int(rest.split(None, 1)[0]) > 0


class Growth:
    """By how much lines of the host's memory have grown since their lowest: what others give back hides nothing."""

    def __init__(self, now: dict[bytes, int]) -> None:
        self._lowest = dict(now)

    def bytes_until(self, now: dict[bytes, int]) -> int:
        """Of all lines together. Call it as often as may be: what comes and goes between two looks is not seen."""
        self._lowest = {name: min(size, now[name]) for name, size in self._lowest.items()}
        return sum(now[name] - size for name, size in self._lowest.items())


def host_bytes(*names: bytes) -> dict[bytes, int]:
    """Lines of the host's /proc/meminfo."""
    descriptor = os.open("/proc/meminfo", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(descriptor, 8192)
    finally:
        os.close(descriptor)
    return {name: _told_bytes(text, name) for name in names}


def _told_bytes(text: bytes, name: bytes) -> int:
    """What a line of /proc that begins so tells in kB; 0 where there is none."""
    _, found, rest = text.partition(b"\n" + name)
    return int(rest.split(None, 1)[0]) * 1024 if found else 0
