"""The pool, over real vms: whose vm is whose, how many there are, what happens to those that break."""

import json
import os
import signal
import sys
from dataclasses import replace

import anyio
import pytest

from conftest import PATIENCE_S, eventually, members, namespace_of
from rewindbox.config import PoolSettings
from rewindbox.door import Rewindbox
from rewindbox.engine import AsyncRewindbox
from rewindbox.errors import BadRequest, PoolFull, TooManyVms, UnknownVm
from rewindbox.limits import Limits
from rewindbox.opened import hold, lock_path
from rewindbox.vm import is_busy

pytestmark = pytest.mark.anyio


def pooled(store, size=2, **changed):
    """A box with that many ready vms and room for three, unless something else is said."""
    made = AsyncRewindbox(store)
    pool = PoolSettings(**{"max": 3, "per_agent": 2, "min": 1, "wait_s": 0.05, **changed})
    made.settings = replace(made.settings, vm_pool_size=size, pool=pool)
    return made


async def until(pool, **numbers):
    """Wait until a pool has so many."""
    with anyio.fail_after(PATIENCE_S):
        while not numbers.items() <= (await pool.stats()).as_dict().items():
            await anyio.sleep(0.002)


async def told(vm, code="x", language="python"):
    return await vm.execute(language, code, session="main" if language == "python" else None)


async def test_an_agent_gets_its_own_back_and_nobody_elses(store):
    """Files and variables of an agent are there again, and no other agent gets its vm."""
    async with pooled(store) as box:
        await box.pool.upkeep()
        assert ((await box.pool.stats()).ready, await box.vms()) == (
            2,
            [],
        )  # unknown to history until somebody has them
        async with box.pool.vm("ann") as vm:
            ann = vm.id
            assert (await told(vm, "x = 41; open('mine', 'w').write('1')")).success
            async with box.pool.vm("bob") as other:
                assert other.id != ann
                assert (await told(other, "import os; os.listdir('.')")).result == "[]"
        async with box.pool.vm("ann") as vm:
            assert (vm.id, (await told(vm, "x + 1, open('mine').read()")).result) == (ann, "(42, '1')")
        counts = (await box.pool.stats()).counts
        assert (counts.leases, counts.ready, counts.own, counts.new) == (3, 2, 1, 0)
        assert {record.agent_id for record in await box.vms()} == {"ann", "bob"}
        assert await box.verify() == []


async def test_a_ready_vm_has_its_session_begun(store):
    """The first execution in it finds the session there, and a rollback to before it is as of any."""
    async with pooled(store, size=1) as box:
        await box.pool.upkeep()
        async with box.pool.vm("ann") as vm:
            with pytest.raises(BadRequest, match="open_files"):  # it has begun with those of the box
                await vm.execute("python", "1", session="main", limits=Limits(open_files=64))
            first = await told(vm, "x = 1; open('f', 'w').write('1'); x")
            assert first.result == "1"
            await vm.rollback(first.before)
            assert (await told(vm, "import os; 'x' in globals(), os.path.exists('f')")).result == "(False, False)"


async def test_a_full_pool_waits_and_then_says_so(store):
    """Never more than `max`; what is given back goes to whoever waited first."""
    async with pooled(store) as box:
        held = [await box.pool.lease(agent) for agent in ("a", "b", "c")]
        with pytest.raises(PoolFull, match="3 vms") as caught:
            await box.pool.lease("d")
        assert caught.value.remedy
        assert ((await box.pool.stats()).leased, (await box.pool.stats()).counts.refused) == (3, 1)
        order = []

        async def wait(agent):
            async with box.pool.vm(agent, wait_s=60):
                order.append(agent)

        async with anyio.create_task_group() as group:
            for count, agent in enumerate("de", 1):
                group.start_soon(wait, agent)
                await until(box.pool, waiting=count)
            await box.pool.give_back(held[0])
        assert order == ["d", "e"]
        assert len(box.running()) <= 3


async def test_an_agent_has_its_share(store):
    """One agent cannot take the whole pool."""
    async with pooled(store) as box, box.pool.vm("ann"), box.pool.vm("ann"):
        with pytest.raises(PoolFull, match="ann"):
            await box.pool.lease("ann")
        async with box.pool.vm("bob"):
            pass


async def test_who_rests_makes_room_and_has_its_files_back(store):
    """An evicted vm is stopped; its agent gets it again, with its files."""
    async with pooled(store, size=0, max=1) as box:
        async with box.pool.vm("ann") as vm:
            ann = vm.id
            await vm.write("kept", "1")
        async with box.pool.vm("bob"):
            assert [found.id for found in box.running()] != [ann]
        async with box.pool.vm("ann") as vm:
            assert (vm.id, await vm.read("kept")) == (ann, b"1")
        counts = (await box.pool.stats()).counts
        assert (counts.evicted, counts.new, counts.started) == (2, 2, 1)


async def test_a_worn_vm_is_not_given_again(store):
    """After so many executions its agent gets a new one; the old one has its files and history."""
    async with pooled(store, size=0, executions=2) as box:
        async with box.pool.vm("ann") as old:
            for _ in range(2):
                await told(old, "echo x > kept", "bash")
        assert box.running() == []
        async with box.pool.vm("ann") as new:
            assert new.id != old.id
        assert await (await box.vm(old.id)).read("kept") == b"x\n"
        assert (await box.pool.stats()).counts.recycled == 1


async def test_an_agents_vms_have_a_bound(store):
    """Of as many as it may have, the oldest that it does not get again is removed; none of those with a name is."""
    bounded = pooled(store, size=1, executions=1)
    bounded.settings = replace(bounded.settings, vms_per_agent=3)
    async with bounded as box:
        made = [(await box.vm("own", agent_id="ann")).id]
        for _ in range(3):
            await box.pool.upkeep()
            async with box.pool.vm("ann") as vm:
                made.append(vm.id)
                await told(vm, "true", "bash")
        assert [record.id for record in await box.vms()] == [made[0], *made[2:]]
        assert (await box.history(made[1])).total == 1
        async with box.pool.vm("bob"):
            await box.vm("other", agent_id="eve")
        for name in ("second", "third"):
            await box.vm(name, agent_id="eve")
        await box.pool.upkeep()
        before = (await box.pool.stats()).as_dict()
        with pytest.raises(TooManyVms, match="remove some"):
            await box.pool.lease("eve")
        assert before["ready"] == 1 and (await box.pool.stats()).as_dict() == before
        async with box.pool.vm("dan"), box.pool.vm("fay"), box.pool.vm("gil"):
            pass
        before = (await box.pool.stats()).as_dict()
        with pytest.raises(TooManyVms):
            await box.pool.lease("eve")
        assert before["resting"] == 3 and (await box.pool.stats()).as_dict() == before


async def test_what_breaks_is_replaced(store):
    """A vm whose processes die while nobody uses it is there again, on its files; a ready one is made anew."""
    async with pooled(store) as box:
        async with box.pool.vm("ann") as vm:
            await vm.write("kept", "1")
            supervisor = await supervisor_of(vm)
        os.kill(supervisor, signal.SIGKILL)
        async with box.pool.vm("ann") as again:
            assert (again.id, await again.read("kept")) == (vm.id, b"1")
            supervisor = await supervisor_of(again)
        os.kill(supervisor, signal.SIGKILL)
        await box.pool.check()
        stats = await box.pool.stats()
        assert (stats.resting, stats.counts.broken) == (0, 2)
        await box.pool.upkeep()
        for ready in list(box.pool._ready._held.values()):
            await ready[1].stop()
        await box.pool.check()
        assert (await box.pool.stats()).ready == 0
        await box.pool.upkeep()
        assert (await box.pool.stats()).ready == 2


async def supervisor_of(vm):
    """The process that holds a vm together: the parent of its pid 1, in the host's numbers."""
    found = []

    def on_output(_, data):
        found.append(data)

    async with anyio.create_task_group() as group:
        mark = f"3{os.getpid()}.5"
        group.start_soon(lambda: vm.execute("bash", f"echo; exec sleep {mark}", on_output=on_output))
        sleeper = []

        def look():
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    with open(f"/proc/{pid}/cmdline", "rb") as file:
                        if file.read().split(b"\0")[:2] == [b"sleep", mark.encode()]:
                            sleeper.append(int(pid))
                            return True
                except OSError:
                    pass
            return False

        await eventually(look, "the host sees the vm's process")
        inside = namespace_of(sleeper[0])
        parents = [parent_of(pid) for pid in members(inside)]
        group.cancel_scope.cancel()
    outside = [pid for pid in parents if namespace_of(pid) not in (None, inside)]
    assert outside
    return outside[0]


def parent_of(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return int(file.read().rpartition(")")[2].split()[1])


async def test_a_machine_that_dies_before_it_is_used_is_replaced(store):
    """A new vm is made of a machine that was ready; where that has died, of another, and nobody hears of it."""
    async with AsyncRewindbox(store) as box:
        vm = await box.vm("one")
        await vm.list()
        launcher = box._opened().backend._launcher.pid
        await eventually(lambda: len(children_of(launcher)) == 2, "another machine is ready")
        await vm.stop()
        await eventually(lambda: len(children_of(launcher)) == 1, "that of the vm is gone")
        os.kill(children_of(launcher)[0], signal.SIGKILL)
        await eventually(lambda: children_of(launcher) == [], "the other one, too")
        assert (await vm.execute("bash", "echo 1")).stdout == "1\n"


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


async def test_it_is_kept_as_configured(store):
    """While `keep` runs, each ready vm that somebody gets is followed by another."""
    async with pooled(store) as box:
        async with anyio.create_task_group() as group:
            group.start_soon(box.pool.keep)
            await until(box.pool, ready=2)
            async with box.pool.vm("ann"):
                await until(box.pool, ready=2)
            group.cancel_scope.cancel()
        assert len(box.pool._members) == 3


async def test_nothing_is_left_of_what_was_nobodys(store):
    """Closing a box deletes its ready vms; those of a process that died go at the next start."""
    async with pooled(store) as box:
        await box.pool.upkeep()
        vms = set(os.listdir(store / "vms"))
    left = set(os.listdir(store / "vms"))
    assert len([name for name in vms - left if name.startswith("vm_")]) == 2
    orphan = "vm_" + "a" * 26
    os.close(hold(str(store), orphan))
    (store / "vms" / orphan).mkdir()
    async with pooled(store, size=0) as box:
        await box.pool.upkeep()
        assert not (store / "vms" / orphan).exists()
        assert not os.path.exists(lock_path(str(store), orphan))


async def test_a_request_that_is_cancelled_takes_nothing(store):
    """Whenever a request is given up, its room is free again."""
    async with pooled(store, size=1, max=1) as box:
        await box.pool.upkeep()
        for turns in range(12):
            async with anyio.create_task_group() as group:
                group.start_soon(box.pool.lease, "ann")
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            for member in list(box.pool._members.values()):
                if member.state == "leased":  # it was quicker: that is a lease as any
                    await box.pool.give_back(box.pool._vms[member.vm_id])
            async with box.pool.vm("bob", wait_s=60) as vm:
                assert (await told(vm, "true", "bash")).success
            assert len(box.running()) <= 1


async def test_many_at_once(store):
    """Twenty agents share three vms; every execution runs, and no two have one vm at a time."""
    async with pooled(store) as box:
        using = set()

        async def work(agent):
            async with box.pool.vm(agent, wait_s=60) as vm:
                assert vm.id not in using
                using.add(vm.id)
                assert (await told(vm, f"echo {agent}", "bash")).stdout == f"{agent}\n"
                assert len(box.running()) <= 3
                using.discard(vm.id)

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(work, f"agent{number % 7}")
        stats = await box.pool.stats()
        assert (stats.leased, stats.waiting, stats.counts.leases) == (0, 0, 20)


async def test_the_command_shows_what_there_is(store):
    """`rewindbox pool` tells ready, running and stopped vms, from another process."""
    async with pooled(store, size=1) as box, box.pool.vm("ann") as vm:
        await told(vm, "true", "bash")
        await box.pool.upkeep()
        shown = await said(store, "--json")
        rows = json.loads(shown)["vms"]
        assert [row["state"] for row in rows] == ["ready", "running"]
        assert (rows[1]["id"], rows[1]["agent_id"], rows[1]["executions"]) == (vm.id, "ann", 1)
        assert {row["in_use_by"] for row in rows} == {os.getpid()}
    lines = (await said(store)).splitlines()
    assert [line.split("\t")[:5] for line in lines] == [[vm.id, "stopped", "ann", "1", "-"]]


async def said(store, *words):
    """What the command prints."""
    command = [sys.executable, "-m", "rewindbox", "--store", str(store), "pool", *words]
    return (await anyio.run_process(command)).stdout.decode()


async def test_who_names_a_vm_shares_it(store):
    """Two that name one vm have it, one execution after the other; it is not stopped while one of them has it."""
    async with pooled(store, size=0, max=1) as box:
        async with box.pool.vm("ann") as vm:
            async with box.pool.vm("bob", vm_id=vm.id) as shared:
                assert shared is vm
                with pytest.raises(PoolFull):
                    await box.pool.lease("eve")
            with pytest.raises(PoolFull):
                await box.pool.lease("eve")
        await (await box.vm("other")).stop()
        async with box.pool.vm("ann", vm_id=(await box.vm("other")).id) as named:
            assert (named.name, [found.id for found in box.running()]) == ("other", [named.id])
        with pytest.raises(UnknownVm):
            await box.pool.lease("ann", vm_id="vm_nothing")
        async with box.pool.vm("eve"):
            pass


async def test_it_is_looked_after_however_much_goes_on(store):
    """What breaks while others come and go all the time is found, and what is busy is not stopped for anybody."""
    async with pooled(store, size=1, health_s=0.05, max=2) as box, anyio.create_task_group() as group:
        async with box.pool.vm("ann") as vm:
            pass
        started = anyio.Event()
        group.start_soon(lambda: vm.execute("bash", "echo; exec sleep 60", on_output=lambda *_: started.set()))
        await started.wait()
        group.start_soon(box.pool.keep)
        await until(box.pool, ready=1)
        (ready,) = box.pool._ready._held.values()
        await ready[1].stop()
        while not (await box.pool.stats()).counts.broken:
            async with box.pool.vm("bob", vm_id=vm.id):
                await anyio.sleep(0.001)
        assert is_busy(vm)
        async with box.pool.vm("bob", wait_s=60) as other:
            assert other.id != vm.id
            with pytest.raises(PoolFull):
                await box.pool.lease("eve")
        group.cancel_scope.cancel()


async def test_closing_leaves_nobody_waiting(store):
    """Who waits when the box is closed is told so, and nothing is started any more."""
    async with pooled(store, size=0, max=1) as box, anyio.create_task_group() as group:
        pool, told = box.pool, []

        async def wait():
            try:
                await pool.lease("bob", wait_s=60)
            except PoolFull as error:
                told.append(error)

        await pool.lease("ann")
        group.start_soon(wait)
        await until(pool, waiting=1)
        await box.close()
    assert len(told) == 1
    assert pool._members == {}


async def test_a_removed_vm_is_gone(store):
    """By the pool or behind its back: its agent gets another."""
    async with pooled(store, size=0) as box:
        async with box.pool.vm("ann") as vm:
            await vm.remove()
        async with box.pool.vm("ann") as other:
            assert other.id != vm.id
        await other.remove()
        async with box.pool.vm("ann") as third:
            assert third.id != other.id
        await box.pool.remove(third.id)
        assert ((await box.pool.stats()).resting, await box.vms()) == (0, [])
        with pytest.raises(UnknownVm):
            await box.pool.remove(third.id)


async def test_a_busy_vm_is_well(store):
    """A vm in which something runs is not taken for broken."""
    async with pooled(store, size=0) as box, box.pool.vm("ann") as vm, anyio.create_task_group() as group:
        started = anyio.Event()
        code = "rm -rf ~; echo; exec sleep 60"  # its home is its own affair
        group.start_soon(lambda: vm.execute("bash", code, on_output=lambda *_: started.set()))
        await started.wait()
        async with box.pool.vm("ann", vm_id=vm.id):
            assert (await box.pool.stats()).counts.broken == 0
        group.cancel_scope.cancel()


def test_the_synchronous_door(store):
    """The same names, without `await`."""
    with Rewindbox(store) as box:
        box.pool.upkeep()
        assert box.pool.stats().ready == 1
        with box.pool.vm("ann") as vm:
            assert vm.execute("python", "6 * 7", session="main").result == "42"
        assert box.pool.stats().as_dict()["resting"] == 1
