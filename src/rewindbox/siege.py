"""`rewindbox doctor --attack`: the corpus of attacks tried on this host, now, in real vms of a temporary store.

Every attack runs in an execution of its own and in a live session; a line for each says what it tried and whether it
was held. Nothing is left behind: the host's canaries (`attacks/host.py`) are ours and go again.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import anyio

from rewindbox import backends, config, doctor, show
from rewindbox.attacks import GROUPS, Attack
from rewindbox.attacks.host import Host
from rewindbox.attacks.trial import attempt
from rewindbox.backends.base import Backend, BackendVm
from rewindbox.call import Call, progress_of
from rewindbox.errors import RewindboxError
from rewindbox.telling import Progress
from rewindbox.terminal import Stream

_COUNT = sum(map(len, GROUPS.values()))
_SESSION = "attacked"
_SHOWN = 300
"""Characters of what an attack says that broke through."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of one attack."""

    group: str
    name: str
    tries: str
    held: bool
    text: str
    """Where it was tried; where it broke through, and what it or the host says of that."""


def main(call: Call) -> int:
    """Attack and report. 0: everything was held; 4: something broke through, or there can be no vms."""
    settings, tried, progress = config.load(store=call.arguments.store), list[Tried](), progress_of(call)
    error: RewindboxError | None = None
    try:
        with doctor.temporary_store(settings) as store, Host() as host:
            anyio.run(_attack, backends.load(settings.backend, os.path.join(store, "vms")), host, tried, progress)
    except RewindboxError as failure:
        error = failure
    finally:
        progress.over()
    is_held = error is None and all(entry.held for entry in tried)
    value = {"ok": is_held, "attacks": [asdict(entry) for entry in tried]}
    if error is not None:
        value["error"] = error.as_dict()
    call.emit(value, lambda: _page(call.out, tried, error, progress.past_s))
    return 0 if is_held else 4


async def _attack(backend: Backend, host: Host, tried: list[Tried], progress: Progress) -> None:
    try:
        places = {"execution": await backend.create("vm_execution"), "session": await backend.create("vm_session")}
        for group, attacks in GROUPS.items():
            for attack in attacks:
                progress.at(f"{len(tried)} of {_COUNT}  {attack.id}")
                tried.append(await _tried(group, attack, places, host))
    finally:
        with anyio.CancelScope(shield=True):
            await backend.close()


def _is_tried(attack: Attack, place: str) -> bool:
    return attack.in_session if place == "session" else attack.in_execution


async def _tried(group: str, attack: Attack, places: dict[str, BackendVm], host: Host) -> Tried:
    """In both places at once: each has a vm of its own."""
    found: list[str] = []

    async def in_place(place: str, vm: BackendVm) -> None:
        found.extend(await _broke(attack, place, vm, host))

    async with anyio.create_task_group() as group_of_two:
        for place, vm in places.items():
            group_of_two.start_soon(in_place, place, vm)
    text = "; ".join(sorted(found)) or " and ".join(place for place in places if _is_tried(attack, place))
    return Tried(group, attack.id, attack.tries, not found, text)


async def _broke(attack: Attack, place: str, vm: BackendVm, host: Host) -> list[str]:
    """How it broke through; nothing where it was held."""
    if not _is_tried(attack, place):
        return []
    verdict = await attempt(vm, attack, host, session=_SESSION if place == "session" else None)
    if verdict.held:
        return []
    return [
        f"in {'a' if place == 'session' else 'an'} {place}: {text[:_SHOWN]}" for text in (verdict.said, *verdict.seen)
    ]


def _page(out: Stream, tried: Sequence[Tried], error: RewindboxError | None, past_s: float) -> str:
    failure = [("error", "vm", str(error))] if error is not None else []
    if not out.is_terminal:
        return show.lines([*(("attack", e.group, e.name, _word(e), e.tries, e.text) for e in tried), *failure])
    pages = []
    for group in dict.fromkeys(entry.group for entry in tried):
        entries = [entry for entry in tried if entry.group == group]
        pages.append(
            f"{out.styled(group, 'bold')}\n"
            + show.table(out, ("", "attack", "tries"), [_row(e) for e in entries], wrap=True)
        )
    held = sum(entry.held for entry in tried)
    pages += [f"{out.styled('rewindbox:', 'red')} {text}\n" for _, _, text in failure]
    return "\n".join(pages) + f"\n{held} of {len(tried)} attacks held, in {show.seconds(past_s)}.\n"


def _word(entry: Tried) -> str:
    return "held" if entry.held else "BROKE"


def _row(entry: Tried) -> show.Row:
    mark = ("✓ held", "green") if entry.held else ("✗ BROKE", "red")
    return mark, (entry.name, "bold"), (entry.tries if entry.held else f"{entry.tries}\n{entry.text}", "")
