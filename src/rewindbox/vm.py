"""One vm: run code in it, remember, go back. Read `AsyncVm.execute` first."""

from collections.abc import Callable, Sequence, Set
from typing import Any

import anyio

from rewindbox import policy
from rewindbox.backends.base import BackendVm, FileInfo, Job, OnOutput, Outcome
from rewindbox.errors import BadRequest, ExecutionFailed, InvalidArgument, VmNotAvailable
from rewindbox.execution import Execution
from rewindbox.history import HistoryPage
from rewindbox.ids import new_id
from rewindbox.limits import Limits
from rewindbox.opened import Opened
from rewindbox.points import Point, Rollback, Snapshot, live_points
from rewindbox.preview import Preview, preview, target
from rewindbox.recorder import Recorder, no_outcome, write_rollback
from rewindbox.registry import VmRecord
from rewindbox.session import AsyncSession, check_begun, check_session, rebuilt, told_to_be_back
from rewindbox.standing import Standing
from rewindbox.stdin import Stdin


class AsyncVm:
    """A vm: files that stay, in which code is run, one execution at a time."""

    def __init__(self, opened: Opened, record: VmRecord, on_removed: Callable[[str], None]) -> None:
        self.id, self.name = record.id, record.name
        self._open, self._settings, self._on_removed = opened, opened.settings, on_removed
        self._queue = anyio.Lock(fast_acquire=True)  # nobody waits: no turn of the event loop, 75 us from the cold
        self._standing = Standing(opened, self.id)
        self.sessions: Set[str] = self._standing.sessions
        """The names of its live sessions."""

    def __repr__(self) -> str:
        return f"<vm {self.name} {self.id}>"

    @property
    def record(self) -> VmRecord:
        """What the store knows of it now."""
        return self._open.registry.find(self.id, removed=True)

    async def look(self) -> VmRecord:
        """As `record`, also where asking for it takes time."""
        return self.record

    @property
    def is_running(self) -> bool:
        """Whether its processes can run here and now; a stopped vm is started when it is used."""
        return self._standing.running is not None

    async def execute(
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
        block: int | None = None,
        execution_id: str | None = None,
    ) -> Execution:
        """Run one piece of code to its end, remember it, and leave a point to come back to.

        Code that fails, is too slow or too big is a result, not an error. Waits for its turn in this vm.
        Cancelling ends the code, records it as `killed`, and re-raises.

        Args:
            limits: What it may consume; None: the box's, with the wall clock times the language's multiplier.
            timeout_seconds: Shorthand for `limits.wall_s`; wins over it.
            environment: Added to the vm's own. Not stored.
            stdin: What it reads; not stored. Empty: end of file at once. A `Stdin`: what is written to that meanwhile.
            working_dir: A folder in the vm, relative to its home. None: its home.
            on_output: Called with "stdout" or "stderr" and bytes, as they come.
            on_begun: Called with its id (`execution_id`, or a new one) when its beginning is written down.
            rollback_on_failure: Put files and variables back to before a failed execution; None: as configured.
            session: Run it in the session of this name, which begins with its first execution; see `session`.

        Raises:
            UnsupportedLanguage, LanguageRefused, ValidationFailed, BadRequest: nothing ran.
            VmBusy, VmDamaged, HostUnsupported: the vm cannot be started.
            VmNotAvailable: the vm died; the execution is recorded as `killed`.
            SnapshotFailed: it ran and is recorded, but left no point.
        """
        policy.check(language, code, self._settings)
        chosen = self._settings.languages.find(language)
        job = Job(
            id=execution_id or new_id("ex"),
            language=chosen,
            code=code,
            limits=self._settings.limits_of(chosen.timeout_multiplier, limits, timeout_seconds),
            environment=environment or {},
            stdin=stdin if isinstance(stdin, Stdin) else encoded(stdin, "stdin"),
            working_dir=working_dir,
            session=session,
        )
        _check(job)
        undo = self._settings.history.auto_rollback_on_failure if rollback_on_failure is None else rollback_on_failure
        async with self._queue:
            vm, before = await self._standing.start()
            begins = chosen.session == "live" and session is not None and session not in self.sessions
            who = agent_id or self._settings.agent_id
            recorder = Recorder(self._open, self.id, job, who, before, block, session_begins=begins, on_begun=on_begun)
            self._standing.sessions.update({str(session)} if begins else ())
            outcome = await self._carry_out(vm, job, recorder, on_output)
            with anyio.CancelScope(shield=True):  # it has run: that is written down, whoever still wants to know
                execution = await self._conclude(vm, recorder, outcome, undo)
            return execution

    async def _carry_out(self, vm: BackendVm, job: Job, recorder: Recorder, on_output: OnOutput | None) -> Outcome:
        """Run the job; whatever happens to it, its execution ends in history too."""
        try:
            return await vm.execute(job, on_output, on_ready=recorder.begin, on_begun=recorder.forget_old)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self._end_badly(vm, recorder, error)
            raise

    async def _end_badly(self, vm: BackendVm, recorder: Recorder, error: BaseException) -> None:
        """The vm died, it could not be started, it was cancelled, or `on_output` failed."""
        if isinstance(error, VmNotAvailable):
            await self._standing.stop()
        if not recorder.begun:
            return
        if isinstance(error, (VmNotAvailable, BadRequest, ExecutionFailed)):
            recorder.write(no_outcome(str(error)), taken=None)
        else:
            outcome = vm.interrupted or no_outcome("interrupted before it ran")
            await self._conclude(vm, recorder, outcome, undo=False)

    async def _conclude(self, vm: BackendVm, recorder: Recorder, outcome: Outcome, undo: bool) -> Execution:
        """Take the point, undo a failure if asked, and write all of it down at once."""
        try:
            taken = await vm.take_point()
        except Exception:
            recorder.write(outcome, taken=None)
            raise
        before, failed = recorder.before, outcome.ended != "exit" or outcome.exit_code != 0
        undo = (failed and undo) or outcome.lost_session
        rolled_back = undo and before.state is not None and taken.state != before.state
        if rolled_back:
            try:
                assert before.state is not None
                outcome = told_to_be_back(outcome, await self._standing.go_to(vm, before.state))
            except Exception:
                self._standing.tip = recorder.write(outcome, taken=taken)[1]
                raise
        elif undo:
            rolled_back = True  # it changed no file: the vm is at `before` already
        try:
            execution, self._standing.tip = recorder.write(outcome, taken=taken, live=vm.live, rolled_back=rolled_back)
        except BaseException:  # as in `stopped_on_failure`, which would cost 45 us here; we are shielded already
            await self._standing.stop()
            raise
        self._standing.sweep(vm, recorder.dropped + rolled_back)
        return execution

    async def rollback(
        self,
        to: "str | Execution | Snapshot | Point",
        *,
        snapshot_first: bool = True,
        rebuild: bool = False,
        agent_id: str | None = None,
    ) -> Rollback:
        """Put files and live sessions back to a point or snapshot, in place; the vm keeps its id. History is kept.

        Args:
            to: A point's or snapshot's id (or a unique prefix), a snapshot's name; an Execution: before it.
            snapshot_first: List the present state as a `pre_rollback` snapshot, so that this can be undone.
            rebuild: Live sessions of the point whose variables are gone are made anew: what they ran is run again on
                the point's files, and what comes out is compared (`Rollback.rebuilt`). The files stay the point's.

        Raises:
            SnapshotNotFound: unknown, of another vm, or its state is no longer kept. Nothing was changed.
            RollbackFailed: the vm is as it was.
        """
        async with self._queue:
            target = await self.point(to)
            vm, tip = await self._standing.start_anyhow()
            with anyio.CancelScope(shield=True):
                assert target.state is not None
                back = await self._standing.go_to(vm, target.state)
                async with self._standing.stopped_on_failure():
                    who = agent_id or self._settings.agent_id
                    rollback = write_rollback(
                        self._open, vm, tip, target, back, snapshot_first=snapshot_first, agent_id=who
                    )
            self._standing.tip = target
            self._standing.sweep(vm, 1)
        return await rebuilt(self, self._open.history, rollback, target) if rebuild else rollback

    async def put_files_back(self, target: Point) -> None:
        """Files as at a point, and sessions as they are now; leaves a point."""
        async with self._queue:
            vm, tip = await self._standing.start()
            with anyio.CancelScope(shield=True):
                assert target.state is not None and tip.state is not None
                await self._standing.go_to(vm, {**target.state, "sessions": tip.state.get("sessions", {})})
                await self._standing.leave_point(vm, tip)

    async def rollback_to_last_success(self, **options: Any) -> Rollback:
        """Put the files back to after the last execution that succeeded. Raises SnapshotNotFound: none did."""
        return await self.rollback(await self.point(), **options)

    async def session(self, language: str = "python", name: str = "main") -> AsyncSession:
        """The session of that name, begun if it is new: variables live on from one execution to the next.

        A python session is a process, which goes back with the vm while its checkpoint is kept. A bash session
        keeps its variables in a file of the vm.

        Raises UnsupportedLanguage: it has no sessions; InvalidArgument: the name is not one.
        """
        chosen = self._settings.languages.find(language)
        limits = self._settings.limits_of(chosen.timeout_multiplier, None, None)
        job = Job(id=new_id("ex"), language=chosen, code="", limits=limits, session=name)
        _check(job)
        if chosen.session == "live":
            async with self._queue:
                vm, _ = await self._standing.start()
                await vm.begin_session(job)
                self._standing.sessions.add(name)
        return AsyncSession(self, chosen.name, name)

    async def end_session(self, name: str, language: str = "python") -> None:
        """End a session; points that it left can still be gone back to. Leaves a point. Raises SessionNotFound."""
        chosen = self._settings.languages.find(language)
        async with self._queue:
            check_begun(name, chosen, self.sessions)
            self._standing.sessions.discard(name)
            vm, tip = await self._standing.start()
            with anyio.CancelScope(shield=True):
                await vm.end_session(name, chosen)
                await self._standing.leave_point(vm, tip)

    async def live_points(self) -> frozenset[str]:
        """The kept points to which a rollback brings back variables, too; of the others only files are left."""
        async with self._queue:
            if self._standing.running is None:
                return frozenset()
            kept = self._open.timeline.points(self.id, kept_only=True)
            held = await self._standing.running.live_checkpoints(self._open.timeline.named_states(self.id))
        return live_points(kept, held)

    async def snapshot(self, name: str | None = None, *, agent_id: str | None = None) -> Snapshot:
        """List the present state as a snapshot and keep it until it is removed. The name is unique in the vm."""
        timeline, who = self._open.timeline, agent_id or self._settings.agent_id
        async with self._queue:
            vm, tip = await self._standing.start()
            with self._open.store.transaction() as tx:
                made = timeline.add_snapshot(tx, vm_id=self.id, point_id=tip.id, kind="manual", name=name, agent_id=who)
            if tip.state and tip.state.get("sessions"):
                await vm.live_checkpoints(timeline.named_states(self.id))
            return made

    async def point(self, to: "str | Execution | Snapshot | Point | None" = None) -> Point:
        """Where `rollback` would go; None: after the last execution that succeeded. Raises SnapshotNotFound."""
        return target(self._open, self.record, to)

    async def preview(self, to: "str | Execution | Snapshot | Point | None" = None, *, files: bool = True) -> Preview:
        """What `rollback` to there would undo; changes nothing. Raises as `point`, and VmDamaged.

        `files`: compare them, too; a vm that is stopped is started for it.
        """
        to, live = await self.point(to), await self.live_points()
        async with self._queue:
            assert to.state is not None
            changes = await (await self._standing.start())[0].changes(to.state) if files else None
            return preview(self._open, self.record, to, live=to.id in live, changes=changes)

    async def points(self, *, newer_than: str | None = None, limit: int | None = None) -> list[Point]:
        """Oldest first; those without a state can no longer be gone back to. `newer_than`: taken after that point."""
        return self._open.timeline.points(self.id, newer_than=newer_than, limit=limit)

    async def snapshots(self) -> list[Snapshot]:
        """Oldest first."""
        return self._open.timeline.list_snapshots(self.id)

    async def remove_snapshot(self, ref: str) -> Snapshot:
        """No longer list a snapshot; its state goes when nothing else needs it. Raises SnapshotNotFound."""
        with self._open.store.transaction() as tx:
            return self._open.timeline.remove_snapshot(tx, self.id, ref)

    async def history(self, **query: Any) -> HistoryPage:
        """Its executions, newest first; see `AsyncRewindbox.history`."""
        return await self._open.page(self.id, **query)

    async def read(self, path: str, *, max_bytes: int = 64 << 20) -> bytes:
        """A file of the vm; relative to its home. Raises BadRequest: none, no regular file, too big."""
        async with self._queue:
            vm, _ = await self._standing.start()
            return await vm.read(path, max_bytes)

    async def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Create or replace a file of the vm; folders on the way are made. Leaves a point."""
        content = encoded(data, "the file")
        async with self._queue:
            vm, tip = await self._standing.start()
            with anyio.CancelScope(shield=True):
                await vm.write(path, content, mode)
                await self._standing.leave_point(vm, tip)
            self._standing.sweep(vm, 1)

    async def list(self, path: str = ".") -> Sequence[FileInfo]:
        """The entries of a folder of the vm, by name. Raises BadRequest."""
        async with self._queue:
            vm, _ = await self._standing.start()
            return await vm.list(path)

    async def stop(self, *, reason: str = "stopped") -> None:
        """End its processes, and for history say the `reason`; files and history stay. Idempotent."""
        await self._standing.stop(reason)

    async def remove(self) -> None:
        """Stop it and delete its files; its executions stay in history."""
        async with self._queue:
            record = self._open.registry.find(self.id)
            self._standing.claim(record)
            await self._standing.stop()
            with self._open.store.transaction() as tx:
                self._open.registry.remove(tx, self.id)
                kept = self._open.timeline.points(self.id, kept_only=True)
                self._open.timeline.drop_states(tx, [point.id for point in kept])
            await self._open.backend.destroy(self.id)
            self._on_removed(self.id)


def encoded(text: bytes | str, what: str, errors: str = "strict") -> bytes:
    """Text as UTF-8. Raises InvalidArgument: it has half of a character."""
    try:
        return text.encode("utf-8", errors) if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        problem = f"{what} has a lone surrogate at position {error.start}"
        raise InvalidArgument(problem, remedy="give text that UTF-8 can write, or bytes") from error


def _check(job: Job) -> None:
    """Raises BadRequest: what no vm can do, before one is started for it."""
    check_session(job)
    job.limits.check_open_files(job.language.session if job.session is not None else None)
    encoded(job.working_dir or "", "working_dir", "surrogateescape")  # a folder may have any bytes as its name


def is_busy(vm: AsyncVm) -> bool:
    """Whether something goes on in it."""
    return vm._queue.locked()
