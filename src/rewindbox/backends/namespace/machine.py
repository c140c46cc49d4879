"""The inside of a vm: its namespaces, its root file system, its pid 1; and moving it onto other files.

Runs in the supervisor. The vm's folder is the working directory, all names in it are relative and short:

    uN   an upper layer: what the running vm writes, or what a frozen one wrote
    wN   the overlay's scratch folder for the mount with the same number
    cN   a copy of an upper, taken for a point
    fN   several frozen layers folded into one

Where the host has /tmp, the supervisor (and nobody else) sees memory of its own:

    m    where a root is put together     p   its own /proc     v   the vm's memory: code (read-only inside), run, shm

Invariant: an upper is mounted once. Invariant: a frozen layer, a copy and a fold are never written to.
"""

import contextlib
import fcntl
import os
import re
import signal
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator

from rewindbox.backends.namespace import kernel
from rewindbox.backends.namespace.groups import Groups

LAYER_NAME = re.compile(r"[ucf][0-9]{1,9}")
HOSTNAME = "rewindbox"
INNER_ID = 1000
"""Who the code is inside. Not root: tools that give files away (tar, cp -a) then do not even try."""

_CAP_WAKE_ALARM = 35  # harmless; pid 1 holds it, the code does not, so the code may not trace pid 1
_VOLATILE_MEMORY = "size=256m,nr_inodes=65536,mode=755"
_SCRATCH = "/tmp"  # noqa: S108  covered by a mount that nobody else sees
_ROOT = f"{_SCRATCH}/m"
MEMORY = f"{_SCRATCH}/v"
VOLATILE = {"code": 0o755, "run": 0o755, "run/code": 0o755, "shm": 0o1777, "void": 0o555}
"""Folders there, and their modes."""
PROC = f"{_SCRATCH}/p"
"""Where the supervisor sees its own pid namespace; the vm does not have this mount."""
GATE, GATE_INSIDE = f"{MEMORY}/code/.gate", "/run/code/.gate"
"""The named pipe at which a job waits for its limits; read-only inside."""
SHARED = ("usr", "proc", "dev", "run")
"""Mounts that are carried along when the vm moves onto other files."""
_TERMINALS_MAX = 64
"""The host has 4096 for all of its containers together (kernel.pty.max)."""
_OF_THE_USER = {"user_namespaces": 0, "inotify_instances": 32, "inotify_watches": 16384}
"""What a vm may have of what the kernel counts for each user of the host, in all of its vms together and besides them.
No namespaces: whoever could make one would be root in it."""
_OF_THE_NETWORK = {"tcp_fin_timeout": 120, "tcp_max_tw_buckets": 0}
_NODES = ("null", "zero", "full", "random", "urandom", "tty")
_NODE_ATTRIBUTES = kernel.ATTR_RDONLY | kernel.ATTR_NOSUID | kernel.ATTR_NOEXEC
"""A device that is read-only takes what is written to it; but its times, which are the host's, stay as they are."""
_DEV_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
_PROC_READONLY = ("sys", "irq", "fs", "sysrq-trigger")
_PROC_HIDDEN = (
    *("acpi", "asound", "bus", "cmdline", "config.gz", "interrupts", "iomem", "ioports", "kallsyms", "kcore"),
    *("key-users", "keys", "kmsg", "latency_stats", "modules", "pagetypeinfo", "pressure", "sched_debug", "scsi"),
    *("slabinfo", "softirqs", "timer_list", "timer_stats", "vmallocinfo", "sys/kernel/random/boot_id"),
)


class StepFailed(Exception):
    """The host refused a step; `doctor` knows what each step means."""

    def __init__(self, step: str, cause: OSError) -> None:
        super().__init__(f"{step}: {cause}")
        self.step, self.cause = step, cause


class Damaged(Exception):
    """The vm's folder is not as we left it."""


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Name what is being done, for the error if it is refused."""
    try:
        yield
    except OSError as error:
        raise StepFailed(name, error) from error


def leave_host() -> None:
    """New user namespace with one id in it, and a pid namespace for the next child."""
    uid, gid = os.getuid(), os.getgid()
    with step("user namespace"):
        kernel.unshare(kernel.NEWUSER | kernel.NEWPID)
    with step("id map"):
        kernel.set_dumpable(True)  # a changed uid hands /proc/self to root
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{INNER_ID} {uid} 1"),
            ("gid_map", f"{INNER_ID} {gid} 1"),
        ):
            _write_proc(name, text)


def _write_proc(name: str, text: str) -> None:
    descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


class Machine:
    """One vm's namespaces and mounts, seen from its supervisor.

    It is made before it is known whose files it will have: pid 1 runs on the bare skeleton, until `move_onto`.
    """

    def __init__(self, skeleton: str, groups: Groups) -> None:
        """Make it; call in the first process of a fresh pid namespace. `skeleton`: a folder, see rootfs.py."""
        self.skeleton, self.groups = skeleton, groups
        self.mount_ns = self.pid_ns = self.proc = self.root = -1
        self._last = 0
        self._at_root = threading.Lock()
        """Held by who has something mounted at _ROOT for a moment."""
        self.moves = 0
        """How often the vm has moved onto other files."""
        with step("namespaces"):
            kernel.unshare(kernel.NEWNS | kernel.NEWNET | kernel.NEWIPC | kernel.NEWUTS)
        socket.sethostname(HOSTNAME)
        _loopback_up()
        with step("private mounts"):
            kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        with step("tmpfs"):
            _make_scratch()
        with step("bounds of the user namespace"):
            _bound_user_namespace()
        _forget_what_is_closed()
        self._start_pid_1()
        groups.prepare()

    def enter_folder(self, path: str) -> None:
        """Make the vm's folder, beside that of the skeleton, the working directory."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        try:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise Damaged(f"the vm's folder is no folder ({os.strerror(error.errno or 0)})") from error
        os.fchdir(folder)
        os.close(folder)
        self.skeleton = f"../{self.skeleton}"
        self._last = max((int(n[1:]) for n in os.listdir(".") if LAYER_NAME.fullmatch(n)), default=0)

    def new_name(self, letter: str) -> str:
        """A name that nothing in the vm's folder has."""
        self._last += 1
        return f"{letter}{self._last}"

    def _start_pid_1(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        kernel.unshare(kernel.NEWPID)
        if os.fork() == 0:
            self._become_pid_1(theirs)
        theirs.close()
        kernel.setns(own, kernel.NEWPID)
        os.close(own)
        message, descriptors, _, _ = socket.recv_fds(ours, 4096, 4, socket.MSG_CMSG_CLOEXEC)
        ours.close()
        if message != b"ready":
            name, _, number = message.decode().partition("\0")
            raise StepFailed(name or "pid 1", OSError(int(number or 0), os.strerror(int(number or 0))))
        self.mount_ns, self.pid_ns, self.proc, self.root = descriptors

    def _become_pid_1(self, link: socket.socket) -> None:
        """Never returns. A `sleep` that reaps by ignoring SIGCHLD and that the code may not trace."""
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            os.setsid()
            kernel.unshare(kernel.NEWNS)
            with step("skeleton"):
                kernel.mount(self.skeleton, _ROOT, None, kernel.MS_BIND)
            _furnish()
            proc = _open_whole_proc()
            os.chdir(_ROOT)
            namespaces = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("mnt", "pid")]
            with step("pivot_root"):
                kernel.pivot_root_here()
            root = os.open("/", os.O_PATH | os.O_CLOEXEC)
            kernel.keep_capability_over_exec(_CAP_WAKE_ALARM)
            kernel.no_new_privileges()
            socket.send_fds(link, [b"ready"], [*namespaces, proc, root])
            for number in (0, 1, 2):
                os.dup2(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC), number)
            os.execve("/usr/bin/sleep", ["init", "infinity"], {})
        except StepFailed as failure:
            link.send(f"{failure.step}\0{failure.cause.errno}".encode())
        except OSError as error:
            link.send(f"{error}\0{error.errno}".encode())
        finally:
            os._exit(1)

    def _mount_overlay(self, layers: list[str], upper: str) -> None:
        work = f"w{upper[1:]}-{os.urandom(4).hex()}"  # a scratch folder is good for one mount
        for folder in (upper, work):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)
                os.chmod(folder, 0o755)
        with step("overlay"):
            data = f"lowerdir={self._lower(layers)},upperdir={upper},workdir={work},userxattr,volatile"
            kernel.mount("vm", _ROOT, "overlay", kernel.MS_NODEV | kernel.MS_NOSUID, data)
        for folder in ("work", "work/incompat", "work/incompat/volatile"):
            with contextlib.suppress(FileNotFoundError):
                os.chmod(f"{work}/{folder}", 0o700)  # the kernel's have no rights: `rm -r` of a store would stop there

    def move_onto(
        self,
        layers: list[str],
        upper: str,
        *,
        freezing: bool = False,
        before_move: Callable[[], None] | None = None,
    ) -> None:
        """Put the running vm onto other files, in place; its processes move along. 0.4 ms.

        `freezing`: the present overlay, about to become a layer, is made read-only, when everything that can
        fail for want of space is done. Raises StepFailed (EBUSY: somebody writes); the vm is then where it was.
        `before_move` is called when the new files are ready. A process forked while others move might not.
        """
        _in_thread(lambda: self._move(layers, upper, freezing, before_move))

    def _move(self, layers: list[str], upper: str, freezing: bool, before_move: Callable[[], None] | None) -> None:
        with self._mounted(lambda: self._mount_overlay(layers, upper)):
            for folder in SHARED:
                _check_folder(f"{_ROOT}/{folder}")
            tree = kernel.open_tree(_ROOT)
        try:
            if before_move is not None:
                before_move()
            if freezing:
                with step("freeze"):
                    kernel.make_readonly(self.root)
            self._move_to(tree)
        finally:
            os.close(tree)

    def look_at(self, layers: list[str]) -> int:
        """What frozen layers (bottom first) show, read-only: a descriptor of its top. It is mounted nowhere."""
        if not layers:
            return os.open(self.skeleton, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        flags = kernel.MS_RDONLY | kernel.MS_NODEV | kernel.MS_NOSUID | kernel.MS_NOEXEC
        data = f"lowerdir={self._lower(layers)},userxattr"
        with step("overlay"), self._mounted(lambda: kernel.mount("points", _ROOT, "overlay", flags, data)):
            return kernel.open_tree(_ROOT)

    @contextlib.contextmanager
    def _mounted(self, mount: Callable[[], None]) -> Iterator[None]:
        """What is mounted at _ROOT is there meanwhile, and nothing else."""
        with self._at_root:
            mount()
            try:
                yield
            finally:
                kernel.umount(_ROOT)

    def _lower(self, layers: list[str]) -> str:
        """Frozen layers as an overlay's option, top first."""
        return ":".join([*reversed(layers), self.skeleton])

    def _move_to(self, tree: int) -> None:
        self.moves += 1
        with step("move root"):
            kernel.setns(self.mount_ns, kernel.NEWNS)
            kernel.move_mount(tree, "/")
            os.fchdir(tree)
            try:
                for folder in SHARED:
                    kernel.mount(f"/{folder}", folder, None, kernel.MS_BIND | kernel.MS_REC)
            except OSError:
                kernel.umount(".")
                raise
            kernel.pivot_root_here()
            root = os.open("/", os.O_PATH | os.O_CLOEXEC)
            self.root, old = root, self.root
            os.close(old)


def _in_thread(function: Callable[[], None]) -> None:
    """Run in a thread that has a root and working directory of its own, as entering a namespace needs."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            kernel.unshare(kernel.CLONE_FS)
            function()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _make_scratch() -> None:
    kernel.mount("memory", _SCRATCH, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=64k,nr_inodes=16,mode=700")
    for path in (_ROOT, MEMORY, PROC):
        os.mkdir(path)
    kernel.mount("proc", PROC, "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    kernel.mount("memory", MEMORY, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, _VOLATILE_MEMORY)
    for folder, mode in VOLATILE.items():
        os.mkdir(f"{MEMORY}/{folder}")
        os.chmod(f"{MEMORY}/{folder}", mode)
    os.mkfifo(GATE, 0o400)


def _bound_user_namespace() -> None:
    """These files are those of whoever opens them: of our user namespace, in which the code has no say."""
    for name, most in _OF_THE_USER.items():
        with (
            contextlib.suppress(FileNotFoundError),  # a kernel that has no such thing
            open(f"{PROC}/sys/user/max_{name}", "wb", buffering=0) as file,
        ):
            file.write(b"%d" % most)


def _forget_what_is_closed() -> None:
    """No TIME_WAIT in our network namespace, which for a minute keeps ports that were free when the vm goes back.

    Who has closed first waits for the other side as ever, if as a socket: 60 s less than it is told to.
    """
    for name, value in _OF_THE_NETWORK.items():
        with (
            contextlib.suppress(OSError),  # where /proc/sys cannot be written, or a kernel has one value for all
            open(f"{PROC}/sys/net/ipv4/{name}", "wb", buffering=0) as file,
        ):
            file.write(b"%d" % value)


def _furnish() -> None:
    """Everything of a root that is not the vm's own files."""
    with step("bind /usr"):
        _bind_readonly("/usr", f"{_ROOT}/usr")
    with step("proc"):
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        kernel.mount("proc", f"{_ROOT}/proc", "proc", flags, "hidepid=invisible")
    with step("dev"):
        _furnish_dev(f"{_ROOT}/dev")
    with step("masks"):
        _mask_proc(f"{_ROOT}/proc")
    with step("bind run"):
        kernel.mount(f"{MEMORY}/run", f"{_ROOT}/run", None, kernel.MS_BIND)
        _bind_readonly(f"{MEMORY}/code", f"{_ROOT}/run/code")


def _open_whole_proc() -> int:
    """The /proc of the vm's processes that hides none, for us alone.

    In one mounted with hidepid newer kernels show not even us a process that has made itself undumpable and
    whose first thread has ended, though its other threads run on.
    """
    with step("proc"):
        kernel.mount("proc", PROC, "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
        return os.open(PROC, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _check_folder(path: str) -> None:
    """A mount point that the code turned into a link would lead a mount astray."""
    with step("root folders"):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise NotADirectoryError(20, f"{path} is not a folder")


def _furnish_dev(dev: str) -> None:
    kernel.mount("dev", dev, "tmpfs", kernel.MS_NOSUID | kernel.MS_NOEXEC, "size=64k,nr_inodes=32,mode=755")
    for name in _NODES:
        os.close(os.open(f"{dev}/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        kernel.mount(f"/dev/{name}", f"{dev}/{name}", None, kernel.MS_BIND)
        kernel.set_mount_attributes(f"{dev}/{name}", _NODE_ATTRIBUTES)
    for name, target in _DEV_LINKS.items():
        os.symlink(target, f"{dev}/{name}")
    for folder in ("shm", "pts"):
        os.mkdir(f"{dev}/{folder}")
    kernel.mount(f"{MEMORY}/shm", f"{dev}/shm", None, kernel.MS_BIND)
    kernel.mount(
        "pts",
        f"{dev}/pts",
        "devpts",
        kernel.MS_NOSUID | kernel.MS_NOEXEC,
        f"newinstance,ptmxmode=0666,mode=620,max={_TERMINALS_MAX}",
    )
    _remount_readonly(dev)


def _remount_readonly(path: str) -> None:
    flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NOEXEC
    kernel.mount("none", path, None, flags)


def _bind_readonly(source: str, target: str) -> None:
    kernel.mount(source, target, None, kernel.MS_BIND | kernel.MS_REC)
    kernel.set_mount_attributes(target, kernel.ATTR_RDONLY | kernel.ATTR_NOSUID | kernel.ATTR_NODEV)


def _mask_proc(proc: str) -> None:
    for name in _PROC_READONLY:
        if os.path.exists(f"{proc}/{name}"):
            _bind_readonly(f"{proc}/{name}", f"{proc}/{name}")
    for name in _PROC_HIDDEN:
        path = f"{proc}/{name}"
        if os.path.isdir(path):
            _bind_readonly(f"{MEMORY}/void", path)  # the code owns it and could open it for writing: a hiding place
        elif os.path.lexists(path):
            kernel.mount("/dev/null", path, None, kernel.MS_BIND)


def _loopback_up() -> None:
    """SIOCSIFFLAGS IFF_UP on lo: a new network namespace has it down."""
    with step("loopback"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", b"lo", 1))
