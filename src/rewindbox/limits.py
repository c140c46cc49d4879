"""What one execution may consume, and how a host holds it to that.

A limit is *hard* (the kernel refuses), *watched* (we look and kill) or *absent*; which of them it is
depends on the host and is said by `rewindbox doctor`, never guessed from a version number.
"""

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Literal

from rewindbox.errors import InvalidArgument

Enforcement = Literal["hard", "watched", "absent"]
DEFAULT_WALL_S = 30.0
"""Of a program in python; other languages have more of it, as long as nobody sets another time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one execution may consume. Exceeding one ends it; the output so far is kept."""

    wall_s: float = DEFAULT_WALL_S
    """From the moment the vm accepts the code. Beyond: `ended="timeout"`, exit code 124."""
    cpu_s: float = 60.0
    """User and system time of all its processes together. Beyond: as `wall_s`; the error says CPU."""
    memory_mib: int = 2048
    """Memory of all its processes together. Beyond: `ended="memory"`, exit code 137."""
    processes: int = 256
    """Processes and threads at once. Beyond: fork and thread creation fail inside (EAGAIN)."""
    output_bytes: int = 8 * 1024 * 1024
    """Kept of each of stdout and stderr. Beyond: `ended="output"`, exit code 137, `truncated` is set."""
    file_mib: int = 4096
    """Largest file it may write. Beyond: writes fail inside (EFBIG, SIGXFSZ)."""
    open_files: int = 1024
    """Descriptors a process may hold, at least 5. Beyond: open fails inside (EMFILE)."""
    disk_mib: int = 8192
    """What the vm's own files may occupy on the host. Beyond: `ended="killed"`, exit code 137."""
    inodes: int = 1_000_000
    """How many files and folders of its own the vm may have. Beyond: as `disk_mib`."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InvalidArgument(f"limit {field.name} is {value!r}", remedy="give a number above 0")
            if not 0 < value < 2**53:
                raise InvalidArgument(f"limit {field.name} is {value!r}", remedy="give a number above 0")
        self.check_open_files(None)

    def check_open_files(self, session: str | None) -> None:
        """Raises InvalidArgument: too few to begin a program, or a session of this kind (`Language.session`)."""
        least = _OPEN_FILES[session]
        if self.open_files < least:
            what = f"limit open_files is {self.open_files:g}, too few for a {'session' if session else 'program'}"
            raise InvalidArgument(what, remedy=f"give at least {least}")

    def as_dict(self) -> dict[str, Any]:
        """Field names and values, for the protocol and for `--json`."""
        return {name: getattr(self, name) for name in _LIMITS}


_OPEN_FILES = {None: 5, "saved": 48, "live": 910}
"""The fewest with which python begins, a bash session has descriptor 47, and a python session those that it keeps out
of the way of its code, from 900 on; 906 were enough."""
_LIMITS = tuple(field.name for field in fields(Limits))


@cache
def with_wall(limits: Limits, wall_s: float) -> Limits:
    """The limits with the wall clock of a language, unless they have one that somebody set.

    For what is configured, as it is kept: 50 us that are not spent again.
    """
    return replace(limits, wall_s=wall_s) if limits.wall_s == DEFAULT_WALL_S else limits


BARRIERS = ("kernel_ids", "capabilities", "no_new_privs", "seccomp", "landlock", "no_core_dumps", "cpu_weight")
"""What stands around a vm besides the machine that it is made of, which it could be started without."""
REQUIREMENTS = (*BARRIERS, *(f"{limit}=hard" for limit in _LIMITS))
"""What a configuration can require: the vocabulary of `require`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Barrier:
    """Whether one barrier stands on this host."""

    name: str
    """One of `BARRIERS`."""
    stands: bool
    text: str
    """What was seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitReport:
    """How this host holds one limit."""

    limit: str
    """The field of `Limits`."""
    enforcement: Enforcement
    by: str
    """What enforces it: `RLIMIT_FSIZE`, `cgroup v2 memory.max`, `supervisor, every 2 to 50 ms` ..."""
