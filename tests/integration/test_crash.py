"""Whatever ends badly: the process that holds a vm is killed at any moment, two want one vm, the disk is full."""
# ruff: noqa: E501  programs that are run inside stand here as they are

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from conftest import eventually, members, namespace, scaled, until
from rewindbox.config import Settings
from rewindbox.engine import AsyncRewindbox
from rewindbox.errors import ConfigError, VmBusy
from rewindbox.opened import Opened, TemporaryStore

pytestmark = pytest.mark.anyio

HOLDER = """
import os, sys
from rewindbox import Rewindbox
mode, store = sys.argv[1:]
def say(*words): print(*words, flush=True)
with Rewindbox(store) as box:
    vm = box.vm("one")
    vm.execute("bash", "echo first > first; mkdir -p d; echo x > d/f")
    say(vm.execute("bash", "readlink /proc/self/ns/pid").stdout.strip())
    if mode == "running":
        vm.execute("bash", "rm first; echo second > second; (setsid sleep 1000 &); echo x; exec sleep 1000", on_output=lambda *_: say("ready"))
    elif mode == "idle":
        say("ready")
    elif mode == "written":
        vm.write("d/written", "w" * 3_000_000)
        say("ready")
    elif mode == "executing":
        number = 0
        while True:
            fill = "mkdir -p many; touch many/{1..150}; " if number % 3 == 2 else ""
            say(vm.execute("bash", f"{fill}echo {number} >> log").id)
            number += 1
    sys.stdin.read()
"""


def hold(mode: str, store: Path) -> tuple[subprocess.Popen, str]:
    """A process that holds the vm `one`, and the vm's pid namespace."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, mode, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().strip()


def kill(process: subprocess.Popen) -> None:
    """As the kernel does when memory ends, or an impatient person."""
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


async def text_of(vm) -> dict[str, str]:
    """The vm's files in its home, as text."""
    return {e.name: (await vm.read(e.name)).decode() for e in await vm.list() if e.kind == "file"}


@pytest.mark.parametrize("mode", ["running", "idle", "written"])
async def test_the_holder_is_killed(store, mode):
    """Nothing of the vm lives on; what was acknowledged is there; what ran is recorded as killed and undone."""
    process, inside = hold(mode, store)
    assert process.stdout.readline() == "ready\n"
    assert members(inside)
    kill(process)
    await eventually(lambda: members(inside) == [], "nothing of the vm is alive")
    async with AsyncRewindbox(store) as box:
        vm = await box.vm("one", create=False)
        assert await text_of(vm) == {"first": "first\n"}
        assert {entry.name for entry in await vm.list("d")} == ({"f", "written"} if mode == "written" else {"f"})
        entries = (await vm.history()).entries
        assert [entry.ended for entry in entries] == (["killed"] if mode == "running" else []) + ["exit", "exit"]
        if mode == "running":
            assert entries[0].rolled_back_to == entries[0].before
            assert "died" in entries[0].error
        assert await box.verify() == []
        await vm.rollback(entries[-1])
        assert await text_of(vm) == {}
        assert (await vm.execute("bash", "echo fine")).stdout == "fine\n"


async def test_killed_again_and_again(store):
    """Killed at random moments of executions, whatever was acknowledged is in history and in the files."""
    rounds, acknowledged = scaled(30), []
    chance = random.Random(4711)
    for _ in range(rounds):
        process, inside = hold("executing", store)
        for _ in range(chance.randrange(4)):
            acknowledged.append(process.stdout.readline().strip())
        for _ in range(chance.randrange(200_000)):  # a moment within an execution
            pass
        process.kill()
        acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
        kill(process)
        until(lambda inside=inside: members(inside) == [], "nothing of the vm is alive")
        async with AsyncRewindbox(store) as box:
            vm = await box.vm("one", create=False)
            present = await text_of(vm)
            entries = (await vm.history(limit=None)).entries[::-1]
            known = {entry.id for entry in entries}
            assert set(acknowledged) <= known
            assert [entry for entry in entries if entry.ended not in ("exit", "killed")] == []
            expected = [e.code.split()[-3] for e in entries if e.success and e.code.endswith(">> log")]
            assert present.get("log", "").split() == expected
            assert await box.verify() == []
    async with AsyncRewindbox(store) as box:
        vm = await box.vm("one", create=False)
        entries = (await vm.history(limit=None)).entries[::-1]
        kept = [e for e in entries if e.success and not e.output_dropped and e.code.endswith(">> log")][-60:]
        for entry in chance.sample(kept, min(len(kept), 10)):
            await vm.rollback(str(entry.after), snapshot_first=False)
            done = [e for e in entries[: entries.index(entry) + 1] if e.success and e.code.endswith(">> log")]
            assert (await vm.read("log")).decode().split() == [e.code.split()[-3] for e in done]
        assert await box.verify() == []


async def test_two_processes_want_one_vm(store):
    """The second is told who holds it, at once; it gets the vm when the first has ended."""
    process, _ = hold("idle", store)
    assert process.stdout.readline() == "ready\n"
    async with AsyncRewindbox(store) as box:
        vm = await box.vm("one")
        with pytest.raises(VmBusy, match=str(process.pid)):
            await vm.execute("bash", "true")
        with pytest.raises(VmBusy):
            await vm.remove()
        assert (await (await box.vm("two")).execute("bash", "echo two")).stdout == "two\n"
        assert (await vm.history()).total == 2
        process.stdin.close()
        process.wait()
        process.stdout.close()
        assert (await vm.execute("bash", "cat first")).stdout == "first\n"


async def test_the_supervisor_is_killed(store):
    """When what supervises a vm is killed nothing of the vm lives on, and it starts again with its files."""
    async with AsyncRewindbox(store) as box:
        vm = await box.vm("one")
        await vm.execute("bash", "echo 1 > f")
        inside = await namespace(vm._standing.running)
        supervisor = {parent_of(pid) for pid in members(inside)} - {0, 1, os.getpid()}
        for pid in supervisor:
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: members(inside) == [], "nothing of the vm is alive")
        with anyio.fail_after(60):
            try:
                await vm.execute("bash", "true")
            except Exception as error:
                assert type(error).__name__ == "VmNotAvailable"
            assert (await vm.execute("bash", "cat f")).stdout == "1\n"
        assert await box.verify() == []


async def test_a_point_while_somebody_writes(store):
    """A large vm whose file is being written to from outside is copied instead, and that copy is a point, too."""
    async with AsyncRewindbox(store) as box:
        vm = await box.vm("one")
        await vm.execute("bash", "mkdir many; for i in {1..150}; do echo $i > many/$i; done")
        running = vm._standing.running
        await running.write("big", b"1" * 5_000_000)
        for number in range(500):
            await running.write(f"more/{number}", b"x")
        descriptor = await running._open("held", write=True, mode=0o644)
        try:
            os.write(descriptor, b"held")
            taken = await running.take_point()
            assert taken.method == "copy"
            os.write(descriptor, b"on")
        finally:
            os.close(descriptor)
        assert await running.read("held", 100) == b"heldon"
        await running.take_point()
        await running.go_to(taken.state)
        assert await running.read("held", 100) == b"held"
        assert len(await running.list("more")) == 500
        again = await running.take_point()
        await running.write("big", b"2")
        await running.go_to(again.state)
        assert len(await running.read("big", 1 << 30)) == 5_000_000


def parent_of(pid: int) -> int:
    """The parent, as the host sees it."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


FULL = """
import os, sys, asyncio
from rewindbox.backends.namespace import kernel
uid, gid = os.getuid(), os.getgid()
try:
    if uid:
        kernel.unshare(kernel.NEWUSER | kernel.NEWNS)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file: file.write(text)
    else:
        kernel.unshare(kernel.NEWNS)
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("small", sys.argv[1], "tmpfs", 0, "size=48m,mode=755")
except OSError as error:
    print("impossible", error)
    sys.exit()
from rewindbox.config import Settings
from rewindbox.engine import AsyncRewindbox
from rewindbox.errors import RewindboxError
from rewindbox.limits import Limits
def filler(): return os.path.join(sys.argv[1], "filler")
def fill(leave=0):
    with open(filler(), "wb", 0) as file:
        try:
            while True: file.write(bytes(4096))
        except OSError: pass
        file.truncate(max(0, file.tell() - leave))
async def attempt(what):
    try: return await what
    except RewindboxError as error: return error
async def main():
    told = []
    async with AsyncRewindbox(os.path.join(sys.argv[1], "store")) as box:
        vm = await box.vm("one")
        good = await vm.execute("bash", "echo good > f; mkdir many; for i in {1..150}; do echo $i > many/$i; done")
        await vm.execute("bash", "echo better > f")
        for leave in (0, 4096, 16384, 65536, 262144):
            fill(leave)
            for what in (
                lambda: vm.execute("bash", "for i in {1..300}; do echo $i > many/new$i; done; head -c 3000000 /dev/urandom > big"),
                lambda: vm.write("w", b"x" * 1_000_000),
                lambda: vm.execute("bash", "echo x > small"),
                lambda: vm.rollback(good.after),
                lambda: vm.snapshot(),
            ):
                result = await attempt(what())
                if isinstance(result, RewindboxError): told.append((type(result).__name__, bool(result.remedy), str(result)))
            os.unlink(filler())
            await vm.rollback(good.after, snapshot_first=False)
            assert await vm.read("f") == b"good\\n", leave
            assert (await vm.execute("bash", "cat f; ls many | wc -l; echo y > g && cat g")).stdout == "good\\n150\\ny\\n", leave
            problems = await box.verify()
            assert problems == [], problems
        await vm.stop()
        await vm.rollback(good.after, snapshot_first=False)
        assert await vm.read("f") == b"good\\n"
    print("told", sorted({(name, remedy) for name, remedy, _ in told}))
    for line in sorted({text for _, remedy, text in told if not remedy}): print("without a remedy:", line)
asyncio.run(main())
print("fine")
"""


def test_the_disk_is_full(tmp_path):
    """On a full disk errors name a remedy, what was there stays right, and all works when there is space again."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=300, cwd="/", check=False
    )
    if done.stdout.startswith("impossible"):
        pytest.skip(f"no file system of our own: {done.stdout}")
    assert done.stdout.endswith("fine\n"), done.stdout + done.stderr
    names = {name for name in ("HistoryError", "SnapshotFailed", "BadRequest", "RollbackFailed") if name in done.stdout}
    assert names, done.stdout
    assert "without a remedy" not in done.stdout, done.stdout


TEMPORARY = """
import sys
from rewindbox import Rewindbox
from rewindbox.models import HistoryConfig, VmExecutionConfig
with Rewindbox(config=VmExecutionConfig(history=HistoryConfig(persist_history=False))) as box:
    vm = box.vm("one")
    vm.execute("bash", "mkdir -p d; echo x > d/f; chmod 000 d")
    print("ready", flush=True)
    sys.stdin.read()
    print(vm.execute("bash", "chmod 700 d; cat d/f").stdout, flush=True)
"""


async def test_temporary_stores_of_the_dead(tmp_path: Path) -> None:
    """The temporary store of a killed process is removed by the next start; those of the living, and of nobody, stay."""
    place = tmp_path / "temporary"
    place.mkdir()
    strange = {"rewindbox-temporary-noowner1", "rewindbox-temporary-link", "rewindbox-temporary-file", "other"}
    for name in ("rewindbox-temporary-noowner1", "other/locks"):
        (place / name).mkdir(parents=True)
    (place / "other/locks/owner").touch()
    (place / "rewindbox-temporary-link").symlink_to("other")
    (place / "rewindbox-temporary-file").touch()
    living = start_temporary(place)
    (of_living,) = {entry.name for entry in place.iterdir()} - strange
    dead = start_temporary(place)
    kill(dead)
    assert len({entry.name for entry in place.iterdir()}) == len(strange) + 2
    last = start_temporary(place)
    assert len({entry.name for entry in place.iterdir()}) == len(strange) + 2
    assert of_living in {entry.name for entry in place.iterdir()}
    for process in (last, living):
        assert process.communicate("")[0] == "x\n\n"
        assert process.returncode == 0
    assert {entry.name for entry in place.iterdir()} == strange
    assert (place / "other/locks/owner").exists()


def start_temporary(place: Path) -> subprocess.Popen:
    """A process with a temporary store, which has run something in it."""
    process = subprocess.Popen(
        [sys.executable, "-c", TEMPORARY],
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True},
        env={**os.environ, "TMPDIR": str(place)},
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder that is another user's")
async def test_temporary_stores_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of another user is never touched, whatever it is named."""
    theirs = tmp_path / "rewindbox-temporary-abcdefgh"
    (theirs / "locks").mkdir(parents=True)
    os.chown(theirs, 65534, 65534)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    TemporaryStore().remove()
    assert (theirs / "locks").exists()
    os.chown(theirs, 0, 0)
    TemporaryStore().remove()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_opened_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no store can be opened, its temporary folder is not left behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settings = Settings(backend="qmeu", history=replace(Settings().history, persist_history=False))
    with pytest.raises(ConfigError, match="no backend named 'qmeu'"):
        Opened(settings)
    assert list(tmp_path.iterdir()) == []
