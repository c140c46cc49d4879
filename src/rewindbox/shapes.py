"""JSON of a server -> our own objects: the other direction of what `server/bodies.py` says.

A missing field or one that cannot be read is an error (`transport.readable`); nothing is evaluated.
"""

import base64
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

from rewindbox.backends.base import FileChange, FileInfo
from rewindbox.chain import canonical
from rewindbox.choosing import Counts, PoolStats
from rewindbox.execution import Execution
from rewindbox.history import HistoryPage
from rewindbox.points import Point, Rebuilt, Rollback, Snapshot
from rewindbox.preview import Preview
from rewindbox.registry import SessionsEnded, VmRecord

_SAME = ("id", "vm_id", "agent_id", "language", "code", "ended", "exit_code", "truncated", "memory_peak_bytes", "error")
_AS_TOLD = (*_SAME, "before", "after", "rolled_back_to", "output_dropped", "session")


def vm_record(value: Mapping[str, Any], *, removed: bool = False) -> VmRecord:
    """A vm."""
    return VmRecord(
        **{name: value[name] for name in ("id", "name", "vm_type", "backend", "agent_id", "tip")},
        created_at=_time(value["created_at"]),
        last_activity=None if value["last_activity"] is None else _time(value["last_activity"]),
        live=None,
        removed=removed,
    )


def sessions_ended(value: Mapping[str, Any] | None) -> SessionsEnded | None:
    """The last end of a vm's live sessions."""
    if value is None:
        return None
    return SessionsEnded(at=_time(value["at"]), sessions=value["sessions"], reason=value["reason"])


def execution(value: Mapping[str, Any], written: Mapping[str, bytes] | None = None) -> Execution:
    """An execution; `written`: what it wrote, where that came before."""
    started = _time(value["started_at"])
    return Execution(
        **{name: value[name] for name in _AS_TOLD},
        started_at=started,
        wall_s=(_time(value["completed_at"]) - started).total_seconds(),
        cpu_s=value["cpu_ms"] / 1000,
        displays=tuple(value["displays"]),
        displays_bytes=len(canonical(value["displays"])) if value["displays"] else 0,
        stdout_bytes=_exact(value["stdout"], value.get("stdout_base64")) if written is None else written["stdout"],
        stderr_bytes=_exact(value["stderr"], value.get("stderr_base64")) if written is None else written["stderr"],
    )


def history_page(value: Mapping[str, Any]) -> HistoryPage:
    """A page of the history."""
    entries = [execution(entry) for entry in value["entries"]]
    return HistoryPage(entries=entries, total=value["total"], next=value["next"])


def point(value: Mapping[str, Any], vm_id: str) -> Point:
    """A point of a vm. Its state, where it is kept, is the server's."""
    return Point(
        **{name: value[name] for name in ("id", "parent_id", "execution_id", "method", "written_bytes")},
        vm_id=vm_id,
        created_at=_time(value["created_at"]),
        state={} if value["kept"] else None,
    )


def snapshot(value: Mapping[str, Any]) -> Snapshot:
    """A snapshot."""
    names = ("vm_id", "point_id", "kind", "name", "execution_id", "agent_id")
    return Snapshot(
        **{name: value[name] for name in names}, id=value["snapshot_id"], created_at=_time(value["created_at"])
    )


def preview(value: Mapping[str, Any]) -> Preview:
    """What a rollback would do."""
    names, files = ("vm_id", "from_point", "to_point", "live", "is_complete"), value["files"]
    return Preview(
        **{name: value[name] for name in names},
        undone=tuple(value["undone"]),
        redone=tuple(value["redone"]),
        files=None if files is None else tuple(_file_change(entry) for entry in files),
    )


def _file_change(value: Mapping[str, Any]) -> FileChange:
    return FileChange(**{name: value[name] for name in ("path", "change", "kind", "size_bytes")})


def rollback(value: Mapping[str, Any]) -> Rollback:
    """A rollback."""
    told: dict[str, Any] = {
        **{name: value[name] for name in ("vm_id", "from_point", "to_point", "snapshot_id", "reason", "agent_id")},
        **{name: tuple(value[name]) for name in ("sessions", "lost", "gone")},
    }
    return Rollback(**told, at=_time(value["at"]), rebuilt=tuple(_rebuilt(entry) for entry in value["rebuilt"]))


def _rebuilt(value: Mapping[str, Any]) -> Rebuilt:
    names = ("session", "executions")
    return Rebuilt(**{name: value[name] for name in names}, differences=tuple(value["differences"]))


def pool_stats(value: Mapping[str, Any]) -> PoolStats:
    """What a pool is."""
    names = {field.name for field in fields(PoolStats)} - {"counts"}
    counts = Counts(**{field.name: value["counts"][field.name] for field in fields(Counts)})
    return PoolStats(**{name: value[name] for name in names}, counts=counts)


def file_info(value: Mapping[str, Any]) -> FileInfo:
    """An entry of a folder."""
    return FileInfo(**{name: value[name] for name in ("name", "kind", "size_bytes", "modified_s")})


def output(value: Mapping[str, Any]) -> bytes:
    """What an execution wrote, of an event."""
    return _exact(value["text"], value.get("base64"))


def _exact(text: str, exact: str | None) -> bytes:
    """`exact` is there where the text is not: what was written is no UTF-8."""
    return text.encode() if exact is None else base64.b64decode(exact, validate=True)


def _time(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    if when.utcoffset() is None:
        raise ValueError(f"the time {text!r} has no zone")
    return when
