"""What requests and answers look like: every field with its meaning and unit, for OpenAPI and for whoever reads.

Requests refuse what they do not know. Times are RFC 3339 in UTC, ids carry their kind (`vm_`, `ex_`, `pt_`,
`snap_`, `run_`).
"""

import base64
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from rewindbox.execution import PIECE_BYTES, Display, Ended, Execution, decoded, decoded_pieces
from rewindbox.ids import id_bounds

_EXAMPLE_ID = "7f3k2mqxwz4tb5ncg6hjlsdarv"
Text = Annotated[str, Field(max_length=256)]
ExecutionId = Annotated[str, Field(pattern=r"^ex_[a-z2-7]{26}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$")]
Seconds = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Output = Annotated[bool, Query(description="False: without what was written and shown.")]
_BASE64_BYTES = 48 << 10
"""As many thirds as base64 writes without padding between."""
TEXT_CHARS = 400_000
"""Of an answer: to look for code in it takes time that is nobody else's."""


def _whole(value: object) -> object:
    """JSON has one kind of number: 64.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, Field(gt=0, lt=2**53), BeforeValidator(_whole)]


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
    open_files: Whole | None = Field(
        None,
        description="Descriptors that a process may hold; at least 5, for a bash session 48, for a python session 910.",
    )
    disk_mib: Whole | None = Field(None, description="What the vm's own files may occupy, in MiB.")
    inodes: Whole | None = Field(None, description="How many files and folders of its own the vm may have.")


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
    id: ExecutionId | None = Field(
        None, description="The id that it is to have. What is asked again under an id runs once. Null: one is made."
    )
    agent_id: Text | None = Field(None, description="Who runs. Null: the token's agent, or as configured.")
    session: Name | None = Field(None, description="Run it in the session of this name. Null: by itself.")
    timeout_s: Seconds | None = Field(None, description="Shorthand for `limits.wall_s`, in seconds; wins over it.")
    limits: LimitsBody | None = Field(None, description="What it may consume.")
    environment: dict[str, str] | None = Field(None, description="Variables besides the vm's own. Not recorded.")
    stdin: str | None = Field(None, description="What it reads from standard input, whole. Not recorded.")
    stdin_base64: str | None = Field(None, description="The same, for what is no UTF-8.")
    stdin_open: bool = Field(False, description="What it reads comes while it runs: `POST /v1/executions/ID/stdin`.")
    block: Whole | None = Field(None, description="Its number in the answer that it is from. Null: it is from none.")
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
    stdout_base64: str | None = Field(description="What it wrote, byte by byte; null where `stdout` is exactly that.")
    stderr_base64: str | None = Field(description="The same of `stderr`.")
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
    """An execution that goes on. It is in the record, unless it waits for its turn."""

    execution_id: str = Field(description="Its id.")
    vm_id: str | None = Field(description="The vm in which it runs; null: it waits for one of the pool.")
    status: Literal["running"] = Field(description="It goes on.")
    url: str = Field(description="Where it is when it has ended.")
    events: str = Field(description="Where its events are, from now on and later.")


class GoingOn(BaseModel):
    """An execution that goes on."""

    execution_id: str = Field(description="Its id.")
    vm_id: str | None = Field(description="The vm in which it runs.")
    stdout_bytes: int = Field(description="So much it has written so far, in bytes.")
    stderr_bytes: int = Field(description="So much to standard error.")


class Given(BaseModel):
    """What an execution was given to read."""

    execution_id: str = Field(description="Its id.")
    given_bytes: int = Field(description="So much has been written to its standard input so far, in bytes.")


class AllGoingOn(BaseModel):
    """What goes on for the caller."""

    executions: list[GoingOn] = Field(description="Those that have begun, in the order in which they did.")


def execution_body(execution: Execution) -> dict[str, Any]:
    """An execution as `ExecutionBody`. A text that is long is an iterator of its pieces, as `encoding` takes it."""
    body = replace(execution, stdout_bytes=b"", stderr_bytes=b"").as_dict()
    for name, written in (("stdout", execution.stdout_bytes), ("stderr", execution.stderr_bytes)):
        body[name] = _told(decoded_pieces(written, "replace"), len(written))
        body[f"{name}_base64"] = None if _is_text(written) else _told(_base64_pieces(written), len(written))
    return {**body, "displays": [_plain(display) for display in execution.displays]}


def _told(pieces: Iterator[str], size_bytes: int) -> str | Iterator[str]:
    """A text as it is; as its pieces, where it is long."""
    return "".join(pieces) if size_bytes <= PIECE_BYTES else pieces


def told(written: bytes) -> tuple[str, str | None]:
    """Bytes as text, and in base64 where the text is not exactly they."""
    if _is_text(written):
        return decoded(written), None
    return decoded(written, "replace"), "".join(_base64_pieces(written))


def _is_text(written: bytes) -> bool:
    """It is UTF-8."""
    try:
        deque(decoded_pieces(written), maxlen=0)
    except UnicodeDecodeError:
        return False
    return True


def _base64_pieces(written: bytes) -> Iterator[str]:
    """In base64, piece by piece, as `decoded_pieces`."""
    for at in range(0, len(written), _BASE64_BYTES):
        yield base64.b64encode(written[at : at + _BASE64_BYTES]).decode()


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
