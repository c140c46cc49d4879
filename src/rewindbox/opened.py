"""What is open while a Rewindbox is: its backend, its store, and the claims on vms that it holds."""

import errno
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from rewindbox import backends, config
from rewindbox.errors import HistoryError, RewindboxError, UnknownVm, VmBusy
from rewindbox.execution import Execution
from rewindbox.history import History, HistoryPage
from rewindbox.registry import Registry, VmRecord
from rewindbox.store import Store
from rewindbox.timeline import Timeline

T = TypeVar("T")
_FEW_CHARS = 4_000
_TEMPORARY = "rewindbox-temporary-"
_OWNER = "owner"


class Opened:
    """What is open while a Rewindbox is: by its settings, a folder that stays or one that goes with it."""

    def __init__(self, settings: config.Settings) -> None:
        self._temporary = None if settings.history.persist_history else TemporaryStore()
        self.settings, self.folder = settings, self._temporary.folder if self._temporary else settings.folder
        with ExitStack() as undo:
            undo.callback(self._remove_temporary)
            self.backend = backends.load(
                settings.backend,
                os.path.join(self.folder, "vms"),
                spare=settings.vm_pool_size > 0,
                checkpoints=(settings.session_checkpoints, settings.session_checkpoints_mib),
                require=settings.require,
            )
            make_folder(self.folder)
            self.store = Store(None if self.is_temporary else os.path.join(self.folder, "history.db"))
            self.registry, self.history, self.timeline = (
                Registry(self.store),
                History(self.store),
                Timeline(self.store),
            )
            undo.pop_all()

    @property
    def is_temporary(self) -> bool:
        """Nothing of it is there any more when it is closed."""
        return self._temporary is not None

    async def close(self) -> None:
        """End what it has started. Vms that somebody holds are stopped before."""
        await self.backend.close()
        self.store.close()
        self._remove_temporary()

    def _remove_temporary(self) -> None:
        if self._temporary is not None:
            self._temporary.remove()

    def find_or_create(self, name: str | None, agent_id: str | None, create: bool | None) -> VmRecord:
        """See `AsyncRewindbox.vm`."""
        if name is not None:
            try:
                return self.registry.find(name)
            except UnknownVm:
                allowed = self.settings.auto_provision if create is None else create
                if not allowed or name.startswith("vm_"):
                    raise
        with self.store.transaction() as tx:
            record, _ = self.registry.get_or_create(
                tx,
                name if name is not None else f"vm-{os.urandom(4).hex()}",
                vm_type="host",
                backend=self.settings.backend,
                agent_id=agent_id or self.settings.agent_id,
                at_most=self.settings.vms_per_agent,
            )
        return record

    async def page(self, vm_id: str | None, *, language: str | None = None, **query: Any) -> HistoryPage:
        """See `History.asking`; the language by its name or an alias."""
        name = None if language is None else self.settings.languages.canonical(language)
        return await self.aside(lambda history: history.query(vm_id=vm_id, language=name, **query))

    async def execution(self, ref: str, *, output: bool = True) -> Execution:
        """See `AsyncRewindbox.execution`. Without output it is found in this step; what is long is read aside."""
        if output and self.history.is_long(ref):
            return await self.aside(lambda history: history.get(ref))
        return self.history.get(ref, output=output)

    async def aside(self, ask: Callable[[History], T]) -> T:
        """Ask the history what may take long, in a thread and over a connection of its own: nobody waits meanwhile.

        What is only in memory has no second connection, and is asked here. Cancelling ends it soon.
        """
        path = self.store.path
        if path is None:
            return ask(self.history)
        opened: list[Store] = []

        def asked() -> T:
            if not os.path.exists(path):  # opening it would make an empty one
                raise HistoryError(f"{path} is gone", remedy="open the store again")
            with closing(Store(path)) as store:
                opened.append(store)
                return ask(History(store))

        try:
            return await anyio.to_thread.run_sync(asked, abandon_on_cancel=True)
        except anyio.get_cancelled_exc_class():
            for store in opened:
                store.interrupt()
            raise


async def beside(function: Callable[[], T], chars: int) -> T:
    """Do what takes the longer the more characters there are, in a thread if that is long: 3 us a character."""
    if chars <= _FEW_CHARS:  # a thread costs more
        return function()
    return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)


class TemporaryStore:
    """A folder that goes with its owner, a process: it holds a lock in it. What the dead have left is removed first."""

    def __init__(self) -> None:
        above = tempfile.gettempdir()
        _remove_left(above)
        made = tempfile.mkdtemp(prefix="rewindbox-new-", dir=above)
        os.mkdir(os.path.join(made, "locks"), mode=0o700)
        self._lock = hold(made, _OWNER)
        self.folder = os.path.join(above, _TEMPORARY + made.rpartition("-")[2])
        os.rename(made, self.folder)  # under this name it always has its lock

    def remove(self) -> None:
        """Delete it with all that is in it."""
        backends.delete(self.folder)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _remove_left(above: str) -> None:
    """Those of this user that no process holds, however old they are. What cannot be removed now stays."""
    for entry in os.scandir(above):
        if not entry.name.startswith(_TEMPORARY):
            continue
        with suppress(OSError, RewindboxError):
            if not entry.is_dir(follow_symlinks=False) or entry.stat(follow_symlinks=False).st_uid != os.geteuid():
                continue
            with holding(entry.path, _OWNER) as is_ours:
                if is_ours:
                    backends.delete(entry.path)


def make_folder(folder: str) -> None:
    """That of a store, and of its locks, for its owner only. Raises HistoryError; ConfigError: it is another user's."""
    try:
        for name in ("", "locks"):  # the mode is that of the last folder made
            os.makedirs(os.path.join(folder, name), mode=0o700, exist_ok=True)
            config.check_owner(folder)
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
    path = lock_path(folder, name)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise HistoryError(
            f"the lock {path} is a link, to what is not ours to overwrite", remedy="look at who made it, and remove it"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


@contextmanager
def holding(folder: str, name: str) -> Iterator[bool]:
    """Hold a lock meanwhile; False: another process does."""
    descriptor = hold(folder, name)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)
