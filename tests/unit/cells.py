"""What runs blocks as in a notebook, one after another, for tests: those of a test in a process of their own."""

import json
import marshal
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2] / "src/rewindbox/backends/namespace/notebook.py"

# Forks a child for each line of input, which runs the blocks in that line. A child calls functions of C only after
# the first block: the blocks may break everything else.
TEMPLATE = """
import importlib, marshal, os, signal, sys

sys.path[:0] = sys.argv[1].split(":")
for name in sys.argv[2].split():
    importlib.import_module(name)
from notebook import Notebook


def run_all(blocks, file):
    signal.alarm(20)
    streams = [os.memfd_create("out"), os.memfd_create("err")]
    os.dup2(streams[0], 1)
    os.dup2(streams[1], 2)
    results, numbers = [], [str(number) for number in range(1, len(blocks) + 1)]
    run, pread, lseek, truncate = Notebook().run, os.pread, os.lseek, os.ftruncate
    write, end, dumps = os.write, os._exit, marshal.dumps
    for number, block in zip(numbers, blocks):
        bundles = []
        code = run(block, number, bundles.append)
        written = []
        for stream in streams:
            written.append(pread(stream, 10_000_000, 0))
            truncate(stream, 0)
            lseek(stream, 0, 0)
        results.append((code, written, bundles))
    write(file, dumps(results))
    end(0)


answers = os.fdopen(os.dup(1), "wb")
while line := sys.stdin.buffer.readline():
    file = os.memfd_create("results")
    if (pid := os.fork()) == 0:
        run_all(eval(line), file)
    status = os.waitpid(pid, 0)[1]
    marshal.dump((status, os.pread(file, 1 << 26, 0)), answers)
    answers.flush()
    os.close(file)
"""
PYPLOT = """
from matplotlib.figure import Figure
opened = {}
current = None

def figure(number=None):
    if number not in opened:
        number = len(opened) + 1
        opened[number] = Figure(number)
    return opened[number]

def get_fignums():
    return list(opened)

def close(which=None):
    assert which == "all"
    opened.clear()

def show():
    raise AssertionError("not replaced")
"""
FIGURE = """
class Figure:
    def __init__(self, number):
        self.number = number
        self.fails = False

    def __repr__(self):
        return f"<Figure {self.number}>"

    def savefig(self, file, format, bbox_inches):
        if self.fails:
            raise ValueError("cannot be drawn")
        file.write(format.encode() + b"%d" % self.number)
"""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How one block ended."""

    code: int
    out: str
    err: str
    bundles: list[dict[str, Any]]
    lines: list[bytes]

    @property
    def told(self) -> str:
        """Its standard error, without the lines that only underline: versions of Python differ in these."""
        return "".join(line for line in self.err.splitlines(keepends=True) if line.strip(" ~^\n"))

    @property
    def text(self) -> str:
        """The only bundle, if it is the result, as text."""
        (bundle,) = self.bundles
        assert bundle["kind"] == "result"
        text: str = bundle["data"]["text/plain"]
        return text

    @property
    def forms(self) -> dict[str, Any]:
        """All forms of the only bundle but text."""
        (bundle,) = self.bundles
        return {mime: form for mime, form in bundle["data"].items() if mime != "text/plain"}


Run = Callable[..., list[Ended]]


def start(folders: list[Path], *modules: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", TEMPLATE, ":".join(map(str, folders)), " ".join(modules)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def run_in(template: "subprocess.Popen[bytes]", *blocks: str) -> list[Ended]:
    assert template.stdin is not None and template.stdout is not None
    template.stdin.write(repr([textwrap.dedent(block) for block in blocks]).encode() + b"\n")
    template.stdin.flush()
    status, results = marshal.load(template.stdout)
    assert status == 0, f"the process of the blocks ended with status {status}"
    return [
        Ended(code=code, out=out.decode(), err=err.decode(), bundles=[json.loads(line) for line in lines], lines=lines)
        for code, (out, err), lines in marshal.loads(results)
    ]


def folder_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fixture: a folder with notebook.py, as it lies in a vm."""
    folder = tmp_path_factory.mktemp("alone")
    shutil.copy(SOURCE, folder)
    return folder


def python(folder: Path, code: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)


def runner(*arguments: Any) -> Iterator[Run]:
    with start(*arguments) as template:
        yield lambda *blocks: run_in(template, *blocks)
        assert template.stdin is not None
        template.stdin.close()


def run_loaded(alone: Path) -> Iterator[Run]:
    """A fixture: runs these blocks in a process of their own, with the modules that blocks load sooner or later."""
    yield from runner([alone], "asyncio", "inspect", "json", "traceback")


def run_unloaded(alone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A fixture: as `run`, in a process that has imported next to nothing, and finds a made-up matplotlib."""
    package = tmp_path_factory.mktemp("fakes") / "matplotlib"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "pyplot.py").write_text(PYPLOT)
    (package / "figure.py").write_text(FIGURE)
    yield from runner([alone, package.parent])
