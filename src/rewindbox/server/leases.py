"""Leases: vms of the pool that clients hold from one request to another.

A client that is gone cannot give one back: whose vm nobody has asked anything of for a while, and in which nothing
goes on, is given back for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import anyio
from anyio import sleep

from rewindbox.errors import UnknownLease
from rewindbox.ids import new_id
from rewindbox.pool import Pool
from rewindbox.server import journal
from rewindbox.vm import AsyncVm, is_busy


@dataclass(eq=False, slots=True)
class Lease:
    """A vm that somebody holds."""

    id: str
    agent_id: str
    vm: AsyncVm
    used_s: float
    """The second of the monotonic clock at which somebody last asked for the vm."""


class Leases:
    """Those of one server."""

    def __init__(self, pool: Pool, unused_s: float) -> None:
        """`unused_s`: so long unused, one is given back; at the latest a quarter of it later."""
        self._pool, self._unused_s = pool, unused_s
        self._held: dict[str, Lease] = {}

    async def begin(
        self, agent_id: str, vm_id: str | None, wait_s: float | None = None, *, lease_id: str | None = None
    ) -> Lease:
        """Hold a vm. Raises as `Pool.lease`.

        `lease_id`: by which it is held, once, however often that is asked for; None: by a new one.
        """
        vm = await self._pool.lease(agent_id, vm_id=vm_id, wait_s=wait_s)
        lease = Lease(lease_id or new_id("lease"), agent_id, vm, monotonic())
        first = self._held.setdefault(lease.id, lease)
        if first is not lease:
            with anyio.CancelScope(shield=True):
                await self._pool.give_back(vm)
        return first

    def find(self, lease_id: str, sees: Callable[[str], bool]) -> Lease:
        """Raises UnknownLease: none has that id, or it is for an agent that the caller does not see."""
        found = self._held.get(lease_id)
        if found is None or not sees(found.agent_id):
            text = f"nobody holds a vm by the id {lease_id[:80]!a}"
            raise UnknownLease(text, remedy="it was given back, or not used for long: ask for another")
        return found

    async def end(self, lease: Lease) -> None:
        """Give the vm back. Idempotent."""
        if self._held.pop(lease.id, None) is not None:
            with anyio.CancelScope(shield=True):
                await self._pool.give_back(lease.vm)

    def used(self, vm_id: str) -> None:
        """Somebody has asked for that vm."""
        for lease in self._held.values():
            if lease.vm.id == vm_id:
                lease.used_s = monotonic()

    async def keep(self) -> None:
        """Give back what is not used, until cancelled."""
        while True:
            await sleep(self._unused_s / 4)
            for lease in list(self._held.values()):
                if is_busy(lease.vm):
                    self.used(lease.vm.id)
                elif monotonic() - lease.used_s >= self._unused_s:
                    await self._expire(lease)

    async def _expire(self, lease: Lease) -> None:
        journal.note("lease_expired", vm_id=lease.vm.id, agent_id=lease.agent_id)
        try:
            await self.end(lease)
        except Exception as error:
            journal.unexpected(error)  # one vm must not take the others with it
