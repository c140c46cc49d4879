"""The vms that exist: their names, what they are made of, and where each of them stands.

A vm's row is the one that changes: tip, live state, last activity, removed. All else in the store is added.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rewindbox.chain import canonical
from rewindbox.errors import InvalidArgument, TooManyVms, UnknownVm
from rewindbox.ids import PREFIX_MIN, id_bounds, new_id
from rewindbox.schema import SESSIONS_ENDED, VM_CREATED, VM_REMOVED
from rewindbox.store import Row, Store, Transaction, Value, from_us, now_us

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_ID_PREFIXES = ("vm_", "ex_", "pt_", "snap_")
_LIST = "`rewindbox vms list` shows them"


@dataclass(frozen=True, kw_only=True, slots=True)
class VmRecord:
    """A vm, as the database knows it."""

    id: str
    name: str
    vm_type: str
    backend: str
    agent_id: str
    """Who made it."""
    created_at: datetime
    last_activity: datetime | None
    """When its live state last changed or it was touched; None: never."""
    tip: str | None
    """The point it stands on; None: none was taken yet."""
    live: dict[str, Any] | None
    """What its backend needs to start it again; only the backend reads it."""
    removed: bool
    """Its files are gone; its history is not."""


def check_name(name: str, what: str = "vm name") -> None:
    """Names of vms and of snapshots. Raises InvalidArgument."""
    if _NAME.fullmatch(name) and not name.startswith(_ID_PREFIXES):
        return
    raise InvalidArgument(
        f"{what} {name!r}",
        remedy="use 1 to 64 letters, digits, `.`, `_` and `-`, beginning with neither `.`, `-` nor"
        f" one of {', '.join(_ID_PREFIXES)}",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionsEnded:
    """Live sessions of a vm ended together with its processes."""

    at: datetime
    sessions: str
    """Their names."""
    reason: str


class Registry:
    """The vms of one store. Writes take the open transaction, so that they can go together."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(
        self,
        tx: Transaction,
        name: str,
        *,
        vm_type: str,
        backend: str,
        agent_id: str,
        vm_id: str | None = None,
        at_most: int = 0,
    ) -> VmRecord:
        """Add a vm; `vm_id` None makes an id.

        Raises InvalidArgument: a bad name, or one that a vm has already. TooManyVms: the agent has `at_most` of them
        (0: any number).
        """
        check_name(name)
        if taken := self._by_name(name):
            raise InvalidArgument(
                f"vm name {name!r} is taken by {taken.id}", remedy="choose another, or remove that vm"
            )
        if at_most and (has := self._count(agent_id)) >= at_most:
            remedy = "remove some of them, or raise vms_per_agent"
            raise TooManyVms(f"agent {agent_id!r} has {has} vms, of at most {at_most}", remedy=remedy)
        row: dict[str, Value] = {
            "id": vm_id or new_id("vm"),
            "name": name,
            "vm_type": vm_type,
            "backend": backend,
            "agent_id": agent_id,
            "created_us": now_us(),
        }
        tx.add(VM_CREATED, str(row["id"]), row)
        return self.find(str(row["id"]))

    def get_or_create(
        self, tx: Transaction, name: str, *, vm_type: str, backend: str, agent_id: str, at_most: int = 0
    ) -> tuple[VmRecord, bool]:
        """The vm of that name, and whether it was made now; an existing one keeps its type and agent.

        Of several processes that ask at once, one makes it: the transaction is what they queue for. Raises as `create`.
        """
        found = self._by_name(name)
        if found is not None:
            return found, False
        return self.create(tx, name, vm_type=vm_type, backend=backend, agent_id=agent_id, at_most=at_most), True

    def _count(self, agent_id: str) -> int:
        sql = "select count(*) as number from vms where agent_id = ? and removed = 0"
        return int(self._store.rows(sql, (agent_id,))[0]["number"])

    def find(self, name_or_id: str, *, removed: bool = False) -> VmRecord:
        """By name, id, or a unique prefix of an id (`vm_` and 6 characters or more).

        `removed`: also among removed vms, by id only; a name is that of the vm that has it now.

        Raises:
            UnknownVm: no such vm, removed, or several begin so; the text says which.
        """
        found = [record] if (record := self._by_name(name_or_id)) else self._by_prefix(name_or_id)
        if len(found) > 1:
            raise UnknownVm(f"several ids begin with {name_or_id!r}", remedy="give more characters of the id")
        if not found:
            hint = f"; an id can be cut to `vm_` and {PREFIX_MIN} characters" if name_or_id.startswith("vm_") else ""
            raise UnknownVm(f"no vm has the name or id {name_or_id!r}", remedy=_LIST + hint)
        if found[0].removed and not removed:
            raise UnknownVm(f"{found[0].id} ({found[0].name}) was removed", remedy=_LIST)
        return found[0]

    def set_live(self, tx: Transaction, vm_id: str, live: dict[str, Any] | None, *, tip: str | None = None) -> None:
        """Note what the vm stands on now; `tip` None leaves the tip as it is. Counts as activity."""
        tx.execute(
            "update vms set live = ?, tip = coalesce(?, tip), last_activity_us = ? where id = ?",
            (None if live is None else canonical(live), tip, now_us(), vm_id),
        )

    def touch(self, tx: Transaction, vm_id: str) -> None:
        """Note that the vm was used now."""
        tx.execute("update vms set last_activity_us = ? where id = ?", (now_us(), vm_id))

    def note_sessions_ended(self, tx: Transaction, vm_id: str, names: Iterable[str], reason: str) -> None:
        """Live sessions of a vm are gone, and why."""
        tx.append(SESSIONS_ENDED, vm_id, {"sessions": ", ".join(sorted(names)), "reason": reason})

    def sessions_ended(self, vm_id: str) -> SessionsEnded | None:
        """The last time that live sessions of a vm ended without being asked to; None: never."""
        sql = "select at_us, body from log where kind = ? and subject = ? order by seq desc limit 1"
        rows = self._store.rows(sql, (SESSIONS_ENDED, vm_id))
        return SessionsEnded(at=from_us(rows[0]["at_us"]), **json.loads(rows[0]["body"])) if rows else None

    def remove(self, tx: Transaction, vm_id: str) -> None:
        """Its name is free again and its live state forgotten; history and points stay. Idempotent.

        The states of its points are the caller's to drop (`Timeline.drop_states`), with its files.
        """
        if tx.execute("update vms set removed = 1, live = null where id = ? and not removed", (vm_id,)).rowcount:
            tx.append(VM_REMOVED, vm_id, {})

    def _by_name(self, name: str) -> VmRecord | None:
        rows = self._store.rows("select * from vms where name = ? and removed = 0", (name,))
        return _record(rows[0]) if rows else None

    def _by_prefix(self, ref: str) -> list[VmRecord]:
        bounds = id_bounds("vm", ref)
        if bounds is None:
            return []
        return [_record(row) for row in self._store.rows("select * from vms where id >= ? and id < ? limit 2", bounds)]

    def list(self, *, agent_id: str | None = None, removed: bool = False) -> list[VmRecord]:
        """The vms, oldest first; of one agent, where `agent_id` says so; `removed`: with removed ones."""
        rows = self._store.rows(
            "select * from vms where (:agent is null or agent_id = :agent) and (:removed or not removed) order by seq",
            {"agent": agent_id, "removed": removed},
        )
        return [_record(row) for row in rows]


def _record(row: Row) -> VmRecord:
    activity = row["last_activity_us"]
    return VmRecord(
        id=row["id"],
        name=row["name"],
        vm_type=row["vm_type"],
        backend=row["backend"],
        agent_id=row["agent_id"],
        created_at=from_us(row["created_us"]),
        last_activity=None if activity is None else from_us(activity),
        tip=row["tip"],
        live=None if row["live"] is None else json.loads(row["live"]),
        removed=bool(row["removed"]),
    )
