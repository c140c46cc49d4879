"""/api/vm-pool of the original's API: what of the pool is there for whom, and vms that a client holds."""

from typing import Any

from fastapi import APIRouter

from rewindbox.config import Settings
from rewindbox.errors import UnknownLease, UnknownVm
from rewindbox.models import HistoryConfig, VmExecutionConfig
from rewindbox.server.access import Caller, Who
from rewindbox.server.original.route import Lenient, Route
from rewindbox.server.original.vms import make, shown

routes = APIRouter(route_class=Route, include_in_schema=False)


class Allocation(Lenient):
    """A vm to be held; one that is not there is made, with this as its name."""

    vm_id: str
    agent_id: str | None = None


@routes.get("/api/llm/vm-pool/{agent}")
async def of_agent(who: Who, agent: str) -> dict[str, Any]:
    """The vms of an agent: those that are to be had, and those that are in use."""
    who.agent(agent)
    pool = who.service.box.pool
    found = [record for record in await who.vms() if record.agent_id == agent]
    in_use = [shown(record, who.service.box) for record in found if pool.holds(record.id)]
    available = [shown(record, who.service.box) for record in found if not pool.holds(record.id)]
    config = _config(who.service.box.settings).model_dump(mode="json")
    return {"agent_id": agent, "available_vms": available, "in_use_vms": in_use, "pool_config": config}


def _config(settings: Settings) -> VmExecutionConfig:
    """What is in force, as the original writes it."""
    history = HistoryConfig(**{name: getattr(settings.history, name) for name in HistoryConfig.model_fields})
    fields = VmExecutionConfig.model_fields.keys() - {"history"}
    return VmExecutionConfig(**{name: getattr(settings, name) for name in fields}, history=history)


@routes.get("/api/vm-pool")
@routes.get("/api/vm-pool/list")
async def all_of_them(who: Who) -> dict[str, Any]:
    """The vms that run. They have no address: a vm has no network."""
    running = {vm.id for vm in who.service.box.running()}
    vms = [{"vm_id": record.id, "ip_address": ""} for record in await who.vms() if record.id in running]
    return {"vms": vms, "stats": await _stats(who)}


@routes.get("/api/vm-pool/stats")
async def stats(who: Who) -> dict[str, Any]:
    """How many run. There are no addresses, so that these names count vms."""
    return await _stats(who)


async def _stats(who: Caller) -> dict[str, Any]:
    found = await who.service.box.pool.stats()
    used = found.starting + found.ready + found.leased + found.resting  # what leaves makes room for these
    return {
        "total_ips": found.max,
        "allocated_ips": used,
        "available_ips": max(0, found.max - used),
        "utilization_percent": round(100 * used / found.max),  # one client reads whole numbers only
        **found.as_dict(),
    }


@routes.post("/api/vm-pool/allocate")
async def allocate(who: Who, asked: Allocation) -> dict[str, Any]:
    """Hold a vm, so that it goes on running, until it is released, or nobody asks anything of it for `pool.lease_s`."""
    try:
        vm = await who.vm(asked.vm_id)
    except UnknownVm:
        if asked.vm_id.startswith("vm_"):
            raise
        vm = await make(who, asked.vm_id, asked.agent_id)
    await who.service.leases.begin(vm.record.agent_id, vm.id, lease_id=vm.id)
    return {"vm_id": vm.id, "ip_address": ""}


@routes.post("/api/vm-pool/release/{vm}")
async def release(who: Who, vm: str) -> dict[str, Any]:
    """Hold it no longer. One that nobody holds, or not any more, stays as it is."""
    found, released = await who.vm(vm), True
    try:
        await who.service.leases.end(who.service.leases.find(found.id, who.sees))
    except UnknownLease:
        released = False
    return {"vm_id": found.id, "released": released, "message": f"vm {found.name} is released"}
