"""Code and answers that name no vm have one of the pool: the agent's own, for as long as they go on."""

import inspect
import threading
from dataclasses import fields

import anyio
import httpx
import pytest
from served import Served, events, follow, inside

from conftest import PATIENCE_S, remove, until
from rewindbox import AsyncRewindbox, Rewindbox
from rewindbox.choosing import Counts, PoolStats
from rewindbox.errors import PoolFull, Refused, UnknownVm
from rewindbox.ids import new_id
from rewindbox.pool import Pool
from rewindbox.remote import RemotePool
from rewindbox.server.bounds import Bounds
from rewindbox.server.pool import CountsBody, PoolBody
from rewindbox.server.tokens import Tokens

SLOW = {"language": "bash", "code": "echo; sleep 1000", "wait": False}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    store = tmp_path_factory.mktemp("pool") / "store"
    with Served(store, POOL_MAX="3", POOL_PER_AGENT="2", POOL_WAIT_S="0.2") as made:
        yield made
    remove(store)


@pytest.fixture
def client(server):
    with server.client() as made:
        yield made


def ran(client, code, language="bash", **more):
    """How code ended for which a vm was had."""
    answer = client.post("/v1/executions", json={"agent_id": "ann", "language": language, "code": code, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def told(client, **body):
    """The events of a run of an answer."""
    answer = client.post("/v1/runs", json={"agent_id": "ann", **body})
    assert answer.status_code == 200, answer.text
    return list(events(iter(answer.text.split("\n"))))


def leased(client):
    """How many vms of the pool are in use."""
    return client.get("/v1/pool").json()["leased"]


def test_an_agent_has_its_own_again(client):
    """Executions, runs and streams of an agent are in one vm, with its files and variables; another's are not."""
    first = ran(client, "x = 41; open('mine', 'w').write('1')", "python", session="main")
    vm = client.get(f"/v1/vms/{first['vm_id']}").json()
    assert (vm["agent_id"], vm["name"][:5], first["agent_id"]) == ("ann", "pool-", "ann")
    again = ran(client, "x + 1, open('mine').read()", "python", session="main")
    assert (again["vm_id"], again["displays"][0]["data"]["text/plain"]) == (vm["id"], "(42, '1')")

    answer = told(client, text="Run:\n```bash\ncat mine; exit 1\n```\n```bash\nls\n```", on_failure="continue")
    assert [event["event"] for event in answer if event["event"] != "output"][-2:] == ["ended", "done"]
    assert {event["data"]["vm_id"] for event in answer if event["event"] in ("run", "begun", "ended")} == {vm["id"]}
    asked = {"agent_id": "ann", "language": "bash", "code": "cat mine"}
    streamed = client.post("/v1/executions", json=asked, headers={"Accept": "text/event-stream"})
    kinds = [(event["event"], event["data"].get("vm_id")) for event in events(iter(streamed.text.split("\n")))]
    assert kinds == [("begun", vm["id"]), ("output", None), ("ended", vm["id"])]

    begun = client.post("/v1/executions", json={**SLOW, "agent_id": "ann"}).json()
    assert begun["vm_id"] == vm["id"] and leased(client) == 1
    other = ran(client, "ls", agent_id="bob")
    assert other["vm_id"] != vm["id"] and other["stdout"] == ""
    client.post(f"{begun['url']}/cancel")
    assert [event["event"] for event in follow(client, begun["events"])][-1] == "ended"
    assert leased(client) == 0
    undone = ran(client, "rm mine; exit 3", on_failure="rollback")
    assert ran(client, "cat mine")["stdout"] == "1" and undone["rolled_back_to"] == undone["before"]
    assert client.get("/v1/history", params={"vm": vm["id"]}).json()["total"] == 8


def test_once_under_an_id(client):
    """What is asked again under its id runs once, in the vm that it had; something else under it is refused."""
    asked = {"id": new_id("ex"), "language": "bash", "code": "echo >> ran; wc -l < ran", "agent_id": "ann"}
    whole = client.post("/v1/executions", json=asked).json()
    assert client.post("/v1/executions", json=asked).json() == whole
    assert client.post(f"/v1/vms/{whole['vm_id']}/executions", json=asked).json() == whole
    for url, changed in (("/v1/executions", {"code": "echo"}), ("/v1/vms/{}/executions", {})):
        elsewhere = client.post("/v1/vms", json={"name": "elsewhere"}).json()["id"]
        answer = client.post(url.format(elsewhere), json=asked | changed)
        assert answer.json()["code"] == "invalid_argument", answer.text


def test_wrong_code_gets_no_vm(client):
    """What may not run takes none of the pool, and none is made."""
    before = client.get("/v1/vms").json()
    for language, code, expected in (("klingon", "x", 400), ("perl", "x", 403), ("bash", " ", 400)):
        answer = client.post("/v1/executions", json={"agent_id": "eve", "language": language, "code": code})
        assert answer.status_code == expected
    assert client.post("/v1/runs", json={"text": "x" * 400_001, "agent_id": "eve"}).status_code == 400
    assert client.get("/v1/vms").json() == before


def test_a_full_pool_says_when_to_come_again(client):
    """All in use, or the agent's share: 429 and Retry-After, nothing runs; what ends makes room."""
    asked = {"language": "bash", "code": "echo $$", "agent_id": "late"}
    begun = [client.post("/v1/executions", json={**SLOW, "agent_id": agent}).json() for agent in ("a", "a", "b")]
    assert len({one["vm_id"] for one in begun}) == 3
    for url, body in (
        ("/v1/executions", asked),
        ("/v1/executions", {**asked, "agent_id": "a"}),
        ("/v1/runs", {"text": "```bash\ntrue\n```", "agent_id": "late"}),
    ):
        answer = client.post(url, json=body)
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1"), answer.text
        assert answer.json()["code"] == "pool_full" and answer.json()["remedy"]
    streamed = client.post("/v1/executions", json=asked, headers={"Accept": "text/event-stream"})
    (event,) = events(iter(streamed.text.split("\n")))
    assert (event["event"], event["data"]["code"]) == ("error", "pool_full")
    assert client.get("/v1/history", params={"agent_id": "late"}).json()["total"] == 0
    client.post(f"{begun[0]['url']}/cancel")
    assert [event["event"] for event in follow(client, begun[0]["events"])][-1] == "ended"
    assert ran(client, "true", agent_id="late")["exit_code"] == 0
    for one in begun[1:]:
        client.post(f"{one['url']}/cancel")
        list(follow(client, one["events"]))


def test_who_waits_can_be_told_to_go(tmp_path):
    """What waits for a vm is seen as going on and can be cancelled; a server that stops waits for nobody."""
    with Served(tmp_path / "store", POOL_MAX="1", POOL_WAIT_S="1000") as server, server.client() as client:
        client.post("/v1/executions", json=SLOW)
        answers = []

        def ask(url, body):
            answers.append(client.post(url, json=body))

        execution_id = new_id("ex")
        body = {"id": execution_id, "language": "bash", "code": "true", "agent_id": "late"}
        asking = threading.Thread(target=ask, args=("/v1/executions", body))
        asking.start()
        url = f"/v1/executions/{execution_id}"
        until(lambda: client.get(url).status_code == 202, "it waits")
        assert client.get(url).json()["vm_id"] is None
        assert client.post(f"{url}/cancel").status_code == 202
        asking.join()
        asking = threading.Thread(target=ask, args=("/v1/runs", {"text": "```bash\ntrue\n```", "agent_id": "late"}))
        asking.start()
        until(lambda: client.get("/v1/pool").json()["waiting"] == 1, "it waits")
        assert server.stop() == 0
        asking.join()
        assert [answer.json()["code"] for answer in answers] == ["execution_failed"] * 2
    remove(tmp_path / "store")


def test_a_client_holds_a_vm(client):
    """It is the agent's alone until it is given back, once; who names it shares it."""
    held = client.post("/v1/pool/leases", json={"agent_id": "ann"})
    lease, vm = held.json(), held.json()["vm"]
    assert (held.status_code, held.headers["Location"]) == (201, f"/v1/pool/leases/{lease['id']}")
    assert (lease["agent_id"], vm["agent_id"], vm["status"]) == ("ann", "ann", "running")
    assert client.get(f"/v1/vms/{vm['id']}").json() == vm
    assert ran(client, "true")["vm_id"] != vm["id"]
    done = client.post(f"/v1/vms/{vm['id']}/executions", json={"language": "bash", "code": "echo held"}).json()
    assert done["stdout"] == "held\n"
    shared = client.post("/v1/pool/leases", json={"agent_id": "bob", "vm": vm["name"]}).json()
    assert (shared["vm"]["id"], shared["agent_id"], leased(client)) == (vm["id"], "bob", 1)
    for one, left in ((shared, 1), (lease, 0)):
        gone = client.delete(f"/v1/pool/leases/{one['id']}").json()
        assert (gone, leased(client)) == ({"id": one["id"], "vm_id": vm["id"]}, left)
        answer = client.delete(f"/v1/pool/leases/{one['id']}")
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_lease")
    for body, code in (({"wait_s": -1}, "invalid_argument"), ({"vm": "nothing"}, "unknown_vm")):
        assert client.post("/v1/pool/leases", json=body).json()["code"] == code


def story(box):
    """All that there is to see of a pool, of a fixed program; ids only as being the same."""
    box.pool.upkeep()
    with box.pool.vm("ann") as vm:
        vm.execute("python", "x = 41", session="main")
        seen = [vm.name.startswith("pool-"), vm.record.agent_id, vm.is_running]
        with box.pool.vm("ann") as other, box.pool.vm("bob", vm_id=vm.id) as same:
            seen += [other.id == vm.id, same.id == vm.id, box.pool.stats().leased]
            with pytest.raises(PoolFull) as caught, box.pool.vm("ann", wait_s=0):
                pass
            seen += [caught.value.code, caught.value.remedy]
    with box.pool.vm("ann") as again:
        answer = "Run:\n```bash\necho > f\n```\n```bash\nls\n```"
        seen += [again.id == vm.id, [done.stdout for done in box.run(answer, again)]]
        seen += [again.execute("python", "x + 1", session="main").result, again.read("f")]
    with pytest.raises(ZeroDivisionError), box.pool.vm("ann"):
        raise ZeroDivisionError
    with pytest.raises(UnknownVm), box.pool.vm("ann", vm_id="vm_aaaaaa"):
        pass
    vm.remove()
    with box.pool.vm("ann") as new:
        seen.append(new.id == vm.id)
        new.remove()
    stats = box.pool.stats()
    return [*seen, stats.leased, stats.waiting, stats.max, stats.counts.refused]


def test_one_line_changes(tmp_path, monkeypatch):
    """The same program has the same of a pool here and of one at a server."""
    for name, value in (("MAX", "3"), ("PER_AGENT", "2")):
        monkeypatch.setenv(f"REWINDBOX_POOL_{name}", value)
    with Rewindbox(tmp_path / "here") as box:
        expected = story(box)
    with Served(tmp_path / "there") as server, Rewindbox(server.url, token=server.token) as box:
        assert story(box) == expected
        agent = Tokens(str(server.store)).create("agents", "carl")
        with Rewindbox(server.url, token=agent) as own, own.pool.vm() as vm:
            assert vm.record.agent_id == "carl"
            for wrong in (own.pool.stats, own.pool.vm("ann").__enter__):
                with pytest.raises(Refused):
                    wrong()
    assert expected[:5] == [True, "ann", True, False, True]
    remove(tmp_path / "there")


def test_what_a_pool_can_do_it_can_there():
    """Every method that is for who uses a pool is there, with the same arguments, and every number is told."""
    of_who_has_it = {"holds", "check", "usage", "close"}
    for name, method in vars(Pool).items():
        if inspect.isfunction(method) and name[0] != "_" and name not in of_who_has_it:
            there = getattr(RemotePool, name)
            assert list(inspect.signature(there).parameters) == list(inspect.signature(method).parameters), name
            assert inspect.iscoroutinefunction(there) == inspect.iscoroutinefunction(method), name
    for told, number in ((PoolBody, PoolStats), (CountsBody, Counts)):
        assert set(told.model_fields) == {field.name for field in fields(number)}


def test_who_is_gone_holds_nothing(tmp_path, monkeypatch):
    """A vm that is held and not used is given back; not one that is used, and none is kept for who waits no more."""
    monkeypatch.setenv("REWINDBOX_POOL_MAX", "2")
    monkeypatch.setenv("REWINDBOX_POOL_LEASE_S", "0.2")
    store = tmp_path / "store"
    with (
        inside(store, Bounds()) as url,
        httpx.Client(base_url=url, headers=_header(store), timeout=PATIENCE_S) as client,
    ):
        held = [client.post("/v1/pool/leases", json={"agent_id": agent}).json() for agent in ("ann", "bob")]
        begun = [client.post(f"/v1/vms/{one['vm']['id']}/executions", json=SLOW).json() for one in held]
        with anyio.from_thread.start_blocking_portal() as portal:
            waiting = portal.start_task_soon(_lease, url, client.headers["authorization"].split()[1])
            until(lambda: client.get("/v1/pool").json()["waiting"] == 1, "it waits")
            waiting.cancel()
            until(lambda: client.get("/v1/pool").json()["waiting"] == 0, "nobody waits")
        client.post(f"{begun[0]['url']}/cancel")
        until(lambda: leased(client) == 1, "what is not used is given back")
        assert client.delete(f"/v1/pool/leases/{held[0]['id']}").json()["code"] == "unknown_lease"
        assert client.get(begun[1]["url"]).status_code == 202
        client.post(f"{begun[1]['url']}/cancel")
        until(lambda: leased(client) == 0, "nor is that one used any more")
        assert client.get("/v1/pool").json()["counts"]["leases"] == 2
    remove(store)


def _header(store):
    return {"Authorization": f"Bearer {Tokens(str(store)).create('test', None)}"}


async def _lease(url, token):
    async with AsyncRewindbox(url, token=token) as box:
        await box.pool.lease("late", wait_s=1000)
