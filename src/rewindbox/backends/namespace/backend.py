"""The namespace backend as the rest of the library sees it: starts vms, runs jobs, moves bytes.

This side is trusted and unprivileged in the vm's eyes: it never resolves a path inside a vm (the supervisor
does, and hands over a descriptor) and never waits for what the code promises (the supervisor's own wait
decides that a job is over).
"""

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import anyio.to_thread

from rewindbox.backends.base import FileInfo, Job, OnOutput, Outcome, State, Stream, Taken
from rewindbox.backends.namespace import hosts, link
from rewindbox.errors import (
    BadRequest,
    ExecutionFailed,
    HostUnsupported,
    RollbackFailed,
    SnapshotFailed,
    UnsupportedLanguage,
    ValidationFailed,
    VmDamaged,
    VmNotAvailable,
)
from rewindbox.execution import EXIT_KILLED, EXIT_TIMEOUT, Ended
from rewindbox.languages import LANGUAGES
from rewindbox.limits import LimitReport

HOME = "/home/agent"
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
ENVIRONMENT = {
    "HOME": HOME,
    "USER": "agent",
    "LOGNAME": "agent",
    "SHELL": "/bin/bash",
    "PATH": PATH,
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "TMPDIR": "/tmp",  # noqa: S108  the vm's own
    "TERM": "dumb",
    "PYTHONUNBUFFERED": "1",  # output reaches the caller when it is written, not when the program ends
}
_ENVIRONMENT_MAX_BYTES = 64 * 1024
_BOOT = "import sys; sys.path.append(sys.argv[1]); from rewindbox.backends.namespace import launcher; launcher.main()"
_SMALL_FILE_BYTES = 1 << 20


class NamespaceBackend:
    """Makes vms out of Linux namespaces, as root or as an ordinary user."""

    name = "namespace"

    def __init__(self, folder: str) -> None:
        """`folder` holds the files of all vms. Made when missing; nothing is started yet."""
        self.folder = folder
        self._launcher: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._vms: dict[str, NamespaceVm] = {}

    def warm(self) -> None:
        """Start the launcher, without waiting for it."""
        if self._launcher is not None and self._launcher.poll() is None:
            return
        self._make_folder()
        self._link, theirs = link.pair()
        package_root = os.path.dirname(os.path.dirname(sys.modules["rewindbox"].__file__ or ""))
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            self._launcher = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BOOT, package_root, str(theirs.fileno())],
                env={},
                cwd=self.folder,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if os.environ.get("REWINDBOX_DEBUG") else subprocess.DEVNULL,
                start_new_session=True,
            )

    def _make_folder(self) -> None:
        """0700, and owned by whom the vms run as: the caller, or for root an id that nobody else has."""
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            if os.getuid() == 0 and os.stat(self.folder).st_uid == 0:
                uid = spare_uid()
                os.chown(self.folder, uid, uid)
        except OSError as error:
            raise HostUnsupported(
                f"the store's folder {self.folder} cannot be made: {error.strerror}",
                remedy="choose another one by REWINDBOX_STORE",
            ) from error

    async def create(
        self, vm_id: str, live: State | None = None, point: State | None = None
    ) -> "NamespaceVm":
        """See `Backend.create`. `point`: the state that `live` is known to be exactly."""
        self.warm()
        assert self._link is not None
        ours, theirs = link.pair()
        request = {"vm": vm_id, "live": live, "point": point}
        try:
            with theirs:
                answer, _ = await _ask_launcher(self._link, request, theirs)
        except link.Failed as failure:
            ours.close()
            raise _not_started(vm_id, failure) from failure
        except link.LinkBroken as error:
            ours.close()
            raise hosts.launcher_died(self._launcher) from error
        vm = NamespaceVm(vm_id, ours, answer["live"], self)
        self._vms[vm_id] = vm
        return vm

    async def destroy(self, vm_id: str) -> None:
        """See `Backend.destroy`."""
        if vm_id in self._vms:
            await self._vms[vm_id].stop()
        path = os.path.join(self.folder, vm_id)
        from rewindbox.backends.namespace import trees  # noqa: PLC0415  only here

        await anyio.to_thread.run_sync(trees.delete, path)

    def programs(self) -> dict[str, str | None]:
        """See `Backend.programs`. A vm has the host's /usr, and nothing else of the host."""
        return {name: find_program(language.program) for name, language in LANGUAGES.items()}

    async def limits(self) -> Sequence[LimitReport]:
        """See `Backend.limits`."""
        return hosts.limit_reports()

    async def close(self) -> None:
        """See `Backend.close`."""
        for vm in list(self._vms.values()):
            await vm.stop()
        if self._link is not None:
            self._link.close()
        if self._launcher is not None:
            await anyio.to_thread.run_sync(self._launcher.wait)
        self._launcher = self._link = None

    def forget(self, vm_id: str) -> None:
        """The vm has stopped."""
        self._vms.pop(vm_id, None)


async def _ask_launcher(
    launcher: socket.socket, request: dict[str, Any], theirs: socket.socket
) -> tuple[dict[str, Any], list[int]]:
    """The launcher answers on the second socket; the first becomes the supervisor's."""
    ours, answering = link.pair()
    with ours:
        with answering:
            link.send(launcher, request, [theirs.fileno(), answering.fileno()])
        await anyio.wait_readable(ours)
        return link.receive(ours)


def _not_started(vm_id: str, failure: link.Failed) -> Exception:
    if failure.kind == "bad":
        return VmDamaged(f"{vm_id}: {failure}", remedy="roll it back to a kept point, or remove it")
    return hosts.explain(failure.answer)


class NamespaceVm:
    """One running vm."""

    def __init__(self, vm_id: str, control: socket.socket, live: State, backend: NamespaceBackend) -> None:
        self.id = vm_id
        self.live = live
        self.interrupted: Outcome | None = None
        self._control = control
        self._late: dict[str, Any] = {}
        self._backend = backend

    async def _ask(
        self, request: dict[str, Any], descriptors: Sequence[int] = ()
    ) -> tuple[dict[str, Any], list[int]]:
        try:
            return await link.ask(self._control, request, descriptors)
        except link.LinkBroken as error:
            raise VmNotAvailable(f"{self.id}: its supervisor is gone", remedy="open it again") from error

    async def execute(self, job: Job, on_output: OnOutput | None = None) -> Outcome:
        """See `BackendVm.execute`."""
        order = _order(job)
        output = _Output(job.limits.output_bytes, on_output, self._flooded)
        code = link.memory_file(job.code.encode("utf-8", "surrogateescape"))
        stdin = link.memory_file(job.stdin) if job.stdin else os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        try:
            async with output.pipes() as writers:
                answer = await self._run(order, [code, stdin, *writers], output)
        except anyio.get_cancelled_exc_class():
            self.interrupted = _outcome(job, self._late, output)
            raise
        finally:
            os.close(code)
            os.close(stdin)
        return _outcome(job, answer, output)

    async def _run(self, order: dict[str, Any], descriptors: list[int], output: "_Output") -> dict[str, Any]:
        """Until the supervisor says it is over. Cancelled: end the job first, then let the cancellation go on."""
        try:
            answering = link.begin(self._control, order, descriptors)
            output.close_writers()
            async with anyio.create_task_group() as group:
                output.start(group)
                try:
                    answer, _ = await self._over(answering)
                finally:
                    output.stop()
        except link.LinkBroken as broken:
            raise VmNotAvailable(f"{self.id}: its supervisor is gone", remedy="open it again") from broken
        except link.Failed as failed:
            raise _not_run(failed) from failed
        return answer

    async def _over(self, answering: socket.socket) -> tuple[dict[str, Any], list[int]]:
        try:
            await anyio.wait_readable(answering)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self.cancel()
                self._late, _ = await link.answer(answering)
            raise
        return await link.answer(answering)

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
        try:
            answer, _ = await self._ask({"op": "point"})
        except link.Failed as failure:
            raise SnapshotFailed(str(failure), remedy=_disk_remedy(failure)) from failure
        self.live = answer["live"]
        return Taken(**answer)

    async def go_to(self, state: State) -> State:
        """See `BackendVm.go_to`."""
        try:
            answer, _ = await self._ask({"op": "go_to", "state": state})
        except link.Failed as failure:
            raise RollbackFailed(str(failure), remedy=_disk_remedy(failure)) from failure
        self.live = answer["live"]
        return self.live

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
        descriptor = await self._open(path, write=True, mode=mode & 0o777)
        try:
            await _offload(len(data), _write_all, descriptor, data)
        except OSError as error:
            raise BadRequest(f"{path!r} in vm {self.id}: {error.strerror}") from error

    async def _open(self, path: str, *, write: bool, mode: int) -> int:
        request = {"op": "open", "path": checked_path(path), "write": write, "mode": mode}
        try:
            _, descriptors = await self._ask(request)
        except link.Failed as failure:
            raise BadRequest(f"{path!r} in vm {self.id}: {_reason(failure)}") from failure
        return descriptors[0]

    async def list(self, path: str) -> Sequence[FileInfo]:
        """See `BackendVm.list`."""
        try:
            answer, _ = await self._ask({"op": "list", "path": checked_path(path)})
        except link.Failed as failure:
            raise BadRequest(f"{path!r} in vm {self.id}: {_reason(failure)}") from failure
        return [
            FileInfo(name=name, kind=kind, size_bytes=size, modified_s=modified)
            for name, kind, size, modified in answer["entries"]
        ]

    def sweep(self, keep: Sequence[State]) -> None:
        """See `BackendVm.sweep`."""
        names = {name for state in keep for name in (*state["layers"], state.get("copy")) if name}
        with contextlib.suppress(link.LinkBroken):
            link.begin(self._control, {"op": "sweep", "keep": sorted(names)}).close()

    async def stop(self) -> None:
        """See `BackendVm.stop`. The supervisor ends when we let go, and the kernel ends all below it."""
        if self._control.fileno() < 0:
            return
        self._control.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            await anyio.wait_readable(self._control)
        self._control.close()
        self._backend.forget(self.id)


class _Output:
    """Two pipes and what came through them, each bounded."""

    def __init__(self, limit_bytes: int, on_output: OnOutput | None, flooded: Any) -> None:
        self.limit_bytes, self.on_output, self._flooded = limit_bytes, on_output, flooded
        self.kept: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self.truncated = False
        self.stopped = anyio.Event()
        self._readers: dict[Stream, int] = {}
        self._writers: list[int] = []
        self._scopes: list[anyio.CancelScope] = []

    @contextlib.asynccontextmanager
    async def pipes(self) -> AsyncIterator[list[int]]:
        names: tuple[Stream, Stream] = ("stdout", "stderr")
        for name in names:
            self._readers[name], writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._readers[name], False)
            self._writers.append(writer)
        try:
            yield self._writers
        finally:
            self.close_writers()
            for name, reader in self._readers.items():
                self.take(name, link.drain(reader, self.limit_bytes + 1))
                os.close(reader)

    def close_writers(self) -> None:
        while self._writers:
            os.close(self._writers.pop())

    def start(self, group: Any) -> None:
        for name, reader in self._readers.items():
            group.start_soon(self._pump, name, reader)

    def stop(self) -> None:
        self.stopped.set()
        for scope in self._scopes:
            scope.cancel()

    async def _pump(self, name: Stream, reader: int) -> None:
        with anyio.CancelScope() as scope:
            self._scopes.append(scope)
            while not self.stopped.is_set():
                await anyio.wait_readable(reader)
                data = link.drain(reader, 1 << 20)
                if not data:
                    return
                self.take(name, data)

    def take(self, name: Stream, data: bytes) -> None:
        """Keep and pass on what fits; the first byte that does not ends the job."""
        kept = self.kept[name]
        fitting = data[: self.limit_bytes - len(kept)]
        kept += fitting
        if fitting and self.on_output is not None:
            self.on_output(name, fitting)
        if len(fitting) < len(data) and not self.truncated:
            self.truncated = True
            self._flooded()


def _order(job: Job) -> dict[str, Any]:
    environment = {**ENVIRONMENT, **job.environment}
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValidationFailed(
                f"environment variable {name!r}", remedy="names without '=', values without NUL"
            )
    if sum(len(name) + len(value) for name, value in environment.items()) > _ENVIRONMENT_MAX_BYTES:
        raise ValidationFailed(
            f"the environment is over {_ENVIRONMENT_MAX_BYTES} bytes", remedy="write a file instead"
        )
    if find_program(job.language.program) is None:
        raise UnsupportedLanguage(
            f"{job.language.name}: {job.language.program} is not on this host", remedy="install it below /usr"
        )
    file = f"{job.id}.{job.language.extension}"
    environment.setdefault("PYTHONPATH", os.path.join(HOME, job.working_dir) if job.working_dir else HOME)
    return {
        "op": "execute",
        "file": file,
        "command": _command(job, file),
        "folder": checked_path(job.working_dir) if job.working_dir else None,
        "environment": environment,
        "limits": job.limits.as_dict(),
    }


def _command(job: Job, file: str) -> list[str]:
    places = {"{file}": f"/run/code/{file}", "{binary}": f"/run/{job.id}"}
    run = [places.get(word, word) for word in job.language.run]
    if not job.language.compile:
        return run
    compile_words = [places.get(word, word) for word in job.language.compile]
    return ["sh", "-c", '"$@" || exit; exec ' + run[0], "sh", *compile_words]


def _outcome(job: Job, answer: dict[str, Any], output: _Output) -> Outcome:
    ended, exit_code, error = _ending(job, answer, output)
    return Outcome(
        ended=ended,
        exit_code=exit_code,
        stdout=bytes(output.kept["stdout"]),
        stderr=bytes(output.kept["stderr"]),
        truncated=output.truncated,
        wall_s=answer["wall_s"],
        cpu_s=answer["cpu_s"],
        memory_peak_bytes=answer["memory_peak_bytes"],
        error=error,
    )


def _ending(job: Job, answer: dict[str, Any], output: _Output) -> tuple[Ended, int, str | None]:
    """How it ended. Our reason counts when our signal did end it; too much output always counts."""
    limits, code = job.limits, os.waitstatus_to_exitcode(answer["status"])
    cpu_text = f"CPU time limit of {limits.cpu_s:g} s used up"
    if output.truncated:
        return "output", EXIT_KILLED, f"output limit of {limits.output_bytes} bytes reached"
    if code == -signal.SIGKILL and answer["why"]:
        table: dict[str, tuple[Ended, int, str]] = {
            "wall": ("timeout", EXIT_TIMEOUT, f"Execution timeout after {round(limits.wall_s * 1000)}ms"),
            "cpu": ("timeout", EXIT_TIMEOUT, cpu_text),
            "memory": ("memory", EXIT_KILLED, f"memory limit of {limits.memory_mib} MiB reached"),
            "disk": (
                "killed",
                EXIT_KILLED,
                f"disk limit of {limits.disk_mib} MiB or {limits.inodes} files reached",
            ),
            "cancel": ("killed", EXIT_KILLED, "cancelled"),
        }
        return table[answer["why"]]
    if code in (-signal.SIGXCPU, -signal.SIGKILL) and answer["cpu_s"] >= limits.cpu_s:
        return "timeout", EXIT_TIMEOUT, cpu_text
    if code < 0:
        return "signal", 128 - code, None
    return "exit", code, None


def _not_run(failure: BaseException) -> Exception:
    assert isinstance(failure, link.Failed)
    if failure.kind == "bad":
        return BadRequest(str(failure), remedy="give a folder that exists in the vm")
    return ExecutionFailed(str(failure))


def _reason(failure: link.Failed) -> str:
    number = failure.answer.get("errno")
    if number == 18:  # EXDEV: it is on one of the mounts
        return "it is not one of the vm's own files (/usr, /proc, /dev and /run are not)"
    return os.strerror(number) if isinstance(number, int) else str(failure)


def _disk_remedy(failure: link.Failed) -> str | None:
    return "free some space on the disk of the store" if failure.answer.get("errno") in (28, 122) else None


def checked_path(path: str) -> str:
    """A path as the vm takes it. Raises ValidationFailed: empty, NUL, or longer than the kernel takes."""
    if not path or "\0" in path or len(os.fsencode(path)) > 4000:
        raise ValidationFailed(f"path {path[:80]!r}", remedy="give a path of 1 to 4000 bytes without NUL")
    return path


def find_program(program: str) -> str | None:
    """Where a vm finds a program: on its PATH, below the host's /usr, executable for everyone."""
    found = shutil.which(program, path=PATH)
    if found is None or not os.path.realpath(found).startswith("/usr/"):
        return None
    return found


def spare_uid() -> int:
    """An id for root's vms to run as: high, in nobody's range, known to no account."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    inside, _, count = max(ranges, key=lambda entry: entry[2])
    low, high = (
        (1_800_000_000, 1_879_000_000) if count > 1_900_000_000 else (inside + count // 2, inside + count)
    )
    while True:
        uid = random.SystemRandom().randrange(low, high)
        try:
            pwd.getpwuid(uid)
        except KeyError:
            return uid


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
