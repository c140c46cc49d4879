"""Executions: found again, by id, by conditions, and the success to go back to."""

from datetime import datetime, timedelta, timezone

import pytest
from histories import T0, answer, begin, box_of, ended, finish, history_of, ids, make_vm, run, whole

from rewindbox.errors import UnknownExecution, ValidationFailed
from rewindbox.registry import Registry
from rewindbox.timeline import Timeline

store, history, vm_id = pytest.fixture(whole), pytest.fixture(history_of), pytest.fixture(box_of)

# --- finding


def test_get_by_prefix(store, history, vm_id):
    """An execution is found by its id and by a unique prefix; what is not found says why."""
    execution = run(store, vm_id)
    for ref in (execution.id, execution.id[:9], execution.id[:-1]):
        assert history.get(ref) == execution
    for ref, said in [
        ("ex_14", "'ex_14' is no id; give `ex_` and 6 characters or more"),
        ("", "is no id"),
        (execution.id[3:], "is no id"),
        ("ex_aaaaaaaaaaaaaaaaa", "no execution has the id"),
        (execution.id + "a", "no execution has the id"),
    ]:
        with pytest.raises(UnknownExecution, match=said):
            history.get(ref)


def test_get_prefix_of_several(store, history, vm_id, monkeypatch):
    """A prefix of two ids is refused, and asks for more characters."""
    made = iter(["ex_" + "a" * 25 + "b", "ex_" + "a" * 25 + "c"])
    monkeypatch.setattr("rewindbox.history.new_id", lambda kind: next(made))
    first, second = run(store, vm_id), run(store, vm_id)
    with pytest.raises(UnknownExecution, match=r"several ids begin with .*; give more characters"):
        history.get("ex_aaaaaaaaa")
    assert (history.get(first.id), history.get(second.id)) == (first, second)


@pytest.fixture
def twelve(store):
    """Twelve executions of two vms, a minute apart; every third fails; agents and languages alternate."""
    vms = [make_vm(store, "one"), make_vm(store, "two")]
    return [
        run(
            store,
            vms[n % 2],
            agent_id=f"agent{n % 3}",
            language=("python", "bash")[n // 6],
            exit_code=int(n % 3 == 2),
            started_at=T0 + timedelta(minutes=n),
        )
        for n in range(12)
    ]


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ({}, range(12)),
        ({"vm_id": 0}, range(0, 12, 2)),
        ({"vm_id": 1, "failures_only": True}, [5, 11]),
        ({"failures_only": True}, [2, 5, 8, 11]),
        ({"agent_id": "agent1"}, [1, 4, 7, 10]),
        ({"agent_id": "agent1", "failures_only": True}, []),
        ({"agent_id": "agent1", "vm_id": 0, "language": "bash"}, [10]),
        ({"language": "bash"}, range(6, 12)),
        ({"language": "BASH"}, []),
        ({"since": T0 + timedelta(minutes=3)}, range(3, 12)),
        ({"until": T0 + timedelta(minutes=3)}, range(4)),
        ({"since": T0 + timedelta(minutes=3), "until": T0 + timedelta(minutes=3)}, [3]),
        ({"since": T0 + timedelta(minutes=3, microseconds=1), "until": T0 + timedelta(minutes=4)}, [4]),
        ({"since": T0 + timedelta(minutes=4), "until": T0 + timedelta(minutes=3)}, []),
        ({"since": (T0 + timedelta(minutes=9)).astimezone(timezone(timedelta(hours=14)))}, [9, 10, 11]),
        ({"until": (T0 + timedelta(minutes=2)).astimezone(timezone(timedelta(hours=-12)))}, [0, 1, 2]),
        ({"vm_id": "vm_none"}, []),
    ],
)
@pytest.mark.parametrize("page", [(100, 0), (None, 0), (2, 0), (2, 1), (0, 0), (None, 3), (5, 50)])
def test_query(history, twelve, asked, numbers, page):
    """A query gives the newest first, its page of them, and the true total of all that match."""
    limit, offset = page
    if isinstance(asked.get("vm_id"), int):
        asked = {**asked, "vm_id": twelve[asked["vm_id"]].vm_id}
    matching = [twelve[n] for n in reversed(numbers)]
    found, total = answer(history, **asked, limit=limit, offset=offset)
    assert found == matching[offset:][:limit]
    assert total == len(matching)


@pytest.mark.parametrize(
    "asked",
    [
        {"since": datetime(2026, 1, 1)},
        {"until": datetime(2026, 1, 1)},
        {"limit": -1},
        {"offset": -1},
        {"limit": 2**70},
    ],
)
def test_bad_query(history, asked):
    """A time without a timezone and a number that is no count are refused."""
    with pytest.raises(ValidationFailed):
        history.query(**asked)


def test_equal_times_keep_their_order(store, history, vm_id):
    """Executions that started in the same microsecond come in the order of recording, newest first."""
    made = [run(store, vm_id) for _ in range(5)]
    assert ids(answer(history)[0]) == ids(made)[::-1]


# --- the success to go back to


def test_last_success_is_the_nearest_above_the_tip(store, history, vm_id):
    """Of the successes with a kept point, the nearest at or above the tip is taken, not the newest."""
    assert history.last_success(vm_id) is None
    run(store, vm_id)
    assert history.last_success(vm_id) is None
    good = run(store, vm_id, after=True)
    assert history.last_success(vm_id) == good
    run(store, vm_id, after=True, exit_code=1)
    assert history.last_success(vm_id) == good
    aside = run(store, vm_id, after=True)
    assert history.last_success(vm_id) == aside
    with store.transaction() as tx:
        Registry(store).set_live(tx, vm_id, {}, tip=good.after)
    run(store, vm_id, after=True, exit_code=1)
    assert history.last_success(vm_id) == good


def test_last_success_elsewhere_in_the_tree(store, history, vm_id):
    """Where no kept point above the tip is a success, the newest recorded one is taken."""
    root = Timeline(store)
    with store.transaction() as tx:
        base = root.add_point(tx, vm_id=vm_id, parent_id=None, method="copy", written_bytes=0, state={})
        Registry(store).set_live(tx, vm_id, {}, tip=base.id)
    run(store, vm_id, after=True, started_at=T0 + timedelta(days=1))
    newest = run(store, vm_id, after=True)
    with store.transaction() as tx:
        Registry(store).set_live(tx, vm_id, {}, tip=base.id)
    assert history.last_success(vm_id) == newest
    with store.transaction() as tx:
        Timeline(store).drop_states(tx, [newest.after, newest.before])
    assert history.last_success(vm_id) is None


def test_last_success_is_of_its_vm(store, history, vm_id):
    """A success of another vm is never taken."""
    other = make_vm(store, "other")
    run(store, other, after=True)
    run(store, vm_id, after=True, exit_code=1)
    assert history.last_success(vm_id) is None


def test_last_success_of_a_shared_point(store, history, vm_id):
    """Where several successes left the same point, the newest of them is taken."""
    first = run(store, vm_id, after=True)
    second = finish(store, ended(begin(store, vm_id, before=first.after), after=first.after))
    assert history.last_success(vm_id) == second
