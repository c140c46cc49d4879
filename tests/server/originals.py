"""The original's API of a real server, and how its clients ask."""

import httpx
from served import Served

from conftest import PATIENCE_S, remove


def serving(tmp_path_factory):
    """A fixture of a module: where a server without tokens is, with a small pool."""
    store = tmp_path_factory.mktemp("original") / "store"
    with Served(store, "--no-auth", POOL_MAX="5", POOL_WAIT_S="0.2") as made:
        yield made.url
    remove(store)


def asking(url):
    """A fixture of a module: a client that sends no token."""
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as made:
        yield made


def good(answer):
    assert answer.is_success, (answer.status_code, answer.text)
    return answer.json()


def run(client, code, language="bash", **more):
    """As the Rust client sends it: eight keys, nulls kept."""
    asked = {"agent_id": "a1", "language": language, "code": code, "vm_id": None, "requirements": []}
    asked |= {"timeout_seconds": 30, "working_dir": None, "metadata": None, **more}
    return good(client.post("/api/llm/execute", json=asked))


def made_for_it(client):
    """A fixture: the id of a vm as the Rust client makes it, removed after the test."""
    made = good(client.post("/api/vms", json={"vm_type": "focal-optimized", "vm_name": "agent-a1-vm"}))
    yield made["id"]
    good(client.delete(f"/api/vms/{made['id']}"))


ROUTES = [
    *(("GET", "/api/vms"), ("POST", "/api/vms"), ("GET", "/api/vms/metrics"), ("GET", "/api/vms/{vm}")),
    *(("DELETE", "/api/vms/{vm}"), ("GET", "/api/vms/{vm}/metrics"), ("GET", "/api/vms/{vm}/tasks")),
    *(("GET", "/api/vms/{vm}/history"), ("POST", "/api/vms/{vm}/snapshots"), ("GET", "/api/vms/{vm}/snapshots")),
    *(("POST", "/api/vms/{vm}/rollback/{snapshot}"), ("POST", "/api/vms/{vm}/upload")),
    *(("GET", "/api/vms/{vm}/download"), ("POST", "/api/llm/execute"), ("POST", "/api/llm/parse-execute")),
    *(("GET", "/api/llm/vm-pool/{agent}"), ("POST", "/api/llm/provision/{agent}"), ("GET", "/api/vm-pool")),
    *(("GET", "/api/vm-pool/list"), ("GET", "/api/vm-pool/stats"), ("POST", "/api/vm-pool/allocate")),
    *(("POST", "/api/vm-pool/release/{vm}"), ("POST", "/sessions"), ("POST", "/sessions/{session}/execute")),
    *(("POST", "/sessions/{session}/snapshots"), ("POST", "/sessions/{session}/rollback")),
    *(("GET", "/sessions/{session}/info"), ("DELETE", "/sessions/{session}"), ("POST", "/chat")),
    *(("GET", "/workflows"), ("POST", "/workflows/{path:path}"), ("POST", "/api/vm/agent/execute")),
]
