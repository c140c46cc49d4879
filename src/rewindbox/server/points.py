"""/v1/vms/VM/points, /snapshots and /rollback: where a vm can go back to, and going there."""

from collections.abc import Sequence
from typing import Any

import anyio
from fastapi import APIRouter

from rewindbox import errors, show
from rewindbox.execution import rfc3339
from rewindbox.server.access import Caller, Who
from rewindbox.server.bodies import (
    NewSnapshot,
    Point,
    Points,
    Preview,
    Rollback,
    RollbackRequest,
    Snapshot,
    Snapshots,
)
from rewindbox.server.problems import responses
from rewindbox.timeline import Point as Recorded
from rewindbox.timeline import ancestors
from rewindbox.vm import AsyncVm

routes = APIRouter(prefix="/v1/vms/{vm}", tags=["points"])
_STARTING = (errors.UnknownVm, errors.VmBusy, errors.VmDamaged, errors.VmNotAvailable)


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
    return Snapshots.model_validate({"snapshots": [show.snapshot_as_dict(snapshot) for snapshot in found]})


@routes.post("/snapshots", status_code=201, responses=responses(*_STARTING))
async def keep(who: Who, vm: str, asked: NewSnapshot) -> Snapshot:
    """Keep the present state, until the snapshot is removed."""
    made = await (await who.vm(vm)).snapshot(asked.name, agent_id=who.agent(asked.agent_id))
    return Snapshot.model_validate(show.snapshot_as_dict(made))


@routes.delete("/snapshots/{snapshot}", responses=responses(errors.UnknownVm, errors.SnapshotNotFound))
async def remove(who: Who, vm: str, snapshot: str) -> Snapshot:
    """No longer list a snapshot; its state goes when nothing else needs it."""
    gone = await (await who.vm(vm)).remove_snapshot(snapshot)
    return Snapshot.model_validate(show.snapshot_as_dict(gone))


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
    return Rollback.model_validate(show.rollback_as_dict(done))


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
