"""docs/http-api.md has a command for each call: all of them work."""

import shlex
from pathlib import Path

import httpx
from served import Served

from conftest import PATIENCE_S, remove
from rewindbox.server import reference


def test_every_command_works(tmp_path):
    """Each command of the page does what it is there for, in a vm that has what it names."""
    (tmp_path / "data.csv").write_text("a,b\n")
    with Served(tmp_path / "store") as server, server.client() as client:
        for command in reference.commands():
            client.post("/v1/vms", json={"name": "demo"})
            client.put("/v1/vms/demo/file", params={"path": "data.csv"}, content=b"a,b\n")
            client.post("/v1/vms/demo/snapshots", json={"name": "good"})
            text = command.replace("$URL", server.url)
            goes_on = "/stdin" in text or "/cancel" in text
            if "$EX" in text:
                text = text.replace("$EX", _execution(client, ends=not goes_on, reads="/stdin" in text))
            if "$RUN" in text:
                run = client.post("/v1/runs", json={"text": "no code"}).headers["Location"]
                text = text.replace("$RUN", run.split("/")[3])
            if "$LEASE" in text:
                text = text.replace("$LEASE", client.post("/v1/pool/leases", json={}).json()["id"])
            answer = _called(shlex.split(text), str(server.token), tmp_path)
            assert answer.status_code < 300, (command, answer.text)
            if goes_on:
                client.post("/v1/vms/demo/stop")
    remove(tmp_path / "store")


def _execution(client: httpx.Client, *, ends: bool, reads: bool) -> str:
    """One that has ended, or one that goes on, and may be given more to read."""
    asked = {"language": "bash", "code": "true" if ends else "sleep 100", "wait": ends, "stdin_open": reads}
    told = client.post("/v1/vms/demo/executions", json=asked).json()
    return str(told["id"] if ends else told["execution_id"])


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
