"""What is open while a Rewindbox is: its backend, its store, and the claims on vms that it holds."""

import fcntl
import os
from typing import Any

from rewindbox import backends, config
from rewindbox.errors import HistoryError, VmBusy
from rewindbox.history import History, HistoryPage
from rewindbox.registry import Registry, VmRecord
from rewindbox.store import Store
from rewindbox.timeline import Timeline


class Opened:
    """What is open while a Rewindbox is."""

    def __init__(self, settings: config.Settings, folder: str, *, in_memory: bool) -> None:
        self.settings, self.folder = settings, folder
        self.backend = backends.load(
            settings.backend,
            os.path.join(folder, "vms"),
            spare=settings.vm_pool_size > 0,
            checkpoints=(settings.session_checkpoints, settings.session_checkpoints_mib),
            require=settings.require,
        )
        _make_folder(folder)
        self.store = Store(None if in_memory else os.path.join(folder, "history.db"))
        self.registry, self.history, self.timeline = (
            Registry(self.store),
            History(self.store),
            Timeline(self.store),
        )

    def page(self, vm_id: str | None, *, language: str | None = None, **query: Any) -> HistoryPage:
        """See `History.query`; the language by its name or an alias."""
        name = None if language is None else self.settings.languages.canonical(language)
        return self.history.query(vm_id=vm_id, language=name, **query)


def _make_folder(folder: str) -> None:
    try:
        os.makedirs(os.path.join(folder, "locks"), mode=0o700, exist_ok=True)
    except OSError as error:
        raise HistoryError(
            f"the store {folder} cannot be made: {error.strerror}",
            remedy="choose another with REWINDBOX_STORE",
        ) from error


def lock_path(folder: str, name: str) -> str:
    """The file that whoever has a vm holds a lock of."""
    return os.path.join(folder, "locks", name)


def claim(folder: str, record: VmRecord) -> int:
    """Hold the vm for this process. Raises VmBusy: another one does."""
    descriptor = hold(folder, record.id)
    if descriptor is None:
        with open(lock_path(folder, record.id), encoding="ascii", errors="replace") as file:
            holder = file.read(32).strip() or "another process"
        raise VmBusy(f"{record.name} is in use by process {holder}", remedy="wait for it, or use another vm")
    return descriptor


def hold(folder: str, name: str) -> int | None:
    """Hold the lock of this name, with our pid in it, until the descriptor is closed; None: another process does."""
    descriptor = os.open(lock_path(folder, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor
