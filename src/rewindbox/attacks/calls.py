"""System calls that no program in a vm needs, each on its own: does the kernel's own code see it at all?

Arguments are such that the call does nothing where it arrives. Those that the kernel refuses everybody but root of the
host, for whom they would do harm, and those that it may not have, are shown by the filter's word.
"""

from rewindbox.attacks.attack import WORD, Attack, Outside


def _call(name: str, tries: str, arguments: str = "0, 0, 0, 0, 0", by_word: bool = False, root: bool = False) -> Attack:
    outside: Outside | None = "root" if root else None
    return Attack(
        id=f"call-{name.strip('_').replace('_', '-')}",
        tries=tries,
        code=f'must_not_arrive("{name}", {arguments})',
        held_by=() if root else WORD if by_word else ("seccomp",),
        outside=outside,
    )


CALLS = (
    _call("add_key", "put a key where other vms could find it", 'b"user", b"name", b"x", 1, -2'),
    _call("request_key", "look for a key of others", 'b"user", b"of-nobody", 0, 0'),
    _call("keyctl", "find the keyring of the session", "0, -3, 0"),
    _call("io_uring_setup", "make calls that no filter sees", "4, ctypes.create_string_buffer(120)"),
    _call("io_uring_enter", "the same by a ring of others", "-1, 0, 0, 0, 0, 0"),
    _call("io_uring_register", "change such a ring", "-1, 0, 0, 0"),
    _call("io_setup", "take the places for I/O that the whole host has", "0, ctypes.create_string_buffer(8)"),
    _call("io_submit", "write while it is stopped, by such a place", "0, 0, 0"),
    _call("io_getevents", "wait at one", "0, 0, 0, 0, 0"),
    _call("io_pgetevents", "the same with other signals", "0, 0, 0, 0, 0, 0"),
    _call("io_cancel", "take back what was asked of one", "0, 0, 0"),
    _call("io_destroy", "give one up", "0"),
    _call("userfaultfd", "hold the kernel in the middle of a call", "1"),
    _call("perf_event_open", "measure others", "0, 0, -1, -1, 0"),
    _call("bpf", "load a program into the kernel", "0, 0, 0", root=True),
    _call("fanotify_init", "watch a whole file system", "0x200, 0"),
    _call("fanotify_mark", "the same with a watch of others", "-1, 0, 0, 0, 0"),
    _call("name_to_handle_at", "name a file past every folder", '-100, b"/", 0, 0, 0'),
    _call("open_by_handle_at", "open a file past every folder", "-100, 0, 0"),
    _call("kcmp", "compare what processes have open", "os.getpid(), os.getpid(), 2, 0, 0"),
    _call("process_vm_writev", "write to another process's memory", "os.getppid(), 0, 0, 0, 0, 1"),
    _call("process_madvise", "throw another process's memory out", "-1, 0, 0, 0, 0"),
    _call("move_pages", "move memory of others", "os.getpid(), 0, 0, 0, 0, 1"),
    _call("migrate_pages", "the same for all of it", "0, 0, 0, 0"),
    _call("mbind", "choose the memory's place", "0, 0, 0, 0, 0, 0"),
    _call("set_mempolicy", "the same for what comes", "0, 0, 0"),
    _call("get_mempolicy", "find out about it", "0, 0, 0, 0, 0"),
    _call("set_mempolicy_home_node", "the same anew", "0, 0, 0, 1"),
    _call("modify_ldt", "change the processor's tables", "0, 0, 0"),
    _call("iopl", "reach the machine's ports", "0", by_word=True),
    _call("ioperm", "the same for some of them", "0, 0, 0", by_word=True),
    _call("adjtimex", "tune the host's clock", "ctypes.create_string_buffer(400)"),
    _call("clock_adjtime", "the same for any clock", "0, ctypes.create_string_buffer(400)"),
    _call("sysfs", "list the kernel's file systems", "3, 0, 0"),
    _call("ustat", "read about a disk of the host", "-1, 0"),
    _call("statmount", "describe mounts past the masks", "0, 0, 0, 0"),
    _call("listmount", "list mounts past the masks", "0, 0, 0, 0"),
    _call("lsm_get_self_attr", "read the label that a security module gives", "0, 0, 0, 0"),
    _call("lsm_set_self_attr", "change it", "0, 0, 0, 0"),
    _call("lsm_list_modules", "list security modules", "0, 0, 0"),
    _call("open_tree_attr", "copy a mount with other attributes", "-1, 0, 0, 0, 0"),
    _call("quotactl", "change quotas of a disk", "0, 0, 0, 0"),
    _call("quotactl_fd", "the same by descriptor", "-1, 0, 0, 0"),
    _call("sync", "have the host write to its disks all that it has not written yet", by_word=True),
    _call("syncfs", "the same for one file system, as that of /usr", "-1"),
    _call("settimeofday", "set the clock", "0, 0", by_word=True),
    _call("clock_settime", "set any clock", "0, 0"),
    _call("kexec_load", "start another kernel", by_word=True),
    _call("kexec_file_load", "the same by file", "-1, -1, 0, 0, 0", by_word=True),
    _call("init_module", "put code into the kernel", "0, 0, 0", by_word=True),
    _call("finit_module", "the same by file", "-1, 0, 0", by_word=True),
    _call("delete_module", "take code out of the kernel", "0, 0", by_word=True),
    _call("reboot", "restart the machine", "0, 0, 0, 0", root=True),
    _call("swapon", "swap to a file", "0, 0", root=True),
    _call("swapoff", "end swapping", "0", root=True),
    _call("acct", "have a file written about every process", "0", by_word=True),
    _call("vhangup", "hang up the terminal", by_word=True),
    _call("syslog", "read the kernel's log", "10, 0, 0", root=True),
    _call("lookup_dcookie", "find a file's name by the kernel's number", by_word=True),
    _call("uselib", "load a library as forty years ago", by_word=True),
    _call("_sysctl", "change settings by number", by_word=True),
    _call("create_module", "the oldest way to put code into the kernel", by_word=True),
    _call("nfsservctl", "speak to the kernel's file server", by_word=True),
)
