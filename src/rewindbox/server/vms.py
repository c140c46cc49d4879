"""/v1/vms: make, list, look at, stop and remove vms."""

from fastapi import APIRouter, Response

from rewindbox.errors import InvalidArgument, UnknownVm, VmBusy
from rewindbox.execution import rfc3339
from rewindbox.registry import VmRecord
from rewindbox.server.access import Who
from rewindbox.server.bodies import NewVm, Removed, Vm, Vms
from rewindbox.server.problems import responses

routes = APIRouter(prefix="/v1/vms", tags=["vms"])


def shown(record: VmRecord, who: Who) -> Vm:
    """A vm as a client gets it."""
    running = next((vm for vm in who.service.box.running() if vm.id == record.id), None)
    return Vm(
        id=record.id,
        name=record.name,
        vm_type=record.vm_type,
        backend=record.backend,
        agent_id=record.agent_id,
        created_at=rfc3339(record.created_at),
        last_activity=rfc3339(record.last_activity) if record.last_activity else None,
        tip=record.tip,
        status="running" if running else "stopped",
        sessions=sorted(running.sessions) if running else [],
    )


@routes.post("", status_code=201, responses=responses(also={200: {"model": Vm, "description": "It was there."}}))
async def make(who: Who, asked: NewVm, response: Response) -> Vm:
    """Make a vm, and start it: a host that cannot make any says so now. One of that name is given as it is: 200."""
    vm, is_new = await who.new_vm(asked.name, asked.agent_id)
    await vm.list(".")
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/vms/{vm.id}"
    return shown(vm.record, who)


@routes.get("", responses=responses())
async def list_all(who: Who) -> Vms:
    """The vms that there are."""
    return Vms(vms=[shown(record, who) for record in await who.vms()])


@routes.get("/{vm}", responses=responses(UnknownVm))
async def look(who: Who, vm: str) -> Vm:
    """One vm, by id or name."""
    return shown((await who.vm(vm)).record, who)


@routes.post("/{vm}/stop", responses=responses(UnknownVm))
async def stop(who: Who, vm: str) -> Vm:
    """End its processes, live sessions and what runs; files and history stay."""
    found = await who.vm(vm)
    await found.stop()
    return shown(found.record, who)


@routes.delete("/{vm}", responses=responses(UnknownVm, VmBusy, InvalidArgument))
async def remove(who: Who, vm: str) -> Removed:
    """Remove a vm with its files, when what runs in it has ended. Its executions stay in history."""
    found = await who.vm(vm)
    await found.remove()
    return Removed(id=found.id, name=found.name)
