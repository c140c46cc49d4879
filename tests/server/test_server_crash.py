"""The server dies, or is told to stop: what was acknowledged is in the record, and what ran is ended in order."""

import threading
from functools import partial

import httpx
import pytest
from served import Served, events, follow, output_of

from conftest import remove, scaled, until

VMS = 3


@pytest.fixture
def store(tmp_path):
    yield tmp_path / "store"
    remove(tmp_path / "store")


def load(server: Served, number: int, told: list[tuple[str, str]], begun: threading.Event) -> None:
    """Executions in one vm, one after the other, every second one followed later; what we were told of them."""
    with server.client() as client:
        try:
            while True:
                code = f"echo {number} {len(told)} | tee -a f"
                asked = {"language": "bash", "code": code, "wait": len(told) % 2 == 0}
                answer = client.post(f"/v1/vms/v{number}/executions", json=asked).json()
                told.append((answer.get("execution_id") or answer["id"], "begun" if "url" in answer else "ended"))
                begun.set()
        except httpx.TransportError:
            return


def _reached(told: list[list[tuple[str, str]]], goals: list[int]) -> bool:
    return all(len(each) >= goal for each, goal in zip(told, goals, strict=True))


def test_what_was_acknowledged_survives_kill_9(store):
    """Killed again and again under load: every execution that a client was told of is in the record, with its end."""
    token = None
    told: list[list[tuple[str, str]]] = [[] for _ in range(VMS)]
    for _ in range(scaled(1)):
        server = Served(store)
        token = server.token = server.token or token
        with server.client() as client:
            for number in range(VMS):
                assert client.post("/v1/vms", json={"name": f"v{number}"}).status_code in (200, 201)
        goals = [len(each) + 5 for each in told]
        threads = [
            threading.Thread(target=load, args=(server, number, told[number], threading.Event()))
            for number in range(VMS)
        ]
        for thread in threads:
            thread.start()
        until(partial(_reached, told, goals), "there is load")
        server.kill()
        for thread in threads:
            thread.join()
    with Served(store) as server:
        server.token = token
        with server.client() as client:
            assert client.get("/v1/executions").json() == {"executions": []}
            for execution_id, state in [entry for each in told for entry in each]:
                found = client.get(f"/v1/executions/{execution_id}")
                assert found.status_code == 200, (execution_id, state, found.text)
                assert state == "begun" or found.json()["success"]
                assert list(follow(client, f"/v1/executions/{execution_id}/events"))[-1]["data"]["id"] == execution_id
            for number in range(VMS):  # what was undone, because nobody saw its end, left nothing
                page = client.get("/v1/history", params={"vm": f"v{number}", "limit": 100}).json()
                lines = client.get(f"/v1/vms/v{number}/file", params={"path": "f"}).text
                assert lines == "".join(entry["stdout"] for entry in reversed(page["entries"]))


def test_events_go_on_after_a_restart(store):
    """The server dies between two events: with the id of the last one the rest comes from the record, once."""
    with Served(store) as server:
        token = server.token
        with server.client() as client:
            client.post("/v1/vms", json={"name": "vm"})
            code = "for i in 1 2 3 4; do echo $i; done"
            asked = {"language": "bash", "code": code, "wait": False}
            url = client.post("/v1/vms/vm/executions", json=asked).json()["events"]
            first = next(follow(client, url))
            text = f"```bash\n{code}\n```\n```bash\necho 5; sleep 100\n```\n"
            with client.stream("POST", "/v1/runs", json={"text": text, "vm": "vm"}) as answer:
                told, run = [], answer.headers["Location"]
                for event in events(answer.iter_lines()):
                    told.append(event)
                    if output_of(told).endswith("5\n"):
                        break
        server.kill()
    with Served(store) as server, server.client(token) as client:
        rest = list(follow(client, url, first["id"]))
        assert output_of(rest) == "1\n2\n3\n4\n" and rest[-1]["event"] == "ended"
        rest = list(follow(client, run, told[-1]["id"]))
        kinds = [(event["event"], event["data"].get("ended") or event["data"].get("code")) for event in rest]
        assert kinds == [("ended", "killed"), ("error", "execution_failed")]
        told_after = next(number for number, event in enumerate(told) if event["event"] == "ended")
        rest = list(follow(client, run, told[told_after]["id"]))
        assert [event["event"] for event in rest] == ["decision", "begun", "ended", "error"]


def test_told_to_stop_it_ends_in_order(store):
    """SIGTERM: what runs is ended and recorded with its output, streams are told, and the exit code is 0."""
    with Served(store) as server:
        token = server.token
        with server.client() as client:
            client.post("/v1/vms", json={"name": "vm"})
            asked = {"language": "bash", "code": "echo so far; sleep 100", "wait": False}
            url = client.post("/v1/vms/vm/executions", json=asked).json()["url"]
            queued = threading.Thread(
                target=lambda: answers.append(
                    client.post("/v1/vms/vm/executions", json={"language": "bash", "code": "touch never"})
                )
            )
            answers: list[httpx.Response] = []
            queued.start()
            found = []
            for event in follow(client, f"{url}/events"):
                found.append(event)
                if output_of(found) == "so far\n" and len(found) == 2:
                    until(lambda: "rewindbox_executions_running 2" in client.get("/metrics").text, "one waits")
                    server.process.terminate()
            queued.join()
        assert found[-1]["data"]["ended"] == "killed"
        assert (answers[0].status_code, answers[0].json()["code"]) == (500, "execution_failed")
        assert server.stop() == 0
    assert '"bug"' not in server.log.read_text()
    with Served(store) as server, server.client(token) as client:
        entry = client.get(url).json()
        assert (entry["ended"], entry["stdout"]) == ("killed", "so far\n")
        assert client.get("/v1/history").json()["total"] == 1
        assert client.get("/v1/vms/vm/files").json()["entries"] == []
