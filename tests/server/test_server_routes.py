"""What every route does for whoever may ask, and that it does nothing for anybody else."""

import json
import re
import stat
from pathlib import Path

import httpx
import pytest
from served import Served, events, follow, output_of
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from conftest import PATIENCE_S, remove
from rewindbox.execution import Execution
from rewindbox.server import app
from rewindbox.server.bodies import ExecutionBody
from rewindbox.server.gate import OPEN
from rewindbox.server.tokens import Tokens

BODIES = {
    "/v1/vms": {"name": "elses"},
    "/v1/executions": {"language": "bash", "code": "true"},
    "/v1/vms/{vm}/executions": {"language": "bash", "code": "touch was-here"},
    "/v1/vms/{vm}/sessions": {"name": "theirs"},
    "/v1/vms/{vm}/snapshots": {"name": "theirs"},
    "/v1/vms/{vm}/rollback": {"last_success": True},
    "/v1/pool/leases": {},
    "/v1/plan": {"text": "no code"},
    "/v1/verify": {},
    "/v1/runs": {"text": "```bash\ntouch was-here\n```", "vm": "mine"},
}
QUERIES = {"/v1/vms/{vm}/file": {"path": "was-here"}, "/v1/history": {"vm": "mine"}}
OF_ALL = ("/metrics", "/v1/pool", "/v1/doctor", "/v1/verify", "/v1/head")
"""What is of all agents together, and so not for the token of one."""
UNTIED = {
    ("POST", "/v1/vms"),
    ("GET", "/v1/vms"),
    ("GET", "/v1/executions"),
    ("POST", "/v1/executions"),
    ("POST", "/v1/pool/leases"),
    ("POST", "/v1/plan"),
    ("GET", "/v1/languages"),
    ("GET", "/v1/settings"),
    ("GET", "/v1/history/export"),
}
"""What there is for the token of any agent: nothing of another one's is in it."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    store = tmp_path_factory.mktemp("serve") / "store"
    with Served(store) as made:
        yield made
    remove(store)


@pytest.fixture(scope="module")
def client(server):
    with server.client() as made:
        assert made.post("/v1/vms", json={"name": "mine", "agent_id": "me"}).status_code == 201
        yield made


def every_route() -> list[tuple[str, str]]:
    """Method and path of everything in OpenAPI, and of OpenAPI itself."""
    paths = app.routed().openapi()["paths"]
    return [*((method.upper(), path) for path, each in paths.items() for method in each), ("GET", "/openapi.json")]


def filled(path: str, **ids: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: ids.get(name[1], "stdout"), path)


def test_nobody_comes_in_without_a_token(server, client):
    """Every route but health and readiness is 401 without a token, with a wrong one, and with what is none."""
    wrong = [
        {},
        *(
            {"Authorization": text}
            for text in (
                "Bearer rbx_wrong",
                "Bearer",
                "Bearer  x y",
                "Basic YTpi",
                "rbx",
                f"bearer{server.token}",
                "Bearer \u00e9".encode("latin-1"),
            )
        ),
    ]
    with server.client() as outside:
        del outside.headers["Authorization"]
        for method, path in every_route():
            for headers in wrong if path == "/v1/vms" else wrong[:2]:
                answer = outside.request(method, filled(path, vm="mine", execution="ex_abcdef"), headers=headers)
                assert answer.status_code == (200 if path in OPEN else 401), (method, path, headers)
                if path not in OPEN:
                    assert answer.json()["code"] == "unauthorized"
                    assert answer.headers["WWW-Authenticate"] == "Bearer"
        twice = [("Authorization", f"Bearer {server.token}"), ("Authorization", "Bearer other")]
        assert outside.get("/v1/vms", headers=twice).status_code == 401


def test_what_is_anothers_is_not_there(server, client):
    """With the token of another agent, vm, executions, runs and files are 404 on every route, and unchanged."""
    other = Tokens(str(server.store)).create("other", "somebody")
    done = client.post("/v1/vms/mine/executions", json={"language": "bash", "code": "echo 1", "agent_id": "me"}).json()
    answer = client.post("/v1/runs", json={"text": "```bash\necho 2\n```", "vm": "mine", "agent_id": "me"})
    run_id = next(events(iter(answer.text.split("\n"))))["data"]["run_id"]
    lease = client.post("/v1/pool/leases", json={"agent_id": "me"}).json()["id"]
    ids = {"lease": lease, "vm": "mine", "execution": done["id"], "run": run_id, "session": "main", "snapshot": "good"}
    with server.client(other) as outside:
        for method, path in every_route():
            if path in OPEN or (method, path) in UNTIED or path == "/openapi.json":
                continue
            for vm in ("mine", done["vm_id"]):
                url = filled(path, **{**ids, "vm": vm})
                answer = outside.request(method, url, json=BODIES.get(path), params=QUERIES.get(path, {}))
                expected = 403 if path in OF_ALL else 400 if path == "/v1/runs" else 404
                assert answer.status_code == expected, (method, path, answer.text)
        for vm in (done["vm_id"], done["vm_id"][:12]):  # by its id, too, nothing runs there and nothing is said
            answer = outside.post("/v1/runs", json={"text": "```bash\ntouch was-here\n```", "vm": vm})
            assert (answer.status_code, answer.json()["code"]) == (404, "unknown_vm")
        for url, there, nowhere in (
            ("/v1/vms/{}", "mine", "mime"),
            ("/v1/vms/{}", done["vm_id"], "vm_" + "a" * 26),
            ("/v1/executions/{}", done["id"], "ex_" + "a" * 26),
            ("/v1/executions/{}", done["id"][:12], "ex_aaaaaaaaa"),
            ("/v1/runs/{}/events", run_id, "run_" + "a" * 26),
        ):
            answers = [outside.get(url.format(name)).text.replace(name, "X") for name in (there, nowhere)]
            assert answers[0] == answers[1]
        assert outside.get("/v1/vms").json() == {"vms": []}
        assert outside.get("/v1/history").json() == {"entries": [], "total": 0, "next": None}
        asked = {"name": "own", "agent_id": "me"}
        assert outside.post("/v1/vms", json=asked).json()["code"] == "refused"
        assert outside.post("/v1/vms", json={"name": "mine"}).json()["code"] == "invalid_argument"
        assert outside.post("/v1/vms", json={"name": "own"}).json()["agent_id"] == "somebody"
        own = outside.post("/v1/vms/own/executions", json={"language": "bash", "code": "echo 3"}).json()
        assert own["agent_id"] == "somebody"
        assert outside.get("/v1/history").json()["total"] == 1
        assert outside.get("/v1/history", params={"vm": own["vm_id"]}).json()["total"] == 1
        assert outside.get(f"/v1/executions/{own['id']}").json() == own
    assert client.get("/v1/vms/mine/files").json()["entries"] == []
    assert client.get(f"/v1/vms/{done['vm_id']}").json()["sessions"] == []
    assert client.delete(f"/v1/pool/leases/{lease}").status_code == 200


def test_a_revoked_token_ends_at_once(server):
    """The running server asks the file: a new token works, a revoked one no longer; neither is in any file."""
    tokens = Tokens(str(server.store))
    secret = tokens.create("short")
    with server.client(secret) as client:
        assert client.get("/v1/vms").status_code == 200
        tokens.revoke("short")
        assert client.get("/v1/vms").status_code == 401
    assert stat.S_IMODE(Path(tokens.path).stat().st_mode) == 0o600
    for path in (Path(tokens.path), server.log):
        assert secret not in path.read_text() and str(server.token) not in path.read_text()


@pytest.mark.parametrize("path", ["/v1/ws", "/ws/any"])
def test_a_revoked_token_ends_an_open_connection(server, path):
    """What its holder says after that is not heard over any WebSocket: no code begins, the connection is closed."""
    tokens = Tokens(str(server.store))
    secret = tokens.create("talking")
    url, headers = server.url.replace("http", "ws") + path, {"Authorization": f"Bearer {secret}"}
    order = {"do": "execute", "vm": "revoked", "request": {"language": "bash", "code": "true"}}
    with connect(url, additional_headers=headers, proxy=None) as socket:
        socket.send(json.dumps({"do": "nothing"}))
        assert socket.recv(timeout=PATIENCE_S)
        tokens.revoke("talking")
        socket.send(json.dumps(order))
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                socket.recv(timeout=PATIENCE_S)
    assert caught.value.rcvd is not None and caught.value.rcvd.code == 1008
    with server.client(server.token) as client:
        assert client.get("/v1/vms/revoked").status_code == 404


@pytest.mark.parametrize("how", ["stream", "socket"])
def test_a_revoked_token_hears_no_more_of_what_it_follows(server, client, how):
    """What an execution writes afterwards does not come, the stream or connection ends; the execution goes on."""
    tokens = Tokens(str(server.store))
    secret = tokens.create(how)
    client.post("/v1/vms", json={"name": "followed"})
    asked = {"language": "bash", "code": "echo one; cat", "stdin_open": True, "wait": False}
    begun = client.post("/v1/vms/followed/executions", json=asked).json()

    def say_more():
        tokens.revoke(how)
        client.post(f"/v1/executions/{begun['execution_id']}/stdin?close=true", content=b"two")

    if how == "stream":
        with server.client(secret) as short, short.stream("GET", begun["events"]) as answer:
            told = events(answer.iter_lines())
            heard = [next(told), next(told)]
            say_more()
            heard += told
    else:
        url, headers = f"{server.url.replace('http', 'ws')}/v1/ws", {"Authorization": f"Bearer {secret}"}
        with connect(url, additional_headers=headers, proxy=None) as socket:
            socket.send(json.dumps({"do": "follow", "execution_id": begun["execution_id"]}))
            heard = [json.loads(socket.recv(timeout=PATIENCE_S)) for _ in range(2)]
            say_more()
            with pytest.raises(ConnectionClosed) as caught:
                heard.append(json.loads(socket.recv(timeout=PATIENCE_S)))
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1008
    assert [event["event"] for event in heard] == ["begun", "output"] and output_of(heard) == "one\n"
    assert output_of(list(follow(client, begun["events"]))) == "one\ntwo"


def test_an_execution_is_what_its_schema_says():
    """Every field of an execution is in the schema, and none that it does not have."""
    assert set(ExecutionBody.model_fields) == {*Execution.__slots__, *_TOLD} - _INSIDE


_INSIDE = {"displays_bytes", "stdout_bytes", "stderr_bytes", "wall_s", "cpu_s"}
_TOLD = {"success", "stdout", "stderr", "stdout_base64", "stderr_base64", "completed_at", "duration_ms", "cpu_ms"}


def test_the_way_of_a_vm(client):
    """Make, write, run, look, keep, break, look what a rollback would do, go back, stop, remove: all over HTTP."""
    made = client.post("/v1/vms", json={"name": "way"})
    assert made.headers["Location"] == f"/v1/vms/{made.json()['id']}"
    assert client.post("/v1/vms", json={"name": "way"}).status_code == 200
    home = "/v1/vms/way"
    data = bytes(range(256))
    assert client.put(f"{home}/file", params={"path": "a b/\u00fc"}, content=data).json() == {
        "path": "a b/\u00fc",
        "bytes": 256,
    }
    got = client.get(f"{home}/file", params={"path": "a b/\u00fc"})
    assert got.content == data and got.headers["X-Content-Type-Options"] == "nosniff"
    assert [entry["name"] for entry in client.get(f"{home}/files", params={"path": "a b"}).json()["entries"]] == [
        "\u00fc"
    ]
    for path in ("../../../etc/shadow", "none", "a b/\u00fc/x"):
        assert client.get(f"{home}/file", params={"path": path}).json()["code"] == "unknown_file"
    assert client.get(f"{home}/file", params={"path": "a b"}).json()["code"] == "bad_request"
    assert client.post(f"{home}/snapshots", json={"name": "good"}).status_code == 201
    broke = client.post(f"{home}/executions", json={"language": "bash", "code": "rm -rf *; echo gone; exit 3"}).json()
    assert (broke["exit_code"], broke["stdout"], broke["ended"]) == (3, "gone\n", "exit")
    seen = client.post(f"{home}/rollback", json={"to": "good", "preview": True}).json()
    assert (seen["undone"], seen["redone"], seen["live"]) == ([broke["id"]], [], False)
    assert seen["files"] == [
        {"path": "/home/agent/a b", "change": "deleted", "kind": "folder", "size_bytes": 0},
        {"path": "/home/agent/a b/\u00fc", "change": "deleted", "kind": "file", "size_bytes": 256},
    ]
    assert seen["is_complete"]
    fast = {"to": "good", "preview": True, "files": False}
    assert client.post(f"{home}/rollback", json=fast).json() == {**seen, "files": None}
    assert client.get(f"{home}/files").json()["entries"] == []
    done = client.post(f"{home}/rollback", json={"to": "good"}).json()
    assert client.get(f"{home}/file", params={"path": "a b/\u00fc"}).content == data
    kinds = {snapshot["kind"]: snapshot for snapshot in client.get(f"{home}/snapshots").json()["snapshots"]}
    assert kinds["pre_rollback"]["snapshot_id"] == done["snapshot_id"]
    seen = client.post(f"{home}/rollback", json={"to": done["snapshot_id"], "preview": True}).json()
    assert (seen["undone"], seen["redone"]) == ([], [broke["id"]])
    points = client.get(f"{home}/points").json()["points"]
    assert [point["id"] for point in points if point["is_tip"]] == [done["to_point"]]
    assert client.request("DELETE", f"{home}/snapshots/good").json()["name"] == "good"
    assert client.post(f"{home}/rollback", json={"before": broke["id"]}).status_code == 200
    assert client.post(f"{home}/stop").json()["status"] == "stopped"
    assert client.delete(home).json()["name"] == "way"
    assert client.get(home).json()["code"] == "unknown_vm"
    assert client.get("/v1/history", params={"vm": made.json()["id"], "failures_only": True}).json()["total"] == 1


def test_a_session_over_http(client):
    """Variables stay from one request to the next, show what they are worth, and go back."""
    home = "/v1/vms/mine"
    assert client.post(f"{home}/sessions", json={"name": "s"}).status_code == 201

    def run(code):
        return client.post(f"{home}/executions", json={"language": "python", "code": code, "session": "s"}).json()

    first = run("x = 41")
    shown = run("x = x + 1; x")
    assert shown["displays"][0]["data"]["text/plain"] == "42"
    assert client.post(f"{home}/rollback", json={"to": first["after"], "preview": True}).json()["live"]
    assert client.post(f"{home}/rollback", json={"to": first["after"]}).json()["sessions"] == ["s"]
    assert run("x")["displays"][0]["data"]["text/plain"] == "41"
    nan = "{'application/json': float('nan'), 'text/plain': 'nan'}"
    hostile = f"class X:\n def _repr_mimebundle_(self, **_): return {nan}\nX()"
    assert run(hostile)["displays"][0]["data"]["text/plain"] == "nan"
    assert [session["name"] for session in client.get(f"{home}/sessions").json()["sessions"]] == ["s"]
    assert client.delete(f"{home}/sessions/s").status_code == 200
    assert client.delete(f"{home}/sessions/s").json()["code"] == "session_not_found"
    assert client.get(f"{home}/sessions").json()["sessions"] == []


def test_input_while_it_runs(client):
    """A request that is made again is taken once; too much is 429, what nobody reads 409, and the server goes on."""
    run, stay = "/v1/vms/mine/executions", {"stdin_open": True, "wait": False}
    begun = client.post(run, json={"language": "bash", "code": "while read x; do echo got $x; done", **stay}).json()
    url = f"{begun['url']}/stdin"
    for content, at, given in ((b"one\n", 0, 4), (b"one\n", 0, 4), (b"one\ntwo\n", 0, 8), (b"", 8, 8)):
        answer = client.post(url, content=content, params={"at": at})
        assert answer.json() == {"execution_id": begun["execution_id"], "given_bytes": given}
    for at in (0, 9):
        assert client.post(url, content=b"x", params={"at": at}).json()["code"] == "invalid_argument"
    assert client.post(url, content=b"last\n", params={"close": True}).json()["given_bytes"] == 13
    assert output_of(list(follow(client, begun["events"]))) == "got one\ngot two\ngot last\n"
    answer = client.post(url, content=b"late")
    assert (answer.status_code, answer.json()["code"]) == (409, "input_closed")
    assert client.post("/v1/executions/ex_nothing/stdin").json()["code"] == "unknown_execution"

    deaf = client.post(run, json={"language": "bash", "code": "sleep 1000", **stay}).json()
    answers = [client.post(f"{deaf['url']}/stdin", content=b"x" * (1 << 20)) for _ in range(3)]
    assert answers[-1].json()["code"] == "input_full"
    assert (answers[-1].status_code, answers[-1].headers["Retry-After"]) == (429, "1")
    assert client.get("/health").status_code == 200
    assert client.post(f"{deaf['url']}/cancel").status_code == 202
    whole = client.post(run, json={"language": "bash", "code": "sleep 1000", "wait": False}).json()
    assert client.post(f"{whole['url']}/stdin", content=b"x").json()["remedy"] == "begin it with `stdin_open`"
    client.post(f"{whole['url']}/cancel")
    assert list(follow(client, whole["events"]))[-1]["event"] == "ended"
    both = {"language": "bash", "code": "cat", "stdin": "x", "stdin_open": True}
    assert client.post(run, json=both).json()["code"] == "invalid_argument"


def test_what_is_refused(client):
    """Each wrong request has its status and its code, says what to do, and has done nothing."""
    run = "/v1/vms/mine/executions"
    good = {"language": "bash", "code": "touch was-here"}
    before = client.get("/v1/history").json()["total"]
    cases = [
        (run, {**good, "language": "klingon"}, 400, "unsupported_language"),
        (run, {**good, "language": "perl"}, 403, "language_refused"),
        (run, {**good, "code": " "}, 400, "validation_failed"),
        (run, {**good, "code": "x" * 10_001}, 400, "validation_failed"),
        (run, {**good, "session": "../s"}, 400, "invalid_argument"),
        (run, {**good, "timeout_s": 0}, 400, "invalid_argument"),
        (run, {**good, "timeout_s": 3601}, 403, "refused"),
        (run, {**good, "limits": {"memory_mib": 1 << 40}}, 403, "refused"),
        (run, {**good, "limits": {"memory": 1}}, 400, "invalid_argument"),
        (run, {**good, "wall_s": 1}, 400, "invalid_argument"),
        (run, {**good, "environment": {"A=B": "c"}}, 400, "invalid_argument"),
        (run, {**good, "stdin": "\ud800"}, 400, "invalid_argument"),
        (run, {**good, "working_dir": "\ud800"}, 400, "invalid_argument"),
        (run, {**good, "limits": {"open_files": 4}}, 400, "invalid_argument"),
        (run, {**good, "limits": {"open_files": 47}, "session": "s"}, 400, "invalid_argument"),
        ("/v1/vms/none/executions", good, 404, "unknown_vm"),
        ("/v1/vms/mine/rollback", {}, 400, "invalid_argument"),
        ("/v1/vms/mine/rollback", {"to": "x", "last_success": True}, 400, "invalid_argument"),
        ("/v1/vms/mine/rollback", {"to": "nothing"}, 404, "snapshot_not_found"),
        ("/v1/vms/mine/rollback", {"before": "ex_nothing"}, 404, "unknown_execution"),
        ("/v1/runs", {"text": "x" * 400_001}, 400, "invalid_argument"),
        ("/v1/nothing", {}, 404, "unknown_path"),
        ("/v1/history", {}, 405, "wrong_method"),
    ]
    for url, body, status, code in cases:
        answer = client.post(url, content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (status, code), (url, str(body)[:80], answer.text)
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert client.post("/v1/history").headers["Allow"] == "GET"
    assert client.patch("/v1/vms/mine/file").headers["Allow"] == "GET, PUT"
    assert client.get("/v1/vms/mine/files").json()["entries"] == []
    assert client.get("/v1/history").json()["total"] == before
    answer = client.post(run, json={**good, "working_dir": "/nowhere"})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def test_limits_end_code_and_not_the_server(client):
    """Too slow and too much are results, with the output so far."""
    run = "/v1/vms/mine/executions"
    slow = client.post(
        run, json={"language": "bash", "code": "echo Starting; sleep 100; echo no", "timeout_s": 0.5}
    ).json()
    assert (slow["ended"], slow["exit_code"], slow["stdout"]) == ("timeout", 124, "Starting\n")
    much = client.post(run, json={"language": "bash", "code": "yes", "limits": {"output_bytes": 1000}}).json()
    assert (much["ended"], len(much["stdout"]), much["truncated"]) == ("output", 1000, True)
    given = {
        "language": "bash",
        "code": "read x; echo $x $A; pwd",
        "stdin": "in\n",
        "environment": {"A": "b"},
        "working_dir": "/tmp",
    }
    assert client.post(run, json=given).json()["stdout"] == "in b\n/tmp\n"
    for mib, status in ((64.0, 200), (64.5, 400), ("64", 400), (True, 400), (1e300, 400)):  # 64.0 is a whole number
        answer = client.post(run, json={"language": "bash", "code": "true", "limits": {"memory_mib": mib}})
        assert answer.status_code == status, mib
    undone = client.post(run, json={"language": "bash", "code": "touch f; exit 1", "on_failure": "rollback"}).json()
    assert undone["rolled_back_to"] == undone["before"]


def test_a_vm_that_is_busy_is_given_at_once(client):
    """Whoever asks for a vm by its name does not wait for what runs in it."""
    client.post("/v1/vms", json={"name": "mine"})
    asked = {"language": "bash", "code": "sleep 100", "wait": False}
    execution = client.post("/v1/vms/mine/executions", json=asked).json()["execution_id"]
    assert client.post("/v1/vms", json={"name": "mine"}).status_code == 200
    assert client.get(f"/v1/executions/{execution}").status_code == 202
    client.post("/v1/vms/mine/stop")


def test_a_vm_is_stopped_under_its_code(client):
    """What runs in a vm that is stopped ends, is recorded, and whoever waited for it is told."""
    client.post("/v1/vms", json={"name": "stopped"})
    asked = {"language": "bash", "code": "echo so far; sleep 100", "wait": False}
    url = client.post("/v1/vms/stopped/executions", json=asked).json()["url"]
    found = follow(client, f"{url}/events")
    assert [next(found)["event"], next(found)["event"]] == ["begun", "output"]
    assert client.post("/v1/vms/stopped/stop").json()["status"] == "stopped"
    assert list(found)[-1]["event"] in ("ended", "error")
    assert client.get(url).json()["ended"] == "killed"
    assert client.post("/v1/vms/stopped/executions", json={"language": "bash", "code": "true"}).json()["success"]


@pytest.mark.anyio
async def test_a_bug_of_ours_says_nothing_of_itself():
    """An exception that nobody expected is a problem without its text."""
    made = app.routed()

    @made.get("/bug")
    async def bug() -> None:
        raise ZeroDivisionError("secret")

    transport = httpx.ASGITransport(made, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as inside:
        answer = await inside.get("/bug")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal") and "secret" not in answer.text


def test_the_numbers_are_true(client):
    """What was run is counted, in a form that Prometheus reads; health and readiness say what is."""

    def count():
        text = client.get("/metrics").text
        line = r'^rewindbox_executions_total\{ended="exit",language="bash",outcome="failed"\} (\d+)$'
        found = re.search(line, text, re.M)
        return int(found[1]) if found else 0, text

    before, _ = count()
    client.post("/v1/vms/mine/executions", json={"language": "sh", "code": "exit 1"})
    after, text = count()
    assert after == before + 1
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \S+ .+|[a-z_]+(\{([a-z]+="[^"]*",?)+\})? [0-9.e+-]+', line), line
    assert client.get("/health").json()["status"] == "healthy"
    assert client.get("/ready").json() | {"timestamp": ""} == client.get("/ready").json() | {"timestamp": ""}
    assert client.get("/ready").json()["status"] == "ready"
    python = next(entry for entry in client.get("/v1/languages").json()["languages"] if entry["name"] == "python")
    assert python["allowed"] and "py" in python["aliases"]


def test_a_run_is_told(client):
    """A model's answer: a decision for each block, what each writes, and how it ends."""
    text = (
        "Run this:\n```python\nprint('\u00e4' * 3)\n```\n"
        "```klingon\nqapla'\n```\n```bash\necho oh >&2; exit 1\n```\n```bash\necho no\n```\n"
    )
    found = list(events(iter(client.post("/v1/runs", json={"text": text, "vm": "mine"}).text.split("\n"))))
    kinds = [event["event"] for event in found if event["event"] != "output"]
    assert kinds == ["run", "decision", "begun", "ended", "decision", "decision", "begun", "ended", "done"]
    assert output_of(found) == "\u00e4\u00e4\u00e4\n" and output_of(found, "stderr") == "oh\n"
    assert found[-1]["data"] == {"executions": 2}
    plan = client.post("/v1/plan", json={"text": text}).json()["decisions"]
    assert [decision["skipped"] is None for decision in plan] == [True, False, True, True]


@pytest.mark.parametrize(
    ("request_text", "confidence", "runs"),
    [(None, 0.4, 0), ("Run the script.", 0.7, 1), ("Write it, but do not run it.", 0.1, 0)],
)
def test_what_the_user_asked_for_counts(client, request_text, confidence, runs):
    """A block that is not sure enough alone runs where the user asked for it: in a plan, a run, and the original's."""
    asked = {"text": "```sh\nls\n```", "threshold": 0.6, "request": request_text}
    (planned,) = client.post("/v1/plan", json=asked).json()["decisions"]
    assert (planned["execution_confidence"], planned["skipped"] is None) == (confidence, bool(runs))
    told = list(events(iter(client.post("/v1/runs", json={**asked, "vm": "mine"}).text.split("\n"))))
    assert [event["data"] for event in told if event["event"] == "decision"] == [planned]
    assert told[-1]["data"] == {"executions": runs}
    parsed = {"agent_id": "me", "llm_response": asked["text"], "auto_execute": True, "auto_execute_threshold": 0.6}
    answer = client.post("/api/llm/parse-execute", json={**parsed, "request": request_text}).json()
    assert len(answer["execution_results"]) == runs, answer


def test_what_the_user_asked_for_is_bounded(client):
    """It is text, and no longer than an answer: whatever else it is, nothing runs."""
    for request in ("x" * 400_001, 1, ["run it"]):
        for url, more in (("/v1/plan", {}), ("/v1/runs", {"vm": "mine"})):
            answer = client.post(url, json={"text": "```sh\nls\n```", "request": request, **more})
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
