"""The system calls a vm may make: one seccomp filter, built here, worn by every process of every vm.

In: the machine's name. Out: the BPF program, or the program installed on the calling thread. A call is
allowed unless a table below says otherwise:

* known and refused: EPERM (or the error that a kernel built without the feature would give);
* unknown (newer than these tables, or no call has that number), or best done the older way: ENOSYS, on which C
  libraries fall back;
* made through another door of the kernel (32-bit, x32), where numbers mean other calls: the process dies.

Why it is there: any program may make itself a user namespace, in which it is root, and most ways to become
root of the host start there. Nothing else that a vm wears stops that.
Not covered: a hole in a call that is allowed. Paths and whatever else is behind a pointer: a filter sees
numbers only. Bits of chmod: without setuid ones tar and dpkg fail, and under no_new_privs they give nothing.
seccomp(2) itself is allowed: with it a program may give up more (browsers do) and never gets anything back.

Only the standard library, and little of it: the tiny process that starts vms imports this.
"""

import ctypes
import errno
import os
import struct
from functools import cache

from rewindbox.backends.namespace.assembler import Line, assemble

_X86_64, _AARCH64 = range(2)
_MACHINES = {"x86_64": _X86_64, "aarch64": _AARCH64}
_AUDIT_ARCH = (0xC000003E, 0xC00000B7)
_SECCOMP_NR = (317, 277)
_NEW_LISTENER = 8
_X32_BIT = 0x40000000
"""Set in the numbers of the x32 calls, which arrive under the same audit architecture as those of x86-64."""

_LAST_KNOWN = 469
"""The newest call looked at here (file_setattr, Linux 6.17); from 424 on, numbers are the same everywhere."""

_UNUSED = (((335, 424),), ((244, 260), (295, 424)))
"""Stretches of numbers without a call, from and below. Two of them are new on x86-64 and made by the kernel for itself
(uretprobe, uprobe), which lets them past any filter; whatever else may come there is not known here."""

_Numbers = dict[str, tuple[int | None, int | None]]
"""Name of a call -> its number on x86-64 and on aarch64; None where there is no such call."""

_REFUSED: _Numbers = {
    # Mounts and roots: what the vm sees would no longer be what was built for it.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    # Namespaces: a new user namespace makes anybody root in it; a new uts one sheds the execution's mark.
    "unshare": (272, 97),
    "setns": (308, 268),
    # The kernel itself: its code, its settings, its accounting, its ports.
    "create_module": (174, None),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "get_kernel_syms": (177, None),
    "query_module": (178, None),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "lookup_dcookie": (212, 18),
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    **{"lsm_get_self_attr": (459, 459), "lsm_set_self_attr": (460, 460), "lsm_list_modules": (461, 461)},
    # Relics: most kernels do not have them, and nobody has looked at them for years.
    **{"nfsservctl": (180, 42), "getpmsg": (181, None), "putpmsg": (182, None), "afs_syscall": (183, None)},
    **{"tuxcall": (184, None), "security": (185, None), "vserver": (236, None), "uselib": (134, None)},
    **{"ustat": (136, None), "sysfs": (139, None), "_sysctl": (156, None)},
    # What attacks on kernels are made of. io_uring also makes calls that no filter sees; keyrings and
    # fanotify know no namespaces.
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    # Other processes: sessions, their frozen checkpoints and whatever is between fork and exec share one uid.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    # Files by handle: a way past every directory.
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # The ioctl FS_IOC_FSSETXATTR, see _SET_FLAGS, under another name.
    "file_setattr": (469, 469),
    # The host's clock, names, log, terminal, and what it has not yet written to its disks.
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "sync": (162, 81),
    "syncfs": (306, 267),
    # Placement of memory, also other processes' memory. All or none: libnuma then says "not available".
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "mbind": (237, 235),
    "get_mempolicy": (239, 236),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
}

_ABSENT: _Numbers = {
    # Its flags are behind a pointer: new namespaces look like threads. C libraries fall back on clone.
    "clone3": (435, 435),
    # They list mounts past the masks on /proc; callers read /proc/self/mountinfo instead.
    "statmount": (457, 457),
    "listmount": (458, 458),
    # Memory that no count of the host's shows, and that cannot be thrown out.
    "memfd_secret": (447, 447),
    # A page of a process that a pipe holds: a byte keeps all of a huge one, in no process's memory and no count.
    "vmsplice": (278, 75),
    # Rules without end, in memory that hangs on nothing that can be seen. Ours (landlock.py) are on before the filter.
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
    # Asynchronous I/O of old: the host has so many places for it (fs.aio-max-nr), and one program can take them all.
    "io_setup": (206, 0),
    "io_destroy": (207, 1),
    "io_getevents": (208, 4),
    "io_submit": (209, 2),
    "io_cancel": (210, 3),
    "io_pgetevents": (333, 292),
}

_FCNTL = (72, 25)
_CHECKED: _Numbers = {
    "clone": (56, 220),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "ioctl": (16, 29),
    "fcntl": _FCNTL,
    "close_range": (436, 436),
    "personality": (135, 92),
    "prlimit64": (302, 261),
    "setrlimit": (160, 164),
    "setsockopt": (54, 208),
    "getsockopt": (55, 209),
    "mmap": (9, 222),
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    "semget": (64, 190),
    "mknod": (133, None),
    "mknodat": (259, 33),
    **{"chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54)},
}

_ASKED: _Numbers = {
    # Allowed; where a guard listens, put to it (guard.py). These signal other processes:
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    # These say when and where others run, which nobody without privileges can undo:
    "sched_setaffinity": (203, 122),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
}

_Step = tuple[int, int, tuple[int, ...], str, str]
"""Argument, mask, values, where to go if `argument & mask` is one of the values, and where if not.

Where: a verdict, another name of `_STEPS`, or "next". Only the low 32 bits are looked at, as all of these
arguments are ints to the kernel: a filter that compares 64 bits is passed by setting a high one. Of a pointer
the other half is looked at, too, as an argument of its own: its number and `_HIGH`."""
_HIGH = 6

_ALL = 0xFFFFFFFF
# Namespaces: mount, cgroup, uts, ipc, user, pid, net; that of time cannot be made by clone. And CLONE_PARENT,
# whose child would be the supervisor's own.
_CLONE_REFUSED = 0x7E020000 | 0x8000
_SOCKET = 1  # SOL_SOCKET
_ATTACH = (26, 50, 51, 52)  # SO_ATTACH_FILTER, _BPF, _REUSEPORT_CBPF, _REUSEPORT_EBPF
_ZERO_COPY = 60  # SO_ZEROCOPY: as vmsplice, with sockets
_TCP, _MAP_PACKETS = 6, 35
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_RAW, _PACKET, _TYPE = 3, 10, 0xF  # SOCK_PACKET turns an INET socket into one that sees whole frames
_IP_PROTOCOLS = (0, 1, 6, 17, 58)  # the default, ICMP (ping), TCP, UDP, ICMPv6
_SEND_KEYS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: type into, or paste to, the terminal of whoever started us
_SET_OWNER_IOCTL = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP: F_SETOWN for sockets
_SET_FLAGS = (0x40086602, 0x401C5820)  # FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR: `chattr`. No point carries what that sets
# F_SETSIG, F_SETOWN_EX: a file that sends any signal to any process. F_SETOWN is what nginx does not start without: it
# sends SIGIO and SIGURG, and to whom is a number that can be looked at.
_SET_OWNER_FCNTL, _SET_OWNER = (10, 15), 8
# Without end, and what takes memory must hang on a process where it can be counted (lists.py): locks of an open file
# (F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW) do not, nor does what a thread has in a table of descriptors of its own, or
# has to undo in semaphores by itself (it is to be born with CLONE_FILES and CLONE_SYSVSEM).
_FILE_LOCKS = (36, 37, 38)
_THREADS, _BORN_RIGHT = 0x50400, (0x50400, 0, 0x400, 0x40000, 0x40400)
_OWN_TABLE = 2
_PERSONALITIES = (0, 8, 0x20000, 0x20008, _ALL)  # Linux, 32-bit names, uname 2.6, both, and the question
_CORE, _MARK = 4, 12  # RLIMIT_CORE, RLIMIT_MSGQUEUE
_OWN_ID = (1000, _ALL)  # the one there is, and leaving it as it is
_NODE, _DEVICE = 0xB000, 0x2000  # S_IFMT without the bit in which S_IFBLK differs from S_IFCHR

_STEPS: dict[str, tuple[_Step, ...]] = {
    "clone": (
        (0, _CLONE_REFUSED, (0,), "next", "refuse"),
        (0, _THREADS, _BORN_RIGHT, "allow", "refuse"),
    ),
    # A program on a socket is made the processor's own, in memory of which a host has so much: where there is none left
    # nobody but root puts on a filter any more.
    "setsockopt": ((1, _ALL, (_SOCKET,), "next", "allow"), (2, _ALL, (*_ATTACH, _ZERO_COPY), "refuse", "allow")),
    # TCP_ZEROCOPY_RECEIVE: packets that are mapped are counted as mapped files are, which the kernel can take back.
    "getsockopt": ((1, _ALL, (_TCP,), "next", "allow"), (2, _ALL, (_MAP_PACKETS,), "no such", "allow")),
    # Huge pages that the administrator has set aside. No resident set shows them.
    "mmap": ((3, 0x40000, (0,), "allow", "refuse"),),
    "memfd_create": ((1, 0x4, (0,), "allow", "refuse"),),
    "shmget": ((2, 0x800, (0,), "allow", "refuse"),),
    # 255 in a set at most (it was 250 for decades): a process that ends looks at all of each set that it has to undo
    # something in. With 32,000 in a set that took the kernel minutes, in which nobody can be killed.
    "semget": ((1, 0xFFFFFF00, (0,), "allow", "no such"),),
    # Families with their own history of holes are out; so are raw sockets. EPERM, as for other refusals.
    "socket": (
        (0, _ALL, (_UNIX,), "allow", "next"),
        (0, _ALL, (_NETLINK,), "netlink", "next"),
        (0, _ALL, (_INET, _INET6), "next", "refuse"),
        (1, _TYPE, (_RAW, _PACKET), "refuse", "next"),
        (2, _ALL, _IP_PROTOCOLS, "allow", "no protocol"),
    ),
    # Protocol 0 (ROUTE) lists interfaces. EAFNOSUPPORT: useradd and su take it for a kernel without audit
    # and go on; on EPERM they give up.
    "netlink": ((2, _ALL, (0,), "allow", "no family"),),
    "socketpair": ((0, _ALL, (_UNIX,), "allow", "refuse"),),
    "ioctl": ((1, _ALL, _SEND_KEYS + _SET_OWNER_IOCTL + _SET_FLAGS, "refuse", "allow"),),
    "fcntl": (
        (1, _ALL, _SET_OWNER_FCNTL, "refuse", "next"),
        (1, _ALL, (_SET_OWNER,), "guarded", "next"),
        (1, _ALL, _FILE_LOCKS, "no such", "allow"),
    ),
    "close_range": ((2, _OWN_TABLE, (0,), "allow", "no such"),),
    "personality": ((0, _ALL, _PERSONALITIES, "allow", "refuse"),),
    # Its own limits only (pid 0): a limit of 0 s of CPU on another process kills it. And none of message queues, which
    # says whose session a process is; to ask for it is allowed, as there is no new one then.
    "prlimit64": ((0, _ALL, (0,), "next", "refuse"), (1, _ALL, (_MARK,), "question", "allow")),
    "question": ((2, _ALL, (0,), "next", "refuse"), (2 + _HIGH, _ALL, (0,), "allow", "refuse")),
    "setrlimit": ((0, _ALL, (_MARK,), "refuse", "allow"),),
    # Devices, and with them the whiteouts of overlays (character device 0:0); FIFOs and sockets are fine.
    "mknod": ((1, _NODE, (_DEVICE,), "refuse", "allow"),),
    "mknodat": ((2, _NODE, (_DEVICE,), "refuse", "allow"),),
    # To an id that no user namespace of ours has: EINVAL for the kernel. EPERM is what programs expect, and cpio and
    # fakeroot ignore, where nobody may give a file away.
    **dict.fromkeys(
        ("chown", "lchown", "fchown"),
        ((1, _ALL, _OWN_ID, "next", "refuse"), (2, _ALL, _OWN_ID, "allow", "refuse")),
    ),
    "fchownat": ((2, _ALL, _OWN_ID, "next", "refuse"), (3, _ALL, _OWN_ID, "allow", "refuse")),
}

_KEEPING_CORE: dict[str, tuple[_Step, ...]] = {
    "setrlimit": ((0, _ALL, (_CORE,), "done", "next"), *_STEPS["setrlimit"]),
    "prlimit64": (_STEPS["prlimit64"][0], (1, _ALL, (_CORE,), "core", "next"), *_STEPS["prlimit64"][1:]),
    "core": ((2, _ALL, (0,), "next", "new"), (2 + _HIGH, _ALL, (0,), "allow", "new")),
    # Who also asks what it was would be told nothing.
    "new": ((3, _ALL, (0,), "next", "refuse"), (3 + _HIGH, _ALL, (0,), "done", "refuse")),
}
"""Instead of theirs, where `program` is told so."""

_RET_ERRNO = 0x00050000
_VERDICTS = {
    "allow": 0x7FFF0000,
    "refuse": _RET_ERRNO | errno.EPERM,
    "absent": _RET_ERRNO | errno.ENOSYS,
    "no family": _RET_ERRNO | errno.EAFNOSUPPORT,
    "no protocol": _RET_ERRNO | errno.EPROTONOSUPPORT,
    "no such": _RET_ERRNO | errno.EINVAL,
    "done": _RET_ERRNO,
    "kill": 0x80000000,
    "ask": 0x7FC00000,
}

"""And `guarded`: as `ask` where a guard listens, else as `allow`."""

_AT_NUMBER, _AT_ARCH, _AT_ARGUMENTS = 0, 4, 16
"""Offsets in struct seccomp_data. An argument takes 8 bytes; its low half comes first on both machines."""


@cache
def program(machine: str, *, guarded: bool = False, keeps_core: bool = False) -> bytes:
    """The filter for `machine` (as `platform.machine()` spells it), as an array of `struct sock_filter`.

    `guarded`: calls that signal other processes, or say how they run, are put to whoever listens.
    `keeps_core`: the limit of core dumps stays as it is, whatever is set; nobody who wants none is refused.

    Raises:
        ValueError: the tables do not cover that machine; the text names those they do.
    """
    if machine not in _MACHINES:
        known = " and ".join(_MACHINES)
        raise ValueError(f"no system call tables for machine {machine!r}; namespace vms run on {known}")
    return assemble(_source(_MACHINES[machine], guarded, keeps_core))


def asked_calls(machine: str) -> dict[int, str]:
    """Number -> name of the calls that a guard is asked about."""
    asked = _ASKED | {"fcntl": _FCNTL}
    return {number: name for name, numbers in asked.items() if (number := numbers[_MACHINES[machine]]) is not None}


def refused_calls(machine: str) -> dict[str, int]:
    """Name -> number of the calls that are refused, absent, or checked by their arguments."""
    column, tables = _MACHINES[machine], {**_REFUSED, **_ABSENT, **_CHECKED}
    return {name: number for name, numbers in tables.items() if (number := numbers[column]) is not None}


def install(machine: str, *, guarded: bool = False, keeps_core: bool = False) -> int:
    """Put the filter on the calling thread, and on whatever it starts from now on; there is no way back.

    Other threads of the process are not touched. The caller has set no_new_privs. Returns, where it is guarded,
    the descriptor on which the guard is asked; else 0.

    Raises:
        ValueError: as `program`.
        OSError: the kernel refused: no seccomp, or no no_new_privs. Nothing was installed.
    """
    code = program(machine, guarded=guarded, keeps_core=keeps_core)
    buffer = ctypes.create_string_buffer(code, len(code))
    fprog = ctypes.create_string_buffer(struct.pack("HP", len(code) // 8, ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    set_mode_filter, flags = ctypes.c_long(1), ctypes.c_long(_NEW_LISTENER if guarded else 0)
    result: int = libc.syscall(ctypes.c_long(_SECCOMP_NR[_MACHINES[machine]]), set_mode_filter, flags, fprog)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"the kernel did not accept the seccomp filter: {os.strerror(number)}")
    return result


def _source(column: int, guarded: bool, keeps_core: bool) -> list[Line]:
    """The whole filter as lines with labels; jumps lead forwards only."""
    lines: list[Line] = [
        ("load", _AT_ARCH, "", ""),
        ("equal", _AUDIT_ARCH[column], "", "kill"),
        ("load", _AT_NUMBER, "", ""),
    ]
    lines += _search(_intervals(column, guarded))
    for name, steps in (_STEPS | (_KEEPING_CORE if keeps_core else {})).items():
        lines += _check(name, steps)
    for name, value in {**_VERDICTS, "guarded": _VERDICTS["ask" if guarded else "allow"]}.items():
        lines += [("", 0, name, ""), ("return", value, "", "")]
    return lines


def _intervals(column: int, guarded: bool) -> list[tuple[int, str]]:
    """First number -> where to go, for stretches of numbers that go to the same place, in order."""
    where = dict.fromkeys(range(_LAST_KNOWN + 1), "allow")
    for first, below in _UNUSED[column]:
        where |= dict.fromkeys(range(first, below), "absent")
    asked = _ASKED if guarded else {}
    for table, verdict in ((_REFUSED, "refuse"), (_ABSENT, "absent"), (_CHECKED, None), (asked, "ask")):
        for name, numbers in table.items():
            number = numbers[column]
            if number is not None:
                where[number] = verdict or name
    where[_LAST_KNOWN + 1] = "absent"
    if column == _X86_64:
        where[_X32_BIT] = "kill"
    return [(n, to) for n, to in where.items() if n == 0 or to != where.get(n - 1)]


def _search(intervals: list[tuple[int, str]]) -> list[Line]:
    """A binary search for the number in hand: about seven comparisons for any call."""
    if len(intervals) == 1:
        return [("goto", 0, intervals[0][1], "")]
    half = len(intervals) // 2
    lower, upper = intervals[:half], intervals[half:]
    first = upper[0][0]
    yes = upper[0][1] if len(upper) == 1 else f"from {first}"
    no = lower[0][1] if len(lower) == 1 else ""
    lines: list[Line] = [("at least", first, yes, no)]
    lines += _search(lower) if len(lower) > 1 else []
    lines += [("", 0, yes, ""), *_search(upper)] if len(upper) > 1 else []
    return lines


def _check(name: str, steps: tuple[_Step, ...]) -> list[Line]:
    """The lines that decide one call by its arguments."""
    lines: list[Line] = []
    for index, (argument, mask, values, yes, no) in enumerate(steps):
        following = f"{name} {index + 1}"
        to = [following if where == "next" else where for where in (yes, no)]
        lines += [("", 0, f"{name} {index}" if index else name, "")]
        lines += [("load", _AT_ARGUMENTS + 8 * (argument % _HIGH) + 4 * (argument // _HIGH), "", "")]
        lines += [("and", mask, "", "")] if mask != _ALL else []
        lines += [("equal", value, to[0], "") for value in values[:-1]]
        lines += [("equal", values[-1], to[0], to[1])]
    return lines
