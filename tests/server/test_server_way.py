"""What happens between a box here and its server: given up, cut, killed, asked twice, answered by somebody else."""

import hashlib
import socket

import anyio
import pytest
from boxes_there import at, joined, serving
from cutting import Cutting, answering
from served import Served

from conftest import remove, scaled, until
from rewindbox import AsyncRewindbox, Rewindbox, Stdin, transport
from rewindbox.errors import ApiError, ConnectionFailed, Unauthorized
from rewindbox.ids import new_id
from rewindbox.server.tokens import Tokens

server = pytest.fixture(scope="module")(serving)
box = pytest.fixture(at)


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
