"""The engine over real vms: what history's settings mean, what happens on failure, what is kept and what is not."""

import inspect
import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from functools import partial
from pathlib import Path

import anyio
import pytest

from conftest import SOAK, eventually, is_in, remove, threads_in, until
from rewindbox.door import Rewindbox, Vm
from rewindbox.engine import AsyncRewindbox
from rewindbox.errors import (
    BadRequest,
    LanguageRefused,
    SnapshotNotFound,
    UnknownExecution,
    UnknownVm,
    UnsupportedLanguage,
    ValidationFailed,
    VmDamaged,
    VmNotAvailable,
)
from rewindbox.kept import KeptVm
from rewindbox.limits import Limits
from rewindbox.models import HistoryConfig, VmExecutionConfig
from rewindbox.stdin import Stdin
from rewindbox.vm import AsyncVm

pytestmark = pytest.mark.anyio


def opened(store, **history):
    """A box whose history is configured."""
    return AsyncRewindbox(store, config=VmExecutionConfig(history=HistoryConfig(**history)))


async def files(vm) -> dict[str, str]:
    """What is in the vm's home."""
    return {entry.name: (await vm.read(entry.name)).decode() for entry in await vm.list() if entry.kind == "file"}


def everything_on_disk(store: Path) -> bytes:
    """The database, its log of writes included."""
    return b"".join(path.read_bytes() for path in sorted(store.glob("history.db*")))


async def test_an_execution_is_remembered(box):
    """What ran, how it ended, and the points around it are in history, by id and by prefix."""
    vm = await box.vm("one")
    execution = await vm.execute("py", "print('hello'); raise SystemExit(3)", agent_id="ann")
    assert (execution.ended, execution.exit_code, execution.stdout, execution.success) == ("exit", 3, "hello\n", False)
    assert (execution.language, execution.agent_id, execution.vm_id) == ("python", "ann", vm.id)
    assert await box.execution(execution.id) == execution
    assert await box.execution(execution.id[:12]) == execution
    assert (await vm.history()).entries == (await box.history(vm="one")).entries == [execution]
    with pytest.raises(UnknownExecution):
        await box.execution("ex_zzzzzzzz")
    assert await box.verify() == []


async def test_files_stay_between_boxes(store):
    """A vm of that name has its files and history in the next box, and the next process's."""
    async with AsyncRewindbox(store) as box:
        first = await (await box.vm("one")).execute("bash", "echo kept > f")
    async with AsyncRewindbox(store) as box:
        vm = await box.vm("one")
        second = await vm.execute("bash", "cat f")
        assert second.stdout == "kept\n"
        assert second.before == first.after
        assert (await vm.history()).total == 2


async def test_rollback_to_an_execution(box):
    """An execution is undone by going to before it; history keeps everything and tells of the rollback."""
    vm = await box.vm("one")
    await vm.execute("bash", "echo 1 > f")
    bad = await vm.execute("bash", "rm f; echo 2 > g")
    after = await vm.execute("bash", "echo 3 > h")
    rollback = await vm.rollback(bad)
    assert await files(vm) == {"f": "1\n"}
    assert (rollback.from_point, rollback.to_point) == (after.after, bad.before)
    await vm.rollback(str(rollback.snapshot_id))
    assert await files(vm) == {"g": "2\n", "h": "3\n"}
    assert (await vm.history()).total == 3
    assert await box.verify() == []


async def test_rollback_by_every_name(box):
    """A point is named by its id or a prefix, a snapshot by id, prefix or name, an execution by itself."""
    vm = await box.vm("one")
    first = await vm.execute("bash", "echo 1 > f")
    named = await vm.snapshot("good")
    second = await vm.execute("bash", "echo 2 > f")
    for to in (first.after, first.after[:14], named.id, named.id[:14], "good", second, named):
        await vm.execute("bash", "echo other > f; touch g")
        await vm.rollback(to, snapshot_first=False)
        assert await files(vm) == {"f": "1\n"}


async def test_rollback_to_what_is_not_its_own(box):
    """A point, snapshot or execution of another vm, or none, is refused; nothing is changed."""
    vm, other = await box.vm("one"), await box.vm("two")
    foreign = await other.execute("bash", "echo other > f")
    snapshot = await other.snapshot("theirs")
    await vm.execute("bash", "echo own > f")
    for to in (foreign, foreign.after, snapshot, snapshot.id, "theirs", "pt_00000000", "ex_00000000", "none", ""):
        with pytest.raises(SnapshotNotFound):
            await vm.rollback(to)
    assert await files(vm) == {"f": "own\n"}


async def test_default_settings(box):
    """By default a failure is listed as a snapshot, nothing is undone by itself, and the last success is found."""
    vm = await box.vm("one")
    good = await vm.execute("bash", "echo good > f")
    bad = await vm.execute("bash", "echo bad > f; exit 1")
    assert bad.rolled_back_to is None
    assert await files(vm) == {"f": "bad\n"}
    assert [(s.kind, s.point_id, s.execution_id) for s in await vm.snapshots()] == [("failure", bad.after, bad.id)]
    await vm.rollback_to_last_success()
    assert await files(vm) == {"f": "good\n"}
    assert (await vm.history()).entries[-1] == good


async def test_no_success_to_go_to(box):
    """Without a success there is nothing to go back to, and that is said."""
    vm = await box.vm("one")
    await vm.execute("bash", "exit 1")
    with pytest.raises(SnapshotNotFound):
        await vm.rollback_to_last_success()


async def test_auto_rollback(store):
    """With auto_rollback_on_failure a failure leaves the files as before it, and the result says so."""
    async with opened(store, auto_rollback_on_failure=True) as box:
        vm = await box.vm("one")
        good = await vm.execute("bash", "echo good > f")
        bad = await vm.execute("bash", "rm f; echo bad > g; exit 1")
        assert (bad.rolled_back_to, bad.before) == (good.after, good.after)
        assert await files(vm) == {"f": "good\n"}
        slow = await vm.execute("bash", "rm f; sleep 1000", timeout_seconds=0.3)
        assert (slow.ended, slow.rolled_back_to) == ("timeout", good.after)
        same = await vm.execute("bash", "exit 1")
        assert (await files(vm), same.rolled_back_to) == ({"f": "good\n"}, good.after)
        await vm.rollback(str(bad.after))
        assert await files(vm) == {"g": "bad\n"}
        assert (await vm.execute("bash", "exit 1", rollback_on_failure=False)).rolled_back_to is None
        assert await box.verify() == []


@pytest.mark.parametrize("on", [True, False])
async def test_snapshots_by_themselves(store, on):
    """snapshot_on_execution lists the point before each, snapshot_on_failure the point after each failure."""
    async with opened(store, snapshot_on_execution=on, snapshot_on_failure=not on) as box:
        vm = await box.vm("one")
        first = await vm.execute("bash", "echo 1 > f")
        second = await vm.execute("bash", "echo 2 > f; exit 1")
        found = [(s.kind, s.point_id) for s in await vm.snapshots()]
    if on:
        assert found == [("pre_execution", first.before), ("pre_execution", second.before)]
    else:
        assert found == [("failure", second.after)]


async def test_old_entries_are_let_go(store):
    """Beyond max_history_entries output and state of the oldest go; rows and whatever is listed stay."""
    async with opened(store, max_history_entries=3, snapshot_on_failure=False) as box:
        vm = await box.vm("one")
        done = [await vm.execute("bash", f"echo {number} | tee f") for number in range(3)]
        kept = await vm.snapshot("kept")
        done += [await vm.execute("bash", f"echo {number} | tee f") for number in range(3, 12)]
        page = await vm.history()
        assert page.total == 12
        dropped = [entry.id for entry in page.entries if entry.output_dropped]
        assert set(dropped) >= {execution.id for execution in done[:8]}
        assert not {execution.id for execution in done[9:]} & set(dropped)
        assert (await box.execution(done[0].id)).stdout == ""
        assert (await box.execution(done[-1].id)).stdout == "11\n"
        with pytest.raises(SnapshotNotFound, match="no longer kept"):
            await vm.rollback(str(done[4].after))
        for to, text in ((done[10].after, "10\n"), (kept.id, "2\n"), (done[11].after, "11\n")):
            await vm.rollback(str(to), snapshot_first=False)
            assert await files(vm) == {"f": text}
        assert await box.verify() == []


async def test_history_off(store):
    """With history off nothing is recorded, and code runs all the same."""
    async with opened(store, enabled=False) as box:
        vm = await box.vm("one")
        assert (await vm.execute("bash", "echo secret-code")).stdout == "secret-code\n"
        assert (await vm.history()).total == 0
    assert b"secret-code" not in everything_on_disk(store)


async def test_nothing_stays(store, tmp_path, monkeypatch):
    """With persist_history off nothing of it is on the disk afterwards."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    async with opened(store, persist_history=False) as box:
        vm = await box.vm("one")
        execution = await vm.execute("bash", "mkdir -p d; echo x > d/f; chmod 000 d; exit 1")
        assert (await vm.history()).entries == [execution]
        await vm.rollback(execution)
        assert await files(vm) == {}
        assert len(list(place.iterdir())) == 1
    assert list(place.iterdir()) == []
    assert not store.exists() or not list(store.iterdir())


ANSWER = """
```python
print("one")
```
```bash
echo 2 > f; exit 2
```
```text
not run
```
```bash
echo three; ls
```
"""


async def collected(box, text, **options):
    return [execution async for execution in box.run(text, **options)]


@pytest.mark.parametrize("on_failure", ["stop", "continue", "rollback"])
async def test_blocks_of_an_answer(box, on_failure):
    """Blocks run in document order in one vm; a failure stops, is passed over, or is undone first."""
    decisions = []
    done = await collected(
        box,
        ANSWER,
        vm="one",
        on_failure=on_failure,
        on_decision=lambda number, d: decisions.append((number, d.skipped)),
    )
    assert [execution.exit_code for execution in done] == ([0, 2] if on_failure == "stop" else [0, 2, 0])
    assert [execution.stdout for execution in done][:2] == ["one\n", ""]
    if on_failure != "stop":
        assert done[2].stdout == ("three\nf\n" if on_failure == "continue" else "three\n")
        assert [number for number, _ in decisions] == [1, 2, 3, 4]
        assert [bool(skipped) for _, skipped in decisions] == [False, False, True, False]
    assert {execution.vm_id for execution in done} == {(await box.vm("one")).id}
    assert (done[1].rolled_back_to is not None) == (on_failure == "rollback")
    assert [entry.id for entry in (await box.history(vm="one")).entries][::-1] == [execution.id for execution in done]


async def test_what_is_refused_runs_nothing(box, store):
    """A bad argument, an unknown or refused language, and unacceptable code are told before anything runs."""
    vm = await box.vm("one")
    for language, code, error in (
        ("cobol", "x", UnsupportedLanguage),
        ("python", "", ValidationFailed),
        ("python", "x" * 10_001, ValidationFailed),
        ("python", "a\0b", ValidationFailed),
        ("python", "\ud800", ValidationFailed),
    ):
        with pytest.raises(error):
            await vm.execute(language, code)
    with pytest.raises(BadRequest):
        await vm.execute("bash", "echo x > ran", working_dir="missing")
    with pytest.raises(BadRequest):
        await vm.execute("bash", "echo x > ran", environment={"A=B": "x"})
    with pytest.raises(BadRequest):
        await collected(box, ANSWER, vm="one", on_failure="perhaps")
    with pytest.raises(UnknownVm):
        await box.vm("nobody", create=False)
    assert await files(vm) == {}
    assert await box.verify() == []
    async with AsyncRewindbox(store.parent / "other", config=VmExecutionConfig(allowed_languages=["python"])) as other:
        with pytest.raises(LanguageRefused):
            await (await other.vm("one")).execute("bash", "true")
        assert (await other.history()).total == 0
    remove(store.parent / "other")


async def test_refused_executions_leave_the_vm_usable(box):
    """What was begun and could not be run is in history as killed, and does not come back in the next life."""
    vm = await box.vm("one")
    await vm.execute("bash", "echo 1 > f")
    with pytest.raises(BadRequest):
        await vm.execute("bash", "true", working_dir="missing")
    await vm.execute("bash", "echo 2 > f")
    await vm.stop()
    assert await files(vm) == {"f": "2\n"}
    assert await box.verify() == []


async def test_files_leave_points(box):
    """A write leaves a point that can be gone back to; reading and listing leave none."""
    vm = await box.vm("one")
    await vm.write("f", "1")
    first = vm.record.tip
    await vm.read("f")
    await vm.list()
    assert vm.record.tip == first
    await vm.write("f", b"2")
    second = vm.record.tip
    assert second != first
    await vm.rollback(str(first))
    assert await files(vm) == {"f": "1"}
    await vm.rollback(str(second))
    assert await files(vm) == {"f": "2"}


async def test_one_after_the_other(box):
    """Executions of one vm queue, whoever asks; points make one line in that order."""
    vm = await box.vm("one")
    done = []

    async def add(number):
        done.append(await vm.execute("bash", f"n=$(cat f 2>/dev/null || echo 0); echo $((n + 1)) > f; echo {number}"))

    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(add, number)
    assert await files(vm) == {"f": "12\n"}
    assert [later.before for later in done[1:]] == [earlier.after for earlier in done[:-1]]


async def test_two_vms_at_once(box):
    """Executions of two vms run at the same time: each waits here for what the other does."""
    one, two = await box.vm("one"), await box.vm("two")
    started = {name: anyio.Event() for name in ("one", "two")}
    done = {}

    async def wait(vm):
        done[vm.name] = await vm.execute(
            "bash", "echo x; sleep 1000", on_output=lambda *_: started[vm.name].set(), timeout_seconds=60
        )

    async with anyio.create_task_group() as group:
        group.start_soon(wait, one)
        group.start_soon(wait, two)
        for event in started.values():
            await event.wait()
        group.cancel_scope.cancel()
    assert not done
    for vm in (one, two):
        (entry,) = (await vm.history()).entries
        assert (entry.ended, entry.stdout) == ("killed", "x\n")
    assert await box.verify() == []


async def test_cancelled_at_any_moment(box):
    """Whenever a call is cancelled, its execution is in history once, with its end, and nothing later is lost."""
    vm = await box.vm("one")
    await vm.execute("bash", "echo start > f")
    steps = finished = 0
    while finished < 5:  # in a row: then it is cancelled too late
        done = False

        async def add(number=steps):
            nonlocal done
            await vm.execute("bash", f"echo {number} >> f")
            done = True

        async with anyio.create_task_group() as group:
            group.start_soon(add)
            for _ in range(steps):
                if done:
                    break
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        steps, finished = steps + max(1, steps // 20), finished + 1 if done else 0
    last = await vm.execute("bash", "echo last >> f; cat f")
    entries = (await vm.history(limit=None)).entries[::-1]
    for earlier, later in itertools.pairwise(entries):
        assert later.before == (earlier.rolled_back_to or earlier.after or earlier.before)
    await vm.stop()
    assert (await files(vm))["f"] == last.stdout
    assert await box.verify() == []


async def test_a_callback_that_fails(box):
    """An error in the caller's own callback reaches the caller; the execution is recorded as killed."""
    vm = await box.vm("one")

    def on_output(*_):
        raise LookupError("the caller's own")

    with pytest.raises(LookupError):
        await vm.execute("bash", "echo x; echo y > f; sleep 1000", on_output=on_output)
    (entry,) = (await vm.history()).entries
    assert entry.ended == "killed"
    assert (await vm.execute("bash", "echo fine")).stdout == "fine\n"
    assert await box.verify() == []


async def test_stopped_while_it_runs(box):
    """A vm that is stopped under its execution records it as killed, and the next one runs in a new life."""
    vm = await box.vm("one")
    await vm.execute("bash", "echo 1 > f")
    started = anyio.Event()

    async def start():
        with pytest.raises(VmNotAvailable):
            await vm.execute("bash", "echo 2 > f; echo x; sleep 1000", on_output=lambda *_: started.set())

    async with anyio.create_task_group() as group:
        group.start_soon(start)
        await started.wait()
        await vm.stop()
    assert (await vm.history()).entries[0].ended == "killed"
    assert (await vm.execute("bash", "echo fine")).stdout == "fine\n"
    assert await box.verify() == []


async def test_secrets_are_not_kept(box, store):
    """Values of the environment and stdin are nowhere in the database; names and values of code are."""
    vm = await box.vm("one")
    await vm.execute(
        "bash", "cat > /dev/null; : code-marker", environment={"TOKEN": "env-marker-1"}, stdin="stdin-marker-2"
    )
    with pytest.raises(BadRequest):
        await vm.execute("bash", "true", environment={"TOKEN": "env-marker-3"}, stdin=b"x", working_dir="missing")
    stdin = Stdin()
    stdin.write("stdin-marker-4")
    stdin.close()
    await vm.execute("bash", "cat > /dev/null", stdin=stdin)
    content = everything_on_disk(store)
    assert b"code-marker" in content
    assert [marker for marker in (b"env-marker", b"stdin-marker") if marker in content] == []


async def test_removed(box, store):
    """A removed vm's files are gone and its name is free; its history stays, found by its id."""
    vm = await box.vm("one")
    execution = await vm.execute("bash", "mkdir d; echo x > d/f; chmod 000 d")
    folder = store / "vms" / vm.id
    assert folder.exists()
    await vm.remove()
    assert not folder.exists()
    assert await box.execution(execution.id) == execution
    assert (await box.history(vm=vm.id)).total == 1
    again = await box.vm("one")
    assert again.id != vm.id
    assert await files(again) == {}


async def test_many_executions(store):
    """However many executions leave layers, points stay right and the vm's folder stays small."""
    count = 5_000 if SOAK else 500
    async with opened(store, max_history_entries=20) as box:
        vm = await box.vm("one")
        done, sizes = [], []
        fill = "mkdir -p d; cd d; for i in {0..119}; do : > $i; done; "
        for number in range(count):
            large = fill if number % 2 else ""
            done.append(await vm.execute("bash", f"{large}echo {number} > ~/f; echo {number} > ~/g$(({number} % 7))"))
            assert done[-1].success, done[-1].stderr
            if number % 50 == 49:
                sizes.append(sum(name[0] in "ucf" for name in os.listdir(store / "vms" / vm.id)))
                for back in (1, 7, 15):
                    await vm.rollback(str(done[-back].after), snapshot_first=False)
                    assert (await vm.read("f")).decode() == f"{number + 1 - back}\n"
                    assert len(await vm.list("d")) == 120
                await vm.rollback(str(done[-1].after), snapshot_first=False)
        assert max(sizes) < 200
        assert max(sizes[len(sizes) // 2 :]) <= max(sizes[: len(sizes) // 2]) * 1.5 + 20
        assert await box.verify() == []


def test_the_doors_are_the_same():
    """The synchronous door has the engine's names and arguments, no more and no fewer."""
    for plain, engine in ((Rewindbox, AsyncRewindbox), (Vm, AsyncVm), (KeptVm, AsyncVm)):
        own = {name for name in vars(plain) if not name.startswith("_")} - {"call", "inner"}
        theirs = {name for name in vars(engine) if not name.startswith("_")} | ({"settings"} & own)
        theirs -= {"look"} - own  # `record` of the plain door may take its time
        assert own == theirs
        for name in own:
            if inspect.isfunction(vars(plain)[name]):
                ours = set(inspect.signature(vars(plain)[name]).parameters)
                other = set(inspect.signature(vars(engine)[name]).parameters)
                assert {"options", "query"} & (ours | other) or ours == other - {"block", "execution_id"}, name


def test_the_plain_door(store):
    """The synchronous door runs, remembers, goes back, streams and closes."""
    seen = []
    with Rewindbox(store) as box:
        vm = box.vm("one")
        first = vm.execute("bash", "echo 1 > f; echo out", on_output=lambda stream, data: seen.append((stream, data)))
        vm.write("g", "2")
        assert [entry.name for entry in vm.list()] == ["f", "g"]
        vm.rollback(first)
        assert vm.list() == []
        assert [execution.exit_code for execution in box.run(ANSWER, vm)] == [0, 2]
        assert box.history().total == 3
        assert box.verify() == []
        with pytest.raises(SnapshotNotFound):
            vm.rollback("none")
    assert seen == [("stdout", b"out\n")]


INTERRUPTED = """
import sys
import textwrap
from rewindbox import Rewindbox
with Rewindbox(sys.argv[1]) as box:
    vm = box.vm("one")
    try:
        vm.execute("bash", "echo 1 > f; echo so far; sleep 1000", on_output=lambda *_: print("started", flush=True))
    except KeyboardInterrupt:
        (entry,) = vm.history().entries
        fine = vm.execute("bash", "echo fine").stdout.strip()
        print(entry.ended, entry.stdout.strip(), entry.exit_code, fine, box.verify())
"""


def test_interrupted_by_the_keyboard(store):
    """Ctrl-C while the synchronous door waits ends the code, records it as killed, and the vm goes on."""
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(store)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "killed so far 137 fine []\n"
    assert process.returncode == 0


def test_threads_share_a_box(store):
    """Several threads may use one synchronous box."""
    from concurrent.futures import ThreadPoolExecutor

    with Rewindbox(store) as box, ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda n: box.vm(f"vm{n % 3}").execute("bash", f"echo {n}").stdout, range(12)))
        assert done == [f"{number}\n" for number in range(12)]
        assert box.history().total == 12
        until(lambda: box.verify() == [], "the file is whole")


async def test_limits_of_a_box(store):
    """A box's limits hold for every execution; those of a call win."""
    async with AsyncRewindbox(store, limits=Limits(output_bytes=10)) as box:
        vm = await box.vm("one")
        assert (await vm.execute("bash", "echo 0123456789abc")).ended == "output"
        assert (await vm.execute("bash", "echo 0123456789abc", limits=Limits())).success
        assert (await vm.execute("bash", "sleep 1000", timeout_seconds=0.2)).error == "Execution timeout after 200ms"


async def test_a_damaged_vm_goes_back_to_a_point(box):
    """Where a vm's own files are gone, it says so and changes nothing; a kept point brings it back."""
    vm = await box.vm("one")
    first = await vm.execute("bash", "echo one > f")
    await vm.execute("bash", "echo two > f")
    await vm.stop()
    folder = Path(box.settings.folder) / "vms" / vm.id
    shutil.rmtree(folder / vm.record.live["upper"])
    with pytest.raises(VmDamaged, match="roll it back") as caught:
        await vm.execute("bash", "cat f")
    assert caught.value.exit_code == 2
    await vm.rollback(first.after)
    assert (await vm.execute("bash", "cat f")).stdout == "one\n"
    assert (await vm.history()).total == 3


FILES = """
**`shop/price.py`**

```python
def price(item): return {"tea": 4}[item]
```

Save this as `main.py`:

```python
from shop.price import price
print(price("tea"))
```

```html
<p>not named, not run</p>
```

Save this as `data.json`:

```json
{"a": "\u00e9"}
```

Then run it:

    python3 main.py

```console
$ cat data.json
{"a": "?"}
$ ls shop/price.py
shop/price.py
```
"""


async def test_files_of_an_answer_are_written_and_its_commands_run(box):
    """Blocks that are files are written in their turn, commands run on them, of a console only what was typed."""
    vm = await box.vm("one")
    told = []
    ran = [ex async for ex in box.run(FILES, vm, on_decision=lambda number, decision: told.append(decision))]
    assert [decision.path for decision in told] == ["shop/price.py", "main.py", None, "data.json", None, None]
    assert [ex.stdout for ex in ran] == ["4\n", '{"a": "\u00e9"}\nshop/price.py\n']
    assert (await vm.read("main.py")).decode().startswith("from shop.price")


async def test_a_file_that_cannot_be_written_is_skipped(box):
    """The run goes on, and says why; a path from the root on is the vm's, where it can be written to."""
    vm = await box.vm("one")
    await vm.execute("bash", "mkdir data.json; touch file")
    paths = ("data.json", "file/data.txt", "/usr/data.txt", "/proc/1/data.txt", "C:\\data.txt", "/srv/app/data.txt")
    text = "".join(f"{path}\n```json\n1\n```\n" for path in paths) + "```bash\ncat /srv/app/data.txt\n```"
    told = []
    ran = [ex async for ex in box.run(text, vm, on_decision=lambda number, decision: told.append(decision))]
    assert [ex.stdout for ex in ran] == ["1\n"]
    assert [(decision.path, decision.skipped[:11]) for decision in told[:5]] == [(None, "not written")] * 5
    assert told[5].path == "/srv/app/data.txt"


async def test_all_of_history_is_exported(box):
    """Every execution once, in the order of recording, of removed vms too; as `history` gives each."""
    for number in range(70):
        vm = await box.vm(f"v{number % 2}")
        await vm.execute("bash", f"echo {number}; exit {number % 3}")
    await vm.remove()
    exported = [execution async for execution in box.export()]
    assert [execution.stdout for execution in exported] == [f"{number}\n" for number in range(70)]
    assert exported == list(reversed((await box.history(limit=None)).entries))


async def test_history_of_a_language(box):
    """Any name of a language finds what ran in it; the total counts those alone."""
    vm = await box.vm("one")
    await vm.execute("python", "1")
    await vm.execute("sh", "true")
    for name in ("python", "PY", "python3"):
        page = await box.history(language=name)
        assert (page.total, [entry.language for entry in page.entries]) == (1, ["python"])
    assert (await box.history(language="cobol")).total == 0


async def test_a_store_is_removed_like_any_folder(store):
    """Whoever made it can delete it by `rm -r`: nothing in it is closed to its owner that the code did not close."""
    async with AsyncRewindbox(store) as box:
        vm = await box.vm("one")
        await vm.execute("bash", "mkdir a; echo one > a/f")
        await vm.rollback((await vm.execute("bash", "rm -r a")).before)
    subprocess.run(["rm", "-r", str(store)], check=True, stdin=subprocess.DEVNULL)


async def test_writes_alone_do_not_pile_up(box):
    """The points between two writes go; the last one stays."""
    vm = await box.vm("one")
    for number in range(60):
        await vm.write("f", str(number))
    kept = list((Path(box.settings.folder) / "vms" / vm.id).glob("c*"))
    assert len(kept) <= 45
    assert await vm.read("f") == b"59"


def test_the_session_of_the_readme():
    """The example runs as it stands, prints what the README says, and the README shows its very lines."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(root / "examples/session.py")], capture_output=True, text=True, check=True
    )
    readme = (root / "README.md").read_text()
    assert f"```text\n{done.stdout}```" in readme
    example = (root / "examples/session.py").read_text().partition("as box:\n")[2]
    assert textwrap.dedent(example) in readme


async def test_two_who_ask_at_once(store):
    """Both would take in what is new, and the second one finds that it has been done: both have their answer."""
    async with AsyncRewindbox(store) as box, AsyncRewindbox(store) as another:
        await (await box.vm("one")).execute("bash", "echo 1")
        found: list[int] = []

        async def ask(box: AsyncRewindbox, **query) -> None:
            found.append((await box.history(**query)).total)

        for query in ({"text": "1"}, {"language": "bash"}):
            with closing(sqlite3.connect(store / "history.db", isolation_level=None)) as other:
                other.execute("begin immediate")
                async with anyio.create_task_group() as group:
                    group.start_soon(partial(ask, box, **query))
                    group.start_soon(partial(ask, another, **query))
                    await eventually(lambda: threads_in("store.py", "transaction") == 2, "both are at it")
                    other.execute("rollback")
            await (await box.vm("one")).execute("bash", "echo 1")
        assert found == [1, 1, 2, 2]


async def test_a_cancelled_question_is_not_waited_for(store):
    """Who no longer wants to know goes on while the history is still locked; the box works as before."""
    async with AsyncRewindbox(store) as box:
        await (await box.vm("one")).execute("bash", "echo 1")
        with closing(sqlite3.connect(store / "history.db", isolation_level=None)) as other:
            other.execute("begin immediate")
            asking = anyio.CancelScope()

            async def ask() -> None:
                with asking:
                    await box.history(text="1")

            async with anyio.create_task_group() as group:
                group.start_soon(ask)
                await eventually(lambda: is_in("listing.py"), "the history is asked")
                asking.cancel()
            assert is_in("listing.py")
            other.execute("rollback")
        assert (await box.history(text="1")).total == 1
        await eventually(lambda: not is_in("listing.py"), "nobody asks any more")
