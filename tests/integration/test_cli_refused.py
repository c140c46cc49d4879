"""What the command line refuses, in one line and with which exit code; which languages it has."""

import json
import os
from pathlib import Path

import pytest
from commanded import Cli, block, fresh, once_used

from rewindbox.backends.namespace.orders import find_program
from rewindbox.languages import LANGUAGES

cli = pytest.fixture(fresh)
used = pytest.fixture(scope="module")(once_used)


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


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder that is another user's")
@pytest.mark.parametrize("words", [("exec", "bash", "true"), ("history",), ("token", "create", "t")], ids=str)
def test_a_store_of_another_user(tmp_path: Path, words: tuple[str, ...]) -> None:
    """No command uses it, not even root's: nothing is started and nothing made there."""
    os.chown(tmp_path, 4711, 4711)
    assert Cli(tmp_path).json(*words, code=2)["error"]["code"] == "config_error"
    assert list(tmp_path.iterdir()) == []


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
