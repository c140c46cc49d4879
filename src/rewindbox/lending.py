"""The pool through the synchronous door: its names without `await`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rewindbox.choosing import PoolStats
from rewindbox.door import Rewindbox, Vm
from rewindbox.pool import Pool as AsyncPool
from rewindbox.remote import RemotePool


class Pool:
    """The vms of a box's pool; see `pool.Pool`."""

    def __init__(self, box: Rewindbox, inner: AsyncPool | RemotePool) -> None:
        self._box, self.inner = box, inner

    @contextmanager
    def vm(self, agent_id: str | None = None, *, vm_id: str | None = None, wait_s: float | None = None) -> Iterator[Vm]:
        """A vm for an agent, given back at the end of the block; see `pool.Pool.lease`."""
        leased: Any = self._box.call(self.inner.lease, agent_id, vm_id=vm_id, wait_s=wait_s)
        try:
            yield Vm(self._box, leased)
        finally:
            self._box.call(self.inner.give_back, leased)

    def upkeep(self) -> None:
        """See `pool.Pool.upkeep`."""
        self._box.call(self.inner.upkeep)

    def stats(self) -> PoolStats:
        """See `pool.Pool.stats`."""
        return self._box.call(self.inner.stats)
