"""The pool: vms that are ready before they are asked for, and a bound on how many run. Read `Pool.lease` first.

An agent gets its own vm back, with its files and sessions, while that is young enough; nobody else ever gets it.
What the pool stops keeps files and history, and is found by its name or id as any vm is. `choosing.py` decides,
`ready.py` has the vms that are nobody's.
"""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial

import anyio

from rewindbox.backends.base import Usage
from rewindbox.choosing import Choice, Counts, Member, PoolStats, State, choose, choose_named, is_old, upkeep
from rewindbox.errors import BadRequest, PoolFull, RewindboxError, UnknownVm, VmBusy, VmDamaged, VmNotAvailable
from rewindbox.ids import new_id
from rewindbox.meanwhile import lent
from rewindbox.opened import Opened
from rewindbox.ready import NAME, Ready, is_well, name_of, record_new, sweep
from rewindbox.registry import VmRecord
from rewindbox.vm import AsyncVm, is_busy


@dataclass(eq=False, slots=True)
class _Request:
    """An agent that wants a vm, and what was chosen for it."""

    agent_id: str
    vm_id: str | None
    done: anyio.Event = field(default_factory=anyio.Event)
    granted: "_Granted | None" = None


@dataclass(frozen=True, slots=True)
class _Granted:
    """What was chosen for an agent, and reserved."""

    agent_id: str
    found: str
    """Which of `Counts`."""
    member: Member
    evicted: Member | None
    """To be stopped first."""


class Pool:
    """The vms that run on account of one box's pool. One event loop uses it."""

    def __init__(self, opened: Opened, find: Callable[[VmRecord], AsyncVm]) -> None:
        """`find`: the vm of a record. Nothing is started yet."""
        self._open, self._find, self._settings = opened, find, opened.settings
        self._ready = Ready(opened)
        self._members: dict[str, Member] = {}
        self._vms: dict[str, AsyncVm] = {}
        self._requests: list[_Request] = []
        self._shunned: set[str] = set()
        """Vms of agents that cannot be started: damaged, removed, or another process has them."""
        self._changed = anyio.Event()
        self._asked_s = time.monotonic()
        self._is_swept = self._is_closed = False
        self._problem: str | None = None
        self._counts = Counts()

    def vm(
        self, agent_id: str | None = None, *, vm_id: str | None = None, wait_s: float | None = None
    ) -> AbstractAsyncContextManager[AsyncVm]:
        """A vm for an agent, given back at the end of the block; see `lease`."""
        return lent(partial(self.lease, agent_id, vm_id=vm_id, wait_s=wait_s), self.give_back)

    async def lease(
        self, agent_id: str | None = None, *, vm_id: str | None = None, wait_s: float | None = None
    ) -> AsyncVm:
        """A vm that is running, and that nobody else gets unless they name it, until it is given back.

        The agent's own where it is young enough, else a ready one, else a new one. Its python session `main` may
        have begun, with the limits of the box.

        Args:
            agent_id: Whose; None: the box's.
            vm_id: The whole id of a vm, the pool's or not: that one, which others who name it may have as well.
            wait_s: How long to wait while all are in use; None: `pool.wait_s`.

        Raises:
            PoolFull: none was given back in time.
            TooManyVms: the agent has `vms_per_agent` of them, and none that the pool has made and that is not in use.
            UnknownVm, VmBusy, VmDamaged: of the one that was named.
            HostUnsupported, VmNotAvailable: it cannot be started.
        """
        who = agent_id or self._settings.agent_id
        deadline = anyio.current_time() + (self._settings.pool.wait_s if wait_s is None else wait_s)
        while True:
            granted = await self._chosen(_Request(who, vm_id), deadline)
            try:
                return await self._carry_out(granted)
            except BaseException as error:
                with anyio.CancelScope(shield=True):
                    await self._let_go(granted.member)
                is_unusable = isinstance(error, (UnknownVm, VmBusy, VmDamaged)) and granted.found in ("own", "started")
                if vm_id is not None or not is_unusable:
                    raise
                self._shunned.add(granted.member.vm_id)

    async def _chosen(self, request: _Request, deadline: float) -> _Granted:
        """What the agent gets, reserved for it. Who came first is served first, as far as there is something."""
        self._asked_s = time.monotonic()
        self._requests.append(request)
        self._serve()
        try:
            with anyio.move_on_after(max(0.0, deadline - anyio.current_time())):
                await request.done.wait()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._withdraw(request)
            raise
        if request.granted is None:
            self._requests.remove(request)
            self._counts.refused += 1
            text = f"all {len(self._members)} vms are in use, or {request.agent_id} holds its share"
            raise PoolFull(text, remedy="give one back, try again later, or raise pool.max or pool.per_agent")
        return request.granted

    async def _withdraw(self, request: _Request) -> None:
        """It was cancelled, perhaps in the step in which it got something."""
        if request.granted is None:
            self._requests.remove(request)
            return
        await self._make_room(request.granted)
        await self._let_go(request.granted.member)

    async def _let_go(self, member: Member) -> None:
        """Of a vm that somebody did not get after all; one that is still nobody's is ready for the next."""
        member.uses -= 1
        if self._ready.has(member.vm_id):
            member.state, member.agent_id = "ready", None
            self._serve()
        elif not member.uses:
            await self._stop(member)

    def _serve(self) -> None:
        """Choose and reserve, without a pause between, for whoever waits."""
        for request in () if self._is_closed else list(self._requests):
            members, who, now_s = self._seen(), request.agent_id, time.monotonic()
            if request.vm_id is not None:
                choice = choose_named(members, who, request.vm_id, self._settings)
            else:
                choice = choose(members, who, self._own(who), self._settings, now_s)
            if choice is not None:
                request.granted = self._reserve(request.agent_id, choice, now_s)
                self._requests.remove(request)
                request.done.set()
        self._changed.set()

    def _seen(self) -> list[Member]:
        """The members as they are chosen from: one that rests and in which something goes on is not stopped."""
        for member in self._members.values():
            if member.vm_id in self._vms:
                member.is_busy = is_busy(self._vms[member.vm_id])
        return list(self._members.values())

    def _reserve(self, agent_id: str, choice: Choice, now_s: float) -> _Granted:
        evicted = self._members.get(choice.evicted or "")
        if evicted is not None:
            evicted.state = "leaving"
        member = self._members.get(choice.vm_id or "")
        if member is not None:
            found = "ready" if member.state == "ready" else "own"
        else:
            found = "new" if choice.vm_id is None else "started"
            member = Member(vm_id=choice.vm_id or new_id("vm"), state="leased", since_s=now_s, made_s=now_s)
            self._members[member.vm_id] = member
        member.agent_id = member.agent_id or agent_id
        member.state, member.since_s, member.uses = "leased", now_s, member.uses + 1
        return _Granted(agent_id, found, member, evicted)

    async def _make_room(self, granted: _Granted) -> None:
        if granted.evicted is not None and granted.evicted.vm_id in self._members:
            self._counts.evicted += 1
            with anyio.CancelScope(shield=True):
                await self._stop(granted.evicted)

    async def _carry_out(self, granted: _Granted) -> AsyncVm:
        """Make room, and have the vm run."""
        member = granted.member
        try:
            await self._become_the_agents(granted)
        except BaseException:  # nothing is stopped for what there cannot be
            if granted.evicted is not None:
                granted.evicted.state = _unused(granted.evicted)
            raise
        await self._make_room(granted)
        vm = self._vms[member.vm_id] = self._find(self._open.registry.find(member.vm_id))
        if granted.found == "started":
            member.made_s = time.monotonic() - _age_s(vm.record)
        await self._have_run(vm)
        self._counts.leases += 1
        setattr(self._counts, granted.found, getattr(self._counts, granted.found) + 1)
        return vm

    async def _become_the_agents(self, granted: _Granted) -> None:
        """Write down that it is, where it was nobody's. Raises TooManyVms."""
        if granted.found in ("ready", "new"):
            await self._forget_oldest(granted.agent_id)
        if granted.found == "ready":
            self._ready.hand_out(granted.member.vm_id, granted.agent_id)
        elif granted.found == "new":
            record_new(self._open, granted.member.vm_id, granted.agent_id)

    async def _forget_oldest(self, agent_id: str) -> None:
        """Where an agent has as many vms as it may, the oldest that it does not get again makes room for a new one."""
        found = self._open.registry.list(agent_id=agent_id)
        if not 0 < self._settings.vms_per_agent <= len(found):
            return
        for record in found:
            if record.name != name_of(record.id) or record.id in self._members:
                continue
            vm = self._find(record)
            if not vm.is_running:  # or somebody uses it by its name
                with suppress(VmBusy, UnknownVm):  # another process does
                    await vm.remove()
                    return

    async def _have_run(self, vm: AsyncVm) -> None:
        """Start it where it does not run; anew, on the files of its last point, where it does not answer."""
        if vm.is_running and not await is_well(self._open, vm.id):
            self._counts.broken += 1
            await vm.stop(reason="it did not answer")
        if vm.is_running:
            return
        try:
            await vm.list("/")
        except BadRequest:
            raise
        except VmNotAvailable:
            self._counts.broken += 1
            await vm.stop(reason="it died")
            await vm.list("/")

    async def give_back(self, vm: AsyncVm) -> None:
        """The agent has no more use for it now. It rests, or is stopped where it is too old.

        Of a vm that several have: the last one. Call it once for each `lease`.
        """
        member = self._members.get(vm.id)
        if member is None or member.state != "leased":
            return
        member.uses -= 1
        if member.uses:
            return
        member.state, member.since_s = "resting", time.monotonic()
        worn = self._is_worn(vm.id) or is_old(member, self._settings, member.since_s)
        self._counts.recycled += worn
        if worn or not vm.is_running:
            await self._stop(member)
        self._serve()

    async def remove(self, vm_id: str) -> None:
        """Remove a vm, the pool's or not, when what runs in it has ended. Raises as `AsyncVm.remove`."""
        member = self._members.get(vm_id)
        before = member.state if member is not None else None
        if member is not None:
            member.state = "leaving"
        try:
            await self._find(self._open.registry.find(vm_id)).remove()
        except BaseException:
            if member is not None and before is not None:
                member.state = before
            raise
        if member is not None:
            self._drop(member)

    def holds(self, vm_id: str) -> bool:
        """Whether an agent has it now."""
        member = self._members.get(vm_id)
        return member is not None and member.state == "leased"

    def _is_worn(self, vm_id: str) -> bool:
        most = self._settings.pool.executions
        return most > 0 and self._open.history.query(vm_id=vm_id, limit=0).total >= most

    def _own(self, agent_id: str) -> str | None:
        """The agent's newest vm of the pool, if it is stopped and can be given out again."""
        for record in reversed(self._open.registry.list(agent_id=agent_id)):
            if record.name.startswith(NAME) and record.id not in self._members and record.id not in self._shunned:
                is_young = _age_s(record) < self._settings.pool.age_s
                return record.id if is_young and not self._is_worn(record.id) else None
        return None

    async def upkeep(self) -> None:
        """Stop what is not needed, make ready what is missing. Raises HostUnsupported."""
        if not self._is_swept:
            self._is_swept = True
            await sweep(self._open)
        now_s = time.monotonic()
        plan = upkeep(self._seen(), self._settings, now_s, self._asked_s)
        stopping = [self._members[vm_id] for vm_id in plan.stop]
        for member in stopping:
            member.state = "leaving"
        starting = [
            Member(vm_id=new_id("vm"), state="starting", since_s=now_s, made_s=now_s) for _ in range(plan.start)
        ]
        self._members |= {member.vm_id: member for member in starting}
        try:
            for member in stopping:
                await self._stop(member)
            for member in starting:
                await self._ready.start(member.vm_id)
                member.state, member.since_s = "ready", time.monotonic()
                self._serve()
        finally:  # where that failed, the rest is as it was
            for member in stopping:
                member.state = _unused(member)
            for member in starting:
                if member.state == "starting":
                    self._drop(member)

    async def check(self) -> None:
        """Ask each vm that nobody uses whether it is well; one that is not is given up, and its files stay."""
        for member in list(self._members.values()):
            if member.state not in ("ready", "resting"):
                continue
            if not await is_well(self._open, member.vm_id) and member.state in ("ready", "resting"):
                self._counts.broken += 1
                member.state = "leaving"
                await self._stop(member)

    async def keep(self) -> None:
        """Keep the pool as it is configured, until cancelled. What goes wrong is in `stats`, and tried again later."""
        health_s = self._settings.pool.health_s
        check_at = anyio.current_time() + health_s
        while True:
            self._changed, self._problem = anyio.Event(), None
            try:
                if anyio.current_time() >= check_at:
                    check_at = anyio.current_time() + health_s
                    await self.check()
                await self.upkeep()
            except (RewindboxError, OSError) as error:
                self._problem = str(error)
                await anyio.sleep(health_s)
            with anyio.move_on_after(max(0.0, check_at - anyio.current_time())):
                await self._changed.wait()

    async def usage(self, vm_id: str) -> Usage | None:
        """What a vm of the box has of the host now; None: it does not run here, or was stopped meanwhile."""
        try:
            return await self._open.backend.usage(vm_id)
        except VmNotAvailable:
            return None

    async def stats(self) -> PoolStats:
        """What it is now."""
        states = [member.state for member in self._members.values()]
        return PoolStats(
            starting=states.count("starting"),
            ready=states.count("ready"),
            leased=states.count("leased"),
            resting=states.count("resting"),
            leaving=states.count("leaving"),
            waiting=len(self._requests),
            max=self._settings.pool.max,
            counts=Counts(**asdict(self._counts)),
            problem=self._problem,
        )

    async def close(self) -> None:
        """Stop all of them; those that are nobody's are deleted, and whoever waits gets none. Idempotent."""
        self._is_closed = True
        for request in self._requests:
            request.done.set()
        for member in list(self._members.values()):
            member.state = "leaving"
            await self._stop(member)

    async def _stop(self, member: Member) -> None:
        """Stop it; where it is nobody's, delete it. Its room is free then, whatever came of it."""
        member.state = "leaving"
        try:
            if self._ready.has(member.vm_id):
                await self._ready.discard(member.vm_id)
            elif (vm := self._vms.get(member.vm_id)) is not None:
                await vm.stop(reason="the pool stopped it")
        finally:
            self._drop(member)

    def _drop(self, member: Member) -> None:
        self._members.pop(member.vm_id, None)
        self._vms.pop(member.vm_id, None)
        self._serve()


def _unused(member: Member) -> State:
    """What a vm is that was to be stopped, and is not."""
    return "ready" if member.agent_id is None else "resting"


def _age_s(record: VmRecord) -> float:
    return (datetime.now(UTC) - record.created_at).total_seconds()
