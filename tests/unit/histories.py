"""A history to write to: vms, executions and points as if they had been."""

from datetime import UTC, datetime

from rewindbox.execution import Execution
from rewindbox.history import History
from rewindbox.ids import new_id
from rewindbox.registry import Registry
from rewindbox.store import Store
from rewindbox.timeline import Timeline

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def whole(tmp_path):
    """A fixture: a store, with which nothing is wrong at the end of the test."""
    opened = Store(str(tmp_path / "history.db"))
    yield opened
    assert opened.verify() == []
    opened.close()


def history_of(store):
    """A fixture."""
    return History(store)


def box_of(store):
    """A fixture: the id of a vm in it."""
    return make_vm(store, "box")


def make_vm(store, name):
    with store.transaction() as tx:
        return Registry(store).create(tx, name, vm_type="host", backend="namespace", agent_id="me").id


def begin(store, vm_id, **more):
    told = {"agent_id": "me", "language": "python", "code": "print(1)", "started_at": T0, **more}
    with store.transaction() as tx:
        return History(store).begin(tx, vm_id=vm_id, **told)


def ended(start, **more):
    """The execution of `start`, a success of 10 ms unless told otherwise."""
    told = {
        "ended": "exit",
        "exit_code": 0,
        "stdout_bytes": b"1\n",
        "stderr_bytes": b"",
        "truncated": False,
        "wall_s": 0.01,
        "cpu_s": 0.005,
        "memory_peak_bytes": 9_000_000,
        "error": None,
        "after": None,
    }
    same = {name: getattr(start, name) for name in ("id", "vm_id", "agent_id", "language", "code", "session", "before")}
    return Execution(**{**same, "started_at": start.started_at, **told, **more})


def finish(store, execution):
    with store.transaction() as tx:
        History(store).finish(tx, execution)
    return execution


def run(store, vm_id, *, after=False, exit_code=0, **more):
    """Begin and end one execution; `after`: with a point, which becomes the tip."""
    tip = Registry(store).find(vm_id).tip
    start = begin(store, vm_id, **{"before": tip, **more})
    with store.transaction() as tx:
        point_id = None
        if after:
            point_id = new_id("pt")
            Timeline(store).add_point(
                tx,
                vm_id=vm_id,
                parent_id=tip,
                method="copy",
                written_bytes=0,
                state={},
                execution_id=start.id,
                point_id=point_id,
            )
            Registry(store).set_live(tx, vm_id, {}, tip=point_id)
        execution = ended(start, exit_code=exit_code, after=point_id)
        History(store).finish(tx, execution)
    return execution


def ids(found):
    return [execution.id for execution in found]


def answer(history, **asked):
    page = history.query(**asked)
    assert page.note is None
    return page.entries, page.total
