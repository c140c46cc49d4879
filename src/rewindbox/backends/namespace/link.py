"""The holder's end of a supervisor's or launcher's socket: one request, one answer, descriptors both ways."""

import errno
import json
import os
import resource
import socket
import threading
from collections.abc import Sequence
from typing import Any

import anyio

MESSAGE_BYTES = 96 * 1024
_DESCRIPTORS_MAX = 8
_raising = threading.Lock()
"""Held while a limit of this process is not what it was."""


class LinkBroken(Exception):
    """The other side is gone."""


class Failed(Exception):
    """The other side says it could not; `answer` has its words."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(str(answer.get("text")))
        self.answer = answer
        self.kind = str(answer.get("error"))


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair; the first end is ours and does not block."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


async def ask(
    link: socket.socket, request: dict[str, Any], descriptors: Sequence[int] = ()
) -> tuple[dict[str, Any], list[int]]:
    """Send a request, wait for its answer and the descriptors that come with it.

    Raises:
        LinkBroken: the other side ended before it answered.
        Failed: it answered that it could not.
    """
    return await answer(begin(link, request, descriptors))


def begin(link: socket.socket, request: dict[str, Any], descriptors: Sequence[int] = ()) -> socket.socket:
    """Send a request; returns the socket on which its answer will come. The descriptors may be closed now."""
    ours, theirs = pair()
    with theirs:
        try:
            send(link, request, [theirs.fileno(), *descriptors])
        except LinkBroken:
            ours.close()
            raise
    return ours


async def answer(ours: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Wait for the answer to a request that was begun, or for the next one."""
    with ours:
        try:
            return receive(ours)  # it may be there
        except BlockingIOError:
            await anyio.wait_readable(ours)
            return receive(ours)


def send(link: socket.socket, request: dict[str, Any], descriptors: list[int]) -> None:
    body = json.dumps(request).encode()
    extra: list[int] = []
    if len(body) > MESSAGE_BYTES:
        extra.append(memory_file(body))
        body = b"@"
    try:
        _send(link, body, [*descriptors, *extra])
    except OSError as error:
        raise LinkBroken(str(error)) from error
    finally:
        for descriptor in extra:
            os.close(descriptor)


def _send(link: socket.socket, body: bytes, descriptors: list[int]) -> None:
    """Code of a vm may be our user, and have more descriptors under way than we may open: then we may open more."""
    try:
        socket.send_fds(link, [body], descriptors)
    except OSError as error:
        if error.errno != errno.ETOOMANYREFS:
            raise
        with _raising:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            try:
                socket.send_fds(link, [body], descriptors)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def receive(ours: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """As `ask`. Raises BlockingIOError: there is nothing yet."""
    try:
        message, descriptors, _, _ = socket.recv_fds(ours, MESSAGE_BYTES, _DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        raise
    except OSError as error:
        raise LinkBroken(str(error)) from error
    if not message:
        raise LinkBroken("it ended")
    if message == b"@":
        with open(descriptors.pop(), "rb") as file:
            message = file.read()
    content: dict[str, Any] = json.loads(message)
    if "error" in content:
        for descriptor in descriptors:
            os.close(descriptor)
        raise Failed(content)
    return content, descriptors


def memory_file(data: bytes) -> int:
    """A read-only descriptor of a file that exists only in memory and has this content."""
    writable = os.memfd_create("rewindbox", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(writable, view) :]
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writable)


def drain(descriptor: int, at_most: int) -> bytes:
    """What a non-blocking pipe holds now, up to a bound; never waits for its end."""
    parts, left = [], at_most
    try:
        while left > 0 and (data := os.read(descriptor, min(65536, left))):
            parts.append(data)
            left -= len(data)
    except BlockingIOError:
        pass
    return b"".join(parts)
