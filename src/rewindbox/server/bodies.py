"""What requests and answers look like: every field with its meaning and unit, for OpenAPI and for whoever reads.

Requests refuse what they do not know. Times are RFC 3339 in UTC, ids carry their kind (`vm_`, `ex_`, `pt_`,
`snap_`, `run_`).
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from rewindbox.execution import Display, Ended, Execution
from rewindbox.store import id_bounds

_EXAMPLE_ID = "7f3k2mqxwz4tb5ncg6hjlsdarv"
Text = Annotated[str, Field(max_length=256)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$")]
Seconds = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
TEXT_CHARS = 1_000_000
"""Of an answer: to look for code in it takes time that is nobody else's."""
Whole = Annotated[int, Field(gt=0, lt=2**53)]


class Asked(BaseModel):
    """A request's body: an unknown field is an error, so that a misspelt one is not without effect."""

    model_config = ConfigDict(extra="forbid", strict=True)


class LimitsBody(Asked):
    """What an execution may consume. What is left out is as configured; more than that is refused."""

    wall_s: Seconds | None = Field(None, description="Wall clock, in seconds. Beyond: `ended` is `timeout`.")
    cpu_s: Seconds | None = Field(None, description="CPU time of all its processes, in seconds.")
    memory_mib: Whole | None = Field(None, description="Memory of all its processes, in MiB.")
    processes: Whole | None = Field(None, description="Processes and threads at once.")
    output_bytes: Whole | None = Field(None, description="Kept of each of stdout and stderr, in bytes.")
    file_mib: Whole | None = Field(None, description="Largest file it may write, in MiB.")
    open_files: Whole | None = Field(None, description="Descriptors that a process may hold.")
    disk_mib: Whole | None = Field(None, description="What the vm's own files may occupy, in MiB.")
    inodes: Whole | None = Field(None, description="How many files and folders of its own the vm may have.")


class NewVm(Asked):
    """A vm to be made."""

    name: Name | None = Field(None, description="1 to 64 letters, digits, `.`, `_`, `-`. Null: one is made up.")
    agent_id: Text | None = Field(None, description="Whose it is. Null: the token's agent, or as configured.")


class Vm(BaseModel):
    """An isolated machine with files that stay."""

    id: str = Field(description="`vm_` and 26 characters; it never changes, also not by a rollback.")
    name: str = Field(description="Unique among the vms that there are.")
    vm_type: str = Field(description="What it is made of.")
    backend: str = Field(description="What makes it.")
    agent_id: str = Field(description="The agent that made it.")
    created_at: str = Field(description="When it was made.")
    last_activity: str | None = Field(description="When its state last changed; null: never.")
    tip: str | None = Field(description="The point it stands on; null: it was never started.")
    status: Literal["running", "stopped"] = Field(description="A stopped one is started by what needs it running.")
    sessions: list[str] = Field(description="The names of its live sessions.")


class Vms(BaseModel):
    """The vms that there are for the caller."""

    vms: list[Vm] = Field(description="Oldest first.")


class Removed(BaseModel):
    """What is no longer there."""

    id: str = Field(description="Its id.")
    name: str | None = Field(description="Its name, if it had one.")


OnFailure = Literal["keep", "rollback"]


class ExecutionRequest(Asked):
    """A piece of code to run in a vm."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"language": "python", "code": "print(6 * 7)"}]})
    language: Text = Field(description="Its name or an alias; `GET /v1/languages` lists them.")
    code: str = Field(description="The code. How long it may be is configured (`max_code_length`, characters).")
    agent_id: Text | None = Field(None, description="Who runs. Null: the token's agent, or as configured.")
    session: Name | None = Field(None, description="Run it in the session of this name. Null: by itself.")
    timeout_s: Seconds | None = Field(None, description="Shorthand for `limits.wall_s`, in seconds; wins over it.")
    limits: LimitsBody | None = Field(None, description="What it may consume.")
    environment: dict[str, str] | None = Field(None, description="Variables besides the vm's own. Not recorded.")
    stdin: str | None = Field(None, description="What it reads from standard input, whole. Not recorded.")
    working_dir: str | None = Field(None, description="A folder of the vm, relative to its home. Null: its home.")
    on_failure: OnFailure | None = Field(None, description="`rollback`: undo it if it fails. Null: as configured.")
    wait: bool = Field(True, description="Answer when it has ended. False: answer 202 when it has begun.")
    cancel_on_disconnect: bool = Field(False, description="With `wait`: end it when the connection ends before it.")


class ExecutionBody(BaseModel):
    """One run of one piece of code in one vm."""

    model_config = ConfigDict(title="Execution")
    id: str = Field(description="`ex_` and 26 characters.", examples=[f"ex_{_EXAMPLE_ID}"])
    vm_id: str = Field(description="The vm in which it ran.")
    agent_id: str = Field(description="Who ran it.")
    language: str = Field(description="The language, by its own name.")
    code: str = Field(description="The code.")
    ended: Ended = Field(description="How it came to its end; `killed`: cancelled, or what held the vm died.")
    exit_code: int = Field(description="128+n for signal n; 124 for a timeout; 137 where we ended it otherwise.")
    success: bool = Field(description="It ended by itself with exit code 0.")
    stdout: str = Field(description="What it wrote; bytes that are not UTF-8 are replaced.")
    stderr: str = Field(description="What it wrote to standard error; likewise.")
    truncated: bool = Field(description="Output was cut at its limit.")
    output_dropped: bool = Field(description="The record no longer keeps its output (`max_history_entries`).")
    started_at: str = Field(description="When it began.")
    completed_at: str = Field(description="When it ended.")
    duration_ms: int = Field(description="Wall clock, in milliseconds.")
    cpu_ms: int = Field(description="CPU time, in milliseconds.")
    memory_peak_bytes: int = Field(description="Largest resident memory seen, in bytes; 0: less than is told.")
    error: str | None = Field(description="Why we ended it, in words; null when it ended by itself.")
    before: str | None = Field(description="The point it started from.")
    after: str | None = Field(description="The point it left; null: none.")
    rolled_back_to: str | None = Field(description="The point to which the vm was put back because of it.")
    session: str | None = Field(description="The session that ran it; null: none.")
    displays: list[dict[str, Any]] = Field(
        description="MIME bundles that a session showed: `kind`, `data`, `metadata`."
    )


class Accepted(BaseModel):
    """An execution that has begun and is in the record."""

    execution_id: str = Field(description="Its id.")
    vm_id: str = Field(description="The vm in which it runs.")
    status: Literal["running"] = Field(description="It goes on.")
    url: str = Field(description="Where it is when it has ended.")
    events: str = Field(description="Where its events are, from now on and later.")


class GoingOn(BaseModel):
    """An execution that goes on."""

    execution_id: str = Field(description="Its id.")
    vm_id: str = Field(description="The vm in which it runs.")
    stdout_bytes: int = Field(description="So much it has written so far, in bytes.")
    stderr_bytes: int = Field(description="So much to standard error.")


class AllGoingOn(BaseModel):
    """What goes on for the caller."""

    executions: list[GoingOn] = Field(description="Those that have begun, in the order in which they did.")


class History(BaseModel):
    """A page of the history."""

    entries: list[ExecutionBody] = Field(description="Executions that have ended, newest first.")
    total: int = Field(description="How many match in all, on every page.")


class Language(BaseModel):
    """A language, and whether it runs here."""

    name: str = Field(description="Its name.")
    aliases: list[str] = Field(description="What else it is called.")
    extension: str = Field(description="Of its files, without a dot.")
    timeout_multiplier: float = Field(description="The configured time of an execution is multiplied by it.")
    allowed: bool = Field(description="`allowed_languages` has it.")
    program: str | None = Field(description="Where a vm finds its program; null: it is not installed.")
    programs: list[str] = Field(description="The programs that can run it, the first that is there does.")
    package: str | None = Field(description="The Debian package that has it.")


class Languages(BaseModel):
    """The table of languages."""

    languages: list[Language] = Field(description="All of them, in the table's order.")


class FileEntry(BaseModel):
    """One entry of a folder."""

    name: str = Field(description="Its name; bytes that are not UTF-8 are replaced.")
    kind: Literal["file", "folder", "link", "other"] = Field(description="What it is.")
    size_bytes: int = Field(description="Its size, in bytes.")
    modified_s: float = Field(description="When it was last changed, in seconds since 1970, UTC.")


class Folder(BaseModel):
    """The entries of a folder of a vm."""

    path: str = Field(description="The folder, as it was asked for.")
    entries: list[FileEntry] = Field(description="By name.")


class Written(BaseModel):
    """A file that was written."""

    path: str = Field(description="The file, as it was named.")
    bytes: int = Field(description="Its size now, in bytes.")


class Point(BaseModel):
    """What a vm was after an execution, or after files of it were written."""

    id: str = Field(description="`pt_` and 26 characters.")
    parent_id: str | None = Field(description="The point from which it came; null: the vm's first.")
    execution_id: str | None = Field(description="The execution that left it; null: none did.")
    created_at: str = Field(description="When it was taken.")
    kept: bool = Field(description="The vm can be put back to it.")
    live: bool = Field(description="Variables of its live sessions go back, too.")
    is_tip: bool = Field(description="The vm stands on it.")


class Points(BaseModel):
    """The points of a vm: a tree, by their parents."""

    points: list[Point] = Field(description="Oldest first.")


_TEXT: JsonDict = {"type": "string"}
_NULL: JsonDict = {"type": "null"}
_NO: JsonDict = {"const": False}
_YES: JsonDict = {"const": True}


class NewSnapshot(Asked):
    """The present state, to be kept."""

    name: Name | None = Field(None, description="Unique in the vm: 1 to 64 letters, digits, `.`, `_`, `-`. Null: none.")
    agent_id: Text | None = Field(None, description="Who asks. Null: the token's agent, or as configured.")


class Snapshot(BaseModel):
    """A point that is listed and kept."""

    snapshot_id: str = Field(description="`snap_` and 26 characters.")
    vm_id: str = Field(description="Its vm.")
    point_id: str = Field(description="The point that it is.")
    kind: str = Field(description="`manual`, `pre_execution`, `post_execution`, `failure` or `pre_rollback`.")
    name: str | None = Field(description="Its name, if it has one.")
    created_at: str = Field(description="When it was made.")
    execution_id: str | None = Field(description="The execution for which it was made; null: none.")
    agent_id: str | None = Field(description="Who asked.")


class Snapshots(BaseModel):
    """The snapshots of a vm."""

    snapshots: list[Snapshot] = Field(description="Oldest first.")


class RollbackRequest(Asked):
    """Where a vm is to be put back to: exactly one of `to`, `before` and `last_success`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"to": "clean"}, {"last_success": True}],
            "oneOf": [
                {"required": ["to"], "properties": {"to": _TEXT, "before": _NULL, "last_success": _NO}},
                {"required": ["before"], "properties": {"to": _NULL, "before": _TEXT, "last_success": _NO}},
                {"required": ["last_success"], "properties": {"to": _NULL, "before": _NULL, "last_success": _YES}},
            ],
        }
    )
    to: Text | None = Field(None, description="A point or snapshot by id, or by the beginning of one; or a name.")
    before: Text | None = Field(None, description="An execution: to before it ran.")
    last_success: bool = Field(False, description="To after the last execution that succeeded.")
    preview: bool = Field(False, description="Change nothing; say what would be undone.")
    snapshot_first: bool = Field(True, description="Keep the present state as a snapshot, so that this can be undone.")
    rebuild: bool = Field(False, description="Sessions whose variables are gone: run again what they had run.")
    agent_id: Text | None = Field(None, description="Who asks. Null: the token's agent, or as configured.")


class RebuiltSession(BaseModel):
    """A session that was made anew."""

    session: str = Field(description="Its name.")
    executions: int = Field(description="So many were run again.")
    differences: list[str] = Field(description="Where something else came out than the first time, in words.")


class Rollback(BaseModel):
    """A vm that was put back; its id stays, and its history."""

    vm_id: str = Field(description="The vm.")
    from_point: str | None = Field(description="What it stood on before.")
    to_point: str = Field(description="What it stands on now.")
    snapshot_id: str | None = Field(description="The snapshot of what it was; null: none was asked for.")
    reason: Literal["manual", "auto"] = Field(description="Somebody asked for it, or an execution failed.")
    agent_id: str | None = Field(description="Who asked.")
    at: str = Field(description="When.")
    sessions: list[str] = Field(description="Live sessions whose variables went back, too.")
    lost: list[str] = Field(description="Live sessions that ended.")
    gone: list[str] = Field(description="What did not come back, in words.")
    rebuilt: list[RebuiltSession] = Field(description="Sessions that were made anew.")


class Preview(BaseModel):
    """What a rollback would do."""

    vm_id: str = Field(description="The vm.")
    from_point: str | None = Field(description="What it stands on.")
    to_point: str = Field(description="What it would stand on.")
    undone: list[str] = Field(description="Executions whose effects would no longer be there, newest first.")
    redone: list[str] = Field(description="Executions that were undone and whose effects would be there again.")
    live: bool = Field(description="Variables of the point's live sessions would go back, too.")


class NewSession(Asked):
    """A session to be begun."""

    language: Text = Field("python", description="A language that has sessions.")
    name: Name = Field("main", description="1 to 64 letters, digits, `.`, `_`, `-`.")


class Session(BaseModel):
    """Variables that stay from one execution to the next."""

    vm_id: str = Field(description="Its vm.")
    name: str = Field(description="Its name: `session` of an execution.")
    language: str | None = Field(description="Its language; null where only its name is known.")


class Sessions(BaseModel):
    """The live sessions of a vm."""

    sessions: list[Session] = Field(description="By name.")


class RunRequest(Asked):
    """A model's answer, whose code is to be run."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "```python\nprint(6 * 7)\n```", "vm": "demo"}]})
    text: str = Field(max_length=TEXT_CHARS, description="The answer, Markdown; at most a million characters.")
    vm: Text | None = Field(None, description="By name or id; made when it is new. Null: a new one.")
    on_failure: Literal["stop", "continue", "rollback"] = Field(
        "stop", description="After a block that fails: run no more; go on; or undo it and go on."
    )
    threshold: float = Field(0.0, ge=0, le=1, description="Least `execution_confidence` of a block that is run.")
    session: Name | None = Field(None, description="Run blocks in the session of this name, where they have one.")
    agent_id: Text | None = Field(None, description="Who runs. Null: the token's agent, or as configured.")
    limits: LimitsBody | None = Field(None, description="What each execution may consume.")


class PlanRequest(Asked):
    """A model's answer, to be looked at."""

    text: str = Field(max_length=TEXT_CHARS, description="The answer, Markdown; at most a million characters.")
    threshold: float = Field(0.0, ge=0, le=1, description="Least `execution_confidence` of a block that is run.")


class Decision(BaseModel):
    """A block of an answer, and what is to become of it."""

    number: int = Field(description="Its number in the answer, from 1.")
    language: str = Field(description="Its language.")
    code: str = Field(description="The block.")
    execution_confidence: float = Field(description="How sure we are that it is meant to be run, 0 to 1.")
    start_pos: int = Field(description="Where it begins in the answer, in characters.")
    end_pos: int = Field(description="Where it ends.")
    metadata: dict[str, Any] | None = Field(description="How it was found.")
    skipped: str | None = Field(description="Why it is not run; null: it is, or it is written to `path`.")
    path: str | None = Field(description="The file of the vm to which it is written instead of being run.")


class Plan(BaseModel):
    """What `POST /v1/runs` would do with an answer."""

    decisions: list[Decision] = Field(description="In the order of the answer.")


class Finding(BaseModel):
    """What one probe of the host found."""

    name: str = Field(description="What was probed.")
    verdict: Literal["good", "missing", "bad"] = Field(description="`missing`: vms can do without.")
    text: str = Field(description="What was seen.")
    remedy: str | None = Field(description="What to do about it.")


class LimitFound(BaseModel):
    """How this host holds one limit."""

    limit: str = Field(description="A field of an execution's `limits`.")
    enforcement: Literal["hard", "watched", "absent"] = Field(description="The kernel refuses; we look and kill; none.")
    by: str = Field(description="What enforces it.")


class Doctor(BaseModel):
    """What this host can do, found out by doing it."""

    ok: bool = Field(description="Vms work here.")
    findings: list[Finding] = Field(description="What each probe found.")
    limits: list[LimitFound] = Field(description="How each limit is held.")


class Health(BaseModel):
    """That there is a server, and whether it can work."""

    status: Literal["healthy", "ready", "stopping", "broken"] = Field(description="What it is.")
    service: str = Field("rewindbox", description="Who answers.")
    version: str = Field(description="Its version.")
    timestamp: str = Field(description="Its clock.")
    error: str | None = Field(None, description="Why it cannot work.")


def execution_body(execution: Execution) -> dict[str, Any]:
    """An execution as `ExecutionBody`."""
    return {**execution.as_dict(), "displays": [_plain(display) for display in execution.displays]}


def _plain(display: Display) -> Display:
    """A bundle that is JSON; of one that is not (NaN, too deep), which the code made up, the texts are left."""
    try:
        json.dumps(display, allow_nan=False)
    except (ValueError, RecursionError):
        texts = {name: content for name, content in display["data"].items() if isinstance(content, str)}
        return {"kind": display["kind"], "data": texts, "metadata": {}}
    return display


def is_whole(execution_id: str) -> bool:
    """Whether it is an id in full, and no beginning of one."""
    return len(execution_id) == len(f"ex_{_EXAMPLE_ID}") and id_bounds("ex", execution_id) is not None
