"""The extended attributes of files: those that a point carries, those that the kernel makes anew, and no others.

In: a name. Out: what becomes of it. Names are exact; only `user.` is a prefix, as it is the programs' own and the
kernel reads nothing out of it but an overlay's marks, `user.overlay.`; what code sets by that name, the kernel renames.
A point of a file with any other attribute is not a copy: its layer is frozen as it is. So no copy loses anything or
gives a file more than it had, whatever a kernel comes to call a right.
"""

from typing import Literal

Fate = Literal["carried", "made anew", "refused"]

OF_PROGRAMS = "user."
CARRIED = (
    # Access lists: without its list a file may be open to more than it was.
    "system.posix_acl_access",
    "system.posix_acl_default",
    # Labels, which say to a security module what a file is.
    "security.selinux",
    "security.apparmor",
    "security.SMACK64",
    "security.SMACK64EXEC",
    "security.SMACK64MMAP",
    "security.SMACK64TRANSMUTE",
)
MADE_ANEW = ("security.ima", "security.evm")
"""Sums of a file's content and attributes, which no program sets."""


def fate(name: str) -> Fate:
    """What becomes of an attribute of that name when its file is copied.

    Refused are above all capabilities of programs (`security.capability`), what only root of the host sets
    (`trusted.`), and access lists of network file systems (`system.nfs4_acl`).
    """
    if name in MADE_ANEW:
        return "made anew"
    return "carried" if name in CARRIED or name.startswith(OF_PROGRAMS) else "refused"


def is_overlays_own(name: str) -> bool:
    """The kernel's own marks; those that code set inside are escaped as user.overlay.overlay.*"""
    return name.startswith("user.overlay.") and not name.startswith("user.overlay.overlay.")
