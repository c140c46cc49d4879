"""Attacks on the kernel itself: its settings, its devices, its other doors."""
# ruff: noqa: E501  programs that are run inside stand here as they are

from rewindbox.attacks.attack import WORD, Attack

KERNEL = (
    Attack(
        id="settings-of-the-kernel",
        tries="open any file below /proc/sys for writing, such as core_pattern",
        code="""
found = []
for folder, _, names in os.walk("/proc/sys"):
    for name in names:
        try:
            opened = os.open(os.path.join(folder, name), os.O_WRONLY)
            if os.fstat(opened).st_rdev != os.makedev(1, 3): found.append(name)  # a mask is /dev/null
            os.close(opened)
        except OSError: pass
say("BROKE", len(found), found[:20]) if found else say("HELD")""",
        held_by=("masks of /proc",),
    ),
    Attack(
        id="settings-of-root",
        tries="open the settings that only root of the host may change: core_pattern, modprobe, panic, sysctl of memory",
        code="""
names = ("kernel/core_pattern", "kernel/modprobe", "kernel/panic", "kernel/hotplug", "vm/overcommit_memory", "vm/drop_caches", "fs/file-max", "fs/binfmt_misc/register")
all_must_raise(**{n: lambda n=n: os.open("/proc/sys/" + n, os.O_WRONLY) for n in names})""",
        held_by=("masks of /proc", "kernel ids"),
    ),
    Attack(
        id="bounds-of-its-user-namespace",
        tries="raise what its vm may have of what all vms of a user share",
        code="""
names = os.listdir("/proc/sys/user")
all_must_raise(**{n: lambda n=n: os.open("/proc/sys/user/" + n, os.O_WRONLY) for n in names})""",
        held_by=("masks of /proc", "capabilities"),
    ),
    Attack(
        id="magic-keys",
        tries="write to sysrq-trigger",
        code='all_must_raise(open=lambda: os.open("/proc/sysrq-trigger", os.O_WRONLY))',
        unshown="many kernels have no such file",
    ),
    Attack(
        id="labels-of-the-process",
        tries="change the label that a security module gives",
        code='all_must_raise(**{n: lambda n=n: os.write(os.open(f"/proc/self/attr/{n}", os.O_WRONLY), b"unconfined") for n in ("current", "exec", "fscreate", "keycreate", "sockcreate")})',
        unshown="it depends on the security module of the host",
    ),
    Attack(
        id="out-of-memory-score",
        tries="be the last to be killed when memory ends",
        code='all_must_raise(write=lambda: os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"-1000"))',
        unshown="root of a container may not do it either",
    ),
    Attack(
        id="control-groups",
        tries="find a control group's file system and its release_agent",
        code="""
seen = [l for l in open("/proc/self/mountinfo") if " cgroup" in l] + [r for r in roots() if os.path.exists(r + "/sys/fs/cgroup")]
say("BROKE", seen) if seen else say("HELD")""",
        held_by=("own root",),
    ),
    Attack(
        id="kernel-log",
        tries="read the kernel's log",
        code="""
def log():
    result, number = call("syslog", 10, 0, 0)
    if result < 0: raise OSError(number)
all_must_raise(call=log, device=lambda: os.open("/dev/kmsg", os.O_RDONLY), proc=lambda: open("/proc/kmsg").read(1) or 1 / 0 if not INSIDE else os.read(os.open("/proc/kmsg", 0), 1) or int("empty"))""",
        outside="root",
    ),
    Attack(
        id="device-node",
        tries="make a node of the host's memory and disk and open them",
        code="""
import stat
def node(kind, major, minor):
    os.mknod("node", kind | 0o666, os.makedev(major, minor))
    try: return os.path.exists("node")
    finally: os.unlink("node")
all_must_raise(mem=lambda: node(stat.S_IFCHR, 1, 1), disk=lambda: node(stat.S_IFBLK, 254, 0), kvm=lambda: node(stat.S_IFCHR, 10, 232))""",
        outside="root",
    ),
    Attack(
        id="whiteout-by-hand",
        tries="make the device that hides a file in an overlay",
        code="""
import stat
def node(folder):
    os.mknod(folder + "/hidden", stat.S_IFCHR | 0o666, 0)
    os.unlink(folder + "/hidden")
    return True
all_must_raise(**{f: lambda f=f: node(f) for f in (".", "/dev/shm", "/run")})""",
        held_by=("seccomp",),
    ),
    Attack(
        id="devices-that-are-listed",
        tries="find a device besides the harmless ones",
        code="""
known = {"fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"}
others = set(os.listdir("/dev")) - known
say("BROKE", sorted(others)[:20]) if others else say("HELD")""",
        held_by=("own devices",),
    ),
    Attack(
        id="devices-by-name",
        tries="open a dangerous device",
        code="""
names = ("mem", "kmem", "port", "kvm", "fuse", "net/tun", "loop-control", "loop0", "vda", "sda", "kmsg", "uinput", "userfaultfd", "vhost-net", "console")
all_must_raise(**{n: lambda n=n: os.open("/dev/" + n, os.O_RDONLY | os.O_NONBLOCK) for n in names})""",
        outside="root",
    ),
    Attack(
        id="other-door-32-bit",
        tries="make 32-bit calls, whose numbers mean other calls",
        code=r"""
import mmap
if platform.machine() != "x86_64": say("HELD")
pid = os.fork()
if pid == 0:
    page = mmap.mmap(-1, 4096, prot=7)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    os._exit(0)
status = os.waitpid(pid, 0)[1]
say("HELD", status) if os.WIFSIGNALED(status) else say("BROKE", status)""",
        held_by=("other architectures",),
    ),
    Attack(
        id="other-door-x32",
        tries="make x32 calls, and live on",
        code=r"""
if platform.machine() != "x86_64": say("HELD")
pid = os.fork()
if pid == 0:
    libc.syscall(ctypes.c_long(0x40000000 | 39))
    os._exit(0)
status = os.waitpid(pid, 0)[1]
say("HELD", status) if os.WIFSIGNALED(status) else say("BROKE", status)""",
        held_by=("other architectures",),
    ),
    Attack(
        id="unknown-call",
        tries="make a call that is newer than the filter",
        code="""
result, number = call(5000)
say("HELD") if (result, number) == (-1, errno.ENOSYS) else say("BROKE", result, number)""",
        held_by=WORD,
    ),
    Attack(
        id="set-the-clock",
        tries="change the host's time",
        code='must_not_arrive("clock_settime", 0, ctypes.create_string_buffer(struct.pack("qq", int(time.time()), 0)))',
        held_by=WORD,
    ),
    Attack(
        id="same-addresses-always",
        tries="take the randomness out of a program's addresses",
        code="""
result, number = call("personality", 0x40000)
say("BROKE") if result >= 0 else say("HELD", errno.errorcode[number])""",
        held_by=("seccomp",),
    ),
    Attack(
        id="huge-pages",
        tries="take the huge pages that the host has set aside, by each call that asks for them",
        code="""
calls = {"mmap": (0, 2 << 20, 3, 0x40022, -1, 0), "memfd_create": (b"x", 4), "shmget": (0, 2 << 20, 0o5600)}
answers = {name: call(name, *arguments)[1] for name, arguments in calls.items()}
say("HELD" if set(answers.values()) == {errno.EPERM} else "BROKE", answers)""",
        held_by=("seccomp",),
    ),
    Attack(
        id="program-on-a-socket",
        tries="have the kernel translate a program for a socket, for which a host has so much memory",
        code="""
program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0xFFFF))
described = ctypes.create_string_buffer(struct.pack("HP", 1, ctypes.addressof(program)))
ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
answers = {name: call("setsockopt", ends[0].fileno(), 1, name, described, 16) for name in (26, 51)}
say("HELD" if set(answers.values()) == {(-1, errno.EPERM)} else "BROKE", answers)""",
        held_by=("seccomp",),
    ),
    Attack(
        id="a-huge-page-for-a-byte",
        tries="have a pipe or a socket hold memory that counts as no program's",
        code="""
pipe, stream = os.pipe(), socket.socket()
one, told = ctypes.create_string_buffer(b"x"), ctypes.create_string_buffer(struct.pack("i", 1))
piece = ctypes.create_string_buffer(struct.pack("PN", ctypes.addressof(one), 1))
answers = [call("vmsplice", pipe[1], piece, 1, 0), call("setsockopt", stream.fileno(), 1, 60, told, 4)]
say("HELD" if [answer[0] for answer in answers] == [-1, -1] else "BROKE", answers)""",
        held_by=("seccomp",),
    ),
    Attack(
        id="semaphores-that-take-long",
        tries="make sets of semaphores that the kernel goes through for as long as it ends a process",
        code="""
result, number = call("semget", 0, 32000, 0o1600)
say("BROKE") if result >= 0 else say("HELD", errno.errorcode[number])""",
        held_by=("seccomp",),
    ),
    Attack(
        id="strange-attributes",
        tries="set attributes by which an overlay would show other files",
        code="""
open("f", "w").close()
def hidden(name, value):
    os.setxattr("f", name, value)
    return os.getxattr("f", name) if not os.path.exists("f") else int("it is only text")
names = {"user.overlay.opaque": b"y", "user.overlay.redirect": b"/usr", "user.overlay.metacopy": b"", "user.overlay.whiteout": b""}
all_must_raise(**{n: lambda n=n, v=v: hidden(n, v) for n, v in names.items()})""",
        unshown="the kernel itself keeps an overlay's own attributes apart",
    ),
)
