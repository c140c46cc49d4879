"""One vm's supervisor: pid 1 of an outer pid namespace, outside the vm's root, unseen by the code.

It serves the process that holds the vm over one SEQPACKET socket. A request is one JSON object and the
descriptors it speaks of; the first descriptor is the socket for its single answer. When the holder is gone
the supervisor ends, and with it, by the kernel's hand, everything in the vm. Requests are trusted; whatever
comes out of the vm is not.
"""

import contextlib
import json
import os
import select
import signal
import socket
import stat
import threading
from collections.abc import Callable
from typing import Any

from rewindbox.backends.namespace import kernel, trees
from rewindbox.backends.namespace.jobs import Disk, Job, StillAlive, kill_all
from rewindbox.backends.namespace.layers import Layers
from rewindbox.backends.namespace.machine import GATE, MEMORY, Damaged, Machine, StepFailed
from rewindbox.backends.namespace.spawner import Spawner

MESSAGE_BYTES = 96 * 1024
DESCRIPTORS_MAX = 8
HOME = "/home/agent"
_INSIDE = kernel.RESOLVE_IN_ROOT | kernel.RESOLVE_NO_MAGICLINKS
_OWN_FILES = _INSIDE | kernel.RESOLVE_NO_XDEV
_LIST_MAX = 100_000
_WORD_S = 30.0
"""A holder waits 5 s for its database at most."""
_IDLE_MS = 2.0
"""So long after a job its point has been taken, too: then there is time to get ready for the next."""

Request = dict[str, Any]
Reply = dict[str, Any]


class BadPath(ValueError):
    """A path inside the vm that cannot be what was asked for."""


class Supervisor:
    """Serves one vm until its holder is gone."""

    def __init__(self, link: socket.socket, machine: Machine, live: dict[str, Any] | None, point: Any) -> None:
        self.link = link
        self.machine = machine
        self.layers = Layers(machine, live, point)
        self.disk = Disk(self.layers.usage, is_new=live is None)
        self.job: Job | None = None
        self._spawner: Spawner | None = None
        self._job_answer: socket.socket | None = None
        self._job_handle = -1
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(link, select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)
        self._verbs: dict[str, Callable[[Request, list[int]], Reply]] = {
            "point": self._point,
            "go_to": self._go_to,
            "open": self._open,
            "list": self._list,
            "cancel": self._cancel,
            "sweep": self._sweep,
        }

    def run(self) -> None:
        """Serve until the holder closes its end."""
        while True:
            pause_s = self._watch()
            ready = {descriptor for descriptor, _ in self._poll.poll(pause_s)}
            if not ready and self.job is None:
                self._ready_spawner()  # for the next job, while nobody waits
            if self._woken in ready:
                os.read(self._woken, 64)
                self._job_started()
            if self._job_handle in ready:
                self._finish_job()
            if self.link.fileno() in ready and not self._serve():
                return

    def _watch(self) -> float | None:
        """Look at the running job; milliseconds until the next look, None for ever."""
        if self.job is None:
            return _IDLE_MS if self._spawner is None else None
        if self.job.why is None:
            pause_s = self.job.look_when_due()
            if self.job.why is None:
                return pause_s * 1000 + 0.5
        self.job.kill()
        return 5.0

    def _serve(self) -> bool:
        """Answer one request; False when the holder is gone."""
        message, descriptors, _, _ = socket.recv_fds(self.link, MESSAGE_BYTES, DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC)
        if not message or not descriptors:
            return False
        answer = socket.socket(fileno=descriptors[0])
        request = json.loads(_body(message, descriptors))
        if request["op"] == "execute":
            self._execute(request, descriptors[1:], answer)
        else:
            _answer(answer, lambda: self._verbs[request["op"]](request, descriptors[1:]))
        return True

    def _execute(self, request: Request, descriptors: list[int], answer: socket.socket) -> None:
        code, *streams = descriptors
        try:
            if self.job is not None:
                raise BadPath("a job is running already")
            request["folder"] = self._working_folder(request["folder"])
            _write_code(code, request["file"])
        except (BadPath, OSError) as failure:
            error = failure
            for stream in streams:
                os.close(stream)
            _told_to_go(answer)  # a socket that is closed with an unread word on it loses its last answer
            _answer(answer, lambda: _refuse(error))
            return
        finally:
            os.close(code)
        self._job_answer = answer
        spawner = self._ready_spawner()
        self._spawner = None
        may_go = spawner.start(request, streams) and _told_to_go(answer)
        self.job = Job(self.machine, self.disk, request["limits"], spawner)
        if may_go:
            spawner.let_go()
        else:
            self.job.why = "cancel"  # it ends at the gate

    def _ready_spawner(self) -> Spawner:
        if self._spawner is None:
            self._spawner = Spawner(self.machine, self._wake)
        return self._spawner

    def _working_folder(self, folder: str | None) -> str:
        """An absolute path to a folder in the vm; where the code deleted its home, the root."""
        path = os.path.join(HOME, folder or "")
        flags = os.O_PATH | os.O_DIRECTORY
        try:
            os.close(kernel.openat2(self.machine.root, path, flags, 0, _INSIDE))
        except OSError as error:
            if folder is None:
                return "/"
            raise BadPath(f"working_dir {folder!r}: {os.strerror(error.errno or 0)}") from error
        return path

    def _job_started(self) -> None:
        assert self.job is not None
        spawner = self.job.spawner
        if spawner.failure is not None:
            failure, self.job = spawner.failure, None
            spawner.close()
            self._end_job(lambda: _refuse(failure))
            return
        self._job_handle = os.pidfd_open(spawner.pid or 0)
        self._poll.register(self._job_handle, select.POLLIN)

    def _finish_job(self) -> None:
        assert self.job is not None
        job, self.job = self.job, None
        self._poll.unregister(self._job_handle)
        os.close(self._job_handle)
        self._job_handle = -1
        self._end_job(lambda: self._with_point(job.reap()))

    def _with_point(self, reply: Reply) -> Reply:
        """Whoever ran a job wants a point next: one message less. Why there is none is said when it is asked for."""
        with contextlib.suppress(OSError, StepFailed):
            reply["taken"] = self.layers.take_point()
        return reply

    def _end_job(self, result: Callable[[], Reply]) -> None:
        """No process of the job is left when its answer goes out; its code and shared memory go before all else."""
        assert self._job_answer is not None
        try:
            _answer(self._job_answer, result)
        except StillAlive:
            os._exit(1)
        _clear_memory()

    def _cancel(self, request: Request, _: list[int]) -> Reply:
        if self.job is not None and self.job.why is None:
            self.job.why = request["why"]
        return {}

    def _point(self, _: Request, __: list[int]) -> Reply:
        if self.job is not None:
            raise BadPath("a job is running")
        return self.layers.take_point()

    def _go_to(self, request: Request, _: list[int]) -> Reply:
        if self.job is not None:
            raise BadPath("a job is running")
        kill_all(self.machine.proc)
        _clear_memory()
        self.layers.go_to(request["state"])
        self.disk.forget()
        return {"live": self.layers.live}

    def _sweep(self, request: Request, _: list[int]) -> Reply:
        """What goes is decided now; deleting it may take long, and nothing will ask for these names again."""
        unneeded = self.layers.unneeded(set(request["keep"]))
        threading.Thread(target=_delete, args=(unneeded,), daemon=True).start()
        return {}

    def _open(self, request: Request, _: list[int]) -> Reply:
        """Open a regular file of the vm's own; the descriptor goes to the holder."""
        path = os.path.join(HOME, request["path"])
        if request["write"]:
            self._make_folders(os.path.dirname(path))
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOCTTY | os.O_NONBLOCK
        else:
            flags = os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK
        descriptor = kernel.openat2(
            self.machine.root, path, flags, request["mode"] if request["write"] else 0, _OWN_FILES
        )
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise BadPath("it is not a regular file")
        if request["write"]:
            os.fchmod(descriptor, request["mode"])
        return {"descriptor": descriptor}

    def _make_folders(self, path: str) -> None:
        """As mkdir -p, resolved inside the vm at every step."""
        parts = [part for part in path.split("/") if part]
        for count in range(1, len(parts) + 1):
            folder = "/".join(parts[:count])
            try:
                os.close(kernel.openat2(self.machine.root, folder, os.O_PATH | os.O_DIRECTORY, 0, _OWN_FILES))
            except FileNotFoundError:
                above = "/".join(parts[: count - 1]) or "."
                parent = kernel.openat2(self.machine.root, above, os.O_PATH | os.O_DIRECTORY, 0, _OWN_FILES)
                try:
                    os.mkdir(parts[count - 1], 0o755, dir_fd=parent)
                finally:
                    os.close(parent)

    def _list(self, request: Request, _: list[int]) -> Reply:
        path = os.path.join(HOME, request["path"])
        folder = kernel.openat2(self.machine.root, path, os.O_RDONLY | os.O_DIRECTORY, 0, _OWN_FILES)
        try:
            names = os.listdir(folder)
            if len(names) > _LIST_MAX:
                raise BadPath(f"it has {len(names)} entries; at most {_LIST_MAX} are listed")
            return {"entries": [_entry(folder, name) for name in sorted(names)]}
        finally:
            os.close(folder)


def _told_to_go(answer: socket.socket) -> bool:
    """Wait for the holder, who writes down that the job begins; not for ever, and not for one that is gone."""
    answer.settimeout(_WORD_S)
    try:
        return answer.recv(16) == b"go"
    except OSError:
        return False
    finally:
        answer.settimeout(None)


def _entry(folder: int, name: str) -> list[Any]:
    status = os.lstat(name, dir_fd=folder)
    kind = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    return [name, kind.get(stat.S_IFMT(status.st_mode), "other"), status.st_size, status.st_mtime]


def _body(message: bytes, descriptors: list[int]) -> bytes:
    """A request too long for one message comes in a memory file, the last descriptor."""
    if message != b"@":
        return message
    with open(descriptors.pop(), "rb") as file:
        return file.read()


def _write_code(source: int, name: str) -> None:
    """Into memory that the vm sees read-only: what was decided on is what runs."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    target = os.open(f"{MEMORY}/code/{name}", flags, 0o644)
    try:
        while os.sendfile(target, source, None, 1 << 20):
            pass
    finally:
        os.close(target)


def _clear_memory() -> None:
    """Empty /run/code, /run and /dev/shm: they are an execution's, not the vm's."""
    for name in os.listdir(f"{MEMORY}/code"):
        if f"{MEMORY}/code/{name}" != GATE:
            os.unlink(f"{MEMORY}/code/{name}")
    for folder in ("run", "shm"):
        for name in os.listdir(f"{MEMORY}/{folder}"):
            if (folder, name) != ("run", "code"):
                trees.delete(f"{MEMORY}/{folder}/{name}")


def _delete(names: list[str]) -> None:
    for name in names:
        with contextlib.suppress(OSError):  # the next sweep tries again
            trees.delete(name)


def _refuse(error: Exception) -> Reply:
    raise error


def _answer(link: socket.socket, result: Callable[[], Reply]) -> None:
    """Send what `result` returns, or why it failed; a descriptor in it goes along and is closed here."""
    descriptors: list[int] = []
    try:
        reply = result()
        if "descriptor" in reply:
            descriptors.append(reply.pop("descriptor"))
    except BadPath as error:
        reply = {"error": "bad", "text": str(error)}
    except Damaged as error:
        reply = {"error": "damaged", "text": str(error)}
    except StepFailed as error:
        reply = {"error": "step", "text": str(error), "step": error.step, "errno": error.cause.errno}
    except OSError as error:
        reply = {"error": "os", "text": str(error), "errno": error.errno}
    except (ValueError, RecursionError, MemoryError) as error:  # a tree that no bound foresaw: the vm lives on
        reply = {"error": "internal", "text": repr(error)}
    try:
        body = json.dumps(reply).encode()
        if len(body) > MESSAGE_BYTES:
            descriptors.append(_memory_file(body))
            body = b"@"
        with contextlib.suppress(OSError):  # who asked is gone
            if descriptors:
                socket.send_fds(link, [body], descriptors)
            else:
                link.send(body)
    finally:
        link.close()
        for descriptor in descriptors:
            os.close(descriptor)


def _memory_file(body: bytes) -> int:
    descriptor = os.memfd_create("reply", os.MFD_CLOEXEC)
    os.write(descriptor, body)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def serve(orders: socket.socket, skeleton: str | StepFailed) -> None:
    """Be the supervisor of one vm; never returns. `skeleton`: its folder, or why there can be no vm.

    The machine is made at once. Whose it is comes later on `orders`, as one request with two descriptors: the
    socket for the answer and the holder's. Nothing comes: nobody needed it.
    """
    kernel.set_timer_slack(1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # we wait for our children; the launcher does not
    made: Machine | StepFailed
    try:
        made = Machine(skeleton) if isinstance(skeleton, str) else skeleton
    except StepFailed as failure:
        made = failure
    message, descriptors, _, _ = socket.recv_fds(orders, MESSAGE_BYTES, 2, socket.MSG_CMSG_CLOEXEC)
    orders.close()
    if len(descriptors) == 2:
        answer, link = (socket.socket(fileno=number) for number in descriptors)
        _take_over(made, link, answer, json.loads(message))
    os._exit(0)


def _take_over(made: Machine | StepFailed, link: socket.socket, answer: socket.socket, request: Request) -> None:
    started: list[Supervisor] = []

    def start() -> Reply:
        if isinstance(made, StepFailed):
            raise made
        made.enter_folder(request["vm"])
        started.append(Supervisor(link, made, request["live"], request["point"]))
        return {"live": started[0].layers.live}

    _answer(answer, start)
    if started:
        started[0].run()
        with contextlib.suppress(StillAlive):
            kill_all(started[0].machine.proc)
