"""A request of the original to find the code of an answer and perhaps run it -> what it asks for; and the answer to it.

Pure; `AsyncRewindbox.parse_execute` does what is between the two.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field, ValidationError

from rewindbox import seed
from rewindbox.config import Settings, merge
from rewindbox.errors import InvalidArgument, RewindboxError
from rewindbox.execution import Execution
from rewindbox.models import CodeBlock, ParseExecuteRequest, ParseExecuteResponse, VmExecuteResponse
from rewindbox.policy import Decision, allowed

_OVERRIDES = ("allowed_languages", "max_code_length")
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,58}")
_SHOWN_CHARS = 200


class Asked(ParseExecuteRequest):
    """The original's request, and what is ours in it."""

    request: str | None = Field(default=None, description="What the user had asked for; None: unknown.")
    max_bytes: int | None = Field(
        default=None, ge=0, description="Results have so much output; beyond it is left out, and `errors` says so."
    )


def request(given: ParseExecuteRequest | Mapping[str, Any]) -> Asked:
    """A request, checked. Raises InvalidArgument: a field is missing, of the wrong type or out of its range."""
    if isinstance(given, ParseExecuteRequest):
        return Asked.model_construct(**dict(given))
    try:
        return Asked.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise InvalidArgument(f"parse_execute: {field}: {first['msg']}", remedy=f"correct {field}") from None


def narrowed(settings: Settings, vm_config: Mapping[str, Any] | None) -> Settings:
    """Settings, with what a request allows less: it may take languages and length away, never add any.

    Raises InvalidArgument: another key. ConfigError: a value of the wrong type.
    """
    if not vm_config:
        return settings
    if unknown := [key for key in vm_config if key not in _OVERRIDES]:
        raise InvalidArgument(
            f"vm_config has {', '.join(unknown)[:_SHOWN_CHARS]!r}, which one request cannot change",
            remedy=f"give only {' and '.join(_OVERRIDES)}; the rest belongs to the configuration",
        )
    wanted = merge(settings, vm_config, "vm_config")
    return replace(
        wanted,
        allowed_languages=sorted(allowed(settings) & allowed(wanted)),
        max_code_length=min(settings.max_code_length, wanted.max_code_length),
    )


def vm_name(agent_id: str) -> str:
    """The vm of an agent. Any agent has one, and no two have the same."""
    if _PLAIN.fullmatch(agent_id):
        return f"agent-{agent_id}"
    return f"agent_{hashlib.sha256(agent_id.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


class Answer:
    """The answer to a request, as it comes together."""

    def __init__(self, asked: Asked, blocks: list[CodeBlock]) -> None:
        self.blocks, self._threshold = blocks, asked.auto_execute_threshold
        self._results: list[VmExecuteResponse] = []
        self._decided: list[tuple[int, Decision]] = []
        self._told: list[tuple[int, str]] = []
        self._left_bytes = asked.max_bytes

    def decide(self, number: int, decision: Decision) -> None:
        """What becomes of a block, before it does."""
        self._decided.append((number, decision))

    def add(self, execution: Execution) -> None:
        """How the block ended that was decided on last."""
        if not execution.success:
            self._tell(execution, execution.error or f"exit code {execution.exit_code}")
        self._results.append(seed.response(self._fitting(execution)))

    def _fitting(self, execution: Execution) -> Execution:
        """With its output, if there is room for that."""
        written_bytes = len(execution.stdout_bytes) + len(execution.stderr_bytes)
        if self._left_bytes is None:
            return execution
        if written_bytes <= self._left_bytes:
            self._left_bytes -= written_bytes
            return execution
        self._tell(execution, f"its output of {written_bytes} bytes is left out: {execution.id} has it")
        return replace(execution, stdout_bytes=b"", stderr_bytes=b"")

    def _tell(self, execution: Execution, text: str) -> None:
        number = self._decided[-1][0]
        self._told.append((number, f"block {number} ({execution.language}): {text}"))

    def whole(self, raised: RewindboxError | None = None) -> ParseExecuteResponse:
        """All: a sentence for each block to run that did not, failed or wrote too much, and for what was raised."""
        told = [text for _, text in sorted([*self._told, *self._refused()])]
        errors = [*told, str(raised)] if raised is not None else told
        return ParseExecuteResponse(code_blocks=self.blocks, execution_results=self._results, errors=errors)

    def _refused(self) -> Iterator[tuple[int, str]]:
        for number, decision in self._decided:
            if decision.skipped is not None and _was_to_run(decision, self._threshold):
                language, why = decision.block.language[:_SHOWN_CHARS], decision.skipped[:_SHOWN_CHARS]
                yield number, f"block {number} ({language}): {why}"


def _was_to_run(decision: Decision, threshold: float) -> bool:
    """Files that were written, prose, blanks and what is below the threshold are as they were asked to be."""
    block = decision.block
    is_code = block.language != "text"
    return is_code and decision.path is None and block.execution_confidence >= threshold and bool(block.code.strip())
