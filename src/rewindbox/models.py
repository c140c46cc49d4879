"""The types of terraphim_multi_agent 1.0.0 that this project implements: same names, fields, defaults, JSON.

They are what crosses a wire or stands in a configuration. Inside, plain dataclasses are used
(`execution.Execution`, `limits.Limits`), because importing pydantic models costs more than a vm.
Times are UTC, RFC 3339. A missing optional field is null; every other field without a default is required.
"""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rewindbox.language import Table
from rewindbox.languages import LANGUAGES


class SeedModel(BaseModel):
    """Strict about types that mean something, silent about keys it does not know (clients send more)."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


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
    max_history_entries: int = Field(
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
    vm_pool_size: int = Field(default=1, ge=0, description="How many vms are kept warm.")
    default_vm_type: str = Field(default="focal-optimized", description="What a new vm is made of.")
    execution_timeout_ms: int = Field(
        default=30_000, ge=1, description="Wall clock of an execution, times the language's multiplier."
    )
    allowed_languages: list[str] = Field(
        default_factory=lambda: ["python", "javascript", "bash", "rust"],
        description="Languages that may run, by canonical name.",
    )
    auto_provision: bool = Field(default=True, description="False: an unknown vm is VmNotAvailable.")
    code_validation: bool = Field(default=True, description="Check language, length and NUL before running.")
    max_code_length: int = Field(default=10_000, ge=1, description="Longest code accepted, in characters.")
    history: HistoryConfig = Field(default_factory=HistoryConfig)


class CodeBlock(SeedModel):
    """A piece of code found in a model's answer."""

    language: str = Field(description="Canonical name (python, bash ...); `text` where none is named.")
    code: str = Field(description="What Markdown says the block contains.")
    execution_confidence: float = Field(ge=0.0, le=1.0, description="How sure we are that it is to be run.")
    start_pos: int = Field(ge=0, description="First character of the whole element, fence lines included.")
    end_pos: int = Field(ge=0, description="One past the last character of the whole element.")
    metadata: dict[str, Any] | None = None


class VmExecuteRequest(SeedModel):
    """Run this code in a vm."""

    agent_id: str
    language: str
    code: str
    vm_id: str | None = None
    requirements: list[str] = Field(default_factory=list)
    timeout_seconds: int | None = Field(default=None, ge=1)
    working_dir: str | None = None
    metadata: Any | None = None


class VmExecuteResponse(SeedModel):
    """What an execution did."""

    execution_id: str
    vm_id: str
    exit_code: int
    stdout: str
    stderr: str
    duration_ms: int = Field(ge=0)
    started_at: datetime
    completed_at: datetime
    error: str | None = None


class ParseExecuteRequest(SeedModel):
    """Find the code in a model's answer and perhaps run it."""

    agent_id: str
    llm_response: str
    auto_execute: bool
    auto_execute_threshold: float = Field(ge=0.0, le=1.0)
    vm_config: dict[str, Any] | None = None


class ParseExecuteResponse(SeedModel):
    """The blocks found, and the results of those that ran, in document order."""

    code_blocks: list[CodeBlock]
    execution_results: list[VmExecuteResponse]
    errors: list[str]


class VmInstance(SeedModel):
    """A vm as it is listed."""

    id: str
    name: str
    vm_type: str
    status: str
    ip_address: str | None = None
    created_at: datetime
    last_activity: datetime | None = None


class VmPoolResponse(SeedModel):
    """The vms of an agent."""

    agent_id: str
    available_vms: list[VmInstance]
    in_use_vms: list[VmInstance]
    pool_config: VmExecutionConfig


class ExecutionIntent(SeedModel):
    """How sure we are that a text asks for its code to be run, and why."""

    confidence: float = Field(ge=0.0, le=1.0)
    trigger_keywords: list[str]
    context_clues: list[str]
    suggested_action: str


class LanguageConfig(SeedModel):
    """How a language is run."""

    name: str = "unknown"
    extension: str = "txt"
    execute_command: str = "cat"
    common_packages: list[str] = Field(default_factory=list)
    restrictions: list[str] = Field(default_factory=list)
    timeout_multiplier: float = Field(default=1.0, gt=0.0)


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

    id: str
    vm_id: str
    agent_id: str
    command: str = Field(description="The code.")
    language: str
    snapshot_id: str | None = Field(default=None, description="The point after the execution, if kept.")
    success: bool
    exit_code: int
    stdout: str
    stderr: str
    executed_at: datetime
    duration_ms: int = Field(ge=0)


class HistoryQueryRequest(SeedModel):
    """Which executions to give. Dates are inclusive."""

    vm_id: str
    agent_id: str | None = None
    limit: int | None = Field(default=None, ge=0)
    failures_only: bool
    start_date: datetime | None = None
    end_date: datetime | None = None


class HistoryQueryResponse(SeedModel):
    """Executions, newest first; `total` counts every match, not only those returned."""

    vm_id: str
    entries: list[CommandHistoryEntry]
    total: int = Field(ge=0)


class RollbackRequest(SeedModel):
    """Put a vm back to a snapshot."""

    vm_id: str
    snapshot_id: str
    create_pre_rollback_snapshot: bool


class RollbackResponse(SeedModel):
    """What a rollback did."""

    vm_id: str
    restored_snapshot_id: str
    pre_rollback_snapshot_id: str | None = None
    rolled_back_at: datetime
    success: bool
    error: str | None = None
