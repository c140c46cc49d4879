"""One attack tried on a running vm, and the verdict: what it says of itself, and what the host sees meanwhile.

It is looked at while it keeps still after its last word: the host's canaries and servers, and of every process in
our vms its ids, capabilities, no_new_privs, filter, namespaces, root and mounts, from the host's /proc. Attacks that
gained something but do not tell are seen there.
"""

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache

import anyio

from rewindbox.attacks.attack import Attack, source
from rewindbox.attacks.host import Host
from rewindbox.backends.base import BackendVm, Job, Stream
from rewindbox.languages import LANGUAGES
from rewindbox.limits import Limits

_SPACES = ("user", "mnt", "pid", "net", "uts", "time")
"""Shared with pid 1 of the vm. Only ipc and cgroup are each execution's own."""
_OWN = ("user", "mnt", "pid", "net", "uts", "ipc", "cgroup")
"""Never the host's."""
_CAPABILITIES = ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd")
_VERDICTS = (b"HELD", b"BROKE")
_STARTING_S = 10.0
"""Between its birth and its exec a job of another vm, which waits for us, may be seen: so long nobody believes it."""
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an attack went."""

    said: str
    """Its last words; without HELD or BROKE it was no attack."""
    seen: tuple[str, ...]
    """What the host saw that must not be."""

    @property
    def held(self) -> bool:
        return self.said.startswith("HELD") and not self.seen

    @property
    def broke(self) -> bool:
        return self.said.startswith("BROKE") or bool(self.seen)


@dataclass(slots=True)
class _Listener:
    """What the attack has written so far."""

    text: bytes = b""
    is_over: anyio.Event = field(default_factory=anyio.Event)

    def hear(self, _: Stream, data: bytes) -> None:
        self.text += data
        if any(line.startswith(_VERDICTS) for line in self.text.split(b"\n")[:-1]):
            self.is_over.set()

    def said(self, *, is_ended: bool) -> str:
        lines = self.text.splitlines()
        verdicts = [line for line in lines if line.startswith(_VERDICTS)]
        if is_ended and not verdicts:
            return "HELD, and was ended"
        return (verdicts or lines or [b"nothing"])[-1].decode(errors="replace")


async def attempt(vm: BackendVm, attack: Attack, host: Host, *, session: str | None = None) -> Verdict:
    """Try it: in an execution of its own, or in this live session, which has a checkpoint then, and ends with it."""
    if session is not None:
        await vm.execute(_job("python", "pass", session))
    before, listener = _mounts(), _Listener()
    code = host.fill_in(source(attack, in_session=session is not None))

    async def execute() -> None:
        await vm.execute(_job("python" if session else attack.language, code, session), listener.hear)
        listener.is_over.set()

    async with anyio.create_task_group() as group:
        group.start_soon(execute)
        await listener.is_over.wait()
        seen = [*host.touched(), *await complaints(), *_moved(before)]
        await vm.cancel()
    told = listener.said(is_ended=attack.is_ended)
    if host.secret in listener.text.decode(errors="replace"):
        seen.append("it knows a secret of the host")
    return Verdict(told, tuple(seen))


def _job(language: str, code: str, session: str | None) -> Job:
    limits = Limits(wall_s=60.0)
    return Job(id=f"attack_{next(_numbers)}", language=LANGUAGES[language], code=code, limits=limits, session=session)


async def complaints() -> list[str]:
    """What processes in our vms have that they must not have."""
    deadline = anyio.current_time() + _STARTING_S
    while True:
        firsts, others = _inhabitants()
        is_any_starting = any(_is_starting(pid, status) for pid, status in others.items())
        if not is_any_starting or anyio.current_time() > deadline:
            return _complaints(firsts, others)
        await anyio.sleep(0.001)


def _complaints(firsts: list[int], others: Iterable[int]) -> list[str]:
    """Read anew: what was starting has its capabilities a moment longer than it says so."""
    by_space = {_space(pid, "pid"): pid for pid in firsts}
    found = []
    for pid in others:
        status, first = _status(pid), by_space.get(_space(pid, "pid"))
        if status.get("State", "Z")[0] not in "ZX":
            found += [f"{status.get('Name')}: {text}" for text in (*_too_much(status), *_elsewhere(pid, first))]
    return found


def _is_starting(pid: int, status: dict[str, str]) -> bool:
    """A fork of a vm's supervisor, which is outside, that is no program yet: it has capabilities until it is one."""
    parent = status.get("PPid", "")
    is_of_supervisor = len(_status(parent).get("NSpid", "").split()) == _supervisor_depth()
    return is_of_supervisor and _read(f"/proc/{pid}/cmdline") in ("", _read(f"/proc/{parent}/cmdline"))


@cache
def _supervisor_depth() -> int:
    """In how many pid namespaces a supervisor is: one more than we, and one less than what is in its vm."""
    return len(_status("self").get("NSpid", "").split()) + 1


def _too_much(status: dict[str, str]) -> Iterator[str]:
    ids = {*status.get("Uid", "").split(), *status.get("Gid", "").split()}
    if "0" in ids and os.getuid() == 0:
        yield "it is root of the host"
    if os.getuid() and not ids <= {str(os.getuid()), str(os.getgid())}:
        yield f"it has the host's ids {', '.join(sorted(ids))}"
    held = [name for name in _CAPABILITIES if int(status.get(name, "0"), 16)]
    if held:
        yield f"it has capabilities ({', '.join(held)})"
    if status.get("NoNewPrivs") != "1":
        yield "it has no no_new_privs"
    if status.get("Seccomp") != "2":
        yield "it has no filter of system calls"


def _elsewhere(pid: int, first: int | None) -> Iterator[str]:
    if _space(pid, "pid") is None:  # it ends just now
        return
    shared = [name for name in _OWN if (space := _space(pid, name)) and space == _space("self", name)]
    if shared:
        yield f"it shares namespaces with the host: {', '.join(shared)}"
    if first is None:
        yield "it is in a pid namespace of its own making"
        return
    left = [name for name in _SPACES if (space := _space(pid, name)) and space != _space(first, name)]
    if left:
        yield f"it has left the vm's namespaces: {', '.join(left)}"
    with suppress(OSError):
        own, common = os.stat(f"/proc/{pid}/root"), os.stat(f"/proc/{first}/root")
        if (own.st_dev, own.st_ino) != (common.st_dev, common.st_ino):
            yield "it has another root"


def _inhabitants() -> tuple[list[int], dict[int, dict[str, str]]]:
    """Of all vms that we started: the first processes, by our numbers, and the status of all others."""
    depth = _supervisor_depth() + 1
    firsts, others = [], {}
    for pid in _descendants(os.getpid()):
        status = _status(pid)
        numbers = status.get("NSpid", "").split()
        if len(numbers) < depth or status.get("State", "Z")[0] in "ZX":
            continue
        if len(numbers) == depth and numbers[-1] == "1":
            if status.get("Name") == "sleep":  # else it is still putting its mounts together
                firsts.append(pid)
        else:
            others[pid] = status
    return firsts, others


def _descendants(pid: int) -> Iterator[int]:
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{parent}/task"):
                children = [int(word) for word in _read(f"/proc/{parent}/task/{thread}/children").split()]
                waiting += children
                yield from children


def _mounts() -> dict[int, list[list[str]]]:
    """Places and options of the mounts of each vm, without numbers, which change when it moves onto other files."""
    firsts, _ = _inhabitants()
    return {pid: [line.split()[4:6] for line in _read(f"/proc/{pid}/mountinfo").splitlines()] for pid in firsts}


def _moved(before: dict[int, list[list[str]]]) -> list[str]:
    after = _mounts()
    changed = [pid for pid in before if pid in after and sorted(before[pid]) != sorted(after[pid])]
    return ["the vm's mounts have changed"] if changed else []


def _space(pid: int | str, kind: str) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return None


def _status(pid: int | str) -> dict[str, str]:
    pairs = (line.partition(":") for line in _read(f"/proc/{pid}/status").splitlines())
    return {name: value.strip() for name, _, value in pairs}


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
