"""Starting a job: a thread that wears the sandbox spawns it, held at a gate until its limits are set.

Namespaces, capabilities, no_new_privs and seccomp belong to a *thread* in the kernel: a thread puts them on,
spawns by posix_spawn (no fork of a big process), and ends; the supervisor stays as it was. The thread is made
ready before its job comes, so that what it puts on (0.3 ms) is not on the path.

Limits belong to a process and posix_spawn cannot set any. Set from outside afterwards they come too late for a
fast fork, and a program that sets them and then becomes the job costs 0.8 ms. So the child opens a named pipe
before its exec and sleeps there until we, having set its limits, open the other end.
"""

import os
import platform
import resource
import threading
import time
from collections.abc import Callable
from typing import Any

from rewindbox.backends.namespace import kernel, seccomp
from rewindbox.backends.namespace.guard import Guard
from rewindbox.backends.namespace.machine import GATE, GATE_INSIDE, PROC, Machine

OWN_THREADS = 6
"""What RLIMIT_NPROC counts besides the job: pid 1, and our threads (same user, same user namespace)."""
_DEFAULT_SLACK_NS = 50_000
"""The kernel's own; the supervisor, which waits for a gate, has less."""
_HELD_S = 5.0
"""A child that is not at the gate by then never will be."""


class Spawner:
    """Starts one job."""

    def __init__(self, machine: Machine, wake: int, guard: Guard | None = None) -> None:
        """Get ready. `wake` is written to when the start is over, well (`pid`) or badly (`failure`).

        `guard`: is asked before anything that it starts signals another process.
        """
        self.pid: int | None = None
        self.failure: OSError | None = None
        self.ipc_ns = -1
        """Open until `close`."""
        self._machine, self._wake, self._guard = machine, wake, guard
        self._spawn: Callable[[], int] | None = None
        self._streams: list[int] = []
        self._ordered = threading.Semaphore(0)
        self._is_over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def start(self, order: dict[str, Any], streams: list[int], beside: int = 0) -> bool:
        """Start this job, up to the gate; False: its limits could not be set, so it must not go on.

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

    def let_go(self) -> None:
        """Open the gate."""
        deadline = time.monotonic() + _HELD_S
        _let_through(lambda: self._is_over or time.monotonic() > deadline)

    def dismiss(self) -> None:
        """There will be no job for it."""
        self._spawn = _nothing
        self._ordered.release()
        self._thread.join()
        self.close()

    def close(self) -> None:
        """The job is over."""
        if self.ipc_ns >= 0:
            os.close(self.ipc_ns)
            self.ipc_ns = -1

    def _run(self) -> None:
        try:
            self._put_on_sandbox()
            self._ordered.acquire()
            assert self._spawn is not None
            self.pid = self._spawn()
        except OSError as error:
            self.failure = error
            if not self._streams:
                self._ordered.acquire()
        finally:
            self._is_over = True
            for stream in self._streams:
                os.close(stream)
            os.write(self._wake, b"!")

    def _put_on_sandbox(self) -> None:
        """The job gets an ipc namespace of its own: its segments and queues go when it goes."""
        kernel.unshare(kernel.CLONE_FS | kernel.NEWIPC)
        kernel.set_timer_slack(_DEFAULT_SLACK_NS)
        self.ipc_ns = os.open("/proc/thread-self/ns/ipc", os.O_RDONLY | os.O_CLOEXEC)
        kernel.setns(self._machine.pid_ns, kernel.NEWPID)
        kernel.setns(self._machine.mount_ns, kernel.NEWNS)
        kernel.empty_bounding_set()
        kernel.no_new_privileges()
        listener = seccomp.install(platform.machine(), guarded=self._guard is not None)
        if self._guard is not None:
            self._guard.watch(listener)

    def _bound_at_gate(self, limits: dict[str, float], beside: int) -> bool:
        """Wait for the child and set its limits."""
        deadline = time.monotonic() + _HELD_S
        children = f"{PROC}/self/task/{self._thread.native_id}/children"
        while not self._is_over and time.monotonic() < deadline:
            try:
                with open(children, "rb", buffering=0) as file:
                    pids = file.read(64).split()
                if pids:
                    _bound(int(pids[0]), limits, beside)
                    return True
            except OSError:  # no descriptor is left, or the child is gone
                return False
            time.sleep(0.00002)
        return False


def _nothing() -> int:
    return 0


def _bound(pid: int, limits: dict[str, float], beside: int) -> None:
    """The limits that the kernel counts for a process, soft and hard."""
    for kind, value in (
        (resource.RLIMIT_FSIZE, int(limits["file_mib"]) << 20),
        (resource.RLIMIT_NOFILE, int(limits["open_files"])),
        (resource.RLIMIT_NPROC, int(limits["processes"]) + OWN_THREADS + beside),
    ):
        kernel.set_limit(pid, kind, value)


def _let_through(is_over: Any) -> None:
    """Open the gate's other end as soon as somebody waits at it."""
    while not is_over():
        try:
            os.close(os.open(GATE, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:  # ENXIO: nobody yet
            time.sleep(0.00002)
        else:
            return
