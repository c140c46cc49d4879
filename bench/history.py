"""`python -m bench.history`: how long a long history takes to answer, for each kind of question.

A history of `--executions` is written as executions write it, in a folder that is removed afterwards; then each
question is asked `--samples` times, with another value each time, by the library, total and page of a hundred
included. Exit code 0: every question that has a target is answered within it; 1: one is not.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from rewindbox.execution import Execution
from rewindbox.history import History
from rewindbox.registry import Registry
from rewindbox.store import Store

TARGET_MS = 10.0
_FIRST = datetime(2025, 1, 1, tzinfo=UTC)
_STEP_S = 31
"""From one start to the next: a million take a year."""
_VMS, _AGENTS, _SESSIONS = 100, 10, 20
_LANGUAGES = ["python"] * 6 + ["bash"] * 3 + ["javascript"]
_VERBS = [
    "load",
    "save",
    "parse",
    "fetch",
    "merge",
    "split",
    "count",
    "print",
    "read",
    "write",
    "open",
    "close",
    "drop",
]
_NOUNS = ["data", "rows", "file", "json", "csv", "text", "user", "config", "index", "cache"]
_AT_ONCE = 10_000


def main(words: list[str] | None = None) -> int:
    """Write the history, ask, print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.history", description=__doc__)
    parser.add_argument("--executions", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--samples", type=int, default=50, metavar="N")
    parser.add_argument("--store", metavar="FILE", help="keep the history there, or use what is there")
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="rewindbox-bench-") as folder:
        store = Store(given.store or f"{folder}/history.db")
        rows = list(_measured(store, given.executions, given.samples))
        store.close()
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=2)
    return int(any(row["at_most_ms"] is not None and row["median_ms"] > row["at_most_ms"] for row in rows))


def _measured(store: Store, executions: int, samples: int) -> Iterator[dict[str, Any]]:
    rnd = random.Random(1)
    history = History(store)
    yield _once("the history is written", lambda: _write(store, executions))
    yield _once("the first question: the listing is made", history.query)
    yield _once("the first search: the index is made", lambda: history.query(text="no such thing"))
    for name, (target, ask) in _questions(store, executions, rnd).items():
        times, cpu, total = [], [], 0
        for _ in range(samples if target else min(samples, 5)):
            query = ask()
            started, cpu_started = time.perf_counter(), time.process_time()
            total = history.query(**query).total
            times.append((time.perf_counter() - started) * 1e3)
            cpu.append((time.process_time() - cpu_started) * 1e3)
        yield _told(name, times, cpu, total, target)


def _once(name: str, action: Callable[[], object]) -> dict[str, Any]:
    started, cpu_started = time.perf_counter(), time.process_time()
    action()
    took, cpu = (time.perf_counter() - started) * 1e3, (time.process_time() - cpu_started) * 1e3
    return _told(name, [took], [cpu], None, None)


def _told(name: str, times: list[float], cpu: list[float], total: int | None, target: float | None) -> dict[str, Any]:
    """A line of the table; processor time is what it takes on a machine that has nothing else to do."""
    median, cpu_median = statistics.median(times), statistics.median(cpu)
    p90 = sorted(times)[int(len(times) * 0.9)]
    verdict = "" if target is None else "PASS" if median <= target else "over"
    matching = "" if total is None else f"{total} match"
    figures = f"{median:10.1f} ms {cpu_median:10.1f} ms cpu  p90 {p90:10.1f}"
    print(f"{name:40} {figures}  {matching:14} {verdict}", flush=True)
    return {
        **{"name": name, "median_ms": median, "cpu_ms": cpu_median, "p90_ms": p90},
        **{"matching": total, "at_most_ms": target},
    }


def _questions(store: Store, count: int, rnd: random.Random) -> dict[str, tuple[float | None, Callable[[], Any]]]:
    """What is asked, in words -> its target, and the arguments of one question."""
    vms = [record.id for record in Registry(store).list()]
    year = timedelta(seconds=count * _STEP_S)

    def when() -> datetime:
        return _FIRST + year * rnd.random()

    def between() -> dict[str, Any]:
        first, last = sorted((when(), when()))
        return {"since": first, "until": last}

    def deep() -> dict[str, Any]:
        return {"offset": rnd.randrange(count)}

    return {
        "everything": (TARGET_MS, dict),
        "a page anywhere in it": (TARGET_MS, deep),
        "by vm": (TARGET_MS, lambda: {"vm_id": rnd.choice(vms)}),
        "by agent": (TARGET_MS, lambda: {"agent_id": f"agent-{rnd.randrange(_AGENTS)}"}),
        "by agent, a page anywhere": (TARGET_MS, lambda: {"agent_id": "agent-1", "offset": rnd.randrange(count // 10)}),
        "by session": (TARGET_MS, lambda: {"session": f"s{rnd.randrange(_SESSIONS)}"}),
        "since and until": (TARGET_MS, between),
        "the last day": (TARGET_MS, lambda: {"since": _FIRST + year - timedelta(days=1)}),
        "failures": (TARGET_MS, lambda: {"failures_only": True}),
        "by language": (TARGET_MS, lambda: {"language": rnd.choice(_LANGUAGES)}),
        "by language, between, a page anywhere": (
            TARGET_MS,
            lambda: {"language": "python", **between(), "offset": rnd.randrange(count // 10)},
        ),
        "by how it ended": (TARGET_MS, lambda: {"ended": rnd.choice(["exit", "exit", "timeout", "signal"])}),
        "a vm's failures in a language": (
            TARGET_MS,
            lambda: {"vm_id": rnd.choice(vms), "failures_only": True, "language": "bash"},
        ),
        "failures in a language": (TARGET_MS, lambda: {"failures_only": True, "language": "python"}),
        "an agent's language": (
            TARGET_MS,
            lambda: {"agent_id": f"agent-{rnd.randrange(_AGENTS)}", "language": "python"},
        ),
        "a language and how it ended": (TARGET_MS, lambda: {"language": "python", "ended": "exit"}),
        "an agent's failures in a language, between": (
            TARGET_MS,
            lambda: {"agent_id": "agent-1", "failures_only": True, "language": "python", **between()},
        ),
        "a language and how it ended, a page anywhere": (
            TARGET_MS,
            lambda: {"language": "python", "ended": "exit", "offset": rnd.randrange(count // 2)},
        ),
        "text that few have": (TARGET_MS, lambda: {"text": f"Ticket-{rnd.randrange(count):x}'"}),
        "text that nobody has": (TARGET_MS, lambda: {"text": f"missing-{rnd.random()}"}),
        "a vm's code or output": (None, lambda: {"vm_id": rnd.choice(vms), "text": "ticket-1"}),
        "text that one in a hundred have": (
            None,
            lambda: {"text": f"{rnd.choice(_VERBS)}_{rnd.choice(_NOUNS)}"},
        ),
        "text that all have": (None, lambda: {"text": "print("}),
        "two characters": (None, lambda: {"text": "zq"}),
    }


def _write(store: Store, count: int) -> None:
    if store.rows("select count(*) from executions")[0][0]:
        return
    rnd = random.Random(2)
    registry, history = Registry(store), History(store)
    vms = []
    for number in range(_VMS):
        with store.transaction() as tx:
            vms.append(registry.create(tx, f"vm-{number}", vm_type="host", backend="bench", agent_id="me").id)
    for first in range(0, count, _AT_ONCE):
        with store.transaction() as tx:
            for number in range(first, min(first + _AT_ONCE, count)):
                told = _begun(number, vms, rnd)
                start = history.begin(tx, **told)
                history.finish(tx, Execution(id=start.id, **told, **_ended(number, rnd)), start)


def _begun(number: int, vms: list[str], rnd: random.Random) -> dict[str, Any]:
    words = _words(rnd)
    code = f"import os\nfor n in range({number}):\n    {words[0]}({words[1]})\nprint({words[2]}, 'ticket-{number:x}')\n"
    return {
        "vm_id": rnd.choice(vms),
        "agent_id": f"agent-{rnd.randrange(_AGENTS)}",
        "language": rnd.choice(_LANGUAGES),
        "code": code,
        "session": f"s{rnd.randrange(_SESSIONS)}" if number % 3 == 0 else None,
        "started_at": _FIRST + timedelta(seconds=number * _STEP_S, microseconds=rnd.randrange(10**6)),
        "before": None,
    }


def _ended(number: int, rnd: random.Random) -> dict[str, Any]:
    words, fails = _words(rnd), rnd.random() < 0.1
    ended = rnd.choice(["exit", "exit", "exit", "timeout", "signal"]) if fails else "exit"
    return {
        "ended": ended,
        "exit_code": 1 if fails else 0,
        "stdout_bytes": f"{words[0]} {words[1]}: {rnd.random()}\n{number * 7919 % 100_003} rows\n".encode(),
        "stderr_bytes": f"Traceback:\nValueError: {words[2]} {number}\n".encode() if fails else b"",
        "truncated": False,
        "wall_s": 0.01,
        "cpu_s": 0.01,
        "memory_peak_bytes": 9_000_000,
        "error": None,
        "after": None,
    }  # fmt: skip


def _words(rnd: random.Random) -> list[str]:
    return [f"{rnd.choice(_VERBS)}_{rnd.choice(_NOUNS)}" for _ in range(3)]


if __name__ == "__main__":
    sys.exit(main())
