"""Requests and answers of a supervisor: one JSON object each, and the descriptors it speaks of."""

import contextlib
import json
import os
import socket
from collections.abc import Callable
from typing import Any

from rewindbox.backends.namespace.defences import Unmet
from rewindbox.backends.namespace.files import BadPath
from rewindbox.backends.namespace.forks import Lost
from rewindbox.backends.namespace.loading import Changed
from rewindbox.backends.namespace.machine import Damaged, StepFailed

MESSAGE_BYTES = 96 * 1024
DESCRIPTORS_MAX = 8
_WORD_BYTES = 32
_WORD_S = 30.0
"""A holder waits 5 s for its database at most."""

_KINDS: dict[type[Exception], str] = {
    BadPath: "bad",
    Lost: "lost",
    Changed: "changed",
    Damaged: "damaged",
    Unmet: "unmet",
}

Request = dict[str, Any]
Reply = dict[str, Any]


def told_to_go(answer: socket.socket) -> float | None:
    """Wait for the holder, who writes down that the job begins; not for ever, and not for one that is gone.

    When (of the monotonic clock, in seconds) it was said; None: it must not go.
    """
    answer.settimeout(_WORD_S)
    try:
        return _word(answer.recv(_WORD_BYTES))
    except OSError:
        return None
    finally:
        answer.settimeout(None)


def told_meanwhile(answer: socket.socket) -> float | None:
    """The same, at once. Raises BlockingIOError: nothing was said yet."""
    return _word(answer.recv(_WORD_BYTES, socket.MSG_DONTWAIT))


def _word(said: bytes) -> float | None:
    word, _, at_ns = said.partition(b" ")
    return int(at_ns) / 1e9 if word == b"go" else None


def body(message: bytes, descriptors: list[int]) -> bytes:
    """A request too long for one message comes in a memory file, the last descriptor."""
    if message != b"@":
        return message
    with open(descriptors.pop(), "rb") as file:
        return file.read()


def refuse(error: Exception) -> Reply:
    raise error


def answer_with(link: socket.socket, result: Callable[[], Reply]) -> None:
    """Send what `result` returns, or why it failed, and no more."""
    with link:
        say(link, result)


def say(link: socket.socket, result: Callable[[], Reply]) -> bool:
    """Send what `result` returns, or why it failed (False); a descriptor in it goes along and is closed here."""
    descriptors: list[int] = []
    try:
        reply = result()
        if "descriptor" in reply:
            descriptors.append(reply.pop("descriptor"))
    except tuple(_KINDS) as error:
        reply = {"error": _KINDS[type(error)], "text": str(error)}
    except StepFailed as error:
        reply = {"error": "step", "text": str(error), "step": error.step, "errno": error.cause.errno}
    except OSError as error:
        reply = {"error": "os", "text": str(error), "errno": error.errno}
    except (ValueError, RecursionError, MemoryError) as error:  # a tree that no bound foresaw: the vm lives on
        reply = {"error": "internal", "text": repr(error)}
    try:
        body = json.dumps(reply).encode()
        if len(body) > MESSAGE_BYTES:
            descriptors.append(memory_file(body))
            body = b"@"
        with contextlib.suppress(OSError):  # who asked is gone
            if descriptors:
                socket.send_fds(link, [body], descriptors)
            else:
                link.send(body)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return "error" not in reply


def memory_file(data: bytes) -> int:
    """A descriptor of a file that exists only in memory and has this content, to be read from its start."""
    descriptor = os.memfd_create("rewindbox", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
