"""Whether the server can work: tried by doing, and remembered for a short while."""

import anyio

from rewindbox.engine import AsyncRewindbox
from rewindbox.errors import RewindboxError

FRESH_S = 10.0
"""What was found is true for so long: anybody may ask, and finding out makes a machine."""


class Readiness:
    """Whether the store can be written to and a machine can be made."""

    def __init__(self, box: AsyncRewindbox) -> None:
        self._box, self._lock = box, anyio.Lock()
        self._until_s, self._error = 0.0, ""

    async def error(self) -> str | None:
        """Why not; None: they can."""
        async with self._lock:
            if anyio.current_time() >= self._until_s:
                self._error = await self._tried()
                self._until_s = anyio.current_time() + FRESH_S
        return self._error or None

    async def _tried(self) -> str:
        try:
            await self._box.check()
        except RewindboxError as error:
            return f"{error.code}: {error}"
        return ""
