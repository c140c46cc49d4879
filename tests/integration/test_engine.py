"""The engine over real vms: executions, one after the other, at once, refused, cancelled and stopped."""

import itertools

import anyio
import pytest
from boxes import ANSWER, collected, files

from conftest import remove
from rewindbox.engine import AsyncRewindbox
from rewindbox.errors import (
    BadRequest,
    InvalidArgument,
    LanguageRefused,
    UnknownExecution,
    UnknownVm,
    UnsupportedLanguage,
    ValidationFailed,
    VmNotAvailable,
)
from rewindbox.limits import Limits
from rewindbox.models import VmExecutionConfig

pytestmark = pytest.mark.anyio


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


async def test_limits_of_a_box(store):
    """A box's limits hold for every execution; those of a call win."""
    async with AsyncRewindbox(store, limits=Limits(output_bytes=10)) as box:
        vm = await box.vm("one")
        assert (await vm.execute("bash", "echo 0123456789abc")).ended == "output"
        assert (await vm.execute("bash", "echo 0123456789abc", limits=Limits())).success
        assert (await vm.execute("bash", "sleep 1000", timeout_seconds=0.2)).error == "Execution timeout after 200ms"


@pytest.mark.parametrize(
    ("least", "language", "session"), [(5, "python", None), (5, "bash", None), (48, "bash", "s"), (910, "python", "s")]
)
async def test_the_fewest_descriptors(box, least, language, session):
    """With them a program or session begins and goes back; with fewer it is refused before anything runs."""
    vm = await box.vm("one")
    with pytest.raises(InvalidArgument, match=f"open_files is {least - 1}.*at least {least}"):
        await vm.execute(language, "x=1", session=session, limits=Limits(open_files=least - 1))
    assert (await box.history()).total == 0
    for code in ("x=1", "x=2"):
        execution = await vm.execute(language, code, session=session, limits=Limits(open_files=least))
        assert execution.success, execution.stderr
    await vm.rollback(execution)
    assert (await vm.execute(language, "x=3", session=session, limits=Limits(open_files=least))).success


async def test_text_with_half_of_a_character(box):
    """What UTF-8 cannot write is no input, no file and no folder's name; bytes of a name that are none are as ever."""
    vm = await box.vm("one")
    for wrong in ({"stdin": "\ud800"}, {"working_dir": "\ud800"}):
        with pytest.raises(InvalidArgument, match="lone surrogate at position 0"):
            await vm.execute("bash", "true", **wrong)
    with pytest.raises(InvalidArgument, match="lone surrogate"):
        await vm.write("f", "\ud800")
    assert (await box.history()).total == 0
    assert (await vm.execute("bash", "mkdir $'\\xff'")).success
    assert (await vm.execute("bash", "pwd", working_dir="\udcff")).stdout_bytes == b"/home/agent/\xff\n"
