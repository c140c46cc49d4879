"""History against a simple model of it, and against everybody who edits the file."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rewindbox.chain import entry_hash
from rewindbox.errors import HistoryError, SnapshotNotFound
from rewindbox.execution import Ended, Execution
from rewindbox.history import History, HistoryPage
from rewindbox.ids import new_id
from rewindbox.points import Point, Snapshot
from rewindbox.registry import Registry
from rewindbox.rows import Start
from rewindbox.schema import FACTS
from rewindbox.store import Store, Transaction
from rewindbox.timeline import Timeline

T0 = datetime(2026, 1, 1, tzinfo=UTC)
AGENTS = ("ann", "bob")
LANGUAGES = ("python", "bash")
OUTPUTS = st.binary(max_size=20)
MOMENTS = st.integers(0, 10).map(lambda minute: T0 + timedelta(minutes=minute))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@dataclass
class ModelVm:
    """What a vm should be: the simplest lists that can say it."""

    id: str
    tip: str | None = None
    running: list[Start] = field(default_factory=list)
    ended: list[tuple[int, Execution]] = field(default_factory=list)
    """With the number of their begin."""
    points: dict[str, Point] = field(default_factory=dict)
    snapshots: list[Snapshot] = field(default_factory=list)

    def needed(self) -> set[str | None]:
        """What may not be dropped."""
        kept = [execution for _, execution in self.ended if not execution.output_dropped]
        ends = {point for execution in kept for point in (execution.before, execution.after)}
        begun = {start.before for start in self.running}
        return ends | begun | {self.tip} | {snapshot.point_id for snapshot in self.snapshots}


class HistoryMachine(RuleBasedStateMachine):
    """Whatever is done in whatever order, the store answers as the model does."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.vms: list[ModelVm] = []
        self.begun: dict[str, int] = {}
        self.open()
        self.add_vm()

    def open(self) -> None:
        self.store = Store(os.path.join(self.folder, "history.db"))
        self.registry, self.history = Registry(self.store), History(self.store)
        self.timeline = Timeline(self.store)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @precondition(lambda self: len(self.vms) < 3)
    @rule()
    def add_vm(self) -> None:
        with self.store.transaction() as tx:
            name = f"vm{len(self.vms)}"
            vm = self.registry.create(tx, name, vm_type="host", backend="namespace", agent_id="ann")
        self.vms.append(ModelVm(vm.id))

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.open()

    @rule(
        data=st.data(),
        agent=st.sampled_from(AGENTS),
        language=st.sampled_from(LANGUAGES),
        code=TEXTS,
        at=MOMENTS,
    )
    def begin(self, data: st.DataObject, agent: str, language: str, code: str, at: datetime) -> None:
        vm = data.draw(st.sampled_from(self.vms))
        with self.store.transaction() as tx:
            start = self.history.begin(
                tx, vm_id=vm.id, agent_id=agent, language=language, code=code, started_at=at, before=vm.tip
            )
        self.begun[start.id] = len(self.begun)
        vm.running.append(start)

    @precondition(lambda self: any(vm.running for vm in self.vms))
    @rule(
        data=st.data(),
        out=OUTPUTS,
        err=OUTPUTS,
        exit_code=st.sampled_from([0, 0, 1]),
        seconds=st.floats(0, 1e6),
        error=st.none() | TEXTS,
        with_point=st.booleans(),
    )
    def finish(self, data: st.DataObject, out: bytes, err: bytes, with_point: bool, **more: Any) -> None:
        vm = data.draw(st.sampled_from([vm for vm in self.vms if vm.running]))
        start = vm.running.pop(data.draw(st.integers(0, len(vm.running) - 1)))
        seconds = more.pop("seconds")
        execution = Execution(
            **{name: getattr(start, name) for name in _SAME},
            ended="exit",
            stdout_bytes=out,
            stderr_bytes=err,
            truncated=False,
            wall_s=seconds,
            cpu_s=seconds / 3,
            memory_peak_bytes=int(seconds),
            after=new_id("pt") if with_point else None,
            **more,
        )
        with self.store.transaction() as tx:
            self.history.finish(tx, execution)
            if execution.after is not None:
                self.add_point(tx, vm, execution)
        vm.ended.append((self.begun[start.id], execution))

    def add_point(self, tx: Transaction, vm: ModelVm, execution: Execution) -> None:
        point = self.timeline.add_point(
            tx,
            vm_id=vm.id,
            parent_id=vm.tip,
            method="copy",
            written_bytes=1,
            state={"of": execution.id},
            execution_id=execution.id,
            point_id=execution.after,
        )
        vm.points[point.id] = point
        vm.tip = point.id
        self.registry.set_live(tx, vm.id, {"on": point.id}, tip=point.id)

    @rule(data=st.data())
    def break_off(self, data: st.DataObject) -> None:
        vm = data.draw(st.sampled_from(self.vms))
        told = {"agent_id": "ann", "language": "bash", "code": "", "started_at": T0}
        with suppress(KeyError), self.store.transaction() as tx:
            self.history.begin(tx, vm_id=vm.id, **told)
            self.history.trim(tx, vm.id, 0)
            self.timeline.drop_states(tx, vm.points)
            self.registry.remove(tx, vm.id)
            raise KeyError

    @precondition(lambda self: any(vm.points for vm in self.vms))
    @rule(data=st.data(), named=st.booleans())
    def snapshot(self, data: st.DataObject, named: bool) -> None:
        vm = data.draw(st.sampled_from([vm for vm in self.vms if vm.points]))
        point = vm.points[data.draw(st.sampled_from(list(vm.points)))]
        name = f"s{len(vm.snapshots)}-{len(self.begun)}" if named else None
        if name in {snapshot.name for snapshot in vm.snapshots}:
            name = None
        try:
            with self.store.transaction() as tx:
                made = self.timeline.add_snapshot(tx, vm_id=vm.id, point_id=point.id, kind="manual", name=name)
        except SnapshotNotFound:
            assert point.state is None
        else:
            assert point.state is not None
            vm.snapshots.append(made)

    @precondition(lambda self: any(vm.snapshots for vm in self.vms))
    @rule(data=st.data())
    def remove_snapshot(self, data: st.DataObject) -> None:
        vm = data.draw(st.sampled_from([vm for vm in self.vms if vm.snapshots]))
        snapshot = vm.snapshots.pop(data.draw(st.integers(0, len(vm.snapshots) - 1)))
        with self.store.transaction() as tx:
            assert self.timeline.remove_snapshot(tx, vm.id, snapshot.name or snapshot.id) == snapshot

    @precondition(lambda self: any(vm.points for vm in self.vms))
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        vm = data.draw(st.sampled_from([vm for vm in self.vms if vm.points]))
        point = vm.points[data.draw(st.sampled_from(list(vm.points)))]
        if point.state is None:
            return
        with self.store.transaction() as tx:
            self.timeline.record_rollback(tx, vm_id=vm.id, from_point=vm.tip, to_point=point.id, reason="manual")
            self.registry.set_live(tx, vm.id, {"on": point.id}, tip=point.id)
        vm.tip = point.id

    @rule(data=st.data(), max_entries=st.integers(0, 5), everything=st.booleans())
    def trim(self, data: st.DataObject, max_entries: int, everything: bool) -> None:
        vm = data.draw(st.sampled_from(self.vms))
        kept = sorted((pair for pair in vm.ended if not pair[1].output_dropped), key=lambda pair: -pair[0])
        old = {execution.id for _, execution in kept[max_entries:]}
        touched = {p for _, execution in kept[max_entries:] for p in (execution.before, execution.after)}
        vm.ended = [(n, dropped(execution) if execution.id in old else execution) for n, execution in vm.ended]
        needless = {p for p in vm.points if vm.points[p].state is not None and p not in vm.needed()}
        with self.store.transaction() as tx:
            returned = self.history.trim(tx, vm.id, max_entries)
            assert set(returned) == needless & touched
            gone = self.history.needless(vm.id) if everything else returned
            assert not everything or set(gone) == needless
            assert self.timeline.drop_states(tx, gone) == gone
        for name in gone:
            vm.points[name] = replace(vm.points[name], state=None)

    @rule(
        data=st.data(),
        agent=st.none() | st.sampled_from(AGENTS),
        failures_only=st.booleans(),
        since=st.none() | MOMENTS,
        until=st.none() | MOMENTS,
        language=st.none() | st.sampled_from(LANGUAGES),
        ended=st.none() | st.sampled_from(get_args(Ended)),
        limit=st.none() | st.integers(0, 4),
        offset=st.integers(0, 4),
        max_bytes=st.none() | st.integers(0, 40),
    )
    def query(
        self, data: st.DataObject, agent: str | None, failures_only: bool, max_bytes: int | None, **asked: Any
    ) -> None:
        vm = data.draw(st.none() | st.sampled_from(self.vms))
        known = [(execution.started_at, number, execution) for one in self.vms for number, execution in one.ended]
        known += [(start.started_at, start.seq, start) for one in self.vms for start in one.running]
        past = data.draw(
            st.none() | st.sampled_from([each for each in known if agent in (None, each[2].agent_id)] or [None])
        )
        matching = [
            (execution.started_at, number, execution)
            for one in self.vms
            for number, execution in one.ended
            if (vm is None or execution.vm_id == vm.id)
            and (agent is None or execution.agent_id == agent)
            and not (failures_only and execution.success)
            and (asked["since"] is None or execution.started_at >= asked["since"])
            and (asked["until"] is None or execution.started_at <= asked["until"])
            and (asked["language"] is None or execution.language == asked["language"])
            and (asked["ended"] is None or execution.ended == asked["ended"])
        ]
        matching.sort(key=lambda found: found[:2], reverse=True)
        behind = [found for found in matching if past is None or found[:2] < past[:2]][asked["offset"] :]
        expected = [execution for *_, execution in behind[: asked["limit"]]]
        sizes = [sum(entry.size_bytes for entry in expected[: end + 1]) for end in range(len(expected))]
        if max_bytes is not None:
            expected = expected[: max(1, sum(size <= max_bytes for size in sizes))]
        following = expected[-1].id if 0 < len(expected) < len(behind) else None
        answer = self.history.query(
            vm_id=vm.id if vm else None,
            agent_id=agent,
            failures_only=failures_only,
            older_than=past and past[2].id,
            max_bytes=max_bytes,
            **asked,
        )
        assert answer == HistoryPage(entries=expected, total=len(matching), next=following)

    @invariant()
    def nothing_is_wrong_with_the_file(self) -> None:
        assert self.store.verify() == []

    @invariant()
    def vms_are_as_the_model_says(self) -> None:
        for vm in self.vms:
            assert self.registry.find(vm.id).tip == vm.tip
            assert self.history.unfinished(vm.id) == vm.running
            assert self.timeline.points(vm.id) == list(vm.points.values())
            assert self.timeline.list_snapshots(vm.id) == vm.snapshots
            assert self.history.last_success(vm.id) == expected_success(vm)
            states = [point.state for point in vm.points.values() if point.state is not None]
            assert self.timeline.kept_states(vm.id) == states
            for _, execution in vm.ended:
                assert self.history.get(execution.id) == execution

    @rule(data=st.data())
    def set_apart(self, data: st.DataObject) -> None:
        vm = data.draw(st.sampled_from(self.vms))
        one, other = (data.draw(st.sampled_from([None, *vm.points])) for _ in range(2))
        lines = line_above(vm, one), line_above(vm, other)
        led = [
            [name for point in line if point not in beside and (name := vm.points[point].execution_id)]
            for line, beside in (lines, lines[::-1])
        ]
        assert self.timeline.apart(one, other) == tuple(led)


_SAME = ("id", "vm_id", "agent_id", "language", "code", "started_at", "before")


def dropped(execution: Execution) -> Execution:
    return replace(execution, stdout_bytes=b"", stderr_bytes=b"", output_dropped=True)


def line_above(vm: ModelVm, name: str | None) -> list[str]:
    """A point and all above it, the root last."""
    line = []
    while name is not None:
        line.append(name)
        name = vm.points[name].parent_id
    return line


def expected_success(vm: ModelVm) -> Execution | None:
    """By looking at everything: the nearest at or above the tip, else the newest."""
    good = {
        execution.after: (number, execution)
        for number, execution in vm.ended
        if execution.success and execution.after and vm.points[execution.after].state is not None
    }
    for name in line_above(vm, vm.tip):
        if name in good:
            return good[name][1]
    return max(good.values(), key=lambda pair: pair[0])[1] if good else None


HistoryMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestHistoryMachine = HistoryMachine.TestCase


# --- whoever edits the file


def fill(store: Store) -> None:
    """Every kind of fact, more than once, and something of everything that may be dropped."""
    registry, history, timeline = Registry(store), History(store), Timeline(store)
    for name in ("one", "two"):
        with store.transaction() as tx:
            vm = registry.create(tx, name, vm_type="host", backend="namespace", agent_id="me")
        tip: str | None = None
        for n in range(4):
            told = {"vm_id": vm.id, "agent_id": f"agent{n % 2}", "language": "bash", "code": f"echo {n}"}
            with store.transaction() as tx:
                start = history.begin(tx, **told, started_at=T0 + timedelta(minutes=n), before=tip, block=n)
                point = timeline.add_point(
                    tx,
                    vm_id=vm.id,
                    parent_id=tip,
                    method="copy",
                    written_bytes=n,
                    state={"n": n},
                    execution_id=start.id,
                )
                execution = Execution(
                    **told, id=start.id, ended="exit", exit_code=n % 2, stdout_bytes=b"out%d" % n,
                    stderr_bytes=b"", truncated=False, started_at=start.started_at, wall_s=0.5 + n, cpu_s=0.25,
                    memory_peak_bytes=1000 + n, error=None, before=tip, after=point.id,
                )  # fmt: skip
                history.finish(tx, execution)
                snapshot = timeline.add_snapshot(tx, vm_id=vm.id, point_id=point.id, kind="manual", name=f"s{n}")
                registry.set_live(tx, vm.id, {"n": n}, tip=point.id)
                if tip:
                    timeline.record_rollback(
                        tx,
                        vm_id=vm.id,
                        from_point=point.id,
                        to_point=tip,
                        snapshot_id=snapshot.id,
                        reason="auto",
                    )
                if n < 2:
                    timeline.remove_snapshot(tx, vm.id, f"s{n}")
                timeline.drop_states(tx, history.trim(tx, vm.id, 2))
                tip = point.id
        with store.transaction() as tx:
            history.begin(tx, **{**told, "code": "sleep 9"}, started_at=T0, before=tip)
    with store.transaction() as tx:
        registry.remove(tx, vm.id)


@pytest.fixture(scope="module")
def full() -> Iterator[Store]:
    store = Store(None)
    fill(store)
    assert store.verify() == []
    store.rows("pragma foreign_keys = off")  # whoever edits the file need not respect them
    yield store
    assert store.verify() == []
    store.close()


TABLES = ["log", "outputs", "running", *(fact.table for fact in FACTS)]
FREE = {"vms": {"tip", "live", "last_activity_us"}}  # what changes in the course of things


class Undo(Exception):
    """Ends a transaction so that nothing of it is kept."""


def seen(store: Store, edit: Callable[[Transaction], object]) -> bool | None:
    """Whether `verify` finds what `edit` did; None: the schema itself did not let it happen."""
    found: bool | None = None
    with suppress(Undo), store.transaction() as tx:
        try:
            edit(tx)
        except HistoryError:
            raise Undo from None
        found = store.verify() != []
        raise Undo
    return found


def other_values(value: Any) -> list[Any]:
    """What a cell could be edited to."""
    if value is None:
        return ["x", 0]
    if isinstance(value, bytes):
        return [value + b"x", b"", value.decode()] if value else [b"x", ""]
    if isinstance(value, str):
        return [value + "x", value.swapcase(), "", None, 7, b"\xff", value.encode(), value[::-1]]
    return [value + 1, -value - 1, None, "x", value + 0.5]


def cells(store: Store) -> Iterator[tuple[str, int, str, Any]]:
    for table in TABLES:
        for row in store.rows(f"select rowid as at, * from {table}"):
            for column in set(row.keys()) - {"at"} - FREE.get(table, set()):
                yield table, row["at"], column, row[column]


def test_every_edit_is_found(full):
    """Any edit of any cell of the log, of a table of facts, or of kept content is found."""
    missed, tried = [], 0
    for table, at, column, value in cells(full):
        for other in other_values(value):
            if other == value:
                continue
            sql = f"update {table} set {column} = ? where rowid = ?"
            answer = seen(full, lambda tx, sql=sql, other=other, at=at: tx.execute(sql, (other, at)))
            tried += answer is not None
            if answer is False:
                missed.append((table, at, column, value, other))
    assert missed == []
    assert tried > 1000


@pytest.mark.parametrize("table", TABLES)
def test_every_deletion_is_found(full, table):
    """Any row that is deleted from the log or a table is missed."""
    numbers = [row[0] for row in full.rows(f"select rowid from {table}")]
    assert numbers
    sql = f"delete from {table} where rowid = ?"
    answers = [seen(full, lambda tx, n=n: tx.execute(sql, (n,))) for n in numbers]
    assert answers == [True] * len(numbers)


@pytest.mark.parametrize("table", TABLES)
def test_every_truncation_is_found(full, table):
    """A cut that takes the newest rows of the log or of one table, however many, is found."""
    numbers = [row[0] for row in full.rows(f"select rowid from {table}")]
    sql = f"delete from {table} where rowid >= ?"
    answers = [seen(full, lambda tx, n=n: tx.execute(sql, (n,))) for n in numbers]
    assert answers == [True] * len(numbers)


def swap(tx: Transaction, table: str, one: int, two: int) -> None:
    for old, new in ((one, -1), (two, one), (-1, two)):
        tx.execute(f"update {table} set rowid = ? where rowid = ?", (new, old))


@pytest.mark.parametrize("table", [table for table in TABLES if table != "running"])
def test_every_swap_is_found(full, table):
    """Any two rows that change places are found, wherever they differ in more than their place."""
    numbers = [row[0] for row in full.rows(f"select rowid from {table}")]
    pairs = [(one, two) for one in numbers for two in numbers if one < two and _differ(full, table, one, two)]
    answers = [seen(full, lambda tx, pair=pair: swap(tx, table, *pair)) for pair in pairs]
    assert answers == [True] * len(pairs)
    assert pairs


def _differ(store: Store, table: str, one: int, two: int) -> bool:
    """Two outputs that are the same bytes may change places: nobody could tell."""
    content = "vm_id, stdout, stderr" if table == "outputs" else "*"
    rows = [store.rows(f"select {content} from {table} where rowid = ?", (n,))[0] for n in (one, two)]
    return tuple(rows[0]) != tuple(rows[1])


def test_added_rows_are_found(full):
    """A copy of a row under another number is found, in the log and in every table."""
    for table in TABLES:
        columns = [row["name"] for row in full.rows(f"pragma table_info({table})")]
        key, others = columns[0], ", ".join(columns[1:])
        sql = f"insert into {table} select 999999, {others} from {table} limit 1"
        assert seen(full, lambda tx, sql=sql: tx.execute(sql)) in (True, None), (table, key)


def test_recomputed_chain_is_found(full):
    """An entry that was edited and the chain recomputed behind it no longer agrees with the tables."""

    def edit(tx: Transaction, seq: int) -> None:
        tx.execute("update log set body = replace(body, 'me', 'you') where seq = ?", (seq,))
        previous = "0" * 64
        for row in full.rows("select * from log order by seq"):
            previous = entry_hash(previous, *tuple(row)[:5])
            tx.execute("update log set hash = ? where seq = ?", (previous, row["seq"]))

    changed = [row[0] for row in full.rows("select seq from log where body like '%me%'")]
    assert [seen(full, lambda tx, seq=seq: edit(tx, seq)) for seq in changed] == [True] * len(changed)


def test_dropped_table_is_an_error(full):
    """A file without one of its tables cannot be verified, and says so."""
    with suppress(Undo), full.transaction() as tx:
        tx.execute("drop table rollbacks")
        with pytest.raises(HistoryError, match="no such table: rollbacks"):
            full.verify()
        raise Undo


@given(kept=st.integers(0, 3), code=TEXTS, out=OUTPUTS)
@settings(max_examples=25, deadline=None)
def test_dropping_output_keeps_the_chain(kept, code, out):
    """However much output was dropped, the chain verifies, and the executions are all there."""
    store = Store(None)
    with store.transaction() as tx:
        vm = Registry(store).create(tx, "a", vm_type="host", backend="namespace", agent_id="me")
        for _ in range(4):
            told = {"vm_id": vm.id, "agent_id": "me", "language": "bash", "code": code, "started_at": T0}
            start = History(store).begin(tx, **told)
            execution = Execution(
                **told, id=start.id, ended="exit", exit_code=0, stdout_bytes=out, stderr_bytes=out, truncated=False,
                wall_s=1.0, cpu_s=1.0, memory_peak_bytes=1, error=None, before=None, after=None,
            )  # fmt: skip
            History(store).finish(tx, execution)
        assert History(store).trim(tx, vm.id, kept) == []
    page = History(store).query()
    found, total = page.entries, page.total
    assert (total, sum(not execution.output_dropped for execution in found)) == (4, kept)
    assert store.verify() == []
    store.close()


def test_strangers_may_read(tmp_path):
    """The file is plain SQLite: any program can read an execution from it."""
    store = Store(str(tmp_path / "history.db"))
    fill(store)
    store.close()
    db = sqlite3.connect(tmp_path / "history.db")
    outputs = db.execute("select stdout from outputs join executions using (start_seq) where exit_code = 1").fetchall()
    assert outputs == [(b"out3",)] * 2
    db.close()
