"""Control groups: what the kernel counts for all that runs in a vm, and refuses beyond its limits.

Each vm has two, on the ground that its launcher claims (ground.py): for its jobs and for its sessions. Its supervisor
is in neither, so that its own memory is not counted and it is never chosen when memory runs out. Whether a host lets
us is found by doing it: where a step is refused a group says why it does not hold, and limits are watched only.

All vms of one launcher together weigh as much as one program of the host, on each processor, however many sessions
their code makes: without that a kernel with autogroups gives each session as much as the host's (measured: a program
beside 100 that spin had 2 % of a processor, and 47 % with it).

Version 1, as root: membership belongs to a *thread*. One thread joins, once in a vm's life (the first move in a
while takes the kernel up to 30 ms), and gives birth to those that start jobs: what they start is in from birth.
Version 2, where it is delegated: membership belongs to a process, which is moved while it waits at the gate.

The code inside reaches none of this: it has no /sys, mounts nothing, and sees no process that could.
"""

import contextlib
import os
import queue
import re
import socket
import threading
from dataclasses import dataclass

from rewindbox.backends.namespace import kernel

WEIGHT = "cpu"
TIME = "cpuacct"
"""Version 1 counts the processor's time by a controller; version 2 in every group."""
MAY_LACK = (WEIGHT, TIME)
"""Controllers that refuse nothing: where there is none, vms have their limits all the same."""
_JOINING_S = 2.0
_SPAWNING = 4
"""So many there must be room for: the thread that joined it, one that starts a job, one that was to, and the job."""
_OOM_KILLS = re.compile(rb"^oom_kill (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class _Files:
    """What a version calls things."""

    join: str
    limit: str
    swap: str
    used: str
    events: str
    time: tuple[str, str]
    """The controller, and its file with the CPU time."""


_FILES = {
    1: _Files(
        join="tasks",
        limit="memory.limit_in_bytes",
        swap="memory.memsw.limit_in_bytes",
        used="memory.usage_in_bytes",
        events="memory.oom_control",
        time=(TIME, "cpuacct.usage"),
    ),
    2: _Files(
        join="cgroup.procs",
        limit="memory.max",
        swap="memory.swap.max",
        used="memory.current",
        events="memory.events",
        time=("memory", "cpu.stat"),
    ),
}


class Nowhere:
    """In place of a group, where there can be none: nothing is refused here."""

    def __init__(self, why_not: str) -> None:
        self.why_not = why_not
        self.version = 0
        self.threads = 0
        """How many threads of ours live in it."""

    def prepare(self) -> None:
        """While its supervisor is one thread: get ready what `conceal` needs."""

    def open_up(self) -> None:
        """Have somebody inside, so that others can be born there; does not wait."""

    def conceal(self) -> None:
        """What the calling thread starts from now on is not told what the host calls its groups."""
        if os.path.exists("/proc/self/ns/cgroup"):
            kernel.unshare(kernel.NEWCGROUP)

    def holds(self) -> bool:
        """Whether limits are the kernel's here."""
        return False

    def counts(self, controller: str) -> bool:
        """Whether there is a limit, or a weight, of this kind."""
        return False

    def start(self, thread: threading.Thread) -> None:
        """Start a thread that starts what is to be in the group."""
        thread.start()

    def enter(self, pid: int) -> None:
        """Move a process that was just started, where its thread could not be."""

    def restrict(self, memory_bytes: int, processes: int) -> None:
        """From now on it has no more than this."""

    def used_bytes(self) -> int:
        """What is counted now."""
        return 0

    def cpu_s(self) -> float:
        """CPU time of all that have ever been in it; 0 where nobody counts."""
        return 0.0

    def kills(self) -> int:
        """How many processes the kernel has ended because memory ran out, ever."""
        return 0


class Group(Nowhere):
    """One control group of a vm. Raises OSError: the kernel refused."""

    def __init__(self, version: int, folders: dict[str, int], *, ends_together: bool = False) -> None:
        """`folders`: controller -> descriptor of the group's folder.

        `ends_together`: where one must be ended for want of memory all may be; not so where checkpoints are.
        """
        super().__init__("")
        self.version, self.threads = version, int(version == 1)
        self._folders, self._files = folders, _FILES[version]
        self._ends_together = ends_together
        self._limits = (0, 0)
        self._events, self._used = (
            os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folders["memory"])
            for name in (self._files.events, self._files.used)
        )
        controller, name = self._files.time
        self._time = (
            os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folders[controller]) if controller in folders else -1
        )
        self._births: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
        self._joined = threading.Event()
        self._has_mother = False
        self._namespace = -1
        if not os.path.exists(f"/proc/self/fd/{folders['memory']}/{self._files.swap}") and _has_swap():
            self.why_not = "this kernel does not count swap for a control group"

    def prepare(self) -> None:
        """See `Nowhere.prepare`. A namespace begins at the group it was made in: a child of ours makes it there."""
        if self.version == 1:  # who conceals is in the group
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        child = os.fork()
        if child == 0:
            self._make_namespace(theirs)
        theirs.close()
        with ours:
            descriptors = socket.recv_fds(ours, 1, 1, socket.MSG_CMSG_CLOEXEC)[1]
        os.waitpid(child, 0)
        if descriptors:
            self._namespace = descriptors[0]
        else:
            self.why_not = "this kernel makes no namespace of a control group"

    def _make_namespace(self, link: socket.socket) -> None:
        """Never returns."""
        try:
            self._join()
            kernel.unshare(kernel.NEWCGROUP)
            socket.send_fds(link, [b"!"], [os.open("/proc/self/ns/cgroup", os.O_RDONLY | os.O_CLOEXEC)])
        finally:
            os._exit(0)

    def conceal(self) -> None:
        """See `Nowhere.conceal`."""
        if self._namespace < 0:
            super().conceal()
        else:
            kernel.setns(self._namespace, kernel.NEWCGROUP)

    def open_up(self) -> None:
        """See `Nowhere.open_up`."""
        if self.version == 1 and not self._has_mother:
            self._has_mother = True
            threading.Thread(target=self._bear, daemon=True).start()

    def holds(self) -> bool:
        """See `Nowhere.holds`. That a limit is taken, `restrict` says."""
        self.open_up()
        return (self.version == 2 or self._joined.wait(_JOINING_S)) and not self.why_not

    def counts(self, controller: str) -> bool:
        """See `Nowhere.counts`."""
        return controller in self._folders and self.holds()

    def start(self, thread: threading.Thread) -> None:
        """See `Nowhere.start`."""
        if self.version == 1:
            self.open_up()
            self._births.put(thread)
        else:
            thread.start()

    def _bear(self) -> None:
        """A thread that is in the group, and has those that come after it start in it, too."""
        try:
            self._join()
        except OSError as error:
            self.why_not = f"joining a control group: {error.strerror}"
        self._joined.set()
        while True:
            self._births.get().start()

    def _join(self) -> None:
        for controller, folder in list(self._folders.items()):
            try:
                write(self._files.join, b"0", folder)
            except OSError:
                if controller not in MAY_LACK:
                    raise
                del self._folders[controller]  # as where real-time threads may only be where time is set aside for them

    def enter(self, pid: int) -> None:
        """See `Nowhere.enter`."""
        if self.version == 2:
            write(self._files.join, b"%d" % pid, self._folders["memory"])

    def restrict(self, memory_bytes: int, processes: int) -> None:
        """See `Nowhere.restrict`. What is in memory that can be given up (files) is given up for it."""
        if (memory_bytes, processes) == self._limits:
            return
        memory, files, before = self._folders["memory"], self._files, self._limits[0]
        if self.version == 2:
            _write_where_there(files.swap, b"0", memory)
            _write_where_there("memory.oom.group", b"%d" % self._ends_together, memory)
            write(files.limit, b"%d" % memory_bytes, memory)
        else:
            both = [(write, files.limit), (_write_where_there, files.swap)]  # the first may not pass the second
            for say, name in both if memory_bytes <= before or not before else reversed(both):
                say(name, b"%d" % memory_bytes, memory)
        if "pids" in self._folders:
            write("pids.max", b"%d" % max(processes + self.threads, _SPAWNING), self._folders["pids"])
        self._limits = (memory_bytes, processes)

    def used_bytes(self) -> int:
        """See `Nowhere.used_bytes`."""
        return int(os.pread(self._used, 64, 0))

    def cpu_s(self) -> float:
        """See `Nowhere.cpu_s`. The file begins with nanoseconds (version 1), or `usage_usec` and microseconds."""
        if self._time < 0:
            return 0.0
        text = os.pread(self._time, 4096, 0)
        return int(text) / 1e9 if self.version == 1 else int(text.split(None, 2)[1]) / 1e6

    def kills(self) -> int:
        """See `Nowhere.kills`."""
        found = _OOM_KILLS.search(os.pread(self._events, 4096, 0))
        return int(found[1]) if found is not None else 0


@dataclass(frozen=True)
class Groups:
    """Those of one vm."""

    jobs: Nowhere
    sessions: Nowhere

    @property
    def threads(self) -> int:
        """See `Nowhere.threads`."""
        return self.jobs.threads + self.sessions.threads

    def prepare(self) -> None:
        """See `Nowhere.prepare`; and jobs can be born from now on."""
        self.jobs.prepare()
        self.sessions.prepare()
        self.jobs.open_up()


def _has_swap() -> bool:
    with open("/proc/swaps", encoding="utf-8") as file:
        return len(file.readlines()) > 1


def write(name: str, value: bytes, folder: int | None = None) -> None:
    """Say something to a control group. Raises OSError: the kernel refused."""
    descriptor = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.write(descriptor, value)
    finally:
        os.close(descriptor)


def _write_where_there(name: str, value: bytes, folder: int) -> None:
    """A kernel that does not count swap has no file for it."""
    with contextlib.suppress(FileNotFoundError):
        write(name, value, folder)
