"""/api/vms of the original's API: vms, what they take, their history, snapshots, going back, files."""

import re
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Query, Request, Response
from pydantic import AwareDatetime, Field

from rewindbox import seed
from rewindbox.backends.base import Usage
from rewindbox.engine import AsyncRewindbox
from rewindbox.errors import ConfigError, InvalidArgument, VmNotAvailable
from rewindbox.execution import Execution, rfc3339
from rewindbox.history import HistoryPage
from rewindbox.points import Snapshot
from rewindbox.registry import VmRecord, check_name
from rewindbox.server import encoding
from rewindbox.server.access import Caller, Who
from rewindbox.server.files import attachment
from rewindbox.server.original.route import Lenient, Route, both
from rewindbox.vm import AsyncVm

_VM_TYPES = ("host", "focal", "ubuntu", "bionic", "terraphim-minimal", "rust-ci", "rust-vm", "test-vm")
"""What clients of the original ask for; each means the host's own system."""
_PAGE = 100
"""Executions of a page where a client does not say."""

routes = APIRouter(prefix="/api/vms", route_class=Route, include_in_schema=False)
When = Annotated[AwareDatetime | None, Query()]


class NewVm(Lenient):
    """A vm to be made; some clients call its name so, some otherwise."""

    vm_type: str | None = None
    name: str | None = None
    vm_name: str | None = None
    agent_id: str | None = None


class NewSnapshot(Lenient):
    """A snapshot to be taken. Its description is not kept."""

    name: str | None = None
    agent_id: str | None = None


class Page(Lenient):
    """Which executions to give."""

    limit: int = Field(_PAGE, ge=0, le=10_000)
    offset: int = Field(0, ge=0)
    older_than: str | None = None
    failures_only: bool = False
    agent_id: str | None = None
    start_date: When = None
    end_date: When = None


def shown(record: VmRecord, box: AsyncRewindbox) -> dict[str, Any]:
    """A vm. One that is stopped is `ready`: it is started by what needs it running."""
    return _shown(record, is_running=any(vm.id == record.id for vm in box.running()))


def _shown(record: VmRecord, *, is_running: bool) -> dict[str, Any]:
    body = seed.instance(record, is_running=is_running).model_dump(mode="json")
    body |= {"vm_id": record.id, "status": "running" if is_running else "ready", "agent_id": record.agent_id}
    used = record.last_activity or record.created_at
    address = {"ip_address": ""}  # a vm has none; one client reads text only
    return both({**body, **address, "user_id": record.agent_id, "config": None, "updated_at": rfc3339(used)})


def check_vm_type(name: str | None) -> None:
    """Raises ConfigError: nobody knows what that is made of."""
    if name is not None and not name.startswith(_VM_TYPES):
        known = ", ".join(_VM_TYPES)
        raise ConfigError(
            f"vm_type {name[:80]!r}", remedy=f"give one that begins with {known}; all mean the host's system"
        )


async def make(who: Caller, name: str | None, agent_id: str | None) -> AsyncVm:
    """A new vm that runs; where its name is taken or cannot be one, with a name that begins as it does."""
    taken = {record.name for record in await who.service.box.vms()}
    vm, _ = await who.new_vm(None if name is None else free_name(name, taken), agent_id)
    async with leased(who, vm):
        return vm


def leased(who: Caller, vm: AsyncVm) -> AbstractAsyncContextManager[AsyncVm]:
    """Have a vm run on account of the pool meanwhile."""
    return who.service.box.pool.vm(vm.record.agent_id, vm_id=vm.id)


def free_name(wanted: str, taken: set[str]) -> str:
    """A name that can be one and that nobody has."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).lstrip(".-")[:50] or "unnamed"
    try:
        check_name(plain)
    except InvalidArgument:  # it begins like an id
        plain = f"n-{plain}"
    number, name = 1, plain
    while name in taken:
        number += 1
        name = f"{plain}-{number}"
    return name


@routes.post("", status_code=201)
async def create(who: Who, asked: NewVm) -> dict[str, Any]:
    """Make a vm, and start it."""
    check_vm_type(asked.vm_type)
    vm = await make(who, asked.vm_name or asked.name, asked.agent_id)
    return shown(vm.record, who.service.box)


@routes.get("")
async def list_all(who: Who) -> dict[str, Any]:
    """The vms that there are, and how many run."""
    box = who.service.box
    running, most = {vm.id for vm in box.running()}, box.settings.pool.max
    vms = [_shown(record, is_running=record.id in running) for record in await who.vms()]
    usage = {"current_vms": len(running), "max_vms": most, "at_capacity": len(running) >= most}
    unknown = dict.fromkeys(("max_memory", "max_storage", "max_sessions", "memory_percent", "storage_percent"))
    return {"user": who.token.agent, "vms": vms, "total": len(vms), "tiers": None, "usage": {**usage, **unknown}}


@routes.get("/metrics")
async def all_metrics(who: Who) -> list[dict[str, Any]]:
    """What each vm that runs takes of the host."""
    found: dict[str, dict[str, Any]] = {}

    async def measure(record: VmRecord) -> None:
        if (usage := await who.service.box.pool.usage(record.id)) is not None:
            found[record.id] = measured(who, record, usage)

    records = await who.vms()
    async with anyio.create_task_group() as group:
        for record in records:
            group.start_soon(measure, record)
    return [found[record.id] for record in records if record.id in found]


@routes.get("/{vm}")
async def look(who: Who, vm: str) -> dict[str, Any]:
    """One vm, by id or name."""
    return shown((await who.vm(vm)).record, who.service.box)


@routes.delete("/{vm}")
async def remove(who: Who, vm: str) -> dict[str, Any]:
    """Remove a vm with its files; its executions stay in history."""
    found = await who.vm(vm)
    await who.service.box.pool.remove(found.id)
    return {"id": found.id, "vm_id": found.id, "message": f"vm {found.name} is removed"}


@routes.get("/{vm}/metrics")
async def metrics(who: Who, vm: str) -> dict[str, Any]:
    """What a vm takes of the host now. One that is stopped is started: how full it is can only be seen from within."""
    found = await who.vm(vm)
    async with leased(who, found):
        usage = await who.service.box.pool.usage(found.id)
    if usage is None:
        raise VmNotAvailable(f"vm {found.name} was stopped while it was measured", remedy="ask again")
    return measured(who, found.record, usage)


def measured(who: Caller, record: VmRecord, usage: Usage) -> dict[str, Any]:
    """As the system tells it, every number as wide as the clients read it. Over no network nothing goes."""
    box = who.service.box
    most_bytes = box.settings.limits.disk_mib << 20
    return {
        "vm_id": record.id,
        "status": shown(record, box)["status"],
        "cpu_usage_percent": round(usage.cpu_percent, 1),
        "memory_usage_mb": round(usage.memory_bytes / 2**20),
        "disk_usage_percent": round(100 * usage.disk_bytes / most_bytes, 3),
        "network_io_mbps": 0.0,
        "uptime_seconds": int(usage.up_s),
        "process_count": usage.processes,
        "updated_at": rfc3339(record.last_activity or record.created_at),
    }


@routes.get("/{vm}/tasks")
async def tasks(who: Who, vm: str) -> dict[str, Any]:
    """The executions of a vm: those that go on, then those that have ended, newest first."""
    found = await who.vm(vm)
    page = await found.history(limit=_PAGE, output=False)
    feeds = who.service.work.going_on().items()
    going_on = [(name, feed.begun_at) for name, feed in feeds if feed.vm_id == found.id and feed.begun_at is not None]
    listed: list[dict[str, Any]] = [
        {"id": name, "vm_id": found.id, "status": "running", "created_at": rfc3339(begun), "updated_at": None}
        for name, begun in going_on
    ]
    listed += [
        {
            "id": entry.id,
            "vm_id": entry.vm_id,
            "status": "completed" if entry.success else "failed",
            "created_at": rfc3339(entry.started_at),
            "updated_at": rfc3339(entry.completed_at),
        }
        for entry in page.entries
    ]
    return {"tasks": listed, "vm_id": found.id, "total": page.total + len(going_on)}


@routes.get("/{vm}/history", response_model=None)
async def history(who: Who, vm: str, page: Annotated[Page, Query()]) -> Response:
    """Executions of a vm, newest first; each with every name that a client looks for."""
    found = await history_of(who, await who.vm(vm), page)
    return await encoding.answer(partial(history_body, found), found.size_bytes)


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of a vm's history."""

    vm_id: str
    page: HistoryPage
    rest: HistoryPage
    """What follows on it, without output: clients look through all rows for the last success, and know of no `next`."""

    @property
    def size_bytes(self) -> int:
        """Of all that is on it."""
        return self.page.size_bytes + self.rest.size_bytes


async def history_of(who: Caller, vm: AsyncVm, page: Page) -> Listed:
    """A page of a vm's history: as many rows as are asked for, with as much output as a page may have."""
    ask = partial(
        vm.history,
        agent_id=page.agent_id,
        failures_only=page.failures_only,
        since=page.start_date,
        until=page.end_date,
        max_bytes=who.service.bounds.page_bytes,
    )
    found = await ask(limit=page.limit, offset=page.offset, older_than=page.older_than)
    rest = HistoryPage(entries=[], total=found.total, next=found.next)
    if found.next is not None and len(found.entries) < page.limit:
        rest = await ask(limit=page.limit - len(found.entries), older_than=found.next, output=False)
    return Listed(vm.id, found, rest)


def history_body(found: Listed) -> dict[str, Any]:
    """The page as clients read it; `total` counts all that match."""
    entries = [entry_body(execution) for execution in found.page.entries]
    entries += [entry_body(execution, is_left_out=True) for execution in found.rest.entries]
    page = {"history": entries, "entries": entries, "total": found.page.total, "next": found.rest.next}
    return {"vm_id": found.vm_id, **page}


def entry_body(execution: Execution, *, is_left_out: bool = False) -> dict[str, Any]:
    """An execution as history gives it; `is_left_out`: it wrote something, perhaps, for which there was no room."""
    body = seed.entry(execution).model_dump(mode="json")
    more = {"timestamp": body["executed_at"], "ended": execution.ended, "error": execution.error}
    return both({**body, **more, "output_left_out": is_left_out})


@routes.post("/{vm}/snapshots", status_code=201)
async def take_snapshot(who: Who, vm: str, asked: NewSnapshot) -> dict[str, Any]:
    """Keep what a vm is now."""
    found = await who.vm(vm)
    return snapshot_body(await labelled(who, found, asked.name, asked.agent_id))


async def labelled(who: Caller, vm: AsyncVm, wanted: str | None, agent_id: str | None = None) -> Snapshot:
    """A snapshot; where its name is taken or cannot be one, with a name that begins as it does."""
    async with leased(who, vm):
        taken = {snapshot.name or "" for snapshot in await vm.snapshots()}
        name = None if wanted is None else free_name(wanted, taken)
        return await who.keep(vm, name, agent_id)


@routes.get("/{vm}/snapshots")
async def snapshots(who: Who, vm: str) -> dict[str, Any]:
    """The snapshots of a vm, oldest first."""
    found = [snapshot_body(snapshot) for snapshot in await (await who.vm(vm)).snapshots()]
    return {"snapshots": found, "total": len(found)}


def snapshot_body(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot; `id` and `snapshot_id` are one."""
    body = {name: value for name, value in asdict(snapshot).items() if name != "id"}
    body |= {"id": snapshot.id, "snapshot_id": snapshot.id, "created_at": rfc3339(snapshot.created_at)}
    return both(body)


@routes.post("/{vm}/rollback/{snapshot}")
async def roll_back(who: Who, vm: str, snapshot: str, create_pre_rollback_snapshot: bool = True) -> dict[str, Any]:
    """Put a vm back to a snapshot or point, in place."""
    return await rolled_back(who, await who.vm(vm), snapshot, snapshot_first=create_pre_rollback_snapshot)


async def rolled_back(who: Caller, vm: AsyncVm, to: str, *, snapshot_first: bool = True) -> dict[str, Any]:
    """What a rollback did."""
    async with leased(who, vm):
        done = await vm.rollback(to, snapshot_first=snapshot_first, agent_id=who.agent())
    body = seed.rollback(done).model_dump(mode="json")
    more = {"snapshot_id": to, "message": f"vm {vm.name} is as it was at {done.to_point}", "lost": list(done.lost)}
    return both({**body, **more})


@routes.post("/{vm}/upload", status_code=201)
async def upload(who: Who, vm: str, path: str, request: Request) -> dict[str, Any]:
    """Write the request's body to a file of the vm."""
    data = await request.body()
    found = await who.vm(vm)
    async with leased(who, found):
        await found.write(path, data)
    return {"vm_id": found.id, "path": path, "bytes": len(data)}


@routes.get("/{vm}/download")
async def download(who: Who, vm: str, path: str) -> Response:
    """A file of the vm."""
    found = await who.vm(vm)
    async with leased(who, found):
        data = await found.read(path, max_bytes=who.service.bounds.file_bytes)
    return attachment(data)
