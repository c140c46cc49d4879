"""What really ran, in the types of the original; and its request, as a call."""

import pytest

from rewindbox import seed
from rewindbox.errors import ValidationFailed
from rewindbox.models import (
    CommandHistoryEntry,
    HistoryQueryResponse,
    RollbackResponse,
    VmExecuteRequest,
    VmExecuteResponse,
    VmInstance,
)

pytestmark = pytest.mark.anyio


def again(model):
    """The model after a journey through JSON."""
    return type(model).model_validate_json(model.model_dump_json())


async def test_an_execution_is_a_response_and_an_entry(box):
    """Every field has what the execution has, and it survives JSON."""
    vm = await box.vm("one")
    ran = await vm.execute("bash", "echo out; echo err >&2; exit 3", agent_id="ann")
    assert again(seed.response(ran)) == VmExecuteResponse(
        execution_id=ran.id,
        vm_id=vm.id,
        exit_code=3,
        stdout="out\n",
        stderr="err\n",
        duration_ms=ran.duration_ms,
        started_at=ran.started_at,
        completed_at=ran.completed_at,
    )
    entry = CommandHistoryEntry(
        id=ran.id,
        vm_id=vm.id,
        agent_id="ann",
        command=ran.code,
        language="bash",
        snapshot_id=ran.after,
        success=False,
        exit_code=3,
        stdout="out\n",
        stderr="err\n",
        executed_at=ran.started_at,
        duration_ms=ran.duration_ms,
    )
    page = seed.page(vm.id, await box.history(vm, limit=1))
    assert again(page) == HistoryQueryResponse(vm_id=vm.id, entries=[entry], total=1)


async def test_an_entry_names_a_snapshot_that_one_can_return_to(box):
    """`snapshot_id` of an entry is accepted by a rollback, whose answer tells where it went and how to come back."""
    vm = await box.vm("one")
    entry = seed.entry(await vm.execute("bash", "echo 1 > f"))
    await vm.execute("bash", "echo 2 > f")
    done = seed.rollback(await vm.rollback(str(entry.snapshot_id)))
    assert await vm.read("f") == b"1\n"
    assert again(done) == done == RollbackResponse(**done.model_dump())
    assert (done.vm_id, done.restored_snapshot_id, done.success, done.error) == (vm.id, entry.snapshot_id, True, None)
    await vm.rollback(str(done.pre_rollback_snapshot_id))
    assert await vm.read("f") == b"2\n"


async def test_a_vm_is_an_instance(box):
    """Stopped, running, removed; the rest is the record's."""
    vm = await box.vm("one")
    (record,) = await box.vms()
    assert again(seed.instance(record, is_running=vm.is_running)).status == "stopped"
    await vm.execute("bash", "true")
    (record,) = await box.vms()
    assert seed.instance(record, is_running=vm.is_running) == VmInstance(
        id=vm.id,
        name="one",
        vm_type="host",
        status="running",
        created_at=record.created_at,
        last_activity=record.last_activity,
    )


async def test_a_request_is_a_call(box):
    """Agent, folder and time of a request arrive; `timeout_seconds` ends what takes longer."""
    vm = await box.vm("one")
    request = VmExecuteRequest(agent_id="ann", language="py", code="import os; print(os.getcwd())", working_dir="/tmp")
    ran = await vm.execute(**seed.arguments(request))
    assert (ran.agent_id, ran.language, ran.stdout) == ("ann", "python", "/tmp\n")
    slow = VmExecuteRequest(agent_id="ann", language="bash", code="while :; do :; done", timeout_seconds=1)
    assert (await vm.execute(**seed.arguments(slow))).ended == "timeout"


def test_requirements_are_refused_by_name():
    """Packages cannot be installed: a request for some says so, and is not run without them."""
    request = VmExecuteRequest(agent_id="a", language="python", code="1", requirements=["numpy", "torch"])
    with pytest.raises(ValidationFailed, match="numpy, torch") as caught:
        seed.arguments(request)
    assert "leave requirements empty" in str(caught.value.remedy)
