"""Writing executions and points down: everything that belongs to one goes into one transaction."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

from rewindbox.backends.base import BackendVm, Job, Outcome, Taken, WentBack
from rewindbox.errors import HistoryError
from rewindbox.execution import EXIT_KILLED, Execution
from rewindbox.opened import Opened
from rewindbox.points import Point, Rollback
from rewindbox.rows import Start
from rewindbox.store import Transaction

_SLACK = 20
"""What part of `max_history_entries` there may be too much before the oldest go."""


class Recorder:
    """Writes one execution down: its start before it runs, its end with everything that belongs to it."""

    _started_at: datetime

    def __init__(
        self,
        open_: Opened,
        vm_id: str,
        job: Job,
        agent_id: str,
        before: Point,
        block: int | None,
        session_begins: bool = False,
        on_begun: Callable[[str], None] | None = None,
    ) -> None:
        """`session_begins`: with it, the session that runs it begins. `on_begun`: see `AsyncVm.execute`."""
        self.before, self._session_begins, self._on_begun = before, session_begins, on_begun
        self.dropped = 0
        """How many points are no longer kept because of it."""
        self._open, self._vm_id, self._job, self._agent_id = open_, vm_id, job, agent_id
        self._config, self._block = open_.settings.history, block
        self._start: Start | None = None
        self.begun = False
        """Its start is written down: its end will be, too."""

    def begin(self) -> None:
        """Write down that it begins; called when everything is ready for the code and nothing of it has run."""
        self._started_at = datetime.now(UTC)
        if self._config.enabled:
            with self._open.store.transaction() as tx:
                self._start = self._open.history.begin(
                    tx,
                    execution_id=self._job.id,
                    vm_id=self._vm_id,
                    agent_id=self._agent_id,
                    language=self._job.language.name,
                    code=self._job.code,
                    started_at=self._started_at,
                    before=self.before.id,
                    block=self._block,
                    session=self._job.session,
                    session_begins=self._session_begins,
                )
        self.begun = True
        if self._on_begun is not None:
            self._on_begun(self._job.id)

    def write(
        self,
        outcome: Outcome,
        *,
        taken: Taken | None,
        live: dict[str, Any] | None = None,
        rolled_back: bool = False,
    ) -> tuple[Execution, Point]:
        """The execution, and the point the vm stands on now."""
        with self._open.store.transaction() as tx:
            after = self._point(tx, taken) if taken is not None else None
            execution = self._execution(outcome, after, rolled_back)
            if self._config.enabled:
                self._open.history.finish(tx, execution, self._start)
            tip = self.before if rolled_back or after is None else after
            if taken is not None:
                self._open.registry.set_live(tx, self._vm_id, live or taken.live, tip=tip.id)
                self._list_snapshots(tx, execution)
            if rolled_back:
                self._note_rollback(tx, after)
            return execution, tip

    def _point(self, tx: Transaction, taken: Taken) -> Point:
        execution_id = self._job.id if self._config.enabled else None
        return write_point(self._open, tx, self._vm_id, taken, self.before.id, execution_id)

    def _execution(self, outcome: Outcome, after: Point | None, rolled_back: bool) -> Execution:
        return Execution(
            id=self._job.id,
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
            session=self._job.session,
            displays=outcome.displays,
            displays_bytes=outcome.displays_bytes,
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
                execution_id=self._job.id if self._config.enabled else None,
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

    def forget_old(self) -> None:
        """Beyond `max_history_entries`, this one included, output and state of the oldest go; the rows stay.

        Called while the code runs, so that it costs nothing; a short execution would have to wait for it, so it is
        done for several at once, as soon as there is a twentieth too many. A store that cannot be written to now
        cannot be at the end either, and says so then.
        """
        limit = self._config.max_history_entries
        with suppress(HistoryError):
            if self._config.enabled and not self._open.history.exceeds(self._vm_id, limit - 1 + limit // _SLACK):
                return  # reading alone: the lock for writing is not taken
            with self._open.store.transaction() as tx:
                needless = self._no_longer_needed(tx)
                self.dropped = len(self._open.timeline.drop_states(tx, needless))

    def _no_longer_needed(self, tx: Transaction) -> list[str]:
        limit = self._config.max_history_entries
        if self._config.enabled:
            return self._open.history.trim(tx, self._vm_id, limit - 1)
        self._open.timeline.expire_snapshots(tx, self._vm_id, (), limit)
        return self._open.history.needless(self._vm_id)


def write_point(
    open_: Opened, tx: Transaction, vm_id: str, taken: Taken, parent_id: str | None, execution_id: str | None
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


async def recover(open_: Opened, vm: BackendVm, tip: Point) -> Point:
    """Of a vm whose process died in an execution: end that, and undo it. Returns the point it stands on now."""
    for start in open_.history.unfinished(vm.id):
        before = open_.timeline.get_point(start.before) if start.before else tip
        if before.state is not None:
            await vm.go_to(before.state)
        with open_.store.transaction() as tx:
            open_.history.finish(tx, lost(start, before))
            open_.timeline.record_rollback(tx, vm_id=vm.id, from_point=tip.id, to_point=before.id, reason="auto")
            open_.registry.set_live(tx, vm.id, vm.live, tip=before.id)
        tip = before
    return tip


def note_lost_sessions(open_: Opened, vm_id: str, tip: Point | None) -> None:
    """A vm is being started: sessions that its last point had died with the process that held it."""
    names = (tip.state or {}).get("sessions") if tip else None
    ended = open_.registry.sessions_ended(vm_id) if names else None
    if tip and names and (ended is None or ended.at < tip.created_at):
        with open_.store.transaction() as tx:
            open_.registry.note_sessions_ended(tx, vm_id, names, "the process that held the vm died")


def write_rollback(
    open_: Opened, vm: BackendVm, tip: Point, target: Point, back: WentBack, *, snapshot_first: bool, agent_id: str
) -> Rollback:
    """A rollback that was asked for, and where asked for, a snapshot of what was before."""
    with open_.store.transaction() as tx:
        kept = None
        if snapshot_first:
            kept = open_.timeline.add_snapshot(
                tx, vm_id=vm.id, point_id=tip.id, kind="pre_rollback", agent_id=agent_id, is_tip=tip.state is not None
            )
        open_.registry.set_live(tx, vm.id, vm.live, tip=target.id)
        done = open_.timeline.record_rollback(
            tx,
            vm_id=vm.id,
            from_point=tip.id,
            to_point=target.id,
            reason="manual",
            snapshot_id=kept.id if kept else None,
            agent_id=agent_id,
        )
    return replace(done, sessions=back.sessions, lost=back.lost, gone=back.gone)


def no_outcome(error: str) -> Outcome:
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


def lost(start: Start, before: Point) -> Execution:
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
        session=start.session,
    )
