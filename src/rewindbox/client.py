"""A box at a server: `AsyncRewindbox` whose vms, history and languages are asked for over HTTP.

What finds code in an answer and decides on it is the same program as in this process (`engine.py`), by the server's
settings. What is set here holds there, too; what is not set here is as the server has it.
"""

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rewindbox import config as configuration
from rewindbox import shapes
from rewindbox.config import Settings
from rewindbox.engine import AnyVm, AsyncRewindbox
from rewindbox.errors import ConfigError, HostUnsupported, Internal, UnknownExecution, UnknownVm
from rewindbox.execution import Ended, Execution
from rewindbox.history import Head, HistoryPage
from rewindbox.limits import Limits
from rewindbox.opened import Opened
from rewindbox.policy import allowed
from rewindbox.registry import SessionsEnded, VmRecord
from rewindbox.remote import RemotePool, RemoteVm, Terms, history, listed
from rewindbox.transport import Server, readable, segment
from rewindbox.vm import AsyncVm

if TYPE_CHECKING:
    from rewindbox.models import VmExecutionConfig

TOKEN = "REWINDBOX_TOKEN"  # noqa: S105  where it is, not what it is


class RemoteBox(AsyncRewindbox):
    """The vms and the history of a server, and the means to run code in them; see `AsyncRewindbox`."""

    def __init__(
        self,
        store: str | os.PathLike[str] | None = None,
        *,
        config: "VmExecutionConfig | None" = None,
        limits: Limits | Mapping[str, Any] | None = None,
        agent_id: str | None = None,
        languages: Mapping[str, Any] | None = None,
        ask_keeper: bool = False,
        role: Mapping[str, Any] | None = None,
        token: str | None = None,
    ) -> None:
        """`store`: the URL; None: the configured `api_base_url`."""
        given: dict[str, Any] = {"limits": limits, "agent_id": agent_id, "languages": languages}
        super().__init__(None, config=config, role=role, **given)
        if store is not None and not configuration.is_url(store):
            raise ConfigError(
                f"store = {os.fspath(store)!r} and history.integration_mode = 'http'",
                remedy='give no folder, or set integration_mode = "direct"',
            )
        self._set = configuration.chosen_of_box(config, role, **given)
        if languages:
            raise ConfigError("languages are set here, and vms are at a server", remedy="configure them there")
        self.server = Server(str(store or self.settings.api_base_url), token or os.environ.get(TOKEN))
        self._terms: Terms | None = None
        self._lent = RemotePool(self._asked)
        self._told_programs: dict[str, str | None] = {}

    async def __aenter__(self) -> "RemoteBox":
        """Raises ConnectionFailed, ApiError, Unauthorized: there is no server of ours, or it does not know us."""
        await self._asked()
        return self

    async def _asked(self) -> Terms:
        if self._terms is None:
            told, languages = await self.server.get("/v1/settings"), await self.server.get("/v1/languages")
            theirs = readable(_settings, told, "/v1/settings")
            self._told_programs = readable(
                lambda told: {entry["name"]: entry["program"] for entry in told}, listed(languages, "languages"), "/v1"
            )
            self.settings = _narrowed(theirs, self._set)
            self._terms = Terms(self.server, self.settings, theirs, self._set.get("agent_id"))
        return self._terms

    def _opened(self) -> Opened:
        raise Internal("a store here was asked for, and everything is at a server", remedy="please report it")

    async def _programs(self) -> Mapping[str, str | None]:
        await self._asked()
        return self._told_programs

    async def close(self) -> None:
        """End the connections; vms and what runs in them stay as they are. Idempotent."""
        await self.server.close()

    async def vm(
        self,
        name_or_id: str | None = None,
        *,
        agent_id: str | None = None,
        create: bool | None = None,
        kept: bool = False,
    ) -> AnyVm:
        """See `AsyncRewindbox.vm`. `kept` says nothing: the server holds its vms while it runs."""
        terms = await self._asked()
        may_make = self.settings.auto_provision if create is None else create
        if name_or_id is not None:
            try:
                return RemoteVm(terms, await self.server.get(f"/v1/vms/{segment(name_or_id, UnknownVm)}"))
            except UnknownVm:
                if not may_make or name_or_id.startswith("vm_"):
                    raise
        asked = {"name": name_or_id, "agent_id": agent_id or terms.agent_id}
        return RemoteVm(terms, await self.server.post("/v1/vms", asked))

    @property
    def pool(self) -> RemotePool:  # type: ignore[override]  # the same names, asked for
        """See `AsyncRewindbox.pool`. The server keeps it, as it is configured there."""
        return self._lent

    def running(self) -> list[AsyncVm]:
        """Those that this process holds: none."""
        return []

    async def vms(self) -> list[VmRecord]:
        """See `AsyncRewindbox.vms`."""
        return [vm.record for vm in await self.all_vms()]

    async def all_vms(self) -> list[RemoteVm]:
        """Every vm, oldest first, as it is now."""
        terms = await self._asked()
        return [RemoteVm(terms, told) for told in listed(await self.server.get("/v1/vms"), "vms")]

    async def holders(self) -> Mapping[str, int | str]:
        """See `AsyncRewindbox.holders`."""
        return {vm.id: self.server.url for vm in await self.all_vms() if vm.is_running}

    async def live_sessions(self) -> dict[str, list[str]]:
        """See `AsyncRewindbox.live_sessions`."""
        return {vm.id: sorted(vm.sessions) for vm in await self.all_vms() if vm.sessions}

    async def sessions_ended(self, vm_id: str) -> SessionsEnded | None:
        """See `AsyncRewindbox.sessions_ended`."""
        vm = await self.vm(vm_id, create=False)
        assert isinstance(vm, RemoteVm)
        return vm.sessions_ended

    async def execution(self, ref: str, *, output: bool = True) -> Execution:
        """See `AsyncRewindbox.execution`."""
        path = f"/v1/executions/{segment(ref, UnknownExecution)}"
        return readable(shapes.execution, await self.server.get(path, output=output), path)

    async def history(
        self,
        vm: "AnyVm | str | None" = None,
        *,
        session: str | None = None,
        agent_id: str | None = None,
        failures_only: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
        language: str | None = None,
        ended: Ended | None = None,
        text: str | None = None,
        limit: int | None = 100,
        offset: int = 0,
        older_than: str | None = None,
        max_bytes: int | None = None,
        output: bool = True,
    ) -> HistoryPage:
        """See `AsyncRewindbox.history`."""
        return await history(
            self.server,
            vm=vm if isinstance(vm, str | None) else vm.id,
            session=session,
            agent_id=agent_id,
            failures_only=failures_only,
            since=since,
            until=until,
            language=language,
            ended=ended,
            text=text,
            limit=limit,
            offset=offset,
            older_than=older_than,
            max_bytes=max_bytes,
            output=output,
        )

    async def export(self) -> AsyncGenerator[Execution, None]:
        """See `AsyncRewindbox.export`."""
        path = "/v1/history/export"
        async with aclosing(self.server.lines(path)) as lines:
            async for told in lines:
                yield readable(shapes.execution, told, path)

    async def settle(self) -> list[str]:
        """Nothing: a server does so when it starts."""
        return []

    async def check(self) -> None:
        """See `AsyncRewindbox.check`."""
        told = await self.examined()
        bad = [entry for entry in told["findings"] if entry["verdict"] == "bad"]
        if bad:
            raise HostUnsupported(f"{self.server.url}: {bad[0]['name']}: {bad[0]['text']}", remedy=bad[0]["remedy"])

    async def examined(self) -> dict[str, Any]:
        """What `rewindbox doctor --json` would say there."""

        def read(told: Any) -> dict[str, Any]:
            findings = [
                {name: entry[name] for name in ("name", "verdict", "text", "remedy")} for entry in told["findings"]
            ]
            return {"ok": told["ok"], "findings": findings, "limits": listed(told, "limits")}

        return readable(read, await self.server.get("/v1/doctor"), "/v1/doctor")

    async def head(self) -> Head:
        """See `AsyncRewindbox.head`."""
        return readable(lambda told: Head(**told), await self.server.get("/v1/head"), "/v1/head")

    async def verify(self, expect: str | None = None) -> list[str]:
        """See `AsyncRewindbox.verify`."""
        told = await self.server.post("/v1/verify", {"expect": expect})
        return [str(text) for text in listed(told, "problems")]


def _settings(told: Mapping[str, Any]) -> Settings:
    """The server's, of what it tells that is known here."""
    known = {name: told[name] for name in configuration.SHARED}
    return configuration.merge(Settings(), known, "the server")


def _narrowed(theirs: Settings, chosen: Mapping[str, Any]) -> Settings:
    """What is set here over what is set there; languages can only be taken away."""
    names = [name for name in configuration.SHARED if name in chosen and name != "languages"]
    mine = configuration.merge(theirs, {name: chosen[name] for name in names}, "an argument")
    both = sorted(allowed(mine) & allowed(theirs))
    return replace(mine, allowed_languages=both, max_code_length=min(mine.max_code_length, theirs.max_code_length))
