"""Attacks that must fail, and what is needed to try them on a real vm: `rewindbox doctor --attack`, and our tests.

One list for both. Every entry is a program that is run inside, in an execution of its own and in a live session;
it says of itself whether it was held, and `trial.py` looks from outside whether that is so.
"""

from rewindbox.attacks.attack import Attack, Outside, source
from rewindbox.attacks.calls import CALLS
from rewindbox.attacks.kernel import KERNEL
from rewindbox.attacks.mounts import MOUNTS, NAMESPACES
from rewindbox.attacks.network import NETWORK
from rewindbox.attacks.privilege import PRIVILEGE
from rewindbox.attacks.processes import PROCESSES
from rewindbox.attacks.secrets import SECRETS
from rewindbox.attacks.sessions import SESSIONS

GROUPS: dict[str, tuple[Attack, ...]] = {
    "mounts": MOUNTS,
    "namespaces": NAMESPACES,
    "kernel": KERNEL,
    "system calls": CALLS,
    "processes": PROCESSES,
    "privilege": PRIVILEGE,
    "network": NETWORK,
    "secrets": SECRETS,
    "sessions": SESSIONS,
}
CORPUS = tuple(attack for group in GROUPS.values() for attack in group)

__all__ = ["CORPUS", "GROUPS", "Attack", "Outside", "source"]
