"""The story. Read `AsyncRewindbox.run` and `AsyncVm.execute` (vm.py) first; all else is one of their lines.

Async throughout; `door.py` is the same without `await`.
"""

import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast

from rewindbox import config as configuration
from rewindbox import holders, policy
from rewindbox.backends.base import OnOutput
from rewindbox.errors import InvalidArgument, RewindboxError, VmNotAvailable
from rewindbox.execution import Ended, Execution
from rewindbox.history import Head, History, HistoryPage
from rewindbox.kept import KeptVm, held, holds
from rewindbox.limits import Limits
from rewindbox.opened import Opened, beside
from rewindbox.policy import Decision, OnFailure, Support
from rewindbox.registry import SessionsEnded, VmRecord
from rewindbox.run import carry_out
from rewindbox.vm import AsyncVm

if TYPE_CHECKING:
    from rewindbox.models import CodeBlock, ParseExecuteRequest, ParseExecuteResponse, VmExecutionConfig
    from rewindbox.pool import Pool
    from rewindbox.remote import RemoteVm

AnyVm: TypeAlias = "AsyncVm | KeptVm | RemoteVm"
OnDecision = Callable[[int, Decision], None]


class AsyncRewindbox:
    """A store of vms and their history, and the means to run code in them."""

    def __new__(cls, store: object = None, **options: Any) -> Self:
        """What is at a server is a `RemoteBox`."""
        if cls is AsyncRewindbox and (configuration.is_url(store) or configuration.goes_to_server(**options)):
            from rewindbox.client import RemoteBox  # noqa: PLC0415  which has all of this, and is loaded where it is used

            return cast("Self", super().__new__(RemoteBox))
        return super().__new__(cls)

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
        """Nothing is opened or started before `async with` (or the first use).

        Args:
            store: Folder of history and vms, made when missing, or the URL of a `rewindbox serve`. None: as configured.
            config: What is set in it is over role, environment and configuration file.
            limits: Default of every execution; a table of some of them is over the configured ones. None: those.
            agent_id: Who runs, where a call does not say.
            languages: Name -> field -> value, as `[languages.NAME]` of the configuration file; over what that says.
            ask_keeper: Vms that the command line's keeper of live sessions holds are asked of it, not refused as busy.
            role: Whose holder runs code: a role of the original, with `extra.vm_execution`; see `from_role`.
            token: What the server knows us by. None: that in REWINDBOX_TOKEN. Nobody is told it but the server.

        Raises:
            ConfigError: see `config.load` and `config.of_role`.
            Refused: the role does not allow code to be run.
        """
        self.settings = configuration.of_box(
            config, role, store=store and os.fspath(store), limits=limits, agent_id=agent_id, languages=languages
        )
        self._ask_keeper = ask_keeper
        self._vms: dict[str, AsyncVm] = {}
        self._open: Opened | None = None
        self._pool: Pool | None = None

    @classmethod
    def from_role(cls, role: Mapping[str, Any], store: str | os.PathLike[str] | None = None, **options: Any) -> Self:
        """A box for whoever holds a role: what its `vm_execution` says is over the configuration file.

        Who runs is the role's name, where neither the environment nor an option says otherwise. Options are those
        of the class. Raises Refused: `enabled` is false or nowhere said.
        """
        return cls(store, role=role, **options)

    async def __aenter__(self) -> "AsyncRewindbox":
        self._opened()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _opened(self) -> "Opened":
        if self._open is None:
            self._open = Opened(self.settings)
        return self._open

    async def close(self) -> None:
        """Stop every vm; their files and history stay. Idempotent."""
        if self._pool is not None:
            await self._pool.close()
            self._pool = None
        for vm in list(self._vms.values()):
            await vm.stop()
        if self._open is not None:
            await self._open.close()
            self._open = None

    async def vm(
        self,
        name_or_id: str | None = None,
        *,
        agent_id: str | None = None,
        create: bool | None = None,
        kept: bool = False,
    ) -> AnyVm:
        """The vm of that name or id; made when it is new (None: a new one with a name of its own).

        It is started by the first thing that needs it running. `create` False: an unknown one is an error,
        which is also what the setting `auto_provision = false` means. `kept`: a keeper is to hold it, so that its
        sessions go on when this process ends; one is started if need be.

        Raises UnknownVm, InvalidArgument (a name that cannot be one).
        """
        open_ = self._opened()
        record = open_.find_or_create(name_or_id, agent_id, create)
        if kept and open_.is_temporary:
            raise InvalidArgument("a session that goes on, of a history that does not", remedy="set persist_history")
        if kept or (self._ask_keeper and holds(open_.folder, record.id)):
            return KeptVm(open_, record)
        open_.backend.warm()  # it is going to be needed
        return self._held(record)

    def _held(self, record: VmRecord) -> AsyncVm:
        if record.id not in self._vms:
            self._vms[record.id] = AsyncVm(self._opened(), record, self._forget)
        return self._vms[record.id]

    @property
    def pool(self) -> "Pool":
        """Vms that are ready before they are asked for, and a bound on how many run; see `Pool`.

        It is kept as configured while `pool.keep()` runs, or by a call of `pool.upkeep()` now and then.
        """
        if self._pool is None:
            from rewindbox.pool import Pool  # noqa: PLC0415  for whoever has one

            self._pool = Pool(self._opened(), self._held)
        return self._pool

    def running(self) -> list[AsyncVm]:
        """The vms that this process holds."""
        return [vm for vm in self._vms.values() if vm.is_running]

    async def holders(self) -> Mapping[str, int | str]:
        """The vms that are running: id of the vm -> the process that holds it, or the server's URL."""
        return holders.find(self._opened().folder)

    async def live_sessions(self) -> dict[str, list[str]]:
        """The vms with live sessions, here or at the keeper: id of the vm -> names of the sessions."""
        here = {vm.id: sorted(vm.sessions) for vm in self.running() if vm.sessions}
        return {**(await held(self._opened().folder) if self._ask_keeper else {}), **here}

    async def sessions_ended(self, vm_id: str) -> SessionsEnded | None:
        """The last time that live sessions of a vm ended with its processes, and why; None: never."""
        return self._opened().registry.sessions_ended(vm_id)

    async def vms(self) -> list[VmRecord]:
        """Every vm, oldest first."""
        return self._opened().registry.list()

    async def languages(self) -> dict[str, Support]:
        """Every language by name: how it is run, whether it is allowed, and where a vm has its program."""
        return policy.support(self.settings, await self._programs())

    async def _programs(self) -> Mapping[str, str | None]:
        """Every language by name -> where a vm has its program; None: nowhere."""
        return self._opened().backend.programs(self.settings.languages)

    async def plan(self, text: str, *, threshold: float = 0.0, request: str | None = None) -> list[Decision]:
        """The blocks of a model's answer and which of them `run` would run. Raises what `run` raises before that."""
        blocks, programs = await self._found(text, request), await self._programs()
        return await beside(partial(policy.decide, blocks, self.settings, programs, threshold), len(text))

    async def _found(self, text: str, request: str | None = None) -> "list[CodeBlock]":
        from rewindbox import extraction  # noqa: PLC0415  loads the Markdown parser

        most, table = self.settings.max_text_chars, self.settings.languages
        find = partial(extraction.blocks, text, max_chars=most, languages=table, request=request)
        return await beside(find, len(text))

    async def run(
        self,
        text: str,
        vm: "AnyVm | str | None" = None,
        *,
        on_failure: OnFailure = "stop",
        threshold: float = 0.0,
        request: str | None = None,
        agent_id: str | None = None,
        limits: Limits | None = None,
        session: str | bool = False,
        on_decision: OnDecision | None = None,
        on_output: OnOutput | None = None,
        on_begun: Callable[[str], None] | None = None,
    ) -> AsyncGenerator[Execution, None]:
        """Run the code blocks of a model's answer in one vm, in document order; each execution as it ends.

        Blocks that are the content of a file are written to it, in their turn (`policy.decide`).

        Args:
            vm: Where; None: a new one.
            on_failure: `stop`: no block after the first that fails. `continue`: all of them.
                `rollback`: a failed block is undone (files as before it), then the next one runs.
            threshold: Least `execution_confidence` of a block that runs. 0: all, asking to run is the intent.
                `request`, what the user has asked for, counts in it.
            session: Run blocks in the session of this name (True: "main"), as far as their languages have one.
            on_decision: Called with the number (from 1) and decision of each block before it runs or is skipped.

        Raises:
            ValidationFailed: before anything ran.
            VmNotAvailable, HostUnsupported, SnapshotFailed, RollbackFailed: as `AsyncVm.execute`.
        """
        policy.check_on_failure(on_failure)
        decisions = await self.plan(text, threshold=threshold, request=request)
        name = "main" if session is True else session or None
        running = carry_out(
            decisions,
            await self._place(vm, agent_id, name),
            self.settings.languages,
            on_failure=on_failure,
            agent_id=agent_id,
            limits=limits,
            session=name,
            on_decision=on_decision,
            on_output=on_output,
            on_begun=on_begun,
        )
        async with aclosing(running) as executions:
            async for execution in executions:
                yield execution

    async def parse_execute(
        self,
        given: "ParseExecuteRequest | Mapping[str, Any] | None" = None,
        /,
        *,
        vm: "AnyVm | str | None" = None,
        on_failure: OnFailure = "stop",
        **fields: Any,
    ) -> "ParseExecuteResponse":
        """The original's request to find the code of an answer and, with `auto_execute`, to run it.

        What is at least `auto_execute_threshold` sure to be meant runs as by `run`: in document order, in one vm, by
        the same policy, into the same history. `errors` names each block that was refused or failed; what a block
        raises is there, too, so that the results of those before it are not lost.

        Args:
            given: It, or a mapping of its fields; or the fields themselves as arguments. Its `vm_config` may take
                languages or length away; its `request`, what the user has asked for, counts in the confidence. Beyond
                its `max_bytes` of output results come without, and `errors` says so; history has it.
            vm: Where; None: the agent's own, which is made by its first request and stays.

        Raises InvalidArgument, ConfigError, ValidationFailed (the text is too long): nothing ran.
        """
        from rewindbox import parsing  # noqa: PLC0415  loads pydantic

        policy.check_on_failure(on_failure)
        asked = parsing.request(fields if given is None else given)
        settings = parsing.narrowed(self.settings, asked.vm_config)
        answer = parsing.Answer(asked, await self._found(asked.llm_response, asked.request))
        if not asked.auto_execute:
            return answer.whole()
        try:
            decisions = policy.decide(answer.blocks, settings, await self._programs(), asked.auto_execute_threshold)
            where = await self._place(vm if vm is not None else parsing.vm_name(asked.agent_id), asked.agent_id, None)
            languages, who = self.settings.languages, asked.agent_id
            running = carry_out(
                decisions, where, languages, on_failure=on_failure, agent_id=who, on_decision=answer.decide
            )
            async with aclosing(running) as executions:
                async for execution in executions:
                    answer.add(execution)
        except RewindboxError as error:
            return answer.whole(error)
        return answer.whole()

    async def _place(self, vm: "AnyVm | str | None", agent_id: str | None, session: str | None) -> AnyVm:
        """The vm of a run; where it has a session that a keeper may hold, the keeper does."""
        if vm is None or isinstance(vm, str):
            return await self.vm(vm, agent_id=agent_id, kept=self._ask_keeper and session is not None)
        return vm

    async def execution(self, ref: str, *, output: bool = True) -> Execution:
        """One execution by id or unique prefix; `output`: as in `history`. Raises UnknownExecution."""
        return await self._opened().execution(ref, output=output)

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
        """Executions, newest first; see `History.asking`. A removed vm is found by its id, a language by an alias."""
        open_ = self._opened()
        vm_id = open_.registry.find(vm, removed=True).id if isinstance(vm, str) else vm.id if vm else None
        return await open_.page(
            vm_id,
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
        """Every ended execution of every vm, also of those removed, in the order of recording; few are in memory.

        `Execution.as_dict` of each is a line of JSON Lines. What ends meanwhile may come or not.
        """
        last = 0
        while found := await self._opened().aside(partial(History.after, seq=last)):
            for _, execution in found:
                yield execution
            last = found[-1][0]

    async def settle(self) -> list[str]:
        """End what processes that died left unfinished, as each vm does when it is next used: it is undone. Its ids."""
        unfinished = self._opened().history.unfinished()
        for vm_id in {start.vm_id for start in unfinished}:
            with suppress(VmNotAvailable):
                vm = await self.vm(vm_id, create=False)
                if isinstance(vm, AsyncVm) and not vm.is_running:
                    await vm.list()
                    await vm.stop()
        left = {start.id for start in self._opened().history.unfinished()}
        return [start.id for start in unfinished if start.id not in left]

    async def check(self) -> None:
        """Make a machine and end it, and take the lock for writing. Raises HostUnsupported, HistoryError."""
        with self._opened().store.transaction():
            pass
        await self._opened().backend.barriers()

    async def head(self) -> Head:
        """What the history ends with; its text, kept in another place, is what `verify` can be told to expect."""
        return await self._opened().aside(lambda history: history.head())

    async def verify(self, expect: str | None = None) -> list[str]:
        """What is wrong with the history's file, a sentence each; empty when nothing is. See `History.verify`."""
        return await self._opened().aside(lambda history: history.verify(expect))

    def _forget(self, vm_id: str) -> None:
        self._vms.pop(vm_id, None)
