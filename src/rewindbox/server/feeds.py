"""What an execution writes, told from any place on: while it runs from memory, afterwards from the record.

A place is how many bytes of stdout and of stderr have been told, as `12-0`: both memory and record know it, so
that whoever comes back goes on where they were, also after the end, and after a restart of the server. `end` is
the place after the last event. Of each stream every byte is told once and in order; how the two were mixed is
known only while it runs.
"""

import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import anyio

from rewindbox.backends.base import Stream
from rewindbox.errors import InvalidArgument, RewindboxError
from rewindbox.execution import Execution
from rewindbox.server.bodies import execution_body, told
from rewindbox.stdin import Stdin

CHUNK_BYTES = 64 << 10
"""Told in one event at most."""
END = "end"
_TOLD_ALREADY = ("code", "stdout", "stderr", "stdout_base64", "stderr_base64")
_PLACE = re.compile(r"(\d{1,18})-(\d{1,18})")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    kind: str
    """`begun`, `output`, `ended`, `error`; of a run also `run`, `decision`, `done`."""
    data: Mapping[str, Any]
    id: str | None
    """The place after it; None: one comes back to the place before it."""


@dataclass(frozen=True, slots=True)
class Place:
    """How many bytes of each stream have been told."""

    stdout: int = 0
    stderr: int = 0

    def __str__(self) -> str:
        return f"{self.stdout}-{self.stderr}"

    @classmethod
    def parse(cls, text: str) -> "Place":
        """The place that an event's id is. Raises InvalidArgument."""
        if match := _PLACE.fullmatch(text):
            return cls(int(match[1]), int(match[2]))
        raise no_place()


def no_place() -> InvalidArgument:
    """What a client came back with is the id of no event."""
    return InvalidArgument("the last event id is none of ours", remedy="give one that this stream has told")


class Feed:
    """One execution that goes on, or waits for its turn: what it has written, and how it ended."""

    def __init__(self, execution_id: str, vm_id: str | None, agent_id: str, stdin: Stdin | None = None) -> None:
        """`vm_id` None: it is one of the pool, and known when it begins. `stdin`: that which is written meanwhile."""
        self.execution_id, self.vm_id, self.agent_id, self.stdin = execution_id, vm_id, agent_id, stdin
        self.begun_at: datetime | None = None
        self.written: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self.execution: Execution | None = None
        self.error: RewindboxError | None = None
        self.scope = anyio.CancelScope()
        """Cancelling it ends the execution in order."""
        self._news = anyio.Event()

    @property
    def is_over(self) -> bool:
        """It has ended, or will never begin."""
        return self.execution is not None or self.error is not None

    @property
    def has_begun(self) -> bool:
        """Its beginning is written down."""
        return self.begun_at is not None

    def begin(self) -> None:
        """Its beginning is written down."""
        self.begun_at = datetime.now(UTC)
        self._tell()

    def write(self, stream: Stream, data: bytes) -> None:
        """It has written something."""
        self.written[stream] += data
        self._tell()

    def end(self, how: Execution | RewindboxError) -> None:
        """It is over, and that is written down."""
        if isinstance(how, Execution):
            self.execution = how
        else:
            self.error = how
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def until_begun(self) -> None:
        """Wait until it has begun, or is over without."""
        while not self.has_begun and not self.is_over:
            await self._news.wait()

    async def until_over(self) -> None:
        """Wait for its end."""
        while not self.is_over:
            await self._news.wait()

    async def events(self, place: Place, *, from_the_start: bool = False) -> AsyncGenerator[Event, None]:
        """What happened after a place and happens from now on; the end is the last."""
        await self.until_begun()
        if from_the_start and self.has_begun:
            yield begun(self.execution_id, self.vm_id)
        while True:
            news, is_over = self._news, self.is_over
            for event in output(self.written, place, final=is_over):
                place = Place.parse(str(event.id))
                yield event
            if is_over:
                yield ended(self.execution or self.error)
                return
            if news is self._news:
                await news.wait()


def begun(execution_id: str, vm_id: str | None) -> Event:
    """The first event of an execution."""
    return Event("begun", {"execution_id": execution_id, "vm_id": vm_id}, str(Place()))


def ended(how: Execution | RewindboxError | None) -> Event:
    """The last event of an execution."""
    if isinstance(how, Execution):
        body = execution_body(replace(how, stdout_bytes=b"", stderr_bytes=b""))  # which have been told
        return Event("ended", {name: value for name, value in body.items() if name not in _TOLD_ALREADY}, END)
    from rewindbox.server.problems import problem  # noqa: PLC0415  which needs the framework, and this file does not

    assert how is not None
    return Event("error", problem(how), END)


async def recorded(execution: Execution, place: Place, *, from_the_start: bool = False) -> AsyncGenerator[Event, None]:
    """What happened after a place in an execution that is over."""
    if from_the_start:
        yield begun(execution.id, execution.vm_id)
    written: dict[Stream, bytes] = {"stdout": execution.stdout_bytes, "stderr": execution.stderr_bytes}
    for event in output(written, place, final=True):
        yield event
    yield ended(execution)


def output(written: Mapping[Stream, bytes | bytearray], place: Place, *, final: bool) -> Iterator[Event]:
    """What was written after a place, in whole characters; `final`: a cut one at the end is told, too."""
    for stream in ("stdout", "stderr"):
        while True:
            at: int = getattr(place, stream)
            chunk = bytes(written[stream][at : at + CHUNK_BYTES])
            is_last = at + len(chunk) >= len(written[stream])
            chunk = chunk if is_last and final else _whole(chunk)
            if not chunk:
                break
            place = replace(place, **{stream: at + len(chunk)})
            text, exact = told(chunk)
            data = {"stream": stream, "text": text, "base64": exact, "at": at, "bytes": len(chunk)}
            yield Event("output", data, str(place))


def _whole(chunk: bytes) -> bytes:
    """Without the beginning of a character that has not come to its end; what is no UTF-8 stays."""
    for back in range(1, min(4, len(chunk) + 1)):
        byte = chunk[-back]
        if byte >= 0xC0:
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return chunk[:-back] if size > back else chunk
        if byte < 0x80:
            break
    return chunk
