"""A box at a server is a box: the same names, results and errors, whatever happens between here and there."""

import hashlib
import inspect
import socket
import threading

import anyio
import pytest
from cutting import Cutting, answering
from served import Served

from conftest import PATIENCE_S, remove, scaled, until
from rewindbox import AsyncRewindbox, AsyncVm, Limits, Rewindbox, Stdin, transport
from rewindbox.client import RemoteBox
from rewindbox.errors import (
    ApiError,
    ConfigError,
    ConnectionFailed,
    InvalidArgument,
    LanguageRefused,
    Refused,
    RewindboxError,
    TooManyVms,
    Unauthorized,
)
from rewindbox.ids import new_id
from rewindbox.remote import RemoteVm
from rewindbox.server.tokens import Tokens

ANSWER = "Do it:\n```python\nprint(6 * 7)\n```\n```bash\ntouch ruin; exit 3\n```\n```bash\nls\n```\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    store = tmp_path_factory.mktemp("client") / "store"
    with Served(store) as made:
        yield made
    remove(store)


@pytest.fixture
def box(server):
    with Rewindbox(server.url, token=server.token) as made:
        yield made


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


def joined(written) -> dict[str, bytes]:
    """Output as it came, of each stream; how it is cut is nobody's promise."""
    return {name: b"".join(data for stream, data in written if stream == name) for name in ("stdout", "stderr")}


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


def test_what_ends_the_wait_ends_the_code(box):
    """An exception in a callback and a cancelled call end the code there; it is recorded as killed when they return."""

    class Enough(Exception):
        pass

    def enough(_, data):
        raise Enough(data)

    vm = box.vm("ended")
    with pytest.raises(Enough, match="begun"):
        vm.execute("bash", "echo begun; sleep 100", on_output=enough)
    assert vm.history().entries[0].ended == "killed"

    async def cancelled() -> None:
        async with AsyncRewindbox(box.call(_url), token=box.call(_token)) as there:
            found = await there.vm("ended")
            with anyio.CancelScope() as scope:
                await found.execute("bash", "echo again; sleep 100", on_output=lambda *_: scope.cancel())
            assert scope.cancelled_caught
            entry = (await found.history()).entries[0]
            assert (entry.ended, entry.stdout) == ("killed", "again\n")

    async def _url() -> str:
        return box._box.server.url

    async def _token() -> str | None:
        return box._box.server._token

    anyio.run(cancelled)


def test_a_turn_that_has_not_come_can_be_given_up(server):
    """What waits for its turn in a vm is cancelled, too, and never runs."""

    async def story() -> None:
        async with AsyncRewindbox(server.url, token=server.token) as there, anyio.create_task_group() as group:
            vm, begun = await there.vm("queue"), anyio.Event()

            async def first() -> None:
                await vm.execute("bash", "echo; until [ -e go ]; do sleep 0.01; done", on_output=lambda *_: begun.set())

            group.start_soon(first)
            await begun.wait()
            with anyio.move_on_after(0.5) as scope:
                await vm.execute("bash", "touch never")
            assert scope.cancelled_caught
            (entry,) = (await there.server.get("/v1/executions"))["executions"]
            await there.server.post(f"/v1/executions/{entry['execution_id']}/cancel")
            group.cancel_scope.cancel()
        async with AsyncRewindbox(server.url, token=server.token) as there:
            vm = await there.vm("queue")
            assert await vm.list() == [] and (await vm.history()).total == 1

    anyio.run(story)


def test_cut_connections_cost_nothing(server):
    """Whatever is cut wherever: everything ran exactly once, and each byte that it read and wrote came once."""
    code = "md5sum >> read; echo $N >> ran; for i in $(seq 60); do seq $N 60; sleep 0.002; done; printf '\\xff'"
    cutting, rounds = Cutting(server.port, seed=5), scaled(6)
    with Rewindbox(cutting.url, token=server.token) as box:
        vm = box.vm("cut")
        cutting.is_cutting = True
        for number in range(rounds):
            came: list[tuple[str, bytes]] = []
            box.close()  # so that the next connection is a new one
            stdin = Stdin()
            stdin.write(bytes(range(256)) * 2048)
            stdin.close()
            done = vm.execute(
                "bash",
                code,
                environment={"N": str(number)},
                stdin=stdin,
                on_output=lambda *each, to=came: to.append(each),
            )
            assert done.success and joined(came)["stdout"] == done.stdout_bytes
            assert done == box.execution(done.id)
        whole = f"{hashlib.md5(bytes(range(256)) * 2048, usedforsecurity=False).hexdigest()}  -\n"
        assert vm.read("read").decode() == whole * rounds
        assert vm.read("ran").decode().split() == [str(number) for number in range(rounds)]
        assert vm.history().total == rounds and cutting.cuts > rounds
    cutting.close()


def test_what_is_not_recorded_is_asked_once(tmp_path, monkeypatch):
    """A server without a history does not know what ran under an id: what may have come is not asked again."""
    monkeypatch.setenv("REWINDBOX_HISTORY_ENABLED", "false")
    with Served(tmp_path / "store") as server:
        cutting = Cutting(server.port, 0, rooms=(0,))
        with Rewindbox(cutting.url, token=server.token) as box:
            vm = box.vm("vm")
            box.close()  # so that the next connection is a new one
            cutting.is_cutting = True
            with pytest.raises(ConnectionFailed):
                vm.execute("bash", "echo 1 >> ran")
            cutting.is_cutting = False
            until(lambda: [entry.name for entry in vm.list()] == ["ran"], "it has run")
            assert vm.read("ran") == b"1\n"
        cutting.close()
    remove(tmp_path / "store")


def test_a_server_that_dies_is_waited_for(tmp_path):
    """Killed in the middle and started anew: the execution is killed, and what it wrote before is not lost."""
    first = Served(tmp_path / "store")
    starts: list[Served] = []

    def killed(_, data):
        if not starts:
            first.kill()
            starts.append(Served(tmp_path / "store", "--port", str(first.port)))

    try:
        with Rewindbox(first.url, token=first.token) as box:
            done = box.vm("vm").execute("bash", "echo begun; sleep 100", on_output=killed)
            assert (done.ended, done.success) == ("killed", False)
            assert [entry.id for entry in box.history().entries] == [done.id]
            assert box.vm("vm").execute("bash", "echo on").stdout == "on\n"
    finally:
        for server in (first, *starts):
            server.stop()
        remove(tmp_path / "store")


def test_what_is_asked_twice_runs_once(server):
    """Under one id: while it waits, while it runs, and afterwards; something else under it is refused."""
    body = {"id": new_id("ex"), "language": "bash", "code": "echo $RANDOM; echo >> ran; cat ran"}
    with server.client() as client:
        client.post("/v1/vms", json={"name": "twice"})
        answers = [client.post("/v1/vms/twice/executions", json=body | {"wait": wait}) for wait in (False, True, True)]
        assert {answer.json().get("id", body["id"]) for answer in answers} == {body["id"]}
        whole = client.get(f"/v1/executions/{body['id']}").json()
        assert answers[1].json() == answers[2].json() == whole and whole["stdout"].count("\n") == 2
        streamed = client.post("/v1/vms/twice/executions", json=body, headers={"Accept": "text/event-stream"})
        assert "event: ended" in streamed.text
        assert client.get("/v1/history", params={"vm": "twice"}).json()["total"] == 1
        client.post("/v1/vms", json={"name": "other"})
        for vm, changed in (("twice", {"code": "echo"}), ("other", {})):
            answer = client.post(f"/v1/vms/{vm}/executions", json=body | changed)
            assert answer.json()["code"] == "invalid_argument", answer.text
    stranger = Tokens(str(server.store)).create("stranger", "somebody")
    with server.client(stranger) as client:
        client.post("/v1/vms", json={"name": "strange"})
        assert client.post("/v1/vms/strange/executions", json=body).json()["code"] == "unknown_execution"


def test_what_goes_wrong_on_the_way(server, monkeypatch):
    """Nobody there, somebody else there, silence, a wrong token: each is an error of its own, with a remedy."""
    monkeypatch.delenv("REWINDBOX_TOKEN", raising=False)
    monkeypatch.setattr(transport, "WAITS_S", (0.01, 0.01))
    for name in ("_WAY_S", "_ASK_AFTER_S", "SILENT_S"):
        monkeypatch.setattr(transport, name, 0.2)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    said(nobody, ConnectionFailed, "cannot be reached")
    for head, body, error, text in (
        ("200 OK", "<html>welcome</html>", ApiError, "no JSON"),
        ("502 Bad Gateway", "<html>nobody</html>", ApiError, "answered with 502"),
        ("302 Found\r\nLocation: http://127.0.0.1/", "", ApiError, "answered with 302"),
        ("200 OK", '{"limits": 1}', ApiError, "cannot be read"),
        ("200 OK", "[" * 100_000, ApiError, "no JSON"),
        ("404 Not Found", '{"code": 1, "detail": [], "remedy": null}', ApiError, "not by rewindbox"),
        ("418 Teapot", '{"code": "of_tomorrow", "detail": "no", "remedy": null}', ApiError, "no"),
    ):
        answer = f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
        with answering(answer.encode()) as url:
            said(url, error, text)
    for answer in (None, b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"):
        with answering(answer) as url:
            said(url, ConnectionFailed, "answer any more" if answer is None else "cut")
    said(server.url, Unauthorized, "token", token="rbx_wrong")
    said(server.url, Unauthorized, "token")


def test_an_answer_of_nobody_is_no_answer(monkeypatch):
    """What comes of a body that is no object of ours is an error that names what was asked."""
    with (
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull") as url,
        pytest.raises(ApiError, match="/v1/settings"),
    ):
        Rewindbox(url).vms()


def said(url, error, text, **options):
    """What opening a box at an address raises."""
    with pytest.raises(error, match=text) as caught, Rewindbox(url, **options):
        pass
    assert caught.value.remedy or caught.value.code == "api_error"
    assert "rbx_" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://", "http://user:rbx_secret@host", "http://host/?a=b", "http://host:99999", "http://ho\nst"]
)
def test_what_is_no_url_is_refused(url):
    """Before anything is asked, and a secret in it is not repeated."""
    with pytest.raises(InvalidArgument) as caught:
        Rewindbox(url)
    assert "secret" not in str(caught.value)
    with pytest.raises(InvalidArgument):
        Rewindbox("http://host", token="not a token\n\u00e4")


def test_the_time_of_the_code_is_not_that_of_the_way(server, monkeypatch):
    """Longer than anything on the way may take, run or waited for: no request ends for it."""
    with Rewindbox(server.url, token=server.token) as box:
        for name in ("_ASK_AFTER_S", "SILENT_S"):
            monkeypatch.setattr(transport, name, 0.2)

        async def at_once() -> None:
            async with AsyncRewindbox(server.url, token=server.token) as there, anyio.create_task_group() as group:
                vm, begun = await there.vm("slow"), anyio.Event()

                async def slow() -> None:
                    done = await vm.execute("bash", "echo; sleep 1", on_output=lambda *_: begun.set())
                    assert done.success

                group.start_soon(slow)
                await begun.wait()
                await vm.write("after", b"1")  # its turn comes when that has ended
                assert (await vm.history()).total == 1

        anyio.run(at_once)
        late = box.vm("slow").execute("bash", "sleep 100", timeout_seconds=0.5)
        assert (late.ended, late.exit_code) == ("timeout", 124)


def test_a_role_says_where(tmp_path, server):
    """http: at its api_base_url, by what the role allows; direct, or nothing: here."""

    def role(**said):
        history = said.pop("history", {})
        return {"name": "ann", "extra": {"vm_execution": {"enabled": True, "history": history, **said}}}

    far = role(history={"integration_mode": "http"}, api_base_url=server.url, allowed_languages=["bash", "go"])
    with Rewindbox.from_role(far, token=server.token) as box:
        vm = box.vm("of-a-role")
        done = vm.execute("bash", "echo there")
        assert (done.stdout, done.agent_id) == ("there\n", "ann")
        with pytest.raises(LanguageRefused):
            vm.execute("python", "1")
        with pytest.raises(LanguageRefused):
            vm.execute("go", "1")  # which the server does not allow
        assert [decision.skipped is None for decision in box.plan(ANSWER)] == [False, True, True]
    for near in (role(history={"integration_mode": "direct"}, api_base_url=server.url), role()):
        assert not isinstance(AsyncRewindbox.from_role(near, tmp_path), RemoteBox)
    with pytest.raises(ConfigError, match="integration_mode"):
        Rewindbox.from_role(far, tmp_path)
    with pytest.raises(Refused, match="may not run code"):
        Rewindbox.from_role({"name": "bob", "vm_execution": {**far["extra"]["vm_execution"], "enabled": False}})
    with pytest.raises(ConfigError, match="languages"):
        Rewindbox(server.url, languages={"bash": {"package": "sh"}})


def test_limits_hold_there(server):
    """What is set here is over what the server has, and never more than that."""
    with Rewindbox(server.url, token=server.token, limits={"wall_s": 0.3}) as box:
        assert box.vm("limited").execute("bash", "sleep 100").ended == "timeout"
        with pytest.raises(Refused, match="memory_mib"):
            box.vm("limited").execute("bash", "true", limits=Limits(memory_mib=1 << 30))


def test_an_agents_token_is_its_agent(server):
    """Without saying who runs, it is the token's agent; another one's vms are not there."""
    Rewindbox(server.url, token=server.token)
    token = Tokens(str(server.store)).create("hers", "ann")
    with Rewindbox(server.url, token=server.token) as all_of_it, Rewindbox(server.url, token=token) as hers:
        all_of_it.vm("not-hers")
        done = hers.vm("hers").execute("bash", "echo 1")
        assert done.agent_id == "ann"
        names = {record.name for record in hers.vms()}
        assert "hers" in names and "not-hers" not in names
        assert {entry.agent_id for entry in hers.export()} == {"ann"}
        with pytest.raises(RewindboxError, match="not-hers"):
            hers.vm("not-hers", create=False)


def test_a_token_in_the_environment(server, monkeypatch):
    """It is used where none is given, and no setting of the engine."""
    monkeypatch.setenv("REWINDBOX_TOKEN", str(server.token))
    monkeypatch.setenv("REWINDBOX_SERVER", server.url)
    with Rewindbox(server.url) as box:
        assert box.vms() == box.vms()
    assert not isinstance(AsyncRewindbox(), RemoteBox)


def test_without_httpx_it_says_what_to_install(monkeypatch):
    """The extra is named."""
    import sys

    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ConfigError, match=r"rewindbox\[client\]"):
        Rewindbox("http://localhost:1")


def test_an_agent_has_no_more_vms_than_it_may(tmp_path):
    """One more is refused by name, also as the vm of a run; another agent and a removed vm make no difference to it."""
    with Served(tmp_path / "store", VMS_PER_AGENT="1") as server:
        tokens = Tokens(str(server.store))
        with Rewindbox(server.url, token=tokens.create("a", "ann")) as ann:
            first = ann.vm("first")
            with pytest.raises(TooManyVms, match="agent 'ann' has 1 vms, of at most 1"):
                ann.vm("second")
            with Rewindbox(server.url, token=tokens.create("b", "bob")) as bob:
                bob.vm("other")
            with server.client(tokens.create("c", "ann")) as client:
                answer = client.post("/v1/runs", json={"text": "```bash\ntouch x\n```", "vm": "second"})
                assert (answer.status_code, answer.json()["code"]) == (409, "too_many_vms")
            first.remove()
            assert ann.vm("second").name == "second"
    remove(tmp_path / "store")
