"""Attacks on other processes: pid 1 of the vm, the host's, its own kind, and the terminal."""
# ruff: noqa: E501  programs that are run inside stand here as they are

from rewindbox.attacks.attack import Attack

_NO_VM_WITHOUT = "there is no vm without a pid namespace, and the kernel shields its first process"

PROCESSES = (
    Attack(
        id="memory-of-pid-1",
        tries="read or write what the vm is held by",
        code="""
other = 1 if INSIDE else os.getppid()
names = ("environ", "maps", "mem", "auxv", "stack", "syscall", "fd", "root", "cwd", "exe", "ns/mnt", "io", "map_files")
def look(name):
    path = f"/proc/{other}/{name}"
    return os.readlink(path) if name in ("root", "cwd", "exe", "ns/mnt") else os.listdir(path) if name in ("fd", "map_files") else open(path, "rb").read(64)
all_must_raise(**{name: lambda name=name: look(name) for name in names})""",
        held_by=("capability of pid 1",),
    ),
    Attack(
        id="write-to-pid-1",
        tries="open what the vm is held by for writing",
        code="""
names = ("mem", "exe", "clear_refs", "coredump_filter", "oom_score_adj", "comm", "attr/current", "timerslack_ns")
all_must_raise(**{n: lambda n=n: os.open("/proc/1/" + n, os.O_WRONLY) for n in names})""",
        held_by=("capability of pid 1",),
    ),
    Attack(
        id="trace",
        tries="trace another process",
        code='must_fail("ptrace", 16, child(), 0, 0)',
        held_by=("seccomp",),
    ),
    Attack(
        id="trace-pid-1",
        tries="trace what the vm is held by",
        code='must_fail("ptrace", 0x4206, 1, 0, 0)',
        held_by=("seccomp", "capability of pid 1"),
    ),
    Attack(
        id="read-another-memory",
        tries="read another process's memory without tracing it",
        code="""
here = ctypes.create_string_buffer(8)
one = ctypes.create_string_buffer(struct.pack("PN", ctypes.addressof(here), 8))
must_fail("process_vm_readv", child(), one, 1, one, 1, 0)""",
        held_by=("seccomp",),
    ),
    Attack(
        id="take-a-descriptor",
        tries="take a descriptor out of another process",
        code='must_fail("pidfd_getfd", os.pidfd_open(child()), 1, 0)',
        held_by=("seccomp",),
    ),
    Attack(
        id="limits-of-others",
        tries="change the limits of another process",
        code="all_must_raise(prlimit=lambda: resource.prlimit(child(), resource.RLIMIT_NOFILE, (5, 5)) or 1)",
        held_by=("seccomp",),
    ),
    Attack(
        id="signals-by-a-file",
        tries="have a file send any signal to any process",
        code="""
end, _ = os.pipe()
def number():
    fcntl.fcntl(end, 10, 9); return True
def socket_owner():
    s = socket.socket(); fcntl.ioctl(s, 0x8901, struct.pack("i", os.getpid())); return True
all_must_raise(number=number, extended=lambda: fcntl.fcntl(end, 15, struct.pack("ii", 1, os.getpid())) and True, socket=socket_owner)""",
        held_by=("seccomp",),
    ),
    Attack(
        id="descriptors-of-one-thread",
        tries="have descriptors where nobody looks for any: a thread's own, by either call that makes them so",
        code="""
ranges = call("close_range", 0xF0000000, 0xF0000001, 2)
stack = ctypes.create_string_buffer(1 << 16)
top = ctypes.c_void_p((ctypes.addressof(stack) + (1 << 16) - 64) & ~15)
ctypes.set_errno(0)
thread = libc.clone(ctypes.cast(libc.pause, ctypes.c_void_p), top, 0x100 | 0x200 | 0x800 | 0x10000, None), ctypes.get_errno()
say("HELD" if (ranges, thread) == ((-1, errno.EINVAL), (-1, errno.EPERM)) else "BROKE", ranges, thread)""",
        held_by=("seccomp",),
    ),
    Attack(
        id="raise-own-limits",
        tries="raise the own limits",
        code="""
def more(kind):
    resource.setrlimit(kind, (resource.RLIM_INFINITY,) * 2)
    return True
kinds = {n: getattr(resource, n) for n in ("RLIMIT_CORE", "RLIMIT_NPROC", "RLIMIT_FSIZE", "RLIMIT_MEMLOCK", "RLIMIT_RTPRIO")}
all_must_raise(**{n: lambda k=k: more(k) for n, k in kinds.items()})""",
        held_by=("limits of all processes",),
    ),
    Attack(
        id="real-time",
        tries="take the processor from the host",
        code="""
all_must_raise(fifo=lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)) or 1,
    round=lambda: os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1)) or 1, nice=lambda: os.setpriority(os.PRIO_PROCESS, 0, -20) or 1)""",
        outside="root",
    ),
    Attack(
        id="locked-memory",
        tries="keep memory that the host cannot swap out",
        code="""
import mmap
page = mmap.mmap(-1, 1 << 20)
page.write(bytes(1 << 20))
result = libc.mlock(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(page))), ctypes.c_size_t(1 << 20))
everything = libc.mlockall(3)
say("BROKE", result, everything) if 0 in (result, everything) else say("HELD")""",
        held_by=("limits of all processes",),
    ),
    Attack(
        id="kill-pid-1",
        tries="end what the vm is held by",
        code="""
for number in range(1, 65):
    for target in (1, -1):
        if target == 1 or number not in (9, 19):
            signal.signal(number, signal.SIG_IGN) if number not in (9, 19, 32, 33) else None
            try: os.kill(target, number)
            except OSError: pass
say("HELD")""",
        unshown=_NO_VM_WITHOUT,
    ),
    Attack(
        id="kill-everything",
        tries="end everything it can see",
        code="child()\nos.kill(-1, 9)\nsay('HELD')",
        unshown=_NO_VM_WITHOUT,
    ),
    Attack(
        id="signal-the-host",
        tries="signal a process of the host by its number",
        code="all_must_raise(kill=lambda: os.kill(@PID@, 0) or 1, open=lambda: os.pidfd_open(@PID@))",
        outside="plain",
    ),
    Attack(
        id="type-into-the-terminal",
        tries="push input into a terminal, also with high bits that a filter could miss",
        code="""
import pty, termios
master, slave = pty.openpty()
if os.fork() == 0:
    os.setsid(); fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    results = [call("ioctl", slave, request, ctypes.create_string_buffer(b"x")) for request in (0x5412, 0x100005412, -(1 << 32) | 0x5412)]
    say("HELD" if all(r == (-1, errno.EPERM) for r in results) else "BROKE", results)
os.wait()
os._exit(0)""",
        held_by=("seccomp",),
    ),
    Attack(
        id="paste-into-the-terminal",
        tries="the same by the call that pastes a selection",
        code="""
import pty
master, slave = pty.openpty()
results = [call("ioctl", slave, request, ctypes.create_string_buffer(b"\\3")) for request in (0x541C, 0x10000541C)]
say("HELD" if all(r == (-1, errno.EPERM) for r in results) else "BROKE", results)""",
        held_by=("seccomp",),
    ),
    Attack(
        id="terminal-of-the-host",
        tries="open the terminal of whoever started the vm",
        code='all_must_raise(tty=lambda: os.open("/dev/tty", os.O_RDWR), console=lambda: os.open("/dev/console", os.O_RDWR))',
        outside="plain",
    ),
    Attack(
        id="core-file",
        tries="leave a core file",
        code="""
try: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
except (OSError, ValueError): pass
if os.fork() == 0: os.kill(os.getpid(), signal.SIGSEGV)
status = os.wait()[1]
cores = [n for n in os.listdir(".") + os.listdir("/tmp") if "core" in n]
say("BROKE", cores) if os.WCOREDUMP(status) or cores else say("HELD")""",
        held_by=("limits of all processes",),
    ),
)
