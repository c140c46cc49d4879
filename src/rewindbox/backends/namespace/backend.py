"""The namespace backend: starts vms out of Linux namespaces, as root or as an ordinary user."""

import os
import socket
import subprocess
from collections.abc import Sequence
from typing import Any

import anyio.to_thread

from rewindbox.backends.base import CHECKPOINTS, State, Usage
from rewindbox.backends.namespace import ground, hosts, link, starting, trees
from rewindbox.backends.namespace.orders import find_first
from rewindbox.backends.namespace.vm import NamespaceVm
from rewindbox.errors import VmDamaged
from rewindbox.language import Table
from rewindbox.languages import LANGUAGES
from rewindbox.limits import Barrier, LimitReport


class NamespaceBackend:
    """Makes vms out of Linux namespaces, as root or as an ordinary user."""

    name = "namespace"

    def __init__(
        self,
        folder: str,
        *,
        spare: bool = True,
        checkpoints: tuple[int, int] = CHECKPOINTS,
        require: Sequence[str] = (),
    ) -> None:
        """`folder` holds the files of all vms. Made when missing; nothing is started yet.

        `spare`: keep a machine ready after each that was used, so that the next vm is there at once.
        `checkpoints`: how many a vm keeps of those that nobody has named, and MiB that all may take.
        `require`: barriers and hard limits without which no vm is started, see `limits.REQUIREMENTS`.
        """
        self.folder, self._checkpoints, self._require = folder, checkpoints, list(require)
        self._spare = spare
        self._launcher: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._vms: dict[str, NamespaceVm] = {}

    def warm(self) -> None:
        """Start the launcher, without waiting for it."""
        if self._launcher is not None and self._launcher.poll() is None:
            return
        self._launcher, self._link = starting.take(self.folder, spare=self._spare)

    async def create(self, vm_id: str, live: State | None = None, point: State | None = None) -> NamespaceVm:
        """See `Backend.create`. `point`: the state that `live` is known to be exactly."""
        if live is None and vm_id in self._vms:
            return self._vms[vm_id]
        request = {"vm": vm_id, "live": live, "point": point, "checkpoints": self._checkpoints}
        answer, ours = await self._machine({**request, "require": self._require})
        vm = NamespaceVm(vm_id, ours, answer["live"], self._forget)
        self._vms[vm_id] = vm
        return vm

    async def _machine(
        self, request: dict[str, Any], *, may_try_again: bool = True
    ) -> tuple[dict[str, Any], socket.socket]:
        """What the supervisor of a new machine answers, and the socket by which it is held."""
        self.warm()
        assert self._link is not None and self._launcher is not None
        ours, theirs = link.pair()
        try:
            with theirs:
                answer, _ = await link.ask(self._link, request, [theirs.fileno()])
        except BaseException as error:
            ours.close()
            if isinstance(error, link.Failed):
                raise self._not_started(str(request["vm"]), error) from error
            if isinstance(error, link.LinkBroken):
                if may_try_again and self._launcher.poll() is None:  # the machine that was ready has died since
                    return await self._machine(request, may_try_again=False)
                raise hosts.launcher_died(self._launcher) from error
            raise
        return answer, ours

    async def destroy(self, vm_id: str) -> None:
        """See `Backend.destroy`."""
        if vm_id in self._vms:
            await self._vms[vm_id].stop()
        path = os.path.join(self.folder, vm_id)
        await anyio.to_thread.run_sync(trees.delete, path)

    def programs(self, languages: Table = LANGUAGES) -> dict[str, str | None]:
        """See `Backend.programs`. A vm has the host's /usr, and nothing else of the host."""
        return {name: find_first(language.programs) for name, language in languages.items()}

    async def answers(self, vm_id: str) -> bool:
        """See `Backend.answers`."""
        if vm_id not in self._vms:
            return False
        await self._vms[vm_id].list("/")
        return True

    async def usage(self, vm_id: str) -> Usage | None:
        """See `Backend.usage`."""
        return await self._vms[vm_id].usage() if vm_id in self._vms else None

    async def limits(self) -> Sequence[LimitReport]:
        """See `Backend.limits`."""
        return hosts.limit_reports((await self._defences())["limits"])

    async def barriers(self) -> Sequence[Barrier]:
        """See `Backend.barriers`."""
        found = (await self._defences())["barriers"]
        return [Barrier(name=name, stands=stands, text=text) for name, (stands, text) in found.items()]

    async def _defences(self) -> dict[str, Any]:
        """What a machine of this host holds, tried on one that is made for it."""
        answer, ours = await self._machine({"vm": None})
        ours.close()
        return answer

    async def close(self) -> None:
        """See `Backend.close`."""
        for vm in list(self._vms.values()):
            await vm.stop()
        if self._link is not None:
            self._link.close()
        if self._launcher is not None:
            await anyio.to_thread.run_sync(self._launcher.wait)
            await anyio.to_thread.run_sync(ground.sweep)
        self._launcher = self._link = None

    def _forget(self, vm_id: str) -> None:
        self._vms.pop(vm_id, None)

    def _not_started(self, vm_id: str, failure: link.Failed) -> Exception:
        if failure.kind == "damaged":
            return VmDamaged(f"{vm_id}: {failure}", remedy="roll it back to a kept point, or remove it")
        if failure.kind == "unmet":
            return hosts.unmet(self._require, str(failure))
        return hosts.explain(failure.answer)
