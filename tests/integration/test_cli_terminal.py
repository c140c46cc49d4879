"""The command line on a terminal: what is shown while it works, and that hostile output is not obeyed."""

import os
import pty
import re
import select
import subprocess
import sys
import threading

import pytest
from commanded import ANSWER, COMMAND, Cli, block, fresh, once_used, plain, plain_colours

from conftest import PATIENCE_S

cli = pytest.fixture(fresh)
used = pytest.fixture(scope="module")(once_used)


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
