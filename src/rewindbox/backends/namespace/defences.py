"""What of a vm's barriers and limits the kernel holds here, found by putting them on. Runs in the supervisor.

A thread is dressed as the one that starts a job and looked at from outside, then sent away; the groups take limits.
"""

import os
import resource
from typing import Any

from rewindbox.backends.namespace import kernel, landlock
from rewindbox.backends.namespace.groups import WEIGHT, Nowhere
from rewindbox.backends.namespace.machine import PROC, Machine
from rewindbox.backends.namespace.spawner import Spawner

_WATCH = "supervisor, every 2 to 50 ms"
_NONE = "0" * 16


class Unmet(Exception):
    """Something that is required does not hold here."""


def found(machine: Machine) -> dict[str, dict[str, Any]]:
    """`barriers`: name -> whether it stands, and what was seen. `limits`: field -> how it is held, and by what."""
    status = _dressed(machine)
    jobs = machine.groups.jobs
    dumps = no_core_dumps(kernel.core_pattern(), resource.getrlimit(resource.RLIMIT_CORE)[1])
    return {"barriers": barriers(status, landlock.level()) | dumps | weight(jobs), "limits": limits(jobs)}


def barriers(status: dict[str, str], level: int) -> dict[str, tuple[bool, str]]:
    """In: what /proc says of a dressed thread, and Landlock's level."""
    ids = sorted({*status["Uid"].split(), *status["Gid"].split()})
    return {
        "kernel_ids": ("0" not in ids, f"{', '.join(ids)} outside; never 0"),
        "capabilities": (status["CapBnd"] == _NONE, f"bounding set {status['CapBnd']}: no exec gives any"),
        "no_new_privs": (status["NoNewPrivs"] == "1", status["NoNewPrivs"]),
        "seccomp": (status["Seccomp"] == "2", f"mode {status['Seccomp']}; 2 is a filter"),
        "landlock": (level >= landlock.LEVEL_MIN, _landlock(level)),
    }


def _landlock(level: int) -> str:
    if level >= landlock.LEVEL_MIN:
        ioctls = ", nor device ioctls outside of /dev" if level >= landlock.IOCTL_LEVEL else ""
        stops = f"jobs reach no file outside their root, make no device nodes{ioctls}"
        return f"level {level}: {stops}; not in a vm with live sessions"
    if level:
        return f"level {level}, which cannot allow renaming across folders, so not used"
    return "not in this kernel, or not switched on"


def no_core_dumps(pattern: bytes, limit_bytes: int) -> dict[str, tuple[bool, str]]:
    """`pattern`: see `kernel.core_pattern`; `limit_bytes`: how long one may be, of all that runs."""
    return {"no_core_dumps": _core_dumps(pattern, limit_bytes)}


def _core_dumps(pattern: bytes, limit_bytes: int) -> tuple[bool, str]:
    if pattern.startswith(b"@"):
        return False, "whatever crashes is handed to a socket of the host, which no limit keeps the kernel from"
    if not pattern.startswith(b"|"):
        return True, f"limit {limit_bytes}: no file is that short"
    if limit_bytes == kernel.NO_DUMP_BYTES:
        return True, f"limit {limit_bytes}: the host's program for them is not started"
    return False, f"each crash starts the host's program for them, as root: the limit was {limit_bytes} before"


def weight(group: Nowhere) -> dict[str, tuple[bool, str]]:
    """`group`: that of the jobs."""
    if group.counts(WEIGHT):
        return {"cpu_weight": (True, f"control group v{group.version}: all vms together weigh as one program")}
    text = "each session that code makes weighs as much as one of the host's: many take the processor from others"
    return {"cpu_weight": (False, f"{text} ({group.why_not})" if group.why_not else text)}


def limits(group: Nowhere) -> dict[str, tuple[str, str]]:
    """`group`: that of the jobs."""
    holds = _is_held(group)
    counted = "for each job; what a live session adds in an execution, its whole is watched"
    memory = f"control group v{group.version}, {counted}" if holds else f"{_WATCH}: memory of all processes"
    if not holds and group.why_not:
        memory += f" ({group.why_not})"
    processes = "RLIMIT_NPROC in the vm's user namespace"
    return {
        "wall_s": ("watched", "supervisor's clock, then SIGKILL to all"),
        "cpu_s": ("watched", f"{_WATCH}; RLIMIT_CPU for each process of a job"),
        "memory_mib": ("hard" if holds else "watched", memory),
        "processes": ("hard", f"{processes}, control group" if group.counts("pids") else processes),
        "output_bytes": ("watched", "the reader of the pipe"),
        "file_mib": ("hard", "RLIMIT_FSIZE"),
        "open_files": ("hard", "RLIMIT_NOFILE"),
        "disk_mib": ("watched", "supervisor, when free space falls"),
        "inodes": ("watched", "supervisor, when free inodes fall"),
    }


def _is_held(group: Nowhere) -> bool:
    """Tried with limits that are none."""
    try:
        group.restrict(1 << 40, 1 << 16)
    except OSError as error:
        group.why_not = f"limits of a control group: {error.strerror}"
    return group.holds()


def unmet(required: list[str], there: dict[str, dict[str, Any]]) -> list[str]:
    """Which of these do not hold, in words. A limit is required as `memory_mib=hard`."""
    missing = []
    for name in required:
        limit, is_limit, _ = name.partition("=")
        if is_limit and there["limits"][limit][0] != "hard":
            missing.append(f"{limit} is {there['limits'][limit][0]}, by {there['limits'][limit][1]}")
        elif not is_limit and not there["barriers"][name][0]:
            missing.append(f"{name}: {there['barriers'][name][1]}")
    return missing


def check(machine: Machine, required: list[str]) -> None:
    """Raises Unmet: a vm must not start without what is required."""
    missing = unmet(required, found(machine)) if required else []
    if missing:
        raise Unmet("; ".join(missing))


def _dressed(machine: Machine) -> dict[str, str]:
    """What the kernel says of a thread that could start a job."""
    woken, wake = os.pipe2(os.O_CLOEXEC)
    try:
        spawner = Spawner(machine, wake, machine.groups.jobs)
        try:
            with open(f"{PROC}/self/task/{spawner.dressed()}/status", encoding="utf-8", errors="replace") as file:
                return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}
        finally:
            spawner.dismiss()
    finally:
        os.close(woken)
        os.close(wake)
