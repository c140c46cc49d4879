"""JSON that may be long: made in a thread, a piece at a time, so that others are answered meanwhile."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    parts = await beside(lambda: encoded(make()), size_bytes)
    if len(parts) == 1:
        return Response(parts[0], status, headers, "application/json")
    return _Parted(parts, status, {**(headers or {}), "content-length": str(sum(map(len, parts)))})


class _Parted(Response):
    """A response in parts: who is sent a long one is waited for, and all of it is nowhere copied at once."""

    media_type = "application/json"

    def __init__(self, parts: Sequence[bytes], status: int, headers: Mapping[str, str]) -> None:
        super().__init__(None, status, headers)
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for part in self._parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def encoded(value: Any, end: str = "") -> list[bytes]:
    """A value as JSON, in parts; `end` follows it. Raises ValueError: it is none."""
    parts, pending, size_chars = [], [], 0
    for piece in chain(_pieces(value, _DEPTH), (end,)):
        pending.append(piece)
        size_chars += len(piece)
        if size_chars > _PART_CHARS:
            parts.append("".join(pending).encode())
            pending, size_chars = [], 0
    return [*parts, "".join(pending).encode()]


def _pieces(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str) and len(value) > _PIECE_CHARS:
        yield '"'
        for at in range(0, len(value), _PIECE_CHARS):
            yield json.dumps(value[at : at + _PIECE_CHARS])[1:-1]
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
