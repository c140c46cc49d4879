"""What goes on, or is lent, while a block does, and no longer. What a task raises comes as it was raised."""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


@asynccontextmanager
async def meanwhile(*tasks: Callable[[], Coroutine[Any, Any, object]]) -> AsyncIterator[None]:
    """Carry out `tasks` while the block goes on; they are cancelled at its end.

    What the block or a task raises ends all of them and is raised by itself, not in a group: of several, one.
    """
    try:
        async with anyio.create_task_group() as group:
            for task in tasks:
                group.start_soon(task)
            yield
            group.cancel_scope.cancel()
    except BaseExceptionGroup as raised:
        error: BaseException = raised
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from error.__cause__


@asynccontextmanager
async def lent(lease: Callable[[], Awaitable[T]], give_back: Callable[[T], Awaitable[object]]) -> AsyncIterator[T]:
    """What `lease` gives; it is given back at the end of the block, also of one that is cancelled."""
    leased = await lease()
    try:
        yield leased
    finally:
        with anyio.CancelScope(shield=True):
            await give_back(leased)
