"""Landlock, the second wall around files: a job touches nothing that is not below its vm's root, however it got there.

Mounts decide what a path leads to. Landlock (5.19 and later) looks at the file itself: one outside the root is
refused even through a descriptor of a folder of the host, or after a way out of the mount namespace. Beside that it
refuses new device nodes anywhere, and device ioctls outside of /dev.

Worn by the thread that starts a job, so there is nothing per execution. Not by live sessions: the rule is tied to
the root that was there when it was made, their processes outlive it (a freeze, a rollback moves the vm onto
another), and would have no files then. Nor can a part of it be worn there: whatever file right a set of rules names,
renaming across folders is refused from then on where no rule allows it.
Not used: the scopes for signals and abstract sockets; programs of a job may speak with those of a session.
"""

import ctypes
import os
import struct
from functools import cache

from rewindbox.backends.namespace import kernel

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
_MAKE_CHAR, _MAKE_BLOCK, _REFER, _TRUNCATE, _IOCTL_DEV = 1 << 6, 1 << 11, 1 << 13, 1 << 14, 1 << 15
_FIRST = (1 << 13) - 1
"""The rights of the first level: execute, read, write, remove and make."""
LEVEL_MIN = 2
"""The first level cannot allow renaming across folders, and so refuses it."""
IOCTL_LEVEL = 5


@cache
def level() -> int:
    """Landlock's level in this kernel; 0: it has none, or it is not switched on."""
    try:
        return kernel.call("landlock_create_ruleset", _CREATE, None, ctypes.c_size_t(0), _VERSION)
    except OSError:
        return 0


def rights(found: int) -> int:
    """Every right to files that a level knows."""
    newer = {2: _REFER, 3: _TRUNCATE, IOCTL_LEVEL: _IOCTL_DEV}
    return _FIRST | sum(right for since, right in newer.items() if found >= since)


def put_on() -> bool:
    """For the calling thread, and all that it starts: what is below its root, and that. 0.05 ms.

    It has set no_new_privs. False: this kernel cannot. Raises OSError: it refuses, though it said that it could.
    """
    if level() < LEVEL_MIN:
        return False
    handled = rights(level())
    rules = _rules(handled)
    try:
        _allow(rules, "/", handled & ~(_MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEV))
        if handled & _IOCTL_DEV:
            _allow(rules, "/dev", _IOCTL_DEV)
        kernel.call("landlock_restrict_self", _RESTRICT, rules, 0)
    finally:
        os.close(rules)
    return True


def _rules(handled: int) -> int:
    attributes = struct.pack("Q", handled)
    return kernel.call("landlock_create_ruleset", _CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)


def _allow(rules: int, folder: str, allowed: int) -> None:
    descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", allowed, descriptor)
        kernel.call("landlock_add_rule", _ADD_RULE, rules, _PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)
