"""What a client holds and does not use goes back to the pool, also what was allocated as the original has it."""

import anyio
import httpx
import pytest
from served import inside

from conftest import PATIENCE_S, remove, until
from rewindbox.server import leases
from rewindbox.server.bounds import Bounds
from rewindbox.server.tokens import Tokens


class Clock:
    """A clock that the test moves. One sleeps by it, who looks after leases, and wakes when it has come so far."""

    def __init__(self) -> None:
        self.now_s, self.sleeps = 1000.0, 0

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        self.sleeps += 1
        while self.now_s < until_s:
            await anyio.sleep(0.002)

    def move(self, seconds: float) -> None:
        """By more than one sleep; until who slept has done what there was to do, and sleeps again."""
        until(lambda: self.sleeps, "it sleeps")
        before = self.sleeps
        self.now_s += seconds
        until(lambda: self.sleeps > before, "it has looked, and sleeps again")


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(leases, "monotonic", made.monotonic)
    monkeypatch.setattr(leases, "sleep", made.sleep)
    return made


@pytest.fixture
def client(tmp_path, monkeypatch, clock):
    store = tmp_path / "store"
    for name, value in (("MAX", "3"), ("WAIT_S", "3"), ("LEASE_S", "100")):
        monkeypatch.setenv(f"REWINDBOX_POOL_{name}", value)
    header = {"Authorization": f"Bearer {Tokens(str(store)).create('test', None)}"}
    with (
        inside(store, Bounds()) as url,
        httpx.Client(base_url=url, headers=header, timeout=PATIENCE_S) as made,
    ):
        yield made
    remove(store)


def test_who_is_gone_has_allocated_nothing(client, clock):
    """Unused for so long, an allocated vm is let go of; each use begins that time anew, and what runs in it is one."""

    def allocated(name):
        answer = client.post("/api/vm-pool/allocate", json={"vm_id": name, "agent_id": name})
        assert answer.status_code == 200, answer.text
        return answer.json()["vm_id"]

    def held():
        return client.get("/v1/pool").json()["leased"]

    def asked(vm, code):
        answer = client.post("/api/llm/execute", json={"vm_id": vm, "language": "bash", "code": code})
        assert answer.status_code == 200, answer.text
        return answer.json()["stdout"]

    def released(vm):
        answer = client.post(f"/api/vm-pool/release/{vm}")
        assert answer.status_code == 200, answer.text
        return answer.json()["released"]

    used, unused, other = allocated("used"), allocated("unused"), allocated("other")
    assert [allocated(name) for name in (used, unused)] == [used, unused] and held() == 3
    late = {"agent_id": "late", "language": "bash", "code": "true"}
    assert client.post("/api/llm/execute", json=late).json()["code"] == "pool_full"
    asked(unused, "echo kept > file")

    clock.move(60)
    asked(used, "true")
    assert client.get(f"/api/vms/{other}").json()["status"] == "running"
    clock.move(60)
    assert held() == 2
    assert [vm["id"] for vm in client.get("/api/llm/vm-pool/used").json()["in_use_vms"]] == [used]
    assert client.post("/api/llm/execute", json=late).status_code == 200
    assert (released(unused), asked(unused, "cat file")) == (False, "kept\n")

    slow = client.post(f"/v1/vms/{used}/executions", json={"language": "bash", "code": "sleep 1000", "wait": False})
    clock.move(110)
    assert held() == 1
    assert client.get(slow.json()["url"]).status_code == 202
    client.post(f"{slow.json()['url']}/cancel")
    until(lambda: client.get(slow.json()["url"]).status_code == 200, "it has ended")
    assert (released(used), released(used), held()) == (True, False, 0)

    assert allocated(used) == used and held() == 1
    assert client.delete(f"/api/vms/{used}").status_code == 200 and held() == 0
    lease = client.post("/v1/pool/leases", json={"agent_id": "new"}).json()
    clock.move(110)
    assert held() == 0
    assert client.delete(f"/v1/pool/leases/{lease['id']}").json()["code"] == "unknown_lease"
