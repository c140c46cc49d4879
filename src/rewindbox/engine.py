"""The story. Read `AsyncRewindbox.run` and `AsyncVm.execute` first; every other module is one of their lines.

Async throughout; `door.py` is the same without `await`.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import anyio

from rewindbox import backends, config, languages, policy
from rewindbox.backends.base import BackendVm, FileInfo, Job, OnOutput, Outcome, Taken
from rewindbox.errors import (
    BadRequest,
    ExecutionFailed,
    HistoryError,
    SnapshotNotFound,
    UnknownVm,
    ValidationFailed,
    VmBusy,
    VmNotAvailable,
)
from rewindbox.execution import EXIT_KILLED, Execution
from rewindbox.history import History
from rewindbox.limits import Limits
from rewindbox.policy import Decision
from rewindbox.registry import Registry, VmRecord
from rewindbox.store import Store, Transaction, new_id
from rewindbox.timeline import Point, Rollback, Snapshot, Timeline

if TYPE_CHECKING:
    from rewindbox.models import VmExecutionConfig

OnFailure = Literal["stop", "continue", "rollback"]
OnDecision = Callable[[int, Decision], None]
_SWEEP_EVERY = 20
"""Dropped points between two sweeps of a vm's folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryPage:
    """Executions, newest first, and how many match in all."""

    entries: list[Execution]
    total: int


class AsyncRewindbox:
    """A store of vms and their history, and the means to run code in them."""

    def __init__(
        self,
        store: str | os.PathLike[str] | None = None,
        *,
        config: "VmExecutionConfig | None" = None,
        limits: Limits | None = None,
        agent_id: str | None = None,
    ) -> None:
        """Nothing is opened or started before `async with` (or the first use).

        Args:
            store: Folder of history and vms, made when missing. None: the configured one.
            config: What a role says; over the configuration file and the environment.
            limits: Default of every execution. None: the configured ones.
            agent_id: Who runs, where a call does not say.

        Raises ConfigError: see `config.load`.
        """
        self.settings = _settings(store, config, limits, agent_id)
        self._folder = self.settings.folder
        self._temporary: str | None = None
        self._vms: dict[str, AsyncVm] = {}
        self._open: _Open | None = None

    async def __aenter__(self) -> "AsyncRewindbox":
        self._opened()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _opened(self) -> "_Open":
        if self._open is None:
            if not self.settings.history.persist_history:
                self._folder = self._temporary = tempfile.mkdtemp(prefix="rewindbox-")
            self._open = _Open(self.settings, self._folder, in_memory=self._temporary is not None)
        return self._open

    async def close(self) -> None:
        """Stop every vm; their files and history stay. Idempotent."""
        for vm in list(self._vms.values()):
            await vm.stop()
        if self._open is not None:
            await self._open.backend.close()
            self._open.store.close()
            self._open = None
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    async def vm(
        self, name_or_id: str | None = None, *, agent_id: str | None = None, create: bool | None = None
    ) -> "AsyncVm":
        """The vm of that name or id; made when it is new (None: a new one with a name of its own).

        It is started by the first thing that needs it running. `create` False: an unknown one is an error,
        which is also what the setting `auto_provision = false` means.

        Raises UnknownVm, ValidationFailed (a name that cannot be one).
        """
        open_ = self._opened()
        record = self._find_or_create(open_, name_or_id, agent_id, create)
        if record.id not in self._vms:
            self._vms[record.id] = AsyncVm(self, open_, record)
        return self._vms[record.id]

    def _find_or_create(
        self, open_: "_Open", name: str | None, agent_id: str | None, create: bool | None
    ) -> VmRecord:
        if name is not None:
            try:
                return open_.registry.find(name)
            except UnknownVm:
                allowed = self.settings.auto_provision if create is None else create
                if not allowed or name.startswith("vm_"):
                    raise
        with open_.store.transaction() as tx:
            record, _ = open_.registry.get_or_create(
                tx,
                name if name is not None else f"vm-{os.urandom(4).hex()}",
                vm_type="host",
                backend=self.settings.backend,
                agent_id=agent_id or self.settings.agent_id,
            )
        return record

    async def vms(self) -> list[VmRecord]:
        """Every vm, oldest first."""
        return self._opened().registry.list()

    def plan(self, text: str, *, threshold: float = 0.0) -> list[Decision]:
        """The blocks of a model's answer and which of them `run` would run; runs nothing.

        Raises ValidationFailed: text or a block is too long, NUL bytes, a bad threshold.
        """
        from rewindbox import extraction  # noqa: PLC0415  loads the Markdown parser

        blocks = extraction.blocks(text, max_chars=self.settings.max_text_chars)
        return policy.decide(blocks, self.settings, self._opened().backend.programs(), threshold)

    async def run(
        self,
        text: str,
        vm: "AsyncVm | str | None" = None,
        *,
        on_failure: OnFailure = "stop",
        threshold: float = 0.0,
        agent_id: str | None = None,
        limits: Limits | None = None,
        on_decision: OnDecision | None = None,
        on_output: OnOutput | None = None,
    ) -> AsyncIterator[Execution]:
        """Run the code blocks of a model's answer in one vm, in document order; each execution as it ends.

        Args:
            vm: Where; None: a new one.
            on_failure: `stop`: no block after the first that fails. `continue`: all of them.
                `rollback`: a failed block is undone (files as before it), then the next one runs.
            threshold: Least `execution_confidence` of a block that runs. 0: all, asking to run is the intent.
            on_decision: Called with the number (from 1) and decision of each block before it runs or is skipped.

        Raises:
            ValidationFailed: before anything ran.
            VmNotAvailable, HostUnsupported, SnapshotFailed, RollbackFailed: as `AsyncVm.execute`.
        """
        if on_failure not in ("stop", "continue", "rollback"):
            raise ValidationFailed(f"on_failure {on_failure!r}", remedy="choose stop, continue or rollback")
        decisions = self.plan(text, threshold=threshold)
        target = vm if isinstance(vm, AsyncVm) else await self.vm(vm)
        for number, decision in enumerate(decisions, 1):
            if on_decision is not None:
                on_decision(number, decision)
            if decision.skipped is not None:
                continue
            execution = await target.execute(
                decision.block.language,
                decision.block.code,
                agent_id=agent_id,
                limits=limits,
                on_output=on_output,
                rollback_on_failure=True if on_failure == "rollback" else None,
                block=number,
            )
            yield execution
            if not execution.success and on_failure == "stop":
                return

    async def execution(self, ref: str) -> Execution:
        """One execution by id or unique prefix. Raises UnknownExecution."""
        return self._opened().history.get(ref)

    async def history(
        self,
        vm: "AsyncVm | str | None" = None,
        *,
        agent_id: str | None = None,
        failures_only: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = 100,
        offset: int = 0,
    ) -> HistoryPage:
        """Executions, newest first; see `History.query`. A removed vm is found by its id."""
        open_ = self._opened()
        vm_id = vm.id if isinstance(vm, AsyncVm) else open_.registry.find(vm, removed=True).id if vm else None
        entries, total = open_.history.query(
            vm_id=vm_id,
            agent_id=agent_id,
            failures_only=failures_only,
            since=since,
            until=until,
            limit=limit,
            offset=offset,
        )
        return HistoryPage(entries=entries, total=total)

    async def verify(self) -> list[str]:
        """What is wrong with the history's file, a sentence each; empty when nothing is."""
        return self._opened().store.verify()

    def forget(self, vm_id: str) -> None:
        """A removed vm's object is of no more use."""
        self._vms.pop(vm_id, None)


class _Open:
    """What is open while a Rewindbox is."""

    def __init__(self, settings: config.Settings, folder: str, *, in_memory: bool) -> None:
        self.settings, self.folder = settings, folder
        self.backend = backends.load(settings.backend, os.path.join(folder, "vms"))
        _make_folder(folder)
        self.backend.warm()
        self.store = Store(None if in_memory else os.path.join(folder, "history.db"))
        self.registry, self.history, self.timeline = (
            Registry(self.store),
            History(self.store),
            Timeline(self.store),
        )


class AsyncVm:
    """A vm: files that stay, in which code is run, one execution at a time."""

    def __init__(self, box: AsyncRewindbox, open_: _Open, record: VmRecord) -> None:
        self.id, self.name = record.id, record.name
        self._box, self._open, self._settings = box, open_, open_.settings
        self._queue = anyio.Lock()
        self._running: BackendVm | None = None
        self._claim: int | None = None
        self._tip: Point | None = None
        self._dropped = 0

    def __repr__(self) -> str:
        return f"<vm {self.name} {self.id}>"

    @property
    def record(self) -> VmRecord:
        """What the store knows of it now."""
        return self._open.registry.find(self.id, removed=True)

    @property
    def is_running(self) -> bool:
        """Whether its processes can run here and now; a stopped vm is started when it is used."""
        return self._running is not None

    async def execute(
        self,
        language: str,
        code: str,
        *,
        agent_id: str | None = None,
        limits: Limits | None = None,
        timeout_seconds: float | None = None,
        environment: dict[str, str] | None = None,
        stdin: bytes | str = b"",
        working_dir: str | None = None,
        on_output: OnOutput | None = None,
        rollback_on_failure: bool | None = None,
        block: int | None = None,
    ) -> Execution:
        """Run one piece of code to its end, remember it, and leave a point to come back to.

        Code that fails, is too slow or too big is a result, not an error. Waits for its turn in this vm.
        Cancelling ends the code, records it as `killed`, and re-raises.

        Args:
            limits: What it may consume; None: the box's, with the wall clock times the language's multiplier.
            timeout_seconds: Shorthand for `limits.wall_s`; wins over it.
            environment: Added to the vm's own. Not stored.
            stdin: What it reads from standard input. Not stored. Empty: end of file at once.
            working_dir: A folder in the vm, relative to its home. None: its home.
            on_output: Called with "stdout" or "stderr" and bytes, as they come.
            rollback_on_failure: Put the files back to before a failed execution; None: as configured.

        Raises:
            UnsupportedLanguage, LanguageRefused, ValidationFailed, BadRequest: nothing ran.
            VmBusy, VmDamaged, HostUnsupported: the vm cannot be started.
            VmNotAvailable: the vm died; the execution is recorded as `killed`.
            SnapshotFailed: it ran and is recorded, but left no point.
        """
        policy.check(language, code, self._settings)
        chosen = languages.find(language)
        job = Job(
            id="",  # history gives it
            language=chosen,
            code=code,
            limits=self._limits(chosen, limits, timeout_seconds),
            environment=environment or {},
            stdin=stdin.encode() if isinstance(stdin, str) else stdin,
            working_dir=working_dir,
        )
        undo = (
            self._settings.history.auto_rollback_on_failure
            if rollback_on_failure is None
            else rollback_on_failure
        )
        async with self._queue:
            vm, before = await self._start()
            recorder = _Recorder(self._open, self.id, job, agent_id or self._settings.agent_id, before, block)
            outcome = await self._carry_out(vm, replace(job, id=recorder.id), recorder, on_output)
            return await self._conclude(vm, recorder, outcome, undo)

    def _limits(self, language: languages.Language, given: Limits | None, timeout_s: float | None) -> Limits:
        if given is None:
            wall_s = self._settings.execution_timeout_ms / 1000 * language.timeout_multiplier
            given = replace(self._settings.limits, wall_s=wall_s)
        return given if timeout_s is None else replace(given, wall_s=timeout_s)

    async def _carry_out(
        self, vm: BackendVm, job: Job, recorder: "_Recorder", on_output: OnOutput | None
    ) -> Outcome:
        """Run the job; whatever happens to it, its execution ends in history too."""
        try:
            return await vm.execute(job, on_output)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                outcome = vm.interrupted or _nothing("interrupted before it ran")
                await self._conclude(vm, recorder, outcome, undo=False)
            raise
        except (BadRequest, ExecutionFailed) as error:
            recorder.write(_nothing(str(error)), taken=None)
            raise
        except VmNotAvailable as error:
            recorder.write(_nothing(str(error)), taken=None)
            await self.stop()
            raise

    async def _conclude(
        self, vm: BackendVm, recorder: "_Recorder", outcome: Outcome, undo: bool
    ) -> Execution:
        """Take the point, undo a failure if asked, and write all of it down at once."""
        try:
            taken = await vm.take_point()
        except Exception:
            recorder.write(outcome, taken=None)
            raise
        before, failed = recorder.before, outcome.ended != "exit" or outcome.exit_code != 0
        rolled_back = failed and undo and before.state is not None and taken.state != before.state
        if rolled_back:
            try:
                assert before.state is not None
                await vm.go_to(before.state)
            except Exception:
                self._tip = recorder.write(outcome, taken=taken)[1]
                raise
        elif failed and undo:
            rolled_back = True  # it changed no file: the vm is at `before` already
        execution, self._tip, dropped = recorder.write(
            outcome, taken=taken, live=vm.live, rolled_back=rolled_back
        )
        self._sweep(vm, dropped)
        return execution

    def _sweep(self, vm: BackendVm, dropped: int) -> None:
        self._dropped += dropped
        if self._dropped >= _SWEEP_EVERY:
            self._dropped = 0
            vm.sweep(self._open.timeline.kept_states(self.id))

    async def _start(self) -> tuple[BackendVm, Point]:
        """The running vm and the point it stands on; starts it when it is not running."""
        if self._running is not None and self._tip is not None:
            return self._running, self._tip
        record = self._open.registry.find(self.id)
        self._claim = _claim(self._open.folder, record)
        try:
            tip = self._open.timeline.get_point(record.tip) if record.tip else None
            self._running = await self._open.backend.create(self.id, record.live, tip.state if tip else None)
            self._tip = await self._recover(self._running, tip)
        except BaseException:
            await self.stop()
            raise
        return self._running, self._tip

    async def _recover(self, vm: BackendVm, tip: Point | None) -> Point:
        """The first point of a new vm. Of one whose process died in an execution: end that, and undo it."""
        if tip is None:
            return self._add_point(await vm.take_point(), parent=None)
        for start in self._open.history.unfinished(self.id):
            before = self._open.timeline.get_point(start.before) if start.before else tip
            if before.state is not None:
                await vm.go_to(before.state)
            with self._open.store.transaction() as tx:
                self._open.history.finish(tx, _lost(start, before))
                self._open.timeline.record_rollback(
                    tx, vm_id=self.id, from_point=tip.id, to_point=before.id, reason="auto"
                )
                self._open.registry.set_live(tx, self.id, vm.live, tip=before.id)
            tip = before
        return tip

    def _add_point(self, taken: Taken, parent: Point | None) -> Point:
        with self._open.store.transaction() as tx:
            point = _write_point(self._open, tx, self.id, taken, parent.id if parent else None, None)
            self._open.registry.set_live(tx, self.id, taken.live, tip=point.id)
        return point

    async def rollback(
        self,
        to: "str | Execution | Snapshot | Point",
        *,
        snapshot_first: bool = True,
        agent_id: str | None = None,
    ) -> Rollback:
        """Put the files back to a point or snapshot, in place; the vm keeps its id. History is kept.

        Args:
            to: A point's or snapshot's id (or a unique prefix), a snapshot's name; an Execution: before it.
            snapshot_first: List the present state as a `pre_rollback` snapshot, so that this can be undone.

        Raises:
            SnapshotNotFound: unknown, of another vm, or its state is no longer kept. Nothing was changed.
            RollbackFailed: the vm is as it was.
        """
        if isinstance(to, Execution) and (to.vm_id != self.id or to.before is None):
            raise SnapshotNotFound(
                f"{to.id} has no point before it in vm {self.name}", remedy="choose another"
            )
        ref = str(to.before) if isinstance(to, Execution) else to if isinstance(to, str) else to.id
        async with self._queue:
            target = self._open.timeline.resolve(self.id, ref)
            vm, tip = await self._start()
            assert target.state is not None
            await vm.go_to(target.state)
            who = agent_id or self._settings.agent_id
            with self._open.store.transaction() as tx:
                kept = (
                    self._open.timeline.add_snapshot(
                        tx, vm_id=self.id, point_id=tip.id, kind="pre_rollback", agent_id=who
                    )
                    if snapshot_first
                    else None
                )
                rollback = self._open.timeline.record_rollback(
                    tx,
                    vm_id=self.id,
                    from_point=tip.id,
                    to_point=target.id,
                    reason="manual",
                    snapshot_id=kept.id if kept else None,
                    agent_id=who,
                )
                self._open.registry.set_live(tx, self.id, vm.live, tip=target.id)
            self._tip = target
            return rollback

    async def rollback_to_last_success(self, **options: Any) -> Rollback:
        """Put the files back to after the last execution that succeeded. Raises SnapshotNotFound: none did."""
        success = self._open.history.last_success(self.id)
        if success is None or success.after is None:
            raise SnapshotNotFound(
                f"vm {self.name} has no kept success", remedy="choose a snapshot or a point"
            )
        return await self.rollback(success.after, **options)

    async def snapshot(self, name: str | None = None, *, agent_id: str | None = None) -> Snapshot:
        """List the present state as a snapshot and keep it until it is removed. The name is unique in the vm."""
        async with self._queue:
            _, tip = await self._start()
            with self._open.store.transaction() as tx:
                return self._open.timeline.add_snapshot(
                    tx,
                    vm_id=self.id,
                    point_id=tip.id,
                    kind="manual",
                    name=name,
                    agent_id=agent_id or self._settings.agent_id,
                )

    async def snapshots(self) -> list[Snapshot]:
        """Its listed snapshots, oldest first."""
        return self._open.timeline.list_snapshots(self.id)

    async def remove_snapshot(self, ref: str) -> Snapshot:
        """No longer list a snapshot; its state goes when nothing else needs it. Raises SnapshotNotFound."""
        with self._open.store.transaction() as tx:
            return self._open.timeline.remove_snapshot(tx, self.id, ref)

    async def history(self, **query: Any) -> HistoryPage:
        """Its executions, newest first; see `AsyncRewindbox.history`."""
        return await self._box.history(self, **query)

    async def read(self, path: str, *, max_bytes: int = 64 << 20) -> bytes:
        """A file of the vm; relative to its home. Raises BadRequest: none, no regular file, too big."""
        async with self._queue:
            vm, _ = await self._start()
            return await vm.read(path, max_bytes)

    async def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Create or replace a file of the vm; folders on the way are made. Leaves a point."""
        async with self._queue:
            vm, tip = await self._start()
            await vm.write(path, data.encode() if isinstance(data, str) else data, mode)
            self._tip = self._add_point(await vm.take_point(), parent=tip)

    async def list(self, path: str = ".") -> Sequence[FileInfo]:
        """The entries of a folder of the vm, by name. Raises BadRequest."""
        async with self._queue:
            vm, _ = await self._start()
            return await vm.list(path)

    async def stop(self) -> None:
        """End its processes and let other processes have it; files and history stay. Idempotent."""
        if self._running is not None:
            await self._running.stop()
        self._running = self._tip = None
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    async def remove(self) -> None:
        """Stop it and delete its files; its executions stay in history."""
        async with self._queue:
            record = self._open.registry.find(self.id)
            if self._claim is None:
                self._claim = _claim(self._open.folder, record)
            await self.stop()
            with self._open.store.transaction() as tx:
                self._open.registry.remove(tx, self.id)
                states = [point.id for point in self._open.timeline.points(self.id, kept_only=True)]
                self._open.timeline.drop_states(tx, states)
            await self._open.backend.destroy(self.id)
            self._box.forget(self.id)


class _Recorder:
    """Writes one execution down: its start before it runs, its end with everything that belongs to it."""

    def __init__(
        self, open_: _Open, vm_id: str, job: Job, agent_id: str, before: Point, block: int | None
    ) -> None:
        self.before = before
        self._open, self._vm_id, self._job, self._agent_id = open_, vm_id, job, agent_id
        self._config = open_.settings.history
        self._started_at = datetime.now(UTC)
        self.id = new_id("ex")
        if self._config.enabled:
            with open_.store.transaction() as tx:
                start = open_.history.begin(
                    tx,
                    vm_id=vm_id,
                    agent_id=agent_id,
                    language=job.language.name,
                    code=job.code,
                    started_at=self._started_at,
                    before=before.id,
                    block=block,
                )
            self.id, self._started_at = start.id, start.started_at

    def write(
        self,
        outcome: Outcome,
        *,
        taken: Taken | None,
        live: dict[str, Any] | None = None,
        rolled_back: bool = False,
    ) -> tuple[Execution, Point, int]:
        """The execution, the point the vm stands on now, and how many points need not be kept any more."""
        with self._open.store.transaction() as tx:
            after = self._point(tx, taken) if taken is not None else None
            execution = self._execution(outcome, after, rolled_back)
            if self._config.enabled:
                self._open.history.finish(tx, execution)
            tip = self.before if rolled_back or after is None else after
            if taken is not None:
                self._open.registry.set_live(tx, self._vm_id, live or taken.live, tip=tip.id)
                self._list_snapshots(tx, execution)
            if rolled_back:
                self._note_rollback(tx, after)
            return execution, tip, self._forget_old(tx)

    def _point(self, tx: Transaction, taken: Taken) -> Point:
        execution_id = self.id if self._config.enabled else None
        return _write_point(self._open, tx, self._vm_id, taken, self.before.id, execution_id)

    def _execution(self, outcome: Outcome, after: Point | None, rolled_back: bool) -> Execution:
        return Execution(
            id=self.id,
            vm_id=self._vm_id,
            agent_id=self._agent_id,
            language=self._job.language.name,
            code=self._job.code,
            ended=outcome.ended,
            exit_code=outcome.exit_code,
            stdout_bytes=outcome.stdout,
            stderr_bytes=outcome.stderr,
            truncated=outcome.truncated,
            started_at=self._started_at,
            wall_s=outcome.wall_s,
            cpu_s=outcome.cpu_s,
            memory_peak_bytes=outcome.memory_peak_bytes,
            error=outcome.error,
            before=self.before.id,
            after=after.id if after else None,
            rolled_back_to=self.before.id if rolled_back else None,
        )

    def _list_snapshots(self, tx: Transaction, execution: Execution) -> None:
        """What the history's configuration wants listed."""
        wanted: list[tuple[Literal["pre_execution", "failure"], str | None]] = []
        if self._config.snapshot_on_execution:
            wanted.append(("pre_execution", execution.before))
        if self._config.snapshot_on_failure and not execution.success:
            wanted.append(("failure", execution.after))
        for kind, point_id in wanted:
            self._open.timeline.add_snapshot(
                tx,
                vm_id=self._vm_id,
                point_id=str(point_id),
                kind=kind,
                execution_id=self.id if self._config.enabled else None,
                agent_id=self._agent_id,
            )

    def _note_rollback(self, tx: Transaction, after: Point | None) -> None:
        self._open.timeline.record_rollback(
            tx,
            vm_id=self._vm_id,
            from_point=after.id if after else None,
            to_point=self.before.id,
            reason="auto",
            agent_id=self._agent_id,
        )

    def _forget_old(self, tx: Transaction) -> int:
        """Beyond `max_history_entries`, output and state of the oldest executions go; the rows stay."""
        if not self._config.enabled:
            return 0
        needless = self._open.history.trim(tx, self._vm_id, self._config.max_history_entries)
        return len(self._open.timeline.drop_states(tx, needless))


def _write_point(
    open_: _Open, tx: Transaction, vm_id: str, taken: Taken, parent_id: str | None, execution_id: str | None
) -> Point:
    return open_.timeline.add_point(
        tx,
        vm_id=vm_id,
        parent_id=parent_id,
        execution_id=execution_id,
        method=taken.method,
        written_bytes=taken.written_bytes,
        state=taken.state,
    )


def _settings(
    store: str | os.PathLike[str] | None,
    given: "VmExecutionConfig | None",
    limits: Limits | None,
    agent_id: str | None,
) -> config.Settings:
    role = given.model_dump(exclude_unset=True) if given is not None else {}
    return config.load(**role, store=os.fspath(store) if store else None, limits=limits, agent_id=agent_id)


def _make_folder(folder: str) -> None:
    try:
        os.makedirs(os.path.join(folder, "locks"), mode=0o700, exist_ok=True)
    except OSError as error:
        raise HistoryError(
            f"the store {folder} cannot be made: {error.strerror}",
            remedy="choose another with REWINDBOX_STORE",
        ) from error


def _claim(folder: str, record: VmRecord) -> int:
    """Hold the vm for this process. Raises VmBusy: another one does."""
    descriptor = os.open(
        os.path.join(folder, "locks", record.id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "another process"
        os.close(descriptor)
        raise VmBusy(
            f"{record.name} is in use by process {holder}", remedy="wait for it, or use another vm"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _nothing(error: str) -> Outcome:
    """The outcome of what has none."""
    return Outcome(
        ended="killed",
        exit_code=EXIT_KILLED,
        stdout=b"",
        stderr=b"",
        truncated=False,
        wall_s=0.0,
        cpu_s=0.0,
        memory_peak_bytes=0,
        error=error,
    )


def _lost(start: Any, before: Point) -> Execution:
    """The end of an execution whose process died: nobody saw it."""
    return Execution(
        id=start.id,
        vm_id=start.vm_id,
        agent_id=start.agent_id,
        language=start.language,
        code=start.code,
        ended="killed",
        exit_code=EXIT_KILLED,
        stdout_bytes=b"",
        stderr_bytes=b"",
        truncated=False,
        started_at=start.started_at,
        wall_s=0.0,
        cpu_s=0.0,
        memory_peak_bytes=0,
        error="the process that held the vm died",
        before=start.before,
        after=None,
        rolled_back_to=before.id,
    )
