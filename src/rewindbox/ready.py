"""Vms that are ready and nobody's: started, a python session begun, and unknown to history until somebody gets one.

A vm that dies so, or whose process does, leaves a folder and a lock that no row names: `sweep` finds them.
"""

import os
from contextlib import suppress

import anyio

from rewindbox.backends.base import BackendVm, Job
from rewindbox.errors import BadRequest, ExecutionFailed, RewindboxError, UnknownVm
from rewindbox.opened import Opened, hold, holding, lock_path
from rewindbox.registry import VmRecord

NAME = "pool-"
"""The names of vms that a pool has made begin so."""
_ANSWER_S = 5.0
"""A vm that does not answer within it is broken."""


class Ready:
    """The vms of one store that are nobody's."""

    def __init__(self, opened: Opened) -> None:
        self._open = opened
        self._held: dict[str, tuple[int, BackendVm]] = {}

    async def start(self, vm_id: str) -> None:
        """Start a new vm. Raises HostUnsupported."""
        claim = hold(self._open.folder, vm_id)
        assert claim is not None  # the id is new
        try:
            vm = await self._open.backend.create(vm_id)
        except BaseException:
            os.close(claim)
            raise
        self._held[vm_id] = claim, vm
        try:
            with suppress(BadRequest, ExecutionFailed):  # a host without python, sessions that `require` rules out
                await vm.begin_session(self._first_job(vm_id))
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.discard(vm_id)
            raise

    def _first_job(self, vm_id: str) -> Job:
        """What a session begins with that is the first to run something in its vm."""
        python = self._open.settings.languages.find("python")
        return Job(id=vm_id, language=python, code="", limits=self._open.settings.limits, session="main")

    def hand_out(self, vm_id: str, agent_id: str) -> VmRecord:
        """It is the agent's from now on: whoever opens it by its id finds it running. Raises TooManyVms: it is not."""
        record = record_new(self._open, vm_id, agent_id)
        claim, _ = self._held.pop(vm_id)
        os.close(claim)
        return record

    def has(self, vm_id: str) -> bool:
        """Whether it is here, and nobody's."""
        return vm_id in self._held

    async def discard(self, vm_id: str) -> None:
        """Stop it and delete what there is of it."""
        claim, vm = self._held.pop(vm_id)
        try:
            await vm.stop()
            await _forget(self._open, vm_id)
        finally:
            os.close(claim)


def name_of(vm_id: str) -> str:
    """What a vm that a pool makes is called."""
    return f"{NAME}{vm_id.removeprefix('vm_')[:12]}"


def record_new(opened: Opened, vm_id: str, agent_id: str) -> VmRecord:
    """Write down a vm of the pool. Raises TooManyVms: the agent has as many as it may."""
    kind = {"vm_type": "host", "backend": opened.settings.backend}
    most = opened.settings.vms_per_agent
    with opened.store.transaction() as tx:
        return opened.registry.create(tx, name_of(vm_id), **kind, agent_id=agent_id, vm_id=vm_id, at_most=most)


async def is_well(opened: Opened, vm_id: str) -> bool:
    """Whether a running vm answers, whatever runs in it."""
    try:
        with anyio.fail_after(_ANSWER_S):
            return await opened.backend.answers(vm_id)
    except (RewindboxError, TimeoutError):
        return False


async def sweep(opened: Opened) -> None:
    """Delete what is left of vms that were nobody's when their process died."""
    for name in os.listdir(os.path.dirname(lock_path(opened.folder, "any"))):
        if not name.startswith("vm_") or _is_known(opened, name):
            continue
        with holding(opened.folder, name) as is_ours:
            if is_ours and not _is_known(opened, name):  # or it was handed out just now
                await _forget(opened, name)


async def _forget(opened: Opened, vm_id: str) -> None:
    await opened.backend.destroy(vm_id)
    with suppress(FileNotFoundError):
        os.unlink(lock_path(opened.folder, vm_id))


def _is_known(opened: Opened, vm_id: str) -> bool:
    try:
        return bool(opened.registry.find(vm_id, removed=True))
    except UnknownVm:
        return False
