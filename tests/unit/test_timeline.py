"""Points, snapshots, rollbacks, and the vms that they are of."""

import sqlite3
from contextlib import closing

import pytest
from histories import T0, begin

from rewindbox.errors import HistoryError, SnapshotNotFound, UnknownVm, ValidationFailed
from rewindbox.history import History
from rewindbox.registry import Registry
from rewindbox.store import Store
from rewindbox.timeline import Timeline


@pytest.fixture
def store():
    opened = Store(None)
    yield opened
    assert opened.verify() == []
    opened.close()


@pytest.fixture
def timeline(store):
    return Timeline(store)


@pytest.fixture
def registry(store):
    return Registry(store)


def make_vm(store, name="box", agent_id="me"):
    with store.transaction() as tx:
        return Registry(store).create(tx, name, vm_type="host", backend="namespace", agent_id=agent_id).id


def make_point(store, vm_id, parent_id=None, **more):
    settings = {"method": "copy", "written_bytes": 12, "state": {"layers": ["a", 1, None]}, **more}
    with store.transaction() as tx:
        return Timeline(store).add_point(tx, vm_id=vm_id, parent_id=parent_id, **settings)


def make_snapshot(store, vm_id, point_id, **more):
    with store.transaction() as tx:
        return Timeline(store).add_snapshot(
            tx, vm_id=vm_id, point_id=point_id, **{"kind": "manual", "name": None, **more}
        )


# --- vms


@pytest.mark.parametrize("name", ["a", "A-1", "0", "_x", "a.b_c-d", "x" * 64, "vm", "VM_x"])
def test_good_names(store, registry, name):
    """A name of 1 to 64 letters, digits, dots, underscores and hyphens finds its vm."""
    vm_id = make_vm(store, name)
    assert registry.find(name).id == vm_id


@pytest.mark.parametrize(
    "name", ["", "-a", ".a", "a b", "a/b", "ä", "a\n", "x" * 65, "vm_x", "ex_x", "pt_", "snap_1", "a\0", "٣"]
)
def test_bad_names(store, name):
    """Any other name is refused with the rule, and no vm is made."""
    with pytest.raises(ValidationFailed, match=r"vm name .*; use 1 to 64 letters"):
        make_vm(store, name)
    assert Registry(store).list(removed=True) == []


def test_taken_name(store, registry):
    """A name is one vm's until that vm is removed; then it is free, and the old vm is found by id."""
    first = make_vm(store, "a")
    with pytest.raises(ValidationFailed, match=f"taken by {first}; choose another"):
        make_vm(store, "a")
    with store.transaction() as tx:
        registry.remove(tx, first)
        registry.remove(tx, first)
    second = make_vm(store, "a")
    assert registry.find("a").id == registry.find("a", removed=True).id == second
    assert registry.find(first, removed=True).removed
    with pytest.raises(UnknownVm, match=r"\(a\) was removed; `rewindbox vms list` shows them"):
        registry.find(first)
    assert [vm.id for vm in registry.list()] == [second]
    assert [vm.id for vm in registry.list(removed=True)] == [first, second]


def test_get_or_create(store, registry):
    """The second to ask for a name gets the vm of the first, with the first's agent."""
    with store.transaction() as tx:
        made = registry.get_or_create(tx, "a", vm_type="host", backend="namespace", agent_id="one")
        got = registry.get_or_create(tx, "a", vm_type="other", backend="qemu", agent_id="two")
    assert made[1] and not got[1]
    assert made[0] == got[0]


def test_find(store, registry):
    """A vm is found by name, id and unique prefix; what is not found says how vms are listed."""
    vm_id = make_vm(store, "a")
    for ref in ("a", vm_id, vm_id[:9], vm_id[:20]):
        assert registry.find(ref).id == vm_id
    for ref in ("", "b", vm_id[:8], vm_id + "a", "vm_", "ex_" + vm_id[3:], "VM_" + vm_id[3:], "vm_%%%%%%%"):
        with pytest.raises(UnknownVm, match=r"no vm has the name or id .*; `rewindbox vms list` shows them"):
            registry.find(ref)


def test_ambiguous_prefix(store, registry, monkeypatch):
    """A prefix of two ids is refused, and asks for more characters."""
    made = iter(["vm_" + "a" * 25 + "b", "vm_" + "a" * 25 + "c"])
    monkeypatch.setattr("rewindbox.registry.new_id", lambda kind: next(made))
    make_vm(store, "one")
    make_vm(store, "two")
    with pytest.raises(UnknownVm, match=r"several ids begin with .*; give more characters"):
        registry.find("vm_aaaaaaa")
    assert registry.find("vm_" + "a" * 25 + "c").name == "two"


def test_live_state_and_tip(store, registry):
    """Live state and tip come back as they were given; a tip stays until another is given."""
    vm_id = make_vm(store)
    fresh = registry.find(vm_id)
    assert (fresh.tip, fresh.live, fresh.last_activity) == (None, None, None)
    point = make_point(store, vm_id)
    with store.transaction() as tx:
        registry.set_live(tx, vm_id, {"upper": "x", "é": [1.5, None]}, tip=point.id)
        registry.set_live(tx, vm_id, {"upper": "y"})
    vm = registry.find(vm_id)
    assert (vm.tip, vm.live) == (point.id, {"upper": "y"})
    assert vm.last_activity is not None and vm.last_activity >= vm.created_at
    with store.transaction() as tx:
        registry.touch(tx, vm_id)
        registry.remove(tx, vm_id)
    vm = registry.find(vm_id, removed=True)
    assert (vm.tip, vm.live, vm.removed) == (point.id, None, True)


def test_tip_must_exist(store, registry):
    """A tip that is no point is refused when the transaction ends."""
    vm_id = make_vm(store)
    with pytest.raises(HistoryError, match="a row contradicts the others"), store.transaction() as tx:
        registry.set_live(tx, vm_id, {}, tip="pt_none")
    assert registry.find(vm_id).tip is None


def test_list_of_an_agent(store, registry):
    """Vms are listed oldest first, all of them or one agent's."""
    ids = [make_vm(store, f"vm{n}", agent_id="ab"[n % 2]) for n in range(4)]
    assert [vm.id for vm in registry.list()] == ids
    assert [vm.id for vm in registry.list(agent_id="b")] == ids[1::2]
    assert registry.list(agent_id="c") == []


# --- points


def test_point_comes_back(store, timeline):
    """A point comes back as it was added, and its state as JSON gives it."""
    vm_id = make_vm(store)
    first = make_point(store, vm_id, state={"layers": ["é", 1, 0.5, None], "on": True})
    second = make_point(store, vm_id, first.id, point_id="pt_mine")
    assert timeline.get_point(first.id) == first
    assert timeline.get_point("pt_mine") == second
    assert timeline.points(vm_id) == [first, second]
    assert timeline.points(vm_id, among=[second.id, "pt_none"]) == [second]
    assert timeline.points(vm_id, among=[]) == []
    assert timeline.kept_states(vm_id) == [first.state, second.state]
    with pytest.raises(SnapshotNotFound, match="no point has the id 'pt_none'"):
        timeline.get_point("pt_none")


@pytest.mark.parametrize("field", ["vm_id", "parent_id", "execution_id"])
def test_point_of_nothing(store, field):
    """A point of a vm, parent or execution that is not there is refused."""
    told = {"vm_id": make_vm(store), "parent_id": None, "execution_id": None, field: "none"}
    with pytest.raises(HistoryError, match="a row contradicts the others"):
        make_point(store, **told)


def test_dropped_state(store, timeline):
    """Dropping a state keeps the point in the tree; it cannot be gone back to, and the text says so."""
    vm_id = make_vm(store)
    kept, gone = make_point(store, vm_id), make_point(store, vm_id)
    snapshot = make_snapshot(store, vm_id, gone.id, name="old")
    with store.transaction() as tx:
        assert timeline.drop_states(tx, [gone.id, "pt_none"]) == [gone.id]
        assert timeline.drop_states(tx, [gone.id]) == []
    assert timeline.get_point(gone.id).state is None
    assert timeline.points(vm_id, kept_only=True) == [kept]
    assert timeline.kept_states(vm_id) == [kept.state]
    for ref in (gone.id, snapshot.id, "old"):
        with pytest.raises(SnapshotNotFound, match=f"the state of {gone.id} is no longer kept"):
            timeline.resolve(vm_id, ref)
    with pytest.raises(SnapshotNotFound, match="no longer kept"):
        make_snapshot(store, vm_id, gone.id)


# --- snapshots


@pytest.mark.parametrize("kind", ["pre_execution", "post_execution", "failure", "manual", "pre_rollback"])
def test_snapshot_comes_back(store, timeline, kind):
    """A snapshot of each kind is listed as it was added, until it is removed; its point stays."""
    vm_id = make_vm(store)
    point = make_point(store, vm_id)
    snapshot = make_snapshot(store, vm_id, point.id, kind=kind, name="x", agent_id="me")
    assert (snapshot.kind, snapshot.name, snapshot.agent_id, snapshot.point_id) == (kind, "x", "me", point.id)
    assert timeline.list_snapshots(vm_id) == [snapshot]
    assert timeline.list_snapshots(vm_id, among=["pt_none"]) == []
    with store.transaction() as tx:
        assert timeline.remove_snapshot(tx, vm_id, "x") == snapshot
    assert timeline.list_snapshots(vm_id) == []
    assert timeline.points(vm_id) == [point]
    for ref in (snapshot.id, "x"):
        with pytest.raises(SnapshotNotFound), store.transaction() as tx:
            timeline.remove_snapshot(tx, vm_id, ref)
    with pytest.raises(SnapshotNotFound, match="was removed"):
        timeline.resolve(vm_id, snapshot.id)


def test_snapshot_names(store):
    """A name is one snapshot's in its vm until that is removed; other vms may have it too."""
    one, two = make_vm(store, "one"), make_vm(store, "two")
    first = make_snapshot(store, one, make_point(store, one).id, name="clean")
    with pytest.raises(ValidationFailed, match=f"'clean' is taken by {first.id}; choose another"):
        make_snapshot(store, one, first.point_id, name="clean")
    make_snapshot(store, two, make_point(store, two).id, name="clean")
    with pytest.raises(ValidationFailed, match="snapshot name 'a b'"):
        make_snapshot(store, one, first.point_id, name="a b")
    with store.transaction() as tx:
        Timeline(store).remove_snapshot(tx, one, first.id[:11])
    make_snapshot(store, one, first.point_id, name="clean")


def test_resolve(store, timeline):
    """A point is found by its id, a snapshot's id, a prefix of either, and a snapshot's name."""
    vm_id = make_vm(store)
    point = make_point(store, vm_id)
    snapshot = make_snapshot(store, vm_id, point.id, name="clean")
    for ref in (point.id, point.id[:9], snapshot.id, snapshot.id[:11], "clean"):
        assert timeline.resolve(vm_id, ref) == point


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("nothing", "has no snapshot named 'nothing'"),
        ("", "has no snapshot named ''"),
        ("pt_aaaaaaaa", "no point has the id 'pt_aaaaaaaa'"),
        ("pt_aaa", "'pt_aaa' is no id; give `pt_` and 6 characters"),
        ("snap_aaaaaa", "no snapshot has the id 'snap_aaaaaa'"),
        ("snap_", "'snap_' is no id; give `snap_` and 6 characters"),
    ],
)
def test_resolve_unknown(store, timeline, ref, said):
    """What means no point says what was looked for."""
    with pytest.raises(SnapshotNotFound, match=said):
        timeline.resolve(make_vm(store), ref)


def test_resolve_of_another_vm(store, timeline):
    """A point or snapshot of another vm is refused and named as such; a name is looked for in one vm only."""
    mine, theirs = make_vm(store, "mine"), make_vm(store, "theirs")
    point = make_point(store, theirs)
    snapshot = make_snapshot(store, theirs, point.id, name="clean")
    for ref in (point.id, point.id[:10], snapshot.id):
        with pytest.raises(SnapshotNotFound, match=f"belongs to another vm, {theirs}, not to {mine}"):
            timeline.resolve(mine, ref)
    with pytest.raises(SnapshotNotFound, match="has no snapshot named 'clean'"):
        timeline.resolve(mine, "clean")
    with pytest.raises(SnapshotNotFound, match="belongs to another vm"):
        make_snapshot(store, mine, point.id)


def test_resolve_prefix_of_several(store, timeline):
    """A prefix of several of a vm's points is refused; points of other vms do not make it so."""
    mine, theirs = make_vm(store, "mine"), make_vm(store, "theirs")
    first = make_point(store, mine, point_id="pt_aaaaaabbb")
    make_point(store, theirs, point_id="pt_aaaaaaccc")
    assert timeline.resolve(mine, "pt_aaaaaa") == first
    make_point(store, mine, point_id="pt_aaaaaaddd")
    with pytest.raises(SnapshotNotFound, match="several ids begin with 'pt_aaaaaa'; give more"):
        timeline.resolve(mine, "pt_aaaaaa")


def test_rollback_comes_back(store, timeline, registry):
    """A rollback is listed as it was noted, and deletes neither points nor snapshots."""
    vm_id = make_vm(store)
    first = make_point(store, vm_id)
    second = make_point(store, vm_id, first.id)
    snapshot = make_snapshot(store, vm_id, second.id, kind="pre_rollback")
    with store.transaction() as tx:
        noted = timeline.record_rollback(
            tx, vm_id=vm_id, from_point=second.id, to_point=first.id, snapshot_id=snapshot.id, reason="manual"
        )
        registry.set_live(tx, vm_id, {}, tip=first.id)
    assert timeline.rollbacks(vm_id) == [noted]
    assert timeline.points(vm_id) == [first, second]
    assert timeline.list_snapshots(vm_id) == [snapshot]
    with pytest.raises(HistoryError, match="a row contradicts"), store.transaction() as tx:
        timeline.record_rollback(tx, vm_id=vm_id, from_point=None, to_point="pt_none", reason="auto")


# --- the tree


#    a - b - c - d
#         \\
#          e - f
PARENTS = {"a": None, "b": "a", "c": "b", "d": "c", "e": "b", "f": "e"}


@pytest.fixture
def tree(store):
    """Points as above, each left by an execution, but for `e`; name -> ids of point and execution."""
    vm_id, ids = make_vm(store), {None: (None, None)}
    for name, parent in PARENTS.items():
        execution_id = None if name == "e" else begin(store, vm_id).id
        ids[name] = make_point(store, vm_id, ids[parent][0], execution_id=execution_id).id, execution_id
    return ids


@pytest.mark.parametrize(
    ("one", "other", "led_here", "led_there"),
    [
        ("d", "b", "dc", ""),
        ("b", "d", "", "dc"),
        ("d", "f", "dc", "f"),
        ("e", "c", "", "c"),
        ("c", "c", "", ""),
        ("d", "a", "dcb", ""),
        (None, "c", "", "cba"),
        ("b", None, "ba", ""),
        (None, None, "", ""),
    ],
)
def test_apart(timeline, tree, one, other, led_here, led_there):
    """What led to one point and not to another is told newest first, for both, also where nothing did."""
    ways = timeline.apart(tree[one][0], tree[other][0])
    assert ways == ([tree[name][1] for name in led_here], [tree[name][1] for name in led_there])


def test_apart_comes_to_an_end(tmp_path):
    """In a file in which somebody made a ring of points, too."""
    path = str(tmp_path / "history.db")
    with closing(Store(path)) as store:
        vm_id = make_vm(store)
        runs = [begin(store, vm_id).id for _ in range(2)]
        first = make_point(store, vm_id, execution_id=runs[0])
        second = make_point(store, vm_id, first.id, execution_id=runs[1])
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("update points set parent_id = ? where id = ?", (second.id, first.id))
        assert Timeline(store).apart(first.id, None) == (runs[:1], [])
        assert Timeline(store).apart(second.id, None) == (runs[::-1], [])


def test_apart_of_a_long_line(store, timeline):
    """A thousand executions back are a thousand steps, each of which is told once."""
    vm_id, tip, runs, history = make_vm(store), None, [], History(store)
    told = {"vm_id": vm_id, "agent_id": "me", "language": "bash", "code": "true", "started_at": T0}
    with store.transaction() as tx:
        for _ in range(1000):
            runs.append(history.begin(tx, **told).id)
            left = {"method": "same", "written_bytes": 0, "state": {}, "execution_id": runs[-1]}
            tip = timeline.add_point(tx, vm_id=vm_id, parent_id=tip, **left).id
    first = timeline.points(vm_id, limit=1)[0].id
    assert timeline.apart(tip, first) == (runs[:0:-1], [])
    assert timeline.apart(first, tip) == ([], runs[:0:-1])
