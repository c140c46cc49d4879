"""System calls that the standard library does not have, by ctypes; each raises OSError with a name in it.

x86-64 and aarch64 by a table of numbers; a machine that is not in it is refused with a sentence. Standard
library only: this runs in the supervisor, which is started without site-packages.
"""

import contextlib
import ctypes
import os
import platform
import resource
import struct
from collections.abc import Callable, Sequence

NEWNS, NEWUTS, NEWIPC = 0x00020000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET, NEWCGROUP = 0x10000000, 0x20000000, 0x40000000, 0x02000000
CLONE_FS = 0x00000200

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC = 1, 2, 4, 8

RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_IN_ROOT = 0x01, 0x02, 0x04, 0x10

_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4
_FSPICK_EMPTY_PATH, _FSCONFIG_SET_FLAG, _FSCONFIG_CMD_RECONFIGURE = 8, 0, 7
_PR_SET_TIMERSLACK, _PR_SET_CHILD_SUBREAPER = 29, 36
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 4, 24, 38, 47
_OPEN_TRIES = 1000
_LAST_CAPABILITY = 63  # prctl answers EINVAL for those that a kernel does not have
_CAPABILITY_VERSION_3 = 0x20080522

# Since 5.0 both tables number new calls alike; only older ones differ.
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_OPEN_TREE, _MOVE_MOUNT, _FSCONFIG, _FSPICK, _OPENAT2, _MOUNT_SETATTR = 428, 429, 431, 433, 437, 442
_PIDFD_GETFD = 438

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(what: str, number: int, *arguments: object) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *arguments), what)


def call(what: str, number: int, *arguments: object) -> int:
    """A system call that only one place makes. Raises OSError with `what` in it."""
    return _syscall(what, number, *arguments)


def unshare(flags: int) -> None:
    """Leave namespaces (or, for a thread, the shared working directory: CLONE_FS)."""
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """Enter a namespace. For a mount namespace the calling thread must have unshared CLONE_FS."""
    _check(_libc.setns(descriptor, kind), "setns")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2). `data` is at most one page; use short relative names."""
    encoded = [part.encode() if part is not None else None for part in (source, target, kind, data)]
    _check(
        _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]),
        f"mount {kind or 'bind'} on {target}",
    )


def umount(target: str) -> None:
    """Detach a mount at once, however busy it is."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def pivot_root_here() -> None:
    """Make the mount of the working directory the root of the namespace; drop the old root."""
    _syscall("pivot_root", _PIVOT_ROOT[platform.machine()], b".", b".")
    umount(".")
    os.chdir("/")


def open_tree(path: str) -> int:
    """A detached copy of the mount at `path`, as a descriptor."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    return _syscall("open_tree", _OPEN_TREE, _AT_FDCWD, path.encode(), flags)


def move_mount(tree: int, target: str) -> None:
    """Attach a detached mount."""
    _syscall("move_mount", _MOVE_MOUNT, tree, b"", _AT_FDCWD, target.encode(), _MOVE_MOUNT_F_EMPTY_PATH)


def set_mount_attributes(path: str, attributes: int) -> None:
    """Add ATTR_* to the mount at `path` and all below it."""
    block = struct.pack("QQQQ", attributes, 0, 0, 0)
    _syscall("mount_setattr", _MOUNT_SETATTR, _AT_FDCWD, path.encode(), _AT_RECURSIVE, block, len(block))


def make_readonly(root: int) -> None:
    """Make the whole file system behind an O_PATH descriptor read-only, 0.1 ms.

    Raises OSError EBUSY when somebody still writes: an open descriptor, a shared mapping, or an unlinked
    file that is still open.
    """
    picked = _syscall("fspick", _FSPICK, root, b"", _FSPICK_EMPTY_PATH | 1)  # 1: FSPICK_CLOEXEC
    try:
        _syscall("fsconfig ro", _FSCONFIG, picked, _FSCONFIG_SET_FLAG, b"ro", None, 0)
        _syscall("fsconfig reconfigure", _FSCONFIG, picked, _FSCONFIG_CMD_RECONFIGURE, None, None, 0)
    finally:
        os.close(picked)


def openat2(folder: int, path: str, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """open() that can be told where it may not lead (RESOLVE_*).

    Any rename or mount on the host while the kernel walks a `..` makes it say EAGAIN: it could not be sure
    (openat2(2)). Asked again it is, unless somebody renames without end.
    """
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(_OPEN_TRIES):
        with contextlib.suppress(BlockingIOError):
            return _syscall(f"open {path}", _OPENAT2, folder, os.fsencode(path), how, len(how))
    return _syscall(f"open {path}", _OPENAT2, folder, os.fsencode(path), how, len(how))


def copy_descriptor(process: int, number: int) -> int:
    """A copy of a descriptor of another process, which is given by its handle."""
    return _syscall("copy a descriptor", _PIDFD_GETFD, process, number, 0)


def set_dumpable(dumpable: bool) -> None:
    """Whether the files of this process in /proc belong to its own user."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, int(dumpable), 0, 0, 0), "prctl dumpable")


def adopt_orphans() -> None:
    """Descendants whose parent ends become children of this process, not of the host's init."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl subreaper")


def no_new_privileges() -> None:
    """For the calling thread and its children, for ever: exec gives nothing."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl no_new_privs")


def empty_bounding_set() -> None:
    """For the calling thread and its children: no exec gives a capability.

    The effective set stays until then on purpose: a child that had dropped it before its exec could be
    read by code of the same user, memory and all.
    """
    for capability in range(_LAST_CAPABILITY + 1):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            return


def keep_capability_over_exec(capability: int) -> None:
    """Hold one capability beyond the next exec (inheritable and ambient).

    Code without it can then neither trace the process nor open its memory.
    """
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    data = bytearray(24)
    buffer = (ctypes.c_char * 24).from_buffer(data)
    _check(_libc.capget(header, buffer), "capget")
    sets = list(struct.unpack("6I", data))
    sets[(capability // 32) * 3 + 2] |= 1 << (capability % 32)
    data[:] = struct.pack("6I", *sets)
    _check(_libc.capset(header, buffer), "capset")
    _check(_libc.prctl(_PR_CAP_AMBIENT, 2, capability, 0, 0), "prctl ambient")


NO_DUMP_BYTES = 1
"""A limit of core dumps, at which none is made: no file is that short, and no program of the host is started for it.

At 0 one is, where /proc/sys/kernel/core_pattern names it, and reads as root what code has made: core(5), and
do_coredump() in the kernel's fs/coredump.c.
"""


def core_pattern() -> bytes:
    """Where the kernel puts core dumps: a file, or behind `|` a program, or behind `@` a socket; see core(5)."""
    with open("/proc/sys/kernel/core_pattern", "rb") as file:
        return file.read()


def set_limit(pid: int, kind: int, value: int) -> None:
    """Set a resource limit of a process (0: our own), soft and hard, to `value` or what is allowed at most."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.prlimit(pid, kind, (value, value))


def attribute_bytes(path: str, name: str) -> int:
    """The size of an extended attribute, without reading it: of 64 KiB that takes 50 times as long. Follows no link."""
    return _check(_libc.lgetxattr(os.fsencode(path), os.fsencode(name), None, ctypes.c_size_t(0)), "lgetxattr")


def remove_ipc(kind: str, number: int) -> None:
    """Remove a System V object: `shm`, `msg` or `sem`. Nothing happens where it is gone, or not ours."""
    if kind == "sem":
        _libc.semctl(number, 0, 0)
    else:
        getattr(_libc, f"{kind}ctl")(number, 0, None)


def prepared_spawn(
    program: str, words: Sequence[str], environment: Sequence[str], folder: str, streams: Sequence[int], gate: str
) -> Callable[[], int]:
    """A call of posix_spawn, ready to be made by another thread; it returns the pid of the child.

    The child has a session of its own and default signals; `streams` become its descriptors 0, 1, 2. Before its
    exec it opens the named pipe `gate` for reading, and so sleeps until somebody opens it for writing. Through
    ctypes, because that releases the interpreter's lock: a child that hostile code stops before its exec hangs
    only the calling thread.
    """
    actions, attributes = ctypes.create_string_buffer(512), ctypes.create_string_buffer(512)
    _libc.posix_spawn_file_actions_init(actions)
    _libc.posix_spawnattr_init(attributes)
    _libc.posix_spawnattr_setflags(attributes, ctypes.c_short(0x80 | 0x04 | 0x08))  # SETSID SIGDEF SIGMASK
    _libc.posix_spawnattr_setsigdefault(attributes, ctypes.create_string_buffer(b"\xff" * 128))
    _libc.posix_spawnattr_setsigmask(attributes, ctypes.create_string_buffer(128))
    _libc.posix_spawn_file_actions_addopen(actions, 0, os.fsencode(gate), os.O_RDONLY, 0)
    for number, stream in enumerate(streams):
        _libc.posix_spawn_file_actions_adddup2(actions, stream, number)
    if hasattr(_libc, "posix_spawn_file_actions_addclosefrom_np"):  # glibc 2.34; ours are CLOEXEC anyway
        _libc.posix_spawn_file_actions_addclosefrom_np(actions, len(streams))
    _libc.posix_spawn_file_actions_addchdir_np(actions, os.fsencode(folder))
    pid, path, argv, envp = ctypes.c_int(), os.fsencode(program), _strings(words), _strings(environment)

    def spawn() -> int:
        try:
            failure = _libc.posix_spawn(ctypes.byref(pid), path, actions, attributes, argv, envp)
        finally:
            _libc.posix_spawn_file_actions_destroy(actions)
            _libc.posix_spawnattr_destroy(attributes)
        if failure:
            raise OSError(failure, f"start {program}: {os.strerror(failure)}")
        return pid.value

    return spawn


def set_timer_slack(nanoseconds: int) -> None:
    """How late the kernel may wake the calling thread, and those that it starts. 0: the default, 50 us."""
    _check(_libc.prctl(_PR_SET_TIMERSLACK, nanoseconds, 0, 0, 0), "prctl timer slack")


def _strings(texts: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    array = (ctypes.c_char_p * (len(texts) + 1))()
    array[:-1] = [os.fsencode(text) for text in texts]
    return array
