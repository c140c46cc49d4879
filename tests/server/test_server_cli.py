"""Every command that can be carried out at a server says there what it says here."""

import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest
from served import Served

from conftest import PATIENCE_S, remove, until
from rewindbox import Rewindbox, cli
from rewindbox.cli import parser

ANSWER = "Do it:\n```python\nprint(6 * 7)\n```\n```bash\necho out; echo err >&2; exit 3\n```\n"
_RANDOM = re.compile(
    r"(vm|ex|pt|snap)_[a-z2-7]{26}|\d+:[0-9a-f]{64}|\d{4}-\d\d-\d\dT[\d:.]+Z|http://[\d.:]+|"
    r"\d+\.\d+( s)?|(?<=_ms\": )\d+|(?<=_bytes\": )\d+|\d{3,}"
)
"""What differs from one time to the next: ids, times, durations, who holds a vm."""
LOCAL = {"serve", "token", "config", "pool"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    store = tmp_path_factory.mktemp("commands") / "store"
    with Served(store) as made:
        yield made
    remove(store)


def rewindbox(*words, **environment):
    """One command as a process: exit code, standard output, standard error."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("REWINDBOX_")}
    command = [sys.executable, "-W", "error", "-m", "rewindbox", *map(str, words)]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False, env=clean | environment)
    return done.returncode, done.stdout, done.stderr


def here(capfd, *words: str) -> tuple[int, str, str]:
    """One command in this process, which costs less than half: exit code, standard output, standard error."""
    kept = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    }
    try:
        code = cli.run(words)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    said = capfd.readouterr()
    return code, said.out, said.err


def everything(tmp_path, capfd, *where: str) -> list[tuple[str, tuple[int, str, str]]]:
    """Every command, in an order in which each has something to do."""
    data, answer, back = (str(tmp_path / name) for name in ("data.csv", "answer.md", "back.csv"))
    (tmp_path / "data.csv").write_bytes(b"a\xff\n")
    (tmp_path / "answer.md").write_text(ANSWER)
    commands: list[tuple[str, ...]] = [
        ("vms", "create", "demo"),
        ("exec", "--vm", "demo", "--stdin", data, "--env", "X=1", "bash", "od -c; echo $X >&2; exit 4"),
        ("run", "--vm", "demo", "--on-failure", "rollback", "--timeout", "20", answer),
        ("run", "--vm", "demo", "--json", answer),
        ("exec", "--vm", "demo", "--timeout", "0.3", "bash", "sleep 100"),
        ("cp", data, "demo:in/data.csv"),
        ("cp", "demo:in/data.csv", back),
        ("snapshot", "create", "demo", "--name", "good"),
        ("exec", "--vm", "demo", "--session", "s", "bash", "x=41"),
        ("exec", "--vm", "demo", "--session", "s", "bash", "echo $((x + 1))"),
        ("snapshot", "list", "demo"),
        ("rollback", "demo", "good", "--preview"),
        ("rollback", "demo", "good", "--preview", "--json"),
        ("rollback", "demo", "good"),
        ("rollback", "demo", "--last-success"),
        ("snapshot", "rm", "demo", "good"),
        ("history", "--failures"),
        ("history", "--vm", "demo", "--limit", "2", "--json"),
        ("history", "--export"),
        ("languages",),
        ("verify", "--quiet"),
        ("vms", "stop", "demo"),
        ("vms", "show", "demo"),
        ("vms", "rm", "demo"),
        ("vms", "list", "--json"),
        ("show", "ex_nothing"),
        ("exec", "--vm", "demo", "cobol", "x"),
        ("rollback", "nobody", "good"),
    ]
    return [(" ".join(words), here(capfd, *where, *words)) for words in commands]


def test_what_they_say_here_they_say_there(tmp_path, server, capfd, monkeypatch):
    """Exit code, standard output and standard error of every command, but for what is random."""
    expected = everything(tmp_path, capfd, "--store", str(tmp_path / "here"))
    (tmp_path / "back.csv").unlink()
    with Rewindbox(tmp_path / "here") as box:
        box.vm("last").list()  # what a command starts ahead ends with it, and we are still there
    monkeypatch.setenv("REWINDBOX_SERVER", server.url)
    monkeypatch.setenv("REWINDBOX_TOKEN", str(server.token))
    found = everything(tmp_path, capfd)
    for (name, mine), (_, theirs) in zip(expected, found, strict=True):
        assert [_plain(said) for said in theirs] == [_plain(said) for said in mine], name
    assert {code for _, (code, _, _) in found} == {0, 1, 2}
    assert (tmp_path / "back.csv").read_bytes() == (tmp_path / "data.csv").read_bytes()
    remove(tmp_path / "here")


def _plain(said: object) -> object:
    return _RANDOM.sub("*", said) if isinstance(said, str) else said


def test_a_token_is_in_a_file_or_the_environment(tmp_path, server):
    """There is no flag for it, which `ps` would show; --server is over the environment, --store over both."""
    file = tmp_path / "token"
    file.write_text(f"{server.token}\n")
    where = ("--server", server.url, "--token-file", file)
    assert rewindbox("vms", "list", *where)[0] == 0
    assert rewindbox("vms", "list", *where, REWINDBOX_SERVER="http://127.0.0.1:1")[0] == 0
    assert rewindbox("vms", "list", "--store", tmp_path / "own", REWINDBOX_SERVER="http://127.0.0.1:1")[0] == 0
    assert "--token " not in parser().format_help()
    code, out, err = rewindbox("vms", "list", "--server", server.url)
    assert (code, out) == (3, b"") and b"REWINDBOX_TOKEN, or --token-file" in err
    code, out, _ = rewindbox("vms", "list", "--json", "--server", "http://127.0.0.1:1")
    assert (code, json.loads(out)["error"]["code"]) == (4, "connection_error")
    assert rewindbox("vms", "list", "--store", tmp_path / "own", "--server", server.url)[0] == 2
    for command in LOCAL:
        words = {"token": ("token", "list"), "config": ("config", "show")}.get(command, (command,))
        code, _, err = rewindbox(*words, "--server", server.url)
        assert code == 2 and b"of this host" in err, command


def test_ctrl_c_ends_the_code_there(server):
    """An interrupted command has ended what it ran, and says so; the server has it as killed."""
    environment = os.environ | {"REWINDBOX_SERVER": server.url, "REWINDBOX_TOKEN": str(server.token)}
    command = [sys.executable, "-m", "rewindbox", "exec", "--vm", "ended", "bash", "echo begun; sleep 100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    with Rewindbox(server.url, token=server.token) as box:
        entry = box.history("ended").entries[0]
    assert entry.ended == "killed" and entry.id.encode() in err


def test_output_comes_as_it_is_written(server):
    """Not when the code has ended: it waits for a file that comes only after its first line was read."""
    environment = os.environ | {"REWINDBOX_SERVER": server.url, "REWINDBOX_TOKEN": str(server.token)}
    code = "echo first; until [ -e go ]; do sleep 0.01; done; echo second"
    command = [sys.executable, "-m", "rewindbox", "exec", "--vm", "streamed", "bash", code]
    lines: list[bytes] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
        reader.start()
        until(lambda: lines, "the first line")
        assert lines == [b"first\n"] and process.poll() is None
        process.send_signal(signal.SIGTERM)
        reader.join()
    assert process.returncode == 143
