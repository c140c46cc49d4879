"""What this host can do, found out by doing it: `rewindbox doctor`.

A vm is made in a temporary store beside the real one, runs a program in every language, is put back, and is
looked at from outside. Nothing is guessed from version numbers, and nothing of it is left behind.
"""

import os
import platform
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import anyio

from rewindbox import backends, config, policy, show, texts
from rewindbox.call import Call, token
from rewindbox.door import Rewindbox, Vm
from rewindbox.errors import HostUnsupported, RewindboxError
from rewindbox.language import Language, Table
from rewindbox.limits import Barrier, LimitReport, Limits
from rewindbox.models import HistoryConfig, VmExecutionConfig
from rewindbox.portal import Portal
from rewindbox.terminal import Stream

Verdict = Literal["good", "missing", "bad"]
"""`missing`: something that vms can do without."""

_SPACES = ("user", "mnt", "pid", "net", "ipc", "uts")
_WITHOUT = ("landlock", "no_core_dumps", "cpu_weight")
"""Barriers that many hosts do not have."""
_LOW_SPACE_BYTES = 1 << 30
_MARKS: dict[Verdict, tuple[str, str]] = {"good": ("✓", "green"), "missing": ("·", "yellow"), "bad": ("✗", "red")}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one probe found."""

    name: str
    verdict: Verdict
    text: str
    remedy: str | None = None


def main(call: Call) -> int:
    """Probe and report. 0: vms work here; 4: they do not, or a barrier is missing."""
    value = _examined_there(call) if call.arguments.server else examined(call.arguments.store)
    findings = [Finding(**finding) for finding in value["findings"]]
    call.emit(value, lambda: _page(call.out, findings, value["limits"], value["ok"]))
    return 0 if value["ok"] else 4


def examined(store: str | None) -> dict[str, Any]:
    """What was found, as `--json` prints it. `store`: beside which vms are tried out; None: the configured one."""
    settings = config.load(store=store)
    findings = list(_host(settings))
    limits: list[dict[str, Any]] = []
    try:
        with temporary_store(settings) as place, _box(place, settings) as box:
            barriers, reports = box.call(_held, settings, place)
            limits = [asdict(report) for report in reports]
            findings += _required(settings.require, barriers, reports)
            for finding in _vm_findings(box, policy.allowed(settings)):
                findings.append(finding)
            findings += [_second_wall(barrier) for barrier in barriers if barrier.name in _WITHOUT]
    except RewindboxError as error:
        findings.append(_broken(error))
    works = all(finding.verdict != "bad" for finding in findings)
    return {"ok": works, "findings": [asdict(finding) for finding in findings], "limits": limits}


def _examined_there(call: Call) -> dict[str, Any]:
    """As `examined`, of a server and its host."""
    from rewindbox.client import RemoteBox  # noqa: PLC0415  only there

    async def ask() -> dict[str, Any]:
        async with RemoteBox(call.arguments.server, token=token(call)) as box:
            return await box.examined()

    with Portal() as portal:
        return portal.call(ask)


async def _held(settings: config.Settings, store: str) -> tuple[Sequence[Barrier], Sequence[LimitReport]]:
    """What stands and holds on a machine that is made to be looked at; no code runs in it."""
    backend = backends.load(settings.backend, os.path.join(store, "vms"), spare=False)
    try:
        return await backend.barriers(), await backend.limits()
    finally:
        await backend.close()


def _required(names: list[str], barriers: Sequence[Barrier], reports: Sequence[LimitReport]) -> Iterator[Finding]:
    """What the configuration requires and this host does not have."""
    there = {barrier.name for barrier in barriers if barrier.stands}
    there |= {f"{report.limit}=hard" for report in reports if report.enforcement == "hard"}
    for name in names:
        if name not in there:
            yield Finding("require", "bad", f"{name} does not hold here", "no vm starts; take it out of `require`")


def _second_wall(barrier: Barrier) -> Finding:
    return Finding(barrier.name, "good" if barrier.stands else "missing", barrier.text)


def _box(store: str, settings: config.Settings) -> Rewindbox:
    """With the limits that we ship, and every language allowed: what is configured is not what is probed."""
    role = VmExecutionConfig(
        allowed_languages=list(settings.languages),
        execution_timeout_ms=30_000,
        history=HistoryConfig(persist_history=True),
    )
    return Rewindbox(store, config=role, limits=Limits())


def _broken(error: RewindboxError) -> Finding:
    name = "host" if isinstance(error, HostUnsupported) else "vm"
    return Finding(name, "bad", error.detail, error.remedy)


def _host(settings: config.Settings) -> Iterator[Finding]:
    who = "root; vms run as an id that nobody else has" if os.getuid() == 0 else f"uid {os.getuid()}"
    yield Finding("host", "good", f"Linux {platform.release()}, {platform.machine()}, {who}")
    folder = _nearest(settings.folder)
    usage, files = shutil.disk_usage(folder), os.statvfs(folder)
    text = f"{settings.folder} on {_file_system(folder)}, {usage.free / 2**30:.1f} GiB free"
    if files.f_files:
        text += f", {files.f_favail} files free"
    if usage.free < _LOW_SPACE_BYTES:
        yield Finding("store", "missing", text, "free some space, or choose another place with REWINDBOX_STORE")
    else:
        yield Finding("store", "good", text)
    yield _search()


def _search() -> Finding:
    version = f"SQLite {sqlite3.sqlite_version}"
    if texts.is_available():
        return Finding("search", "good", f"{version} keeps an index of code and output")
    text = f"{version} has no FTS5 with `trigram`: a search reads everything"
    return Finding("search", "missing", text, "use a Python whose SQLite is 3.34 or later, with FTS5")


def _nearest(folder: str) -> str:
    """The folder, or the nearest one above it that there is: a look must not make it."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


def _file_system(folder: str) -> str:
    """The type of the file system that a folder is on: that of the deepest mount above it."""
    inside, best, kind = os.path.realpath(folder) + "/", "", "an unknown file system"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            words = line.split()
            place = words[4].rstrip("/") + "/"
            if inside.startswith(place) and len(place) >= len(best):
                best, kind = place, words[words.index("-") + 1]
    return kind


@contextmanager
def temporary_store(settings: config.Settings) -> Iterator[str]:
    """On the file system where the vms will be."""
    config.check_owner(settings.folder)
    parent = _nearest(settings.folder)
    try:
        folder = tempfile.mkdtemp(prefix=".rewindbox-doctor-", dir=parent)
    except OSError as error:
        raise HostUnsupported(
            f"{parent} cannot be written to: {error.strerror}", remedy="choose another store with REWINDBOX_STORE"
        ) from error
    try:
        yield folder
    finally:
        from rewindbox.backends.namespace import trees  # noqa: PLC0415  files of vms may be unwilling to go

        with suppress(OSError):
            trees.delete(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _vm_findings(box: Rewindbox, allowed: frozenset[str]) -> Iterator[Finding]:
    begun_s = time.monotonic()
    vm = box.vm("doctor")
    vm.list()
    yield Finding("vm", "good", f"made and started in {(time.monotonic() - begun_s) * 1000:.0f} ms")
    yield from _tried(_goes_back, vm, "rollback")
    yield from _isolation(box, vm)
    programs = backends.load(box.settings.backend, box.settings.folder).programs(box.settings.languages)
    for language in _tried_languages(box.settings.languages, allowed):
        name = language.name
        finding = _language(vm, language, programs.get(name))
        yield finding if name in allowed else replace(finding, text=f"{finding.text}; not in allowed_languages")
    if programs.get("python"):
        yield _sessions(vm)


def _tried(probe: Callable[[Vm], str], vm: Vm, name: str) -> Iterator[Finding]:
    try:
        yield Finding(name, "good", probe(vm))
    except RewindboxError as error:
        yield Finding(name, "bad", error.detail, error.remedy)


def _goes_back(vm: Vm) -> str:
    vm.write("kept", "before")
    snapshot = vm.snapshot()
    vm.execute("bash", "echo after > kept; touch new")
    begun_s = time.monotonic()
    vm.rollback(snapshot, snapshot_first=False)
    took_ms = (time.monotonic() - begun_s) * 1000
    if vm.read("kept") != b"before" or any(entry.name == "new" for entry in vm.list()):
        raise HostUnsupported("the files are not as they were", remedy="report what `rewindbox doctor` prints")
    return f"a point taken and gone back to in {took_ms:.0f} ms"


def _sessions(vm: Vm) -> Finding:
    """Variables go back, and the code cannot reach what they go back to."""
    try:
        session = vm.session(name="doctor")
        good = session.execute("x = 1")
        session.execute("x = 2")
        begun_s = time.monotonic()
        vm.rollback(str(good.after), snapshot_first=False)
        took_ms = (time.monotonic() - begun_s) * 1000
        attack = session.execute("import os; os.kill(os.getppid(), 9)")
        if "PermissionError" not in attack.stderr:
            return Finding("sessions", "bad", "code can end what a session goes back to", "report what doctor prints")
        if (found := session.execute("x").result) != "1":
            return Finding("sessions", "bad", f"x was 1 and is {found} after going back", "report what doctor prints")
    except RewindboxError as error:
        return Finding("sessions", "missing", error.detail, error.remedy)
    return Finding(
        "sessions", "good", f"variables gone back to in {took_ms:.0f} ms; checkpoints out of the code's reach"
    )


def _tried_languages(table: Table, allowed: frozenset[str]) -> Iterator[Language]:
    """Those that may run, and those that may where nothing is configured."""
    usual = {*config.Settings().allowed_languages, *allowed}
    return (language for language in table.values() if language.name in usual and language.hello)


def _language(vm: Vm, language: Language, place: str | None) -> Finding:
    name, remedy = language.name, f"apt install {language.package or language.program}"
    if place is None:
        elsewhere = shutil.which(language.program)
        note = f"; {elsewhere} is not below /usr, which is all that a vm sees of the host" if elsewhere else ""
        return Finding(name, "missing", f"no {language.program}{note}", remedy)
    try:
        execution = vm.execute(name, language.hello)
    except RewindboxError as error:
        return Finding(name, "missing", error.detail, error.remedy)
    if not execution.success or execution.stdout != "hello\n":
        text = f"{place}: {show.outcome(execution)}, {show.gist(execution)}"
        return Finding(name, "missing", text, remedy.replace("install", "install --reinstall", 1))
    return Finding(name, "good", f"{place}, hello in {execution.duration_ms} ms")


def _isolation(box: Rewindbox, vm: Vm) -> Iterator[Finding]:
    """A live program's own entry in the host's /proc."""
    seen: dict[str, Any] = {}
    box.call(_observe, vm, seen)
    status = seen.get("status")
    if status is None:
        yield Finding("isolation", "missing", "the host's /proc does not show the vm's processes")
        return
    ids = sorted({*status["Uid"].split(), *status["Gid"].split()})
    yield _barrier("kernel ids", f"{', '.join(ids)} outside; never 0", "0" not in ids)
    yield _barrier("seccomp", f"mode {status.get('Seccomp')}; 2 is a filter", status.get("Seccomp") == "2")
    yield _barrier("no_new_privs", f"{status.get('NoNewPrivs')}", status.get("NoNewPrivs") == "1")
    held = {name: status[name] for name in ("CapEff", "CapPrm", "CapInh", "CapAmb") if int(status[name], 16)}
    yield _barrier("capabilities", ", ".join(f"{k} {v}" for k, v in held.items()) or "none", not held)
    yield _spaces(seen["spaces"])


def _barrier(name: str, text: str, stands: bool) -> Finding:
    return Finding(name, "good" if stands else "bad", text, None if stands else "report it: this is a barrier")


def _spaces(spaces: dict[str, bool | None]) -> Finding:
    own, shared = [name for name in _SPACES if spaces[name]], [name for name in _SPACES if spaces[name] is False]
    if shared:
        return _barrier("namespaces", f"shared with the host: {', '.join(shared)}", False)
    unseen = [name for name in _SPACES if spaces[name] is None]
    text = f"own {', '.join(own)}" if own else "none can be seen from outside"
    return Finding("namespaces", "good", f"{text}; not to be seen: {', '.join(unseen)}" if own and unseen else text)


async def _observe(vm: Vm, seen: dict[str, Any]) -> None:
    """Look at a program from outside as soon as it says its inner pid, then end it."""
    async with anyio.create_task_group() as group:

        def look(_: str, data: bytes) -> None:
            seen.update(_look(data.decode().strip()))
            group.cancel_scope.cancel()

        await vm.inner.execute("bash", "echo $$; exec sleep 30", on_output=look)


def _look(inner_pid: str) -> dict[str, Any]:
    for pid in _descendants(os.getpid()):
        status = _status(pid)
        if status.get("NSpid", "").split()[1:] and status["NSpid"].split()[-1] == inner_pid:
            return {"status": status, "spaces": {name: _differs(pid, name) for name in _SPACES}}
    return {}


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with suppress(ValueError):
            parents.setdefault(int(_status(int(entry)).get("PPid", "")), []).append(int(entry))
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def _status(pid: int) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}
    except OSError:
        return {}


def _differs(pid: int, kind: str) -> bool | None:
    """Whether a process is in another namespace than we; None: the host does not let us see."""
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    except OSError:
        return None


def _page(out: Stream, findings: list[Finding], limits: list[dict[str, Any]], works: bool) -> str:
    rows = [(finding.name, finding.verdict, finding.text) for finding in findings]
    reports = [(report["limit"], report["enforcement"], report["by"]) for report in limits]
    remedies = [f"{finding.name}: {finding.remedy}" for finding in findings if finding.remedy]
    if not out.is_terminal:
        named: list[tuple[str, ...]] = [
            ("remedy", finding.name, str(finding.remedy)) for finding in findings if finding.remedy
        ]
        parts: list[list[tuple[str, ...]]] = [
            [("probe", *row) for row in rows],
            [("limit", *report) for report in reports],
            named,
        ]
        return "".join(show.lines(part) for part in parts)
    styled = [((_MARKS[verdict][0], _MARKS[verdict][1]), (name, "bold"), (text, "")) for name, verdict, text in rows]
    page = show.table(out, ("", "probe", "found"), styled, wrap=True)
    if reports:
        held = [((limit, "bold"), (how, "green" if how == "hard" else ""), (by, "dim")) for limit, how, by in reports]
        page += "\n" + show.table(out, ("limit", "held", "by"), held, wrap=True)
    page += "".join(f"\n{out.styled('→', 'yellow')} {remedy}" for remedy in remedies) + "\n" * bool(remedies)
    return page + ("\nVms work here.\n" if works else "\nVms do not work here as they should.\n")
