"""The contract of a backend: what makes vms. Values in, values out; it knows nothing of history or policy.

A `State` is what a backend needs to find a vm's files again. It is JSON, made and read by the backend
alone; the caller stores it and hands it back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from rewindbox.execution import Display, Ended
from rewindbox.language import Language, Table
from rewindbox.languages import LANGUAGES
from rewindbox.limits import Barrier, LimitReport, Limits
from rewindbox.stdin import Stdin

State = dict[str, Any]
Stream = Literal["stdout", "stderr"]
OnOutput = Callable[[Stream, bytes], None]
CHECKPOINTS = (16, 512)
"""Checkpoints that a vm keeps of its live sessions besides the newest and the named ones, and MiB for all of them."""
FileKind = Literal["file", "folder", "link", "other"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One piece of code to run."""

    id: str
    """Safe as a file name: letters, digits and underscores."""
    language: Language
    code: str
    limits: Limits
    environment: dict[str, str] = field(default_factory=dict)
    """Added to the vm's own; never stored."""
    stdin: bytes | Stdin = b""
    """What it reads: this, or what is written meanwhile."""
    working_dir: str | None = None
    """Inside the vm; relative to its home. None: its home."""
    session: str | None = None
    """The live session that runs it; None: a process of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a job ended, told by the host's own wait, never by the code."""

    ended: Ended
    exit_code: int
    stdout: bytes
    stderr: bytes
    truncated: bool
    wall_s: float
    cpu_s: float
    memory_peak_bytes: int
    error: str | None = None
    displays: tuple[Display, ...] = ()
    """What a session showed: MIME bundles, in order."""
    displays_bytes: int = 0
    """How long they are as JSON."""
    lost_session: bool = False
    """The session's process has ended with it: only going back brings its variables back."""
    gone: tuple[str, ...] = ()
    """What died with that process, in words: its threads and children."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """A point that was taken."""

    state: State
    """What to go back to."""
    live: State
    """What the running vm stands on now; to be stored together with the point."""
    method: Literal["same", "copy", "freeze"]
    written_bytes: int
    """What taking it wrote to the disk, file contents only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WentBack:
    """A vm that was put back to a state."""

    live: State
    """What it stands on now."""
    sessions: tuple[str, ...] = ()
    """Sessions whose variables are back, too."""
    lost: tuple[str, ...] = ()
    """Sessions that ended: the state is older than they are, or of their variables nothing was kept."""
    gone: tuple[str, ...] = ()
    """What died, in words: threads and children of sessions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileInfo:
    """One entry of a folder in a vm."""

    name: str
    kind: FileKind
    size_bytes: int
    modified_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FileChange:
    """What has become of one file of a vm since a state."""

    path: str
    """From the vm's root."""
    change: Literal["created", "modified", "deleted"]
    """`modified`: its content, kind, permissions, attributes, or when its content was last written."""
    kind: FileKind
    """What it is now; a deleted one: what it was."""
    size_bytes: int
    """Of a file, as `kind`; of everything else 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What has become of the files of a vm since a state."""

    files: tuple[FileChange, ...]
    """By path."""
    is_complete: bool
    """False: there was more than a bound allows to look at, and this is a part of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What a running vm has of the host at a moment: all its processes, those of sessions and checkpoints, too."""

    processes: int
    memory_bytes: int
    """Pages that several have count once."""
    cpu_percent: float
    """Of one processor, over the last tenth of a second."""
    disk_bytes: int
    """What its files occupy, without the points that were taken of them."""
    files: int
    up_s: float
    """How long it has been running."""


class BackendVm(Protocol):
    """A running vm. One job at a time; `cancel` and the file verbs may be called meanwhile."""

    id: str
    live: State
    """What it stands on; known when a point was taken, it went back, or was stopped."""
    interrupted: Outcome | None
    """How the job ended whose `execute` was cancelled."""

    async def execute(
        self,
        job: Job,
        on_output: OnOutput | None = None,
        *,
        on_ready: Callable[[], None] | None = None,
        on_begun: Callable[[], None] | None = None,
    ) -> Outcome:
        """Run one job to its end. Nothing that it started is alive on return.

        `on_ready` is called before the first instruction of the code, which waits for it; what it raises goes on,
        and nothing runs. `on_begun` is called after that: for work that nobody needs to wait for.

        Cancelling kills it first, puts its outcome into `interrupted`, then re-raises.

        Raises:
            BadRequest: the working directory does not exist; nothing ran.
            UnsupportedLanguage: the vm has no such program; nothing ran.
            VmNotAvailable: the vm died; no result.
        """

    async def cancel(self) -> None:
        """End the running job as `killed`; `execute` then returns its outcome. Nothing runs: no effect."""

    async def take_point(self) -> Taken:
        """Keep the files as they are now. Raises SnapshotFailed; the vm is as it was."""

    async def go_to(self, state: State) -> WentBack:
        """Put files, and the sessions whose checkpoint is kept, back to `state`, in place.

        Every process of the vm dies. Raises RollbackFailed; files and variables are as they were.
        """

    async def changes(self, state: State) -> Changes:
        """What has become of the files since `state`: what `go_to` would undo. Nothing is changed.

        A file over 1 MiB whose size and time of change are the same counts as the same.
        Raises VmDamaged: files that `state` names are gone.
        """

    async def begin_session(self, job: Job) -> None:
        """Have the live session that `job` names, with its limits and environment. Raises as `execute`."""

    async def end_session(self, name: str, language: Language) -> None:
        """End a session; its checkpoints stay. Idempotent."""

    async def live_checkpoints(self, keep: Sequence[State]) -> frozenset[str]:
        """The ids of checkpoints that can be gone back to, as states name them.

        Those of the states in `keep` stay from now on, whatever the budget says.
        """

    async def read(self, path: str, max_bytes: int) -> bytes:
        """A regular file's content. Raises BadRequest: no such file, not a regular one, too big."""

    async def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Create or replace a regular file; folders on the way are made. Raises BadRequest."""

    async def list(self, path: str) -> Sequence[FileInfo]:
        """The entries of a folder, by name. Raises BadRequest."""

    def sweep(self, keep: Sequence[State]) -> None:
        """Delete, soon, every stored layer that neither `keep` nor the running vm needs. Does not wait."""

    async def stop(self) -> None:
        """End every process of the vm; its files stay. Idempotent."""


class Backend(Protocol):
    """What makes vms."""

    name: str

    def warm(self) -> None:
        """Start what every vm will need, without waiting for it."""

    async def create(self, vm_id: str, live: State | None = None, point: State | None = None) -> BackendVm:
        """Start the vm `vm_id`: new, or on the files of `live`. A new one that runs already is given as it is.

        `point`: the state that `live` is known to be exactly, if there is one.

        Raises:
            HostUnsupported: this host cannot, or something required does not hold; the text is cause and remedy.
            VmDamaged: files that `live` names are gone.
        """

    async def destroy(self, vm_id: str) -> None:
        """Delete the files of a stopped vm. Idempotent."""

    def programs(self, languages: Table = LANGUAGES) -> dict[str, str | None]:
        """For each language of the table, where a vm finds its program, or None."""

    async def answers(self, vm_id: str) -> bool:
        """True as soon as a vm answers, also while a job runs; False: it does not run here. Raises VmNotAvailable."""

    async def usage(self, vm_id: str) -> Usage | None:
        """What a vm takes now, also while a job runs; None: it does not run here. Raises VmNotAvailable: it died."""

    async def limits(self) -> Sequence[LimitReport]:
        """How this host holds each field of `Limits`; probed by doing."""

    async def barriers(self) -> Sequence[Barrier]:
        """What stands around a vm here besides the machine itself; probed by doing."""

    async def close(self) -> None:
        """Stop every vm. Idempotent."""
