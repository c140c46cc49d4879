"""A request's JSON, counted before anything is made of it: of each value that does not fit an error is made, 10 us and
1 KiB, though only the first is told."""

import json
import re
from collections.abc import Callable, Coroutine
from itertools import islice
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from rewindbox.errors import TooLarge

PARTS = 10_000
"""Texts, commas and opening brackets of one request or message. 3000 variables of an environment have fewer."""
_PART = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[,\[{]', re.DOTALL)


def check(text: str) -> None:
    """Raises TooLarge: JSON of more parts. How long it takes depends on `PARTS` and, at memory's speed, the length."""
    if next(islice(_PART.finditer(text), PARTS, None), None) is not None:
        raise TooLarge(f"JSON of more than {PARTS} texts, values and names", remedy="send less")


def loads(body: str | bytes) -> Any:
    """As `json.loads`. Raises as that, and as `check`."""
    text = body if isinstance(body, str) else body.decode(json.detect_encoding(body), "surrogatepass")
    check(text)
    return json.loads(text)


class _Counted(Request):
    async def json(self) -> Any:
        return loads(await self.body())


class Route(APIRoute):
    """A route whose body is counted; every one that has JSON is one."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, given a request that counts."""
        handler = super().get_route_handler()

        async def counted(request: Request) -> Response:
            return await handler(_Counted(request.scope, request.receive))

        return counted
