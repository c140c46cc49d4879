"""The pool through the synchronous door: its names without `await`."""

from collections.abc import Iterator
from contextlib import contextmanager

from rewindbox.door import Rewindbox, Vm
from rewindbox.pool import Pool as AsyncPool
from rewindbox.pool import PoolStats


class Pool:
    """The vms of a box's pool; see `pool.Pool`."""

    def __init__(self, box: Rewindbox, inner: AsyncPool) -> None:
        self._box, self.inner = box, inner

    @contextmanager
    def vm(self, agent_id: str | None = None, *, vm_id: str | None = None, wait_s: float | None = None) -> Iterator[Vm]:
        """A vm for an agent, given back at the end of the block; see `pool.Pool.lease`."""
        leased = Vm(self._box, self._box.call(self.inner.lease, agent_id, vm_id=vm_id, wait_s=wait_s))
        try:
            yield leased
        finally:
            self._box.call(self.inner.give_back, leased.inner)

    def upkeep(self) -> None:
        """See `pool.Pool.upkeep`."""
        self._box.call(self.inner.upkeep)

    def stats(self) -> PoolStats:
        """See `pool.Pool.stats`."""
        return self.inner.stats()
