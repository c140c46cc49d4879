"""What this host allows: how limits are held, and why a vm cannot be made, in words a person can act on."""

import errno
import os
import subprocess
from collections.abc import Sequence
from typing import Any

from rewindbox.errors import HostUnsupported
from rewindbox.limits import Enforcement, LimitReport

_APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
_CLONE = "/proc/sys/kernel/unprivileged_userns_clone"
_MAX = "/proc/sys/user/max_user_namespaces"


_REMEDIES = {
    "memory_mib=hard": "memory is limited by the kernel for root, or in a control group of one's own: "
    "`systemd-run --user --scope -p Delegate=yes`",
    "cpu_weight": "what runs in a vm weighs as one program for root, or in a control group of one's own that has the "
    "cpu controller: `systemd-run --user --scope -p Delegate=yes`",
    "no_core_dumps": "give /proc/sys/kernel/core_pattern no socket (@), and whoever starts vms a hard limit of core "
    "dumps above 0 (`ulimit -Hc`)",
    "landlock": "Landlock needs Linux 5.19 or later with `landlock` among the security modules (`lsm=` at boot)",
}


def limit_reports(found: dict[str, tuple[Enforcement, str]]) -> Sequence[LimitReport]:
    """How each field of `Limits` is held here, as a supervisor has found."""
    return [LimitReport(limit=limit, enforcement=how, by=by) for limit, (how, by) in found.items()]


def unmet(required: Sequence[str], text: str) -> HostUnsupported:
    """Something that is required does not hold here."""
    remedies = [_REMEDIES[name] for name in required if name in _REMEDIES and name.partition("=")[0] in text]
    remedies.append(f"take it out of `require` ({', '.join(required)})")
    return HostUnsupported(f"required, and not so on this host: {text}", remedy=", or ".join(remedies))


def launcher_died(launcher: "subprocess.Popen[bytes] | None") -> HostUnsupported:
    """The launcher, or the machine that it made, ended before it answered."""
    code = launcher.poll() if launcher is not None else None
    return HostUnsupported(
        "the machine ended before it answered" if code is None else f"the launcher of vms ended (exit code {code})",
        remedy="run with REWINDBOX_DEBUG=1 to see its own words",
    )


def explain(answer: dict[str, Any]) -> HostUnsupported:
    """The cause and the remedy for a step that the host refused."""
    step, number = str(answer.get("step", "")), answer.get("errno")
    cause, remedy = _cause(step, number if isinstance(number, int) else 0)
    return HostUnsupported(f"this host refuses a step of making a vm ({answer.get('text')}): {cause}", remedy=remedy)


def _cause(step: str, number: int) -> tuple[str, str]:
    if step in ("user namespace", "id map", "namespaces") or (step == "private mounts" and number == errno.EACCES):
        return _user_namespaces(number)
    if step == "overlay":
        return (
            "its kernel cannot mount an overlay for ordinary users (Linux 5.11 or later can), or the store lies on "
            "a file system that an overlay cannot write to (another overlay, NFS)",
            "put the store on ext4, xfs, btrfs or tmpfs with REWINDBOX_STORE",
        )
    if step == "proc":
        return (
            "a new /proc may not be mounted where parts of the old one are covered, as in a plain container",
            "start the container with --security-opt systempaths=unconfined, or run on the machine itself",
        )
    if step == "bounds of the user namespace":
        return (
            "what the kernel counts for a user (/proc/sys/user) may not be bounded for a vm, as where a security "
            "module keeps all of /proc/sys from being written",
            "allow it to write there (a container: --security-opt apparmor=unconfined), or run on the machine itself",
        )
    return ("the kernel said no", "run `rewindbox doctor` and report what it prints")


def _user_namespaces(number: int) -> tuple[str, str]:
    if read_setting(_APPARMOR) == "1":
        return (
            "AppArmor restricts user namespaces for ordinary users (Ubuntu 23.10 and later)",
            "allow them with `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`",
        )
    if read_setting(_CLONE) == "0":
        return (
            "user namespaces are switched off for ordinary users",
            "allow them with `sudo sysctl kernel.unprivileged_userns_clone=1`",
        )
    if read_setting(_MAX) == "0" or number == errno.ENOSPC:
        return (
            "no more user namespaces are allowed",
            "allow them with `sudo sysctl user.max_user_namespaces=65536`",
        )
    return (
        "user namespaces are refused, as the default seccomp profile of a container does",
        "start the container with --security-opt seccomp=unconfined, or run on the machine itself",
    )


def read_setting(path: str) -> str | None:
    """A kernel setting, or None where the kernel does not have it."""
    if not os.path.exists(path):
        return None
    with open(path, encoding="ascii") as file:
        return file.read().strip()
