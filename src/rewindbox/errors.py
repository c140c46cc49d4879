"""Every error we raise, drawn as the tree that callers catch by.

RewindboxError
├── BadRequest                 fix it: do not retry as it is                    (exit code 2)
│   ├── ValidationFailed       the code or the text is not acceptable
│   │   └── InvalidArgument    a name, a number or a path is not
│   ├── UnsupportedLanguage    no such language, or no toolchain for it on this host
│   ├── UnknownVm              no vm has that name or id              (is a VmNotAvailable)
│   ├── VmBusy                 another process holds the vm           (is a VmNotAvailable)
│   ├── VmDamaged              somebody changed the vm's folder        (is a VmNotAvailable)
│   ├── UnknownExecution       no execution has that id                 (is a HistoryError)
│   ├── UnknownFile            a vm has no such file or folder
│   ├── UnknownRun             no run has that id
│   ├── UnknownLease           nobody holds a vm of the pool by that id
│   ├── UnknownPath            a server has nothing there; WrongMethod: not that way
│   ├── TooLarge               a request is more than a server takes; TooSlow: it took too long
│   ├── SnapshotNotFound       no such point or snapshot, or one of another vm
│   ├── SessionNotFound        no such live session
│   ├── InputClosed            nobody reads that standard input any more
│   ├── NotYet                 this version does not have it
│   └── ConfigError            a setting is wrong: names key, value and remedy
├── Refused                    allowed by nobody: show the reason               (exit code 3)
│   ├── LanguageRefused        known, but not in `allowed_languages`
│   ├── Unauthorized           a server does not know the token
│   ├── TooManyVms             an agent has as many vms as it may; remove some
│   ├── TooManySnapshots       a vm at a server has as many snapshots as it may; remove some
│   ├── InputFull              a program has not read enough yet; try again later
│   └── TooMany                a token has as much going on as it may; try again when some of it has ended
└── Broken                     the host or the vm failed, not the code          (exit code 4)
    ├── VmNotAvailable         the vm died or cannot be started; retry on a fresh one
    │   └── PoolFull           every vm of the pool is in use; retry later
    ├── HostUnsupported        this host cannot make vms: the text says why and what to do
    ├── Timeout                we waited for the vm itself (a slow *program* is a result)
    ├── ExecutionFailed        the execution could not be carried out
    ├── SnapshotFailed         the point could not be taken; the vm is as it was
    ├── RollbackFailed         the vm could not go back; it is as it was
    ├── HistoryError           the store cannot be read or written
    ├── ApiError               a server answered with an error
    ├── ConnectionFailed       no server answered
    └── Internal               a bug of ours; please report it

Code that exits non-zero is a result, never one of these. `code` is stable: it is on the wire and in
the database, never renamed and never reused. The texts of the fourteen kinds are those of
terraphim_multi_agent 1.0.0; `kind` is its name for the variant (None where it has none).
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class RewindboxError(Exception):
    """Root of the tree. `str(error)` says what, the value, and the remedy."""

    code: ClassVar[str] = "error"
    kind: ClassVar[str | None] = None
    prefix: ClassVar[str] = ""
    exit_code: ClassVar[int] = 4

    def __init__(self, detail: str, *, remedy: str | None = None) -> None:
        text = f"{self.prefix}{detail}"
        super().__init__(f"{text}; {remedy}" if remedy else text)
        self.detail = detail
        self.remedy = remedy

    def as_dict(self) -> dict[str, str | None]:
        """The error as `--json` prints it: code, message, remedy."""
        return {"code": self.code, "message": str(self), "remedy": self.remedy}


class BadRequest(RewindboxError):
    """Something in the request is wrong. Nothing was changed."""

    code = "bad_request"
    exit_code = 2


class Refused(RewindboxError):
    """Understood, and not allowed. Nothing was run."""

    code = "refused"
    exit_code = 3


class Broken(RewindboxError):
    """The host or the vm failed. The code is not to blame."""

    code = "broken"
    exit_code = 4


class ValidationFailed(BadRequest):
    """The code or the text is not acceptable: too long, blank, NUL characters."""

    code = "validation_failed"
    kind = "ValidationFailed"
    prefix = "Code validation failed: "


class InvalidArgument(ValidationFailed):
    """A name, a number, a path or a time is not acceptable."""

    code = "invalid_argument"
    prefix = ""


class UnsupportedLanguage(BadRequest):
    """No such language, or this host has no toolchain for it."""

    code = "unsupported_language"
    kind = "UnsupportedLanguage"
    prefix = "Language not supported: "


class ConfigError(BadRequest):
    """A setting is wrong; the text names key, value and remedy."""

    code = "config_error"
    kind = "ConfigError"
    prefix = "Configuration error: "


class SnapshotNotFound(BadRequest):
    """No such point or snapshot, its state is gone, or it belongs to another vm."""

    code = "snapshot_not_found"
    kind = "SnapshotNotFound"
    prefix = "Snapshot not found: "


class SessionNotFound(BadRequest):
    """No such live session in this vm."""

    code = "session_not_found"
    kind = "SessionNotFound"
    prefix = "Session not found: "


class InputClosed(BadRequest):
    """The standard input of an execution takes nothing any more. Nothing was written."""

    code = "input_closed"


class NotYet(BadRequest):
    """What is asked for is known, and not there in this version."""

    code = "not_yet"


class LanguageRefused(Refused):
    """The language is known, but `allowed_languages` does not have it."""

    code = "language_refused"
    kind = "UnsupportedLanguage"
    prefix = "Language not supported: "


class VmNotAvailable(Broken):
    """The vm died, stopped answering, or cannot be started. A fresh vm may work."""

    code = "vm_not_available"
    kind = "VmNotAvailable"
    prefix = "VM not available: "


class UnknownVm(VmNotAvailable, BadRequest):
    """No vm has that name or id."""

    code = "unknown_vm"
    exit_code = 2


class VmBusy(VmNotAvailable, BadRequest):
    """Another process holds the vm."""

    code = "vm_busy"
    exit_code = 2


class VmDamaged(VmNotAvailable, BadRequest):
    """Files of the vm's folder are missing or of the wrong kind. Nothing was changed."""

    code = "vm_damaged"
    exit_code = 2


class PoolFull(VmNotAvailable):
    """Every vm of the pool is in use, or the agent holds as many as it may. Nothing was changed."""

    code = "pool_full"


class HostUnsupported(Broken):
    """This host cannot make vms; the text is the cause and the remedy."""

    code = "host_unsupported"


class Timeout(Broken):
    """The vm itself did not answer in time. A program that takes too long is a result instead."""

    code = "timeout"
    kind = "Timeout"

    def __init__(self, after_ms: int, *, remedy: str | None = None) -> None:
        super().__init__(f"Execution timeout after {after_ms}ms", remedy=remedy)
        self.after_ms = after_ms


class ExecutionFailed(Broken):
    """The execution could not be carried out; there is no result."""

    code = "execution_failed"
    kind = "ExecutionFailed"
    prefix = "Execution failed: "


class SnapshotFailed(Broken):
    """The point could not be taken; the vm is as it was."""

    code = "snapshot_failed"
    kind = "SnapshotFailed"
    prefix = "Snapshot creation failed: "


class RollbackFailed(Broken):
    """The vm could not go back; it is as it was."""

    code = "rollback_failed"
    kind = "RollbackFailed"
    prefix = "Rollback failed: "


class HistoryError(Broken):
    """The store cannot be read or written."""

    code = "history_error"
    kind = "HistoryError"
    prefix = "History error: "


class UnknownExecution(HistoryError, BadRequest):
    """No execution has that id."""

    code = "unknown_execution"
    exit_code = 2


class UnknownFile(BadRequest):
    """The vm has no such file or folder."""

    code = "unknown_file"


class UnknownRun(BadRequest):
    """No run has that id, or it is too long ago."""

    code = "unknown_run"


class UnknownLease(BadRequest):
    """Nobody holds a vm of the pool by that id: it was given back, or not used for long."""

    code = "unknown_lease"


class UnknownPath(BadRequest):
    """A server has nothing under that path."""

    code = "unknown_path"


class WrongMethod(BadRequest):
    """A server has that path, but not with this method."""

    code = "wrong_method"


class TooLarge(BadRequest):
    """A request has more bytes or values than a server takes."""

    code = "too_large"


class TooSlow(BadRequest):
    """A request did not come to its end in time."""

    code = "too_slow"


class Unauthorized(Refused):
    """There is no token, or it is not one that this server knows."""

    code = "unauthorized"


class TooMany(Refused):
    """As much is going on as one token may have; try again when some of it has ended."""

    code = "too_many"


class TooManyVms(Refused):
    """The agent has as many vms as it may; none was made. Those that it removes make room."""

    code = "too_many_vms"


class TooManySnapshots(Refused):
    """The vm has as many snapshots that were asked for as it may; none was made. One that is removed makes room."""

    code = "too_many_snapshots"


class InputFull(Refused):
    """The program has not read enough of its standard input yet. Nothing was written; try again later."""

    code = "input_full"


class ApiError(Broken):
    """A server answered with an error."""

    code = "api_error"
    kind = "ApiError"
    prefix = "API error: "


class ConnectionFailed(Broken):
    """No server answered."""

    code = "connection_error"
    kind = "ConnectionError"
    prefix = "Connection error: "


class Internal(Broken):
    """A bug of ours."""

    code = "internal"
    kind = "Internal"
    prefix = "Internal error: "


KINDS: Mapping[str, Any] = {
    error.kind: error
    for error in (
        *(VmNotAvailable, ValidationFailed, Timeout, UnsupportedLanguage, ApiError, Internal, HistoryError),
        *(SnapshotNotFound, RollbackFailed, SessionNotFound, ConnectionFailed, ConfigError, ExecutionFailed),
        SnapshotFailed,
    )
    if error.kind
}
"""The original's name of each kind -> the class that it is, without what we tell apart further. A closed table:
what another side names is looked up here and nowhere else."""


def kind_of(error: RewindboxError) -> str:
    """The original's name for an error; for one that it does not know the nearest.

    A request that nobody may make is ValidationFailed there, a host that makes no vms VmNotAvailable.
    """
    if error.kind is not None:
        return error.kind
    if isinstance(error, HostUnsupported):
        return "VmNotAvailable"
    return "ValidationFailed" if isinstance(error, (BadRequest, Refused)) else "Internal"
