"""One run of one piece of code in one vm: what went in, how it ended, what it left."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

Ended = Literal["exit", "signal", "timeout", "output", "memory", "killed"]
"""How an execution came to its end.

`exit`: by itself. `signal`: by a signal that was not ours; exit code 128+n. `timeout`: wall clock or CPU
time used up; 124. `output`, `memory`: over its limit; 137. `killed`: cancelled, over the disk limit, or the
process that held the vm died; 137.
"""

Display = dict[str, Any]
"""A MIME bundle as in Jupyter's messages: `kind` ("result" or "display"), `data` (type -> content; binary
types in base64), `metadata`."""

PIECE_BYTES = 64 << 10
"""Of output, decoded at once."""
EXIT_TIMEOUT = 124
EXIT_KILLED = 137


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """One execution, as the library returns it and history keeps it."""

    id: str
    vm_id: str
    agent_id: str
    language: str
    code: str
    ended: Ended
    exit_code: int
    stdout_bytes: bytes = field(repr=False)
    """What it wrote, at most `Limits.output_bytes`."""
    stderr_bytes: bytes = field(repr=False)
    truncated: bool
    """Output was cut at its limit."""
    started_at: datetime
    wall_s: float
    cpu_s: float
    """User and system time of the processes that it waited for, or of all of them where a cgroup counts."""
    memory_peak_bytes: int
    """Largest resident memory seen: of all processes together by the watcher, or of one by the kernel, whose
    count starts at that of the process that started it (about 13 MiB): less than that is not told."""
    error: str | None
    """Why we ended it, in words; None when it ended by itself."""
    before: str | None
    """The point it started from; None when history is off."""
    after: str | None
    """The point it left; None when none was taken."""
    rolled_back_to: str | None = None
    """The point the vm was put back to because of it."""
    output_dropped: bool = False
    """History no longer keeps its output (`max_history_entries`)."""
    session: str | None = None
    """The session that ran it; None: a process of its own."""
    displays: tuple[Display, ...] = field(default=(), repr=False)
    """What it showed: the value of its last expression, figures, tables."""
    displays_bytes: int = field(default=0, repr=False, compare=False)
    """How long that is as JSON: to find out by looking takes time."""

    @property
    def success(self) -> bool:
        """It ended by itself with exit code 0."""
        return self.ended == "exit" and self.exit_code == 0

    @property
    def stdout(self) -> str:
        """What it wrote, as text; bytes that are not UTF-8 are replaced."""
        return decoded(self.stdout_bytes, "replace")

    @property
    def stderr(self) -> str:
        """What it wrote to stderr, as text; bytes that are not UTF-8 are replaced."""
        return decoded(self.stderr_bytes, "replace")

    @property
    def result(self) -> str | None:
        """The value of the last expression as text; None: there was none."""
        found = [shown["data"].get("text/plain") for shown in self.displays if shown["kind"] == "result"]
        return found[-1] if found else None

    @property
    def duration_ms(self) -> int:
        """Wall clock in whole milliseconds."""
        return round(self.wall_s * 1000)

    @property
    def completed_at(self) -> datetime:
        """When it ended."""
        return self.started_at + timedelta(seconds=self.wall_s)

    @property
    def size_bytes(self) -> int:
        """Of its code, of what it wrote and of what it showed."""
        return len(self.code) + len(self.stdout_bytes) + len(self.stderr_bytes) + self.displays_bytes

    def as_dict(self) -> dict[str, Any]:
        """The documented JSON shape of an execution."""
        return {
            "id": self.id,
            "vm_id": self.vm_id,
            "agent_id": self.agent_id,
            "language": self.language,
            "code": self.code,
            "ended": self.ended,
            "exit_code": self.exit_code,
            "success": self.success,
            "stdout": self.stdout,
            "stderr": self.stderr,
            "truncated": self.truncated,
            "output_dropped": self.output_dropped,
            "started_at": rfc3339(self.started_at),
            "completed_at": rfc3339(self.completed_at),
            "duration_ms": self.duration_ms,
            "cpu_ms": round(self.cpu_s * 1000),
            "memory_peak_bytes": self.memory_peak_bytes,
            "error": self.error,
            "before": self.before,
            "after": self.after,
            "rolled_back_to": self.rolled_back_to,
            "session": self.session,
            "displays": list(self.displays),
        }


def decoded(written: bytes, errors: str = "strict") -> str:
    """As `bytes.decode`, piece by piece: other threads have their turn between two of them."""
    if len(written) <= PIECE_BYTES:
        return written.decode("utf-8", errors)
    return "".join(decoded_pieces(written, errors))


def decoded_pieces(written: bytes, errors: str = "strict") -> Iterator[str]:
    """The same, each piece when it is asked for."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    for at in range(0, len(written), PIECE_BYTES):
        yield decoder.decode(written[at : at + PIECE_BYTES])
    yield decoder.decode(b"", final=True)


def rfc3339(when: datetime) -> str:
    """UTC with microseconds and a Z: sorts as text."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
