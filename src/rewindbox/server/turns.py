"""Turns at what may be long, the record and folders: so many of one token at once read it, the others wait.

Each has much in memory for as long as its client takes the answer; another token's turns are its own.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from rewindbox.errors import TooMany
from rewindbox.server.bounds import Bounds
from rewindbox.server.tokens import Token


class Turns:
    """Those of one server."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._of: dict[str, anyio.Semaphore] = {}

    @asynccontextmanager
    async def had(self, token: Token, wait_s: float | None = None) -> AsyncIterator[None]:
        """Have one meanwhile. `wait_s` None: however long it takes until there is one. Raises TooMany."""
        turns = self._of.setdefault(token.name, anyio.Semaphore(self._bounds.readings))
        try:
            with anyio.fail_after(wait_s):
                await turns.acquire()
        except TimeoutError as error:
            text = f"{self._bounds.readings} requests of this token read what may be long"
            raise TooMany(text, remedy="take their answers first") from error
        try:
            yield
        finally:
            turns.release()
