"""Processes of sessions that we know: how one is asked to fork, and how we know who was born.

Nothing that they say is believed but that they are there; the kernel says who said it.
"""

import contextlib
import os
import resource
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rewindbox.backends.namespace.processes import read, status
from rewindbox.backends.namespace.spawner import FIRST_TO_GO, open_score, score_for_end

_BIRTH_S = 10.0
_UNSEEN_S = 0.05
"""Forking takes 1 ms, and 0.03 ms for each MiB of small objects. Code may put it off (`os.register_at_fork`): who takes
longer than the second is looked at, who takes longer than the first does not fork."""
Look = Callable[[], float]
"""Looks at what goes on in the vm; returns the seconds until the next time."""
ENDING_S = 0.2
"""A process closes its descriptors a moment before it has ended."""


class Lost(Exception):
    """A process of the session is gone, or does not do as it is told."""


@dataclass(eq=False)
class Process:
    """A process of a session that we know: its handle, and the socket on which it listens."""

    control: socket.socket
    handle: int
    outer: int
    """Its pid as we see it."""
    pid: int
    """Its pid as the vm numbers it."""

    @property
    def is_alive(self) -> bool:
        return not readable([self.handle], 0)

    def tell(self, message: bytes, descriptors: list[int]) -> None:
        """Raises Lost."""
        try:
            socket.send_fds(self.control, [message], descriptors, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            raise Lost(str(error)) from error

    def signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self.handle, number)

    def limit(self, kind: int, soft: int, hard: int) -> None:
        """Set what the kernel counts for it; nothing where it is gone, or its code has a lower hard limit."""
        with contextlib.suppress(OSError):
            resource.prlimit(self.outer, kind, (soft, hard))

    def close(self) -> None:
        self.control.close()
        os.close(self.handle)


def fork_of(process: Process, message: bytes = b"H", look: Look = lambda: _BIRTH_S) -> Process:
    """Have a process fork; the child that says it is ready. Raises Lost."""
    return born(ask_to_fork(process, message), process, look)


def ask_to_fork(process: Process, message: bytes = b"H") -> socket.socket:
    """Our end of the socket on which the child will say that it is there. Raises Lost."""
    ours, theirs = pair()
    try:
        with theirs:
            process.tell(message, [theirs.fileno()])
    except Lost:
        ours.close()
        raise
    return ours


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours, theirs


def born(control: socket.socket, parent: Process, look: Look) -> Process:
    """The kernel says who is at the other end; it must be a child of `parent`, and alone in its process.

    Raises Lost; the socket is closed then.
    """
    try:
        if control.fileno() not in _awaited([control.fileno(), parent.handle], look):
            raise Lost("it does not fork")
        message, ancillary, _, _ = control.recvmsg(16, socket.CMSG_SPACE(12))
        if message != b"ready" or not ancillary:
            raise Lost("it could not fork")
        return _checked(control, struct.unpack("iii", ancillary[0][2][:12])[0], parent)
    except BaseException:
        control.close()
        raise


def _awaited(descriptors: list[int], look: Look) -> list[int]:
    deadline, ready = time.monotonic() + _BIRTH_S, readable(descriptors, _UNSEEN_S)
    while not ready and (left_s := deadline - time.monotonic()) > 0:
        ready = readable(descriptors, min(look(), left_s))
    return ready


def _checked(control: socket.socket, outer: int, parent: Process) -> Process:
    try:
        handle = os.pidfd_open(outer)
        told = dict(status(outer))
    except OSError as error:
        raise Lost("the child ended") from error
    if (int(told["PPid"][0]), told["Threads"]) != (parent.outer, ["1"]):
        os.close(handle)
        raise Lost("somebody else says that it is the child")
    return Process(control, handle, outer, int(told["NSpid"][-1]))


def first_to_go(head: Process) -> None:
    """When memory ends, a head and what it starts end before anything of ours."""
    with contextlib.suppress(OSError):  # ended meanwhile: that is found out elsewhere
        score_for_end(head.outer, FIRST_TO_GO)


@contextlib.contextmanager
def spared(head: Process) -> Iterator[None]:
    """What a head forks meanwhile is ended after all code when memory ends: it goes on with the score of its parent.

    A head that has made itself undumpable, or is gone, gets no such child.
    """
    with contextlib.ExitStack() as opened:
        score = None
        with contextlib.suppress(OSError):
            score = opened.enter_context(open_score(head.outer))
            score.write(b"0")
        try:
            yield
        finally:
            if score is not None:
                with contextlib.suppress(OSError):
                    score.write(FIRST_TO_GO)


def mark_of(proc: int, pid: int) -> int:
    """The limit of message queues of a process, which says whose session it is; 0: it is gone."""
    for line in read(proc, f"{pid}/limits").splitlines():
        if line.startswith(b"Max msgqueue size"):
            return int(line.split()[3])
    return 0


def readable(descriptors: list[int], timeout_s: float) -> list[int]:
    """Those on which something has come, waiting for that no longer than so."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(timeout_s * 1000)]
