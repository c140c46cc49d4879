"""Starting a job: a thread that wears the sandbox spawns it, held at a gate until its limits are set.

Namespaces, capabilities, no_new_privs and seccomp belong to a *thread* in the kernel: a thread puts them on,
spawns by posix_spawn (no fork of a big process), and ends; the supervisor stays as it was. The thread is made
ready before its job comes, so that what it puts on (0.3 ms) is not on the path.

Limits belong to a process and posix_spawn cannot set any. Set from outside afterwards they come too late for a
fast fork, and a program that sets them and then becomes the job costs 0.8 ms. So the child opens a named pipe
before its exec and sleeps there until we, having set its limits, open the other end.
"""

import contextlib
import errno
import os
import platform
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from io import FileIO
from typing import Any

from rewindbox.backends.namespace import kernel, landlock, seccomp
from rewindbox.backends.namespace.groups import Nowhere
from rewindbox.backends.namespace.guard import Guard
from rewindbox.backends.namespace.machine import GATE, GATE_INSIDE, PROC, Machine

OWN_THREADS = 6
"""What RLIMIT_NPROC counts besides the job: pid 1, and our threads (same user, same user namespace)."""
_PENDING_MAX = 4096
"""Signals that wait, and timers, of a vm. What the host gives a user is for all vms and for the user's own programs."""
_DEFAULT_SLACK_NS = 50_000
"""The kernel's own; the supervisor, which waits for a gate, has less."""
FIRST_TO_GO = b"1000"
"""Where memory ends, the host's or that of its group, code goes before anything else does."""
_SIGPENDING = 11
"""RLIMIT_SIGPENDING, which python does not name."""
_HELD_S = 10.0
"""A child that is not at the gate by then never will be; on an idle host it takes 0.3 ms."""
_SOON_S, _LATER_S = 0.00002, 0.002
"""Between two looks at what a child does: at first, and after 20 ms."""


class Spawner:
    """Starts one job."""

    def __init__(
        self, machine: Machine, wake: int, group: Nowhere, guard: Guard | None = None, *, is_for_job: bool = True
    ) -> None:
        """Get ready. `wake` is written to when the start is over, well (`pid`) or badly (`failure`).

        `group`: what it starts is in it. `guard`: is asked before anything that it starts signals another process.
        `is_for_job`: what it starts ends before the vm moves onto other files, and with its own limits.
        """
        self.pid: int | None = None
        self.failure: OSError | None = None
        self.ipc_ns = -1
        """Open until `close`."""
        self._machine, self._wake, self._group, self._guard = machine, wake, group, guard
        self._is_for_job, self._root = is_for_job, machine.moves
        self._spawn: Callable[[], int] | None = None
        self._streams: list[int] = []
        self._open_gates: list[int] = []
        self._ordered = threading.Semaphore(0)
        self.is_over = False
        """The start is over, well or badly."""
        self._is_dismissed = False
        self._begun, self._is_dressed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        group.start(self._thread)

    def start(self, order: dict[str, Any], streams: list[int], beside: int = 0) -> bool:
        """Start this job, up to the gate; False: it never came or its limits could not be set, so it must not go on.

        `beside`: how many processes there may be that are none of its own.

        The streams (its standard input, output and error) are closed when it has them.
        """
        environment = [f"{name}={value}" for name, value in order["environment"].items()]
        self._spawn = kernel.prepared_spawn(
            order["program"], order["command"], environment, order["folder"], streams, GATE_INSIDE
        )
        self._streams = streams
        self._ordered.release()
        return self._bound_at_gate(order["limits"], beside)

    def let_go(self) -> bool:
        """Open the gate's other end as soon as the child waits at it. False: it never came, and must not go on.

        It may be somebody else who waits there: so the gate stays open until the child is through.
        """
        for _ in self._looks():
            with contextlib.suppress(OSError):  # ENXIO: nobody yet
                self._open_gates.append(os.open(GATE, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
                if self.is_over:
                    self._close_gate()
                return True
        return self.is_over

    def _close_gate(self) -> None:
        with contextlib.suppress(IndexError):
            os.close(self._open_gates.pop())

    def give_up(self) -> None:
        """End what comes to the gate, before somebody opens it for another one."""
        while not self.is_over:
            with contextlib.suppress(OSError):
                for pid in self._children():
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_LATER_S)

    def dressed(self) -> int:
        """Its thread's id, as soon as that wears what a job wears. Raises OSError: it cannot."""
        while not self._is_dressed.wait(0.001):
            if self.failure is not None:
                raise self.failure
        return self._thread.native_id or 0

    @property
    def is_stale(self) -> bool:
        """The vm has moved onto other files since: what it starts would have none."""
        return self._root != self._machine.moves

    def dismiss(self) -> None:
        """There will be no job for it; its thread ends soon, and tells nobody."""
        self._is_dismissed = True
        self._ordered.release()

    def close(self) -> None:
        """The job is over."""
        if self.ipc_ns >= 0:
            os.close(self.ipc_ns)
            self.ipc_ns = -1

    def _run(self) -> None:
        self._begun.set()
        try:
            self._put_on_sandbox()
            self._is_dressed.set()
            self._ordered.acquire()
            if self._spawn is not None:
                self.pid = self._spawn()
        except Exception as error:  # nobody else would say why it never came
            self.failure = error if isinstance(error, OSError) else OSError(errno.EPROTO, repr(error))
            if not self._streams:
                self._ordered.acquire()
        finally:
            self.is_over = True
            self._close_gate()
            for stream in self._streams:
                os.close(stream)
            if self._is_dismissed:
                self.close()
            else:
                os.write(self._wake, b"!")

    def _put_on_sandbox(self) -> None:
        """The job gets an ipc namespace of its own: its segments and queues go when it goes."""
        kernel.unshare(kernel.CLONE_FS | kernel.NEWIPC)
        self._group.conceal()
        kernel.set_timer_slack(_DEFAULT_SLACK_NS)
        self.ipc_ns = os.open("/proc/thread-self/ns/ipc", os.O_RDONLY | os.O_CLOEXEC)
        kernel.setns(self._machine.pid_ns, kernel.NEWPID)
        kernel.setns(self._machine.mount_ns, kernel.NEWNS)
        kernel.empty_bounding_set()
        kernel.no_new_privileges()
        if self._is_for_job and self._guard is None:  # who wears it sees no process of a session any more
            landlock.put_on()
        keeps_core = resource.getrlimit(resource.RLIMIT_CORE)[1] == kernel.NO_DUMP_BYTES
        listener = seccomp.install(platform.machine(), guarded=self._guard is not None, keeps_core=keeps_core)
        if self._guard is not None:
            self._guard.watch(listener)

    def _bound_at_gate(self, limits: dict[str, float], beside: int) -> bool:
        """Wait for the child and set its limits."""
        self._begun.wait(_HELD_S)
        for _ in self._looks():
            try:
                pids = self._children()
            except OSError:  # no descriptor is left, or the child is gone
                return False
            if pids:
                return self._is_bound(pids[0], limits, beside)
        return False

    def _children(self) -> list[int]:
        with open(f"{PROC}/self/task/{self._thread.native_id}/children", "rb", buffering=0) as file:
            return [int(pid) for pid in file.read(64).split()]

    def _looks(self) -> Iterator[None]:
        """Whenever it is time to look again, while there is something to wait for; less and less often.

        Eleven supervisors that looked every 20 us left two processors no time at all for the children they waited for.
        """
        deadline, pause_s = time.monotonic() + _HELD_S, _SOON_S
        while not self.is_over and time.monotonic() < deadline:
            yield
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.1, _LATER_S)

    def _is_bound(self, pid: int, limits: dict[str, float], beside: int) -> bool:
        """Set its limits; where one is refused it ends here, and nobody who comes to the gate later lets it through."""
        try:
            self._group.enter(pid)
            _bound(pid, limits, beside + self._machine.groups.threads)
            if self._is_for_job:  # a session's process lives through many executions
                kernel.set_limit(pid, resource.RLIMIT_CPU, int(limits["cpu_s"]) + 2)
                score_for_end(pid, FIRST_TO_GO)
        except OSError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return False
        return True


def _bound(pid: int, limits: dict[str, float], beside: int) -> None:
    """The limits that the kernel counts for a process, soft and hard."""
    for kind, value in (
        (resource.RLIMIT_FSIZE, int(limits["file_mib"]) << 20),
        (resource.RLIMIT_NOFILE, int(limits["open_files"])),
        (resource.RLIMIT_NPROC, int(limits["processes"]) + OWN_THREADS + beside),
        (_SIGPENDING, _PENDING_MAX),
    ):
        kernel.set_limit(pid, kind, value)


def open_score(pid: int) -> FileIO:
    """Where it is said whom the kernel ends first when memory ends. Raises OSError: gone, or undumpable, so root's."""
    return open(f"{PROC}/{pid}/oom_score_adj", "wb", buffering=0)


def score_for_end(pid: int, score: bytes) -> None:
    """See `open_score`."""
    with open_score(pid) as file:
        file.write(score)
