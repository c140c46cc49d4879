"""What an execution wrote is read aside where it is much: whatever reads it, others are answered meanwhile."""

import asyncio
import threading

import httpx
import pytest
from served import events, follow, inside, output_of
from written import write

from conftest import PATIENCE_S, remove, until
from rewindbox import history
from rewindbox.server import files
from rewindbox.server.bounds import Bounds
from rewindbox.server.tokens import Tokens

LONG, SHORT = b"x" * 1_000_000, b"short"


class Gate(threading.Event):
    """Who reads the record in a thread waits here until it is set; `reached`: somebody does."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.waiting = threading.Event(), 0


@pytest.fixture
def gate(monkeypatch):
    made = Gate()

    def hold(module, name):
        read = getattr(module, name)

        def held(given):
            if asyncio._get_running_loop() is None and not made.is_set():
                made.reached.set()
                made.waiting += 1
                assert made.wait(PATIENCE_S)
            return read(given)

        monkeypatch.setattr(module, name, held)

    hold(history, "read_execution")
    hold(files, "name_as_text")
    yield made
    made.set()


@pytest.fixture
def service(tmp_path):
    """A server over a record of a long and a short execution; their ids, and a client."""
    store = tmp_path / "store"
    _, ids = write(store, (LONG, SHORT))
    header = {"Authorization": f"Bearer {Tokens(str(store)).create('test', None)}"}
    with inside(store, Bounds()) as url, httpx.Client(base_url=url, headers=header, timeout=PATIENCE_S) as client:
        yield ids, client
    remove(store)


@pytest.mark.parametrize("part", ["", "/output/stdout", "/events"])
def test_a_long_one_is_read_aside(service, gate, part):
    """Others are answered while it is read, a short execution is one of them; and it comes whole at last."""
    (long, short), client = service
    answers = []
    asking = threading.Thread(target=lambda: answers.append(client.get(f"/v1/executions/{long}{part}")))
    asking.start()
    try:
        assert gate.reached.wait(PATIENCE_S)
        assert client.get("/health").status_code == 200
        assert client.get(f"/v1/executions/{short}").json()["stdout"] == SHORT.decode()
        bare = client.get(f"/v1/executions/{long}", params={"output": False}).json()
        assert (bare["id"], bare["stdout"]) == (long, "") and not answers
    finally:
        gate.set()
        asking.join(PATIENCE_S)
    assert answers[0].status_code == 200 and answers[0].text.count("x") >= len(LONG)


def test_one_that_is_cancelled_is_read_so(service):
    """What it had written until then is told to who follows it, and recorded."""
    _, client = service
    code = "head -c 1000000 /dev/zero | tr '\\0' x; sleep 1000"
    client.post("/v1/vms", json={"name": "slow"})
    begun = client.post("/v1/vms/slow/executions", json={"language": "bash", "code": code, "wait": False}).json()

    def written():
        going_on = client.get("/v1/executions").json()["executions"]
        return going_on and going_on[0]["stdout_bytes"] == len(LONG)

    until(written, "it has written all")
    client.post(f"{begun['url']}/cancel")
    *output, ended = follow(client, begun["events"])
    assert (ended["event"], ended["data"]["ended"]) == ("ended", "killed")
    assert output_of(output) == client.get(begun["url"]).json()["stdout"] == LONG.decode()


def test_a_token_reads_so_much_at_once(tmp_path, gate):
    """Beyond it one waits for its turn, a stream until it comes; other tokens and other requests do not wait."""
    store = tmp_path / "store"
    _, (long, _) = write(store, (LONG, SHORT))
    headers = [{"Authorization": f"Bearer {Tokens(str(store)).create(name, None)}"} for name in ("one", "other")]
    place, answers = f"/v1/executions/{long}", []

    def ask(client):
        answers.append(client.get(place).status_code)

    with (
        inside(store, Bounds(readings=2, turn_s=0.2)) as url,
        httpx.Client(base_url=url, headers=headers[0], timeout=PATIENCE_S) as one,
        httpx.Client(base_url=url, headers=headers[1], timeout=PATIENCE_S) as other,
    ):
        asking = [threading.Thread(target=ask, args=(client,)) for client in (one, one, other)]
        try:
            for number, thread in enumerate(asking):
                thread.start()
                until(lambda many=number: gate.waiting == many + 1, "it reads")
            for late in (place, f"{place}/output/stdout", "/v1/history"):
                answer = one.get(late)
                assert (answer.status_code, answer.json()["code"]) == (429, "too_many")
            with one.stream("GET", f"{place}/events") as replayed:
                assert one.get("/health").status_code == 200 and gate.waiting == len(asking)
                gate.set()
                assert output_of(list(events(replayed.iter_lines()))) == LONG.decode()
            assert one.get("/v1/executions").status_code == other.get("/v1/history?limit=0").status_code == 200
        finally:
            gate.set()
            for thread in asking:
                thread.join(PATIENCE_S)
        assert answers == [200] * 3
        assert [one.get(place).status_code for _ in range(3)] == [200] * 3
    remove(store)


def test_so_is_a_long_folder(tmp_path, gate):
    """While its entries are made ready others are answered, but no more of one token at once than read the record."""
    store, answers = tmp_path / "store", []
    header = {"Authorization": f"Bearer {Tokens(str(store)).create('test', None)}"}
    with (
        inside(store, Bounds(readings=1, turn_s=0.2)) as url,
        httpx.Client(base_url=url, headers=header, timeout=PATIENCE_S) as client,
    ):
        client.post("/v1/vms", json={"name": "full"})
        made = {"language": "bash", "code": "mkdir d; cd d; touch $(seq 100)"}
        assert client.post("/v1/vms/full/executions", json=made).json()["success"]
        place = "/v1/vms/full/files?path=d"
        asking = threading.Thread(target=lambda: answers.append(client.get(place).json()))
        asking.start()
        try:
            assert gate.reached.wait(PATIENCE_S)
            assert client.get("/health").status_code == 200 and not answers
            assert client.get(place).json()["code"] == "too_many"
        finally:
            gate.set()
            asking.join(PATIENCE_S)
        names = [entry["name"] for entry in answers[0]["entries"]]
        assert names == sorted(str(number) for number in range(1, 101))
        assert client.get(place).json() == answers[0]
    remove(store)


def test_so_is_an_export(service, gate):
    """While the record is read for it, others are answered."""
    _, client = service
    answers = []
    asking = threading.Thread(target=lambda: answers.append(client.get("/v1/history/export")))
    asking.start()
    try:
        assert gate.reached.wait(PATIENCE_S)
        assert client.get("/health").status_code == 200 and not answers
    finally:
        gate.set()
        asking.join(PATIENCE_S)
    assert len(answers[0].text.splitlines()) == 2
