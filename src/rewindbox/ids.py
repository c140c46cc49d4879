"""Ids: what they look like, and how far one can be cut."""

import os
from typing import Literal

Kind = Literal["vm", "ex", "pt", "snap", "run", "lease", "ws"]
PREFIX_MIN = 6
"""Characters of an id, after its kind, that a unique prefix needs at least."""
_BASE32 = b"abcdefghijklmnopqrstuvwxyz234567" * 8  # for every byte the character of its lower five bits


def new_id(kind: Kind) -> str:
    """`kind`, an underscore, and 26 random characters of lower-case base32 (130 bits)."""
    return f"{kind}_{os.urandom(26).translate(_BASE32).decode()}"


def id_bounds(kind: Kind, ref: str) -> tuple[str, str] | None:
    """The range in which the ids beginning with `ref` lie; None: it is no id, or cut too short."""
    if not ref.startswith(f"{kind}_") or len(ref) < len(kind) + 1 + PREFIX_MIN:
        return None
    return ref, ref + "~"  # "~" sorts after every character of an id
