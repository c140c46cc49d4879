"""Runs: a model's answer whose code is run, block by block, told as events from any place on.

What happens in a run goes into its journal, a file of the store, a line of JSON each; what its executions write
and how they end is in the record. So a client that comes back goes on where it was, also after a restart.
A place in a run is the number of the next thing in its journal, within an execution with the place in that behind
it: `3`, `3:12-0`.
"""

import json
import os
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from functools import partial
from typing import Any

import anyio

from rewindbox.backends.base import Stream
from rewindbox.engine import AsyncRewindbox
from rewindbox.errors import ExecutionFailed, RewindboxError, UnknownRun
from rewindbox.ids import new_id
from rewindbox.policy import Decision
from rewindbox.server import feeds, journal
from rewindbox.server.feeds import Event, Feed, Place
from rewindbox.server.problems import ours, problem
from rewindbox.server.tokens import Token
from rewindbox.server.work import Work
from rewindbox.vm import AsyncVm

KEPT = 1000
"""Journals beyond the newest so many are removed, from time to time."""
_REMOVE_EVERY = 100
_ID = re.compile(r"run_[a-z2-7]{26}")
_PLACE = re.compile(r"(\d{1,9})(?::(\d{1,18}-\d{1,18}))?")
_LAST = ("done", "error")


class Run:
    """One run: what has happened in it so far."""

    def __init__(self, run_id: str, agent_id: str, path: str | None = None) -> None:
        """`path`: where the journal goes; None: nowhere."""
        self.id, self.agent_id = run_id, agent_id
        self.journal: list[dict[str, Any]] = []
        self.scope = anyio.CancelScope()
        self.refusal: RewindboxError | None = None
        """Why it had no vm, and never began."""
        self._path, self._news = path, anyio.Event()

    @property
    def is_over(self) -> bool:
        """Nothing more happens."""
        return self.refusal is not None or (bool(self.journal) and self.journal[-1]["kind"] in _LAST)

    def refuse(self, why: RewindboxError) -> None:
        """It never begins."""
        self.refusal = why
        self._news.set()

    def add(self, kind: str, data: Mapping[str, Any]) -> None:
        """Something happened."""
        entry = {"kind": kind, "data": dict(data)}
        self.journal.append(entry)
        try:
            if self._path is not None:
                with open(self._path, "a", encoding="ascii", opener=partial(os.open, mode=0o600)) as file:
                    file.write(json.dumps(entry) + "\n")
        except OSError as error:  # those who follow now still hear of it
            journal.unexpected(error)
            self._path = None
        self._news.set()
        self._news = anyio.Event()

    async def until(self, length: int) -> None:
        """Wait until so much has happened, or it is over."""
        while len(self.journal) < length and not self.is_over:
            await self._news.wait()


class Runs:
    """The runs of one server, and the journals of those before it."""

    def __init__(self, folder: str, box: AsyncRewindbox, work: Work) -> None:
        self._folder, self._box, self._work = os.path.join(folder, "runs"), box, work
        self._live: dict[str, Run] = {}
        self._begun = 0

    def prepare(self) -> None:
        """Have a folder for journals, without the oldest of them."""
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        self._remove_old()

    def _remove_old(self) -> None:
        with os.scandir(self._folder) as found:
            ages = sorted((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name) for entry in found)
        for _, name in ages[:-KEPT]:
            with suppress(OSError):
                os.unlink(os.path.join(self._folder, name))

    def find(self, run_id: str) -> Run:
        """A run by its id. Raises UnknownRun."""
        if run_id in self._live:
            return self._live[run_id]
        unknown = UnknownRun(f"no run has the id {run_id[:80]!a}", remedy="its executions are in history")
        if not _ID.fullmatch(run_id):
            raise unknown
        try:
            with open(os.path.join(self._folder, run_id), encoding="ascii") as file:
                entries = [json.loads(line) for line in file if line.endswith("\n")]  # the last one may be cut off
        except (OSError, ValueError) as error:
            raise unknown from error
        if not entries:
            raise unknown
        run = Run(run_id, entries[0]["data"]["agent_id"])
        run.journal = entries
        if not run.is_over:
            lost = ExecutionFailed("the server ended before the run did", remedy="its executions are in history")
            run.journal.append({"kind": "error", "data": problem(lost)})
        return run

    async def begin(
        self, where: AbstractAsyncContextManager[AsyncVm], token: Token, agent_id: str, text: str, **options: Any
    ) -> Run:
        """Begin a run in the vm that `where` gives, and return when there is one; it goes back before the end is told.

        Raises TooMany, and what `where` raises.
        """
        run_id = new_id("run")
        run = Run(run_id, agent_id, os.path.join(self._folder, run_id))
        self._work.go(token, run.scope, partial(self._carried_out, run, where, text, options))
        await run.until(1)
        if run.refusal is not None:
            raise run.refusal
        return run

    async def _carried_out(
        self, run: Run, where: AbstractAsyncContextManager[AsyncVm], text: str, options: dict[str, Any]
    ) -> None:
        current: list[Feed] = []
        how: RewindboxError | None = ExecutionFailed("the run was cancelled", remedy="ask for it again")
        try:
            async with where as vm:
                self._has_vm(run, vm)
                await self._each(run, vm, text, options, current)
            how = None
        except Exception as error:
            how = ours(error)
        finally:
            with anyio.CancelScope(shield=True):
                await self._end(run, current, how)

    def _has_vm(self, run: Run, vm: AsyncVm) -> None:
        self._live[run.id] = run
        self._begun += 1
        if self._begun % _REMOVE_EVERY == 0:
            self._remove_old()
        run.add("run", {"run_id": run.id, "vm_id": vm.id, "agent_id": run.agent_id})

    async def _each(self, run: Run, vm: AsyncVm, text: str, options: Mapping[str, Any], current: list[Feed]) -> None:
        """Run the blocks one by one; the feed of each goes to `current`."""

        def begun(execution_id: str) -> None:
            current.append(Feed(execution_id, vm.id, run.agent_id))
            self._work.begin(current[-1])
            run.add("begun", {"execution_id": execution_id, "vm_id": vm.id})

        def wrote(stream: Stream, data: bytes) -> None:
            current[-1].write(stream, data)

        def decided(number: int, decision: Decision) -> None:
            run.add("decision", decision_body(number, decision))

        told: dict[str, Any] = {"on_decision": decided, "on_begun": begun, "on_output": wrote}
        executions = self._box.run(text, vm, agent_id=run.agent_id, **told, **options)
        async with aclosing(executions):
            async for execution in executions:
                self._work.end(current[-1], execution)

    async def _end(self, run: Run, current: list[Feed], how: RewindboxError | None) -> None:
        if not run.journal and how is not None:
            run.refuse(how)
            return
        if current and not current[-1].is_over:
            self._work.end(current[-1], await self._work.outcome_of(current[-1]))
        if how is not None:
            run.add("error", problem(how))
        else:
            run.add("done", {"executions": len(current)})
        self._live.pop(run.id, None)

    async def events(self, run: Run, after: str | None) -> AsyncGenerator[Event, None]:
        """What happened after a place, and happens from now on. Raises InvalidArgument: it is no place in a run."""
        number, place = _parsed(after)
        return self._told(run, number, place)

    async def _told(self, run: Run, number: int, place: Place | None) -> AsyncGenerator[Event, None]:
        while True:
            await run.until(number + 1)
            if number >= len(run.journal):
                return
            entry = run.journal[number]
            if entry["kind"] != "begun":
                number += 1
                yield Event(entry["kind"], entry["data"], str(number))
                continue
            if place is None:
                yield Event("begun", entry["data"], f"{number}:{Place()}")
            async with aclosing(self._of_execution(entry["data"]["execution_id"], place or Place())) as events:
                async for event in events:
                    is_output = event.kind == "output"
                    data = {"execution_id": entry["data"]["execution_id"], **event.data}
                    yield Event(event.kind, data, f"{number}:{event.id}" if is_output else str(number + 1))
            number, place = number + 1, None

    async def _of_execution(self, execution_id: str, place: Place) -> AsyncGenerator[Event, None]:
        feed = self._work.feed(execution_id)
        try:
            events = feed.events(place) if feed else feeds.recorded(await self._box.execution(execution_id), place)
            async for event in events:
                yield event
        except RewindboxError as error:  # history is off: how it ended is told to those who were there
            yield feeds.ended(error)


def _parsed(after: str | None) -> tuple[int, Place | None]:
    if after is None:
        return 0, None
    match = _PLACE.fullmatch(after)
    if match is None:
        raise feeds.no_place()
    return int(match[1]), Place.parse(match[2]) if match[2] else None


def decision_body(number: int, decision: Decision) -> dict[str, Any]:
    """A decision as a client gets it."""
    block = decision.block
    return {
        "number": number,
        "language": block.language,
        "code": block.code,
        "execution_confidence": block.execution_confidence,
        "start_pos": block.start_pos,
        "end_pos": block.end_pos,
        "metadata": block.metadata,
        "skipped": decision.skipped,
        "path": decision.path,
    }
