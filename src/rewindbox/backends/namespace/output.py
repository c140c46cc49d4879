"""What a job writes: pipes, read as bytes come, each bounded, never waited for beyond the job's end."""

import json
import os
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
        lines = bytes(self.kept.get(None, b"")).splitlines()[:_DISPLAYS_MAX]
        return [bundle for line in lines if (bundle := _bundle(line)) is not None]


def _bundle(line: bytes) -> Display | None:
    try:
        told = json.loads(line)
        kind, data, metadata = told["kind"], told["data"], told["metadata"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if kind not in ("result", "display") or not isinstance(data, dict) or not isinstance(metadata, dict):
        return None
    if not all(isinstance(content, str) or name.endswith("json") for name, content in data.items()):
        return None
    return {"kind": kind, "data": data, "metadata": metadata}
