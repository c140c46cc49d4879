"""/v1/vms/VM/points, /snapshots and /rollback: where a vm can go back to, and going there."""

from typing import Annotated, Literal

import anyio
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from rewindbox import documents, errors
from rewindbox.execution import rfc3339
from rewindbox.points import Point as Recorded
from rewindbox.server.access import Caller, Who
from rewindbox.server.bodies import Asked, Name, Text
from rewindbox.server.counted import Route
from rewindbox.server.problems import responses
from rewindbox.vm import AsyncVm

routes = APIRouter(prefix="/v1/vms/{vm}", tags=["points"], route_class=Route)
_MOST = 1000
"""Points on a page."""
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
    next: str | None = Field(description="What follows comes with this as `newer_than`. Null: nothing follows.")


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
    files: bool = Field(True, description="A preview says which files have changed since; it starts the vm for that.")
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


class FileChange(BaseModel):
    """What has become of one file of a vm since a point."""

    path: str = Field(description="From the vm's root; bytes that are not UTF-8 are replaced.")
    change: Literal["created", "modified", "deleted"] = Field(description="What a rollback undoes.")
    kind: Literal["file", "folder", "link", "other"] = Field(description="What it is now, or was.")
    size_bytes: int = Field(description="Its size now, or when it was there, in bytes; of what is no file 0.")


class Preview(BaseModel):
    """What a rollback would do."""

    vm_id: str = Field(description="The vm.")
    from_point: str | None = Field(description="What it stands on.")
    to_point: str = Field(description="What it would stand on.")
    undone: list[str] = Field(description="Executions whose effects would no longer be there, newest first.")
    redone: list[str] = Field(description="Executions that were undone and whose effects would be there again.")
    live: bool = Field(description="Variables of the point's live sessions would go back, too.")
    files: list[FileChange] | None = Field(description="Files that have changed since, by path; null: not asked for.")
    is_complete: bool = Field(description="Whether these are all of them: at most 10,000 are told.")


@routes.get("/points", responses=responses(errors.UnknownVm, errors.SnapshotNotFound))
async def points(
    who: Who,
    vm: str,
    newer_than: Annotated[Text | None, Query(description="Taken after this point: the `next` of a page.")] = None,
    limit: Annotated[int, Query(ge=0, le=_MOST, description="At most so many.")] = _MOST,
) -> Points:
    """The points of a vm. An execution leaves one that stays in the tree, so that there may be many."""
    found = await who.vm(vm)
    live, tip = await found.live_points(), found.record.tip
    page = await found.points(newer_than=newer_than, limit=limit + 1)
    return Points(
        next=page[limit - 1].id if 0 < limit < len(page) else None,
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
            for point in page[:limit]
        ],
    )


@routes.get("/snapshots", responses=responses(errors.UnknownVm))
async def snapshots(who: Who, vm: str) -> Snapshots:
    """Every snapshot of a vm."""
    found = await (await who.vm(vm)).snapshots()
    return Snapshots.model_validate({"snapshots": [documents.snapshot_as_dict(snapshot) for snapshot in found]})


@routes.post("/snapshots", status_code=201, responses=responses(*_STARTING, errors.TooManySnapshots))
async def keep(who: Who, vm: str, asked: NewSnapshot) -> Snapshot:
    """Keep the present state, until the snapshot is removed."""
    made = await who.keep(await who.vm(vm), asked.name, asked.agent_id)
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
        return Preview.model_validate(documents.preview_as_dict(await found.preview(target, files=asked.files)))
    begun_s = anyio.current_time()
    done = await found.rollback(target, snapshot_first=asked.snapshot_first, rebuild=asked.rebuild, agent_id=agent)
    who.service.metrics.rollbacks.add(reason="manual")
    who.service.metrics.rollback_seconds.add(anyio.current_time() - begun_s)
    return Rollback.model_validate(documents.rollback_as_dict(done))


async def _target(who: Caller, vm: AsyncVm, asked: RollbackRequest) -> Recorded:
    if asked.before is not None:
        return await vm.point(await who.execution(asked.before, output=False))
    return await vm.point(asked.to)  # None: to the last success
