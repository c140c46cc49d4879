"""`python -m bench.real`: real answers end to end, and the proof from outside that the host is as it was.

Every answer runs in a new vm of its own, two at a time, as `AsyncRewindbox.run(..., on_failure="continue")` runs
it. Exit code 0: nothing crashed, the host is untouched, every execution is in history. Blocks that fail are
figures, not failures. 1: one of these is not so. 2: it could not be asked that way.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

from bench import extraction, host, outside, report
from bench.causes import SUCCEEDED, cause
from rewindbox import AsyncRewindbox, Execution, Limits
from rewindbox.errors import BadRequest

LIMITS = Limits(wall_s=10, cpu_s=20, memory_mib=1024, processes=128, disk_mib=512, output_bytes=1 << 20)
AT_ONCE = 2
_SECRET = "canary-" + os.urandom(16).hex()
"""Stands in the canary files and in our environment; no block may ever write it."""


@dataclass(slots=True)
class Tally:
    """What happened."""

    answers: int = 0
    blocks: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    executions: list[str] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    """Executions that wrote our secret."""
    wall_s: float = 0.0


def main(words: list[str] | None = None) -> int:
    """Run the sample, print the table and the proof, write JSON."""
    given = _parser().parse_args(words)
    path = extraction.answers_path()
    if path is None:
        print(
            f"real answers are needed: set REWINDBOX_TEST_DATA to the folder that has {extraction.ANSWERS}",
            file=sys.stderr,
        )
        return 2
    everything = extraction.answers(path)
    chosen = random.Random(given.seed).sample(everything, min(given.count, len(everything)))
    header = {**host.header(), "sample": f"{len(chosen)} of {len(everything)} answers, seed {given.seed}"}
    found = {"header": header, **run(chosen)}
    _show(found)
    return report.finish(found, given.json)


def run(chosen: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Run these answers between two looks at the host; the report as JSON has it."""
    tally, home = Tally(), os.path.expanduser("~")
    outside.adopt_orphans()
    with _canaries() as (canaries, folder):
        before = outside.look(canaries, home)
        store_problems = anyio.run(_run_all, chosen, os.path.join(folder, "store"), tally)
        settled_s = outside.settle(before)
        after = outside.look(canaries, home)
        changes = outside.differences(before, after)
    return {
        **_figures(tally),
        "host": {"looked_at": before.counts(), "differences": changes, "settled_ms": round(settled_s * 1e3, 1)},
        "store": store_problems,
        "is_well": not (tally.crashes or tally.leaks or changes or store_problems),
    }


@contextmanager
def _canaries() -> Iterator[tuple[str, str]]:
    """A home, a temporary folder and a process that nothing may touch; and a folder for the store beside them."""
    kept = {name: os.environ.get(name) for name in ("HOME", "TMPDIR", "BENCH_CANARY")}
    folder = tempfile.mkdtemp(prefix="rewindbox-real-")
    try:
        home = os.path.join(folder, "home")
        for name in (".ssh/id_ed25519", ".aws/credentials", ".bashrc", "Documents/letter.txt", "data.csv"):
            os.makedirs(os.path.dirname(os.path.join(home, name)), exist_ok=True)
            with open(os.path.join(home, name), "w", encoding="utf-8") as file:
                file.write(f"{_SECRET}\n")
            os.chmod(os.path.join(home, name), 0o666)
        os.mkdir(os.path.join(home, "tmp"))
        os.environ |= {"HOME": home, "TMPDIR": os.path.join(home, "tmp"), "BENCH_CANARY": _SECRET}
        tempfile.tempdir = None
        with subprocess.Popen(["sleep", "infinity"]) as process:
            try:
                yield home, folder
            finally:
                process.kill()
    finally:
        for name, value in kept.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        tempfile.tempdir = None
        shutil.rmtree(folder, ignore_errors=True)


async def _run_all(chosen: Sequence[tuple[str, str]], store: str, tally: Tally) -> list[str]:
    """Run them all; what is wrong with the store afterwards, in words."""
    limiter, started = anyio.CapacityLimiter(AT_ONCE), time.perf_counter()
    async with AsyncRewindbox(store, limits=LIMITS) as box:
        async with anyio.create_task_group() as group:
            for name, text in chosen:
                await limiter.acquire_on_behalf_of(name)
                group.start_soon(_run_one, box, name, text, tally, limiter)
                report.progress(tally.answers, len(chosen), "answers")
        report.progress(tally.answers, len(chosen), "answers")
        tally.wall_s = time.perf_counter() - started
        return [*await _history_problems(box, tally), *_folder_problems(os.path.join(store, "vms"))]


async def _run_one(box: AsyncRewindbox, name: str, text: str, tally: Tally, limiter: anyio.CapacityLimiter) -> None:
    try:
        await _run_answer(box, name, text, tally)
    except BadRequest as error:
        tally.refused[_general(str(error))] += 1
    except Exception:
        tally.crashes.append(f"{name}: {traceback.format_exc()}")
    finally:
        tally.answers += 1
        limiter.release_on_behalf_of(name)


async def _run_answer(box: AsyncRewindbox, name: str, text: str, tally: Tally) -> None:
    running = 0

    def on_decision(number: int, decision: Any) -> None:
        nonlocal running
        running = number
        tally.blocks += 1
        if decision.skipped is not None:
            tally.skipped[decision.skipped] += 1

    vm = await box.vm()
    try:
        async for execution in box.run(
            text, vm, on_failure="continue", limits=LIMITS, agent_id="real", on_decision=on_decision
        ):
            _note(tally, name, running, execution)
    finally:
        await vm.remove()


def _note(tally: Tally, name: str, number: int, execution: Execution) -> None:
    why = cause(execution)
    tally.executions.append(execution.id)
    tally.causes[why] += 1
    tally.languages[execution.language] += 1
    tally.seconds.append(execution.wall_s)
    if _SECRET in execution.stdout + execution.stderr:
        tally.leaks.append(f"{name} block {number}")
    if why != SUCCEEDED:
        tally.failures.append(
            {
                "answer": name,
                "block": number,
                "language": execution.language,
                "cause": why,
                "exit_code": execution.exit_code,
                "error": execution.error,
                "wall_s": round(execution.wall_s, 3),
                "stderr": execution.stderr[-500:],
            }
        )


async def _history_problems(box: AsyncRewindbox, tally: Tally) -> list[str]:
    page = await box.history(limit=None)
    missing = set(tally.executions) - {execution.id for execution in page.entries}
    found = [f"history has {page.total} executions, and {len(tally.executions)} were run"]
    return [
        *(found if page.total != len(tally.executions) else []),
        *(f"not in history: {name}" for name in sorted(missing)),
        *await box.verify(),
        *(f"vm not removed: {record.name}" for record in await box.vms()),
    ]


def _folder_problems(folder: str) -> list[str]:
    """What is left of the vms; the part that all vms share stays for the next one."""
    if not os.path.isdir(folder):  # no answer had anything to run
        return []
    return [f"left in the folder of vms: {name}" for name in os.listdir(folder) if not name.startswith("base-")]


def _general(text: str) -> str:
    """A message without its numbers, so that like counts with like."""
    return " ".join("N" if word.strip(",.").isdigit() else word for word in text.split())


def _figures(tally: Tally) -> dict[str, Any]:
    return {
        "answers": tally.answers,
        "blocks": tally.blocks,
        "run": len(tally.executions),
        "languages": dict(tally.languages.most_common()),
        "succeeded": tally.causes[SUCCEEDED],
        "failed": {name: count for name, count in tally.causes.most_common() if name != SUCCEEDED},
        "skipped": dict(tally.skipped.most_common()),
        "refused": dict(tally.refused.most_common()),
        "wall_s": round(tally.wall_s, 2),
        "block_median_ms": round(statistics.median(tally.seconds) * 1e3, 2) if tally.seconds else None,
        "block_sum_s": round(sum(tally.seconds), 2),
        "crashes": tally.crashes,
        "leaks": tally.leaks,
        "failures": tally.failures,
    }


def _show(found: dict[str, Any]) -> None:
    for name, value in found["header"].items():
        print(f"{name}: {value}")
    median = f"{found['block_median_ms']} ms" if found["run"] else ""
    lines: list[tuple[str, str]] = [
        ("answers", f"{found['answers']} in {found['wall_s']} s, {AT_ONCE} at a time"),
        *((f"  refused: {why}", str(count)) for why, count in found["refused"].items()),
        ("blocks found", str(found["blocks"])),
        *((f"  skipped: {why}", str(count)) for why, count in found["skipped"].items()),
        ("blocks run", f"{found['run']} in {found['block_sum_s']} s, median {median}"),
        *((f"  in {language}", str(count)) for language, count in found["languages"].items()),
        ("succeeded", str(found["succeeded"])),
        ("failed", str(sum(found["failed"].values()))),
        *((f"  {why}", str(count)) for why, count in found["failed"].items()),
        ("crashes of the library", str(len(found["crashes"]))),
        ("blocks that wrote our secret", str(len(found["leaks"]))),
        ("store: history, chain, folder of vms", "all well" if not found["store"] else "see below"),
        ("host", "untouched" if not found["host"]["differences"] else "see below"),
        ("  until the last process was gone", f"{found['host']['settled_ms']} ms"),
        *((f"  {what}", f"{count} compared") for what, count in found["host"]["looked_at"].items()),
    ]
    print("\n" + "\n".join(report.columns(lines)))
    for problem in (*found["crashes"], *found["leaks"], *found["store"], *found["host"]["differences"]):
        print(f"\nnot well: {problem}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.real", description=__doc__)
    parser.add_argument("--count", type=int, default=300, metavar="N", help="answers to run (default: 300)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which ones (default: 1)")
    parser.add_argument("--json", metavar="FILE", help="write the figures and every failure there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
