"""The service: what HTTP adds to an execution, and a crowd of clients at once: `python -m bench.service`.

The server is `rewindbox serve`, a process of its own on a loopback port that the kernel chose; a client keeps its
connection. Afterwards the record is asked: an execution that was acknowledged and is not there is a loss.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from bench import host, report
from bench.bare import BARE
from bench.runner import Case, Missing, Row
from rewindbox import Rewindbox, Vm, backends

MIXED = {"python": "print(sum(range(1000)))", "bash": "echo $((6 * 7))", "javascript": "console.log(6 * 7)"}
"""What the crowd runs."""
_PER_TOKEN = 20
"""Clients that share a token, of which each may have 32 executions going on."""
_TENTH = 10


class Server:
    """`rewindbox serve` on a store of its own."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="rewindbox-bench-")
        self.store = os.path.join(self.folder, "store")
        self._log = open(os.path.join(self.folder, "log"), "wb")  # noqa: SIM115  open as long as the server
        words = [sys.executable, "-m", "rewindbox", "--json", "--store", self.store]
        self._words = words
        self.process = subprocess.Popen([*words, "serve", "--port", "0"], stdout=subprocess.PIPE, stderr=self._log)
        assert self.process.stdout is not None
        told = json.loads(self.process.stdout.readline() or "{}")
        if not told:
            self.close()
            raise Missing("the server did not start; is the extra `server` installed?")
        self.url, self.token = str(told["url"]), str(told["token"])

    def new_token(self, name: str) -> str:
        """One more token."""
        made = subprocess.run([*self._words, "token", "create", name], capture_output=True, check=True)
        return str(json.loads(made.stdout)["token"])

    def memory_mib(self) -> float:
        """What the server's process has in memory."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def close(self) -> None:
        """End it in order, and remove what it had."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()
        backends.delete(self.folder)


class OverHttp(Case):
    """A `pass` in python here and over HTTP, one after the other, and `x += 1` in a session over HTTP."""

    rows = (
        Row(name="http python", work="a `pass` in python over HTTP, in a warm vm", over=BARE),
        Row(name="http beyond", work="of that, what the library does not take", over=BARE, at_most=0.3),
        Row(name="http session", work="`x += 1` in a python session over HTTP", over=BARE, at_most=0.6),
    )

    def __init__(self, box: Rewindbox) -> None:
        self._box = box
        self._vm: Vm | None = None
        self._server: Server | None = None
        self._client: Any = None

    def open(self) -> None:
        try:
            import httpx
        except ModuleNotFoundError as error:
            raise Missing("httpx is not installed; the extra `client` has it") from error
        self._vm, self._server = self._box.vm(), Server()
        headers = {"Authorization": f"Bearer {self._server.token}"}
        self._client = httpx.Client(base_url=self._server.url, headers=headers, timeout=60)
        self._client.post("/v1/vms", json={"name": "warm"}).raise_for_status()
        self._ask("python", "x = 0", session="main")
        self.sample()

    def _ask(self, language: str, code: str, **more: str) -> float:
        started = time.perf_counter()
        answer = self._client.post("/v1/vms/warm/executions", json={"language": language, "code": code, **more})
        seconds = time.perf_counter() - started
        assert answer.status_code == 200 and answer.json()["success"], answer.text
        return seconds

    def sample(self) -> Mapping[str, float]:
        assert self._vm is not None
        started = time.perf_counter()
        assert self._vm.execute("python", "pass").success
        here, there = time.perf_counter() - started, self._ask("python", "pass")
        return {
            "http python": there,
            "http beyond": there - here,
            "http session": self._ask("python", "x += 1", session="main"),
        }

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        if self._server is not None:
            self._server.close()
        if self._vm is not None:
            self._vm.remove()
        self._vm = self._server = self._client = None


@dataclass
class Crowd:
    """What the clients saw."""

    took_s: list[float] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    """Ids of the executions that were acknowledged."""
    wrong: Counter[str] = field(default_factory=Counter)
    """What was no success, in words."""
    memory_mib: list[float] = field(default_factory=list)


def main(words: list[str] | None = None) -> int:
    """A crowd, or one client for long; print what it saw, and 1 when something was wrong or lost."""
    given = _parser().parse_args(words)
    server, crowd = Server(), Crowd()
    try:
        tokens = [server.new_token(f"t{number}") for number in range(-(-given.clients // _PER_TOKEN))]
        anyio.run(_all, server, tokens, given, crowd)
        lost = _lost(server, crowd)
    finally:
        server.close()
    found = {"header": host.header(), **_figures(given, crowd, lost)}
    for name, value in found.items():
        print(f"{name}: {value}")
    return report.finish(found, given.json)


async def _all(server: Server, tokens: list[str], given: argparse.Namespace, crowd: Crowd) -> None:
    until = time.monotonic() + given.seconds if given.count is None else float("inf")
    async with anyio.create_task_group() as group:
        for number in range(given.clients):
            group.start_soon(_one, server, tokens[number // _PER_TOKEN], number, until, given.count, crowd)


async def _one(server: Server, token: str, number: int, until: float, count: int | None, crowd: Crowd) -> None:
    """A client with a vm of its own, one execution after the other."""
    import httpx

    draw, headers = random.Random(number), {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=120) as client:
        (await client.post("/v1/vms", json={"name": f"client-{number}"})).raise_for_status()
        while time.monotonic() < until and (count is None or len(crowd.told) < count):
            language = draw.choice(sorted(MIXED))
            started = time.perf_counter()
            asked = {"language": language, "code": MIXED[language]}
            try:
                answer = await client.post(f"/v1/vms/client-{number}/executions", json=asked)
            except httpx.HTTPError as error:
                crowd.wrong[f"{type(error).__name__}"] += 1
                continue
            crowd.took_s.append(time.perf_counter() - started)
            crowd.memory_mib.append(server.memory_mib())
            _note(answer, crowd)


def _note(answer: Any, crowd: Crowd) -> None:
    if answer.status_code != 200:
        crowd.wrong[f"status {answer.status_code}"] += 1
        return
    told = answer.json()
    crowd.told.append(told["id"])
    if not told["success"]:
        crowd.wrong[f"{told['language']}: {told['ended']} {told['exit_code']}"] += 1


def _lost(server: Server, crowd: Crowd) -> int:
    """How many acknowledged executions are not in the record."""
    server.process.send_signal(signal.SIGTERM)
    server.process.wait()
    with Rewindbox(server.store) as box:
        recorded = {execution.id for execution in box.export()}
    return len(set(crowd.told) - recorded)


def _figures(given: argparse.Namespace, crowd: Crowd, lost: int) -> dict[str, Any]:
    took = sorted(crowd.took_s)
    median, p99 = statistics.median(took), took[int(len(took) * 0.99)]
    tenth = max(1, len(crowd.took_s) // _TENTH)
    first, last = statistics.median(crowd.took_s[:tenth]), statistics.median(crowd.took_s[-tenth:])
    return {
        "clients": given.clients,
        "executions": len(took),
        "median_ms": round(median * 1000, 1),
        "p99_ms": round(p99 * 1000, 1),
        "p99_over_median": round(p99 / median, 2),
        "first_tenth_ms": round(first * 1000, 1),
        "last_tenth_ms": round(last * 1000, 1),
        "memory_first_mib": round(statistics.median(crowd.memory_mib[:tenth]), 1),
        "memory_last_mib": round(statistics.median(crowd.memory_mib[-tenth:]), 1),
        "wrong": dict(crowd.wrong),
        "lost": lost,
        "is_well": not crowd.wrong and not lost,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.service", description=__doc__)
    parser.add_argument("--clients", type=int, default=100, metavar="N", help="at once (default: 100)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="for so long (default: 60)")
    parser.add_argument("--count", type=int, metavar="N", help="so many executions, however long they take")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
