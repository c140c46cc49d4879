"""docs/http-api.md says what the service does: its made part is of today, and each of its commands works."""

import shlex
from pathlib import Path

import httpx
import pytest

from conftest import PATIENCE_S, until

pytest.importorskip("fastapi")

from served import Served

from rewindbox.server import reference

PAGE = Path(__file__).parents[2] / "docs/http-api.md"


def test_the_page_is_of_today():
    """`make reference` would change nothing."""
    assert PAGE.read_text().partition(reference.BEGIN)[2] == reference.page().partition(reference.BEGIN)[2]


def test_every_command_works(tmp_path):
    """Each command of the page does what it is there for, in a vm that has what it names."""
    (tmp_path / "data.csv").write_text("a,b\n")
    with Served(tmp_path / "store") as server, server.client() as client:
        for command in reference.commands():
            client.post("/v1/vms", json={"name": "demo"})
            client.put("/v1/vms/demo/file", params={"path": "data.csv"}, content=b"a,b\n")
            client.post("/v1/vms/demo/snapshots", json={"name": "good"})
            asked = {"language": "bash", "code": "sleep 100" if "cancel" in command else "true", "wait": False}
            execution = client.post("/v1/vms/demo/executions", json=asked).json()
            if "$EX" in command and "cancel" not in command:
                until(lambda url=execution["url"]: client.get(url).status_code == 200, "it has ended")
            run = client.post("/v1/runs", json={"text": "no code"}).headers["Location"].split("/")[3]
            text = command.replace("$EX", execution["execution_id"]).replace("$RUN", run)
            answer = _called(shlex.split(text.replace("$URL", server.url)), str(server.token), tmp_path)
            assert answer.status_code < 300, (command, answer.text)


def _called(words: list[str], token: str, folder: Path) -> httpx.Response:
    """What curl would do with these words."""
    method, headers, content = "GET", {}, None
    rest = iter(words[1:-1])
    for word in rest:
        if word == "-H":
            assert next(rest) == "$AUTH"
            headers["Authorization"] = f"Bearer {token}"
        elif word == "--json":
            method, content, headers["Content-Type"] = "POST", next(rest).encode(), "application/json"
        elif word == "--upload-file":
            method, content = "PUT", (folder / next(rest)).read_bytes()
        elif word == "-X":
            method = next(rest)
        else:
            assert word == "-N"
    return httpx.request(method, words[-1], headers=headers, content=content, timeout=PATIENCE_S)
