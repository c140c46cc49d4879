"""The filter decides every call as promised: by interpreting it, and by wearing it."""

import ast
import errno
import json
import os
import platform
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from rewindbox.backends.namespace import assembler, seccomp
from rewindbox.backends.namespace.machine import INNER_ID

MACHINES = ["x86_64", "aarch64"]
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {
    "x86_64": ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"],
    "aarch64": ["/usr/include/asm-generic/unistd.h"],
}
NEWER_NAMES = """cachestat fchmodat2 map_shadow_stack futex_wake futex_wait futex_requeue statmount listmount
    lsm_get_self_attr lsm_set_self_attr lsm_list_modules mseal setxattrat getxattrat listxattrat removexattrat
    open_tree_attr file_getattr file_setattr"""
NEWER = dict(zip(NEWER_NAMES.split(), range(451, 470), strict=True))
"""Calls that the headers of older systems lack; the same numbers on every machine."""

REFUSED_NAMES = """
    mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
    open_tree_attr unshare setns create_module init_module finit_module delete_module get_kernel_syms
    query_module kexec_load kexec_file_load bpf perf_event_open lookup_dcookie acct swapon swapoff reboot
    iopl ioperm modify_ldt quotactl quotactl_fd nfsservctl vserver uselib sysfs _sysctl userfaultfd
    io_uring_setup io_uring_enter io_uring_register add_key request_key keyctl fanotify_init fanotify_mark
    ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd name_to_handle_at
    open_by_handle_at settimeofday clock_settime adjtimex clock_adjtime sethostname setdomainname syslog
    vhangup move_pages migrate_pages mbind get_mempolicy set_mempolicy set_mempolicy_home_node
    lsm_get_self_attr lsm_set_self_attr lsm_list_modules getpmsg putpmsg afs_syscall tuxcall security
    ustat sync syncfs file_setattr"""
REFUSED = set(REFUSED_NAMES.split())
ABSENT = {
    *("clone3", "statmount", "listmount", "memfd_secret"),
    *("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
    "vmsplice",
    *("io_setup", "io_destroy", "io_getevents", "io_submit", "io_cancel", "io_pgetevents"),
}
BY_ARGUMENT = set(seccomp._CHECKED)

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = (0x50000 | number for number in (errno.EPERM, errno.ENOSYS))
EAFNOSUPPORT, EPROTONOSUPPORT = (0x50000 | n for n in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT))
EINVAL = 0x50000 | errno.EINVAL
HIGH = 1 << 32
"""A bit that the kernel drops from an int argument."""


def interpret(program: bytes, number: int, args: tuple[int, ...] = (), arch: int = 0) -> tuple[int, int]:
    """What the program returns for a call, and after how many instructions."""
    padded = (*args, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<IIQ6Q", number, arch, 0, *(value & (2**64 - 1) for value in padded))
    code = list(struct.iter_unpack("HBBI", program))
    accumulator = at = count = 0
    while True:
        opcode, yes, no, constant = code[at]
        at, count = at + 1, count + 1
        match opcode:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, constant)
            case 0x54:
                accumulator &= constant
            case 0x15:
                at += yes if accumulator == constant else no
            case 0x35:
                at += yes if accumulator >= constant else no
            case 0x05:
                at += constant
            case 0x06:
                return constant, count
            case _:
                raise AssertionError(f"an instruction the kernel's cache of verdicts does not know: {opcode:#x}")


def verdict(machine: str, number: int, *args: int) -> int:
    return interpret(seccomp.program(machine), number, args, ARCH[machine])[0]


def numbers(machine: str) -> dict[str, int]:
    """All calls of the machine by name, from this host's headers and `NEWER`."""
    for header in HEADERS[machine]:
        if os.path.exists(header):
            text = Path(header).read_text()
            found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)
            spelled = {"fstatat": "newfstatat"}
            real = {spelled.get(name, name): int(number) for name, number in found}
            # 403 to 423 are of 32-bit machines, 335 and 336 the kernel's own; two names are markers, not calls.
            of_64_bit = {name: number for name, number in real.items() if not 335 <= number <= 423}
            return {n: of_64_bit[n] for n in of_64_bit.keys() - {"syscalls", "arch_specific_syscall"}} | NEWER
    pytest.skip(f"no kernel headers for {machine} here: {' or '.join(HEADERS[machine])}")


@pytest.mark.parametrize("column, machine", list(enumerate(MACHINES)))
def test_numbers_are_those_of_the_kernel(column, machine):
    """Every number of the tables is the one that the kernel's headers give the call, on both machines."""
    real = numbers(machine)
    for table in (seccomp._REFUSED, seccomp._ABSENT, seccomp._CHECKED):
        for name, ours in table.items():
            assert ours[column] == real.get(name), name


@pytest.mark.parametrize("machine", MACHINES)
def test_every_call_gets_its_verdict(machine):
    """Refused, absent and checked calls are exactly those listed; all others that exist are allowed."""
    for name, number in numbers(machine).items():
        if name in BY_ARGUMENT or number > max(NEWER.values()):
            continue
        expected = EPERM if name in REFUSED else ENOSYS if name in ABSENT else ALLOW
        assert verdict(machine, number) == expected, name
        assert verdict(machine, number, *[2**64 - 1] * 6) == expected, name


@pytest.mark.parametrize("machine", MACHINES)
def test_unknown_calls_do_not_exist(machine):
    """A number that is newer than the tables, or lies where no call is, gives ENOSYS."""
    known = set(numbers(machine).values())
    for number in (*range(1000), 0x3FFFFFFF):
        assert number in known or verdict(machine, number) == ENOSYS, number


def test_other_doors_of_the_kernel_kill():
    """Calls in another architecture's numbering, x32 among them, kill the process."""
    for machine in MACHINES:
        for arch in (0x40000003, 0x40000028, 0, *(ARCH[other] for other in MACHINES if other != machine)):
            assert interpret(seccomp.program(machine), 39, arch=arch)[0] == KILL
    for number in (0x40000000, 0x40000027, 0x40000200, 0xFFFFFFFF):
        assert verdict("x86_64", number) == KILL
        assert verdict("aarch64", number) == ENOSYS


IPPROTO_SCTP, IPPROTO_MPTCP = 132, 262
OWN_IDS = ((INNER_ID, INNER_ID), (-1, INNER_ID), (INNER_ID, -1), (-1, -1))
OTHER_IDS = ((0, 0), (INNER_ID, 0), (0, INNER_ID), (-1, 0), (65534, -1), (-1, 5), (HIGH, -1))
DECISIONS = [
    ("clone", (0x01200011,), ALLOW),  # what fork passes
    ("clone", (0x003D0F00,), ALLOW),  # what pthread_create passes
    *(("clone", (flag | 17,), EPERM) for flag in (0x20000, *(1 << bit for bit in range(25, 31)))),
    ("clone", (0x10000011 | HIGH,), EPERM),
    *(("setsockopt", (3, level, 26), ALLOW) for level in (0, 6, 41)),
    *(("setsockopt", (3, 1, name), ALLOW) for name in (2, 7, 9, 15, 16, 27, 49, 53)),
    *(("setsockopt", (3, 1 | h, name | h), EPERM) for name in (26, 50, 51, 52, 60) for h in (0, HIGH)),
    *(("getsockopt", (3, level, name), ALLOW) for level, name in ((1, 4), (1, 35), (6, 11), (6, 1), (41, 35))),
    *(("getsockopt", (3, 6 | h, 35 | h), EINVAL) for h in (0, HIGH)),
    *(("mmap", (0, 4096, 3, flags), ALLOW) for flags in (0x22, 0x1, 0x20022, 0x100022)),
    *(("mmap", (0, 4096, 3, flags), EPERM) for flags in (0x40022, 21 << 26 | 0x40022, 0x40022 | HIGH)),
    *(("memfd_create", (0, flags), ALLOW) for flags in (0, 1, 2, 3, 8)),
    *(("memfd_create", (0, flags), EPERM) for flags in (4, 5, 21 << 26 | 4, 4 | HIGH)),
    *(("shmget", (0, 4096, flags), ALLOW) for flags in (0, 0o1600, 0o3666)),
    *(("shmget", (0, 4096, flags), EPERM) for flags in (0o5600, 0o4000 | HIGH)),
    *(("semget", (0, count, 0o1600), ALLOW) for count in (0, 1, 250, 255, HIGH)),
    *(("semget", (0, count, 0o1600), EINVAL) for count in (256, 32000, 256 | HIGH, -1)),
    *(("clone", (flags,), ALLOW) for flags in (0x4111, 0x511, 0x40511, 0x511 | HIGH)),  # vfork; processes that share
    *(
        ("clone", (flags,), EPERM) for flags in (0x003D0B00, 0x00390F00, 0x10911, 0x10911 | HIGH)
    ),  # a thread that does not
    *(("close_range", (3, 9, flags), ALLOW) for flags in (0, 4, HIGH)),
    *(("close_range", (3, 9, flags), EINVAL) for flags in (2, 6, 2 | HIGH)),
    ("socket", (1, 1, 0), ALLOW),
    ("socket", (1, 3, 0), ALLOW),  # AF_UNIX takes SOCK_RAW for SOCK_DGRAM
    *(("socket", (f, t, 0), ALLOW) for f in (2, 10) for t in (1, 2, 1 | 0x80000, 2 | 0x800, HIGH | 1)),
    *(("socket", (2, t, p), ALLOW) for t, p in ((1, 6), (2, 17), (2, 1), (2, 58))),
    *(("socket", (f, t, 1), EPERM) for f in (2, 10) for t in (3, 10, 3 | 0x80000, 3 | HIGH)),
    *(("socket", (2, 1, p), EPROTONOSUPPORT) for p in (IPPROTO_SCTP, IPPROTO_MPTCP, 33, 115, 256)),
    *(("socket", (16, t, 0), ALLOW) for t in (2, 3, 3 | 0x80000)),
    *(("socket", (16, 3, p), EAFNOSUPPORT) for p in (4, 6, 9, 12, 15, 16, 21, 9 | HIGH)),
    *(("socket", (f, 1, 0), EPERM) for f in range(64) if f not in (1, 2, 10, 16)),
    ("socket", (38 | HIGH, 5, 0), EPERM),
    ("socketpair", (1, 1, 0), ALLOW),
    *(("socketpair", (f, 1, 0), EPERM) for f in (0, 2, 16, 30, 30 | HIGH)),
    *(("ioctl", (0, n), ALLOW) for n in (0x5401, 0x5410, 0x540E, 0x5413, 0x541B, 0x8912, 0x5452)),
    *(("ioctl", (0, n), ALLOW) for n in (0x80086601, 0x801C581F)),  # FS_IOC_GETFLAGS, FS_IOC_FSGETXATTR
    *(("ioctl", (0, n | h), EPERM) for n in (0x40086602, 0x401C5820) for h in (0, HIGH)),
    *(("ioctl", (0, n | h), EPERM) for n in (0x5412, 0x541C, 0x8901, 0x8902) for h in (0, HIGH)),
    *(("fcntl", (0, n), ALLOW) for n in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 1030, 1031, 1033)),
    *(("fcntl", (0, n | h), EINVAL) for n in (36, 37, 38) for h in (0, HIGH)),
    *(("fcntl", (0, n | h), EPERM) for n in (10, 15) for h in (0, HIGH)),
    *(("personality", (n,), ALLOW) for n in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF, -1)),
    *(("personality", (n,), EPERM) for n in (1, 0x40000, 0x400000, 0x0040000 | HIGH)),
    ("prlimit64", (0, 7), ALLOW),
    *(("prlimit64", (pid,), EPERM) for pid in (1, 2**22, -1, 1 | HIGH)),
    *(("prlimit64", (0, 12 | h, 0), ALLOW) for h in (0, HIGH)),  # a question
    *(("prlimit64", (0, 12 | h, new), EPERM) for h in (0, HIGH) for new in (1, HIGH, -1)),
    *(("setrlimit", (n, 1), ALLOW) for n in (0, 7, 11, 13)),
    *(("setrlimit", (n, 1), EPERM) for n in (12, 12 | HIGH)),
    *(("mknod", (0, m | 0o644), ALLOW) for m in (0, 0o100000, 0o010000, 0o140000)),
    *(("mknod", (0, m | 0o644), EPERM) for m in (0o020000, 0o060000, 0o020000 | HIGH)),
    *(("mknodat", (0, 0, m | 0o644), ALLOW) for m in (0, 0o100000, 0o010000, 0o140000)),
    *(("mknodat", (0, 0, m | 0o644), EPERM) for m in (0o020000, 0o060000, 0o060000 | HIGH)),
    *((name, (0, *ids), ALLOW) for name in ("chown", "lchown", "fchown") for ids in OWN_IDS),
    *((name, (0, *ids), EPERM) for name in ("chown", "lchown", "fchown") for ids in OTHER_IDS),
    *(("fchownat", (0, 0, *ids, 0x100), ALLOW) for ids in OWN_IDS),
    *(("fchownat", (0, 0, *ids, 0x100), EPERM) for ids in OTHER_IDS),
]


@pytest.mark.parametrize("machine", MACHINES)
def test_arguments_decide(machine):
    """Calls that are harmless with some arguments only are decided by them, and by their low 32 bits only."""
    real = numbers(machine)
    for name, args, expected in DECISIONS:
        if name in real:
            assert verdict(machine, real[name], *args) == expected, (name, args)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("keeps_core", "set_new", "also_ask"), [(False, ALLOW, ALLOW), (True, 0x50000, EPERM)])
def test_the_limit_of_core_dumps_stays(machine, keeps_core, set_new, also_ask):
    """Where it is to, setting it does nothing and succeeds; asking for it, and every other limit, is the kernel's."""
    real = numbers(machine)

    def said(name: str, *args: int) -> int:
        code = seccomp.program(machine, keeps_core=keeps_core)
        return interpret(code, real[name], args, ARCH[machine])[0]

    core, other, somewhere = 4, 7, 0x7F0000000000
    assert (said("setrlimit", core, somewhere), said("setrlimit", other, somewhere)) == (set_new, ALLOW)
    assert said("prlimit64", 0, core, somewhere, 0) == set_new
    for old in (somewhere, 1):
        assert said("prlimit64", 0, core, somewhere, old) == also_ask
    assert said("prlimit64", 0, core, 0, somewhere) == said("prlimit64", 0, other, somewhere, 0) == ALLOW
    assert said("prlimit64", 1, core, 0, 0) == said("prlimit64", 1, core, somewhere, 0) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_program_stays_small(machine):
    """The program is short, and an ordinary call is decided after a dozen instructions."""
    code = seccomp.program(machine)
    assert len(code) // 8 < 240
    ordinary = [number for name, number in numbers(machine).items() if name not in BY_ARGUMENT]
    assert max(interpret(code, number, arch=ARCH[machine])[1] for number in ordinary) <= 12


def test_unknown_machine_is_named():
    """A machine without tables is refused by name, with the names of those that have them."""
    with pytest.raises(ValueError, match=r"'riscv64'.*x86_64 and aarch64"):
        seccomp.program("riscv64")


@pytest.mark.parametrize("length", [1, *range(120, 132), *range(250, 260), 1000])
def test_jumps_reach_any_distance(length):
    """A condition leads to the right place across more instructions than its eight bits can count."""
    filler = [("load", 0, "", "")] * length
    source = [
        ("load", 0, "", ""),
        ("equal", 1, "one", ""),
        ("equal", 2, "two", "other"),
        *filler,
        ("", 0, "other", ""),
        ("return", 9, "", ""),
        *filler,
        ("", 0, "one", ""),
        ("return", 1, "", ""),
        ("", 0, "two", ""),
        ("return", 2, "", ""),
    ]
    code = assembler.assemble(source)
    assert [interpret(code, number)[0] for number in (0, 1, 2)] == [9, 1, 2]


@pytest.mark.parametrize("module", [seccomp, assembler], ids=lambda module: module.__name__.rpartition(".")[2])
def test_imports_are_of_the_standard_library(module):
    """The modules import nothing but the standard library and each other."""
    tree = ast.parse(Path(module.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names - {assembler.__name__}} <= sys.stdlib_module_names


ALLOWED_THOUGH_DOCKER_REFUSES = {
    "file_getattr": "the ioctl FS_IOC_FSGETXATTR under another name, which Docker allows",
}


def docker_allows(profile: dict, machine: str) -> set[str]:
    """Names that the profile allows without a capability, with whatever arguments."""
    arch = {"x86_64": "amd64", "aarch64": "arm64"}[machine]
    names: set[str] = set()
    for rule in profile["syscalls"]:
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        fits = arch in includes.get("arches", [arch]) and arch not in excludes.get("arches", [])
        if rule["action"] == "SCMP_ACT_ALLOW" and fits and not includes.get("caps"):
            names |= set(rule["names"])
    return names


@pytest.mark.parametrize("machine", MACHINES)
def test_no_wider_than_docker(machine):
    """What Docker refuses to a container without capabilities is refused here too, but for the listed few."""
    path = Path(os.environ.get("REWINDBOX_TEST_DATA", "")) / "risk-seccomp/moby_seccomp__default.json"
    if not path.is_file():
        pytest.skip("$REWINDBOX_TEST_DATA has no risk-seccomp/moby_seccomp__default.json")
    allowed = docker_allows(json.loads(path.read_text()), machine)
    wider = {
        name for name, number in numbers(machine).items() if name not in allowed and verdict(machine, number) == ALLOW
    }
    assert wider - set(ALLOWED_THOUGH_DOCKER_REFUSES) == set()


# From here on the filter is worn for real, each time by a new process.

USERS = ["root", "user"] if os.geteuid() == 0 else ["user"]
BEGIN = """
import asyncio, concurrent.futures.thread, ctypes, errno, fcntl, mmap, os, platform, resource, socket
import subprocess, tempfile, threading, time
from rewindbox.backends.namespace import assembler, seccomp
from rewindbox.backends.namespace.machine import INNER_ID
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, args))
    return 0 if result != -1 else ctypes.get_errno()

def become_user():
    if os.geteuid() == 0:
        os.setgroups([]), os.setresgid(61234, 61234, 61234), os.setresuid(61234, 61234, 61234)

def wear():
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    seccomp.install(platform.machine())

os.chdir("/")
"""


def run(code: str, *, user: str = "user", timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new Python, as root or as an ordinary user."""
    if platform.machine() not in MACHINES:
        pytest.skip(f"no system call tables for this machine: {platform.machine()}")
    begin = BEGIN + ("become_user()\n" if user == "user" else "")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(
        [sys.executable, "-c", begin + code],
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        start_new_session=True,
        check=False,
    )


def run_well(code: str, *, user: str = "user") -> str:
    done = run(code, user=user)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("user", USERS)
def test_the_kernel_refuses(user):
    """Under the filter each refused call fails with EPERM and each absent one with ENOSYS."""
    real = numbers(platform.machine())
    names = dict.fromkeys(REFUSED, errno.EPERM) | dict.fromkeys(ABSENT, errno.ENOSYS)
    wanted = {real[name]: number for name, number in names.items() if name in real} | {9999: errno.ENOSYS}
    # -1 everywhere: were a call let through, it would do nothing but complain.
    said = run_well(f"wear()\nprint({{n: call(n, *[-1] * 6) for n in {list(wanted)}}})", user=user)
    assert ast.literal_eval(said) == wanted


@pytest.mark.parametrize("user", USERS)
def test_the_kernel_decides_by_argument(user):
    """Each dangerous form of a checked call works before the filter is worn, and fails after."""
    n = {name: pair[MACHINES.index(platform.machine())] for name, pair in seccomp._CHECKED.items()}
    code = f"""
n = {n}
folder = tempfile.mkdtemp(dir="/tmp")
pair = socket.socketpair()
def attempts(name):
    device, fifo = (ctypes.create_string_buffer(f"{{folder}}/{{name}}{{n}}".encode()) for n in range(2))
    return [
        call(n["socket"], 16, 3, 15),
        call(n["fcntl"], pair[0].fileno(), 15, 0),
        call(n["fcntl"], pair[0].fileno(), 10, 10),
        call(n["ioctl"], pair[0].fileno(), 0x8901 | 1 << 32, 0),
        call(n["personality"], 0x0040000),
        call(n["prlimit64"], os.getpid(), 7, 0, 0),
        call(n["mknodat"], -100, ctypes.addressof(device), 0o020600, 0),
        call(n["mknodat"], -100, ctypes.addressof(fifo), 0o010600, 0),
    ]
before = attempts("before")
wear()
after = attempts("after")
after += [call(n["socket"], *s) for s in ((2, 3, 1), (38, 5, 0), (40, 1, 0), (17, 3, 0), (2, 1, 132))]
after += [call(n["clone"], flags, 0, 0, 0, 0) for flags in (0x10000011, 0x20011, 0x40000011)]
after += [call(n["socketpair"], 30, 1, 0), call(n["ioctl"], 0, 0x5412), call(n["ioctl"], 0, 0x541C | 1 << 32)]
subprocess.run(["rm", "-r", folder])
print([before, after])
"""
    before, after = ast.literal_eval(run_well(code, user=user))
    # Two get no address to read from, which shows that they were made; devices are up to the host.
    assert before[:6] + before[7:] == [0, errno.EFAULT, 0, errno.EFAULT, 0, 0, 0]
    assert after[:8] == [errno.EAFNOSUPPORT, *[errno.EPERM] * 6, 0]
    assert after[8:13] == [*[errno.EPERM] * 4, errno.EPROTONOSUPPORT]
    assert after[13:] == [errno.EPERM] * 6


def test_a_new_user_namespace_is_out_of_reach():
    """Without the filter an ordinary program becomes root of its own namespace; with it, it cannot."""
    code = "print(call({}, 0x10000000))"
    number = seccomp._REFUSED["unshare"][MACHINES.index(platform.machine())]
    assert run_well("wear()\n" + code.format(number)) == f"{errno.EPERM}\n"
    if run_well(code.format(number)) != "0\n":
        pytest.skip("this host refuses user namespaces by itself, so the refusal proves nothing")


ORDINARY = """
wear()
def attempt():
    with open("/proc/self/status") as status:
        assert "Seccomp:\\t2" in status.read()
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert subprocess.run(["/bin/sh", "-c", "echo a | cat"], capture_output=True).stdout == b"a\\n"
    assert subprocess.run(["/bin/true"], preexec_fn=os.setsid).returncode == 0
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(abs, [-1, -2])) == [1, 2]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.mkfifo(folder + "/fifo")
        server = socket.socket(socket.AF_UNIX)
        server.bind(folder + "/socket")
        server.listen()
        client = socket.socket(socket.AF_UNIX)
        client.connect(folder + "/socket")
        with open(folder + "/locked", "w") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            os.fchmod(file.fileno(), 0o4755)
        os.close(os.memfd_create("memory"))
    assert socket.if_nameindex()
    main, other = os.openpty()
    fcntl.fcntl(main, fcntl.F_SETFL, os.O_NONBLOCK)
    os.get_terminal_size(other)

async def talk():
    async def answer(reader, writer):
        writer.write((await reader.readline()).upper())
        writer.close()
        await writer.wait_closed()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello\\n")
    assert await reader.read() == b"HELLO\\n"
    writer.close()
    server.close()
    process = await asyncio.create_subprocess_exec("echo", "x", stdout=asyncio.subprocess.PIPE)
    assert await process.communicate() == (b"x\\n", None)
    await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0)

attempt()
asyncio.run(talk())
thread = threading.Thread(target=attempt)
thread.start()
thread.join()
print("well")
"""


@pytest.mark.parametrize("user", USERS)
def test_ordinary_programs_do_not_notice(user):
    """Fork, threads, child processes, asyncio, sockets, terminals, locks and FIFOs work under the filter."""
    assert run_well(ORDINARY, user=user) == "well\n"


@pytest.mark.parametrize("user", USERS)
def test_only_the_calling_thread_wears_it(user):
    """The filter is of the thread that installs it and of what that thread starts, not of the process."""
    code = """
def status(tid):
    with open(f"/proc/self/task/{tid}/status") as file:
        return next(line.split()[1] for line in file if line.startswith("Seccomp:"))
def body():
    wear()
    child = subprocess.run(["grep", "Seccomp:", "/proc/self/status"], capture_output=True, text=True)
    print(status(threading.get_native_id()), child.stdout.split()[1])
before = status(os.getpid())
thread = threading.Thread(target=body)
thread.start()
thread.join()
print(int(status(os.getpid())) - int(before))
"""
    assert run_well(code, user=user).split() == ["2", "2", "0"]


def test_install_without_no_new_privs_says_so():
    """Without no_new_privs the kernel refuses an ordinary user, and nothing is installed."""
    said = run_well("""
try:
    seccomp.install(platform.machine())
except OSError as error:
    print(error.errno, error)
""")
    assert said.startswith(f"{errno.EACCES} ")
    assert "did not accept the seccomp filter" in said


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 has these doors")
def test_x32_calls_kill():
    """A call by its x32 number ends the process with SIGSYS."""
    assert run("wear()\ncall(0x40000000 | 39)").returncode == -signal.SIGSYS


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 has these doors")
def test_32_bit_calls_kill():
    """A call through int 0x80, where 39 would be mkdir and not getpid, ends the process with SIGSYS."""
    code = """
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
getpid = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
"""
    assert run(code + "wear()\ngetpid()").returncode in (-signal.SIGSYS, -signal.SIGSEGV)
    if run(code + "assert getpid() == os.getpid()").returncode != 0:
        pytest.skip("this kernel has no 32-bit calls, so the end of the process proves nothing")
    assert run(code + "wear()\ngetpid()").returncode == -signal.SIGSYS


def test_a_program_may_restrict_itself_further():
    """A second filter can be put on top: browsers and `file` do so."""
    assert run_well("wear()\nwear()\nprint('well')") == "well\n"
