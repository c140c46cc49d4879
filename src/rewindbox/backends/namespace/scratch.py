"""What an execution has in memory and leaves nothing of: its code, /run and /dev/shm. Runs in the supervisor."""

import os

from rewindbox.backends.namespace import kernel, trees
from rewindbox.backends.namespace.machine import GATE, MEMORY, VOLATILE
from rewindbox.backends.namespace.template import PLACE


def code_bytes(text: str) -> bytes:
    """Code as it was given: bytes that are no UTF-8 came as lone surrogates."""
    return text.encode("utf-8", "surrogateescape")


def write_code(code: str, name: str) -> None:
    """Into memory that the vm sees read-only: what was decided on is what runs."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(f"{MEMORY}/code/{name}", flags, 0o644), "wb") as file:
        file.write(code_bytes(code))


def clear(*, all_of_it: bool = True) -> None:
    """Empty /run/code and, where no session goes on, /run and /dev/shm: they are an execution's, not the vm's."""
    for name in os.listdir(f"{MEMORY}/code"):
        if f"{MEMORY}/code/{name}" not in (GATE, PLACE):
            os.unlink(f"{MEMORY}/code/{name}")
    for folder in ("run", "shm") if all_of_it else ():
        _restore(f"{MEMORY}/{folder}", VOLATILE[folder])
        for name in os.listdir(f"{MEMORY}/{folder}"):
            if (folder, name) != ("run", "code"):
                trees.delete(f"{MEMORY}/{folder}/{name}")


def _restore(folder: str, mode: int) -> None:
    """The code owns the folder: its mode, access lists and other attributes are not the next execution's."""
    os.chmod(folder, mode)
    for name in os.listxattr(folder):
        if name.startswith(("user.", "system.posix_acl_")):  # others are the host's
            os.removexattr(folder, name)


def clear_ipc(namespace: int) -> None:
    """Remove what System V has in this ipc namespace; -1: there is none. Who has a segment mapped still has that."""
    if namespace < 0:
        return
    kernel.setns(namespace, kernel.NEWIPC)  # we use none ourselves
    for kind in ("shm", "msg", "sem"):
        with open(f"/proc/sysvipc/{kind}", "rb") as file:
            for row in file.read().splitlines()[1:]:
                kernel.remove_ipc(kind, int(row.split()[1]))
