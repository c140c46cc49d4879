"""The command line as a process: what a pipe gets, what a terminal is shown, how each command ends."""

import json
import os
import pty
import re
import select
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import rewindbox
from conftest import PATIENCE_S, remove, until
from rewindbox.backends.namespace.orders import find_program
from rewindbox.languages import LANGUAGES

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


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """A store of its own."""
    yield Cli(tmp_path / "store")
    remove(tmp_path / "store")


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """A store with a vm that was used; tests only ask it for what it must refuse, or read."""
    folder = tmp_path_factory.mktemp("used")
    made = Cli(folder / "store")
    made.good("exec", "bash", "echo out; echo made > file")
    made("exec", "--vm", "other", "bash", "echo bad >&2; exit 3")
    yield made
    remove(folder / "store")


def block(language: str, code: str) -> str:
    return f"{FENCE}{language}\n{code}\n{FENCE}\n"


def plain(shown: str) -> str:
    """What a terminal shows, without our own colours."""
    return re.sub(r"\x1b\[[0-9;]*[mK]", "", shown)


# exec


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


class Holding:
    """A store for a test that takes no fixture."""

    def __enter__(self) -> Cli:
        import tempfile

        self._folder = Path(tempfile.mkdtemp())
        return Cli(self._folder / "store")

    def __exit__(self, *_: object) -> None:
        remove(self._folder)


@pytest.mark.parametrize("words", [("vms", "list"), ("history",), ("config", "show"), ("verify",)])
def test_looking_is_light(used: Cli, words: tuple[str, ...]) -> None:
    """Commands that look load neither pydantic nor, in a pipe, rich."""
    code = (
        f"import sys; from rewindbox import cli; code = cli.run({list(words)!r})\n"
        "heavy = {'pydantic', 'rich', 'markdown_it'} & set(sys.modules); sys.exit(str(heavy) if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=used.environment(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


# run


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


# interruption


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
    import sqlite3
    from contextlib import closing

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


# vms, files, going back


def test_vms(cli: Cli) -> None:
    """create, list, show and rm; in a pipe create says the id."""
    made = cli.good("vms", "create", "box").strip()
    assert re.fullmatch(r"vm_\w+", made)
    assert cli.json("vms", "create")["id"].startswith("vm_")
    assert cli.json("vms", "list")["vms"][0]["name"] == "box"
    assert cli.good("vms", "list").splitlines()[0].split("\t")[:2] == [made, "box"]
    shown = cli.json("vms", "show", "box")
    assert (shown["id"], shown["executions"], shown["snapshots"]) == (made, 0, 0)
    assert cli.json("vms", "create", "box", code=2)["error"]["code"] == "validation_failed"
    assert cli.json("vms", "rm", "box")["removed"] is True
    assert cli.json("vms", "show", "box", code=2)["error"]["code"] == "unknown_vm"


def test_cp(cli: Cli, tmp_path: Path) -> None:
    """Files go in and out unchanged, through standard streams too; folders take the file's name."""
    data = bytes(range(256)) * 1000
    (tmp_path / "data.bin").write_bytes(data)
    cli.good("cp", str(tmp_path / "data.bin"), "default:in/")
    cli.good("cp", "default:in/data.bin", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == data
    assert cli("cp", "default:in/data.bin", "-").stdout == data
    cli.good("cp", "-", "default:x", text="hi")
    (tmp_path / "out").mkdir()
    value = cli.json("cp", "default:x", str(tmp_path / "out"))
    assert (value["bytes"], value["target"]) == (2, str(tmp_path / "out" / "x"))
    assert (tmp_path / "out" / "x").read_bytes() == b"hi"


def test_cp_keeps_what_can_be_run(cli: Cli, tmp_path: Path) -> None:
    """A program can be run in the vm as well."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho works\n")
    script.chmod(0o755)
    cli.good("cp", str(script), "default:")
    assert cli.good("exec", "bash", "./script") == "works\n"


def test_snapshots_and_rollback(cli: Cli) -> None:
    """A vm goes back to a snapshot by name, to before an execution, to its last success; and forth again."""
    cli.good("exec", "bash", "echo 1 > file")
    made = cli.json("snapshot", "create", "default", "--name", "first")
    assert made["snapshot_id"].startswith("snap_") and (made["name"], made["kind"]) == ("first", "manual")
    second = cli.json("exec", "bash", "echo 2 > file")
    cli("exec", "bash", "echo 3 > file; exit 1")
    assert cli.json("rollback", "default", "--last-success")["reason"] == "manual"
    assert cli.good("exec", "bash", "cat file") == "2\n"
    undone = cli.json("rollback", "default", "first")
    assert cli("cp", "default:file", "-").stdout == b"1\n"
    cli.good("rollback", "default", undone["snapshot_id"])
    assert cli("cp", "default:file", "-").stdout == b"2\n"
    cli.good("rollback", "default", "--before", second["id"][:11])
    assert cli("cp", "default:file", "-").stdout == b"1\n"
    names = [entry["name"] for entry in cli.json("snapshot", "list", "default")["snapshots"]]
    assert "first" in names
    cli.good("snapshot", "rm", "default", "first")
    assert len(cli.good("snapshot", "list", "default").splitlines()) == len(names) - 1


# looking


def test_history_that_takes_long_says_so(cli: Cli) -> None:
    """A terminal is shown that time passes, and no trace is left; a pipe, --quiet, --json have what was asked for."""
    cli.good("exec", "bash", "echo found")
    words = ("history", "--search", "found")
    with closing(sqlite3.connect(cli.store / "history.db", isolation_level=None)) as other:
        other.execute("begin immediate")  # its index cannot be made meanwhile
        others = [cli.start(*words), cli.start(*words, "--quiet", stdout=subprocess.DEVNULL)]
        shown = plain_colours(cli.on_terminal(*words))
        quiet = cli.on_terminal(*words, "--json")
        other.execute("rollback")
    assert re.search(r"\r\x1b\[K  . \d\.\d s reading the history", shown)
    assert "reading" not in re.sub(r"\r\x1b\[K[^\r]*(?=\r\x1b\[K)", "", shown)
    assert "reading" not in quiet
    for process in others:
        assert (process.communicate(timeout=PATIENCE_S)[1], process.returncode) == (b"", 0)


def test_history(used: Cli) -> None:
    """Newest first; one line each in a pipe; filters; the total counts all that match."""
    page = used.json("history")
    assert [entry["exit_code"] for entry in page["entries"]] == [3, 0]
    assert page["total"] == 2
    fields = used.good("history").splitlines()[0].split("\t")
    assert (fields[0], fields[2:5]) == (page["entries"][0]["id"], ["other", "bash", "exit 3"])
    assert used.json("history", "--vm", "default")["total"] == 1
    assert [entry["exit_code"] for entry in used.json("history", "--failures")["entries"]] == [3]
    assert used.json("history", "--agent", "nobody") == {"entries": [], "total": 0, "note": None}
    assert used.json("history", "--limit", "1", "--offset", "1")["entries"][0]["exit_code"] == 0
    assert used.json("history", "--since", "1h")["total"] == 2
    assert used.json("history", "--until", "2h ago")["total"] == 0
    assert used.json("history", "--since", "2000-01-01", "--until", "2999-01-01T00:00:00Z")["total"] == 2
    assert used.good("history", "--agent", "nobody") == ""
    assert [entry["exit_code"] for entry in used.json("history", "--search", "ECHO Bad")["entries"]] == [3]
    assert used.json("history", "--search", 'NEAR("', "--since", "yesterday", "--until", "today")["total"] == 0
    assert used.json("history", "--since", "3 days ago", "--until", "now")["total"] == 2
    assert used.json("history", "--session", "none")["total"] == 0


def test_naive_dates_are_local(used: Cli) -> None:
    """A date without a zone is one of the clock on the wall."""
    from datetime import datetime

    started = used.json("history", "--limit", "1")["entries"][0]["started_at"]
    local = datetime.fromisoformat(started).astimezone().replace(tzinfo=None)
    assert used.json("history", "--since", local.isoformat())["total"] == 1


def test_show(used: Cli) -> None:
    """Everything about an execution, by a short id; its code and output in full."""
    entry = used.json("history", "--failures")["entries"][0]
    shown = used.good("show", entry["id"][:11])
    assert entry["id"] in shown and "exit 3" in shown and "echo bad >&2; exit 3" in shown
    assert shown.endswith("--- stderr, 4 bytes\nbad\n")


def test_config_show(cli: Cli) -> None:
    """Every setting in force and what said so, and where the file is looked for."""
    value = cli.json("config", "show")
    assert value["settings"]["store"] == str(cli.store)
    assert value["file_exists"] is False and value["file"].endswith("config.toml")
    shown = cli.good("config", "show", REWINDBOX_HISTORY_MAX_HISTORY_ENTRIES="7")
    assert "history.max_history_entries = 7\tenvironment\n" in shown
    assert "limits.wall_s = 30.0\tdefault\n" in shown
    assert value["origins"]["store"] == "environment" and value["origins"]["history.enabled"] == "default"
    assert not cli.store.exists()


def test_verify(cli: Cli) -> None:
    """A history that somebody edited is said to be so, with exit code 4."""
    import sqlite3
    from contextlib import closing

    cli.good("exec", "bash", "true")
    found = cli.json("verify")
    assert found == {"ok": True, "problems": [], "head": found["head"], "executions": 1}
    assert cli.good("verify") == f"The history is as it was written.\nexecutions  1\nhead        {found['head']}\n"
    assert cli.json("verify", "--expect", found["head"]) == found
    gone = f"{int(found['head'].split(':')[0]) + 1}:{'0' * 64}"
    assert "the newest entries were cut off" in cli.json("verify", "--expect", gone, code=4)["problems"][0]
    with closing(sqlite3.connect(cli.store / "history.db")) as db, db:
        triggers = [row[0] for row in db.execute("select name from sqlite_master where type = 'trigger'")]
        for name in triggers:
            db.execute(f"drop trigger {name}")
        db.execute("update starts set agent_id = 'somebody'")
    value = cli.json("verify", code=4)
    assert value["ok"] is False and value["problems"]


def test_version_and_help() -> None:
    """--version and --help need no store."""
    with Holding() as cli:
        assert cli.good("--version") == f"rewindbox {rewindbox.__version__}\n"
        assert "rollback" in cli.good("--help")
        assert "--timeout" in cli.good("exec", "--help")
        assert not cli.store.exists()


def test_global_flags_stand_anywhere(used: Cli) -> None:
    """--json and --store are accepted before and after the command."""
    for words in (("--json", "history"), ("history", "--json")):
        assert json.loads(used(*words).stdout)["total"] == 2
    elsewhere = Cli(Path("/nonexistent"))
    for words in (("--store", str(used.store), "history"), ("history", "--store", str(used.store))):
        assert len(elsewhere.good(*words).splitlines()) == 2


def test_words_after_options(used: Cli) -> None:
    """A word that may be missing is found after an option as well."""
    assert used.good("exec", "bash", "--timeout", "60", "echo hi") == "hi\n"
    assert used("rollback", "default", "--json", "ex_aaaaaa").returncode == 2


# what is refused

WRONG = {
    "usage: no command": ((), "usage"),
    "usage: unknown command": (("frobnicate",), "usage"),
    "usage: unknown flag": (("history", "--frobnicate"), "usage"),
    "usage: a word too many": (("exec", "bash", "true", "again"), "usage"),
    "usage: no number": (("history", "--limit", "many"), "usage"),
    "unknown language": (("exec", "cobol", "x"), "unsupported_language"),
    "empty code": (("exec", "bash", " "), "validation_failed"),
    "text over limit": (("exec", "bash", "x" * 20_000), "validation_failed"),
    "bad threshold": (("run", "--threshold", "2"), None),
    "limit of nothing": (("exec", "bash", "true", "--memory", "0"), None),
    "limit that is no number": (("exec", "bash", "true", "--timeout", "nan"), None),
    "environment without value": (("exec", "bash", "true", "--env", "A"), None),
    "code and input both from a pipe": (("exec", "bash", "--stdin", "-"), None),
    "no such file": (("run", "/nonexistent/answer.md"), None),
    "no such folder in the vm": (("exec", "bash", "true", "--workdir", "/nowhere"), "bad_request"),
    "unknown vm": (("vms", "show", "nope"), "unknown_vm"),
    "unknown vm by id": (("exec", "--vm", "vm_nopenope", "bash", "true"), "unknown_vm"),
    "vm name that is none": (("exec", "--vm", "../x", "bash", "true"), None),
    "unknown execution": (("show", "ex_nopenope"), "unknown_execution"),
    "no execution": (("show", "x"), "unknown_execution"),
    "unknown snapshot": (("rollback", "default", "nope"), "snapshot_not_found"),
    "execution instead of a snapshot": (("rollback", "default", "ex_nopenope"), None),
    "rollback to nowhere": (("rollback", "default"), None),
    "rollback to two places": (("rollback", "default", "x", "--last-success"), None),
    "nothing to copy into": (("cp", "a", "b"), None),
    "two vms": (("cp", "default:file", "other:file"), None),
    "no such file in the vm": (("cp", "default:nope", "-"), None),
    "file of a vm that is none": (("cp", "nope:file", "copy"), "unknown_vm"),
    "date that is none": (("history", "--since", "the day before"), None),
    "date out of range": (("history", "--until", "999999999w"), None),
    "head that is none": (("verify", "--expect", "12"), "invalid_argument"),
    "negative limit": (("history", "--limit", "-1"), None),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests(used: Cli, name: str) -> None:
    """What is wrong with the request: one line, exit code 2, nothing on standard output."""
    words, code = WRONG[name]
    done = used(*words)
    assert (done.returncode, done.stdout) == (2, b""), done
    assert done.stderr.startswith(b"rewindbox: ") and done.stderr.count(b"\n") == 1
    if code is not None:
        done = used(*words, "--json")
        value = json.loads(done.stdout)["error"]
        assert (done.returncode, done.stderr, value["code"]) == (2, b"", code)
        assert set(value) == {"code", "message", "remedy"}


def test_snapshot_of_another_vm(cli: Cli) -> None:
    """A vm cannot go to a state of another one."""
    cli.good("vms", "create", "other")
    made = cli.json("snapshot", "create", "other", "--name", "theirs")
    cli.good("vms", "create", "mine")
    for reference in (made["snapshot_id"], made["point_id"], "theirs"):
        assert cli.json("rollback", "mine", reference, code=2)["error"]["code"] == "snapshot_not_found"


@pytest.mark.parametrize("code", [b"echo a\0b", b"echo \xff"])
def test_code_that_is_no_text(used: Cli, code: bytes) -> None:
    """NUL and bytes that are not UTF-8 are refused before anything runs."""
    assert used("exec", "bash", text=code).returncode == 2


def test_refused(used: Cli) -> None:
    """A language that is not allowed is refused with 3, and the reason."""
    done = used("exec", "python", "print(1)", REWINDBOX_ALLOWED_LANGUAGES="bash")
    assert done.returncode == 3
    assert b"allowed_languages" in done.stderr


def test_languages(used: Cli) -> None:
    """Every language with whether it may run, and its program or what to install; a changed configuration shows."""
    shown = used("languages", REWINDBOX_ALLOWED_LANGUAGES="golang,bash").stdout.decode()
    rows = {row[0]: row[1:] for row in (line.split("\t") for line in shown.splitlines())}
    assert rows.keys() == LANGUAGES.keys()
    assert [name for name, row in rows.items() if row[0] == "allowed"] == ["bash", "go"]
    for name, row in rows.items():
        found = next(filter(None, map(find_program, LANGUAGES[name].programs)), None)
        assert row[1] == (found or f"(apt install {LANGUAGES[name].package})")
    told = json.loads(used("languages", "--json").stdout)["languages"]
    assert [row["name"] for row in told if row["allowed"]] == ["python", "javascript", "bash", "rust"]
    assert "c++" in next(row["aliases"] for row in told if row["name"] == "cpp")


def test_languages_of_the_configuration_file(used: Cli, tmp_path: Path) -> None:
    """A row of a user's is listed and shown; a wrong one is one line with key, value and remedy."""
    file = tmp_path / "config.toml"
    file.write_text('[languages.awk]\nextension = "awk"\nrun = ["awk", "-f", "{file}"]\n')
    assert b"\nawk\tnot allowed\t" in used("languages", REWINDBOX_CONFIG=str(file)).stdout
    settings = json.loads(used("config", "show", "--json", REWINDBOX_CONFIG=str(file)).stdout)["settings"]
    assert settings["languages"]["awk"]["run"] == ["awk", "-f", "{file}"]
    file.write_text('[languages.awk]\nextension = "awk"\nrun = ["awk"]\n')
    done = used("languages", REWINDBOX_CONFIG=str(file))
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"languages.awk.run" in done.stderr


def test_broken_store(tmp_path: Path) -> None:
    """A store that is none: exit code 4, one line."""
    (tmp_path / "file").write_text("")
    done = Cli(tmp_path / "file")("history")
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (4, b"", 1)


def test_bad_configuration(used: Cli) -> None:
    """A wrong setting is named, with exit code 2."""
    done = used("history", REWINDBOX_MAX_CODE_LENGTH="long")
    assert done.returncode == 2
    assert b"max_code_length" in done.stderr


def test_missing_toolchain_is_named(cli: Cli, tmp_path: Path) -> None:
    """A block whose language this host cannot run is skipped, and `exec` is refused, with what is missing."""
    file = tmp_path / "config.toml"
    row = 'extension = "x"\nrun = ["no-such-program", "{file}"]\npackage = "nothing"\n'
    file.write_text(f'allowed_languages = ["absent"]\n[languages.absent]\n{row}')
    shown = cli("run", text=block("absent", "x"), REWINDBOX_CONFIG=str(file))
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"no no-such-program on this host; install nothing" in shown.stdout
    refused = cli("exec", "absent", "x", REWINDBOX_CONFIG=str(file))
    assert refused.returncode == 2
    assert b"no-such-program is not on this host; install nothing, below /usr" in refused.stderr


# on a terminal


def test_terminal_is_safe(cli: Cli) -> None:
    """No control character that the code writes reaches a terminal; what it meant is spelled out."""
    code = r"printf 'a\tb\x1b]0;evil\x07\x9b31m\xc2\x9b\rX\xe2\x80\xae\n'; printf '\x1b[2J' >&2"
    shown = cli.on_terminal("exec", "--color", "never", "bash", code)
    assert "a\tb^[]0;evil^G\\x9b31m\\x9b\nX\\u202e\n" in shown and "^[[2J" in shown
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)
    entry = cli.json("history")["entries"][0]
    for words in (("show", entry["id"]), ("history",), ("exec", "bash", code, "--json")):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", cli.on_terminal(*words, "--color", "never"))
    text = cli.store.parent / "evil.md"
    text.write_text(block("bash", code))
    shown = re.sub(r"\r\x1b\[K", "", cli.on_terminal("run", str(text), "--color", "never"))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", plain(shown))


def test_terminal_output_that_is_cut_in_the_middle(cli: Cli) -> None:
    """A character that comes in two pieces is one character; a piece that never ends is spelled out."""
    code = r"import os; os.write(1, b'\xc3'); os.write(1, b'\xa9\xe2\x82')"
    assert "é\\xe2\\x82\n" in plain(cli.on_terminal("exec", "python", code))


def test_exec_on_a_terminal(cli: Cli) -> None:
    """A line at the end says how it went, what the code's exit code was and which execution it is."""
    shown = cli.on_terminal("exec", "bash", "printf unfinished; exit 3", code=1)
    assert re.search(r"unfinished\n✗ exit 3  [\d.]+ s  ex_\w{8}\n", plain(shown))
    assert "\x1b[31m" in shown
    assert "exit 3" not in cli.on_terminal("exec", "-q", "bash", "exit 3", code=1)


@pytest.mark.parametrize("columns", [60, 100])
def test_run_on_a_terminal(cli: Cli, columns: int) -> None:
    """Blocks as they run and a table at the end, with what was undone and how to go back; nothing is too wide."""
    shown = cli.on_terminal(
        "run", str(ANSWER), "--vm", "demo", "--on-failure", "rollback", code=1, columns=columns, NO_COLOR="1"
    )
    shown = shown.replace("\r\x1b[K", "\n")
    assert "\x1b" not in shown
    assert "▸ 3 bash" in shown and "✗ exit 1" in shown and "text is not run" in shown
    assert "↩ rolled back to before" in shown
    back = re.search(r"rewindbox rollback demo --before (ex_\w+)", shown)
    assert back is not None
    table = shown[shown.index("language") :].splitlines()
    assert all(len(line) <= columns for line in table)
    cli.good("rollback", "demo", "--before", back[1])


def test_run_shows_time_passing(cli: Cli) -> None:
    """While a block runs and says nothing, a terminal shows that time passes."""
    text = cli.store.parent / "slow.md"
    text.write_text(block("bash", "sleep 1"))
    assert re.search(r"\r\x1b\[K  . \d\.\d s", plain_colours(cli.on_terminal("run", str(text))))


def plain_colours(shown: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", shown)


def test_run_bounds_what_it_shows(cli: Cli) -> None:
    """A terminal gets the first lines of a long output, and how many more there are."""
    text = cli.store.parent / "long.md"
    text.write_text(block("bash", "seq 1000"))
    shown = plain(cli.on_terminal("run", str(text)))
    assert "│ 12\n" in shown and "│ 13\n" not in shown and "988 more lines" in shown


def test_tables_on_a_terminal(used: Cli) -> None:
    """history, vms list and snapshot list are tables; ids are cut to what `show` accepts."""
    shown = plain(used.on_terminal("history"))
    cut = re.search(r"(ex_\w{8}) +other +bash +✗ exit 3", shown)
    assert cut is not None
    assert "exit 3" in used.good("show", cut[1])
    assert "default" in used.on_terminal("vms", "list")
    assert "failure" in used.on_terminal("snapshot", "list", "other")
    assert "─" not in used.good("history") and "\x1b" not in used.good("history")


def test_colour(used: Cli) -> None:
    """NO_COLOR and --color never: none. --color always: in a pipe too."""
    assert "\x1b[" not in used.on_terminal("history", NO_COLOR="1")
    assert "\x1b[" not in used.on_terminal("history", "--color", "never")
    assert "\x1b[" in used.on_terminal("history")
    entry = used.json("history", "--limit", "1")["entries"][0]
    assert b"\x1b[" in used("--color", "always", "show", entry["id"]).stdout


@pytest.mark.parametrize("encoding", [{"LANG": "C"}, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}])
def test_ascii_terminal(used: Cli, encoding: dict[str, str]) -> None:
    """A terminal that has no UTF-8 gets ASCII, never a traceback."""
    shown = used.on_terminal("history", **encoding)
    assert "x exit 3" in shown and shown.isascii()
    assert used.on_terminal("exec", "bash", "echo 'é✓'", **encoding).isascii()


@pytest.mark.parametrize("words", [("run",), ("run", "-"), ("exec", "bash")])
def test_terminal_as_input(used: Cli, words: tuple[str, ...]) -> None:
    """A terminal on standard input is no file: a hint, not a wait."""
    assert "standard input is a terminal" in used.on_terminal(*words, code=2)


def test_exec_passes_on_what_is_typed(used: Cli) -> None:
    """With -i a program asks, somebody types, and the program has it; without, it reads end of file at once."""
    ours, theirs = pty.openpty()
    command = [*COMMAND, "exec", "-i", "bash", "echo ready; read x; echo got $x"]
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, env=used.environment())
    os.close(theirs)
    with process, open(ours, "wb", buffering=0) as keys:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        keys.write(b"an answer\n")
        assert process.stdout.read() == b"got an answer\n"
    assert process.returncode == 0
    assert used.good("exec", "bash", "cat; echo end", text="lines of somebody else\n") == "end\n"


def test_exec_ends_before_its_input(used: Cli) -> None:
    """Code that reads no more ends the command, also when the input has no end, far more than fits, or is not there."""
    reader, writer = os.pipe()
    try:
        command = [*COMMAND, "exec", "-i", "bash", "read x; echo $x"]
        with subprocess.Popen(command, stdin=reader, stdout=subprocess.PIPE, env=used.environment()) as process:
            os.write(writer, b"one\ntwo\n")
            assert process.communicate(timeout=PATIENCE_S)[0] == b"one\n"
    finally:
        os.close(reader)
        os.close(writer)
    closed = subprocess.run(
        ["bash", "-c", 'exec 0<&-; exec "$@"', "bash", *COMMAND, "exec", "-i", "bash", "cat; echo end"],
        stdout=subprocess.PIPE,
        env=used.environment(),
        timeout=PATIENCE_S,
        check=True,
    )
    assert closed.stdout == b"end\n"
    assert used.good("exec", "-i", "bash", "head -c 1", text="x" * (4 << 20)) == "x"
    assert used.good("exec", "-i", "bash", "wc -c", text="x" * (4 << 20)).strip() == str(4 << 20)


def test_ctrl_c_on_a_terminal(cli: Cli) -> None:
    """The key itself, typed while code runs: the code is stopped, the command says which."""
    ours, theirs = pty.openpty()
    make_controlling = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", make_controlling, *COMMAND, "exec", "bash", "echo ready; sleep 600"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=cli.environment(),
        start_new_session=True,
    )
    os.close(theirs)
    shown: list[bytes] = []
    typing = threading.Thread(target=type_when_ready, args=(ours, shown))
    typing.start()
    assert process.wait(PATIENCE_S) == 130
    typing.join()
    os.close(ours)
    assert b"recorded as killed" in b"".join(shown)
    assert cli.json("history")["entries"][0]["ended"] == "killed"


def type_when_ready(terminal: int, shown: list[bytes]) -> None:
    """Press Ctrl-C once the program has said that it runs; keep what is shown."""
    pressed = False
    while select.select([terminal], [], [], PATIENCE_S)[0]:
        try:
            shown.append(os.read(terminal, 65536))
        except OSError:
            return
        if not pressed and b"ready" in b"".join(shown):
            os.write(terminal, b"\x03")
            pressed = True
