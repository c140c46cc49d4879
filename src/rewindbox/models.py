"""The types of terraphim_multi_agent 1.0.0 that this project implements: same names, fields, defaults, JSON.

They are what crosses a wire or stands in a configuration. Inside, plain dataclasses are used
(`execution.Execution`, `limits.Limits`), because importing pydantic models costs more than a vm; `seed.py`
makes these of those. Times are UTC, RFC 3339. A missing optional field is null; every other field without a
default is required. A value of the wrong type is refused, not converted: `"5000"` is no number.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, RootModel, model_validator

from rewindbox import errors
from rewindbox.language import Table
from rewindbox.languages import LANGUAGES


def _utc(when: datetime) -> datetime:
    try:
        return when.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time is not in the years 1 to 9999 of UTC") from error


UtcTime = Annotated[AwareDatetime, Field(strict=False), AfterValidator(_utc)]
I32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
U32 = Annotated[int, Field(ge=0, lt=2**32)]
U64 = Annotated[int, Field(ge=0, lt=2**64)]


class SeedModel(BaseModel):
    """Strict about types that mean something, silent about keys it does not know (clients send more)."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class HistoryConfig(SeedModel):
    """What is remembered of executions, and what happens to the vm when one fails."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool = Field(default=True, description="Record executions at all.")
    snapshot_on_execution: bool = Field(
        default=False, description="List the point before each execution as a snapshot."
    )
    snapshot_on_failure: bool = Field(
        default=True, description="List the point after each failed execution as a snapshot."
    )
    auto_rollback_on_failure: bool = Field(
        default=False, description="After a failed execution return to the state before it."
    )
    max_history_entries: U64 = Field(
        default=100,
        ge=1,
        description="Per vm: beyond it and a twentieth more, output and state of the oldest go; the row says so.",
    )
    persist_history: bool = Field(default=True, description="False: nothing on disk after the process.")
    integration_mode: Literal["http", "direct"] = Field(
        default="http", description="How a role reaches its vms; the embedded engine is direct."
    )


class VmExecutionConfig(SeedModel):
    """What a role says about running code. The embedded engine reads the limits of code from it."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool = Field(default=False, description="Whether the holder of a role may run code.")
    api_base_url: str = Field(default="http://localhost:8080", description="Where a server is, for http mode.")
    vm_pool_size: U32 = Field(default=1, description="Vms that are ready ahead; see `pool.*` of the configuration.")
    default_vm_type: str = Field(
        default="focal-optimized", description="What a new vm is made of; the names of the original mean `host`."
    )
    execution_timeout_ms: U64 = Field(
        default=30_000, ge=1, description="Wall clock of an execution, times the language's multiplier."
    )
    allowed_languages: list[str] = Field(
        default_factory=lambda: ["python", "javascript", "bash", "rust"],
        description="Languages that may run, by canonical name.",
    )
    auto_provision: bool = Field(default=True, description="False: an unknown vm is VmNotAvailable.")
    code_validation: bool = Field(default=True, description="Check language, length and NUL before running.")
    max_code_length: U64 = Field(default=10_000, ge=1, description="Longest code accepted, in characters.")
    history: HistoryConfig = Field(
        default_factory=HistoryConfig, strict=False, description="What is remembered, and what follows a failure."
    )


class CodeBlock(SeedModel):
    """A piece of code found in a model's answer."""

    language: str = Field(description="Canonical name (python, bash ...); `text` where none is named.")
    code: str = Field(description="What Markdown says the block contains.")
    execution_confidence: float = Field(ge=0.0, le=1.0, description="How sure we are that it is to be run.")
    start_pos: U64 = Field(description="First character of the whole element, fence lines included.")
    end_pos: U64 = Field(description="One past the last character of the whole element.")
    metadata: dict[str, Any] | None = Field(
        default=None, description="What else was seen: `kind`, `path`, `commands` ...; null where nothing was."
    )


class VmExecuteRequest(SeedModel):
    """Run this code in a vm."""

    agent_id: str = Field(description="Who asks; stands in history.")
    language: str = Field(description="Name or alias of a language (python, py, bash ...).")
    code: str = Field(description="What runs; at most `max_code_length` characters.")
    vm_id: str | None = Field(default=None, description="Name or id of the vm; null: a new one.")
    requirements: list[str] = Field(
        default_factory=list, description="Packages that must be there. None can be had yet: refused unless empty."
    )
    timeout_seconds: U64 | None = Field(
        default=None, ge=1, description="Wall clock in seconds; null: the configured one, times the language's."
    )
    working_dir: str | None = Field(default=None, description="Folder inside the vm; null: its home.")
    metadata: Any | None = Field(default=None, description="The caller's own; not read.")


class VmExecuteResponse(SeedModel):
    """What an execution did."""

    execution_id: str = Field(description="`ex_` and 26 characters.")
    vm_id: str = Field(description="The vm that ran it.")
    exit_code: I32 = Field(description="0 to 255; 124 out of time, 137 ended by us, 128+n by signal n.")
    stdout: str = Field(
        description="What it wrote, as UTF-8; other bytes are replaced. Bounded by the limit of output."
    )
    stderr: str = Field(description="As stdout.")
    duration_ms: U64 = Field(description="Wall clock in milliseconds.")
    started_at: UtcTime = Field(description="When the vm accepted the code.")
    completed_at: UtcTime = Field(description="When it ended.")
    error: str | None = Field(default=None, description="Why it was ended, in words; null: it ended by itself.")


class ParseExecuteRequest(SeedModel):
    """Find the code in a model's answer and perhaps run it."""

    agent_id: str = Field(description="Who asks; stands in history.")
    llm_response: str = Field(description="The whole answer, as Markdown.")
    auto_execute: bool = Field(description="False: blocks are found, and nothing runs.")
    auto_execute_threshold: float = Field(ge=0.0, le=1.0, description="Least confidence of a block that runs.")
    vm_config: dict[str, Any] | None = Field(
        default=None, description="Fields of VmExecutionConfig, over the configured ones."
    )


class ParseExecuteResponse(SeedModel):
    """The blocks found, and the results of those that ran, in document order."""

    code_blocks: list[CodeBlock] = Field(strict=False, description="Every block, in document order.")
    execution_results: list[VmExecuteResponse] = Field(strict=False, description="Of those that ran, in their order.")
    errors: list[str] = Field(description="Why a block did not run, a sentence each.")


class VmInstance(SeedModel):
    """A vm as it is listed."""

    id: str = Field(description="`vm_` and 26 characters.")
    name: str = Field(description="Unique among the vms that are there.")
    vm_type: str = Field(description="What it is made of: `host`, the host's own system read-only.")
    status: str = Field(description="`running`, `stopped` (starts when needed) or `removed`.")
    ip_address: str | None = Field(default=None, description="Null: a vm has no network.")
    created_at: UtcTime = Field(description="When it was made.")
    last_activity: UtcTime | None = Field(default=None, description="When it last changed; null: never.")


class VmPoolResponse(SeedModel):
    """The vms of an agent."""

    agent_id: str = Field(description="Whose vms.")
    available_vms: list[VmInstance] = Field(strict=False, description="Those that nobody holds.")
    in_use_vms: list[VmInstance] = Field(strict=False, description="Those that are held, and by nobody else to be had.")
    pool_config: VmExecutionConfig = Field(strict=False, description="What is in force for them.")


class ExecutionIntent(SeedModel):
    """How sure we are that a text asks for its code to be run, and why."""

    confidence: float = Field(ge=0.0, le=1.0, description="0: it does not ask; 1: it certainly does.")
    trigger_keywords: list[str] = Field(description="Words of the text that ask.")
    context_clues: list[str] = Field(description="What else speaks for it, or against it.")
    suggested_action: str = Field(description="What follows from it, in words.")


class LanguageConfig(SeedModel):
    """How a language is run."""

    name: str = Field(default="unknown", description="Canonical name.")
    extension: str = Field(default="txt", description="Of its files, without the dot.")
    execute_command: str = Field(default="cat", description="What runs a file of it.")
    common_packages: list[str] = Field(default_factory=list, description="Packages often needed; information only.")
    restrictions: list[str] = Field(default_factory=list, description="Texts that code should not have.")
    timeout_multiplier: float = Field(default=1.0, gt=0.0, description="Its time, relative to the configured one.")


def language_config(name: str, languages: Table = LANGUAGES) -> LanguageConfig:
    """What the original's table would say of a language; of one that is not in the table: `unknown`, run by `cat`."""
    language = languages.get(languages.canonical(name))
    if language is None:
        return LanguageConfig()
    return LanguageConfig(
        name=language.name,
        extension=language.extension,
        execute_command=language.program,
        common_packages=list(language.common_packages),
        restrictions=list(language.restrictions),
        timeout_multiplier=language.timeout_multiplier,
    )


class CommandHistoryEntry(SeedModel):
    """One execution, as history gives it."""

    id: str = Field(description="Id of the execution.")
    vm_id: str = Field(description="The vm that ran it.")
    agent_id: str = Field(description="Who ran it.")
    command: str = Field(description="The code.")
    language: str = Field(description="Canonical name.")
    snapshot_id: str | None = Field(default=None, description="The point after the execution; null: none was taken.")
    success: bool = Field(description="It ended by itself with exit code 0.")
    exit_code: I32 = Field(description="As VmExecuteResponse.")
    stdout: str = Field(description="As VmExecuteResponse; empty once history has dropped it.")
    stderr: str = Field(description="As stdout.")
    executed_at: UtcTime = Field(description="When it started: what the dates of a query compare.")
    duration_ms: U64 = Field(description="Wall clock in milliseconds.")


class HistoryQueryRequest(SeedModel):
    """Which executions to give."""

    vm_id: str = Field(description="Name or id of the vm.")
    agent_id: str | None = Field(default=None, description="Only what this agent ran; null: everybody.")
    limit: U64 | None = Field(default=None, description="At most so many entries; null: all.")
    failures_only: bool = Field(description="Only what did not succeed.")
    start_date: UtcTime | None = Field(default=None, description="Started then or later; null: from the beginning.")
    end_date: UtcTime | None = Field(default=None, description="Started then or earlier; null: to now.")


class HistoryQueryResponse(SeedModel):
    """Executions, newest first."""

    vm_id: str = Field(description="Whose history.")
    entries: list[CommandHistoryEntry] = Field(strict=False, description="Newest first, at most `limit`.")
    total: U64 = Field(description="Every match, not only those returned.")


class RollbackRequest(SeedModel):
    """Put a vm back to a snapshot."""

    vm_id: str = Field(description="Name or id of the vm.")
    snapshot_id: str = Field(description="Id of a point or of a snapshot of that vm.")
    create_pre_rollback_snapshot: bool = Field(description="List where the vm stood as a snapshot, to come back to.")


class RollbackResponse(SeedModel):
    """What a rollback did."""

    vm_id: str = Field(description="The vm that went back.")
    restored_snapshot_id: str = Field(description="The point that it stands on now.")
    pre_rollback_snapshot_id: str | None = Field(default=None, description="Where it stood; null: not listed.")
    rolled_back_at: UtcTime = Field(description="When.")
    success: bool = Field(description="Whether it stands there; false: it is as it was.")
    error: str | None = Field(default=None, description="Why it could not; null: it could.")


class VmExecutionError(RootModel[dict[str, str | int]]):
    """An error as the original writes it: one key, the kind; its value the text, or of a Timeout the milliseconds.

    `{"VmNotAvailable": "vm_x"}`, `{"Timeout": 5000}`. `str` of it is the original's text.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    @model_validator(mode="after")
    def _is_one_kind(self) -> "VmExecutionError":
        if len(self.root) != 1 or self.kind not in errors.KINDS:
            raise ValueError(f"give one of {', '.join(errors.KINDS)}")
        if isinstance(self.detail, str) == (self.kind == "Timeout"):
            raise ValueError(f"{self.kind} has {'milliseconds' if self.kind == 'Timeout' else 'a text'}")
        if isinstance(self.detail, int) and not 0 <= self.detail < 2**64:
            raise ValueError("give milliseconds from 0 to 2**64 - 1")
        return self

    @property
    def kind(self) -> str:
        """The variant's name."""
        return next(iter(self.root), "")

    @property
    def detail(self) -> str | int:
        """What the variant holds."""
        return self.root[self.kind]

    def __str__(self) -> str:
        return str(self.as_error())

    @classmethod
    def of(cls, error: errors.RewindboxError) -> "VmExecutionError":
        """Any error of ours; one that has no kind becomes the nearest that the original knows."""
        if isinstance(error, errors.Timeout):
            return cls({"Timeout": error.after_ms})
        return cls({errors.kind_of(error): str(error).removeprefix(error.prefix)})

    def as_error(self) -> errors.RewindboxError:
        """The exception to raise for it. The remedy, if there was one, is part of its text."""
        error: errors.RewindboxError = errors.KINDS[self.kind](self.detail)
        return error
