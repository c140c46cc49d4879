"""One execution at a server, from the request to its end, over as many connections as that takes.

The client makes its id: a request that may have been carried out is made again under the same id, and the server
runs that once. A stream that was cut goes on after the last event that came. So whatever happens to connections, it
runs once or not at all, and every byte of its output comes once and in order.
"""

from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

import anyio

from rewindbox import shapes
from rewindbox.backends.base import OnOutput
from rewindbox.errors import ApiError, ConnectionFailed, InputFull, RewindboxError, TooMany, UnknownExecution
from rewindbox.execution import Execution
from rewindbox.meanwhile import meanwhile
from rewindbox.stdin import Stdin
from rewindbox.transport import WAITS_S, Server, Told, readable
from rewindbox.wire import error_of_code

_END_S = 20.0
"""So long for the end of what was cancelled."""
_PIECE_BYTES = 256 << 10
"""Of standard input, in one request."""
_FULL_S = 0.1
"""So long after a piece that did not fit, or did not come there, it is sent again."""
_ON_ITS_WAY_S = (0.05, 0.2, 0.8)
"""A request that was cancelled while it was sent may come to the server a little later than its cancellation."""


class Following:
    """An execution that is asked for, and followed."""

    def __init__(
        self,
        server: Server,
        path: str,
        asked: Mapping[str, Any],
        on_output: OnOutput | None,
        on_begun: Callable[[str], None] | None,
        *,
        is_recorded: bool,
        stdin: Stdin | None = None,
    ) -> None:
        """`asked`: the body of the request to `path`, with the id that the execution is to have. `is_recorded`: the
        server knows the id as long as there is its store; otherwise it is asked once, and whether it ran is not known.
        """
        self._server, self._path, self._asked = server, path, asked
        self._on_output, self._on_begun = on_output, on_begun
        self._at = f"/v1/executions/{asked['id']}"
        self._written = {"stdout": bytearray(), "stderr": bytearray()}
        self._place: str | None = None
        self._is_over = self._is_given_up = self._is_heard = False
        self._is_recorded = is_recorded
        self._stdin, self._has_begun = stdin, anyio.Event()

    async def to_the_end(self) -> Execution:
        """How it ended. Whatever ends the wait ends the execution, too, as long as there is a way to the server."""
        try:
            how = await (self._end() if self._stdin is None else self._end_fed(self._stdin))
        except BaseException as error:
            is_refused = isinstance(error, RewindboxError) and not self._is_heard
            if not self._is_over and not is_refused:
                with anyio.CancelScope(shield=True), anyio.move_on_after(_END_S), suppress(RewindboxError):
                    await self._cancel()
            raise
        if isinstance(how, RewindboxError):
            raise how
        return how

    async def _end_fed(self, stdin: Stdin) -> Execution | RewindboxError:
        """As `_end`; what is written meanwhile goes there."""
        bell = stdin.open()
        try:
            async with meanwhile(partial(self._feed, stdin, bell)):
                return await self._end()
        finally:
            stdin.end()

    async def _feed(self, stdin: Stdin, bell: int) -> None:
        """Send what is written, piece by piece; one that does not come there, or not fit, is sent again."""
        await self._has_begun.wait()
        sent = 0
        while True:
            data, is_over = stdin.waiting(_PIECE_BYTES), stdin.is_over
            if not data and not is_over:
                await anyio.wait_readable(bell)
                continue
            try:
                await self._server.send(f"{self._at}/stdin", data, at=sent, close=is_over)
            except (InputFull, TooMany, ConnectionFailed):  # to the end of the execution, which ends this, too
                await anyio.sleep(_FULL_S)
                continue
            except RewindboxError as error:  # whoever follows it is told how it goes on
                stdin.end(error.detail)
                return
            sent += len(data)
            stdin.taken(len(data))
            if is_over:
                return

    async def _end(self) -> Execution | RewindboxError:
        waits_s = iter(WAITS_S)
        while True:
            try:
                async with aclosing(self._events()) as events:
                    async for event in events:
                        self._is_heard, waits_s = True, iter(WAITS_S)
                        self._place = event.id or self._place
                        if (how := self._take(event)) is not None:
                            self._is_over = True
                            return how
                lost = ConnectionFailed(f"{self._server.url} ended the stream of {self._asked['id']}")
            except ConnectionFailed as error:
                lost = error
            wait_s = next(waits_s, None)
            if wait_s is None or not (self._is_recorded or self._is_heard):
                self._is_over = True  # for us
                raise lost
            await anyio.sleep(wait_s)

    def _events(self) -> Any:
        if self._place is None and not self._is_given_up:
            return self._server.events("POST", self._path, body=self._asked)
        return self._server.events("GET", f"{self._at}/events", after=self._place)

    def _take(self, event: Told) -> Execution | RewindboxError | None:
        """What an event is to us; how it ended, if it says so."""
        self._has_begun.set()
        if event.kind == "begun" and self._on_begun is not None:
            begun, self._on_begun = self._on_begun, None
            begun(self._asked["id"])
        elif event.kind == "output":
            self._write(event.data)
        elif event.kind == "error":
            return readable(
                lambda told: error_of_code(told["code"], told["detail"], told["remedy"]), event.data, self._at
            )
        elif event.kind == "ended":
            whole = {name: bytes(data) for name, data in self._written.items()}
            told = {**event.data, "code": self._asked["code"]}
            return readable(lambda told: shapes.execution(told, whole), told, self._at)
        return None

    def _write(self, told: Any) -> None:
        data = readable(shapes.output, told, self._at)
        written = self._written.get(told.get("stream"))
        if written is None or told.get("at") != len(written):
            raise ApiError(f"{self._at} has told output that does not go on where it was", remedy="see its history")
        written += data
        if self._on_output is not None:
            self._on_output(told["stream"], data)

    async def _cancel(self) -> None:
        """End it there, and wait until that is recorded."""
        self._is_given_up = True  # it is not asked for again
        for wait_s in _ON_ITS_WAY_S:
            try:
                await self._server.post(f"{self._at}/cancel")
                break
            except UnknownExecution:
                if self._place is not None:
                    break  # it has ended by itself
                await anyio.sleep(wait_s)
        else:
            return  # it never came there
        self._on_output = self._on_begun = None
        await self._end()
