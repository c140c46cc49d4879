"""JSON that may be long: made in a thread, a piece at a time, so that others are answered meanwhile, and each part when
the one before is on its way, so that never all of it is in memory: it can be seven times as long as what it tells."""

import json
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from itertools import chain
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rewindbox.opened import beside

_PIECE_CHARS = 64 << 10
"""Made at once; nobody else has a turn meanwhile: 2 ms at most."""
_PART_CHARS = 512 << 10
"""Sent at once."""
_DEPTH = 4
"""Of a page, its executions and their texts. What is nested deeper is somebody else's, and made at once."""


async def answer(
    make: Callable[[], Any], size_bytes: int, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """What `make` gives, as JSON. `size_bytes`: about as long as that is; where it is short, no thread is worth it."""
    parts = told(make, size_bytes)
    first, second = await anext(parts), await anext(parts, None)
    if second is None:
        return Response(first, status, headers, "application/json")
    return _Parted((first, second), parts, status, headers or {})


async def told(make: Callable[[], Any], size_bytes: int, end: str = "") -> AsyncGenerator[bytes, None]:
    """The same in parts, each made when it is asked for; `end` follows."""
    parts = await beside(lambda: encoded(make(), end), size_bytes)
    while (part := await beside(partial(next, parts, None), size_bytes)) is not None:
        yield part


class _Parted(Response):
    """A response in parts, whose length nobody knows before: who is sent a long one is waited for."""

    media_type = "application/json"

    def __init__(
        self, first: Sequence[bytes], rest: AsyncGenerator[bytes, None], status: int, headers: Mapping[str, str]
    ) -> None:
        super().__init__(None, status, headers)
        del self.headers["content-length"]
        self._first, self._rest = first, rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for part in self._first:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        async with aclosing(self._rest) as rest:
            async for part in rest:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def encoded(value: Any, end: str = "") -> Iterator[bytes]:
    """A value as JSON, in parts, one at least; `end` follows it. Raises ValueError: it is none.

    An iterator in it stands for the text whose pieces it gives.
    """
    pending, size_chars = [], 0
    for piece in chain(_pieces(value, _DEPTH), (end,)):
        pending.append(piece)
        size_chars += len(piece)
        if size_chars > _PART_CHARS:
            yield "".join(pending).encode()
            pending, size_chars = [], 0
    yield "".join(pending).encode()


def _pieces(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str) and len(value) > _PIECE_CHARS:
        yield '"'
        for at in range(0, len(value), _PIECE_CHARS):
            yield json.dumps(value[at : at + _PIECE_CHARS])[1:-1]
        yield '"'
    elif isinstance(value, Iterator):
        yield '"'
        for piece in value:
            yield json.dumps(piece)[1:-1]
        yield '"'
    elif depth and isinstance(value, Mapping):
        for number, (name, entry) in enumerate(value.items()):
            yield f"{',' if number else '{'}{json.dumps(name)}:"
            yield from _pieces(entry, depth - 1)
        yield "}" if value else "{}"
    elif depth and isinstance(value, Sequence) and not isinstance(value, str):
        for number, entry in enumerate(value):
            yield "," if number else "["
            yield from _pieces(entry, depth - 1)
        yield "]" if value else "[]"
    else:
        yield json.dumps(value, allow_nan=False)
