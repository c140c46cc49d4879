"""Programs that are run on both sides, made ready: HumanEvalPack, the bash track of Exercism, and those of every day.

Each is run by one of the language table's programs from an empty folder that has its `files`. Nothing here runs
anything. Folder of the data: `REWINDBOX_TEST_DATA`; what people do every day is in `everyday/` here.
"""

import gzip
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HUMANEVALPACK = "exec-humanevalpack/{}.jsonl.gz"
EXERCISM = "exec-exercism-bash/exercises.jsonl.gz"
EVERYDAY = Path(__file__).parent / "everyday"
"""A file for each language; a line `#### NAME NEEDS...` stands before each program."""
_HEADINGS = re.compile(r"^#### (.+)\n", re.MULTILINE)
_CRATES = re.compile(r"^use (rand::Rng|regex::Regex|md5);$", re.MULTILINE)
"""Stand in every rust task and are needed by six of 164; rustc alone has no crates."""
_RUST = "rustc --edition 2021 --test -o program program.rs && ./program --test-threads=1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """One program of a set."""

    set: str
    language: str
    """What it is written in."""
    variant: str
    name: str
    runs_as: str
    """The language of the table that runs `code`: rust's tests need a compiler's option, so bash calls it."""
    code: str = field(repr=False)
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    cpu_s: float = 300.0
    """Processor time after which a loop is held to be endless: the same on any machine, however busy."""
    needs: tuple[str, ...] = ()
    """Programs that must be on the path."""
    told_by: str = ""
    """What it writes to stderr when a test fails although it exits with 0."""

    @property
    def group(self) -> tuple[str, str, str]:
        """What it is counted with."""
        return self.set, self.language, self.variant


def programs(root: str | None) -> list[Program] | None:
    """All of them, always in the same order; None: the data is not there."""
    names = [EXERCISM, *(HUMANEVALPACK.format(name) for name in ("python", "js", "rust"))]
    if not root or not all(os.path.exists(os.path.join(root, name)) for name in names):
        return None
    found = [_task(task, "python", v) for task in _lines(root, names[1]) for v in ("canonical", "buggy")]
    found += [_task(task, "javascript", v) for task in _lines(root, names[2]) for v in ("canonical", "buggy")]
    found += [_task(task, "rust", v) for task in _lines(root, names[3]) for v in ("canonical", "buggy")]
    found += [_exercise(exercise, v) for exercise in _lines(root, EXERCISM) for v in ("example", "stub")]
    return found + everyday()


def everyday() -> list[Program]:
    """What real programs do with files, processes, sockets, terminals and signals, and how they end."""
    found = []
    for path in sorted(EVERYDAY.glob("*.txt")):
        _, *parts = _HEADINGS.split(path.read_text(encoding="utf-8"))
        found += [_habit(path.stem, *pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
    return found


def _habit(language: str, heading: str, code: str) -> Program:
    name, *needs = heading.split()
    return Program(
        set="everyday",
        language=language,
        variant="whole",
        name=name,
        runs_as=language,
        code=f"mkdir w && cd w\n{code}" if language == "bash" else code,  # outside the program itself is in the folder
        needs=({"python": "python3", "javascript": "node"}.get(language, language), *needs),
    )


def _lines(root: str, name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(os.path.join(root, name), "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _task(task: Mapping[str, str], language: str, variant: str) -> Program:
    text = f"{task['prompt']}{task[f'{variant}_solution']}\n{task['test']}\n"
    is_rust = language == "rust"
    return Program(
        set="HumanEvalPack",
        language=language,
        variant=variant,
        name=task["task_id"],
        runs_as="bash" if is_rust else language,
        code=_RUST if is_rust else text,
        files={"program.rs": _CRATES.sub("", text)} if is_rust else {},
        cpu_s=300.0 if is_rust else 10.0,
        needs={"python": ("python3",), "javascript": ("node",), "rust": ("bash", "rustc", "cc")}[language],
        told_by="Assertion failed" if language == "javascript" else "",
    )


def _exercise(exercise: Mapping[str, Any], variant: str) -> Program:
    """Its tests, all of them, against the example, or against what a student finds at the start."""
    files = {name: text for name, text in exercise["files"].items() if not name.startswith(".")}
    (solution,), (tests,) = (
        json.loads(exercise["files"][".meta/config.json"])["files"][k] for k in ("solution", "test")
    )
    if variant == "example":
        files[solution] = exercise["files"][".meta/example.sh"]
    return Program(
        set="Exercism",
        language="bash",
        variant=variant,
        name=exercise["exercise"],
        runs_as="bash",
        code=f"export BATS_RUN_SKIPPED=true\nexec bats --tap {tests}\n",
        files=files,
        needs=("bash", "bats"),
    )
