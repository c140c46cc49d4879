"""/sessions of the original's API: a session there is a machine of its own, so it is a vm here, by its name."""

import hashlib
import re
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from rewindbox.errors import SessionNotFound, UnknownVm
from rewindbox.execution import rfc3339
from rewindbox.server import encoding
from rewindbox.server.access import Caller, Who
from rewindbox.server.original.route import Lenient, Route, both
from rewindbox.server.original.runs import Run, Time, ran, response
from rewindbox.server.original.vms import check_vm_type, labelled, leased, rolled_back, shown
from rewindbox.vm import AsyncVm

routes = APIRouter(prefix="/sessions", route_class=Route, include_in_schema=False)
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class NewSession(Lenient):
    """A session to be begun. Memory and processors are what the server is configured to give."""

    name: str
    vm_type: str | None = None
    agent_id: str | None = None


class Command(Lenient):
    """A line for bash."""

    command: str
    timeout_seconds: Time = None


class SnapshotName(Lenient):
    """A snapshot to be taken."""

    name: str | None = None


class Target(Lenient):
    """Where to go back to: a snapshot's id or its name."""

    snapshot_id: str


def vm_name(session: str) -> str:
    """The vm of a session. Any session has one, and no two have the same."""
    if _PLAIN.fullmatch(session) and not session.startswith(("vm_", "ex_", "pt_", "snap_", "session_")):
        return session
    return f"session_{hashlib.sha256(session.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


async def vm_of(who: Caller, session: str) -> AsyncVm:
    """Raises SessionNotFound."""
    try:
        return await who.vm(vm_name(session))
    except UnknownVm as error:
        raise SessionNotFound(f"no session has the name {session[:80]!r}", remedy="POST /sessions makes one") from error


@routes.post("", status_code=201)
async def begin(who: Who, asked: NewSession) -> dict[str, Any]:
    """The session of that name; made when it is new."""
    check_vm_type(asked.vm_type)
    vm, _ = await who.new_vm(vm_name(asked.name), asked.agent_id)
    async with leased(who, vm):
        return {**shown(vm.record, who.service.box), "name": asked.name, "session_id": asked.name}


@routes.post("/{session}/execute", response_model=None)
async def execute(who: Who, session: str, asked: Command) -> Response:
    """Run a line in bash; `output` is what it wrote, with its errors at the end."""
    vm = await vm_of(who, session)
    run = Run(code=asked.command, language="bash", vm_id=vm.id, timeout_seconds=asked.timeout_seconds)
    done = await ran(who, run)
    return await encoding.answer(lambda: {**response(done), "output": done.stdout + done.stderr}, done.size_bytes)


@routes.post("/{session}/snapshots", status_code=201)
async def take_snapshot(who: Who, session: str, asked: SnapshotName) -> dict[str, Any]:
    """Keep what it is now. The `snapshot_id` is the snapshot's name, which begins as the one that was wished."""
    snapshot = await labelled(who, await vm_of(who, session), asked.name or "snapshot")
    return both({"snapshot_id": snapshot.name, "id": snapshot.id, "name": snapshot.name, "point_id": snapshot.point_id})


@routes.post("/{session}/rollback")
async def roll_back(who: Who, session: str, asked: Target) -> dict[str, Any]:
    """Put it back to a snapshot."""
    return await rolled_back(who, await vm_of(who, session), asked.snapshot_id)


@routes.get("/{session}/info")
async def info(who: Who, session: str) -> PlainTextResponse:
    """What there is to say of it, in words."""
    vm = await vm_of(who, session)
    record, total = vm.record, (await vm.history(limit=0)).total
    status = shown(record, who.service.box)["status"]
    return PlainTextResponse(
        f"session {session}: vm {vm.id}, {status}, {total} executions, made {rfc3339(record.created_at)}"
    )


@routes.delete("/{session}")
async def end(who: Who, session: str) -> dict[str, Any]:
    """Remove its vm; its executions stay in history."""
    vm = await vm_of(who, session)
    await who.service.box.pool.remove(vm.id)
    return {"name": session, "vm_id": vm.id, "message": f"session {session} is closed"}
