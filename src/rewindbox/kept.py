"""Vms that a keeper holds, seen from another process: the same names as `AsyncVm`, asked over the keeper's socket."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import anyio
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from rewindbox import holders, wire
from rewindbox.backends.base import FileInfo, OnOutput
from rewindbox.errors import ConnectionFailed, InvalidArgument
from rewindbox.execution import Execution
from rewindbox.history import HistoryPage
from rewindbox.opened import Opened, hold, make_folder
from rewindbox.points import Point, Rollback, Snapshot
from rewindbox.preview import Preview
from rewindbox.registry import VmRecord
from rewindbox.session import AsyncSession
from rewindbox.stdin import Stdin

CALLS = (
    *("execute", "point", "rollback", "rollback_to_last_success", "snapshot", "session", "end_session", "live_points"),
    *("read", "write", "list", "stop", "remove", "put_files_back", "preview"),
)
"""What may be asked of a vm."""
_NAME = "keeper"
_START_S = 20.0


class KeptVm:
    """A vm that the keeper of its store holds, or is to hold; see `AsyncVm`."""

    def __init__(self, opened: Opened, record: VmRecord) -> None:
        self.id, self.name = record.id, record.name
        self._open = opened

    def __repr__(self) -> str:
        return f"<vm {self.name} {self.id}>"

    @property
    def record(self) -> VmRecord:
        """See `AsyncVm.record`."""
        return self._open.registry.find(self.id, removed=True)

    async def look(self) -> VmRecord:
        """See `AsyncVm.look`."""
        return self.record

    @property
    def is_running(self) -> bool:
        """See `AsyncVm.is_running`."""
        return holds(self._open.folder, self.id)

    async def execute(
        self,
        language: str,
        code: str,
        *,
        on_output: OnOutput | None = None,
        on_begun: Callable[[str], None] | None = None,
        **options: Any,
    ) -> Execution:
        """See `AsyncVm.execute`. Raises InvalidArgument, too: its standard input is to be written meanwhile."""
        if isinstance(options.get("stdin"), Stdin):
            raise InvalidArgument(f"{self.name} is held by the keeper, which takes input whole", remedy="give it whole")
        done: Execution = await self._ask("execute", on_output, on_begun, language=language, code=code, **options)
        return done

    async def session(self, language: str = "python", name: str = "main") -> AsyncSession:
        """See `AsyncVm.session`."""
        await self._ask("session", language=language, name=name)
        return AsyncSession(self, language, name)

    async def end_session(self, name: str, language: str = "python") -> None:
        """See `AsyncVm.end_session`."""
        await self._ask("end_session", name=name, language=language)

    async def live_points(self) -> frozenset[str]:
        """See `AsyncVm.live_points`."""
        return frozenset(await self._ask("live_points"))

    async def rollback(self, to: str | Execution | Snapshot | Point, **options: Any) -> Rollback:
        """See `AsyncVm.rollback`."""
        done: Rollback = await self._ask("rollback", to=to, **options)
        return done

    async def rollback_to_last_success(self, **options: Any) -> Rollback:
        """See `AsyncVm.rollback_to_last_success`."""
        done: Rollback = await self._ask("rollback_to_last_success", **options)
        return done

    async def preview(self, to: str | Execution | Snapshot | Point | None = None, *, files: bool = True) -> Preview:
        """See `AsyncVm.preview`."""
        seen: Preview = await self._ask("preview", to=to, files=files)
        return seen

    async def put_files_back(self, target: Point) -> None:
        """See `AsyncVm.put_files_back`."""
        await self._ask("put_files_back", target=target)

    async def snapshot(self, name: str | None = None, **options: Any) -> Snapshot:
        """See `AsyncVm.snapshot`."""
        made: Snapshot = await self._ask("snapshot", name=name, **options)
        return made

    async def point(self, to: str | Execution | Snapshot | Point | None = None) -> Point:
        """See `AsyncVm.point`."""
        found: Point = await self._ask("point", to=to)
        return found

    async def points(self, *, newer_than: str | None = None, limit: int | None = None) -> list[Point]:
        """See `AsyncVm.points`."""
        return self._open.timeline.points(self.id, newer_than=newer_than, limit=limit)

    async def snapshots(self) -> list[Snapshot]:
        """See `AsyncVm.snapshots`."""
        return self._open.timeline.list_snapshots(self.id)

    async def remove_snapshot(self, ref: str) -> Snapshot:
        """See `AsyncVm.remove_snapshot`."""
        with self._open.store.transaction() as tx:
            return self._open.timeline.remove_snapshot(tx, self.id, ref)

    async def history(self, **query: Any) -> HistoryPage:
        """See `AsyncVm.history`."""
        return await self._open.page(self.id, **query)

    async def read(self, path: str, *, max_bytes: int = 64 << 20) -> bytes:
        """See `AsyncVm.read`."""
        data: bytes = await self._ask("read", path=path, max_bytes=max_bytes)
        return data

    async def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """See `AsyncVm.write`."""
        await self._ask("write", path=path, data=data, mode=mode)

    async def list(self, path: str = ".") -> Sequence[FileInfo]:
        """See `AsyncVm.list`."""
        found: Sequence[FileInfo] = await self._ask("list", path=path)
        return found

    async def stop(self, *, reason: str = "stopped") -> None:
        """See `AsyncVm.stop`."""
        await self._ask("stop", reason=reason)

    async def remove(self) -> None:
        """See `AsyncVm.remove`."""
        await self._ask("remove")

    async def _ask(
        self,
        call: str,
        on_output: OnOutput | None = None,
        on_begun: Callable[[str], None] | None = None,
        **arguments: Any,
    ) -> Any:
        given = {name: value for name, value in arguments.items() if value is not None}
        async with await _connected(self._open.folder) as stream:
            await wire.send(stream, {"call": call, "vm": self.id, "arguments": given})
            try:
                return await _answer(stream, on_output, on_begun)
            except BaseException:
                with anyio.CancelScope(shield=True), suppress(Exception), anyio.move_on_after(_START_S):
                    await stream.send_eof()
                    await _answer(stream, None)  # it is ended in order, and written down
                raise


async def _answer(
    stream: SocketStream, on_output: OnOutput | None, on_begun: Callable[[str], None] | None = None
) -> Any:
    incoming = BufferedByteReceiveStream(stream)
    while True:
        try:
            told = await wire.receive(incoming)
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError) as error:
            raise ConnectionFailed("the keeper of live sessions ended", remedy="try again") from error
        if "error" in told:
            raise wire.error_of_value(told["error"])
        if "result" in told:
            return told["result"]
        if on_begun is not None and "begun" in told:
            on_begun(told["begun"])
        if on_output is not None and "output" in told:
            on_output(told["output"], told["data"])


def holds(folder: str, vm_id: str) -> bool:
    """Whether the keeper of the store has the vm."""
    found = holders.find(folder)
    return vm_id in found and found[vm_id] == found.get(_NAME)


async def held(folder: str) -> dict[str, list[str]]:
    """The vms that the keeper has -> their live sessions; empty without a keeper."""
    if _NAME not in holders.find(folder):
        return {}
    try:
        async with await _connect(folder) as stream:
            await wire.send(stream, {"call": "held"})
            found: dict[str, list[str]] = await _answer(stream, None)
            return found
    except (OSError, ConnectionFailed):  # it is just ending
        return {}


async def _connected(folder: str) -> SocketStream:
    """A connection to the keeper, which is started if there is none."""
    for _ in range(3):
        with suppress(OSError):
            return await _connect(folder)
        await anyio.to_thread.run_sync(_start, folder)
    return await _connect(folder)


async def _connect(folder: str) -> SocketStream:
    with _short(folder) as path:
        return await anyio.connect_unix(path)


def _start(folder: str) -> None:
    """Start a keeper, and wait until it listens."""
    reader, writer = os.pipe()
    with open(reader, "rb") as told:
        starter = subprocess.Popen(
            [sys.executable, "-P", "-m", "rewindbox.keeper", folder, str(writer)],  # nothing of the current folder
            pass_fds=[writer],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None if os.environ.get("REWINDBOX_DEBUG") else subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(writer)
        starter.wait()
        text = told.read().decode()
    if text != "ready":
        raise ConnectionFailed(f"the keeper of live sessions did not start: {text or 'it ended'}")


@asynccontextmanager
async def listening(folder: str) -> AsyncIterator[Any]:
    """A listener at the keeper's socket."""
    with _short(folder) as path:
        with suppress(FileNotFoundError):
            os.unlink(path)
        listener = await anyio.create_unix_listener(path, mode=0o600)
    try:
        async with listener:
            yield listener
    finally:
        with _short(folder) as path, suppress(FileNotFoundError):
            os.unlink(path)


@contextmanager
def _short(folder: str) -> Iterator[str]:
    """The socket's path by way of an open folder: an address has room for 107 characters."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{_NAME}.sock"
    finally:
        os.close(descriptor)


def claim(folder: str) -> int | None:
    """Be the keeper of the store, as long as the descriptor is open; None: there is one."""
    make_folder(folder)
    return hold(folder, _NAME)
