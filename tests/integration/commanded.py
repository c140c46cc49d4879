"""The command line as a process on a store of its own, and what its tests have in common."""

import json
import os
import pty
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import rewindbox
import skeletons
from conftest import PATIENCE_S, remove

ROOT = Path(rewindbox.__file__).parents[1]
ANSWER = Path(__file__).parents[2] / "examples" / "answer.md"
COMMAND = (sys.executable, "-W", "error", "-m", "rewindbox")
FENCE = "```"


class Cli:
    """The command line on one store."""

    def __init__(self, store: Path) -> None:
        self.store = store

    def environment(self, **more: str) -> dict[str, str]:
        plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LC_ALL")}
        plain |= {"PYTHONPATH": str(ROOT), "REWINDBOX_STORE": str(self.store), "LANG": "C.UTF-8", "TERM": "xterm"}
        return plain | more

    def __call__(self, *words: str, text: bytes | str = b"", **more: str) -> subprocess.CompletedProcess[bytes]:
        data = text.encode() if isinstance(text, str) else text
        return subprocess.run(
            [*COMMAND, *words],
            input=data,
            capture_output=True,
            env=self.environment(**more),
            timeout=PATIENCE_S,
            check=False,
        )

    def good(self, *words: str, text: bytes | str = b"", **more: str) -> str:
        done = self(*words, text=text, **more)
        assert (done.returncode, done.stderr) == (0, b""), done
        return done.stdout.decode()

    def json(self, *words: str, text: bytes | str = b"", code: int = 0) -> dict:
        done = self(*words, "--json", text=text)
        assert (done.returncode, done.stderr) == (code, b""), done
        return json.loads(done.stdout)

    def start(self, *words: str, **options) -> "subprocess.Popen[bytes]":
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*COMMAND, *words], env=self.environment(), **streams | options)

    def on_terminal(self, *words: str, columns: int = 100, code: int = 0, **more: str) -> str:
        """Everything that a terminal is sent."""
        ours, theirs = pty.openpty()
        environment = self.environment(COLUMNS=str(columns), **more)
        process = subprocess.Popen(
            [*COMMAND, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 65536):
                shown += data
        except OSError:  # EIO: the last one who had the terminal has gone
            pass
        os.close(ours)
        assert process.wait(PATIENCE_S) == code, shown.decode()
        return shown.decode().replace("\r\n", "\n")


def fresh(tmp_path: Path) -> Iterator[Cli]:
    """A fixture: a store of its own."""
    yield Cli(skeletons.lend(tmp_path / "store" / "vms").parent)
    remove(tmp_path / "store")


def once_used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """A fixture: a store with a vm that was used; tests only ask it for what it must refuse, or read."""
    folder = tmp_path_factory.mktemp("used")
    made = Cli(skeletons.lend(folder / "store" / "vms").parent)
    made.good("exec", "bash", "echo out; echo made > file")
    made("exec", "--vm", "other", "bash", "echo bad >&2; exit 3")
    yield made
    remove(folder / "store")


def block(language: str, code: str) -> str:
    return f"{FENCE}{language}\n{code}\n{FENCE}\n"


def plain(shown: str) -> str:
    """What a terminal shows, without our own colours."""
    return re.sub(r"\x1b\[[0-9;]*[mK]", "", shown)


def plain_colours(shown: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", shown)


class Holding:
    """A store for a test that takes no fixture."""

    def __enter__(self) -> Cli:
        self._folder = Path(tempfile.mkdtemp())
        return Cli(skeletons.lend(self._folder / "store" / "vms").parent)

    def __exit__(self, *_: object) -> None:
        remove(self._folder / "store")
        self._folder.rmdir()
