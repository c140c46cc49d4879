"""Ground: where a launcher makes the control groups of its vms, or why there is none.

The launcher claims it before it gives up its privileges: a folder below the group that it was started in, given to
whom it becomes. Whether a host lets us is found by doing it: where a step is refused, the ground is nowhere and says
why. What launchers that are no more have left is removed where it stands.
"""

import contextlib
import errno
import os
import re
import time
from dataclasses import dataclass, field

from rewindbox.backends.namespace.groups import MAY_LACK, TIME, WEIGHT, Group, Groups, Nowhere, write

CONTROLLERS = ("memory", "pids", WEIGHT, TIME)
NAMES = ("jobs", "sessions")
_PREFIX = "rewindbox-"
_CALLER = f"{_PREFIX}caller"
_OURS = re.compile(rf"{_PREFIX}(\d+)")
_ENDING_S = 2.0
_OUR_WEIGHT = b"10000"
"""Version 2: of supervisors beside groups of vms (100 each): who ends code must not wait for it. It is the most."""
_NOT_ALONE = (
    "{} processes that did not call us are in our control group, which must be our own; "
    "`systemd-run --scope -p Delegate=yes` makes one"
)


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
        return Ground(1, {name: folder for name, folder in folders.items() if _is_made(folder, name, uid, gid)})
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
    try:
        names = _divide(own, names)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        inside = {int(pid) for pid in _read(f"{own}/cgroup.procs").split()}
        callers = ancestors() if is_delegated(own) else ancestors()[-2:]  # root may write everywhere: no login is moved
        if others := inside.difference(callers):
            return Ground(why_not=_NOT_ALONE.format(len(others)))
        _move_all(f"{own}/{_CALLER}", [pid for pid in callers if pid in inside])
        names = _divide(own, names)
    base = f"{own}/{_PREFIX}{os.getpid()}"
    os.mkdir(base)
    names = _divide(base, names)
    _give(base, uid, gid)
    _move_all(f"{base}/home", [os.getpid()])  # whoever moves a process must own all groups on its way
    if WEIGHT in names:
        write(f"{base}/home/cpu.weight", _OUR_WEIGHT)
    return Ground(2, dict.fromkeys(names, base))


def _divide(folder: str, names: list[str]) -> list[str]:
    """Count below a folder by these controllers -> those that do. Raises OSError: one that limits does not."""
    limits = [name for name in names if name != WEIGHT]
    write(f"{folder}/cgroup.subtree_control", " ".join(f"+{name}" for name in limits).encode())
    if WEIGHT in names:
        with contextlib.suppress(OSError):
            write(f"{folder}/cgroup.subtree_control", f"+{WEIGHT}".encode())
            return [*limits, WEIGHT]
    return limits


def _is_made(folder: str, controller: str, uid: int, gid: int) -> bool:
    """Version 1: where we make the groups of vms; without what limits nothing if that is refused. Raises OSError."""
    try:
        os.mkdir(folder)
    except OSError as error:
        if controller not in MAY_LACK:
            raise
        return controller == TIME and error.errno == errno.EEXIST  # mounted together with weight
    _give(folder, uid, gid)
    return True


def is_delegated(folder: str) -> bool:
    """Whether a group is its processes' to divide: its owner says so, and where that is root systemd's mark."""
    with contextlib.suppress(OSError):
        return os.stat(folder).st_uid == os.getuid() != 0 or os.getxattr(folder, "user.delegate") == b"1"
    return False


def ancestors() -> list[int]:
    """Whoever called us first, and so on down to us: a shell, `make`, whatever was started in a group for our sake."""
    pids, parent = [os.getpid()], os.getppid()
    with contextlib.suppress(OSError):  # it ended, or /proc hides it: whoever is above is none of ours
        while parent > 0:
            pids.append(parent)
            parent = int(_read(f"/proc/{parent}/stat").rpartition(")")[2].split()[1])
    return pids[::-1]


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
        write(f"{folder}/cgroup.procs", b"%d" % pid)


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
