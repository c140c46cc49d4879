"""`rewindbox run` as a process: what a pipe gets of an answer, and of its document."""

import json
import re

import pytest
from commanded import ANSWER, Cli, block, fresh

from rewindbox.backends.namespace.orders import find_program

cli = pytest.fixture(fresh)


def test_run_in_a_pipe(cli: Cli) -> None:
    """Each block starts, writes and ends on lines with its number; prose is not run."""
    text = "Do it:\n" + block("bash", "echo one; echo two >&2") + block("text", "no") + block("py", "print(3, end='')")
    shown = cli.good("run", text=text).splitlines()
    assert (shown[0], sorted(shown[1:3])) == ("[1] bash", ["[1] ! two", "[1] | one"])
    assert re.fullmatch(r"\[1\] bash: exit 0, [\d.]+ s, ex_\w+", shown[3])
    assert shown[4] == "[2] text: skipped, text is not run"
    assert shown[5:7] == ["[3] python", "[3] | 3"]
    assert re.fullmatch(r"vm default \(vm_\w+\): 3 blocks, 2 run, 0 failed, 0 rolled back, 1 skipped", shown[-1])


def test_run_stops_at_a_failure(cli: Cli) -> None:
    """By default no block after the first that fails is run; it says so of each, and exits with 1."""
    done = cli("run", text=block("bash", "exit 4") + block("bash", "echo never"))
    assert done.returncode == 1
    assert b"exit 4" in done.stdout
    assert b"[2] bash: skipped, block 1 failed" in done.stdout
    assert b"never" not in done.stdout


def test_run_continues_on_request(cli: Cli) -> None:
    """--on-failure continue: the blocks after a failure run on the files it left."""
    text = block("bash", "echo left > file; exit 4") + block("bash", "cat file")
    done = cli("run", "--on-failure", "continue", text=text)
    assert done.returncode == 1
    assert b"[2] | left" in done.stdout


def test_the_example(cli: Cli) -> None:
    """examples/answer.md: a block destroys the files and fails, it is undone, and the blocks after it succeed."""
    done = cli("run", str(ANSWER), "--vm", "demo", "--on-failure", "rollback")
    lines = done.stdout.decode().splitlines()
    assert (done.returncode, done.stderr) == (1, b"")
    ends = [line for line in lines if ": exit" in line or ": skipped" in line]
    assert [re.sub(r", .*", "", line) for line in ends[:5]] == [
        "[1] python: exit 0",
        "[2] bash: exit 0",
        "[3] bash: exit 1",
        "[4] python: exit 0",
        "[5] text: skipped",
    ]
    assert ends[2].endswith("rolled back to before block 3")
    if find_program("node"):
        assert ends[5].startswith("[6] javascript: exit 0")
    else:
        assert ends[5] == "[6] javascript: skipped, no node on this host; install nodejs"


def test_run_json(cli: Cli) -> None:
    """One object: the vm, every execution, every block with why it was skipped, and whether all went well."""
    text = block("bash", "echo a") + block("text", "b") + block("bash", "exit 1") + block("bash", "echo c")
    value = cli.json("run", text=text, code=1)
    assert set(value) == {"vm_id", "executions", "blocks", "ok"}
    assert [entry["stdout"] for entry in value["executions"]] == ["a\n", ""]
    assert value["ok"] is False
    assert value["blocks"] == [
        {"number": 1, "language": "bash", "skipped": None, "path": None},
        {"number": 2, "language": "text", "skipped": "text is not run", "path": None},
        {"number": 3, "language": "bash", "skipped": None, "path": None},
        {"number": 4, "language": "bash", "skipped": "block 3 failed", "path": None},
    ]


def test_history_is_exported(cli: Cli) -> None:
    """A line of JSON for each execution, oldest first, as `history --json` has it; it takes no filter."""
    cli.good("exec", "bash", "echo a")
    cli("exec", "bash", "echo b; exit 1")
    lines = [json.loads(line) for line in cli.good("history", "--export").splitlines()]
    assert [entry["stdout"] for entry in lines] == ["a\n", "b\n"]
    entries = cli.json("history")["entries"]
    assert [{**entry, "live": False} for entry in lines] == entries[::-1]
    assert b"--export with --vm" in cli("history", "--export", "--vm", "x").stderr


def test_run_quiet(cli: Cli) -> None:
    """-q: the output of the blocks and nothing else."""
    assert cli.good("run", "-q", text=block("bash", "echo a") + block("bash", "echo b")) == "a\nb\n"


def test_run_without_blocks(cli: Cli) -> None:
    """A text without code is no failure, and is said to be one."""
    done = cli("run", text="Nothing to do.")
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"no code blocks" in done.stderr


def test_run_obeys_threshold_and_limits(cli: Cli) -> None:
    """--threshold skips what is not meant to be run; limit flags bound each block."""
    assert b"confidence" in cli("run", "--threshold", "1", text=block("bash", "echo a")).stdout
    wanted = ("run", "--threshold", "0.6", "--request", "please run it")
    assert b"confidence" not in cli(*wanted, text=block("bash", "echo a")).stdout
    assert b"confidence" in cli(*wanted[:-1], "do not run it", text=block("bash", "echo a")).stdout
    done = cli("run", "--output", "1000", text=block("bash", "yes"))
    assert done.returncode == 1
    assert b"output limit" in done.stdout


def test_endless_output_ends(cli: Cli) -> None:
    """More output than allowed ends the code; what fits is passed on."""
    done = cli("exec", "bash", "yes", "--output", "5000")
    assert done.returncode == 1
    assert done.stdout == b"y\n" * 2500


def test_timeout(cli: Cli) -> None:
    """--timeout ends the code; in a pipe nothing is added to what it wrote."""
    done = cli("exec", "bash", "echo a; sleep 600", "--timeout", "0.3")
    assert (done.returncode, done.stdout, done.stderr) == (1, b"a\n", b"")
    assert cli.json("history")["entries"][0]["ended"] == "timeout"
    assert cli.json("history", "--language", "bash", "--ended", "timeout")["total"] == 1
    assert cli.json("history", "--ended", "exit")["total"] == 0
    assert cli.json("history", "--language", "python")["total"] == 0
    assert b"give one of exit, signal" in cli("history", "--ended", "exi").stderr
