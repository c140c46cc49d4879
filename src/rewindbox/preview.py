"""Where a rollback would go, and what it would undo: executions by the tree of points, files by looking."""

from dataclasses import dataclass

from rewindbox.backends.base import Changes, FileChange
from rewindbox.errors import SnapshotNotFound
from rewindbox.execution import Execution
from rewindbox.opened import Opened
from rewindbox.points import Point, Snapshot
from rewindbox.registry import VmRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What a rollback would do."""

    vm_id: str
    from_point: str | None
    """What the vm stands on."""
    to_point: str
    """What it would stand on."""
    undone: tuple[str, ...]
    """Executions whose effects would no longer be there, newest first."""
    redone: tuple[str, ...]
    """Executions that were undone and whose effects would be there again."""
    live: bool
    """Variables of the point's live sessions would go back, too."""
    files: tuple[FileChange, ...] | None
    """What has become of which file since the point, by path: that is undone. None: nobody asked."""
    is_complete: bool
    """False: more files have changed than are told."""


def target(opened: Opened, vm: VmRecord, to: str | Execution | Snapshot | Point | None) -> Point:
    """The point that `AsyncVm.rollback` takes `to` for; None: after the last success. Raises SnapshotNotFound."""
    if to is None:
        to = (success := opened.history.last_success(vm.id)) and success.after
    if to is None:
        raise SnapshotNotFound(f"vm {vm.name} has no kept success", remedy="choose a snapshot or a point")
    if isinstance(to, Execution) and (to.vm_id != vm.id or to.before is None):
        raise SnapshotNotFound(f"{to.id} has no point before it in vm {vm.name}", remedy="choose another")
    ref = str(to.before) if isinstance(to, Execution) else to if isinstance(to, str) else to.id
    return opened.timeline.resolve(vm.id, ref)


def preview(opened: Opened, vm: VmRecord, to: Point, *, live: bool, changes: Changes | None) -> Preview:
    """What it would do to go from where a vm stands to a point; `changes`: of files, None: nobody asked."""
    undone, redone = opened.timeline.apart(vm.tip, to.id)
    return Preview(
        vm_id=vm.id,
        from_point=vm.tip,
        to_point=to.id,
        undone=tuple(undone),
        redone=tuple(redone),
        live=live,
        files=None if changes is None else changes.files,
        is_complete=changes is None or changes.is_complete,
    )
