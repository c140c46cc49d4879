"""What a vm was and can be again, points, snapshots and rollbacks, and what follows from the tree of points.

Pure: `timeline.py` has them in tables.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

SnapshotKind = Literal["pre_execution", "post_execution", "failure", "manual", "pre_rollback"]
Reason = Literal["manual", "auto"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """What a vm was at a moment."""

    id: str
    vm_id: str
    parent_id: str | None
    """The vm's tip when it was taken; None: the first."""
    execution_id: str | None
    """The execution that left it; None: it was taken by itself."""
    created_at: datetime
    method: str
    """How the backend took it."""
    written_bytes: int
    """What taking it wrote to the disk."""
    state: dict[str, Any] | None
    """What the backend needs to go back to it; None: no longer kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A point with a kind, listed and kept."""

    id: str
    vm_id: str
    point_id: str
    kind: SnapshotKind
    name: str | None
    """Unique among the listed snapshots of its vm."""
    created_at: datetime
    execution_id: str | None
    """The execution that it was taken for."""
    agent_id: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rebuilt:
    """A session that was made anew."""

    session: str
    executions: int
    """So many were run again."""
    differences: tuple[str, ...]
    """Where something else came out than the first time, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollback:
    """A vm that was put back."""

    vm_id: str
    from_point: str | None
    """Its tip before; None: it had none."""
    to_point: str
    snapshot_id: str | None
    """The snapshot taken of what it was before, where one was."""
    reason: Reason
    agent_id: str | None
    at: datetime
    sessions: tuple[str, ...] = ()
    """Live sessions whose variables went back, too. These three are told once, and not kept."""
    lost: tuple[str, ...] = ()
    """Live sessions that ended: the point is older than they are, or has only files."""
    gone: tuple[str, ...] = ()
    """What did not come back, in words: threads and child processes of sessions, files open for writing."""
    rebuilt: tuple[Rebuilt, ...] = ()
    """Sessions that were made anew by running again what they had run."""


def live_points(points: Iterable[Point], checkpoints: Collection[str]) -> frozenset[str]:
    """Those whose sessions can all be gone back to, when these checkpoints are there. Points without are none."""
    found = [(point.id, (point.state or {}).get("sessions")) for point in points]
    return frozenset(name for name, sessions in found if sessions and set(sessions.values()) <= set(checkpoints))
