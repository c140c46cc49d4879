"""A real server on a port that the kernel chose, and what asks it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

import skeletons
from conftest import PATIENCE_S, until
from rewindbox.engine import AsyncRewindbox
from rewindbox.server import app, listener
from rewindbox.server.bounds import Bounds
from rewindbox.server.serve import bound
from rewindbox.server.tokens import Tokens


class Served:
    """`rewindbox serve` as a process of its own."""

    def __init__(self, store: Path, *words: str, **settings: str) -> None:
        """`settings`: of the environment, without their prefix."""
        self.store = store
        skeletons.lend(store / "vms")
        command = [sys.executable, "-W", "error", "-m", "rewindbox", "--store", str(store), "--json"]
        self.log = store.parent / f"{store.name}.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*command, "serve", "--port", "0", *words],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **{f"REWINDBOX_{name}": value for name, value in settings.items()}},
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        told = json.loads(line)
        self.url: str = told["url"]
        self.token: str | None = told["token"]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, token: str | None = None, **options: Any) -> httpx.Client:
        """With the token that the first start made, or another one."""
        given = token or self.token
        headers = {"Authorization": f"Bearer {given}"} if given else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE_S, **options)

    def kill(self) -> None:
        """Without a word."""
        self.process.kill()
        self.stop()

    def stop(self) -> int:
        """As a service manager does it; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def inside(store: Path, bounds: Bounds, **choices: Any) -> Iterator[str]:
    """A server of this process, in a thread, with bounds that a test can reach; its URL."""
    ports: list[int] = []
    skeletons.lend(store / "vms")
    gate, inner = app.made(AsyncRewindbox(store), app.Choices(tokens=Tokens(str(store)), bounds=bounds, **choices))
    with bound("127.0.0.1", 0) as sock:
        server = listener.Listener(gate, bounds, on_stop=lambda: app.stop(inner), on_started=ports.append)
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            until(lambda: ports or not thread.is_alive(), "the server listens")
            yield f"http://127.0.0.1:{ports[0]}"
        finally:
            server.stop_soon()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Server-sent events as they come: id, event, data."""
    found: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line.startswith(":"):
            continue
        if not line and found:
            yield {**found, "data": json.loads(found["data"])}
            found = {}
        elif line:
            found[name] = value


def follow(client: httpx.Client, url: str, last: str | None = None) -> Iterator[dict[str, Any]]:
    """The events of an execution or a run."""
    headers = {} if last is None else {"Last-Event-ID": last}
    with client.stream("GET", url, headers=headers) as response:
        response.read() if response.status_code != 200 else None
        assert response.status_code == 200, response.text
        yield from events(response.iter_lines())


def output_of(found: list[dict[str, Any]], stream: str = "stdout") -> str:
    """What was written, of events."""
    parts = (event["data"] for event in found if event["event"] == "output")
    return "".join(part["text"] for part in parts if part["stream"] == stream)
