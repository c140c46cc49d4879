"""Which vm of the pool an agent gets, and what is to be started and stopped meanwhile: decided, not done.

Pure: no I/O, no clock. `pool.py` carries it out, and notes what was chosen in the step that chooses. `PoolStats` tells
what came of it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rewindbox.config import Settings

State = Literal["starting", "ready", "leased", "resting", "leaving"]
"""`starting`: nobody's, and not there yet. `ready`: nobody's, to be had at once. `leased`: an agent has it.
`resting`: an agent's, who is not using it. `leaving`: it is being stopped. All of them take up room."""


@dataclass(eq=False, kw_only=True, slots=True)
class Member:
    """A vm that runs, or is about to, on account of the pool."""

    vm_id: str
    state: State
    agent_id: str | None = None
    """Whose it is; None: nobody's yet. It never becomes another agent's."""
    since_s: float
    """The second of the monotonic clock since which it is in this state."""
    made_s: float
    """The one at which it was made."""
    is_busy: bool = False
    """Something goes on in it, also where the pool has nothing to do with that: it is not to be stopped."""
    uses: int = 0
    """How often it is leased: who names a vm shares it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What an agent gets."""

    vm_id: str | None
    """A vm that is ready or rests, or the agent's own that has to be started again; None: a new one."""
    evicted: str | None = None
    """The vm that has to be stopped to make room for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Upkeep:
    """What the pool lacks, and what it has no need of."""

    start: int = 0
    """So many vms to make ready."""
    stop: tuple[str, ...] = ()


@dataclass(kw_only=True, slots=True)
class Counts:
    """What has happened since the pool was opened."""

    leases: int = 0
    """Times that an agent got a vm. Each is one of the next four."""
    own: int = 0
    """It was its own, and running."""
    started: int = 0
    """It was its own, or named, and had been stopped."""
    ready: int = 0
    """It was ready."""
    new: int = 0
    """It was made while the agent waited."""
    refused: int = 0
    """None was to be had in time."""
    evicted: int = 0
    """Stopped to make room for another."""
    recycled: int = 0
    """Too old or too much used to be given to its agent again."""
    broken: int = 0
    """Did not answer, and was started anew or given up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolStats:
    """What the pool is now."""

    starting: int
    ready: int
    leased: int
    resting: int
    leaving: int
    waiting: int
    """Requests for a vm."""
    max: int
    counts: Counts
    problem: str | None
    """Why the last vm that was to be made ready could not be; None: it could."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def choose(
    members: Sequence[Member], agent_id: str, own: str | None, settings: Settings, now_s: float
) -> Choice | None:
    """The vm that an agent gets now; None: it has to wait until another one is given back.

    The first of: its own that rests, the one it used last; `own`, its vm that was stopped meanwhile; a ready one;
    a new one. What has to be started needs room, for which a vm is stopped that nobody uses.
    """
    if _has_its_share(members, agent_id, settings):
        return None
    resting = [m for m in members if m.state == "resting" and m.agent_id == agent_id and not is_old(m, settings, now_s)]
    if resting:
        return Choice(vm_id=max(resting, key=lambda member: member.since_s).vm_id)
    ready = [member for member in members if member.state == "ready"]
    if own is None and ready:
        return Choice(vm_id=min(ready, key=lambda member: member.since_s).vm_id)
    return _with_room(members, own, settings)


def choose_named(members: Sequence[Member], agent_id: str, vm_id: str, settings: Settings) -> Choice | None:
    """The same for a vm that the agent names: one that is leased already is shared."""
    named = next((member for member in members if member.vm_id == vm_id), None)
    if named is not None and named.state in ("leased", "resting"):
        return Choice(vm_id=vm_id)
    if named is not None or _has_its_share(members, agent_id, settings):
        return None
    return _with_room(members, vm_id, settings)


def _has_its_share(members: Sequence[Member], agent_id: str, settings: Settings) -> bool:
    held = sum(member.agent_id == agent_id and member.state == "leased" for member in members)
    return held >= settings.pool.per_agent


def _with_room(members: Sequence[Member], vm_id: str | None, settings: Settings) -> Choice | None:
    """To be started where there is room; else what is unused goes, a ready one first, longest unused first."""
    if len(members) < settings.pool.max:
        return Choice(vm_id=vm_id)
    unused = [m for m in members if m.state == "ready"] or [
        m for m in members if m.state == "resting" and not m.is_busy
    ]
    if not unused:
        return None
    return Choice(vm_id=vm_id, evicted=min(unused, key=lambda member: member.since_s).vm_id)


def upkeep(members: Sequence[Member], settings: Settings, now_s: float, asked_s: float) -> Upkeep:
    """What to start and stop, where the last request was at `asked_s`.

    As many are ready as `vm_pool_size` says; when nobody has asked for `pool.idle_s`, `pool.min` of them.
    """
    is_idle = now_s - asked_s >= settings.pool.idle_s
    wanted = min(settings.pool.min, settings.vm_pool_size) if is_idle else settings.vm_pool_size
    stop = [member.vm_id for member in members if _is_done_with(member, settings, now_s)]
    ready = sorted((m for m in members if m.state == "ready" and m.vm_id not in stop), key=lambda m: -m.since_s)
    stop += [member.vm_id for member in ready[wanted:]]
    coming = min(len(ready), wanted) + sum(member.state == "starting" for member in members)
    room = settings.pool.max - len(members) + len(stop)
    return Upkeep(start=max(0, min(wanted - coming, room)), stop=tuple(stop))


def is_old(member: Member, settings: Settings, now_s: float) -> bool:
    """It is not given out any more."""
    return now_s - member.made_s >= settings.pool.age_s


def _is_done_with(member: Member, settings: Settings, now_s: float) -> bool:
    if member.state not in ("ready", "resting") or member.is_busy:
        return False
    is_idle = member.state == "resting" and now_s - member.since_s >= settings.pool.idle_s
    return is_idle or is_old(member, settings, now_s)
