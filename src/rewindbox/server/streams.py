"""Events as server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html

Nothing is queued for anybody: each stream reads where it is, so that a slow one costs what a fast one does. One
that takes nothing is let go (`listener.py`); it can come back for what it missed.
"""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rewindbox.server.bounds import Bounds
from rewindbox.server.feeds import Event

MEDIA_TYPE = "text/event-stream"


def encoded(event: Event) -> bytes:
    """An event on the wire; JSON has no line breaks, so that its data is one line."""
    name = f"id: {event.id}\n" if event.id is not None else ""
    return f"{name}event: {event.kind}\ndata: {json.dumps(event.data)}\n\n".encode()


class EventStream(Response):
    """A response that tells events until the last one, or until the client is gone."""

    media_type = MEDIA_TYPE

    def __init__(
        self, events: AsyncGenerator[Event, None], bounds: Bounds, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(None, 200, {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._events, self._bounds = events, bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell them."""
        sending, receiving = anyio.create_memory_object_stream[Event](0)
        async with anyio.create_task_group() as group, receiving:
            group.start_soon(until_gone, receive, group.cancel_scope)
            group.start_soon(_pumped, self._events, sending)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while (data := await self._next(receiving)) is not None:
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            group.cancel_scope.cancel()

    async def _next(self, receiving: MemoryObjectReceiveStream[Event]) -> bytes | None:
        """The next event, or a sign of life; None: there are no more."""
        with anyio.move_on_after(self._bounds.alive_s):
            try:
                return encoded(await receiving.receive())
            except anyio.EndOfStream:
                return None
        return b": alive\n\n"


async def until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    """Wait until the client of a request is gone, and cancel."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _pumped(events: AsyncGenerator[Event, None], sending: MemoryObjectSendStream[Event]) -> None:
    async with sending, aclosing(events):
        async for event in events:
            await sending.send(event)
