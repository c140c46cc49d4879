"""The original's API of a server that wants tokens and undoes what fails."""

import httpx
import pytest
from originals import ROUTES, good, run
from served import Served
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from conftest import PATIENCE_S, remove
from rewindbox.server.tokens import Tokens


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server with tokens, that undoes what fails."""
    store = tmp_path_factory.mktemp("guarded") / "store"
    with Served(store, HISTORY_AUTO_ROLLBACK_ON_FAILURE="true") as made:
        yield made
    remove(store)


def test_a_failure_is_undone_and_told(guarded):
    """With auto_rollback_on_failure the files are those of before, and the answer says to which point it went."""
    with guarded.client() as client:
        done = run(client, "echo good > f", agent_id="undo")
        failed = run(client, "echo bad > f; exit 1", agent_id="undo", vm_id=done["vm_id"])
        assert failed["rolled_back_to"] == done["snapshot_id"]
        assert run(client, "cat f", agent_id="undo")["stdout"] == "good\n"


def test_with_tokens_every_call_needs_one(guarded):
    """Without one: 401, on every route and socket."""
    with httpx.Client(base_url=guarded.url, timeout=PATIENCE_S) as client:
        for method, path in ROUTES:
            assert client.request(method, path).status_code == 401, path
    for path in ("/ws", "/ws/x"):
        with pytest.raises(InvalidStatus, match="401"):
            connect(f"ws{guarded.url.removeprefix('http')}{path}")


def test_an_agents_token_sees_what_is_the_agents(guarded):
    """Another agent's vm is 404 on every route, whatever is asked of it; to run as another agent is refused."""
    tied = Tokens(str(guarded.store)).create("anns", "ann")
    with guarded.client() as client:
        bobs = good(client.post("/api/vms", json={"name": "bobs", "agent_id": "bob"}))["id"]
    with guarded.client(tied) as client:
        for method, path in ROUTES:
            if "{vm}" in path or "{session}" in path:
                place = path.format(vm=bobs, session="bobs", snapshot="x")
                body = {"command": "true", "snapshot_id": "x", "name": "x"} if method == "POST" else None
                answer = client.request(method, place, params={"path": "x"}, json=body)
                assert answer.status_code == 404, (method, path, answer.text)
        mine = run(client, "echo me", agent_id="ann")
        assert mine["stdout"] == "me\n"
        other = {"agent_id": "bob", "language": "bash", "code": "true"}
        assert client.post("/api/llm/execute", json=other).status_code == 403
        assert client.get("/api/llm/vm-pool/bob").status_code == 403
        assert client.post("/api/llm/execute", json={**other, "agent_id": "ann", "vm_id": bobs}).status_code == 404
        assert client.post("/api/vm-pool/allocate", json={"vm_id": bobs}).status_code == 404
        assert [one["id"] for one in good(client.get("/api/vms"))["vms"]] == [mine["vm_id"]]
