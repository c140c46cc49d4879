"""The tables of points, snapshots and rollbacks: the tree of what a vm was.

Points are only added; a rollback adds a row and moves the vm's tip, and deletes nothing. A point whose
state is dropped stays in the tree, and cannot be gone back to.
"""

import json
from collections.abc import Collection, Iterable
from typing import Any, Literal

from rewindbox.chain import canonical, digest
from rewindbox.errors import InvalidArgument, SnapshotNotFound
from rewindbox.ids import PREFIX_MIN, id_bounds, new_id
from rewindbox.points import Point, Reason, Rollback, Snapshot, SnapshotKind
from rewindbox.registry import check_name
from rewindbox.schema import POINT_ADDED, ROLLED_BACK, SNAPSHOT_ADDED, SNAPSHOT_REMOVED, STATE_DROPPED
from rewindbox.store import Row, Store, Transaction, Value, from_us, now_us

_TABLES: dict[Literal["pt", "snap"], str] = {"pt": "points", "snap": "listed"}
_WORDS = {"pt": "point", "snap": "snapshot"}
_LISTED = "with listed as (select * from snapshots where id not in (select snapshot_id from removals)) "
_CHOOSE = "choose one that the vm's list of snapshots shows"


class Timeline:
    """The points of one store. Writes take the open transaction, so that they can go together."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add_point(
        self,
        tx: Transaction,
        *,
        vm_id: str,
        parent_id: str | None,
        method: str,
        written_bytes: int,
        state: dict[str, Any],
        execution_id: str | None = None,
        point_id: str | None = None,
    ) -> Point:
        """Add a point; `point_id` None makes an id. Moving the tip to it is `Registry.set_live`."""
        text = canonical(state)
        row: dict[str, Value] = {
            "id": point_id or new_id("pt"),
            "vm_id": vm_id,
            "parent_id": parent_id,
            "execution_id": execution_id,
            "created_us": now_us(),
            "method": method,
            "written_bytes": written_bytes,
            "state_sha256": digest(text),
        }
        tx.add(POINT_ADDED, str(row["id"]), row, state=text)
        return _point(row, state)

    def get_point(self, point_id: str) -> Point:
        """By its whole id, whether or not its state is kept. Raises SnapshotNotFound."""
        rows = self._store.rows("select * from points where id = ?", (point_id,))
        if not rows:
            raise SnapshotNotFound(f"no point has the id {point_id!r}", remedy=_CHOOSE)
        return _read_point(rows[0])

    def points(
        self,
        vm_id: str,
        *,
        kept_only: bool = False,
        among: Collection[str] | None = None,
        newer_than: str | None = None,
        limit: int | None = None,
    ) -> list[Point]:
        """The points of a vm, oldest first; `kept_only`: those with a state; `among`: of these ids.

        `newer_than`: that were taken after this point. Raises SnapshotNotFound: it is none of the vm's.
        """
        kept = " and state is not null" if kept_only else ""
        narrowed, ids = _among("id", among)
        sql = f"select * from points where vm_id = ?{kept}{narrowed} and seq > ? order by seq limit ?"  # noqa: S608 (ours)
        seq = 0 if newer_than is None else self._one("pt", vm_id, newer_than)["seq"]
        rows = self._store.rows(sql, (vm_id, *ids, seq, -1 if limit is None else limit))
        return [_read_point(row) for row in rows]

    def apart(self, one: str | None, other: str | None) -> tuple[list[str], list[str]]:
        """The executions that led to one point and not to the other, and the other way round; newest first.

        As many steps as that are: from the younger of the two to its parent, which is always older, until they meet.
        """
        ways: tuple[list[str], list[str]] = ([], [])
        ends = [self._older(one), self._older(other)]
        while ends[0] != ends[1]:
            way, end = max(enumerate(ends), key=lambda pair: pair[1]["seq"] if pair[1] else 0)
            assert end is not None
            if end["execution_id"] is not None:
                ways[way].append(end["execution_id"])
            ends[way] = self._older(end["parent_id"], end["seq"])
        return ways

    def _older(self, point_id: str | None, than: int = 2**63 - 1) -> Row | None:
        """A row of a point, None where it is not older: so a damaged tree cannot make us go round for ever."""
        sql = "select id, seq, parent_id, execution_id from points where id = ? and seq < ?"
        rows = [] if point_id is None else self._store.rows(sql, (point_id, than))
        return rows[0] if rows else None

    def kept_states(self, vm_id: str) -> list[dict[str, Any]]:
        """The state of every point that can be gone back to, for the backend's sweep.

        The vm's live state is not among them: add `VmRecord.live`.
        """
        rows = self._store.rows("select state from points where vm_id = ? and state is not null", (vm_id,))
        return [json.loads(row["state"]) for row in rows]

    def named_states(self, vm_id: str) -> list[dict[str, Any]]:
        """Of the points of a vm that somebody has made a snapshot of."""
        asked = {snapshot.point_id for snapshot in self.list_snapshots(vm_id) if snapshot.kind == "manual"}
        return [point.state for point in self.points(vm_id, among=asked) if point.state]

    def drop_states(self, tx: Transaction, point_ids: Iterable[str]) -> list[str]:
        """Forget the states of these points; returns the ids of those that had one.

        Decides nothing: a tip or a snapshotted point loses its state as well, if it is named here.
        """
        sql = "update points set state = null where id = ? and state is not null"
        dropped = [point_id for point_id in point_ids if tx.execute(sql, (point_id,)).rowcount]
        for point_id in dropped:
            tx.append(STATE_DROPPED, point_id, {})
        return dropped

    def add_snapshot(
        self,
        tx: Transaction,
        *,
        vm_id: str,
        point_id: str,
        kind: SnapshotKind,
        name: str | None = None,
        execution_id: str | None = None,
        agent_id: str | None = None,
        is_tip: bool = False,
    ) -> Snapshot:
        """List a point, and keep its state for as long. `is_tip`: the caller knows that it is the vm's, and kept.

        Raises:
            InvalidArgument: the name is not one (see `registry.check_name`), or is taken in this vm.
            SnapshotNotFound: no such point in this vm, or its state is gone.
        """
        if not is_tip:
            self.resolve(vm_id, point_id)
        if name is not None:
            check_name(name, "snapshot name")
            if taken := self._named(vm_id, name):
                remedy = "choose another, or remove that snapshot"
                raise InvalidArgument(f"snapshot name {name!r} is taken by {taken[0]['id']}", remedy=remedy)
        row: dict[str, Value] = {
            "id": new_id("snap"),
            "vm_id": vm_id,
            "point_id": point_id,
            "kind": kind,
            "name": name,
            "created_us": now_us(),
            "execution_id": execution_id,
            "agent_id": agent_id,
        }
        tx.add(SNAPSHOT_ADDED, str(row["id"]), row)
        return _snapshot(row)

    def list_snapshots(self, vm_id: str, *, among: Collection[str] | None = None) -> list[Snapshot]:
        """The snapshots of a vm that were not removed, oldest first; `among`: of these points."""
        narrowed, ids = _among("point_id", among)
        sql = f"{_LISTED}select * from listed where vm_id = ?{narrowed} order by seq"  # noqa: S608 (our own conditions)
        return [_snapshot(dict(row)) for row in self._store.rows(sql, (vm_id, *ids))]

    def remove_snapshot(self, tx: Transaction, vm_id: str, ref: str) -> Snapshot:
        """No longer list a snapshot, given by id, unique prefix or name. Point and execution stay.

        Raises SnapshotNotFound.
        """
        snapshot = self._find_snapshot(vm_id, ref)
        tx.add(SNAPSHOT_REMOVED, snapshot.id, {"snapshot_id": snapshot.id, "removed_us": now_us()})
        return snapshot

    def expire_snapshots(
        self, tx: Transaction, vm_id: str, execution_ids: Collection[str], max_others: int
    ) -> set[str]:
        """Remove snapshots that nobody asked for, once they are old; returns their points.

        Those of `execution_ids` go, and of those without an execution (`pre_rollback`) all but the newest
        `max_others`. Kind `manual` stays until somebody removes it.
        """
        automatic = [snapshot for snapshot in self.list_snapshots(vm_id) if snapshot.kind != "manual"]
        others = [snapshot for snapshot in automatic if snapshot.execution_id is None]
        old = [snapshot for snapshot in automatic if snapshot.execution_id in execution_ids]
        old += others[: max(0, len(others) - max_others)]
        for snapshot in old:
            self.remove_snapshot(tx, vm_id, snapshot.id)
        return {snapshot.point_id for snapshot in old}

    def record_rollback(
        self,
        tx: Transaction,
        *,
        vm_id: str,
        from_point: str | None,
        to_point: str,
        reason: Reason,
        snapshot_id: str | None = None,
        agent_id: str | None = None,
    ) -> Rollback:
        """Note that a vm was put back. Moving the tip is `Registry.set_live`."""
        row: dict[str, Value] = {
            "vm_id": vm_id,
            "from_point": from_point,
            "to_point": to_point,
            "snapshot_id": snapshot_id,
            "reason": reason,
            "agent_id": agent_id,
            "at_us": now_us(),
        }
        tx.add(ROLLED_BACK, vm_id, row)
        return _rollback(row)

    def rollbacks(self, vm_id: str) -> list[Rollback]:
        """The rollbacks of a vm, oldest first."""
        rows = self._store.rows("select * from rollbacks where vm_id = ? order by seq", (vm_id,))
        return [_rollback(dict(row)) for row in rows]

    def resolve(self, vm_id: str, ref: str) -> Point:
        """The point to go back to; its state is never None.

        Args:
            ref: A point's id, a snapshot's id, a unique prefix of either (6 characters or more after its
                kind), or the name of a snapshot.

        Raises:
            SnapshotNotFound: none or several, of another vm, removed, or no longer kept; the text says which.
        """
        if ref.startswith("pt_"):
            point = _read_point(self._one("pt", vm_id, ref))
        else:
            point = self.get_point(self._find_snapshot(vm_id, ref).point_id)
        if point.state is None:
            raise SnapshotNotFound(
                f"the state of {point.id} is no longer kept",
                remedy=f"{_CHOOSE}; `max_history_entries` says how many are kept",
            )
        return point

    def _find_snapshot(self, vm_id: str, ref: str) -> Snapshot:
        if ref.startswith("snap_"):
            return _snapshot(dict(self._one("snap", vm_id, ref)))
        named = self._named(vm_id, ref)
        if not named:
            raise SnapshotNotFound(f"{vm_id} has no snapshot named {ref!r}", remedy=_CHOOSE)
        return _snapshot(dict(named[0]))

    def _named(self, vm_id: str, name: str) -> list[Row]:
        return self._store.rows(f"{_LISTED}select * from listed where vm_id = ? and name = ?", (vm_id, name))  # noqa: S608 (our own text)

    def _one(self, kind: Literal["pt", "snap"], vm_id: str, ref: str) -> Row:
        """The row of the only point or snapshot of this vm whose id begins with `ref`."""
        bounds = id_bounds(kind, ref)
        if bounds is None:
            raise SnapshotNotFound(f"{ref!r} is no id", remedy=f"give `{kind}_` and {PREFIX_MIN} characters or more")
        sql = f"{_LISTED}select * from {_TABLES[kind]} where id >= ? and id < ?"  # noqa: S608 (our own names)
        found = self._store.rows(sql, bounds)
        mine = [row for row in found if row["vm_id"] == vm_id]
        if len(mine) == 1:
            return mine[0]
        if mine:
            raise SnapshotNotFound(f"several ids begin with {ref!r}", remedy="give more characters of the id")
        if found:
            text = f"{found[0]['id']} belongs to another vm, {found[0]['vm_id']}, not to {vm_id}"
            raise SnapshotNotFound(text, remedy=_CHOOSE)
        removed = kind == "snap" and self._store.rows("select 1 from snapshots where id = ?", (ref,))
        text = f"{ref} was removed" if removed else f"no {_WORDS[kind]} has the id {ref!r}"
        raise SnapshotNotFound(text, remedy=_CHOOSE)


def _among(column: str, ids: Collection[str] | None) -> tuple[str, tuple[str, ...]]:
    """One more condition of a WHERE, and its values; none for None."""
    if ids is None:
        return "", ()
    # As one JSON value: the number of parameters of a statement is limited, to 999 in older SQLites.
    return f" and {column} in (select value from json_each(?))", (json.dumps(list(ids)),)  # noqa: S608 (ours)


def _read_point(row: Row) -> Point:
    return _point(dict(row), None if row["state"] is None else json.loads(row["state"]))


def _point(row: dict[str, Any], state: dict[str, Any] | None) -> Point:
    return Point(
        id=row["id"],
        vm_id=row["vm_id"],
        parent_id=row["parent_id"],
        execution_id=row["execution_id"],
        created_at=from_us(row["created_us"]),
        method=row["method"],
        written_bytes=row["written_bytes"],
        state=state,
    )


def _snapshot(row: dict[str, Any]) -> Snapshot:
    return Snapshot(
        id=row["id"],
        vm_id=row["vm_id"],
        point_id=row["point_id"],
        kind=row["kind"],
        name=row["name"],
        created_at=from_us(row["created_us"]),
        execution_id=row["execution_id"],
        agent_id=row["agent_id"],
    )


def _rollback(row: dict[str, Any]) -> Rollback:
    return Rollback(
        vm_id=row["vm_id"],
        from_point=row["from_point"],
        to_point=row["to_point"],
        snapshot_id=row["snapshot_id"],
        reason=row["reason"],
        agent_id=row["agent_id"],
        at=from_us(row["at_us"]),
    )
