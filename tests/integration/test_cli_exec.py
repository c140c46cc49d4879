"""`rewindbox exec` as a process: what a pipe gets, and how a command ends that is interrupted or that nobody reads."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from commanded import Cli, Holding, block, fresh, once_used

from conftest import until

cli = pytest.fixture(fresh)
used = pytest.fixture(scope="module")(once_used)


def test_exec_writes_what_the_code_writes_and_nothing_else(cli: Cli) -> None:
    """In a pipe: the code's bytes, on the stream it wrote them to, unchanged."""
    done = cli("exec", "bash", r"printf 'a\x1b[31m\xff\r\nb'; printf 'c\x07' >&2")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a\x1b[31m\xff\r\nb", b"c\x07")


def test_exec_takes_code_from_standard_input(cli: Cli) -> None:
    """Without CODE, and with `-`, the code is what standard input has."""
    assert cli.good("exec", "python", text="print('é')") == "é\n"
    assert cli.good("exec", "python", "-", text="print(2)") == "2\n"


def test_exec_gives_environment_folder_and_input(cli: Cli, tmp_path: Path) -> None:
    """--env, --workdir and --stdin reach the code."""
    (tmp_path / "input").write_bytes(b"from a file")
    words = ("--env", "A=1", "--env", "B=x=y", "--workdir", "/tmp", "--stdin", str(tmp_path / "input"))
    assert cli.good("exec", *words, "bash", 'echo "$A $B $PWD"; cat') == "1 x=y /tmp\nfrom a file"
    assert cli.good("exec", "bash", "cat", "--stdin", "-", text="from a pipe") == "from a pipe"


def test_exec_keeps_the_vm(cli: Cli) -> None:
    """Without --vm all is run in the vm `default`, and files stay."""
    cli.good("exec", "bash", "echo kept > file")
    assert cli.good("exec", "bash", "cat file", "--vm", "default") == "kept\n"
    assert cli("exec", "bash", "cat file", "--vm", "another").returncode == 1


def test_exec_undoes_a_failure(cli: Cli) -> None:
    """--on-failure rollback: files are as before the code that failed."""
    assert cli("exec", "bash", "echo made > file; exit 5", "--on-failure", "rollback").returncode == 1
    assert cli("exec", "bash", "cat file").returncode == 1


def test_exec_streams(cli: Cli) -> None:
    """The first line is there while the program still runs."""
    process = cli.start("exec", "bash", "echo first; sleep 600")
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)


def test_exec_json(cli: Cli) -> None:
    """One document with everything about the execution; its code's exit code is in it, ours is 1."""
    entry = cli.json("exec", "bash", "echo out; echo err >&2; exit 7", code=1)
    assert entry["id"].startswith("ex_") and entry["vm_id"].startswith("vm_")
    shown = {name: entry[name] for name in ("language", "exit_code", "ended", "success", "stdout", "stderr")}
    assert shown == {
        "language": "bash",
        "exit_code": 7,
        "ended": "exit",
        "success": False,
        "stdout": "out\n",
        "stderr": "err\n",
    }
    assert set(entry) == set(json.loads(cli("show", entry["id"], "--json").stdout))


def test_exec_is_light() -> None:
    """`exec` loads neither pydantic nor rich nor the Markdown parser: starting costs less than running."""
    code = (
        "import sys, os; os._exit = lambda code: None\n"
        "from rewindbox import cli; code = cli.run(['exec', 'bash', 'true'])\n"
        "heavy = {'pydantic', 'rich', 'markdown_it', 'typer'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else code)"
    )
    with Holding() as cli:
        done = subprocess.run([sys.executable, "-c", code], env=cli.environment(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("words", [("vms", "list"), ("history",), ("config", "show"), ("verify",)])
def test_looking_is_light(used: Cli, words: tuple[str, ...]) -> None:
    """Commands that look load neither pydantic nor, in a pipe, rich."""
    code = (
        f"import sys; from rewindbox import cli; code = cli.run({list(words)!r})\n"
        "heavy = {'pydantic', 'rich', 'markdown_it'} & set(sys.modules); sys.exit(str(heavy) if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=used.environment(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(cli: Cli, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM: the code is stopped, recorded as killed and named; the vm is kept with its files."""
    with cli.start("exec", "bash", "echo kept > file; echo ready; sleep 600") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        said = process.stderr.read().decode()
    assert process.returncode == 128 + number
    entry = cli.json("history")["entries"][0]
    assert (entry["ended"], entry["stdout"], entry["rolled_back_to"]) == ("killed", "ready\n", None)
    assert entry["after"] is not None
    assert entry["id"] in said and said.count("\n") == 1
    assert cli.good("exec", "bash", "cat file") == "kept\n"


def test_run_interrupted_json(cli: Cli) -> None:
    """What ran before Ctrl-C is in the document, with the reason for its end."""
    text = block("bash", "echo a") + block("bash", "echo b; sleep 600")
    path = cli.store.parent / "answer.md"
    path.write_text(text)
    with cli.start("run", str(path), "--json") as process:
        until(lambda: b'"running"' in running(cli), "the second block runs")
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        value = json.loads(process.stdout.read())
    assert process.returncode == 130
    assert value["error"]["code"] == "interrupted"
    assert [entry["stdout"] for entry in value["executions"]] == ["a\n"]


def running(cli: Cli) -> bytes:
    """Whether a second execution has begun; the store is read as SQLite, beside the command."""

    path = cli.store / "history.db"
    if not path.exists():
        return b""
    with closing(sqlite3.connect(path, timeout=30)) as db:
        try:
            begun = db.execute("select count(*) from starts").fetchone()[0]
            return b'"running"' if begun == 2 and db.execute("select count(*) from running").fetchone()[0] else b""
        except sqlite3.OperationalError:  # its tables are not there yet
            return b""


def test_broken_pipe(cli: Cli) -> None:
    """When nobody reads any more, the code is stopped, without a word."""
    with cli.start("exec", "bash", "yes", "--output", "100000000") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
    assert cli.json("history")["entries"][0]["ended"] == "killed"


def test_looking_into_a_closed_pipe(used: Cli) -> None:
    """`history | head` ends without a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    with used.start("history", stdout=writer) as process:
        os.close(writer)
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_full_disk(used: Cli) -> None:
    """Output that cannot be written is an error with its reason, not a traceback."""
    with open("/dev/full", "wb") as full, used.start("history", stdout=full) as process:
        assert process.stderr is not None
        assert b"No space left" in process.stderr.read()
    assert process.returncode == 4


def test_closed_streams(cli: Cli) -> None:
    """A command that was given no standard streams works, and writes into no file of the store."""
    script = f"exec {sys.executable} -m rewindbox exec bash 'echo hi; echo ho >&2' <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", script], env=cli.environment(), check=False).returncode == 0
    assert cli.json("verify")["ok"] is True


def test_two_on_one_vm(cli: Cli) -> None:
    """A second process on the same vm is told who has it, and exits with 2; the first goes on."""
    with cli.start("exec", "bash", "echo ready; sleep 600") as process:
        assert process.stdout is not None
        process.stdout.readline()
        done = cli("exec", "bash", "true")
        assert done.returncode == 2
        assert str(process.pid).encode() in done.stderr
        assert cli.json("exec", "bash", "true", code=2)["error"]["code"] == "vm_busy"
        assert cli.json("vms", "list")["vms"][0]["in_use_by"] == process.pid
        assert cli("exec", "--vm", "other", "bash", "true").returncode == 0
        process.send_signal(signal.SIGTERM)


def test_vms_stop(cli: Cli) -> None:
    """`vms stop` ends the command that uses the vm, as SIGTERM does; on a vm not in use it does nothing."""
    with cli.start("exec", "bash", "echo ready; sleep 600") as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert cli.json("vms", "stop", "default")["stopped"] is True
    assert process.returncode == 143
    assert cli.json("vms", "stop", "default")["stopped"] is False
    assert cli.json("history")["entries"][0]["ended"] == "killed"
