"""A box at a server is a box: the same names, results and errors."""

import inspect
import threading

import pytest
from boxes_there import ANSWER, joined, serving

from conftest import PATIENCE_S
from rewindbox import AsyncRewindbox, AsyncVm, Limits, Rewindbox, Stdin
from rewindbox.client import RemoteBox
from rewindbox.errors import RewindboxError
from rewindbox.remote import RemoteVm

server = pytest.fixture(scope="module")(serving)


def story(box: Rewindbox) -> list[object]:
    """All that there is to see of a box, of a fixed program; ids, which are random, only as being the same."""
    vm, seen = box.vm("reviewer"), []
    decided, written, begun = [], [], []
    for done in box.run(
        ANSWER,
        vm,
        on_failure="rollback",
        on_decision=lambda *each: decided.append(each),
        on_output=lambda *each: written.append(each),
    ):
        seen.append((done.language, done.ended, done.exit_code, done.stdout, done.rolled_back_to == done.before))
    seen += [decided, joined(written), box.plan(ANSWER)]
    written.clear()
    done = vm.execute(
        "bash",
        "printf 'a\\xff\\n\\xc3'; pwd >&2; echo $X; cat",
        environment={"X": "1"},
        stdin=b"in\xfe",
        working_dir="/tmp",
        agent_id="ann",
        on_output=lambda *each: written.append(each),
        on_begun=begun.append,
    )
    seen += [done.stdout_bytes, done.stderr_bytes, done.agent_id, begun == [done.id], box.execution(done.id) == done]
    seen.append(joined(written))
    seen.append(asked(vm))
    slow = vm.execute("bash", "touch ruin; sleep 100", limits=Limits(wall_s=0.3))
    seen += [slow.ended, slow.exit_code, slow.error, [entry.name for entry in vm.list()]]
    ahead = vm.preview(slow)
    told = [(file.path, file.change, file.kind, file.size_bytes) for file in ahead.files or ()]
    seen += [
        ahead.to_point == slow.before,
        ahead.undone == (slow.id,),
        ahead.redone,
        ahead.live,
        told,
        ahead.is_complete,
    ]
    seen.append(vm.preview(slow, files=False).files)
    back = vm.rollback(slow)
    seen += [back.to_point == slow.before, back.reason, vm.list(), vm.point(slow).id == slow.before]
    vm.write("data.csv", b"a\xff", mode=0o600)
    seen += [vm.read("data.csv"), [(entry.name, entry.kind, entry.size_bytes) for entry in vm.list(".")]]
    session = vm.session()
    session.execute("x = 41")
    done = session.execute("x + 1")
    seen += [done.result, done.session, list(box.live_sessions().values()), done.after in vm.live_points()]
    session.execute("x = 0")
    seen += [vm.rollback(done.after).sessions, session.execute("x").result]
    session.close()
    kept = vm.snapshot("good")
    seen += [[(entry.kind, entry.name) for entry in vm.snapshots()], vm.rollback("good").to_point == kept.point_id]
    seen += [vm.remove_snapshot("good") == kept, vm.rollback_to_last_success().to_point is not None]
    seen += [[(point.method, point.state is None) for point in vm.points()][:3]]
    page = vm.history(limit=3)
    seen += [
        page.total,
        [entry.ended for entry in page.entries],
        box.history(agent_id="ann").total,
        box.history(text="RUIN", limit=1).total,
        box.history(session="main").total,
    ]
    seen += [[entry.id for entry in box.export()] == [entry.id for entry in vm.history(limit=None).entries][::-1]]
    seen += [
        box.verify(box.head().text),
        box.head().executions,
        sorted(box.languages()),
        box.history(vm, failures_only=True).total,
    ]
    answered = box.parse_execute(agent_id="a", llm_response=ANSWER, auto_execute=True, auto_execute_threshold=0.0)
    seen += [[done.stdout for done in answered.execution_results], answered.errors, answered.code_blocks]
    seen += [failure(call) for call in wrong(box, vm)]
    seen += [vm.record.name, vm.record.agent_id, vm.record.removed]
    seen.append(vm.is_running)
    vm.stop()
    ended = box.sessions_ended(vm.id)
    assert ended is not None
    seen += [vm.is_running, ended.sessions, ended.reason]
    vm.remove()
    return [*seen, [record.name for record in box.vms()], vm.record.removed, box.history(vm.id).total]


def asked(vm) -> list[object]:
    """What becomes of standard input that is written while the code runs: answers, much of it, and after its end."""
    stdin, seen = Stdin(), []

    def answer(_: str, data: bytes) -> None:
        seen.append(data)
        stdin.write("Ada\n") if data.endswith(b"? ") else stdin.close()

    done = vm.execute("bash", "printf 'name? '; read x; echo $x; cat; exit 3", stdin=stdin, on_output=answer)
    seen += [done.stdout, done.exit_code, failure(lambda: stdin.write("late"))]
    seen.append(failure(lambda: vm.execute("bash", "cat", stdin=stdin)))
    much = Stdin()
    writing = threading.Thread(target=write_much, args=(much,))
    writing.start()
    seen.append(vm.execute("bash", "md5sum", stdin=much).stdout)
    writing.join()
    return seen


def write_much(stdin: Stdin) -> None:
    """More than fits, as the program reads it."""
    for number in range(40):
        stdin.write(bytes([number]) * 100_000, wait_s=PATIENCE_S)
    stdin.close()


def wrong(box, vm):
    """What cannot be done, one call each."""
    return (
        lambda: box.vm("nothing", create=False),
        lambda: box.vm("not a name"),
        lambda: box.vm("../v1"),
        lambda: vm.execute("cobol", "x"),
        lambda: vm.execute("go", "x"),
        lambda: vm.execute("python", ""),
        lambda: vm.execute("python", "x\ud800"),
        lambda: vm.execute("python", "1", session="a", stdin="x"),
        lambda: vm.read("none"),
        lambda: vm.read("data.csv", max_bytes=1),
        lambda: vm.rollback("pt_aaaaaaaa"),
        lambda: vm.snapshot("not a name"),
        lambda: vm.remove_snapshot("../x"),
        lambda: vm.session("rust"),
        lambda: box.execution("ex_aaaaaaaa"),
        lambda: box.plan("x", threshold=2),
        lambda: box.verify("1:x"),
        lambda: list(box.run("x", vm, on_failure="sometimes")),
    )


def failure(call) -> tuple[str, str]:
    """The class and the code of what a call raises."""
    with pytest.raises(RewindboxError) as caught:
        call()
    return type(caught.value).__name__, caught.value.code


def test_one_line_changes(tmp_path, server):
    """The same program sees the same in a folder and at a server."""
    with Rewindbox(tmp_path / "here") as here, Rewindbox(server.url, token=server.token) as there:
        expected = story(here)
        for mine, theirs in zip(expected, story(there), strict=True):
            assert theirs == mine
    assert ("UnknownVm", "unknown_vm") in expected and ["agent-a"] in expected


def test_what_a_vm_can_do_it_can_there():
    """Every method of a vm and of a box is there, with the same arguments."""
    for local, remote in ((AsyncVm, RemoteVm), (AsyncRewindbox, RemoteBox)):
        for name, method in vars(local).items():
            if name.startswith("_") or not inspect.isfunction(method):
                continue
            there = inspect.signature(getattr(remote, name)).parameters
            assert list(there) == list(inspect.signature(method).parameters), name
    inherited = {"run", "plan", "parse_execute", "languages"}  # they are made of the others
    mine = {name for name, method in vars(AsyncRewindbox).items() if inspect.isfunction(method) and name[0] != "_"}
    assert mine - set(vars(RemoteBox)) == inherited
