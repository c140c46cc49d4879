"""Points of a vm in pages, and a bound on its snapshots: what a client has made does not make an answer without end."""

import httpx
import pytest
from served import inside

from conftest import PATIENCE_S, remove
from rewindbox import Rewindbox, remote
from rewindbox.errors import SnapshotNotFound, TooManySnapshots
from rewindbox.server.bounds import Bounds
from rewindbox.server.tokens import Tokens

BASH = {"language": "bash", "code": "echo >> f"}


@pytest.fixture
def service(tmp_path):
    """A server with room for two snapshots of a vm: its URL, a token, and a client."""
    store = tmp_path / "store"
    token = Tokens(str(store)).create("test", None)
    header = {"Authorization": f"Bearer {token}"}
    with (
        inside(store, Bounds(snapshots=2)) as url,
        httpx.Client(base_url=url, headers=header, timeout=PATIENCE_S) as client,
    ):
        yield url, token, client
    remove(store)


def test_points_come_in_pages(service, monkeypatch):
    """Each comes once, oldest first, also what is taken between two pages; a box at a server has all of them."""
    url, token, client = service
    client.post("/v1/vms", json={"name": "vm"})

    def ran():
        return client.post("/v1/vms/vm/executions", json=BASH).json()["after"]

    taken = [ran() for _ in range(5)]
    found, more = [], {}
    while True:
        page = client.get("/v1/vms/vm/points", params={"limit": 2, **more}).json()
        found += page["points"]
        if page["next"] is None:
            break
        assert len(page["points"]) == 2 and page["next"] == page["points"][-1]["id"]
        more = {"newer_than": page["next"]}
        if len(found) == 4:
            taken.append(ran())
    ids = [point["id"] for point in found]
    assert ids[1:] == taken and [point["is_tip"] for point in found] == [False] * 6 + [True]
    assert [point["parent_id"] for point in found] == [None, *ids[:-1]]
    assert client.get("/v1/vms/vm/points", params={"limit": 0}).json() == {"points": [], "next": None}
    assert client.get("/v1/vms/vm/points", params={"newer_than": "pt_aaaaaa"}).status_code == 404

    monkeypatch.setattr(remote, "_POINTS", 3)
    with Rewindbox(url, token=token) as box:
        vm = box.vm("vm")
        assert [point.id for point in vm.points()] == ids
        assert [point.id for point in vm.points(newer_than=ids[1], limit=4)] == ids[2:6]
        assert vm.point(ids[5]).id == ids[5]
        with pytest.raises(SnapshotNotFound):
            vm.points(newer_than="pt_aaaaaa")


def test_snapshots_have_a_bound(service):
    """Beyond it nothing is made, on any route; one that is removed makes room, and those of executions do not count."""
    url, token, client = service
    client.post("/v1/vms", json={"name": "vm"})
    first, _ = (client.post("/v1/vms/vm/snapshots", json={"name": name}).json() for name in ("a", "b"))
    assert client.post("/v1/vms/vm/rollback", json={"to": "a"}).json()["snapshot_id"]
    for place in ("/v1/vms/vm/snapshots", "/api/vms/vm/snapshots", "/sessions/vm/snapshots"):
        answer = client.post(place, json={"name": "c"})
        assert (answer.status_code, answer.json()["code"]) == (409, "too_many_snapshots")
    with Rewindbox(url, token=token) as box, pytest.raises(TooManySnapshots, match="remove some"):
        box.vm("vm").snapshot("c")
    client.delete(f"/v1/vms/vm/snapshots/{first['snapshot_id']}")
    assert client.post("/v1/vms/vm/snapshots", json={"name": "c"}).status_code == 201
    kinds = [snapshot["kind"] for snapshot in client.get("/v1/vms/vm/snapshots").json()["snapshots"]]
    assert sorted(kinds) == ["manual", "manual", "pre_rollback"]
