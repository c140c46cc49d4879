"""What is kept of executions over real vms, what is not, and what is found again."""

import sqlite3
import subprocess
from contextlib import closing
from functools import partial

import anyio
import pytest
from boxes import everything_on_disk, files, opened

from conftest import eventually, is_in, threads_in
from rewindbox.engine import AsyncRewindbox
from rewindbox.errors import BadRequest, SnapshotNotFound
from rewindbox.stdin import Stdin

pytestmark = pytest.mark.anyio


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
    async with opened(store / "new", persist_history=False) as box:
        vm = await box.vm("one")
        execution = await vm.execute("bash", "mkdir -p d; echo x > d/f; chmod 000 d; exit 1")
        assert (await vm.history()).entries == [execution]
        await vm.rollback(execution)
        assert await files(vm) == {}
        assert len(list(place.iterdir())) == 1
    assert list(place.iterdir()) == []
    assert not (store / "new").exists() or not list((store / "new").iterdir())


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
