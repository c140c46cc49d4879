"""What one request may see: the vms and executions of its token's agent. Another agent's are not there: 404."""

from dataclasses import dataclass, fields
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from rewindbox.engine import AsyncRewindbox
from rewindbox.errors import InvalidArgument, Refused, TooManySnapshots, UnknownExecution, UnknownVm
from rewindbox.execution import Execution
from rewindbox.limits import Limits
from rewindbox.points import Snapshot
from rewindbox.registry import VmRecord
from rewindbox.server.bounds import Bounds
from rewindbox.server.leases import Leases
from rewindbox.server.metrics import Metrics
from rewindbox.server.readiness import Readiness
from rewindbox.server.runs import Runs
from rewindbox.server.tokens import Token
from rewindbox.server.turns import Turns
from rewindbox.server.work import Work
from rewindbox.vm import AsyncVm


@dataclass(frozen=True, slots=True)
class Service:
    """What the whole server shares."""

    box: AsyncRewindbox
    work: Work
    runs: Runs
    bounds: Bounds
    metrics: Metrics
    readiness: Readiness
    leases: Leases
    turns: Turns


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what of the service there is for them."""

    service: Service
    token: Token

    def agent(self, asked: str | None = None) -> str | None:
        """Who is to run: the token's agent, or without one whom the request names. Raises Refused: another one."""
        if self.token.agent is not None and asked not in (None, self.token.agent):
            raise Refused(f"this token is that of agent {self.token.agent!r}", remedy="leave `agent_id` out")
        return self.token.agent or asked

    def check_all(self, what: str) -> None:
        """Raises Refused: the token is an agent's, and `what` is about all of them or the host."""
        if self.token.agent is not None:
            raise Refused(what, remedy="use a token that is no agent's")

    def sees(self, agent_id: str) -> bool:
        """Whether what is this agent's is there for the caller."""
        return self.token.agent in (None, agent_id)

    async def vm(self, name_or_id: str) -> AsyncVm:
        """A vm that is there. Raises UnknownVm: none is, or it is another agent's; it does not say which."""
        try:
            vm = await self.service.box.vm(name_or_id, create=False)
            if self.sees(vm.record.agent_id):
                assert isinstance(vm, AsyncVm)  # we hold them ourselves
                self.service.leases.used(vm.id)
                return vm
        except UnknownVm:
            if self.token.agent is None:  # who sees all of them may be told more
                raise
        raise UnknownVm(f"no vm has the name or id {name_or_id!r}", remedy="`GET /v1/vms` shows them")

    async def new_vm(self, name: str | None, asked: str | None = None) -> tuple[AsyncVm, bool]:
        """The vm of that name or id, and whether it was made now.

        Raises InvalidArgument, UnknownVm: it is another agent's.
        """
        if name is not None:
            try:
                return await self.vm(name), False
            except UnknownVm:
                if name.startswith("vm_"):  # an id, which nobody chooses
                    raise
        if any(vm.name == name for vm in await self.service.box.vms()):
            raise InvalidArgument(f"the vm name {name!r} is taken", remedy="choose another")
        vm = await self.service.box.vm(name, agent_id=self.agent(asked), create=True)
        assert isinstance(vm, AsyncVm)
        return vm, True

    async def keep(self, vm: AsyncVm, name: str | None, agent_id: str | None) -> Snapshot:
        """A snapshot of what a vm is now. Raises TooManySnapshots, and as `AsyncVm.snapshot`."""
        kept = sum(snapshot.kind == "manual" for snapshot in await vm.snapshots())
        if kept >= self.service.bounds.snapshots:
            raise TooManySnapshots(f"vm {vm.name} has {kept} snapshots", remedy="remove some of them first")
        return await vm.snapshot(name, agent_id=self.agent(agent_id))

    async def vms(self) -> list[VmRecord]:
        """Those that are there, oldest first."""
        return [vm for vm in await self.service.box.vms() if self.sees(vm.agent_id)]

    async def execution(self, ref: str, *, output: bool = True) -> Execution:
        """One that has ended; `output`: as in `AsyncRewindbox.history`.

        Raises UnknownExecution: none has, or it is another agent's; it does not say which.
        """
        box = self.service.box
        try:
            found = await box.execution(ref, output=False)
            if self.sees(found.agent_id):
                return await box.execution(found.id) if output else found
        except UnknownExecution:
            if self.token.agent is None:
                raise
        raise UnknownExecution(f"no execution has the id {ref!r}", remedy="choose one that history lists")

    def limits(self, asked: dict[str, Any] | None) -> Limits | None:
        """The limits of an execution. Raises Refused: more than this server gives."""
        if not asked:
            return None
        most: Limits = self.service.box.settings.limits
        for name, value in asked.items():
            bound = self.service.bounds.wall_s if name in ("wall_s", "cpu_s") else getattr(most, name)
            if value > bound:
                raise Refused(f"limit {name} is {value:g}; at most {bound:g} here", remedy="ask for less")
        return Limits(**{field.name: getattr(most, field.name) for field in fields(Limits)} | asked)


def caller(connection: HTTPConnection) -> Caller:
    """Who asks, as the gate found it."""
    return Caller(connection.app.state.service, connection.scope["state"]["token"])


Who = Annotated[Caller, Depends(caller)]
