"""/v1/vms: make, list, look at, stop and remove vms."""

from collections.abc import Mapping
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from rewindbox import documents
from rewindbox.errors import InvalidArgument, TooManyVms, UnknownVm, VmBusy
from rewindbox.registry import VmRecord
from rewindbox.server.access import Who
from rewindbox.server.bodies import Asked, Name, Removed, Text
from rewindbox.server.counted import Route
from rewindbox.server.problems import responses
from rewindbox.vm import AsyncVm

routes = APIRouter(prefix="/v1/vms", tags=["vms"], route_class=Route)


class NewVm(Asked):
    """A vm to be made."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "demo"}]})

    name: Name | None = Field(None, description="1 to 64 letters, digits, `.`, `_`, `-`. Null: one is made up.")
    agent_id: Text | None = Field(None, description="Whose it is. Null: the token's agent, or as configured.")


class SessionsEnded(BaseModel):
    """Live sessions that ended together with the processes of their vm."""

    at: str = Field(description="When.")
    sessions: str = Field(description="Their names.")
    reason: str = Field(description="Why, in words.")


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
    sessions_ended: SessionsEnded | None = Field(description="The last time that sessions ended so; null: never.")


class Vms(BaseModel):
    """The vms that there are for the caller."""

    vms: list[Vm] = Field(description="Oldest first.")


async def shown(record: VmRecord, who: Who) -> Vm:
    """A vm as a client gets it."""
    return await _shown(record, who, _running(who))


def _running(who: Who) -> dict[str, AsyncVm]:
    return {vm.id: vm for vm in who.service.box.running()}


async def _shown(record: VmRecord, who: Who, all_running: Mapping[str, AsyncVm]) -> Vm:
    ended, running = await who.service.box.sessions_ended(record.id), all_running.get(record.id)
    told = documents.vm_as_dict(record, None, sorted(running.sessions) if running else ())
    status = {"status": "running" if running else "stopped"}
    return Vm.model_validate({**told, **status, **documents.sessions_ended_as_dict(ended)})


@routes.post(
    "", status_code=201, responses=responses(TooManyVms, also={200: {"model": Vm, "description": "It was there."}})
)
async def make(who: Who, asked: NewVm, response: Response) -> Vm:
    """Make a vm, and start it: a host that cannot make any says so now. One of that name is given as it is: 200."""
    vm, is_new = await who.new_vm(asked.name, asked.agent_id)
    if vm.id not in {running.id for running in who.service.box.running()}:  # what runs there is not waited for
        await vm.list(".")
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/vms/{vm.id}"
    return await shown(vm.record, who)


@routes.get("", responses=responses())
async def list_all(who: Who) -> Vms:
    """The vms that there are."""
    running = _running(who)
    return Vms(vms=[await _shown(record, who, running) for record in await who.vms()])


@routes.get("/{vm}", responses=responses(UnknownVm))
async def look(who: Who, vm: str) -> Vm:
    """One vm, by id or name."""
    return await shown((await who.vm(vm)).record, who)


@routes.post("/{vm}/stop", responses=responses(UnknownVm))
async def stop(who: Who, vm: str) -> Vm:
    """End its processes, live sessions and what runs; files and history stay."""
    found = await who.vm(vm)
    await found.stop()
    return await shown(found.record, who)


@routes.delete("/{vm}", responses=responses(UnknownVm, VmBusy, InvalidArgument))
async def remove(who: Who, vm: str) -> Removed:
    """Remove a vm with its files, when what runs in it has ended. Its executions stay in history."""
    found = await who.vm(vm)
    await who.service.box.pool.remove(found.id)
    return Removed(id=found.id, name=found.name)
