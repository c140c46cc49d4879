"""An execution as rows of the tables, and back."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rewindbox.chain import digest
from rewindbox.errors import Internal
from rewindbox.execution import Execution
from rewindbox.store import Row, Value, from_us, to_us


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """An execution that was begun."""

    id: str
    vm_id: str
    agent_id: str
    language: str
    code: str
    started_at: datetime
    before: str | None
    """The point the vm stood on; None when history is off."""
    block: int | None
    """Which block of its text it is, from 0; None when it came alone."""
    pid: int
    """The process that began it."""
    session: str | None = None
    """The session in which it runs."""
    seq: int
    """The number of its log entry."""


# What a start and its execution both say, and how to name it in a text.
_SAID_TWICE: dict[str, Callable[[Any], object]] = {
    **dict.fromkeys(("id", "vm_id", "agent_id", "language", "before", "session"), repr),
    "code": digest,
    "started_at": to_us,
}


def refuse_another(start: Start, execution: Execution) -> None:
    """Raises Internal: the execution is not the one that was begun."""
    for name, told in _SAID_TWICE.items():
        begun, ended = getattr(start, name), getattr(execution, name)
        if begun != ended:
            raise Internal(f"{execution.id} was begun with {name} {told(begun)} and ended with {told(ended)}")


def end_row(start_seq: int, execution: Execution) -> dict[str, Value]:
    """A row of `executions`, but for its displays."""
    error = execution.error
    return {
        "start_seq": start_seq,
        "vm_id": execution.vm_id,
        "agent_id": execution.agent_id,
        "language": execution.language,
        "started_us": to_us(execution.started_at),
        "success": int(execution.success),
        "ended": execution.ended,
        "exit_code": execution.exit_code,
        "stdout_sha256": digest(execution.stdout_bytes),
        "stderr_sha256": digest(execution.stderr_bytes),
        "truncated": int(execution.truncated),
        "wall_s": execution.wall_s + 0.0,  # a float, and never -0.0, which SQLite gives back as 0.0
        "cpu_s": execution.cpu_s + 0.0,
        "memory_peak_bytes": execution.memory_peak_bytes,
        # A record is not lost for the sake of a file name in its text that is not Unicode.
        "error": None if error is None else error.encode("utf-8", "backslashreplace").decode(),
        "before_point": execution.before,
        "after_point": execution.after,
        "rolled_back_to": execution.rolled_back_to,
    }


def read_start(row: dict[str, Any]) -> Start:
    """From a row of `starts`."""
    return Start(
        id=row["id"],
        vm_id=row["vm_id"],
        agent_id=row["agent_id"],
        language=row["language"],
        code=row["code"],
        started_at=from_us(row["started_us"]),
        before=row["before_point"],
        block=row["block_index"],
        pid=row["pid"],
        session=row["session"],
        seq=row["seq"],
    )


def read_execution(row: Row) -> Execution:
    """From a row of all three tables: `starts`, `executions`, `outputs`."""
    return Execution(
        id=row["id"],
        vm_id=row["vm_id"],
        agent_id=row["agent_id"],
        language=row["language"],
        code=row["code"],
        ended=row["ended"],
        exit_code=row["exit_code"],
        stdout_bytes=row["stdout"] or b"",
        stderr_bytes=row["stderr"] or b"",
        truncated=bool(row["truncated"]),
        started_at=from_us(row["started_us"]),
        wall_s=row["wall_s"],
        cpu_s=row["cpu_s"],
        memory_peak_bytes=row["memory_peak_bytes"],
        error=row["error"],
        before=row["before_point"],
        after=row["after_point"],
        rolled_back_to=row["rolled_back_to"],
        output_dropped=bool(row["output_dropped"]),
        session=row["session"],
        displays=tuple(json.loads(row["displays"] or "[]")),
        displays_bytes=len(row["displays"] or ""),
    )
