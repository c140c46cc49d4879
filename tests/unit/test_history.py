"""Executions: begun, ended, and trimmed."""

import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from histories import T0, answer, begin, box_of, ended, finish, history_of, ids, make_vm, run, whole

import rewindbox.store as store_module
from rewindbox.errors import HistoryError, Internal, UnknownExecution, ValidationFailed
from rewindbox.history import History
from rewindbox.registry import Registry
from rewindbox.store import Store
from rewindbox.timeline import Timeline

store, history, vm_id = pytest.fixture(whole), pytest.fixture(history_of), pytest.fixture(box_of)

# --- beginning and ending


def test_begun_is_unfinished(store, history, vm_id):
    """What has begun is found as unfinished, with all it was begun with, until it ends."""
    start = begin(store, vm_id, block=3, code="x = 'é'\0\n")
    assert (start.block, start.pid, start.code) == (3, os.getpid(), "x = 'é'\0\n")
    assert history.unfinished(vm_id) == history.unfinished() == [start]
    assert history.unfinished("vm_none") == []
    assert answer(history) == ([], 0)
    with pytest.raises(UnknownExecution, match="has not ended; ask again"):
        history.get(start.id)
    finish(store, ended(start))
    assert history.unfinished(vm_id) == []


@pytest.mark.parametrize(
    "outcome",
    [
        {},
        {"stdout_bytes": b"\0\xff\xfe\n\r\0" * 1000, "stderr_bytes": b"\xed\xa0\x80"},
        {"stdout_bytes": b"x" * 3_000_000, "truncated": True, "ended": "output", "exit_code": 137},
        {"ended": "timeout", "exit_code": 124, "error": "Execution timeout after 30000ms"},
        {"ended": "signal", "exit_code": 139},
        {"ended": "killed", "exit_code": 137, "error": "é\0\n"},
        {"exit_code": -1, "wall_s": 0.0, "cpu_s": 1e-9, "memory_peak_bytes": 2**62},
        {"wall_s": 3, "cpu_s": -0.0},
    ],
)
def test_execution_comes_back(store, history, vm_id, outcome):
    """An execution comes back as it ended, its output byte for byte."""
    execution = finish(store, ended(begin(store, vm_id), **outcome))
    assert history.get(execution.id) == execution
    assert answer(history) == ([execution], 1)


def test_points_of_an_execution_come_back(store, history, vm_id):
    """Points before, after and rolled back to come back, added before or after the end in one transaction."""
    first = run(store, vm_id, after=True)
    start = begin(store, vm_id, before=first.after)
    execution = ended(start, after="pt_later", rolled_back_to=first.after)
    with store.transaction() as tx:
        history.finish(tx, execution)
        Timeline(store).add_point(
            tx,
            vm_id=vm_id,
            parent_id=first.after,
            method="copy",
            written_bytes=0,
            state={},
            point_id="pt_later",
        )
    assert history.get(execution.id) == execution


def test_point_that_is_not_there(store, history, vm_id):
    """An end that names a point which is never added is refused, and the execution stays unfinished."""
    start = begin(store, vm_id)
    with pytest.raises(HistoryError, match="a row contradicts the others"):
        finish(store, ended(start, after="pt_none"))
    assert history.unfinished() == [start]


def test_error_that_is_no_unicode(store, history, vm_id):
    """A record is kept though a name in its error text is no Unicode; the name is escaped."""
    execution = finish(store, ended(begin(store, vm_id), error="no file \udcff", ended="killed", exit_code=137))
    assert history.get(execution.id).error == "no file \\udcff"


def test_code_that_is_no_unicode(store, history, vm_id):
    """Code that cannot be stored as it is is refused before it runs."""
    with pytest.raises(ValidationFailed, match="is no Unicode text; remove it"):
        begin(store, vm_id, code="print('\ud800')")
    assert history.unfinished() == []


def test_start_without_zone(store, vm_id):
    """A start without a timezone is refused."""
    with pytest.raises(ValidationFailed, match="no timezone"):
        begin(store, vm_id, started_at=datetime(2026, 1, 1))


def test_end_without_begin(store, vm_id):
    """An execution that was not begun cannot end."""
    start = begin(store, vm_id)
    with pytest.raises(UnknownExecution, match="was not begun"):
        finish(store, replace(ended(start), id="ex_other"))


def test_end_twice(store, history, vm_id):
    """An execution ends once; the first end stays."""
    execution = finish(store, ended(begin(store, vm_id)))
    with pytest.raises(HistoryError, match="has ended before"):
        finish(store, replace(execution, exit_code=1))
    assert history.get(execution.id) == execution


@pytest.mark.parametrize(
    "other",
    [
        {"vm_id": "vm_other"},
        {"agent_id": "other"},
        {"language": "bash"},
        {"code": "print(2)"},
        {"started_at": T0 + timedelta(microseconds=1)},
        {"before": "pt_other"},
    ],
)
def test_end_of_another(store, history, vm_id, other):
    """An end that contradicts its begin is a bug that is named, and changes nothing."""
    start = begin(store, vm_id)
    for known in (None, start):
        with pytest.raises(Internal, match="was begun with"), store.transaction() as tx:
            history.finish(tx, replace(ended(start), **other), known)
    assert history.unfinished() == [start]


# --- trimming


def test_trim(store, history, vm_id):
    """Beyond so many executions the oldest lose their output, and say so; the rest is untouched."""
    other = run(store, make_vm(store, "other"))
    made = [run(store, vm_id, after=True) for _ in range(5)]
    with store.transaction() as tx:
        needless = history.trim(tx, vm_id, 2)
    found, total = answer(history, vm_id=vm_id)
    assert total == 5
    assert found[:2] == made[:2:-1]
    bare = [replace(old, stdout_bytes=b"", stderr_bytes=b"", output_dropped=True) for old in made[2::-1]]
    assert found[2:] == bare
    assert history.get(other.id) == other
    assert sorted(needless) == sorted([made[0].after, made[1].after])  # made[2].after is where made[3] began


def test_trim_by_order_of_recording(store, history, vm_id):
    """A clock that was put back does not make the newest execution the oldest."""
    old = run(store, vm_id, started_at=T0 + timedelta(days=1))
    new = run(store, vm_id, started_at=T0)
    with store.transaction() as tx:
        history.trim(tx, vm_id, 1)
    assert history.get(old.id).output_dropped
    assert history.get(new.id) == new


def test_trim_twice(store, history, vm_id):
    """A second trim finds nothing to do, and a higher limit brings nothing back."""
    made = [run(store, vm_id, after=True) for _ in range(4)]
    assert [history.exceeds(vm_id, kept) for kept in (2, 3, 4)] == [True, True, False]
    with store.transaction() as tx:
        assert history.trim(tx, vm_id, 2) == [made[0].after]
        Timeline(store).drop_states(tx, [made[0].after])
    head = store.head()
    assert [history.exceeds(vm_id, kept) for kept in (1, 2)] == [True, False]
    with store.transaction() as tx:
        assert history.trim(tx, vm_id, 2) == history.trim(tx, vm_id, 100) == []
    assert store.head() == head


def test_trim_spares_what_is_needed(store, history, vm_id):
    """A point with a snapshot, the tip, and the ends of newer executions are not returned."""
    made = [run(store, vm_id, after=True) for _ in range(4)]
    with store.transaction() as tx:
        Timeline(store).add_snapshot(tx, vm_id=vm_id, point_id=made[0].after, kind="manual")
        Registry(store).set_live(tx, vm_id, {}, tip=made[1].after)
        assert history.trim(tx, vm_id, 0) == [made[2].after, made[3].after]


def test_trims_leave_nothing_needless(store, history, vm_id):
    """One at a time they give up, together, all that the vm as it is then has no need for."""
    returned = []
    for n in range(12):
        run(store, vm_id, after=n % 4 != 3)
        with store.transaction() as tx:
            returned += Timeline(store).drop_states(tx, history.trim(tx, vm_id, 3))
    timeline = Timeline(store)
    assert history.needless(vm_id) == []
    assert len(returned) == len(timeline.points(vm_id)) - len(timeline.points(vm_id, kept_only=True)) > 0


def test_trim_of_nonsense(store, history, vm_id):
    """A negative limit is refused."""
    with pytest.raises(ValidationFailed, match="max_entries is -1"), store.transaction() as tx:
        history.trim(tx, vm_id, -1)


def test_trim_of_many(store, history, vm_id):
    """Trimming thousands at once is no more than trimming one."""
    with store.transaction() as tx:
        for n in range(1500):
            start = history.begin(
                tx,
                vm_id=vm_id,
                agent_id="me",
                language="bash",
                code=str(n),
                started_at=T0 + timedelta(seconds=n),
            )
            point = Timeline(store).add_point(
                tx, vm_id=vm_id, parent_id=None, method="copy", written_bytes=0, state={"n": n}
            )
            history.finish(tx, ended(start, after=point.id))
        assert len(history.trim(tx, vm_id, 10)) == 1490
    assert sum(not execution.output_dropped for execution in history.query(limit=None).entries) == 10


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_of_an_older_version(tmp_path, monkeypatch, version):
    """A history of an older version is brought up to date when it is opened; nothing of it changes, all is found."""
    path = str(tmp_path / "old.db")
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "STEPS", store_module.STEPS[:2])
        with closing(Store(path)) as old:
            vm_id = make_vm(old, "box")
            execution = run(old, vm_id)
    with closing(sqlite3.connect(path)) as db:
        for table, column in (
            (
                ("starts", "session"),
                ("starts", "session_begins"),
                ("executions", "displays_sha256"),
                ("outputs", "displays"),
            )
            if version == 1
            else ()
        ):
            db.execute(f"alter table {table} drop column {column}")
        db.execute(f"pragma user_version = {version}")
        db.commit()
    with closing(Store(path)) as again:
        assert again.verify() == []
        assert History(again).get(execution.id) == execution
        later = run(again, vm_id)
        assert answer(History(again), vm_id=vm_id) == ([later, execution], 2)
        assert answer(History(again), text="PRINT(1") == ([later, execution], 2)
        assert again.verify() == []


def test_what_is_long_is_read_a_few_at_a_time(store, history, vm_id, monkeypatch):
    """All of them in order, however much they wrote; no more at once than is enough."""
    made = [run(store, vm_id, exit_code=code) for code in range(7)]
    monkeypatch.setattr("rewindbox.history._MANY_BYTES", 3 * made[0].size_bytes)
    found, last, sizes = [], 0, []
    while part := history.after(last):
        found += [execution.id for _, execution in part]
        last = part[-1][0]
        sizes.append(len(part))
    assert (found, sizes) == (ids(made), [3, 3, 1])
