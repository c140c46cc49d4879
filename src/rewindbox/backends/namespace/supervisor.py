"""One vm's supervisor: pid 1 of an outer pid namespace, outside the vm's root, unseen by the code.

It serves the process that holds the vm over one SEQPACKET socket. A request is one JSON object and the
descriptors it speaks of; the first descriptor is the socket for its single answer. When the holder is gone
the supervisor ends, and with it, by the kernel's hand, everything in the vm. Requests are trusted; whatever
comes out of the vm is not.
"""

import contextlib
import errno
import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable

from rewindbox.backends.namespace import defences, files, kernel, loading, nameless, scratch
from rewindbox.backends.namespace.checkpoints import Budget
from rewindbox.backends.namespace.files import BadPath
from rewindbox.backends.namespace.forks import Lost
from rewindbox.backends.namespace.groups import Groups
from rewindbox.backends.namespace.jobs import Job
from rewindbox.backends.namespace.layers import Layers
from rewindbox.backends.namespace.machine import Machine, StepFailed
from rewindbox.backends.namespace.points import Points
from rewindbox.backends.namespace.processes import StillAlive, kill_all
from rewindbox.backends.namespace.replies import (
    DESCRIPTORS_MAX,
    MESSAGE_BYTES,
    Reply,
    Request,
    answer_with,
    body,
    refuse,
    say,
    told_meanwhile,
    told_to_go,
)
from rewindbox.backends.namespace.rest import Rest
from rewindbox.backends.namespace.sessions import Sessions
from rewindbox.backends.namespace.spawner import Spawner
from rewindbox.backends.namespace.turn import Turn
from rewindbox.backends.namespace.watch import Disk, usage

_FIXED = ("file_mib", "open_files", "processes")
"""Limits that the kernel counts for each process and nobody can raise again."""
_UNLOADABLE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENOEXEC, errno.ELIBBAD)
"""What is said of a program, or of its loader, that is not there or is none."""
_IDLE_MS = 2.0
"""So long after a job its point has been taken, too: then there is time to get ready for the next."""


class Supervisor:
    """Serves one vm until its holder is gone."""

    def __init__(self, link: socket.socket, machine: Machine, request: Request) -> None:
        self.link = link
        self.machine = machine
        self._required: list[str] = request["require"]
        live = request["live"]
        self.layers = Layers(machine, live, request["point"])
        self.sessions = Sessions(machine, Budget(*request["checkpoints"]))
        self.disk = Disk(self.layers.usage, lambda: nameless.usage(machine.proc), is_new=live is None)
        self.points = Points(self.layers, self.sessions, self.disk)
        self.rest = Rest(machine, self.disk, self.sessions)
        self.sessions.look = self._look_at_rest
        self.job: Job | Turn | None = None
        self._spawner: Spawner | None = None
        self._job_answer: socket.socket | None = None
        self._job_handle = -1
        self._since = time.monotonic()
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(link, select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)
        self._verbs: dict[str, Callable[[Request], Reply]] = {
            "point": self._point,
            "go_to": self._go_to,
            "open": self._open,
            "list": self._list,
            "cancel": self._cancel,
            "sweep": self._sweep,
            "begin": self._begin,
            "end": self._end,
            "keep": self._keep,
        }
        self._aside: dict[str, Callable[[Request], Reply]] = {"usage": self._usage, "changes": self._changes}

    def run(self) -> None:
        """Serve until the holder closes its end."""
        while True:
            pause_s = self._watch()
            ready = {descriptor for descriptor, _ in self._poll.poll(pause_s)}
            if not ready and self.points.resting is not None:
                self.points.checkpoint()
            elif not ready and self.job is None:  # nobody waits
                self.layers.settle()
                self._ready_spawner()
                self.rest.look_when_due()
                if (at := self.sessions.checkpoints.measure_at) is not None and at <= time.monotonic():
                    self.sessions.checkpoints.keep_to_memory()
            if self._woken in ready:
                os.read(self._woken, 64)
                self._job_started()
            if isinstance(self.job, Turn):
                if {self._job_handle, self.job.result.fileno()} & ready:
                    self._finish_turn(self.job)
            elif self._job_handle in ready:
                self._finish_job()
            if self.link.fileno() in ready and not self._serve():
                return

    def _look_at_rest(self) -> float:
        self.rest.beside(self.job)
        return self.rest.look_when_due()

    def _watch(self) -> float | None:
        """Look at the running job; milliseconds until the next look, None for ever."""
        if self.points.resting is not None:
            return self.points.rest_ms()
        self.rest.beside(self.job)
        if self.job is None:
            times = [at for at in (self.sessions.checkpoints.measure_at, self.rest.next_look) if at is not None]
            later = max((min(times) - time.monotonic()) * 1000, _IDLE_MS) if times else None
            return _IDLE_MS if self._spawner is None or self._spawner.is_stale else later
        if isinstance(self.job, Turn) and (answer := self._job_answer) is not None:
            with contextlib.suppress(BlockingIOError):
                self.job.hear(lambda: told_meanwhile(answer))
        if self.job.why is None:
            pause_s = self.job.look_when_due()
            if self.rest.next_look is not None:
                pause_s = min(pause_s, self.rest.look_when_due())
            if self.job.why is None:
                return pause_s * 1000 + 0.5
        self.job.kill()
        return 5.0

    def _serve(self) -> bool:
        """Answer one request; False when the holder is gone."""
        message, descriptors, _, _ = socket.recv_fds(self.link, MESSAGE_BYTES, DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC)
        if not message or not descriptors:
            return False
        self.rest.let_go()
        self.points.checkpoint()
        self.layers.settle()
        answer = socket.socket(fileno=descriptors[0])
        request = json.loads(body(message, descriptors))
        if request["op"] == "execute":
            self._execute(request, descriptors[1:], answer)
        elif aside := self._aside.get(request["op"]):  # takes its time, and is nobody else's
            threading.Thread(target=answer_with, args=(answer, lambda: aside(request)), daemon=True).start()
        else:
            answer_with(answer, lambda: self._verbs[request["op"]](request))
        return True

    def _execute(self, request: Request, streams: list[int], answer: socket.socket) -> None:
        """Streams: output, error, and then displays for a session, or standard input where there is any."""
        try:
            if self.job is not None:
                raise BadPath("a job is running already")
            start = self._start_job if request["session"] is None else self._start_turn
            start(request, streams, answer)
        except (BadPath, Lost, loading.Changed, OSError) as failure:
            told_to_go(answer)  # a socket that is closed with an unread word on it loses its last answer
            _turn_away(failure, streams, answer)

    def _start_job(self, request: Request, streams: list[int], answer: socket.socket) -> None:
        request["folder"] = files.working_folder(self.machine.root, request["folder"])
        scratch.write_code(request["code"], request["file"])
        streams.insert(0, streams.pop() if len(streams) > 2 else files.nothing(self.machine.root))
        self.machine.groups.jobs.restrict(_memory_bytes(request), int(request["limits"]["processes"]))
        spawner = self._ready_spawner()
        spare = self.sessions.owns if self.sessions.guard is not None else None
        job = Job(self.machine, self.disk, request["limits"], spawner, spare)
        # From here on nothing may fail: a program that waits at the gate must have a job that ends it, and the
        # streams are the spawner's to close.
        self._spawner, self.job, self._job_answer = None, job, answer
        is_ready = spawner.start(request, streams, beside=self.sessions.processes)
        may_go = told_to_go(answer) is not None  # also when it must not: an unread word would cost the answer
        if is_ready and may_go and spawner.let_go():
            self.job.begin()
        else:
            self.job.why = "cancel" if is_ready and not may_go else "unstarted"  # it ends at the gate

    def _start_turn(self, request: Request, streams: list[int], answer: socket.socket) -> None:
        """The head is told what to run; the holder, who writes down that it begins, tells it when."""
        code = scratch.code_bytes(request["code"])
        self._begin(request)
        session = self.sessions.live[request["session"]]
        self.sessions.restrict(_memory_bytes(request))
        turn = Turn(self.machine, self.disk, request["limits"], self.sessions, session)
        self.job, self._job_answer = turn, answer
        self._job_handle = session.head.handle
        try:
            turn.start(code, streams)
        except Lost:  # its end says so
            pass
        except OSError:  # the head was not told
            turn.why = "cancel"
        for descriptor in (self._job_handle, turn.result.fileno()):
            self._poll.register(descriptor, select.POLLIN)

    def _begin(self, request: Request) -> Reply:
        """Have a session of that name."""
        if "landlock" in self._required:
            raise BadPath("landlock is required, and live sessions do not wear it")
        if self._spawner is not None and self.sessions.guard is None:
            self._spawner.dismiss()  # its job could signal what it must not
            self._spawner = None
        session = self.sessions.live.get(request["session"])
        if session is not None and not session.head.is_alive:
            self.sessions.end(session)
            if session.tip and not self.sessions.go_back(session.name, session.tip):
                raise Lost(f"session {session.name} ended at rest, with no checkpoint: its variables are gone")
        self.sessions.begin(request["session"], request)
        self.rest.allow(request["limits"])
        for name in _FIXED:
            if request["limits"][name] != (first := self.sessions.limits[name]):
                raise BadPath(
                    f"{name} is {first} in all sessions of this vm, as its first one had it; give that, or none"
                )
        return {}

    def _end(self, request: Request) -> Reply:
        session = self.sessions.live.get(request["session"])
        if session is not None:
            self.sessions.end(session)
        return {}

    def _keep(self, request: Request) -> Reply:
        found = self.sessions.checkpoints
        found.named = set(request["checkpoints"])
        return {"live": [key[1] for key in found if found.is_kept(key)]}

    def _ready_spawner(self) -> Spawner:
        if self._spawner is not None and (self._spawner.is_stale or self._spawner.failure is not None):
            self._spawner.dismiss()
            self._spawner = None
        if self._spawner is None:
            self._spawner = Spawner(self.machine, self._wake, self.machine.groups.jobs, self.sessions.guard)
        return self._spawner

    def _job_started(self) -> None:
        if not isinstance(self.job, Job) or self._job_handle >= 0:  # a spawner that was dismissed
            return
        spawner = self.job.spawner
        if spawner.pid is None and spawner.failure is None:  # so was this one's predecessor
            return
        if spawner.failure is not None:
            failure, self.job = spawner.failure, None
            spawner.close()
            self._end_job(lambda: self._not_started(failure))
            return
        self._job_handle = os.pidfd_open(spawner.pid or 0)
        self._poll.register(self._job_handle, select.POLLIN)

    def _not_started(self, failure: OSError) -> Reply:
        """The vm's own files may be why."""
        if failure.errno in _UNLOADABLE:
            loading.check(self.machine, str(failure.strerror))
        raise failure

    def _finish_job(self) -> None:
        assert isinstance(self.job, Job)
        job, self.job = self.job, None
        self._poll.unregister(self._job_handle)
        os.close(self._job_handle)
        self._job_handle = -1
        self._end_job(job.reap)

    def _finish_turn(self, turn: Turn) -> None:
        """The caller has its answer, and the point of files, before the checkpoint is taken."""
        assert self._job_answer is not None
        answer = self._job_answer
        turn.hear(lambda: told_to_go(answer))  # a head that did not wait for it must wait now
        for descriptor in (self._job_handle, turn.result.fileno()):
            self._poll.unregister(descriptor)
        self._job_handle = -1
        self.job = None
        if not turn.told:
            turn.close()
            self._end_job(lambda: refuse(BadPath("nobody said that it may go")))
            return
        self._end_job(turn.reap)
        turn.close()
        if turn.session.name in self.sessions.live:
            self.points.rest(turn.session)

    def _end_job(self, result: Callable[[], Reply]) -> None:
        """No process of the job is left when its answer goes out; its code and shared memory go before all else.

        Whoever ran a job wants a point next: it comes unasked, and is taken while the answer is read.
        """
        assert self._job_answer is not None
        with self._job_answer as answer:
            try:
                if say(answer, result):
                    say(answer, self.points.take)
            except StillAlive:
                os._exit(1)
        scratch.clear(all_of_it=not self.sessions.live)

    def _cancel(self, request: Request) -> Reply:
        if self.job is not None and self.job.why is None:
            self.job.why = request["why"]
        return {}

    def _point(self, _: Request) -> Reply:
        if self.job is not None:
            raise BadPath("a job is running")
        return self.points.take()

    def _go_to(self, request: Request) -> Reply:
        if self.job is not None:
            raise BadPath("a job is running")
        return self.points.go_to(request["state"])

    def _sweep(self, request: Request) -> Reply:
        self.layers.sweep(request["keep"])
        return {}

    def _open(self, request: Request) -> Reply:
        """Open a regular file of the vm's own; the descriptor goes to the holder."""
        root, mode = self.machine.root, request["mode"]
        return {"descriptor": files.open_file(root, request["path"], write=request["write"], mode=mode)}

    def _changes(self, request: Request) -> Reply:
        return self.layers.changes_since(request["state"])

    def _usage(self, _: Request) -> Reply:
        return {**usage(self.machine.proc, self.layers.usage()), "up_s": time.monotonic() - self._since}

    def _list(self, request: Request) -> Reply:
        return {"entries": files.list_folder(self.machine.root, request["path"])}


def _turn_away(why: Exception, streams: list[int], answer: socket.socket) -> None:
    for stream in streams:
        with contextlib.suppress(OSError):
            os.close(stream)
    answer_with(answer, lambda: refuse(why))


def _memory_bytes(request: Request) -> int:
    return int(request["limits"]["memory_mib"]) << 20


def serve(orders: socket.socket, skeleton: str | StepFailed, groups: Groups) -> None:
    """Be the supervisor of one vm; never returns. `skeleton`: its folder, or why there can be no vm.

    The machine is made at once. Whose it is comes later on `orders`, as one request with two descriptors: the
    socket for the answer and the holder's. Nothing comes: nobody needed it.
    """
    kernel.set_timer_slack(1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # we wait for our children; the launcher does not
    made: Machine | StepFailed
    try:
        made = Machine(skeleton, groups) if isinstance(skeleton, str) else skeleton
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
        if request["vm"] is None:
            return {**defences.found(made)}
        defences.check(made, request["require"])
        made.enter_folder(request["vm"])
        started.append(Supervisor(link, made, request))
        return {"live": started[0].layers.live}

    answer_with(answer, start)
    if started:
        started[0].run()
        with contextlib.suppress(StillAlive):
            kill_all(started[0].machine.proc)
