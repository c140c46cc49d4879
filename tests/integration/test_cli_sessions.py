"""Sessions of the command line outlive a command: a keeper that nobody starts or stops holds them."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commanded import Cli

from conftest import PATIENCE_S, until
from rewindbox import holders


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """A store of its own, in a folder whose name is too long for a socket's address; its keeper ends with the test."""
    made = Cli(tmp_path / ("long-name-" * 15))
    yield made
    keeper = keeper_of(made)
    if keeper is not None:
        os.kill(keeper, signal.SIGTERM)
        until(lambda: keeper_of(made) is None, "the keeper ends")


def keeper_of(cli: Cli) -> int | None:
    """The pid of the store's keeper."""
    return holders.find(store_of(cli)).get("keeper")


def store_of(cli: Cli) -> str:
    return cli.environment()["REWINDBOX_STORE"]


def python(cli: Cli, code: str, *words: str) -> str:
    return cli.good("exec", "--session", "s", *words, "python", code)


def test_variables_outlive_a_command(cli: Cli) -> None:
    """What one command binds, the next one finds; the value of the last expression is printed."""
    assert python(cli, "import math; x = 41; print('bound')") == "bound\n"
    assert python(cli, "x += 1; x") == "42\n"
    (entry,) = [e for e in cli.json("history")["entries"] if e["displays"]]
    assert (entry["session"], entry["displays"][0]["data"]) == ("s", {"text/plain": "42"})
    assert entry["id"] in cli.good("show", entry["id"])


def test_nothing_of_the_current_folder_is_executed_here(cli: Cli, tmp_path: Path) -> None:
    """What a keeper imports is installed: a file that somebody brought out of a vm is no module of ours."""
    folder, ran = tmp_path / "work", tmp_path / "ran"
    folder.mkdir()
    for name in ("anyio", "json", "sitecustomize", "rewindbox", "socket"):
        (folder / f"{name}.py").write_text(f"open({str(ran)!r}, 'w').close()")
    words = ["exec", "--session", "s", "python", "6 * 7"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from rewindbox import cli; cli.main()", *words],
        env=cli.environment(),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.stdout == "42\n" and not ran.exists(), done.stderr


def test_code_of_one_vm_does_not_end_the_sessions_of_another(cli: Cli) -> None:
    """What it shows may be as deep as it likes, or no number: its own result comes, and the keeper goes on."""
    python(cli, "x = 41", "--vm", "other")
    keeper = keeper_of(cli)
    deep = (
        "class Deep:\n    def _repr_mimebundle_(self, **_):\n        found = 1\n"
        "        for _ in range(900): found = [found]\n"
        "        return {'text/plain': 'deep', 'application/json': found}\n"
        "class Odd:\n    def _repr_mimebundle_(self, **_):\n"
        "        return {'text/plain': 'odd', 'application/json': float('nan')}\n"
    )
    python(cli, deep)
    for name in ("Deep", "Odd"):
        cli("exec", "--session", "s", "python", f"{name}()")
        assert python(cli, "6 * 7") == "42\n"
    assert python(cli, "x", "--vm", "other") == "41\n"
    assert keeper_of(cli) == keeper


def test_vms_list_shows_sessions(cli: Cli) -> None:
    """The list says which vm has live sessions, and who holds it."""
    python(cli, "x = 1")
    (vm,) = cli.json("vms", "list")["vms"]
    assert (vm["sessions"], vm["in_use_by"]) == (["s"], keeper_of(cli))
    assert "live sessions" in cli.on_terminal("vms", "list")


def test_every_command_reaches_a_kept_vm(cli: Cli, tmp_path: Path) -> None:
    """While a keeper has the vm, files, jobs, snapshots and rollbacks work as ever, and take variables along."""
    python(cli, "x = 1; open('f', 'w').write('one')")
    assert cli.good("exec", "bash", "cat f") == "one"
    assert cli.good("exec", "-i", "bash", "cat", text="from a pipe") == "from a pipe"
    cli.good("snapshot", "create", "default", "--name", "good")
    (tmp_path / "data").write_text("two")
    cli.good("cp", str(tmp_path / "data"), "default:f")
    assert cli.good("cp", "default:f", "-") == "two"
    assert python(cli, "x = 2; open('f').read()") == "'two'\n"
    ahead = cli.json("rollback", "default", "good", "--preview")
    told = [(file["path"], file["change"]) for file in ahead["files"]]
    assert (ahead["live"], told) == (True, [("/home/agent/f", "modified")])
    back = cli.json("rollback", "default", "good")
    assert (back["sessions"], back["lost"]) == (["s"], [])
    assert python(cli, "x, open('f').read()") == "(1, 'one')\n"
    assert cli.json("vms", "stop", "default")["stopped"] is True
    assert "NameError" in cli("exec", "--session", "s", "python", "x").stderr.decode()
    cli.good("vms", "rm", "default")


def test_names_do_not_reach_a_terminal_as_they_are(cli: Cli) -> None:
    """Processes and files whose names are orders for a terminal, or no text, are told with all of it spelled out."""
    order = "\x1b]0;t\x07\x1b[2J\x9b31m\u202e\n"
    begin = f"""
import ctypes, os, time
held = open(os.fsencode({order!r}) + b"\\xff", "w")
if os.fork() == 0:
    ctypes.CDLL(None).prctl(15, b"\\x1b]0;p\\x07\\r\\xff")
    time.sleep(1000)
while open("/proc/self/task/%s/children" % os.getpid()).read().count(" ") < 1: pass"""
    python(cli, begin)
    cli.good("snapshot", "create", "default", "--name", "good")
    shown = [
        cli.on_terminal("rollback", "default", "good", "--color", "never"),
        cli.on_terminal("exec", "--session", "s", "python", "import os; os._exit(3)", "--color", "never", code=1),
        json.loads(cli("exec", "--json", "--session", "s", "python", "os._exit(3)").stdout)["error"],
    ]
    assert "process " in shown[0]
    for text in shown:
        assert "is open for writing" in text
        assert [c for c in text.replace("\r", "") if not (c.isprintable() or c == "\n")] == [], text


def test_a_process_that_dies(cli: Cli) -> None:
    """A session whose process ends has its variables as before; the exit code is the code's."""
    python(cli, "x = 1")
    told = json.loads(cli("exec", "--json", "--session", "s", "python", "x = 2; import os; os._exit(3)").stdout)
    assert (told["exit_code"], told["rolled_back_to"]) == (3, told["before"])
    assert "variables are as before" in told["error"]
    assert python(cli, "x") == "1\n"
    assert cli("exec", "--session", "s", "--on-failure", "rollback", "python", "x = 3; 1/0").returncode == 1
    assert python(cli, "x") == "1\n"


def test_what_a_session_refuses(cli: Cli) -> None:
    """What the keeper cannot do it says as the command itself would: what, the value, the remedy, and its exit code."""
    python(cli, "x = 1")
    refused = cli("exec", "--session", "s", "--processes", "70", "python", "x = 2")
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert refused.stderr.startswith(b"rewindbox: processes is 256 in all sessions of this vm")
    assert python(cli, "x") == "1\n"


def test_ctrl_c(cli: Cli) -> None:
    """Ctrl-C ends the code, not the session: it is recorded as killed, and variables are as before."""
    python(cli, "x = 1")
    process = cli.start("exec", "--session", "s", "python", "x = 2; print('ready', flush=True)\nwhile True: pass")
    with process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
        assert b"recorded as killed" in process.stderr.read()
    assert python(cli, "x") == "1\n"


def test_output_arrives_as_it_is_written(cli: Cli) -> None:
    """The first line comes before the code ends."""
    process = cli.start("exec", "--session", "s", "python", "print('first')\nwhile True: pass")
    with process:
        assert process.stdout.readline() == b"first\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 143


def test_a_text_in_a_session(cli: Cli) -> None:
    """Blocks of several answers share variables."""
    cli.good("run", "--session", "s", text="```python\nx = 20\n```\n")
    assert "[1] | 21" in cli.good("run", "--session", "s", text="```python\nprint(x + 1)\n```\n")


def test_which_points_are_live(cli: Cli) -> None:
    """History and snapshots say to which points variables go back, too, and to which only files."""
    cli.good("exec", "bash", "echo before any session")
    python(cli, "x = 1")
    cli.good("snapshot", "create", "default", "--name", "here")
    assert [entry["live"] for entry in cli.json("history")["entries"]] == [True, False]
    assert cli.json("snapshot", "list", "default")["snapshots"][0]["live"] is True
    assert "●" in cli.on_terminal("history")
    cli.good("vms", "stop", "default")
    assert [entry["live"] for entry in cli.json("history")["entries"]] == [False, False]


def test_rebuilt(cli: Cli) -> None:
    """After its process is gone a session is made anew from what it ran, when asked; differences are told."""
    python(cli, "import os; x = 1; os.getpid() + id(os)")
    point = cli.json("history")["entries"][0]["after"]
    cli.good("vms", "stop", "default")
    back = cli.json("rollback", "default", point, "--rebuild")
    assert (back["lost"], back["rebuilt"][0]["executions"]) == ([], 1)
    assert "has another result now" in back["rebuilt"][0]["differences"][0]
    assert python(cli, "x") == "1\n"


def test_it_ends_when_idle(cli: Cli) -> None:
    """A keeper that nobody asks for a while ends its sessions, and history says so."""
    cli.good("exec", "--session", "s", "python", "x = 1", REWINDBOX_SESSION_IDLE_S="0.5")
    until(lambda: keeper_of(cli) is None, "the keeper ends")
    shown = cli.json("vms", "show", "default")
    assert (shown["in_use_by"], shown["sessions"]) == (None, [])
    assert (shown["sessions_ended"]["sessions"], shown["sessions_ended"]["reason"]) == ("s", "idle for 0.5 s")


def test_it_goes_when_its_sessions_are_gone(cli: Cli) -> None:
    """Without a session there is nothing to keep."""
    python(cli, "x = 1")
    cli.good("vms", "stop", "default")
    until(lambda: keeper_of(cli) is None, "the keeper ends")


def test_it_is_killed(cli: Cli) -> None:
    """After its death the session begins anew, and history says that live state was lost."""
    python(cli, "x = 1; open('f', 'w').write('kept')")
    keeper = keeper_of(cli)
    assert keeper is not None
    os.kill(keeper, signal.SIGKILL)
    until(lambda: keeper_of(cli) is None, "the keeper is gone")
    assert "NameError" in cli("exec", "--session", "s", "python", "x").stderr.decode()
    assert python(cli, "open('f').read()") == "'kept'\n"
    assert cli.json("vms", "show", "default")["sessions_ended"]["reason"] == "the process that held the vm died"
    assert cli.json("verify")["ok"] is True


def test_two_commands_at_once(cli: Cli) -> None:
    """Commands that start together share one keeper."""
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda n: cli.good("exec", "--vm", f"v{n}", "--session", "s", "python", f"{n}"), range(4)))
    assert said == ["0\n", "1\n", "2\n", "3\n"]
    assert len({vm["in_use_by"] for vm in cli.json("vms", "list")["vms"]}) == 1


def test_only_its_user_may_ask(cli: Cli) -> None:
    """The socket is the user's alone."""
    python(cli, "x = 1")
    mode = os.stat(os.path.join(store_of(cli), "keeper.sock")).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.parametrize("words", [("javascript", "1"), ("rust", "fn main() {}")])
def test_languages_without_sessions(cli: Cli, words: tuple[str, str]) -> None:
    """They say so; nothing ran."""
    done = cli("exec", "--session", "s", *words)
    assert done.returncode == 2
    assert b"no sessions yet" in done.stderr


def test_bash_needs_no_keeper(cli: Cli) -> None:
    """A bash session's variables lie in a file of the vm."""
    cli.good("exec", "--session", "s", "bash", "x=5")
    assert cli.good("exec", "--session", "s", "bash", "echo $x") == "5\n"
    assert keeper_of(cli) is None
