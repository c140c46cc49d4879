"""What goes on while a block does."""

import anyio
import pytest

from rewindbox.meanwhile import meanwhile

pytestmark = pytest.mark.anyio


async def test_it_ends_with_the_block():
    """Tasks go on while the block does, are cancelled at its end, and its value is its own."""
    seen = []

    async def watch(name):
        try:
            seen.append(name)
            await anyio.sleep_forever()
        finally:
            seen.append(f"no {name}")

    async def answer():
        async with meanwhile(lambda: watch("a"), lambda: watch("b")):
            await anyio.wait_all_tasks_blocked()
            assert sorted(seen) == ["a", "b"]
            return 42

    assert await answer() == 42
    assert sorted(seen[2:]) == ["no a", "no b"]


async def test_what_is_raised_comes_as_it_was():
    """By the block or by a task, also where a group was raised below: one exception, with its own cause."""

    async def fail():
        try:
            raise OSError("cause")
        except OSError as cause:
            raise KeyError("task") from cause

    async def below():
        async with anyio.create_task_group() as group:
            group.start_soon(fail)

    for task in (fail, below):
        with pytest.raises(KeyError, match="task") as caught:
            async with meanwhile(task):
                await anyio.sleep_forever()
        assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(LookupError, match="block"):
        async with meanwhile(anyio.sleep_forever, anyio.sleep_forever):
            raise LookupError("block")


async def test_a_cancellation_is_none_of_its_errors():
    """Cancelled from outside it is cancelled, with all its tasks."""
    with anyio.CancelScope() as scope:
        async with meanwhile(anyio.sleep_forever):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
