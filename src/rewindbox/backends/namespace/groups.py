"""Control groups: what the kernel counts for all that runs in a vm, and refuses beyond its limits.

The launcher claims ground before it gives up its privileges: a folder below the group that it was started in, given
to whom it becomes. Each vm has two groups there, for its jobs and for its sessions. Its supervisor is in neither, so
that its own memory is not counted and it is never chosen when memory runs out. Whether a host lets us is found by
doing it: where a step is refused, the ground is nowhere and says why, and limits are watched only.

Version 1, as root: membership belongs to a *thread*. One thread joins, once in a vm's life (the first move in a
while takes the kernel up to 30 ms), and gives birth to those that start jobs: what they start is in from birth.
Version 2, where it is delegated: membership belongs to a process, which is moved while it waits at the gate.

The code inside reaches none of this: it has no /sys, mounts nothing, and sees no process that could.
"""

import contextlib
import errno
import os
import queue
import re
import threading
import time
from dataclasses import dataclass, field

CONTROLLERS = ("memory", "pids")
NAMES = ("jobs", "sessions")
_PREFIX = "rewindbox-"
_CALLER = f"{_PREFIX}caller"
_OURS = re.compile(rf"{_PREFIX}(\d+)")
_ENDING_S = 2.0
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


_FILES = {
    1: _Files(
        join="tasks",
        limit="memory.limit_in_bytes",
        swap="memory.memsw.limit_in_bytes",
        used="memory.usage_in_bytes",
        events="memory.oom_control",
    ),
    2: _Files(
        join="cgroup.procs",
        limit="memory.max",
        swap="memory.swap.max",
        used="memory.current",
        events="memory.events",
    ),
}


@dataclass(frozen=True)
class Ground:
    """Where a launcher makes the groups of its vms, or why it cannot."""

    version: int = 0
    """0: nowhere."""
    folders: dict[str, str] = field(default_factory=dict)
    """Controller -> folder; in version 2 all the same one."""
    why_not: str = ""

    def with_groups(self, number: int) -> "Ground":
        """This, where the groups of one vm can be made now; else nowhere."""
        try:
            for folder in sorted(set(self.folders.values())):
                for name in NAMES:
                    os.mkdir(f"{folder}/{number}-{name}")
        except OSError as error:
            self.remove(number)
            return Ground(why_not=f"a control group cannot be made: {error.strerror}")
        return self

    def remove(self, number: int) -> bool:
        """Whether the groups of a vm are gone; False: something still ends there."""
        folders = [f"{folder}/{number}-{name}" for folder in self.folders.values() for name in NAMES]
        return not [folder for folder in folders if not _is_removed(folder)]

    def close(self, numbers: set[int]) -> None:
        """Remove the groups of these vms, which are ending."""
        deadline = time.monotonic() + _ENDING_S
        while (numbers := {number for number in numbers if not self.remove(number)}) and time.monotonic() < deadline:
            time.sleep(0.001)

    def open(self, number: int) -> "Groups":
        """The groups of a vm, for its supervisor."""
        if not self.version:
            return Groups(Nowhere(self.why_not), Nowhere(self.why_not))
        jobs, sessions = (self._descriptors(f"{number}-{name}") for name in NAMES)
        return Groups(Group(self.version, jobs, ends_together=True), Group(self.version, sessions))

    def _descriptors(self, name: str) -> dict[str, int]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        return {controller: os.open(f"{folder}/{name}", flags) for controller, folder in self.folders.items()}


class Nowhere:
    """In place of a group, where there can be none: nothing is refused here."""

    def __init__(self, why_not: str) -> None:
        self.why_not = why_not
        self.version = 0
        self.threads = 0
        """How many threads of ours live in it."""

    def open_up(self) -> None:
        """Have somebody inside, so that others can be born there; does not wait."""

    def holds(self) -> bool:
        """Whether limits are the kernel's here."""
        return False

    def counts(self, controller: str) -> bool:
        """Whether there is a limit of this kind."""
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
        self._births: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
        self._joined = threading.Event()
        self._has_mother = False
        if not os.path.exists(f"/proc/self/fd/{folders['memory']}/{self._files.swap}") and _has_swap():
            self.why_not = "this kernel does not count swap for a control group"

    def open_up(self) -> None:
        """See `Nowhere.open_up`."""
        if self.version == 1 and not self._has_mother:
            self._has_mother = True
            threading.Thread(target=self._bear, daemon=True).start()

    def holds(self) -> bool:
        """See `Nowhere.holds`. That a limit is taken, `restrict` says."""
        self.open_up()
        return (self.version == 2 or self._joined.wait(_ENDING_S)) and not self.why_not

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
            for folder in self._folders.values():
                _write(self._files.join, b"0", folder)
        except OSError as error:
            self.why_not = f"joining a control group: {error.strerror}"
        self._joined.set()
        while True:
            self._births.get().start()

    def enter(self, pid: int) -> None:
        """See `Nowhere.enter`."""
        if self.version == 2:
            _write(self._files.join, b"%d" % pid, self._folders["memory"])

    def restrict(self, memory_bytes: int, processes: int) -> None:
        """See `Nowhere.restrict`. What is in memory that can be given up (files) is given up for it."""
        if (memory_bytes, processes) == self._limits:
            return
        memory, files, before = self._folders["memory"], self._files, self._limits[0]
        if self.version == 2:
            _write_where_there(files.swap, b"0", memory)
            _write_where_there("memory.oom.group", b"%d" % self._ends_together, memory)
            _write(files.limit, b"%d" % memory_bytes, memory)
        else:
            both = [(_write, files.limit), (_write_where_there, files.swap)]  # the first may not pass the second
            for write, name in both if memory_bytes <= before or not before else reversed(both):
                write(name, b"%d" % memory_bytes, memory)
        if "pids" in self._folders:
            _write("pids.max", b"%d" % max(processes + self.threads, _SPAWNING), self._folders["pids"])
        self._limits = (memory_bytes, processes)

    def used_bytes(self) -> int:
        """See `Nowhere.used_bytes`."""
        return int(os.pread(self._used, 64, 0))

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


def claim(owner: os.stat_result) -> Ground:
    """Call before privileges are dropped: ground for whoever owns the vms. What a crash has left is removed."""
    try:
        own = _own_folders_now()
        sweep(own)
        return claim_below(own, owner.st_uid, owner.st_gid)
    except OSError as error:
        return Ground(why_not=f"a control group cannot be made: {error.strerror}")


def claim_below(own: dict[str, str], uid: int, gid: int) -> Ground:
    """See `claim`; `own` is what `own_folders` found. Raises OSError."""
    first = {name: own[name] for name in CONTROLLERS if name in own}
    if "memory" in first:
        if os.getuid() != 0:
            return Ground(why_not="control groups of version 1 are for root only")
        folders = {name: f"{folder}/{_PREFIX}{os.getpid()}" for name, folder in first.items()}
        for folder in folders.values():
            os.mkdir(folder)
            _give(folder, uid, gid)
        return Ground(1, folders)
    if "" in own:
        return _claim_delegated(own[""], uid, gid)
    return Ground(why_not="no control groups that count memory are mounted")


def _claim_delegated(own: str, uid: int, gid: int) -> Ground:
    """Version 2: a group has processes or groups below it that are limited, never both."""
    if not os.access(own, os.W_OK):
        return Ground(why_not="no control group is delegated to us; `systemd-run --user --scope -p Delegate=yes` does")
    if "memory" not in _read(f"{own}/cgroup.controllers").split():
        return Ground(why_not="the control group delegated to us cannot limit memory")
    names = [name for name in CONTROLLERS if name in _read(f"{own}/cgroup.controllers").split()]
    wanted = " ".join(f"+{name}" for name in names).encode()
    try:
        _write(f"{own}/cgroup.subtree_control", wanted)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        others = {int(pid) for pid in _read(f"{own}/cgroup.procs").split()} - {os.getpid(), os.getppid()}
        if others:
            return Ground(why_not=f"{len(others)} other processes are in our control group, which must be our own")
        _move_all(f"{own}/{_CALLER}", [os.getppid(), os.getpid()])
        _write(f"{own}/cgroup.subtree_control", wanted)
    base = f"{own}/{_PREFIX}{os.getpid()}"
    os.mkdir(base)
    _write(f"{base}/cgroup.subtree_control", wanted)
    _give(base, uid, gid)
    _move_all(f"{base}/home", [os.getpid()])  # whoever moves a process must own all groups on its way
    return Ground(2, dict.fromkeys(names, base))


def _own_folders_now() -> dict[str, str]:
    with open("/proc/self/cgroup", encoding="utf-8") as groups, open("/proc/self/mountinfo", "rb") as mounts:
        return own_folders(groups.read(), os.fsdecode(mounts.read()))


def own_folders(groups: str, mounts: str) -> dict[str, str]:
    """Controller -> the folder of the group that we are in; "" stands for version 2.

    In: /proc/self/cgroup and /proc/self/mountinfo. A mount shows a tree from some group on: the fourth word.
    Where one of us has put who called it, that is the group above, which was ours before.
    """
    paths = {}
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    folders = {}
    for words in map(str.split, mounts.splitlines()):
        kind, root, place = words[words.index("-") + 1], words[3].rstrip("/"), words[4]
        names = {"cgroup": set(words[-1].split(",")), "cgroup2": {""}}.get(kind, set())
        for name in names & paths.keys():
            if f"{paths[name]}/".startswith(f"{root}/"):
                folders[name] = (place + paths[name][len(root) :].rstrip("/")).removesuffix(f"/{_CALLER}")
    return folders


def sweep(own: dict[str, str] | None = None) -> None:
    """Remove what launchers that are no more have left in the group that we are in. Never raises.

    An empty group is all that can be removed: nobody is ended by it.
    """
    with contextlib.suppress(OSError):
        own = _own_folders_now() if own is None else own
        for folder in {own[name] for name in (*CONTROLLERS, "") if name in own}:
            for name in os.listdir(folder):
                found = _OURS.fullmatch(name)
                if found is not None and not os.path.exists(f"/proc/{found[1]}"):
                    _remove_tree(f"{folder}/{name}")


def _remove_tree(folder: str) -> None:
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            _is_removed(entry.path)
    _is_removed(folder)


def _is_removed(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _give(folder: str, uid: int, gid: int) -> None:
    """To whom the launcher becomes: to make groups below, and to move its own processes there. No limit of it."""
    if os.getuid() == 0:
        for name in (folder, *(f"{folder}/{name}" for name in ("cgroup.procs", "tasks", "cgroup.subtree_control"))):
            with contextlib.suppress(FileNotFoundError):
                os.chown(name, uid, gid)


def _move_all(folder: str, pids: list[int]) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder)
    for pid in pids:
        _write(f"{folder}/cgroup.procs", b"%d" % pid)


def _has_swap() -> bool:
    return len(_read("/proc/swaps").splitlines()) > 1


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _write(name: str, value: bytes, folder: int | None = None) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.write(descriptor, value)
    finally:
        os.close(descriptor)


def _write_where_there(name: str, value: bytes, folder: int) -> None:
    """A kernel that does not count swap has no file for it."""
    with contextlib.suppress(FileNotFoundError):
        _write(name, value, folder)
