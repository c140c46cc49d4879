"""What goes on, whoever waits for it: a client that goes away does not end what it began.

Each execution and each run has a task of the server's own. When the server stops they are cancelled, which ends
and records them.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from rewindbox.engine import AnyVm, AsyncRewindbox
from rewindbox.errors import ExecutionFailed, RewindboxError, TooMany
from rewindbox.execution import Execution
from rewindbox.ids import new_id
from rewindbox.server import journal, problems
from rewindbox.server.bounds import Bounds
from rewindbox.server.feeds import Feed
from rewindbox.server.metrics import Metrics
from rewindbox.server.tokens import Token
from rewindbox.stdin import Stdin

T = TypeVar("T")


class Work:
    """What the server has going on."""

    def __init__(self, group: TaskGroup, box: AsyncRewindbox, bounds: Bounds, metrics: Metrics) -> None:
        self._group, self._box, self._bounds, self._metrics = group, box, bounds, metrics
        self._feeds: dict[str, Feed] = {}
        self._scopes: set[anyio.CancelScope] = set()
        self._busy: dict[str, int] = {}
        self._ended = anyio.Event()
        self.is_stopping = False

    def feed(self, execution_id: str) -> Feed | None:
        """That of an execution that goes on; None: it is over, and in the record."""
        return self._feeds.get(execution_id)

    def going_on(self) -> dict[str, Feed]:
        """Those of all executions that go on, by id."""
        return {name: feed for name, feed in self._feeds.items() if feed.has_begun}

    def execute(
        self,
        where: AbstractAsyncContextManager[AnyVm],
        token: Token,
        language: str,
        code: str,
        *,
        vm_id: str | None = None,
        execution_id: str | None = None,
        **options: Any,
    ) -> Feed:
        """Begin an execution, and return at once: it can be followed and cancelled by its id. Raises TooMany.

        `where` gives the vm, and has it back before anybody is told of the end; `vm_id`: that vm's, where it is known.
        """
        given = options.get("stdin")
        feed = Feed(
            execution_id or new_id("ex"),
            vm_id,
            options.get("agent_id") or self._box.settings.agent_id,
            given if isinstance(given, Stdin) else None,
        )
        self.go(token, feed.scope, partial(self._execute, feed, where, language, code, options))
        self._feeds[feed.execution_id] = feed
        return feed

    def begin(self, feed: Feed) -> None:
        """The beginning of an execution is written down."""
        self._feeds[feed.execution_id] = feed
        feed.begin()
        journal.note("begun", execution_id=feed.execution_id, vm_id=feed.vm_id)

    def end(self, feed: Feed, how: Execution | RewindboxError) -> None:
        """An execution is over, and in the record: from now on it is read from there."""
        self._feeds.pop(feed.execution_id, None)
        feed.end(how)
        self._count(feed, how)

    async def _execute(
        self,
        feed: Feed,
        where: AbstractAsyncContextManager[AnyVm],
        language: str,
        code: str,
        options: dict[str, Any],
    ) -> None:
        told: dict[str, Any] = {
            "on_begun": lambda _: self.begin(feed),
            "on_output": feed.write,
            "execution_id": feed.execution_id,
        }
        how: Execution | RewindboxError | None = None
        try:
            async with where as vm:
                feed.vm_id = vm.id
                how = await vm.execute(language, code, **options, **told)
        except Exception as error:
            if how is not None:
                journal.unexpected(error)  # it has run; giving the vm back went wrong
            how = how or problems.ours(error)
        finally:
            with anyio.CancelScope(shield=True):
                self.end(feed, how or await self.outcome_of(feed))

    async def outcome_of(self, feed: Feed) -> Execution | RewindboxError:
        """How an execution ended that was cancelled: that is in the record, unless it never began."""
        if not feed.has_begun:
            return ExecutionFailed("it was cancelled before it began", remedy="ask for it again")
        try:
            return await self._box.execution(feed.execution_id)
        except RewindboxError as error:  # history is off, or cannot be read
            return error

    async def result(self, token: Token, scope: anyio.CancelScope, action: Callable[[], Awaitable[T]]) -> T:
        """What an action gives, which goes on when whoever asked is gone, and ends in order when the server does.

        Raises what it raises; TooMany; ExecutionFailed: its scope was cancelled.
        """
        found: list[T] = []
        failed: list[Exception] = []
        over = anyio.Event()

        async def act() -> None:
            try:
                found.append(await action())
            except Exception as error:
                failed.append(error)
            finally:
                over.set()

        self.go(token, scope, act)
        await over.wait()
        if failed:
            raise failed[0]
        if not found:
            raise ExecutionFailed("the server stopped it", remedy="ask for it again")
        return found[0]

    def go(self, token: Token, scope: anyio.CancelScope, action: Callable[[], Awaitable[None]]) -> None:
        """Carry out something in a task of its own. Raises TooMany: as much of this token goes on as may."""
        busy = self._busy.get(token.name, 0)
        if self.is_stopping or busy >= self._bounds.executions:
            text = "the server is stopping" if self.is_stopping else f"{busy} executions of this token go on"
            raise TooMany(text, remedy="try again later")
        self._busy[token.name] = busy + 1
        self._metrics.going_on.add()
        self._scopes.add(scope)
        self._group.start_soon(self._carried_out, token, scope, action)

    async def _carried_out(self, token: Token, scope: anyio.CancelScope, action: Callable[[], Awaitable[None]]) -> None:
        try:
            with scope:
                await action()
        except Exception as error:
            journal.unexpected(error)  # one piece of work must not take the others with it
        finally:
            self._scopes.discard(scope)
            self._busy[token.name] -= 1
            self._metrics.going_on.add(-1)
            self._ended.set()
            self._ended = anyio.Event()

    def _count(self, feed: Feed, how: Execution | RewindboxError) -> None:
        if isinstance(how, Execution):
            outcome = "succeeded" if how.success else "failed"
            self._metrics.executions.add(language=how.language, outcome=outcome, ended=how.ended)
            self._metrics.execution_seconds.add(how.wall_s, language=how.language)
            if how.rolled_back_to:
                self._metrics.rollbacks.add(reason="auto")
            facts = {"language": how.language, "ended": how.ended, "exit_code": how.exit_code, "ms": how.duration_ms}
            journal.note("ended", execution_id=how.id, vm_id=how.vm_id, agent_id=how.agent_id, **facts)
        else:
            self._metrics.errors.add(code=how.code)
            journal.note("no_result", execution_id=feed.execution_id, vm_id=feed.vm_id, code=how.code)

    def stop_soon(self) -> None:
        """End all of it in order; nothing new begins."""
        self.is_stopping = True
        for scope in list(self._scopes):
            scope.cancel()

    async def stop(self) -> None:
        """As `stop_soon`, and wait until how it ended is written down."""
        self.stop_soon()
        while self._scopes:
            await self._ended.wait()
