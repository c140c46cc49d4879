"""What holds attacks, and how to take it away: the positive controls of the corpus.

A switch for tests only. The launcher of vms starts with a line of code (`starting._BOOT`); here a line is put before it
that takes one defence off. None of them lets a vm harm the host: its code is still an ordinary user's, in a pid
namespace of its own (without that our own killing would reach the host's processes, so it is never taken away).
"""
# ruff: noqa: E501  one line of code that stands for a defence

import contextlib
import os
from collections.abc import Iterable, Iterator

import pytest

from rewindbox.backends.namespace import starting

DEFENCES = {
    "seccomp": """
for table in (seccomp._REFUSED, seccomp._ABSENT, seccomp._CHECKED, seccomp._STEPS): table.clear()
seccomp._STEPS["fcntl"] = ((1, seccomp._ALL, (seccomp._SET_OWNER,), "guarded", "allow"),)
def intervals(column, guarded):
    asked = {number for numbers in (seccomp._ASKED if guarded else {}).values() if (number := numbers[column]) is not None}
    to = {**dict.fromkeys(asked, "ask"), seccomp._FCNTL[column]: "fcntl"}
    to = {0: "allow", **{number + 1: "allow" for number in to}, **to, **({1 << 30: "kill"} if column == 0 else {})}
    return sorted(to.items())
seccomp._intervals = intervals
""",
    "word of the filter": """
for verdict in ("refuse", "no family", "no protocol", "newer"): seccomp._VERDICTS[verdict] = 0x50000 | 222
known = seccomp._intervals
seccomp._intervals = lambda *which: [(n, "newer" if n > seccomp._LAST_KNOWN and to == "absent" else to) for n, to in known(*which)]
""",
    "other architectures": 'seccomp._VERDICTS["kill"] = seccomp._VERDICTS["allow"]',
    "capabilities": "machine.INNER_ID = 0; kernel.empty_bounding_set = lambda: None",
    "no_new_privs": "kernel.no_new_privileges = lambda: None",
    "kernel ids": "os.chown('.', 0, 0); launcher._drop_privileges = lambda: None",
    "capability of pid 1": "kernel.keep_capability_over_exec = lambda number: None",
    "guard": "guard.Guard._decide = lambda *_: (0, guard._CONTINUE)",
    "lines of /proc": """
def status(pid, name):
    with open(f"{machine.PROC}/{pid}/status", encoding="utf-8", errors="replace") as file:
        return next(int(line.split()[-1]) for line in file if line.startswith(f"{name}:"))
guard._status = status
""",
    "undumpable checkpoints": """
head = template._SOURCES["head.py"]
template._SOURCES["head.py"] = head.replace(b"_PR_SET_DUMPABLE = 4", b"_PR_SET_DUMPABLE = 3")
assert template._SOURCES["head.py"] != head
""",
    "limits of all processes": """
launcher._bound_ourselves = lambda: None
spawner._bound = lambda *_: None
import resource
for kind in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK):
    resource.setrlimit(kind, (resource.getrlimit(kind)[1],) * 2)
""",
    "read-only /usr": """
bind_readonly = machine._bind_readonly
machine._bind_readonly = lambda source, target: kernel.mount(source, target, None, kernel.MS_BIND | kernel.MS_REC) if source == "/usr" else bind_readonly(source, target)
""",
    "read-only code": """
bind_code = machine._bind_readonly
machine._bind_readonly = lambda source, target: kernel.mount(source, target, None, kernel.MS_BIND) if source.endswith("/code") else bind_code(source, target)
""",
    "masks of /proc": "machine._mask_proc = lambda proc: None",
    "bounds of the user namespace": "machine._bound_user_namespace = lambda: None",
    "hidepid": """
mount_hiding = kernel.mount
kernel.mount = lambda source, target, kind, flags, data=None: mount_hiding(source, target, kind, flags, None if kind == "proc" else data)
""",
    "own /proc": """
mount_proc = kernel.mount
def mount(source, target, kind, flags, data=None):
    if kind == "proc" and target.endswith("/m/proc"): return mount_proc("/proc", target, None, kernel.MS_BIND | kernel.MS_REC)
    return mount_proc(source, target, kind, flags, data)
kernel.mount = mount
""",
    "own devices": 'machine._furnish_dev = lambda dev: kernel.mount("/dev", dev, None, kernel.MS_BIND | kernel.MS_REC)',
    "read-only devices": "machine._NODE_ATTRIBUTES = kernel.ATTR_NOSUID",
    "own root": """
furnish, make_scratch = machine._furnish, machine._make_scratch
def scratch():
    kernel.mount("/", "/mnt", None, kernel.MS_BIND | kernel.MS_REC)
    make_scratch()
def furnish_with_root():
    furnish()
    kernel.mount("/mnt", machine._ROOT + "/mnt", None, kernel.MS_BIND | kernel.MS_REC)
machine._make_scratch, machine._furnish = scratch, furnish_with_root
machine.SHARED += ("mnt",)
""",
    "made-up /etc": """
furnish_etc = machine._furnish
def furnish_with_etc():
    furnish_etc()
    kernel.mount("/etc", machine._ROOT + "/etc", None, kernel.MS_BIND | kernel.MS_REC)
machine._furnish = furnish_with_etc
machine.SHARED += ("etc",)
""",
    "own host name": "socket.sethostname = lambda name: None",
    "network namespace": """
unshare_network, kernel.NEWNET = kernel.unshare, 0
machine._loopback_up = lambda: None
""",
    "ipc namespace": "kernel.NEWIPC = 0",
    "empty network": """
import fcntl, struct, threading
loopback_up = machine._loopback_up
def serve(kind, port):
    server = socket.socket(socket.AF_INET, kind)
    server.bind(("0.0.0.0", port))
    if kind == socket.SOCK_STREAM:
        server.listen()
    while kind == socket.SOCK_STREAM:
        server.accept()
    while True:
        question, asker = server.recvfrom(512)
        if len(question) > 12:
            end = question.index(b"\\0", 12) + 5
            found = b"\\xc0\\x0c" + question[end - 4:end] + struct.pack(">IH4s", 60, 4, bytes([10, 0, 0, 1]))
            server.sendto(question[:2] + bytes([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]) + question[12:end] + found, asker)
def connected():
    loopback_up()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for number, address in enumerate(("169.254.169.254", "1.1.1.1", "100.100.100.200", "10.0.0.1")):
            fcntl.ioctl(control, 0x8916, struct.pack("16sHH4s8x", b"lo:%d" % number, 2, 0, socket.inet_aton(address)))
        place = lambda address: struct.pack("HH4s8x", 2, 0, socket.inet_aton(address))
        name = b"lo\\0"
        import ctypes
        device = ctypes.create_string_buffer(name)
        route = struct.pack("Q", 0) + place("203.0.113.0") + bytes(16) + place("255.255.255.0")
        route += struct.pack("HhQQhPQQH6x", 1, 0, 0, 0, 0, ctypes.addressof(device), 0, 0, 0)
        fcntl.ioctl(control, 0x890B, route)
    for kind, port in ((socket.SOCK_STREAM, 80), (socket.SOCK_STREAM, 53), (socket.SOCK_DGRAM, 53)):
        threading.Thread(target=serve, args=(kind, port), daemon=True).start()
machine._loopback_up = connected
""",
    "own environment": """
prepared = kernel.prepared_spawn
kernel.prepared_spawn = lambda program, words, environment, *rest: prepared(program, words, [*environment, *(f"{n}={v}" for n, v in os.environ.items())], *rest)
""",
    "closed descriptors": """
kernel._libc.posix_spawn_file_actions_addclosefrom_np = lambda *_: 0
os.dup2(os.open("/", os.O_PATH), 77, inheritable=True)
""",
    "effective set until exec": """
import ctypes, struct
def emptied():
    for number in range(64): kernel._libc.prctl(24, number, 0, 0, 0)
    kernel._libc.capset(struct.pack("Ii", 0x20080522, 0), bytes(24))
after_filter = spawner.seccomp.install
def install(machine, **options):
    listener = after_filter(machine, **options)
    kernel._libc.capset(struct.pack("Ii", 0x20080522, 0), bytes(24))
    return listener
spawner.seccomp.install = install
""",
}
"""Name -> code that takes it away. A name is what entries of the corpus say in `held_by`.

The word of the filter is not taken away: it is another one, which no kernel says."""

ROOT_ONLY = {"kernel ids"}
"""Only root has other ids to give a vm than its own."""
_MODULES = "guard, kernel, landlock, launcher, machine, rootfs, seccomp, spawner, supervisor, template"
_SECOND_WALL = "landlock.put_on = lambda: None"
"""Behind many of these stands Landlock, which holds, too; `test_second_wall.py` attacks that one by itself."""


@contextlib.contextmanager
def without(names: Iterable[str], environment: dict[str, str] | None = None) -> Iterator[None]:
    """Vms that are made meanwhile, by this process, do without these defences."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(starting, "_BOOT", boot(names, environment))
        yield


def boot(names: Iterable[str], environment: dict[str, str] | None = None) -> str:
    """The code that a launcher without these defences is started with."""
    lines = [
        "import os, socket, sys; sys.path.append(sys.argv[1])",
        f"from rewindbox.backends.namespace import {_MODULES}",
        f"os.environ.update({environment or {}})",
        _SECOND_WALL,
        *(DEFENCES[name] for name in names),
        "launcher.main()",
    ]
    return "\n".join(lines)


def can_be_off(names: Iterable[str]) -> bool:
    """Whether whoever runs the tests can do without them."""
    impossible = ROOT_ONLY if os.getuid() else set()
    if os.uname().machine != "x86_64":
        impossible = {*impossible, "other architectures"}  # there is no other door that we know of
    return not impossible & set(names)
