"""Starts the launcher. Standard library only, so that it can be done before the rest of us is even loaded."""

import os
import pwd
import random
import socket
import subprocess
import sys

from rewindbox.errors import HostUnsupported

_BOOT = "import sys; sys.path.append(sys.argv[1]); from rewindbox.backends.namespace import launcher; launcher.main()"

MACHINES = ("x86_64", "aarch64")
_IDS_MIN = 1000
"""Fewer are those of accounts, or there is only root's."""

Launcher = tuple["subprocess.Popen[bytes]", socket.socket]
_ahead: dict[str, Launcher] = {}


def ahead(folder: str) -> None:
    """Start a launcher for the vms in `folder`, which the first backend that needs one there takes over."""
    _ahead[folder] = start(folder, spare=False)


def take(folder: str, *, spare: bool) -> Launcher:
    """The launcher that was started ahead, or a new one; and our end of its socket."""
    launcher = _ahead.pop(folder, None)
    return launcher if launcher is not None else start(folder, spare=spare)


def start(folder: str, *, spare: bool) -> Launcher:
    """Start a launcher, without waiting for it. Raises HostUnsupported: this machine, or the folder, is no good."""
    if os.uname().machine not in MACHINES:
        raise HostUnsupported(
            f"the system calls of a machine of type {os.uname().machine} are not in our tables",
            remedy=f"use one of type {' or '.join(MACHINES)}",
        )
    _make_folder(folder)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    try:
        with theirs:
            return _process(folder, theirs, spare), ours
    except OSError as error:
        ours.close()
        raise HostUnsupported(
            f"no launcher can be started in {folder}: {error.strerror}", remedy="choose a store of your own"
        ) from error


def _process(folder: str, theirs: socket.socket, spare: bool) -> "subprocess.Popen[bytes]":
    package_root = os.path.dirname(os.path.dirname(sys.modules["rewindbox"].__file__ or ""))
    os.set_inheritable(theirs.fileno(), True)
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _BOOT, package_root, str(theirs.fileno()), str(int(spare))],
        env={},
        cwd=folder,
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=None if os.environ.get("REWINDBOX_DEBUG") else subprocess.DEVNULL,
        start_new_session=True,
    )


def _make_folder(folder: str) -> None:
    """0700, and owned by whom the vms run as: the caller, or for root an id that nobody else has."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if os.getuid() == 0 and os.stat(folder).st_uid == 0:
            uid = spare_uid()
            os.chown(folder, uid, uid)
    except OSError as error:
        raise HostUnsupported(
            f"the store's folder {folder} cannot be made: {error.strerror}",
            remedy="choose another one by REWINDBOX_STORE",
        ) from error


def spare_uid() -> int:
    """An id for root's vms to run as: high, in nobody's range, known to no account."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    inside, _, count = max(ranges, key=lambda entry: entry[2])
    if count < _IDS_MIN:
        raise HostUnsupported(
            "root has no other ids here to run vms as", remedy="run as an ordinary user, or map more ids"
        )
    low, high = (1_800_000_000, 1_879_000_000) if count > 1_900_000_000 else (inside + count // 2, inside + count)
    while True:
        uid = random.SystemRandom().randrange(low, high)
        try:
            pwd.getpwuid(uid)
        except KeyError:
            return uid
