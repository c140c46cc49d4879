"""Pages of the history over HTTP: bounded in bytes, whole all the same, and the server's memory with them."""

import os
import re
from itertools import chain
from pathlib import Path

import httpx
import pytest
from served import Served, inside
from written import write

from conftest import PATIENCE_S, remove
from rewindbox import Rewindbox
from rewindbox.server.bounds import Bounds
from rewindbox.server.tokens import Tokens

PAGE_BYTES = 4000


@pytest.fixture
def service(tmp_path):
    """A server whose pages are short, over a history of which many a page has more; store, vm, URL and token."""
    store = tmp_path / "store"
    sizes = [10, 3000, 900, 9000, 10, 10, 4500, 10] + [10] * 120 + [3000] * 4
    vm_id, _ = write(store, (os.urandom(size // 2).hex().encode() for size in sizes))
    token = Tokens(str(store)).create("test", None)
    with inside(store, Bounds(page_bytes=PAGE_BYTES)) as url:
        yield store, vm_id, url, token
    remove(store)


def test_a_client_has_what_it_asks_for(service):
    """However many pages a server makes of it, a box at a server answers as one here."""
    store, _, url, token = service
    with Rewindbox(url, token=token) as there, Rewindbox(store) as here:
        newest = here.history(limit=3)
        for asked in (
            {"limit": None},
            {},
            {"limit": 3},
            {"limit": 0},
            {"limit": 130, "offset": 2},
            {"limit": None, "older_than": newest.next},
            {"max_bytes": 10_000},
            {"max_bytes": 20, "limit": None, "offset": 1},
            {"limit": None, "output": False},
            {"limit": 5, "vm": "box", "agent_id": "me", "offset": 126},
        ):
            found = here.history(**asked)
            assert there.history(**asked) == found
        assert there.vm("box").history(limit=None) == here.vm("box").history(limit=None)
        assert list(there.export()) == list(here.export()) == here.history(limit=None).entries[::-1]
    assert (newest.total, len(newest.entries)) == (132, 3)


def test_a_page_says_where_to_go_on(service):
    """A page is short where it has much, one execution is there however long it is, and none is left out."""
    _, vm_id, url, token = service
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE_S) as client:
        pages, more = [], {}
        while True:
            page = client.get("/v1/history", params={"vm": vm_id, "limit": 100, **more}).json()
            pages.append(page["entries"])
            if page["next"] is None:
                break
            more = {"older_than": page["next"]}
        sizes = [sum(len(entry["stdout"] + entry["code"]) for entry in page) for page in pages]
        assert all(size <= PAGE_BYTES or len(page) == 1 for size, page in zip(sizes, pages, strict=True))
        starts = [entry["started_at"] for page in pages for entry in page]
        assert len(starts) == page["total"] == 132 and starts == sorted(starts, reverse=True)
        assert max(map(len, pages)) > 50 and max(sizes) > 9000
        unknown = client.get("/v1/history", params={"older_than": "ex_" + "a" * 26})
        assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_execution")
        own = client.get("/v1/history", params={"agent_id": "other", "older_than": pages[0][0]["id"]})
        assert own.text.replace(pages[0][0]["id"], "ex_" + "a" * 26) == unknown.text


def test_clients_of_the_original_have_every_row(service):
    """Rows for whose output there is no room come without, and say so; where even they are too many, `next`."""
    _, vm_id, url, token = service
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE_S) as client:
        place = f"/api/vms/{vm_id}/history"
        told = client.get(place, params={"limit": 132}).json()
        rows = told["history"]
        assert (len(rows), told["total"], told["next"]) == (132, 132, None) and rows == told["entries"]
        left_out = [row["output_left_out"] for row in rows]
        assert left_out == [False] * left_out.index(True) + [True] * (132 - left_out.index(True))
        assert all((row["stdout"] == "") == row["output_left_out"] == row["outputLeftOut"] for row in rows)
        short = client.get(place, params={"limit": 5}).json()
        assert [row["id"] for row in short["history"]] == [row["id"] for row in rows[:5]]
        following = client.get(place, params={"limit": 5, "older_than": short["next"]}).json()["history"]
        assert [row["id"] for row in following] == [row["id"] for row in rows[5:10]]
        assert (
            following[1]["stdout"]
            and client.get(place, params={"limit": 5, "offset": 5}).json()["history"] == following
        )


def test_an_answer_has_no_more_output_than_a_page(service):
    """Results of blocks that ran come without output where it is too much; the errors say which execution has it."""
    *_, url, token = service
    blocks = [f"```bash\nhead -c {size} /dev/zero | tr '\\0' x\n```\n" for size in (3000, 2000, 900, 5000, 10)]
    asked = {"agent_id": "me", "llm_response": "\n".join(blocks), "auto_execute": True, "auto_execute_threshold": 0.0}
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE_S) as client:
        told = client.post("/api/llm/parse-execute", json={**asked, "max_bytes": 10_000}).json()
        results = told["execution_results"]
        assert [len(result["stdout"]) for result in results] == [3000, 0, 900, 0, 10]
        for number, size, error in ((1, 2000, told["errors"][0]), (3, 5000, told["errors"][1])):
            name = results[number]["execution_id"]
            assert error == f"block {number + 1} (bash): its output of {size} bytes is left out: {name} has it"
            assert len(client.get(f"/v1/executions/{name}").json()["stdout"]) == size
        long = client.post("/api/llm/parse-execute", json={**asked, "llm_response": "x" * 400_001})
        assert (long.status_code, long.json()["code"]) == (400, "validation_failed")


def test_a_long_history_takes_little_memory(tmp_path):
    """Of 176 MiB of output the server never has much at once, whoever asks for all of it, and however."""
    each_bytes, many = (4 << 20) - 1024, 40
    outputs = chain((os.urandom(16 << 20),), (b"x" * each_bytes for _ in range(many)))
    vm_id, ids = write(tmp_path / "store", outputs)
    with Served(tmp_path / "store") as server, server.client() as client:
        assert client.get("/v1/history?limit=1&output=false").status_code == 200  # what is loaded by that is loaded
        before_mib = _memory_mib(server.process.pid, "VmRSS")
        with client.stream("GET", f"/v1/executions/{ids[0]}") as binary:
            assert sum(map(len, binary.iter_bytes())) > 70 << 20  # as JSON
        grown_mib = _memory_mib(server.process.pid, "VmHWM") - before_mib
        assert grown_mib < 90, f"{grown_mib} MiB"
        page = client.get("/v1/history", params={"limit": 100}).json()
        assert (len(page["entries"]), page["total"]) == (2, many + 1) and page["next"]
        page = client.get(f"/api/vms/{vm_id}/history", params={"limit": 100}).json()
        assert [len(row["stdout"]) for row in page["history"]] == [each_bytes] * 2 + [0] * (many - 1)
        assert client.get(f"/api/vms/{vm_id}/tasks").json()["total"] == many + 1
        with client.stream("GET", "/v1/history/export") as export:
            assert sum(map(len, export.iter_bytes())) > many * each_bytes
        grown_mib = _memory_mib(server.process.pid, "VmHWM") - before_mib
        assert grown_mib < 120, f"{grown_mib} MiB"
    remove(tmp_path / "store")


def _memory_mib(pid: int, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) >> 10
