"""The synchronous door: the engine's names without `await`, through one portal into one event loop.

Nothing is decided here. A call runs the engine in the thread that makes it, or, where several threads call at once,
in one of theirs; Ctrl-C (or any exception) in the caller meanwhile cancels it, waits for it to end in order, and
goes on.
"""

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

from rewindbox.backends.base import FileInfo, OnOutput
from rewindbox.engine import AnyVm, AsyncRewindbox, OnDecision
from rewindbox.errors import SessionNotFound
from rewindbox.execution import Ended, Execution
from rewindbox.history import Head, HistoryPage
from rewindbox.limits import Limits
from rewindbox.points import Point, Rollback, Snapshot
from rewindbox.policy import Decision, OnFailure, Support
from rewindbox.portal import Portal, soon
from rewindbox.preview import Preview
from rewindbox.registry import SessionsEnded, VmRecord
from rewindbox.session import AsyncSession
from rewindbox.stdin import Stdin

if TYPE_CHECKING:
    from rewindbox.lending import Pool
    from rewindbox.models import ParseExecuteRequest, ParseExecuteResponse, VmExecutionConfig

T = TypeVar("T")


class Rewindbox:
    """A store of vms and their history, and the means to run code in them. Use it in a `with` block."""

    def __init__(
        self,
        store: str | os.PathLike[str] | None = None,
        *,
        config: "VmExecutionConfig | None" = None,
        limits: Limits | Mapping[str, Any] | None = None,
        agent_id: str | None = None,
        languages: Mapping[str, Any] | None = None,
        ask_keeper: bool = False,
        role: Mapping[str, Any] | None = None,
        token: str | None = None,
    ) -> None:
        """See `AsyncRewindbox`."""
        self._box = AsyncRewindbox(
            store,
            config=config,
            limits=limits,
            agent_id=agent_id,
            languages=languages,
            ask_keeper=ask_keeper,
            role=role,
            token=token,
        )
        self._stack = ExitStack()
        self._portal: Portal | None = None

    @classmethod
    def from_role(cls, role: Mapping[str, Any], store: str | os.PathLike[str] | None = None, **options: Any) -> Self:
        """See `AsyncRewindbox.from_role`."""
        return cls(store, role=role, **options)

    def __enter__(self) -> "Rewindbox":
        self._portal = self._stack.enter_context(Portal())
        self._stack.callback(lambda: self.call(self._box.close))
        try:
            self.call(self._box.__aenter__)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._portal = None

    def close(self) -> None:
        """Stop every vm; their files and history stay. Idempotent."""
        self.__exit__()

    def call(self, function: Callable[..., Awaitable[T]], *arguments: Any, **options: Any) -> T:
        """Run a coroutine function of the engine to its end."""
        portal = self._portal or self.__enter__()._portal
        assert portal is not None
        return portal.call(function, *arguments, **options)

    @property
    def settings(self) -> Any:
        """What is in force; see `config.Settings`."""
        return self._box.settings

    def vm(
        self,
        name_or_id: str | None = None,
        *,
        agent_id: str | None = None,
        create: bool | None = None,
        kept: bool = False,
    ) -> "Vm":
        """See `AsyncRewindbox.vm`."""
        return Vm(self, self.call(self._box.vm, name_or_id, agent_id=agent_id, create=create, kept=kept))

    @property
    def pool(self) -> "Pool":
        """See `AsyncRewindbox.pool`. Nothing is made ready between calls: call `upkeep` when there is time."""
        from rewindbox.lending import Pool  # noqa: PLC0415  for whoever has one

        return Pool(self, self.call(soon(lambda: self._box.pool)))

    def running(self) -> list["Vm"]:
        """See `AsyncRewindbox.running`."""
        return [Vm(self, vm) for vm in self._box.running()]

    def holders(self) -> Mapping[str, int | str]:
        """See `AsyncRewindbox.holders`."""
        return self.call(self._box.holders)

    def live_sessions(self) -> dict[str, list[str]]:
        """See `AsyncRewindbox.live_sessions`."""
        return self.call(self._box.live_sessions)

    def sessions_ended(self, vm_id: str) -> SessionsEnded | None:
        """See `AsyncRewindbox.sessions_ended`."""
        return self.call(self._box.sessions_ended, vm_id)

    def vms(self) -> list[VmRecord]:
        """See `AsyncRewindbox.vms`."""
        return self.call(self._box.vms)

    def languages(self) -> dict[str, Support]:
        """See `AsyncRewindbox.languages`."""
        return self.call(self._box.languages)

    def plan(self, text: str, *, threshold: float = 0.0, request: str | None = None) -> list[Decision]:
        """See `AsyncRewindbox.plan`."""
        return self.call(self._box.plan, text, threshold=threshold, request=request)

    def run(
        self,
        text: str,
        vm: "Vm | str | None" = None,
        *,
        on_failure: OnFailure = "stop",
        threshold: float = 0.0,
        request: str | None = None,
        agent_id: str | None = None,
        limits: Limits | None = None,
        session: str | bool = False,
        on_decision: OnDecision | None = None,
        on_output: OnOutput | None = None,
        on_begun: Callable[[str], None] | None = None,
    ) -> Iterator[Execution]:
        """See `AsyncRewindbox.run`. Callbacks are called in the thread that runs the engine just then."""
        executions = self._box.run(
            text,
            vm.inner if isinstance(vm, Vm) else vm,
            on_failure=on_failure,
            threshold=threshold,
            request=request,
            agent_id=agent_id,
            limits=limits,
            session=session,
            on_decision=on_decision,
            on_output=on_output,
            on_begun=on_begun,
        )
        return self._each(executions)

    def _each(self, executions: AsyncGenerator[Execution, None]) -> Iterator[Execution]:
        try:
            while (execution := self.call(_next, executions)) is not None:
                yield execution
        finally:
            if self._portal is not None:  # left early: ended here and now, not when somebody collects garbage
                self.call(executions.aclose)

    def export(self) -> Iterator[Execution]:
        """See `AsyncRewindbox.export`."""
        return self._each(self._box.export())

    def parse_execute(
        self,
        given: "ParseExecuteRequest | Mapping[str, Any] | None" = None,
        /,
        *,
        vm: "Vm | str | None" = None,
        on_failure: OnFailure = "stop",
        **fields: Any,
    ) -> "ParseExecuteResponse":
        """See `AsyncRewindbox.parse_execute`."""
        where = vm.inner if isinstance(vm, Vm) else vm
        return self.call(self._box.parse_execute, given, vm=where, on_failure=on_failure, **fields)

    def execution(self, ref: str, *, output: bool = True) -> Execution:
        """See `AsyncRewindbox.execution`."""
        return self.call(self._box.execution, ref, output=output)

    def history(
        self,
        vm: "Vm | str | None" = None,
        *,
        session: str | None = None,
        agent_id: str | None = None,
        failures_only: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
        language: str | None = None,
        ended: Ended | None = None,
        text: str | None = None,
        limit: int | None = 100,
        offset: int = 0,
        older_than: str | None = None,
        max_bytes: int | None = None,
        output: bool = True,
    ) -> HistoryPage:
        """See `AsyncRewindbox.history`."""
        return self.call(
            self._box.history,
            vm.inner if isinstance(vm, Vm) else vm,
            session=session,
            agent_id=agent_id,
            failures_only=failures_only,
            since=since,
            until=until,
            language=language,
            ended=ended,
            text=text,
            limit=limit,
            offset=offset,
            older_than=older_than,
            max_bytes=max_bytes,
            output=output,
        )

    def settle(self) -> list[str]:
        """See `AsyncRewindbox.settle`."""
        return self.call(self._box.settle)

    def check(self) -> None:
        """See `AsyncRewindbox.check`."""
        self.call(self._box.check)

    def head(self) -> Head:
        """See `AsyncRewindbox.head`."""
        return self.call(self._box.head)

    def verify(self, expect: str | None = None) -> list[str]:
        """See `AsyncRewindbox.verify`."""
        return self.call(self._box.verify, expect)


class Vm:
    """A vm: files that stay, in which code is run, one execution at a time."""

    def __init__(self, box: Rewindbox, inner: AnyVm) -> None:
        self.id, self.name = inner.id, inner.name
        self.inner, self._call = inner, box.call

    def __repr__(self) -> str:
        return repr(self.inner)

    @property
    def record(self) -> VmRecord:
        """What the store knows of it now."""
        return self._call(self.inner.look)

    @property
    def is_running(self) -> bool:
        """See `AsyncVm.is_running`."""
        return self.inner.is_running

    def execute(
        self,
        language: str,
        code: str,
        *,
        agent_id: str | None = None,
        limits: Limits | None = None,
        timeout_seconds: float | None = None,
        environment: dict[str, str] | None = None,
        stdin: bytes | str | Stdin = b"",
        working_dir: str | None = None,
        on_output: OnOutput | None = None,
        on_begun: Callable[[str], None] | None = None,
        rollback_on_failure: bool | None = None,
        session: str | None = None,
    ) -> Execution:
        """See `AsyncVm.execute`. Callbacks are called in the thread that runs the engine just then."""
        return self._call(
            self.inner.execute,
            language,
            code,
            agent_id=agent_id,
            limits=limits,
            timeout_seconds=timeout_seconds,
            environment=environment,
            stdin=stdin,
            working_dir=working_dir,
            on_output=on_output,
            on_begun=on_begun,
            rollback_on_failure=rollback_on_failure,
            session=session,
        )

    def rollback(
        self,
        to: str | Execution | Snapshot | Point,
        *,
        snapshot_first: bool = True,
        rebuild: bool = False,
        agent_id: str | None = None,
    ) -> Rollback:
        """See `AsyncVm.rollback`."""
        return self._call(self.inner.rollback, to, snapshot_first=snapshot_first, rebuild=rebuild, agent_id=agent_id)

    def preview(self, to: str | Execution | Snapshot | Point | None = None, *, files: bool = True) -> Preview:
        """See `AsyncVm.preview`."""
        return self._call(self.inner.preview, to, files=files)

    def put_files_back(self, target: Point) -> None:
        """See `AsyncVm.put_files_back`."""
        self._call(self.inner.put_files_back, target)

    def rollback_to_last_success(self, **options: Any) -> Rollback:
        """See `AsyncVm.rollback_to_last_success`."""
        return self._call(self.inner.rollback_to_last_success, **options)

    def session(self, language: str = "python", name: str = "main") -> "Session":
        """See `AsyncVm.session`."""
        return Session(self, self._call(self.inner.session, language, name))

    def end_session(self, name: str, language: str = "python") -> None:
        """See `AsyncVm.end_session`."""
        self._call(self.inner.end_session, name, language)

    def live_points(self) -> frozenset[str]:
        """See `AsyncVm.live_points`."""
        return self._call(self.inner.live_points)

    def snapshot(self, name: str | None = None, *, agent_id: str | None = None) -> Snapshot:
        """See `AsyncVm.snapshot`."""
        return self._call(self.inner.snapshot, name, agent_id=agent_id)

    def point(self, to: str | Execution | Snapshot | Point | None = None) -> Point:
        """See `AsyncVm.point`."""
        return self._call(self.inner.point, to)

    def points(self, *, newer_than: str | None = None, limit: int | None = None) -> list[Point]:
        """See `AsyncVm.points`."""
        return self._call(self.inner.points, newer_than=newer_than, limit=limit)

    def snapshots(self) -> list[Snapshot]:
        """See `AsyncVm.snapshots`."""
        return self._call(self.inner.snapshots)

    def remove_snapshot(self, ref: str) -> Snapshot:
        """See `AsyncVm.remove_snapshot`."""
        return self._call(self.inner.remove_snapshot, ref)

    def history(self, **query: Any) -> HistoryPage:
        """See `AsyncRewindbox.history`."""
        return self._call(self.inner.history, **query)

    def read(self, path: str, *, max_bytes: int = 64 << 20) -> bytes:
        """See `AsyncVm.read`."""
        return self._call(self.inner.read, path, max_bytes=max_bytes)

    def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """See `AsyncVm.write`."""
        self._call(self.inner.write, path, data, mode=mode)

    def list(self, path: str = ".") -> Sequence[FileInfo]:
        """See `AsyncVm.list`."""
        return self._call(self.inner.list, path)

    def stop(self, *, reason: str = "stopped") -> None:
        """See `AsyncVm.stop`."""
        self._call(self.inner.stop, reason=reason)

    def remove(self) -> None:
        """See `AsyncVm.remove`."""
        self._call(self.inner.remove)


class Session:
    """A session of a vm; see `AsyncSession`."""

    def __init__(self, vm: Vm, inner: AsyncSession) -> None:
        self.vm, self.inner, self.language, self.name = vm, inner, inner.language, inner.name

    def __repr__(self) -> str:
        return repr(self.inner)

    def execute(self, code: str, **options: Any) -> Execution:
        """See `AsyncSession.execute`."""
        return self.vm.execute(self.language, code, session=self.name, **options)

    def close(self) -> None:
        """See `AsyncSession.close`."""
        with suppress(SessionNotFound):
            self.vm.end_session(self.name, self.language)


async def _next(executions: Any) -> Execution | None:
    found: Execution | None = await anext(executions, None)
    return found
