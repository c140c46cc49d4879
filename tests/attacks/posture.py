"""How much of the host a vm has in reach: the table that test_posture.py holds a live vm to.

Numbers are exact or at most, names are all there may be; a kernel that shows fewer is well. What grows here grows on
purpose, and SECURITY.md with it (tests/house/test_posture_documented.py compares).
"""

CALLS = {
    "x86_64": {"allowed": 264, "allowed by argument": 21, "refused": 82, "absent": 14},
    "aarch64": {"allowed": 227, "allowed by argument": 18, "refused": 66, "absent": 14},
}
"""System calls that have a name, by what the filter says to them. Numbers without a name are absent, too."""
ASKED = 13
"""Of these those that send signals (fcntl by an argument) or say how others run: a session has the supervisor asked."""

DESCRIPTORS = {"execution": 3, "template": 7, "head": 7, "checkpoint": 7}
"""Of each process when its code begins or when it rests: three streams, and of a session a control socket."""
THREADS = {"execution": 1, "template": 1, "head": 1, "checkpoint": 1}
VARIABLES = {
    *("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "TZ", "TMPDIR", "TERM"),
    *("PIP_RETRIES", "npm_config_fetch_retries", "LSAN_OPTIONS", "PYTHONUNBUFFERED", "PYTHONPATH"),
}
"""Environment variables; none has a value of the caller's."""

WRITABLE = {
    "/dev/shm",
    "/run",
    "/dev/pts/ptmx",
    *(f"/dev/{n}" for n in ("null", "zero", "full", "random", "urandom", "tty")),
}
"""What can be written, or made so, besides the vm's own files (which lie in its overlay and go back)."""
OWN_FILES = {"etc", "home", "media", "mnt", "opt", "root", "srv", "tmp", "var"}
"""Folders of the overlay."""
DEVICE_NODES = {"null", "zero", "full", "random", "urandom", "tty", "pts/ptmx"}
MOUNTS = {"/", "/usr", "/proc", "/dev", "/run", "/run/code", "/dev/shm", "/dev/pts"}
"""Besides these only what lies over a file of /proc or a node of /dev, and what the host mounts below /usr."""

PROC_READABLE = {
    *("buddyinfo", "cgroups", "consoles", "cpuinfo", "crypto", "devices", "diskstats", "dma", "execdomains", "fb"),
    *("filesystems", "loadavg", "locks", "mdstat", "meminfo", "misc", "mounts", "mtrr", "partitions", "schedstat"),
    *("stat", "swaps", "uptime", "version", "vmstat", "zoneinfo"),
}
"""Files of /proc in which there is something to read; the others are empty, covered or refused."""
PROC_FOLDERS = {"bus", "acpi", "asound", "driver", "fs", "irq", "net", "pressure", "scsi", "sys", "sysvipc", "tty"}
"""Folders of /proc, covered ones among them; and those of the code's own processes."""
SELF_READABLE = {
    *("arch_status", "autogroup", "auxv", "cgroup", "cmdline", "comm", "coredump_filter", "cpuset", "environ", "exe"),
    *("gid_map", "io", "ksm_merging_pages", "ksm_stat", "limits", "loginuid", "maps", "mountinfo", "mounts"),
    *("mountstats", "numa_maps", "oom_adj", "oom_score", "oom_score_adj", "pagemap", "personality", "projid_map"),
    *("sched", "schedstat", "sessionid", "setgroups", "smaps", "smaps_rollup", "stat", "statm", "status", "syscall"),
    *("timens_offsets", "timers", "timerslack_ns", "uid_map", "wchan", "cpu_resctrl_groups", "patch_state"),
}
"""The same below /proc/self: what a program may know of itself."""
SOCKETS = {"execution": 0, "session": 6}
"""Of any family in the vm's network before the code makes one: three pairs join a session to its supervisor. The
kernel's own of netlink are not counted."""
INTERFACES = {"lo", "tunl0", "ip6tnl0", "sit0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6gre0"}
"""Network interfaces: the loopback; the others are put into every network by some kernels, and are down."""


UP = {"lo"}
"""The interfaces that are up."""


def documented() -> dict[str, str]:
    """What SECURITY.md says in its table: a name and a number, as text."""
    calls = [f"{name} {CALLS['x86_64'][name]} / {CALLS['aarch64'][name]}" for name in CALLS["x86_64"]]
    return {
        "system calls (x86-64 / aarch64)": ", ".join(calls),
        "of these, in a session only after the supervisor was asked": f"{ASKED}",
        "descriptors of an execution": f"{DESCRIPTORS['execution']}",
        "descriptors of a session's template, head, checkpoint": f"{DESCRIPTORS['head']} each",
        "threads that are not the code's": f"{sum(THREADS.values()) - len(THREADS)}",
        "environment variables": f"{len(VARIABLES)}",
        "writable places besides the vm's own files": f"{len(WRITABLE)}",
        "device nodes": f"{len(DEVICE_NODES)}",
        "mounts, without masks": f"{len(MOUNTS)}",
        "files of /proc with something in them": f"at most {len(PROC_READABLE)}",
        "the same below /proc/self": f"at most {len(SELF_READABLE)}",
        "sockets before the code opens one: execution, session": f"{SOCKETS['execution']}, {SOCKETS['session']}",
        "network interfaces that are up": f"{len(UP)}",
    }
