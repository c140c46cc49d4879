"""What a job writes: two pipes, read as bytes come, each bounded, never waited for beyond the job's end."""

import os
import select
import socket
from collections.abc import Callable
from types import TracebackType

import anyio

from rewindbox.backends.base import OnOutput, Stream
from rewindbox.backends.namespace.link import drain

_STREAMS: tuple[Stream, Stream] = ("stdout", "stderr")
_ROUND_BYTES = 1 << 20


class Output:
    """Two pipes and what came through them. Use it in a `with` block; its end takes what is left in them."""

    def __init__(self, limit_bytes: int, on_output: OnOutput | None, on_flood: Callable[[], None]) -> None:
        """`on_flood` is called once, when one stream brings more than `limit_bytes`; the rest is dropped."""
        self.limit_bytes, self.on_output, self._on_flood = limit_bytes, on_output, on_flood
        self.kept: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self.truncated = False
        self.writers: list[int] = []
        self._readers: dict[int, Stream] = {}

    def __enter__(self) -> "Output":
        for stream in _STREAMS:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reader, False)
            self._readers[reader] = stream
            self.writers.append(writer)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close_writers()
        for reader, stream in self._readers.items():
            self._take(stream, drain(reader, self.limit_bytes + 1))
            os.close(reader)

    def close_writers(self) -> None:
        """The job has them now."""
        while self.writers:
            os.close(self.writers.pop())

    async def read_until(self, answering: socket.socket) -> None:
        """Take what comes until the socket has its answer: the job is over then, whoever holds the pipes.

        One wait for all three, on the descriptor of an epoll: a task for each costs more than a small job.
        """
        with select.epoll() as poll:
            for descriptor in (answering.fileno(), *self._readers):
                poll.register(descriptor, select.EPOLLIN)
            while True:
                await anyio.wait_readable(poll.fileno())
                for descriptor, _ in poll.poll(0):
                    if descriptor == answering.fileno():
                        return
                    data = drain(descriptor, _ROUND_BYTES)
                    if not data:
                        poll.unregister(descriptor)
                    self._take(self._readers[descriptor], data)

    def _take(self, stream: Stream, data: bytes) -> None:
        kept = self.kept[stream]
        fitting = data[: self.limit_bytes - len(kept)]
        kept += fitting
        if fitting and self.on_output is not None:
            self.on_output(stream, fitting)
        if len(fitting) < len(data) and not self.truncated:
            self.truncated = True
            self._on_flood()
