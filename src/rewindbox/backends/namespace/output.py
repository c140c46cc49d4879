"""What a job writes: pipes, read as bytes come, each bounded, never waited for beyond the job's end."""

import json
import math
import os
import re
import select
import socket
from collections.abc import Callable
from types import TracebackType

import anyio

from rewindbox.backends.base import OnOutput, Stream
from rewindbox.backends.namespace.input import Input
from rewindbox.backends.namespace.link import drain
from rewindbox.execution import Display

_STREAMS: tuple[Stream, ...] = ("stdout", "stderr")
_ROUND_BYTES = 1 << 20
DISPLAYS_BYTES = 32 << 20
_DISPLAYS_MAX = 1000
_VALUES_MAX = 500_000
"""Of all bundles of an execution together: 36 MiB here."""
_DEPTH_MAX = 64
"""Who sends or shows a bundle goes into it by calls of itself, of which python has a thousand."""
_STRUCTURE = (b",", b"[", b"{")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


class Output:
    """Pipes and what came through them. Use it in a `with` block; its end takes what is left in them."""

    def __init__(
        self, limit_bytes: int, on_output: OnOutput | None, on_flood: Callable[[], None], *, displays: bool = False
    ) -> None:
        """`on_flood` is called once, when one stream brings more than `limit_bytes`; the rest is dropped.

        `displays`: there is a third one, of MIME bundles, a line of JSON each.
        """
        self.limit_bytes, self.on_output, self._on_flood = limit_bytes, on_output, on_flood
        self.streams: tuple[Stream | None, ...] = (*_STREAMS, None) if displays else _STREAMS
        self.kept: dict[Stream | None, bytearray] = {stream: bytearray() for stream in self.streams}
        self.has_displays = displays
        self.truncated = False
        self.writers: list[int] = []
        self._readers: dict[int, Stream | None] = {}

    def __enter__(self) -> "Output":
        for stream in self.streams:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            if os.getuid() == 0:  # who runs inside is somebody else, and opens /dev/stdout like anybody
                os.fchmod(writer, 0o666)
            os.set_blocking(reader, False)
            self._readers[reader] = stream
            self.writers.append(writer)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        while self.writers:
            os.close(self.writers.pop())
        for reader, stream in self._readers.items():
            self._take(stream, drain(reader, (DISPLAYS_BYTES if stream is None else self.limit_bytes) + 1))
            os.close(reader)

    async def read_until(self, answering: socket.socket, given: Input) -> None:
        """Take what comes until the socket has its answer: the job is over then, whoever holds the pipes. Meanwhile
        it gets its input.

        One wait for all of them, on the descriptor of an epoll: a task for each costs more than a small job. We
        still have the other ends of the pipes, so that none of them ends before: that would only wake us.
        """
        with select.epoll() as poll:
            for descriptor in (answering.fileno(), *self._readers):
                poll.register(descriptor, select.EPOLLIN)
            given.join(poll)
            while True:
                await anyio.wait_readable(poll.fileno())
                for descriptor, events in poll.poll(0):
                    if descriptor == answering.fileno():
                        return
                    if descriptor in self._readers:
                        self._take(self._readers[descriptor], drain(descriptor, _ROUND_BYTES))
                    else:
                        given.pass_on(descriptor, events)

    def _take(self, stream: Stream | None, data: bytes) -> None:
        kept, limit = self.kept[stream], DISPLAYS_BYTES if stream is None else self.limit_bytes
        fitting = data[: limit - len(kept)]
        kept += fitting
        if fitting and stream is not None and self.on_output is not None:
            self.on_output(stream, fitting)
        if len(fitting) < len(data) and not self.truncated:
            self.truncated = True
            self._on_flood()

    def displays(self) -> list[Display]:
        """The bundles that came, those that are none left out: what the code says of itself, and no more."""
        found: list[Display] = []
        room = _VALUES_MAX
        for line in bytes(self.kept.get(None, b"")).split(b"\n", _DISPLAYS_MAX)[:_DISPLAYS_MAX]:
            room -= (count := _values(line))
            if count and room >= 0 and (bundle := _bundle(line)) is not None:
                found.append(bundle)
        return found


def _values(line: bytes) -> int:
    """At least as many values as reading it makes, each of which can take 24 times as much as it has letters."""
    strings = line.count(b'"') - line.count(b'\\"')
    if strings > _VALUES_MAX:
        return strings
    if _marks(line) > _VALUES_MAX // _DISPLAYS_MAX:  # most of them are in strings, where they mean nothing
        line = _STRING.sub(b"", line)
    return _marks(line)


def _marks(line: bytes) -> int:
    return sum(map(line.count, _STRUCTURE))


def _finite(text: str) -> float:
    """Raises ValueError: JSON has no such number, and what is remembered is JSON."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _is_shallow(value: object, room: int = _DEPTH_MAX) -> bool:
    if not isinstance(value, (dict, list)):
        return True
    return room > 0 and all(
        _is_shallow(content, room - 1) for content in (value.values() if isinstance(value, dict) else value)
    )


def _bundle(line: bytes) -> Display | None:
    try:
        told = json.loads(line, parse_constant=_finite, parse_float=_finite)
        kind, data, metadata = told["kind"], told["data"], told["metadata"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if kind not in ("result", "display") or not isinstance(data, dict) or not isinstance(metadata, dict):
        return None
    if not all(isinstance(content, str) or name.endswith("json") for name, content in data.items()):
        return None
    if not _is_shallow(told):
        return None
    return {"kind": kind, "data": data, "metadata": metadata}
