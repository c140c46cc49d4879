"""/v1/vms/VM/points, /snapshots and /rollback: where a vm can go back to, and going there."""

from collections.abc import Sequence
from typing import Any, Literal

import anyio
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from rewindbox import documents, errors
from rewindbox.execution import rfc3339
from rewindbox.server.access import Caller, Who
from rewindbox.server.bodies import Asked, Name, Text
from rewindbox.server.problems import responses
from rewindbox.timeline import Point as Recorded
from rewindbox.timeline import ancestors
from rewindbox.vm import AsyncVm

routes = APIRouter(prefix="/v1/vms/{vm}", tags=["points"])
_STARTING = (errors.UnknownVm, errors.VmBusy, errors.VmDamaged, errors.VmNotAvailable)


class Point(BaseModel):
    """What a vm was after an execution, or after files of it were written."""

    id: str = Field(description="`pt_` and 26 characters.")
    parent_id: str | None = Field(description="The point from which it came; null: the vm's first.")
    execution_id: str | None = Field(description="The execution that left it; null: none did.")
    created_at: str = Field(description="When it was taken.")
    method: str = Field(description="How it was taken: `same`, `copy`, `freeze` ...")
    written_bytes: int = Field(description="What taking it wrote to the disk, in bytes.")
    kept: bool = Field(description="The vm can be put back to it.")
    live: bool = Field(description="Variables of its live sessions go back, too.")
    is_tip: bool = Field(description="The vm stands on it.")


class Points(BaseModel):
    """The points of a vm: a tree, by their parents."""

    points: list[Point] = Field(description="Oldest first.")


_TEXT: JsonDict = {"type": "string"}
_NULL: JsonDict = {"type": "null"}
_NO: JsonDict = {"const": False}
_YES: JsonDict = {"const": True}


class NewSnapshot(Asked):
    """The present state, to be kept."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "better"}]})

    name: Name | None = Field(None, description="Unique in the vm: 1 to 64 letters, digits, `.`, `_`, `-`. Null: none.")
    agent_id: Text | None = Field(None, description="Who asks. Null: the token's agent, or as configured.")


class Snapshot(BaseModel):
    """A point that is listed and kept."""

    snapshot_id: str = Field(description="`snap_` and 26 characters.")
    vm_id: str = Field(description="Its vm.")
    point_id: str = Field(description="The point that it is.")
    kind: str = Field(description="`manual`, `pre_execution`, `post_execution`, `failure` or `pre_rollback`.")
    name: str | None = Field(description="Its name, if it has one.")
    created_at: str = Field(description="When it was made.")
    execution_id: str | None = Field(description="The execution for which it was made; null: none.")
    agent_id: str | None = Field(description="Who asked.")


class Snapshots(BaseModel):
    """The snapshots of a vm."""

    snapshots: list[Snapshot] = Field(description="Oldest first.")


class RollbackRequest(Asked):
    """Where a vm is to be put back to: exactly one of `to`, `before` and `last_success`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"to": "good"}, {"last_success": True}],
            "oneOf": [
                {"required": ["to"], "properties": {"to": _TEXT, "before": _NULL, "last_success": _NO}},
                {"required": ["before"], "properties": {"to": _NULL, "before": _TEXT, "last_success": _NO}},
                {"required": ["last_success"], "properties": {"to": _NULL, "before": _NULL, "last_success": _YES}},
            ],
        }
    )
    to: Text | None = Field(None, description="A point or snapshot by id, or by the beginning of one; or a name.")
    before: Text | None = Field(None, description="An execution: to before it ran.")
    last_success: bool = Field(False, description="To after the last execution that succeeded.")
    preview: bool = Field(False, description="Change nothing; say what would be undone.")
    snapshot_first: bool = Field(True, description="Keep the present state as a snapshot, so that this can be undone.")
    rebuild: bool = Field(False, description="Sessions whose variables are gone: run again what they had run.")
    agent_id: Text | None = Field(None, description="Who asks. Null: the token's agent, or as configured.")


class RebuiltSession(BaseModel):
    """A session that was made anew."""

    session: str = Field(description="Its name.")
    executions: int = Field(description="So many were run again.")
    differences: list[str] = Field(description="Where something else came out than the first time, in words.")


class Rollback(BaseModel):
    """A vm that was put back; its id stays, and its history."""

    vm_id: str = Field(description="The vm.")
    from_point: str | None = Field(description="What it stood on before.")
    to_point: str = Field(description="What it stands on now.")
    snapshot_id: str | None = Field(description="The snapshot of what it was; null: none was asked for.")
    reason: Literal["manual", "auto"] = Field(description="Somebody asked for it, or an execution failed.")
    agent_id: str | None = Field(description="Who asked.")
    at: str = Field(description="When.")
    sessions: list[str] = Field(description="Live sessions whose variables went back, too.")
    lost: list[str] = Field(description="Live sessions that ended.")
    gone: list[str] = Field(description="What did not come back, in words.")
    rebuilt: list[RebuiltSession] = Field(description="Sessions that were made anew.")


class Preview(BaseModel):
    """What a rollback would do."""

    vm_id: str = Field(description="The vm.")
    from_point: str | None = Field(description="What it stands on.")
    to_point: str = Field(description="What it would stand on.")
    undone: list[str] = Field(description="Executions whose effects would no longer be there, newest first.")
    redone: list[str] = Field(description="Executions that were undone and whose effects would be there again.")
    live: bool = Field(description="Variables of the point's live sessions would go back, too.")


@routes.get("/points", responses=responses(errors.UnknownVm))
async def points(who: Who, vm: str) -> Points:
    """Every point of a vm."""
    found = await who.vm(vm)
    live, tip = await found.live_points(), found.record.tip
    return Points(
        points=[
            Point(
                id=point.id,
                parent_id=point.parent_id,
                execution_id=point.execution_id,
                created_at=rfc3339(point.created_at),
                method=point.method,
                written_bytes=point.written_bytes,
                kept=point.state is not None,
                live=point.id in live,
                is_tip=point.id == tip,
            )
            for point in await found.points()
        ]
    )


@routes.get("/snapshots", responses=responses(errors.UnknownVm))
async def snapshots(who: Who, vm: str) -> Snapshots:
    """Every snapshot of a vm."""
    found = await (await who.vm(vm)).snapshots()
    return Snapshots.model_validate({"snapshots": [documents.snapshot_as_dict(snapshot) for snapshot in found]})


@routes.post("/snapshots", status_code=201, responses=responses(*_STARTING))
async def keep(who: Who, vm: str, asked: NewSnapshot) -> Snapshot:
    """Keep the present state, until the snapshot is removed."""
    made = await (await who.vm(vm)).snapshot(asked.name, agent_id=who.agent(asked.agent_id))
    return Snapshot.model_validate(documents.snapshot_as_dict(made))


@routes.delete("/snapshots/{snapshot}", responses=responses(errors.UnknownVm, errors.SnapshotNotFound))
async def remove(who: Who, vm: str, snapshot: str) -> Snapshot:
    """No longer list a snapshot; its state goes when nothing else needs it."""
    gone = await (await who.vm(vm)).remove_snapshot(snapshot)
    return Snapshot.model_validate(documents.snapshot_as_dict(gone))


@routes.post(
    "/rollback",
    responses=responses(*_STARTING, errors.SnapshotNotFound, errors.UnknownExecution, errors.RollbackFailed),
)
async def rollback(who: Who, vm: str, asked: RollbackRequest) -> Rollback | Preview:
    """Put files and live sessions back, in place, or with `preview` say what that would undo. History is kept."""
    if sum((asked.to is not None, asked.before is not None, asked.last_success)) != 1:
        raise errors.InvalidArgument("a rollback goes to one place", remedy="give one of to, before, last_success")
    found = await who.vm(vm)
    agent = who.agent(asked.agent_id)
    target = await _target(who, found, asked)
    if asked.preview:
        return await _preview(found, target)
    begun_s = anyio.current_time()
    done = await found.rollback(target, snapshot_first=asked.snapshot_first, rebuild=asked.rebuild, agent_id=agent)
    who.service.metrics.rollbacks.add(reason="manual")
    who.service.metrics.rollback_seconds.add(anyio.current_time() - begun_s)
    return Rollback.model_validate(documents.rollback_as_dict(done))


async def _target(who: Caller, vm: AsyncVm, asked: RollbackRequest) -> Recorded:
    if asked.before is not None:
        return await vm.point(await who.execution(asked.before))
    return await vm.point(asked.to)  # None: to the last success


async def _preview(vm: AsyncVm, target: Recorded) -> Preview:
    tip = vm.record.tip
    return Preview(
        vm_id=vm.id,
        from_point=tip,
        to_point=target.id,
        live=target.id in await vm.live_points(),
        **changed(await vm.points(), tip, target.id),
    )


def changed(points: Sequence[Recorded], tip: str | None, target: str) -> dict[str, Any]:
    """The executions between the tip and a target: those above one of them and not above the other."""
    here = [] if tip is None else [tip, *ancestors(points, tip)]
    there = [target, *ancestors(points, target)]
    of = {point.id: point.execution_id for point in points}
    undone = [name for point in here if point not in set(there) and (name := of.get(point))]
    redone = [name for point in there if point not in set(here) and (name := of.get(point))]
    return {"undone": undone, "redone": redone}
