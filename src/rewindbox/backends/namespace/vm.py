"""One running vm, seen from the process that holds it.

This side is trusted. It never resolves a path inside a vm (the supervisor does, and hands over a descriptor)
and never waits for what the code promises (the supervisor's own wait decides that a job is over).
"""

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import anyio.to_thread

from rewindbox.backends.base import (
    Changes,
    FileChange,
    FileInfo,
    Job,
    OnOutput,
    Outcome,
    State,
    Taken,
    Usage,
    WentBack,
)
from rewindbox.backends.namespace import link, orders, shell
from rewindbox.backends.namespace.input import Input
from rewindbox.backends.namespace.output import Output
from rewindbox.errors import (
    BadRequest,
    ExecutionFailed,
    RollbackFailed,
    SnapshotFailed,
    UnknownFile,
    VmDamaged,
    VmNotAvailable,
)
from rewindbox.language import Language

_GO, _NO = 1, 2
"""What the event of an execution in a session says; see head.py."""
_SMALL_FILE_BYTES = 1 << 20
_STOP_S = 15.0
"""A supervisor that is not gone by then is on its way out: its socket is closed."""


class NamespaceVm:
    """One running vm."""

    def __init__(self, vm_id: str, control: socket.socket, live: State, on_stop: Callable[[str], None]) -> None:
        self.id = vm_id
        self.live = live
        self.interrupted: Outcome | None = None
        self._control = control
        self._late: dict[str, Any] = {}
        self._coming: socket.socket | None = None
        """Where the point that comes after the end of the last job comes, while nothing happened since."""
        self._stopped: anyio.Event | None = None
        self._on_stop = on_stop

    async def _ask(self, request: dict[str, Any], descriptors: Sequence[int] = ()) -> tuple[dict[str, Any], list[int]]:
        try:
            return await self._answer(link.begin(self._control, request, descriptors))
        except link.LinkBroken as broken:
            raise self._gone() from broken

    async def _answer(self, answering: socket.socket) -> tuple[dict[str, Any], list[int]]:
        try:
            return await link.answer(answering)
        except link.LinkBroken as broken:
            raise self._gone() from broken

    def _gone(self) -> VmNotAvailable:
        return VmNotAvailable(f"{self.id}: its supervisor is gone", remedy="open it again")

    async def execute(
        self,
        job: Job,
        on_output: OnOutput | None = None,
        *,
        on_ready: Callable[[], None] | None = None,
        on_begun: Callable[[], None] | None = None,
    ) -> Outcome:
        """See `BackendVm.execute`."""
        request = orders.order(job)
        await self._point_has_come()
        is_session = request["session"] is not None
        word = os.eventfd(0, os.EFD_CLOEXEC) if is_session else None
        more = [word] if word is not None else []
        try:
            with (
                Output(job.limits.output_bytes, on_output, self._flooded, displays=is_session) as output,
                Input(job.stdin) as given,
            ):
                answering = link.begin(self._control, request, [*output.writers, *given.readers, *more])
                given.sent()
                try:
                    await self._let_go(answering, word, on_ready)
                    answer = await self._over(answering, output, given, on_begun)
                except BaseException:
                    answering.close()
                    raise
                self._coming = answering
        except link.LinkBroken as broken:
            raise self._gone() from broken
        except link.Failed as failed:
            raise _not_run(failed) from failed
        except BaseException:
            self.interrupted = orders.outcome(job, self._late, output) if self._late else None
            raise
        finally:
            for descriptor in more:
                os.close(descriptor)
        return orders.outcome(job, answer, output)

    async def _let_go(self, answering: socket.socket, word: int | None, on_ready: Callable[[], None] | None) -> None:
        """The job is being made ready meanwhile, and starts at our word; at another word it ends unrun.

        A session, which waits by itself, has it from us: `word`.
        """
        try:
            if on_ready is not None:
                on_ready()
        except BaseException:
            with anyio.CancelScope(shield=True), contextlib.suppress(OSError, link.LinkBroken, link.Failed):
                _say(answering, b"no", word, _NO)
                await link.answer(answering)
            raise
        with contextlib.suppress(OSError):  # it was refused: the answer says why
            _say(answering, b"go %d" % time.monotonic_ns(), word, _GO)

    async def _over(
        self, answering: socket.socket, output: Output, given: Input, on_begun: Callable[[], None] | None
    ) -> dict[str, Any]:
        """What the supervisor says when the job is over. Cancelled: end it first, then go on with that."""
        self._late = {}
        try:
            if on_begun is not None:
                on_begun()
            await output.read_until(answering, given)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.cancel()
                self._late, _ = await link.answer(answering)
            raise
        return link.receive(answering)[0]

    def _flooded(self) -> None:
        """More output than allowed: end the job. The answer to this request is nobody's concern."""
        ours, theirs = link.pair()
        with ours, theirs, contextlib.suppress(link.LinkBroken):
            link.send(self._control, {"op": "cancel", "why": "output"}, [theirs.fileno()])

    async def cancel(self) -> None:
        """See `BackendVm.cancel`."""
        await self._ask({"op": "cancel", "why": "cancel"})

    async def take_point(self) -> Taken:
        """See `BackendVm.take_point`."""
        coming, self._coming = self._coming, None
        try:
            answer, _ = await (self._ask({"op": "point"}) if coming is None else self._answer(coming))
        except link.Failed as failure:
            raise SnapshotFailed(str(failure), remedy=_disk_remedy(failure)) from failure
        taken = Taken(**answer)
        self.live = taken.live
        return taken

    async def _point_has_come(self) -> None:
        """Nobody asked for the point of the last job; the vm may stand on other layers since."""
        coming, self._coming = self._coming, None
        if coming is not None:
            with contextlib.suppress(link.LinkBroken, link.Failed):
                self.live = (await link.answer(coming))[0]["live"]

    async def go_to(self, state: State) -> WentBack:
        """See `BackendVm.go_to`."""
        await self._point_has_come()
        try:
            answer, _ = await self._ask({"op": "go_to", "state": state})
        except link.Failed as failure:
            raise self._not_there(failure) from failure
        self.live = answer["live"]
        back, lost, gone = (tuple(answer[name]) for name in ("back", "lost", "gone"))
        return WentBack(live=self.live, sessions=back, lost=lost, gone=gone)

    def _not_there(self, failure: link.Failed) -> Exception:
        if failure.kind == "damaged":
            return VmDamaged(f"{self.id}: {failure}", remedy="choose another point")
        return RollbackFailed(str(failure), remedy=_disk_remedy(failure))

    async def changes(self, state: State) -> Changes:
        """See `BackendVm.changes`."""
        await self._point_has_come()
        try:
            answer, _ = await self._ask({"op": "changes", "state": state})
        except link.Failed as failure:
            raise self._not_there(failure) from failure
        names = ("path", "change", "kind", "size_bytes")
        files = tuple(FileChange(**dict(zip(names, told, strict=True))) for told in answer["files"])
        return Changes(files=files, is_complete=answer["is_complete"])

    async def begin_session(self, job: Job) -> None:
        """See `BackendVm.begin_session`."""
        try:
            await self._ask({**orders.order(job), "op": "begin"})
        except link.Failed as failed:
            raise _not_run(failed) from failed

    async def end_session(self, name: str, language: Language) -> None:
        """See `BackendVm.end_session`."""
        await self._point_has_come()
        if language.session == "saved":
            await self.write(orders.state_file(name), shell.NOTHING)
        else:
            await self._ask({"op": "end", "session": name})

    async def live_checkpoints(self, keep: Sequence[State]) -> frozenset[str]:
        """See `BackendVm.live_checkpoints`."""
        ids = sorted({tip for state in keep for tip in state.get("sessions", {}).values()})
        answer, _ = await self._ask({"op": "keep", "checkpoints": ids})
        return frozenset(answer["live"])

    async def read(self, path: str, max_bytes: int) -> bytes:
        """See `BackendVm.read`."""
        descriptor = await self._open(path, write=False, mode=0)
        size = os.fstat(descriptor).st_size
        if size > max_bytes:
            os.close(descriptor)
            raise BadRequest(f"{path!r} has {size} bytes, more than {max_bytes}", remedy="raise max_bytes")
        data: bytes = await _offload(size, _read_all, descriptor, max_bytes)
        return data

    async def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """See `BackendVm.write`."""
        await self._point_has_come()
        descriptor = await self._open(path, write=True, mode=mode & 0o777)
        try:
            await _offload(len(data), _write_all, descriptor, data)
        except OSError as error:
            raise BadRequest(f"{path!r} in vm {self.id}: {error.strerror}", remedy=_remedy(error.errno)) from error

    async def _open(self, path: str, *, write: bool, mode: int) -> int:
        request = {"op": "open", "path": orders.checked_path(path), "write": write, "mode": mode}
        try:
            _, descriptors = await self._ask(request)
        except link.Failed as failure:
            raise self._refused(path, failure) from failure
        return descriptors[0]

    def _refused(self, path: str, failure: link.Failed) -> BadRequest:
        number = failure.answer.get("errno")
        kind = UnknownFile if number in (errno.ENOENT, errno.ENOTDIR) else BadRequest
        return kind(f"{path!r} in vm {self.id}: {_reason(failure)}", remedy=_remedy(number))

    async def list(self, path: str) -> Sequence[FileInfo]:
        """See `BackendVm.list`."""
        try:
            answer, _ = await self._ask({"op": "list", "path": orders.checked_path(path)})
        except link.Failed as failure:
            raise self._refused(path, failure) from failure
        return [
            FileInfo(name=name, kind=kind, size_bytes=size, modified_s=modified)
            for name, kind, size, modified in answer["entries"]
        ]

    async def usage(self) -> Usage:
        """See `Backend.usage`."""
        answer, _ = await self._ask({"op": "usage"})
        return Usage(**answer)

    def sweep(self, keep: Sequence[State]) -> None:
        """See `BackendVm.sweep`."""
        names = {name for state in keep for name in (*state["layers"], state.get("copy")) if name}
        with contextlib.suppress(link.LinkBroken):
            link.begin(self._control, {"op": "sweep", "keep": sorted(names)}).close()

    async def stop(self) -> None:
        """See `BackendVm.stop`. The supervisor ends when we let go, and the kernel ends all below it."""
        if self._stopped is not None:
            await self._stopped.wait()
            return
        self._stopped = anyio.Event()
        with contextlib.suppress(OSError), anyio.move_on_after(_STOP_S):
            await self._point_has_come()
            self._control.shutdown(socket.SHUT_WR)
            await anyio.wait_readable(self._control)
        self._control.close()
        self._on_stop(self.id)
        self._stopped.set()


def _say(answering: socket.socket, text: bytes, word: int | None, event: int) -> None:
    """To the supervisor first, which looks for it when the head is ready at the latest."""
    answering.send(text)
    if word is not None:
        os.eventfd_write(word, event)


def _not_run(failure: link.Failed) -> Exception:
    if failure.kind == "bad":
        remedy = "give a folder that exists in the vm" if "working_dir" in str(failure) else None
        return BadRequest(str(failure), remedy=remedy)
    if failure.kind == "lost":
        return ExecutionFailed(str(failure), remedy="go back to a point, or run it again to begin a new session")
    return ExecutionFailed(str(failure), remedy="roll back to a point before" if failure.kind == "changed" else None)


def _reason(failure: link.Failed) -> str:
    number = failure.answer.get("errno")
    if number == errno.EXDEV:  # it is on one of the mounts
        return "it is not one of the vm's own files (/usr, /proc, /dev and /run are not)"
    return os.strerror(number) if isinstance(number, int) else str(failure)


def _disk_remedy(failure: link.Failed) -> str | None:
    return _remedy(failure.answer.get("errno"))


def _remedy(number: int | None) -> str | None:
    return "free some space on the disk of the store" if number in (errno.ENOSPC, errno.EDQUOT) else None


async def _offload(size: int, function: Any, *arguments: Any) -> Any:
    """Run in a thread what could take long; a thread costs more than a small file."""
    if size <= _SMALL_FILE_BYTES:
        return function(*arguments)
    return await anyio.to_thread.run_sync(function, *arguments)


def _read_all(descriptor: int, max_bytes: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read(max_bytes)


def _write_all(descriptor: int, data: bytes) -> None:
    with open(descriptor, "wb") as file:
        file.write(data)
