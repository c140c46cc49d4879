"""A run: the blocks of a model's answer, as it was decided on them, one after the other in one vm."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rewindbox.backends.base import OnOutput
from rewindbox.errors import BadRequest
from rewindbox.execution import Execution
from rewindbox.language import Table
from rewindbox.limits import Limits
from rewindbox.policy import Decision, OnFailure

if TYPE_CHECKING:
    from rewindbox.engine import AnyVm, OnDecision


async def carry_out(
    decisions: Sequence[Decision],
    vm: "AnyVm",
    languages: Table,
    *,
    on_failure: OnFailure,
    agent_id: str | None = None,
    limits: Limits | None = None,
    session: str | None = None,
    on_decision: "OnDecision | None" = None,
    on_output: OnOutput | None = None,
    on_begun: Callable[[str], None] | None = None,
) -> AsyncGenerator[Execution, None]:
    """Each execution as it ends; see `AsyncRewindbox.run`."""
    for number, decision in enumerate(decisions, 1):
        if decision.path is not None:
            decision = await _written(vm, decision.path, decision)
        if on_decision is not None:
            on_decision(number, decision)
        if decision.skipped is not None:
            continue
        execution = await vm.execute(
            decision.block.language,
            decision.code,
            agent_id=agent_id,
            limits=limits,
            on_output=on_output,
            on_begun=on_begun,
            rollback_on_failure=True if on_failure == "rollback" else None,
            session=session if languages.find(decision.block.language).session else None,
            block=number,
        )
        yield execution
        if not execution.success and on_failure == "stop":
            return


async def _written(vm: "AnyVm", path: str, decision: Decision) -> Decision:
    """Write a block to its file; what came of it."""
    try:
        await vm.write(path, decision.block.code.encode())
    except (BadRequest, UnicodeEncodeError) as error:
        return replace(decision, skipped=f"not written to {path}: {error}", path=None)
    return decision
