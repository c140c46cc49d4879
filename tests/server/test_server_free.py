"""What takes long takes nobody else's time: while it goes on, the server answers others."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, contextmanager

import httpx
import pytest
from served import inside

from conftest import PATIENCE_S, is_in, remove, until
from rewindbox import Rewindbox, texts
from rewindbox.server import encoding
from rewindbox.server.bounds import Bounds
from rewindbox.server.tokens import Tokens
from rewindbox.store import Store, done


@pytest.fixture
def service(tmp_path):
    """A server of this process, over a history with an index that is not of today; its store and a client."""
    store = tmp_path / "store"
    with Rewindbox(store) as box:
        box.vm("vm").execute("bash", "echo needle")
        with closing(Store(box.settings.folder + "/history.db")) as history:
            assert done(texts.bring_up(history))
        box.vm("vm").execute("bash", "echo another needle")
    token = Tokens(str(store)).create("test", None)
    with (
        inside(store, Bounds()) as url,
        httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE_S) as client,
    ):
        yield store, client
    remove(store)


@contextmanager
def going_on(ask: Callable[[], httpx.Response], file: str):
    """A request that the server is working on, in that file; its answer is there afterwards."""
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(ask()))
    asking.start()
    try:
        until(lambda: is_in(file), f"the server is in {file}")
        yield answers
    finally:
        asking.join(PATIENCE_S)


@contextmanager
def locked(store):
    """Nobody can write to the history meanwhile, so that who makes an index of it waits."""
    with closing(sqlite3.connect(store / "history.db", isolation_level=None)) as db:
        db.execute("begin immediate")
        yield
        db.execute("rollback")


@pytest.mark.parametrize(
    ("method", "url", "body", "expected"),
    [
        ("GET", "/v1/history?text=NEEDLE", None, lambda told: told["total"] == 2),
        ("GET", "/v1/history", None, lambda told: told["total"] == 2),
        ("POST", "/v1/verify", {}, lambda told: told["ok"]),
    ],
)
def test_the_history_is_asked_aside(service, method, url, body, expected):
    """A search, a page and the check of the history that wait for an index hold nobody up, and are right at last."""
    store, client = service
    with locked(store), going_on(lambda: client.request(method, url, json=body), "listing.py") as answers:
        assert client.get("/health").status_code == 200
        assert client.get("/v1/executions").status_code == 200
        assert is_in("listing.py") and not answers
    assert answers[0].status_code == 200 and expected(answers[0].json())


def test_a_long_text_is_read_aside(service):
    """While the code of a long answer is looked for, others are answered."""
    _, client = service
    text = "```python\nprint(1)\n```\n" * 17_000
    with going_on(lambda: client.post("/v1/plan", json={"text": text}), "extraction.py") as answers:
        assert client.get("/health").status_code == 200
        assert is_in("extraction.py") and not answers
    assert len(answers[0].json()["decisions"]) == 17_000


def test_a_long_answer_is_made_aside(service, monkeypatch):
    """While what an execution wrote is made JSON, others are answered; it is all told at last."""
    _, client = service
    code = {"language": "bash", "code": "head -c 100000 /dev/urandom"}
    execution = client.post("/v1/vms/vm/executions", json=code).json()["id"]
    parsed = {"agent_id": "a", "llm_response": f"```bash\n{code['code']}\n```", "auto_execute": True}
    for url, body in (
        ("/v1/history", None),
        ("/v1/history/export", None),
        (f"/v1/executions/{execution}", None),
        ("/v1/vms/vm/executions", code),
        ("/api/vms/vm/history", None),
        ("/api/llm/execute", code),
        ("/api/llm/parse-execute", {**parsed, "auto_execute_threshold": 0.0}),
    ):
        with monkeypatch.context() as patch, held_back(patch) as go:
            answers: list[httpx.Response] = []
            asking = threading.Thread(target=asked, args=(client, url, body, answers))
            asking.start()
            assert go.reached.wait(PATIENCE_S), url
            assert client.get("/health").status_code == 200 and not answers
            go.set()
            asking.join(PATIENCE_S)
            assert answers[0].status_code == 200 and len(answers[0].content) > 200_000, url


class Gate(threading.Event):
    """What is to go on when it is set; `reached`: somebody waits for that."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()


@contextmanager
def held_back(patch):
    """JSON that is made in a thread, as what is long has to be, is not made before the gate is open."""
    gate, encoded = Gate(), encoding.encoded

    def held(*given):
        if asyncio._get_running_loop() is None:
            gate.reached.set()
            assert gate.wait(PATIENCE_S)
        return encoded(*given)

    patch.setattr(encoding, "encoded", held)
    try:
        yield gate
    finally:
        gate.set()


def asked(client, url, body, answers):
    answers.append(client.get(url) if body is None else client.post(url, json=body))
