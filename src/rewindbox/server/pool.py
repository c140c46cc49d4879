"""/v1/pool: vms that are ready, and those that a client holds from one request to another."""

from functools import partial
from typing import Annotated

import anyio
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from rewindbox import errors
from rewindbox.meanwhile import meanwhile
from rewindbox.server.access import Who
from rewindbox.server.bodies import Asked, Text
from rewindbox.server.counted import Route
from rewindbox.server.problems import responses
from rewindbox.server.streams import until_gone
from rewindbox.server.vms import Vm, shown

routes = APIRouter(prefix="/v1/pool", tags=["pool"], route_class=Route)
LeaseId = Annotated[str, Path(pattern=r"^lease_[a-z2-7]{26}$")]


class NewLease(Asked):
    """A vm of the pool to be held."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"agent_id": "reviewer"}]})

    agent_id: Text | None = Field(None, description="For whom. Null: the token's agent, or as configured.")
    vm: Text | None = Field(
        None,
        description="This one, by name or id, the pool's or not; others who name it share it. Null: the agent's own.",
    )
    wait_s: float | None = Field(
        None,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="How long to wait for one, in seconds. Null: `pool.wait_s`.",
    )


class LeaseBody(BaseModel):
    """A vm that is held."""

    model_config = ConfigDict(title="Lease")
    id: str = Field(description="`lease_` and 26 characters: by it the vm is given back.")
    agent_id: str = Field(description="For whom.")
    vm: Vm = Field(description="The vm, which runs.")


class GivenBack(BaseModel):
    """A vm that is no longer held."""

    id: str = Field(description="The lease.")
    vm_id: str = Field(description="Its vm.")


class CountsBody(BaseModel):
    """What has happened since the server began."""

    model_config = ConfigDict(title="PoolCounts")
    leases: int = Field(description="Times that an agent got a vm. Each is one of the next four.")
    own: int = Field(description="It was its own, and running.")
    started: int = Field(description="It was its own, or named, and had been stopped.")
    ready: int = Field(description="It was ready.")
    new: int = Field(description="It was made while the agent waited.")
    refused: int = Field(description="None was to be had in time.")
    evicted: int = Field(description="Stopped to make room for another.")
    recycled: int = Field(description="Too old or too much used to be given to its agent again.")
    broken: int = Field(description="Did not answer, and was started anew or given up.")


class PoolBody(BaseModel):
    """What the pool is now."""

    model_config = ConfigDict(title="Pool")
    starting: int = Field(description="Vms that are made ready.")
    ready: int = Field(description="Vms that are nobody's yet.")
    leased: int = Field(description="Vms that are in use.")
    resting: int = Field(description="Vms that are an agent's and not in use.")
    leaving: int = Field(description="Vms that are being stopped.")
    waiting: int = Field(description="Requests that wait for one.")
    max: int = Field(description="Vms that may run.")
    counts: CountsBody = Field(description="What has happened.")
    problem: str | None = Field(description="Why the last vm could not be made ready; null: it could.")


@routes.get("", responses=responses())
async def look(who: Who) -> PoolBody:
    """What the pool is now, of all agents: with the token of one it is refused."""
    who.check_all("these are the numbers of all agents")
    return PoolBody.model_validate((await who.service.box.pool.stats()).as_dict())


@routes.post(
    "/leases",
    status_code=201,
    responses=responses(
        *(errors.PoolFull, errors.TooManyVms, errors.UnknownVm, errors.VmBusy, errors.VmDamaged, errors.VmNotAvailable),
        errors.ExecutionFailed,
    ),
)
async def lease(who: Who, asked: NewLease, request: Request, response: Response) -> LeaseBody:
    """Hold a vm: the agent's own, with its files and sessions, or a ready one, or the one that is named.

    It is given back by `DELETE`, or when nobody has asked anything of the vm for 10 minutes (`pool.lease_s`) and
    nothing goes on in it. Where none is free in time, 429 with `Retry-After`.
    """
    vm_id = None if asked.vm is None else (await who.vm(asked.vm)).id
    agent_id = who.agent(asked.agent_id) or who.service.box.settings.agent_id
    scope = anyio.CancelScope()
    async with meanwhile(partial(until_gone, request.receive, scope)):
        hold = partial(who.service.leases.begin, agent_id, vm_id, asked.wait_s)
        held = await who.service.work.result(who.token, scope, hold)
    response.headers["Location"] = f"/v1/pool/leases/{held.id}"
    return LeaseBody(id=held.id, agent_id=agent_id, vm=await shown(held.vm.record, who))


@routes.delete("/leases/{lease}", responses=responses(errors.UnknownLease))
async def give_back(who: Who, lease: LeaseId) -> GivenBack:
    """Hold a vm no longer. Its files stay, and its agent gets it again."""
    found = who.service.leases.find(lease, who.sees)
    await who.service.leases.end(found)
    return GivenBack(id=found.id, vm_id=found.vm.id)
