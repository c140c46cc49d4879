"""What the original's API refuses: it says so as its clients read it, whatever is posted."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from originals import ROUTES, asking, good, run, serving

from conftest import scaled

url = pytest.fixture(scope="module")(serving)
client = pytest.fixture(scope="module")(asking)


def test_what_is_nowhere_is_said_as_clients_read_it(client):
    """A path that is none, which a name that is not encoded makes, and a wrong method: `error` and `message`."""
    for method, path, status in (("POST", "/api/vms/a/b c/snapshots", 404), ("PUT", "/api/vms", 405)):
        answer = client.request(method, path, json={})
        assert answer.status_code == status
        assert answer.json()["error"] == answer.json()["message"] == answer.json()["detail"]
    assert "message" not in client.get("/v1/nothing").json()


def test_a_full_pool_says_when_to_come_again(client):
    """Five vms are held: another agent is told 429, with Retry-After, and nothing has run."""
    held = [
        good(client.post("/api/vm-pool/allocate", json={"vm_id": f"held{n}", "agent_id": f"h{n}"})) for n in range(5)
    ]
    answer = client.post("/api/llm/execute", json={"agent_id": "late", "language": "bash", "code": "true"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert answer.json()["code"] == "pool_full"
    for one in held:
        good(client.post(f"/api/vm-pool/release/{one['vm_id']}"))
        good(client.delete(f"/api/vms/{one['vm_id']}"))
    run(client, "true", agent_id="late")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", "/chat"), ("GET", "/workflows"), ("POST", "/workflows/prompt-chain"), ("POST", "/workflows/route")),
        *(("POST", "/workflows/prompt_chain"), ("GET", "/workflows/x/status"), ("POST", "/api/vm/agent/execute")),
    ],
)
def test_what_needs_an_agent_says_so(client, method, path):
    """501, with the reason."""
    answer = client.request(method, path, json={})
    assert (answer.status_code, "agents" in answer.json()["error"]) == (501, True)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"null", b'{"code": 5}', b'{"code": "x", "timeout_ms": -1}', b"\xff"]
)
def test_malformed_requests_are_named(client, body):
    """JSON with `error`, and no bug of ours."""
    answer = client.post("/api/llm/execute", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]


@pytest.mark.parametrize("time", ["NaN", "Infinity", "-Infinity", "1e999", "-1"])
def test_a_time_of_a_session_that_is_none_is_refused(client, time):
    """As that of any execution is."""
    assert client.post("/sessions", json={"name": "timed"}).is_success
    body = f'{{"command": "true", "timeout_seconds": {time}}}'
    answer = client.post("/sessions/timed/execute", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")


TEXTS = st.text(st.characters(), max_size=12) | st.sampled_from(["\ud800", "\0", "../..", "vm_", "x" * 300, "%00"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
NAMES = (
    *("code", "language", "agent_id", "vm_id", "timeout_ms", "timeout_seconds", "working_dir", "requirements"),
    *("llm_response", "auto_execute", "auto_execute_threshold", "vm_config", "name", "vm_name", "vm_type"),
    *("command", "snapshot_id", "metadata"),
)
FITTING = st.fixed_dictionaries(
    {
        "agent_id": TEXTS,
        "code": TEXTS,
        "language": st.sampled_from(["bash", "py", "sql"]),
        "name": TEXTS,
        "vm_id": TEXTS,
    }
)


def test_whatever_is_posted_is_answered(client):
    """No request is a bug of ours: what does not fit is 4xx, with a text."""
    places = [path for method, path in ROUTES if method == "POST"]

    @settings(max_examples=scaled(30), deadline=None)
    @given(place=st.sampled_from(places), name=TEXTS, body=st.dictionaries(st.sampled_from(NAMES), VALUES) | FITTING)
    def posted(place, name, body):
        part = "".join(f"%{byte:02x}" for byte in name.encode("utf-8", "replace")) or "x"
        place = re.sub(r"\{.*?\}", part, place)
        answer = client.post(place, content=json.dumps(body), headers={"content-type": "application/json"})
        assert answer.status_code < 500 or answer.status_code == 501, (place, body, answer.text)
        assert answer.is_success or answer.json().get("error") or answer.json().get("detail")
        if answer.is_success and place.endswith("/allocate"):
            good(client.post(f"/api/vm-pool/release/{answer.json()['vm_id']}"))

    posted()
    for one in good(client.get("/api/vms"))["vms"]:
        good(client.delete(f"/api/vms/{one['id']}"))
