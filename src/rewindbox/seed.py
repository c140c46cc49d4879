"""Our own objects -> the types of the original, and its request -> what `AsyncVm.execute` takes.

For whatever answers in the original's JSON. Nothing is read from the store here and nothing is run.
"""

from typing import Any

from rewindbox.errors import ValidationFailed
from rewindbox.execution import Execution
from rewindbox.history import HistoryPage
from rewindbox.models import (
    CommandHistoryEntry,
    HistoryQueryResponse,
    RollbackResponse,
    VmExecuteRequest,
    VmExecuteResponse,
    VmInstance,
)
from rewindbox.points import Rollback
from rewindbox.registry import VmRecord


def arguments(request: VmExecuteRequest) -> dict[str, Any]:
    """What `AsyncVm.execute` is to be called with; the vm is the caller's to find (`vm_id`).

    Raises ValidationFailed: it names requirements, and no vm can have any yet.
    """
    if request.requirements:
        raise ValidationFailed(
            f"requirements {', '.join(request.requirements)[:200]!r}: packages cannot be installed yet",
            remedy="leave requirements empty; what the host has installed is there",
        )
    return {
        "language": request.language,
        "code": request.code,
        "agent_id": request.agent_id,
        "timeout_seconds": request.timeout_seconds,
        "working_dir": request.working_dir,
    }


def response(execution: Execution) -> VmExecuteResponse:
    """What an execution did."""
    return VmExecuteResponse(
        execution_id=execution.id,
        vm_id=execution.vm_id,
        exit_code=execution.exit_code,
        stdout=execution.stdout,
        stderr=execution.stderr,
        duration_ms=execution.duration_ms,
        started_at=execution.started_at,
        completed_at=execution.completed_at,
        error=execution.error,
    )


def entry(execution: Execution) -> CommandHistoryEntry:
    """An execution, as history gives it."""
    return CommandHistoryEntry(
        id=execution.id,
        vm_id=execution.vm_id,
        agent_id=execution.agent_id,
        command=execution.code,
        language=execution.language,
        snapshot_id=execution.after,
        success=execution.success,
        exit_code=execution.exit_code,
        stdout=execution.stdout,
        stderr=execution.stderr,
        executed_at=execution.started_at,
        duration_ms=execution.duration_ms,
    )


def page(vm_id: str, found: HistoryPage) -> HistoryQueryResponse:
    """What a query of one vm's history found."""
    return HistoryQueryResponse(
        vm_id=vm_id, entries=[entry(execution) for execution in found.entries], total=found.total
    )


def instance(vm: VmRecord, *, is_running: bool) -> VmInstance:
    """A vm; whether it runs is known to who holds it."""
    return VmInstance(
        id=vm.id,
        name=vm.name,
        vm_type=vm.vm_type,
        status="removed" if vm.removed else "running" if is_running else "stopped",
        created_at=vm.created_at,
        last_activity=vm.last_activity,
    )


def rollback(done: Rollback) -> RollbackResponse:
    """A rollback that was done; one that could not be is an exception instead."""
    return RollbackResponse(
        vm_id=done.vm_id,
        restored_snapshot_id=done.to_point,
        pre_rollback_snapshot_id=done.snapshot_id,
        rolled_back_at=done.at,
        success=True,
    )
