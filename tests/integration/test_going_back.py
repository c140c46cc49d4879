"""Points and rollbacks over real vms: how a point is named, which are left, and what it is to go back to one."""

import os
import shutil
from pathlib import Path

import pytest
from boxes import files, opened

from conftest import SOAK
from rewindbox.errors import SnapshotNotFound, VmDamaged

pytestmark = pytest.mark.anyio


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


async def test_writes_alone_do_not_pile_up(box):
    """The points between two writes go; the last one stays."""
    vm = await box.vm("one")
    for number in range(60):
        await vm.write("f", str(number))
    kept = list((Path(box.settings.folder) / "vms" / vm.id).glob("c*"))
    assert len(kept) <= 45
    assert await vm.read("f") == b"59"
