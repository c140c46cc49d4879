"""What a vm stands on while this process has it: its processes, its tip, and the claim on its files."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from rewindbox.backends.base import BackendVm, State, Taken, WentBack
from rewindbox.errors import VmDamaged
from rewindbox.opened import Opened, claim
from rewindbox.points import Point
from rewindbox.recorder import note_lost_sessions, recover, write_point
from rewindbox.registry import VmRecord

_SWEEP_EVERY = 20
"""Dropped points and rollbacks between two sweeps of a vm's folder."""


class Standing:
    """Of one vm. Who calls what may start, move or end it has the turn in the vm's queue."""

    def __init__(self, opened: Opened, vm_id: str) -> None:
        self._open, self._vm_id = opened, vm_id
        self.running: BackendVm | None = None
        self.tip: Point | None = None
        self.sessions: set[str] = set()
        """The names of its live sessions. Always this set: the vm shows it."""
        self._claim: int | None = None
        self._dropped = 0

    async def start(self) -> tuple[BackendVm, Point]:
        """The running vm and the point it stands on; starts it when it is not running."""
        if self.running is not None and self.tip is not None:
            return self.running, self.tip
        record = self._open.registry.find(self._vm_id)
        tip = self._open.timeline.get_point(record.tip) if record.tip else None
        return await self._start_on(record, record.live, tip)

    async def start_anyhow(self) -> tuple[BackendVm, Point]:
        """As `start`; on no files at all where its own are damaged: it is about to get those of a point."""
        try:
            return await self.start()
        except VmDamaged:
            record = self._open.registry.find(self._vm_id)
            if record.tip is None:
                raise
            return await self._start_on(record, None, self._open.timeline.get_point(record.tip))

    async def _start_on(self, record: VmRecord, live: State | None, tip: Point | None) -> tuple[BackendVm, Point]:
        """Start on the files of `live`, which are those of `tip`; None: on none."""
        self.claim(record)
        note_lost_sessions(self._open, self._vm_id, tip)
        with anyio.CancelScope(shield=True):
            async with self.stopped_on_failure():
                self.running = await self._open.backend.create(self._vm_id, live, tip.state if live and tip else None)
                if tip is None:
                    self.tip = self._add_point(await self.running.take_point(), parent=None)
                else:
                    self.tip = await recover(self._open, self.running, tip)
                if live:
                    self.running.sweep(self._open.timeline.kept_states(self._vm_id))  # what a crash left behind
        assert self.running is not None and self.tip is not None
        return self.running, self.tip

    def claim(self, record: VmRecord) -> None:
        """Hold the vm for this process, until it is stopped. Idempotent. Raises VmBusy: another one does."""
        if self._claim is None:
            self._claim = claim(self._open.folder, record)

    async def stop(self, reason: str = "stopped") -> None:
        """End its processes, and for history say the `reason`; files and history stay. Idempotent."""
        if self.running is not None:
            await self.running.stop()
        self.running = self.tip = None
        if self.sessions:
            ended = tuple(self.sessions)
            self.sessions.clear()
            with self._open.store.transaction() as tx:
                self._open.registry.note_sessions_ended(tx, self._vm_id, ended, reason)
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    @asynccontextmanager
    async def stopped_on_failure(self) -> AsyncIterator[None]:
        """What the vm stands on could not be written down: its next start is from what was."""
        try:
            yield
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.stop()
            raise

    async def go_to(self, vm: BackendVm, state: State) -> WentBack:
        """Put files and sessions back; what it stands on then is the caller's to write down."""
        back = await vm.go_to(state)
        self.sessions.clear()
        self.sessions.update(back.sessions)
        return back

    async def leave_point(self, vm: BackendVm, tip: Point) -> None:
        """Take a point that belongs to no execution."""
        taken = await vm.take_point()
        async with self.stopped_on_failure():
            self.tip = self._add_point(taken, parent=tip)

    def _add_point(self, taken: Taken, parent: Point | None) -> Point:
        with self._open.store.transaction() as tx:
            point = write_point(self._open, tx, self._vm_id, taken, parent.id if parent else None, None)
            self._open.registry.set_live(tx, self._vm_id, taken.live, tip=point.id)
        return point

    def sweep(self, vm: BackendVm, dropped: int) -> None:
        """Delete layers that no point needs, once there may be enough of them."""
        self._dropped += dropped
        if self._dropped >= _SWEEP_EVERY:
            self._dropped = 0
            with self._open.store.transaction() as tx:  # points between two writes, say, or of a removed snapshot
                self._open.timeline.drop_states(tx, self._open.history.needless(self._vm_id))
            vm.sweep(self._open.timeline.kept_states(self._vm_id))
