"""Things as JSON: what `--json` prints, one document or one line each. docs/cli.md has the shapes."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rewindbox.execution import rfc3339

if TYPE_CHECKING:
    from rewindbox.backends.base import FileChange
    from rewindbox.points import Rollback, Snapshot
    from rewindbox.preview import Preview
    from rewindbox.registry import SessionsEnded, VmRecord


def document(value: Any) -> str:
    """A JSON document, ASCII only: as safe on a terminal as in a pipe."""
    return json.dumps(value, indent=2) + "\n"


def line(value: Any) -> str:
    """A line of JSON Lines, as safe as a document."""
    return json.dumps(value) + "\n"


def vm_as_dict(record: "VmRecord", holder: int | str | None, sessions: Sequence[str] = ()) -> dict[str, Any]:
    """The documented JSON shape of a vm."""
    return {
        "id": record.id,
        "name": record.name,
        "vm_type": record.vm_type,
        "backend": record.backend,
        "agent_id": record.agent_id,
        "created_at": rfc3339(record.created_at),
        "last_activity": rfc3339(record.last_activity) if record.last_activity else None,
        "tip": record.tip,
        "in_use_by": holder,
        "sessions": list(sessions),
    }


def sessions_ended_as_dict(ended: "SessionsEnded | None") -> dict[str, Any]:
    """The documented JSON shape of the end of live sessions, in that of a vm."""
    told = None if ended is None else {"at": rfc3339(ended.at), "sessions": ended.sessions, "reason": ended.reason}
    return {"sessions_ended": told}


def snapshot_as_dict(snapshot: "Snapshot") -> dict[str, Any]:
    """The documented JSON shape of a snapshot."""
    return {
        "snapshot_id": snapshot.id,
        "vm_id": snapshot.vm_id,
        "point_id": snapshot.point_id,
        "kind": snapshot.kind,
        "name": snapshot.name,
        "created_at": rfc3339(snapshot.created_at),
        "execution_id": snapshot.execution_id,
        "agent_id": snapshot.agent_id,
    }


def preview_as_dict(preview: "Preview") -> dict[str, Any]:
    """The documented JSON shape of what a rollback would do."""
    told = None if preview.files is None else [_file_change_as_dict(file) for file in preview.files]
    return {
        "vm_id": preview.vm_id,
        "from_point": preview.from_point,
        "to_point": preview.to_point,
        "undone": list(preview.undone),
        "redone": list(preview.redone),
        "live": preview.live,
        "files": told,
        "is_complete": preview.is_complete,
    }


def _file_change_as_dict(file: "FileChange") -> dict[str, Any]:
    return {"path": name_as_text(file.path), "change": file.change, "kind": file.kind, "size_bytes": file.size_bytes}


def name_as_text(name: str) -> str:
    """The name of a file, which code may have given any bytes: those that are not UTF-8 are replaced."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def rollback_as_dict(rollback: "Rollback") -> dict[str, Any]:
    """The documented JSON shape of a rollback."""
    return {
        "vm_id": rollback.vm_id,
        "from_point": rollback.from_point,
        "to_point": rollback.to_point,
        "snapshot_id": rollback.snapshot_id,
        "reason": rollback.reason,
        "agent_id": rollback.agent_id,
        "at": rfc3339(rollback.at),
        "sessions": list(rollback.sessions),
        "lost": list(rollback.lost),
        "gone": list(rollback.gone),
        "rebuilt": [
            {"session": entry.session, "executions": entry.executions, "differences": list(entry.differences)}
            for entry in rollback.rebuilt
        ],
    }


def pool_row(
    vm_id: str, holder: int | None, record: "VmRecord | None" = None, executions: int | None = None
) -> dict[str, Any]:
    """The documented JSON shape of a vm of the pool; without a record it is nobody's."""
    return {
        "id": vm_id,
        "name": record and record.name,
        "agent_id": record and record.agent_id,
        "state": "ready" if record is None else "running" if holder else "stopped",
        "in_use_by": holder,
        "executions": executions,
        "created_at": record and rfc3339(record.created_at),
    }
