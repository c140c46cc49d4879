"""Every command but `run` and `exec`: a call -> the exit code. One function a command."""

import os
import shlex
from collections.abc import Callable, Collection
from datetime import UTC, datetime

from rewindbox import config, documents, holders, show
from rewindbox.call import FILE_BYTES, Call, opened, progress_of, read, write_through
from rewindbox.door import Rewindbox
from rewindbox.errors import BadRequest, InvalidArgument, ValidationFailed
from rewindbox.moments import moment
from rewindbox.ready import NAME
from rewindbox.telling import waiting
from rewindbox.terminal import one_line, visible


def main(call: Call) -> int:
    """Carry out the command that `call` names."""
    verb = getattr(call.arguments, "verb", None)
    name = f"{call.arguments.command}_{verb}" if verb else call.arguments.command
    return _COMMANDS[name](call)


def _history(call: Call) -> int:
    arguments = call.arguments
    if arguments.export:
        return _export(call)
    since, until = _when(arguments.since), _when(arguments.until, is_end=True)
    with opened(call) as box:
        with waiting(progress_of(call), "reading the history"):  # the first search makes its index
            page = box.history(
                arguments.vm,
                session=arguments.session,
                agent_id=arguments.agent,
                failures_only=arguments.failures,
                since=since,
                until=until,
                language=arguments.language,
                ended=arguments.ended,
                text=arguments.search,
                limit=arguments.limit,
                offset=arguments.offset,
                output=arguments.json or arguments.search is not None,
            )
        names = {record.id: record.name for record in box.vms()}
        live = _live_points(box, {entry.vm_id for entry in page.entries})
    entries = [{**entry.as_dict(), "live": entry.after in live} for entry in page.entries] if arguments.json else []
    call.emit(
        {"entries": entries, "total": page.total, "note": page.note},
        lambda: show.history(call.out, page.entries, names, live, arguments.search) if page.entries else "",
    )
    if call.out.is_terminal and not arguments.json and not arguments.quiet:
        note = "; ●: going back to after it brings back variables, too" if live else ""
        call.out.write(f"{len(page.entries)} of {page.total} executions{note}\n")
    if page.note and not arguments.json:
        call.err.write(f"{call.err.styled('note:', 'yellow')} {one_line(page.note)}\n")
    return 0


def _export(call: Call) -> int:
    chosen = ("vm", "session", "agent", "language", "ended", "since", "until", "failures", "search", "offset")
    if given := [name for name in chosen if getattr(call.arguments, name)]:
        raise InvalidArgument(f"--export with --{given[0]}", remedy="leave it out: all of the history is exported")
    with opened(call) as box:
        for execution in box.export():
            call.out.write(documents.line(execution.as_dict()))
    return 0


def _live_points(box: Rewindbox, vm_ids: Collection[str]) -> set[str]:
    """Points of these vms to which variables go back, too."""
    kept = [vm_id for vm_id in box.live_sessions() if vm_id in vm_ids]
    return {point for vm_id in kept for point in box.vm(vm_id, create=False).live_points()}


def _when(text: str | None, *, is_end: bool = False) -> datetime | None:
    return None if text is None else moment(text, datetime.now(UTC), is_end=is_end)


def _show(call: Call) -> int:
    with opened(call) as box:
        entry = box.execution(call.arguments.execution)
        names = {record.id: record.name for record in box.vms()}
    if call.arguments.json:
        return call.emit(entry.as_dict(), str)
    call.out.write(show.execution(call.out, entry, names.get(entry.vm_id, "a removed vm")))
    displays = "".join(show.displays(entry)).encode("utf-8", "replace")
    parts = (("stdout", entry.stdout_bytes), ("stderr", entry.stderr_bytes), ("shown", displays))
    for name, data in parts if displays else parts[:2]:
        gone = ", no longer kept" if entry.output_dropped else ", cut at its limit" if entry.truncated else ""
        call.out.write(show.heading(call.out, f"{name}, {len(data)} bytes{gone}"))
        write_through(call.out, data)
        if data and not data.endswith(b"\n"):
            call.out.write("\n")
    return 0


def _verify(call: Call) -> int:
    with opened(call) as box:
        problems, head = box.verify(call.arguments.expect), box.head()
    told = [[text] for text in problems or ([] if call.arguments.quiet else ["The history is as it was written."])]
    facts = {"executions": str(head.executions), "head": head.text}
    call.emit(
        {"ok": not problems, "problems": problems, "head": head.text, "executions": head.executions},
        lambda: show.lines(told) + show.pairs(call.out, facts),
    )
    return 4 if problems else 0


def _pool(call: Call) -> int:
    with opened(call) as box:
        held, records = holders.find(box.settings.folder), box.vms()
        unknown = held.keys() - {record.id for record in records}
        rows = [documents.pool_row(vm_id, held[vm_id]) for vm_id in sorted(unknown) if vm_id.startswith("vm_")]
        for record in records:
            if record.name.startswith(NAME):
                ran = box.history(record.id, limit=0).total
                rows.append(documents.pool_row(record.id, held.get(record.id), record, ran))
        most = box.settings.pool.max
    return call.emit({"max": most, "vms": rows}, lambda: show.pool(call.out, rows) if rows else "")


def _languages(call: Call) -> int:
    with opened(call) as box:
        found = list(box.languages().values())
    return call.emit({"languages": [entry.as_dict() for entry in found]}, lambda: show.languages(call.out, found))


def _config_show(call: Call) -> int:
    settings = config.as_dict(config.load(store=call.arguments.store))
    origins = config.origins(store=call.arguments.store)
    path = config.file_path()
    facts = {"file": path, "file_exists": os.path.isfile(path)}
    place = f"{path}{'' if facts['file_exists'] else ' (not there)'}"
    return call.emit(
        {"settings": settings, "origins": origins, **facts},
        lambda: (
            f"# file: {place}\n"
            + show.lines(
                [f"{name} = {value}", origins.get(name, "file")] for name, value in show.flat(settings).items()
            )
        ),
    )


def _cp(call: Call) -> int:
    arguments = call.arguments
    source, target = _side(arguments.source), _side(arguments.target)
    if (source is None) == (target is None):
        which = "both sides are" if source else "neither side is"
        raise InvalidArgument(f"{which} in a vm", remedy="give one side as VM:PATH, as in demo:out.csv")
    if target is not None:
        return _copy_in(call, arguments.source, *target)
    assert source is not None
    if arguments.json and arguments.target == "-":
        raise InvalidArgument("--json and the file would share standard output", remedy="leave one of them out")
    return _copy_out(call, *source, arguments.target)


def _side(text: str) -> tuple[str, str] | None:
    """VM and path, or None for a file of the host (`./a:b`, with a slash before the colon, is one)."""
    vm, colon, path = text.partition(":")
    return (vm, path) if colon and vm and "/" not in vm else None


def _copy_in(call: Call, source: str, name: str, path: str) -> int:
    data = read(source, "file", FILE_BYTES)
    if not path or path.endswith("/"):
        if source == "-":
            raise InvalidArgument(f"{name}:{path} names no file", remedy="add a name")
        path += os.path.basename(source)
    runnable = source != "-" and os.access(source, os.X_OK)
    with opened(call) as box:
        vm = box.vm(name, create=None if name == "default" else False)
        vm.write(path, data, mode=0o755 if runnable else 0o644)
    return _copied(call, vm.id, len(data), source, f"{name}:{path}")


def _copy_out(call: Call, name: str, path: str, target: str) -> int:
    with opened(call) as box:
        vm = box.vm(name, create=False)
        data = vm.read(path, max_bytes=FILE_BYTES)
    if target == "-":
        write_through(call.out, data)
        return 0
    if os.path.isdir(target):
        target = os.path.join(target, os.path.basename(path))
    try:
        with open(target, "wb") as file:
            file.write(data)
    except OSError as error:
        raise BadRequest(f"{target}: {error.strerror}", remedy="choose another place") from error
    return _copied(call, vm.id, len(data), f"{name}:{path}", target)


def _copied(call: Call, vm_id: str, size: int, source: str, target: str) -> int:
    value = {"vm_id": vm_id, "bytes": size, "source": source, "target": target}
    if call.arguments.json or call.out.is_terminal:
        call.confirm(value, "", f"{size} bytes to {target}")
    return 0


def _vms_create(call: Call) -> int:
    name = call.arguments.name
    with opened(call) as box:
        if name is not None and any(record.name == name for record in box.vms()):
            raise ValidationFailed(f"vm name {name!r} is taken", remedy="choose another, or remove that vm")
        vm = box.vm(name, create=True)
        vm.list()  # starts it: its first point is a place to go back to, and a host that cannot says so now
        record = vm.record
    return call.confirm(documents.vm_as_dict(record, None), record.id, f"vm {record.name} is made ({record.id})")


def _vms_list(call: Call) -> int:
    with opened(call) as box:
        records, held, live = box.vms(), box.holders(), box.live_sessions()
    value = {"vms": [documents.vm_as_dict(record, held.get(record.id), live.get(record.id, ())) for record in records]}
    return call.emit(value, lambda: show.vms(call.out, records, held, live) if records else "")


def _vms_show(call: Call) -> int:
    with opened(call) as box:
        vm = box.vm(call.arguments.vm, create=False)
        held, record = box.holders(), vm.record
        live = box.live_sessions().get(vm.id, [])
        numbers = {"executions": vm.history(limit=0).total, "snapshots": len(vm.snapshots())}
        ended = box.sessions_ended(vm.id)
    value = documents.vm_as_dict(record, held.get(vm.id), live) | numbers | documents.sessions_ended_as_dict(ended)
    facts = {key: _fact(entry) for key, entry in value.items()}
    return call.emit(value, lambda: show.pairs(call.out, facts))


def _fact(value: object) -> str | None:
    """A value of JSON in a line."""
    if isinstance(value, dict):
        return ", ".join(str(entry) for entry in value.values())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or None
    return None if value is None else str(value)


def _vms_stop(call: Call) -> int:
    with opened(call) as box:
        vm = box.vm(call.arguments.vm, create=False)
        is_ours = call.arguments.server is None
        stopped = vm.is_running or (is_ours and holders.stop(box.settings.folder, vm.id, vm.name))
        vm.stop()  # where a keeper or a server holds it
    text = f"vm {vm.name} is stopped" if stopped else f"vm {vm.name} was not in use"
    return call.confirm({"id": vm.id, "name": vm.name, "stopped": stopped}, vm.id, text)


def _vms_rm(call: Call) -> int:
    with opened(call) as box:
        vm = box.vm(call.arguments.vm, create=False)
        vm.remove()
    text = f"vm {vm.name} is removed; its history is kept"
    return call.confirm({"id": vm.id, "name": vm.name, "removed": True}, vm.id, text)


def _snapshot_create(call: Call) -> int:
    with opened(call) as box:
        snapshot = box.vm(call.arguments.vm, create=False).snapshot(call.arguments.label)
    text = f"snapshot {snapshot.name or snapshot.id} of vm {call.arguments.vm}"
    return call.confirm(documents.snapshot_as_dict(snapshot), snapshot.id, text)


def _snapshot_list(call: Call) -> int:
    with opened(call) as box:
        vm = box.vm(call.arguments.vm, create=False)
        found, live = vm.snapshots(), _live_points(box, {vm.id})
    value = {"snapshots": [{**documents.snapshot_as_dict(entry), "live": entry.point_id in live} for entry in found]}
    return call.emit(value, lambda: show.snapshots(call.out, found, live) if found else "")


def _snapshot_rm(call: Call) -> int:
    with opened(call) as box:
        gone = box.vm(call.arguments.vm, create=False).remove_snapshot(call.arguments.snapshot)
    return call.confirm(documents.snapshot_as_dict(gone), gone.id, f"snapshot {gone.name or gone.id} is removed")


def _rollback(call: Call) -> int:
    arguments = call.arguments
    given = [text for text in (arguments.reference, arguments.before) if text] + [""] * arguments.last_success
    if len(given) != 1:
        raise InvalidArgument(
            "rollback goes to one place", remedy="give a snapshot or point, or --before EXECUTION, or --last-success"
        )
    if (arguments.reference or "").startswith("ex_"):
        raise InvalidArgument(f"{arguments.reference} is an execution", remedy=f"say --before {arguments.reference}")
    with opened(call) as box:
        vm = box.vm(arguments.vm, create=False, kept=arguments.rebuild)
        to = box.execution(arguments.before, output=False) if arguments.before else arguments.reference
        if arguments.preview:
            seen = vm.preview(to)
            return call.emit(documents.preview_as_dict(seen), lambda: show.preview(call.out, seen, vm.name))
        if arguments.last_success:
            done = vm.rollback_to_last_success(rebuild=arguments.rebuild)
        else:
            done = vm.rollback(to, rebuild=arguments.rebuild)
    undo = f"{call.program} rollback {shlex.quote(arguments.vm)} {show.short(done.snapshot_id or '')}"
    notes = [
        f"variables are back in: {', '.join(done.sessions)}\n" if done.sessions else "",
        f"live state is gone of: {', '.join(done.lost)}\n" if done.lost else "",
        f"not brought back: {', '.join(done.gone)}\n" if done.gone else "",
        *(show.rebuilt(entry) for entry in done.rebuilt),
    ]
    at = show.short(done.to_point)
    text = visible(f"vm {vm.name} is as it was at {at}\n{''.join(notes)}To undo this:\n  {undo}")
    return call.confirm(documents.rollback_as_dict(done), f"{done.to_point}\t{done.snapshot_id}", text)


_COMMANDS: dict[str, Callable[[Call], int]] = {
    "show": _show,
    "cp": _cp,
    "vms_create": _vms_create,
    "vms_list": _vms_list,
    "vms_show": _vms_show,
    "vms_stop": _vms_stop,
    "vms_rm": _vms_rm,
    "history": _history,
    "snapshot_create": _snapshot_create,
    "snapshot_list": _snapshot_list,
    "snapshot_rm": _snapshot_rm,
    "rollback": _rollback,
    "config_show": _config_show,
    "verify": _verify,
    "languages": _languages,
    "pool": _pool,
}
