"""What a greedy program is: what it wants, the limit that ends it, and what shows that it was that limit.

A program that is to end by itself (`exit`) finds that the kernel gives it no more; one that says `full` then keeps
still with what it got, to be looked at from outside. Python of which a live session can run each, too; what must be
a process of its own says so.
"""

from dataclasses import dataclass, field

FULL = ("full",)
"""It says so, and is cancelled when it was looked at."""


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """One program. Exactly one of `more` and `unshown` says how it is shown that a limit ends it."""

    id: str
    wants: str
    code: str
    limits: dict[str, float]
    ended: tuple[str, ...]
    """How it may end; with `FULL` it has no more than `past` then."""
    language: str = "python"
    in_session: bool = True
    ended_in_session: tuple[str, ...] = ()
    """Where it ends otherwise there."""
    more: dict[str, float] = field(default_factory=dict)
    """Limits under which the same program passes what is in `past`, or where there is nothing, ends by itself."""
    lifted: str = ""
    """Code that takes away what bounds it besides limits, as in `defences.py`."""
    past: tuple[str, float] | None = None
    """What the host sees more of then (see `test_exhaustion.py`), and how much more than it may have."""
    unshown: str = ""
    """Why no limit can be raised."""
