"""A vm and the pool at a server: the same names as `AsyncVm` and `Pool`, asked over HTTP."""

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import anyio

from rewindbox import policy, shapes
from rewindbox.backends.base import FileInfo, OnOutput
from rewindbox.choosing import PoolStats
from rewindbox.config import Settings
from rewindbox.errors import BadRequest, SnapshotNotFound, UnknownLease, UnknownVm
from rewindbox.execution import Execution, rfc3339
from rewindbox.following import Following
from rewindbox.history import HistoryPage, within
from rewindbox.ids import new_id
from rewindbox.limits import Limits
from rewindbox.meanwhile import lent
from rewindbox.points import Point, Rollback, Snapshot
from rewindbox.preview import Preview
from rewindbox.registry import SessionsEnded, VmRecord, check_name
from rewindbox.session import AsyncSession
from rewindbox.stdin import Stdin
from rewindbox.transport import Server, readable, segment

_PAGE = 100
"""Executions of the history that a server tells at once."""
_POINTS = 1000
"""Points that it tells at once."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Where a box asks, and what it says where a call does not."""

    server: Server
    settings: Settings
    """The server's, with what is set here over them."""
    theirs: Settings
    """The server's."""
    agent_id: str | None
    """None: the token's agent, or as the server has it configured."""


class RemoteVm:
    """A vm that a server holds; see `AsyncVm`."""

    def __init__(self, terms: Terms, told: Mapping[str, Any]) -> None:
        """`told`: the vm, as the server tells of it."""
        self._terms, self._server = terms, terms.server
        self._take(told)
        self.id, self.name = self.record.id, self.record.name
        self._path = f"/v1/vms/{segment(self.id, UnknownVm)}"

    def __repr__(self) -> str:
        return f"<vm {self.name} {self.id} at {self._server.url}>"

    def _take(self, told: Mapping[str, Any]) -> None:
        self.record: VmRecord = readable(shapes.vm_record, told, "/v1/vms")
        """What the server's store knew of it when it was last asked; see `look`."""
        self.is_running: bool = told.get("status") == "running"
        self.sessions: set[str] = set(told.get("sessions", ()))
        self.sessions_ended: SessionsEnded | None = readable(
            shapes.sessions_ended, told.get("sessions_ended"), "/v1/vms"
        )

    async def look(self) -> VmRecord:
        """See `AsyncVm.look`."""
        if not self.record.removed:
            self._take(await self._server.get(self._path))
        return self.record

    async def execute(
        self,
        language: str,
        code: str,
        *,
        agent_id: str | None = None,
        limits: Limits | None = None,
        timeout_seconds: float | None = None,
        environment: dict[str, str] | None = None,
        stdin: bytes | str | Stdin = b"",
        working_dir: str | None = None,
        on_output: OnOutput | None = None,
        on_begun: Callable[[str], None] | None = None,
        rollback_on_failure: bool | None = None,
        session: str | None = None,
        block: int | None = None,
        execution_id: str | None = None,
    ) -> Execution:
        """See `AsyncVm.execute`.

        Whatever happens to the connection: it runs once or not at all, and every byte of its output comes once.
        Raises ConnectionFailed when there is no way to the server any more; it may go on there.
        """
        policy.check(language, code, self._terms.settings)
        asked = {
            "id": execution_id or new_id("ex"),
            "language": language,
            "code": code,
            "agent_id": agent_id or self._terms.agent_id,
            "limits": self._limits(language, limits, timeout_seconds),
            "environment": environment,
            "working_dir": working_dir,
            "on_failure": self._on_failure(rollback_on_failure),
            "session": session,
            "block": block,
            **_input(stdin),
        }
        kept = self._terms.theirs.history
        return await Following(
            self._server,
            f"{self._path}/executions",
            asked,
            on_output,
            on_begun,
            is_recorded=kept.enabled and kept.persist_history,
            stdin=stdin if isinstance(stdin, Stdin) else None,
        ).to_the_end()

    def _limits(self, language: str, given: Limits | None, timeout_s: float | None) -> dict[str, Any] | None:
        """Those of one execution; None: as the server has them configured."""
        mine, theirs = self._terms.settings, self._terms.theirs
        multiplier = mine.languages.find(language).timeout_multiplier
        limits = mine.limits_of(multiplier, given, timeout_s)
        return None if limits == theirs.limits_of(multiplier, None, None) else limits.as_dict()

    def _on_failure(self, given: bool | None) -> str:
        undo = self._terms.settings.history.auto_rollback_on_failure if given is None else given
        return "rollback" if undo else "keep"

    async def session(self, language: str = "python", name: str = "main") -> AsyncSession:
        """See `AsyncVm.session`."""
        told = await self._server.post(f"{self._path}/sessions", {"language": language, "name": name})
        return AsyncSession(self, readable(lambda told: str(told["language"]), told, "/v1/vms"), name)

    async def end_session(self, name: str, language: str = "python") -> None:
        """See `AsyncVm.end_session`."""
        check_name(name, "session name")
        await self._server.delete(f"{self._path}/sessions/{segment(name, BadRequest)}", language=language)

    async def live_points(self) -> frozenset[str]:
        """See `AsyncVm.live_points`."""
        return frozenset(point["id"] for point in await self._points() if point["live"])

    async def point(self, to: str | Execution | Snapshot | Point | None = None) -> Point:
        """See `AsyncVm.point`."""
        seen = await self.preview(to, files=False)
        for point in await self.points():
            if point.id == seen.to_point:
                return point
        raise SnapshotNotFound(f"{seen.to_point} is gone", remedy="choose another")

    async def preview(self, to: str | Execution | Snapshot | Point | None = None, *, files: bool = True) -> Preview:
        """See `AsyncVm.preview`. Of a name that is no UTF-8 the bytes that are none are replaced."""
        asked = {**_target(to), "preview": True, "files": files}
        return readable(shapes.preview, await self._server.post(f"{self._path}/rollback", asked), self._path)

    async def points(self, *, newer_than: str | None = None, limit: int | None = None) -> list[Point]:
        """See `AsyncVm.points`. What a point's state is, is known to the server alone."""
        told = await self._points(newer_than, limit)
        return readable(lambda told: [shapes.point(entry, self.id) for entry in told], told, self._path)

    async def _points(self, newer_than: str | None = None, limit: int | None = None) -> list[Any]:
        path, found = f"{self._path}/points", list[Any]()
        while True:
            most = _POINTS if limit is None else min(_POINTS, limit - len(found))
            told = await self._server.get(path, newer_than=newer_than, limit=most)
            found += listed(told, "points")
            newer_than = readable(lambda told: told["next"], told, path)
            if newer_than is None or len(found) == limit:
                return found

    async def rollback(
        self,
        to: str | Execution | Snapshot | Point,
        *,
        snapshot_first: bool = True,
        rebuild: bool = False,
        agent_id: str | None = None,
    ) -> Rollback:
        """See `AsyncVm.rollback`."""
        return await self._put_back(_target(to), snapshot_first=snapshot_first, rebuild=rebuild, agent_id=agent_id)

    async def rollback_to_last_success(self, **options: Any) -> Rollback:
        """See `AsyncVm.rollback_to_last_success`."""
        return await self._put_back(_target(None), **options)

    async def _put_back(self, target: dict[str, Any], **options: Any) -> Rollback:
        asked = {**target, **options, "agent_id": options.get("agent_id") or self._terms.agent_id}
        return readable(shapes.rollback, await self._server.post(f"{self._path}/rollback", asked), self._path)

    async def put_files_back(self, target: Point) -> None:
        """A server does not offer it: it is a part of `rollback(rebuild=True)`. Raises BadRequest."""
        raise BadRequest(f"put_files_back to {target.id} at a server", remedy="say rollback(..., rebuild=True)")

    async def snapshot(self, name: str | None = None, *, agent_id: str | None = None) -> Snapshot:
        """See `AsyncVm.snapshot`."""
        asked = {"name": name, "agent_id": agent_id or self._terms.agent_id}
        return readable(shapes.snapshot, await self._server.post(f"{self._path}/snapshots", asked), self._path)

    async def snapshots(self) -> list[Snapshot]:
        """See `AsyncVm.snapshots`."""
        told = listed(await self._server.get(f"{self._path}/snapshots"), "snapshots")
        return readable(lambda told: [shapes.snapshot(entry) for entry in told], told, self._path)

    async def remove_snapshot(self, ref: str) -> Snapshot:
        """See `AsyncVm.remove_snapshot`."""
        told = await self._server.delete(f"{self._path}/snapshots/{segment(ref, SnapshotNotFound)}")
        return readable(shapes.snapshot, told, self._path)

    async def history(self, **query: Any) -> HistoryPage:
        """See `AsyncVm.history`."""
        return await history(self._server, vm=self.id, **query)

    async def read(self, path: str, *, max_bytes: int = 64 << 20) -> bytes:
        """See `AsyncVm.read`. A server may have a bound of its own."""
        return await self._server.fetch(f"{self._path}/file", at_most=max_bytes, path=path)

    async def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """See `AsyncVm.write`."""
        content = data.encode() if isinstance(data, str) else data
        await self._server.put(f"{self._path}/file", content, path=path, mode=f"{mode:03o}")

    async def list(self, path: str = ".") -> Sequence[FileInfo]:
        """See `AsyncVm.list`. Of a name that is no UTF-8 the bytes that are none are replaced."""
        told = listed(await self._server.get(f"{self._path}/files", path=path), "entries")
        return readable(lambda told: [shapes.file_info(entry) for entry in told], told, self._path)

    async def stop(self, *, reason: str = "stopped") -> None:
        """See `AsyncVm.stop`. The reason is the server's to give."""
        self._take(await self._server.post(f"{self._path}/stop"))

    async def remove(self) -> None:
        """See `AsyncVm.remove`."""
        await self._server.delete(self._path)
        self.record, self.is_running = replace(self.record, removed=True), False
        self.sessions.clear()


class RemotePool:
    """The pool of a server; see `Pool`. The server keeps it."""

    def __init__(self, asked: Callable[[], Awaitable[Terms]]) -> None:
        """`asked`: the terms of the box."""
        self._asked = asked
        self._leases: dict[str, list[str]] = {}
        """Ids, by the id of the vm."""

    def vm(
        self, agent_id: str | None = None, *, vm_id: str | None = None, wait_s: float | None = None
    ) -> AbstractAsyncContextManager[RemoteVm]:
        """See `Pool.vm`."""
        return lent(partial(self.lease, agent_id, vm_id=vm_id, wait_s=wait_s), self.give_back)

    async def lease(
        self, agent_id: str | None = None, *, vm_id: str | None = None, wait_s: float | None = None
    ) -> RemoteVm:
        """See `Pool.lease`. The server gives it back when nothing was asked of it for long: docs/http-api.md."""
        terms = await self._asked()
        asked = {"agent_id": agent_id or terms.agent_id, "vm": vm_id, "wait_s": wait_s}
        told = await terms.server.post("/v1/pool/leases", asked)
        lease_id, vm = readable(lambda told: (str(told["id"]), RemoteVm(terms, told["vm"])), told, "/v1/pool/leases")
        self._leases.setdefault(vm.id, []).append(lease_id)
        return vm

    async def give_back(self, vm: RemoteVm) -> None:
        """See `Pool.give_back`."""
        for lease_id in self._leases.get(vm.id, [])[-1:]:
            self._leases[vm.id].remove(lease_id)
            terms = await self._asked()
            with suppress(UnknownLease):  # the server has given it back
                await terms.server.delete(f"/v1/pool/leases/{segment(lease_id, UnknownLease)}")

    async def remove(self, vm_id: str) -> None:
        """See `Pool.remove`."""
        terms = await self._asked()
        await terms.server.delete(f"/v1/vms/{segment(vm_id, UnknownVm)}")

    async def upkeep(self) -> None:
        """Nothing: the server does so all the time."""

    async def keep(self) -> None:
        """As `upkeep`, until cancelled."""
        await anyio.sleep_forever()

    async def stats(self) -> PoolStats:
        """See `Pool.stats`. Raises Refused: the token is that of an agent."""
        told = await (await self._asked()).server.get("/v1/pool")
        return readable(shapes.pool_stats, told, "/v1/pool")


async def history(
    server: Server, *, limit: int | None = 100, max_bytes: int | None = None, **query: Any
) -> HistoryPage:
    """See `AsyncRewindbox.history`; a vm is an id or a name. A server tells so many at once, or so many bytes."""
    for name in ("since", "until"):
        if query.get(name) is not None:
            query[name] = rfc3339(query[name])
    entries, size_bytes = list[Execution](), 0
    while True:
        left = _PAGE if limit is None else limit - len(entries)
        told = await server.get("/v1/history", **query, limit=min(_PAGE, left))
        page = readable(shapes.history_page, told, "/v1/history")
        entries, size_bytes = entries + page.entries, size_bytes + page.size_bytes
        if max_bytes is not None and size_bytes > max_bytes and len(entries) > 1:
            fitting = list(within(entries, max_bytes))
            return replace(page, entries=fitting, next=fitting[-1].id)
        if page.next is None or len(entries) == limit:
            return replace(page, entries=entries)
        query |= {"older_than": page.next, "offset": 0}


def _target(to: str | Execution | Snapshot | Point | None) -> dict[str, Any]:
    """Where to go back to; None: to the last success."""
    if to is None:
        return {"last_success": True}
    if isinstance(to, Execution):
        return {"before": to.id}
    return {"to": to if isinstance(to, str) else to.id}


def _input(stdin: bytes | str | Stdin) -> dict[str, Any]:
    """Standard input in JSON, which has no bytes."""
    if isinstance(stdin, Stdin):
        return {"stdin_open": True}
    if isinstance(stdin, bytes):
        try:
            return {"stdin": stdin.decode()} if stdin else {}
        except UnicodeDecodeError:
            return {"stdin_base64": base64.b64encode(stdin).decode()}
    return {"stdin": stdin} if stdin else {}


def listed(told: Any, name: str) -> list[Any]:
    """The entries of an answer that is a list. Raises ApiError."""

    def entries(told: Any) -> list[Any]:
        found = told[name]
        if not isinstance(found, list):
            raise TypeError(f"{name} is no list")
        return found

    return readable(entries, told, name)
