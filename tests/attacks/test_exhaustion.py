"""Programs that want all there is get what their limits give, end, and leave the host as it was; told from the host."""

import contextlib
import os
from pathlib import Path

import pytest
from exhaustion import GREEDY, Greedy

from conftest import eventually, job, members, namespace, needs, out, status_of, survivors
from rewindbox.backends.base import Job, Outcome

pytestmark = pytest.mark.anyio
_SLACK_KIB = 16 * 1024


class Host:
    """What one vm holds of the host, looked at from outside it."""

    def __init__(self, inside: str) -> None:
        first = next(pid for pid in members(inside) if status_of(pid)["NSpid"].split()[-1] == "1")
        self.supervisor = int(status_of(first)["PPid"])

    def is_ready(self) -> bool:
        """The supervisor has the thread that will start the next program, which has its namespace."""
        return status_of(self.supervisor)["Threads"] == "2" and has_ipc_namespace(self.supervisor)

    def look(self) -> dict[str, object]:
        """What must be the same before and after."""
        proc = Path(f"/proc/{self.supervisor}")
        return {
            "ready": self.is_ready(),
            "descriptors": len(list((proc / "fd").iterdir())),
            "mounts": (proc / "mountinfo").read_text(),
            "our descriptors": len(os.listdir("/proc/self/fd")),
        }

    def resident_kib(self) -> int:
        return int(status_of(self.supervisor)["VmRSS"].split()[0])


def has_ipc_namespace(pid: int) -> bool:
    """Whether a process has a descriptor of one."""
    with contextlib.suppress(FileNotFoundError):  # closed meanwhile
        return any(os.readlink(f"/proc/{pid}/fd/{name}").startswith("ipc:") for name in os.listdir(f"/proc/{pid}/fd"))
    return False


async def settled(vm) -> None:
    """A run, after which everything is as after every run."""
    assert await out(vm, "echo fine") == "fine\n"


async def endure(vm, greedy: Greedy, ended: tuple[str, ...], limits: dict[str, float]) -> None:
    """Run it as a process of its own; compare the host before and after."""
    await settled(vm)
    inside = await namespace(vm)
    host = Host(inside)
    await eventually(host.is_ready, "the vm is ready for the next")
    before, resident = host.look(), host.resident_kib()
    order = job(greedy.code, greedy.language, **limits)
    check(order, await vm.execute(order), ended)
    assert survivors(inside) == []
    await settled(vm)
    await eventually(lambda: host.look() == before, f"the host is as before: {before}")
    assert host.resident_kib() < resident + _SLACK_KIB


def check(order: Job, outcome: Outcome, ended: tuple[str, ...]) -> None:
    """How it ended, and that what was kept of its output is bounded."""
    said = outcome.stderr[-2000:].decode(errors="replace")
    assert outcome.ended in ended, (outcome.ended, outcome.exit_code, outcome.error, said)
    if ended == ("exit",):
        assert outcome.exit_code == 0, said
    assert max(len(outcome.stdout), len(outcome.stderr)) <= order.limits.output_bytes
    assert outcome.truncated == (outcome.ended == "output")


@pytest.mark.parametrize("greedy", GREEDY, ids=lambda greedy: greedy.id)
async def test_greedy_programs(backend, vm, greedy):
    """The run ends as its limit says, nothing of it is left, and the vm goes on."""
    needs(backend, greedy.language)
    await endure(vm, greedy, greedy.ended, greedy.limits)


@pytest.mark.parametrize("greedy", [g for g in GREEDY if g.more], ids=lambda greedy: greedy.id)
async def test_it_is_the_limit(vm, greedy):
    """With a higher limit the same program ends by itself: it was that limit that ended it."""
    await endure(vm, greedy, ("exit",), greedy.more)


@pytest.mark.parametrize("greedy", [g for g in GREEDY if g.in_session], ids=lambda greedy: greedy.id)
async def test_greedy_sessions(vm, greedy):
    """In a live session the same: it ends as its limit says, goes back to what it was, and nothing but it is left."""
    fixed = {name: value for name, value in greedy.limits.items() if name in ("processes", "file_mib", "open_files")}
    assert (await vm.execute(job("kept = 41", "python", session="s", **fixed))).ended == "exit"
    point = (await vm.take_point()).state
    inside = await namespace(vm)
    order = job(greedy.code, greedy.language, session="s", **greedy.limits)
    check(order, await vm.execute(order), greedy.ended)
    await vm.go_to(point)
    again = job("print(kept + 1)", "python", session="s", **fixed)
    assert (await vm.execute(again)).stdout == b"42\n"
    await vm.end_session("s", again.language)
    assert await out(vm, "echo fine; ls -A /dev/shm /run | grep -v -e : -e code -e '^$' | wc -l") == "fine\n0\n"
    alive = {" ".join(status_of(pid).get("Name", "").split()) for pid in survivors(inside)}
    assert len(survivors(inside)) < 12 and alive == {"python3"}, alive  # the template and checkpoints of the session
