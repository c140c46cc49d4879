"""Attacks on what a vm sees: mounts, roots and namespaces."""
# ruff: noqa: E501  programs that are run inside stand here as they are

from rewindbox.attacks.attack import Attack, shell

_BOTH = ("seccomp", "capabilities")
_EITHER = ("seccomp", "bounds of the user namespace")
_NEWUSER = 0x10000000

MOUNTS = (
    Attack(
        id="mount-a-file-system",
        tries="mount a tmpfs",
        code='must_fail("mount", b"x", b"/mnt", b"tmpfs", 0, 0)',
        held_by=_BOTH,
    ),
    Attack(
        id="bind-mount",
        tries="bind a folder over another",
        code='must_fail("mount", b"/tmp", b"/mnt", 0, 4096, 0)',
        held_by=_BOTH,
    ),
    Attack(
        id="mount-program",
        tries="mount a tmpfs by the usual program",
        code=shell("mount -t tmpfs none /mnt"),
        language="bash",
        held_by=_BOTH,
    ),
    Attack(
        id="new-proc",
        tries="mount a /proc without masks",
        code='must_fail("mount", b"proc", b"/mnt", b"proc", 0, 0)',
        held_by=_BOTH,
    ),
    Attack(
        id="remount-usr-writable",
        tries="make the host's programs writable",
        code='must_fail("mount", 0, b"/usr", 0, 32 | 4096, 0)',
        held_by=_BOTH,
    ),
    Attack(
        id="unmount-proc",
        tries="take masks away with /proc",
        code='must_fail("umount2", b"/proc", 2)',
        held_by=_BOTH,
    ),
    Attack(
        id="unmount-a-mask",
        tries="take one mask away",
        code='must_fail("umount2", b"/proc/sys", 2)',
        held_by=_BOTH,
    ),
    Attack(
        id="pivot-root", tries="change the root", code='must_not_arrive("pivot_root", b"/tmp", b"/tmp")', held_by=_BOTH
    ),
    Attack(
        id="chroot",
        tries="leave the root in the classic way: a root below, and up from a folder that was open before",
        code="""
before = os.open("/", os.O_RDONLY)
os.makedirs("/tmp/below", exist_ok=True)
result, number = call("chroot", b"/tmp/below")
if result < 0: say("HELD", errno.errorcode[number])
os.fchdir(before)
for _ in range(64): os.chdir("..")
call("chroot", b".")
say("BROKE", os.listdir("/"))""",
        held_by=_BOTH,
    ),
    Attack(
        id="new-mount-api", tries="mount by the newer calls", code='must_fail("fsopen", b"tmpfs", 0)', held_by=_BOTH
    ),
    Attack(
        id="clone-a-mount",
        tries="get a copy of a mount by descriptor",
        code='must_fail("open_tree", -100, b"/", 0x8001)',
        held_by=_BOTH,
    ),
    Attack(
        id="move-a-mount",
        tries="move the code's folder away from under it",
        code='must_not_arrive("move_mount", -100, b"/run/code", -100, b"/mnt", 0)',
        held_by=_BOTH,
    ),
    Attack(
        id="configure-a-file-system",
        tries="take hold of the vm's own file system by descriptor",
        code='must_fail("fspick", -100, b"/", 0)',
        held_by=_BOTH,
    ),
    Attack(
        id="change-mount-attributes",
        tries="drop read-only by mount_setattr",
        code='must_fail("mount_setattr", -100, b"/usr", 0, struct.pack("QQQQ", 0, 1, 0, 0), 32)',
        held_by=_BOTH,
    ),
)

NAMESPACES = (
    Attack(
        id="user-namespace",
        tries="become root of a user namespace",
        code=f'must_fail("unshare", {_NEWUSER})',
        held_by=_EITHER,
    ),
    Attack(
        id="user-namespace-by-clone",
        tries="the same by clone",
        code=f"""
pid, number = call("clone", {_NEWUSER} | 17, 0, 0, 0, 0)
if pid == 0: os._exit(0)
say("BROKE") if pid > 0 else say("HELD", number)""",
        held_by=_EITHER,
    ),
    Attack(
        id="user-namespace-by-clone3",
        tries="the same by clone3, whose flags no filter sees",
        code=f"""
block = ctypes.create_string_buffer(struct.pack("8Q", {_NEWUSER}, 0, 0, 0, 17, 0, 0, 0))
pid, number = call("clone3", block, 64)
if pid == 0: os._exit(0)
say("BROKE") if pid > 0 else say("HELD", number)""",
        held_by=_EITHER,
    ),
    Attack(
        id="user-namespace-with-high-bits",
        tries="the same with bits that the kernel does not look at",
        code=f"""
pid, number = call("clone", 1 << 32 | {_NEWUSER} | 17, 0, 0, 0, 0)
if pid == 0: os._exit(0)
say("BROKE") if pid > 0 else say("HELD", number)""",
        held_by=_EITHER,
    ),
    Attack(
        id="unshare-program",
        tries="the same by the usual program",
        code=shell("unshare -Ur true"),
        language="bash",
        held_by=_EITHER,
    ),
    Attack(
        id="sibling-of-its-parent",
        tries="have a child that is the supervisor's",
        code="""
pid, number = call("clone", 0x8000 | 17, 0, 0, 0, 0)
if pid == 0: os._exit(0)
say("BROKE") if pid > 0 else say("HELD", number)""",
        held_by=("seccomp",),
    ),
    Attack(
        id="every-namespace",
        tries="leave any other namespace",
        code="""
flags = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x20000000, 0x40000000, 0x80)
made = [hex(f) for f in flags if call("unshare", f)[0] >= 0]
say("BROKE", made) if made else say("HELD")""",
        held_by=_BOTH,
    ),
    Attack(
        id="enter-a-namespace",
        tries="enter a namespace by descriptor",
        code='must_fail("setns", os.open("/proc/self/ns/uts", os.O_RDONLY), 0)',
        held_by=_BOTH,
    ),
    Attack(
        id="namespaces-of-pid-1",
        tries="enter the namespaces of what the vm is held by",
        code="""
def enter(kind):
    result, number = call("setns", os.open(f"/proc/1/ns/{kind}", os.O_RDONLY), 0)
    if result < 0: raise OSError(number, kind)
    return True
all_must_raise(**{kind: lambda kind=kind: enter(kind) for kind in ("uts", "net", "pid", "cgroup", "mnt")})""",
        held_by=_BOTH,
    ),
    Attack(
        id="rewrite-the-id-map",
        tries="map other ids",
        code='all_must_raise(**{n: lambda n=n: os.write(os.open(f"/proc/self/{n}", os.O_WRONLY), b"0 0 1") for n in ("uid_map", "gid_map")})',
        unshown="the kernel takes a map once, and no vm begins without one",
    ),
    Attack(
        id="host-name",
        tries="rename the machine",
        code='must_fail("sethostname", b"owned", 5)',
        held_by=_BOTH,
    ),
    Attack(
        id="domain-name",
        tries="rename its domain",
        code='must_fail("setdomainname", b"owned", 5)',
        held_by=_BOTH,
    ),
)
