"""What only looks: `rewindbox history`, `show`, `config`, `verify` as processes."""

import json
import re
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from commanded import Cli, fresh, once_used, plain_colours

import rewindbox
from conftest import PATIENCE_S

cli = pytest.fixture(fresh)
used = pytest.fixture(scope="module")(once_used)


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


def test_config_show(tmp_path: Path) -> None:
    """Every setting in force and what said so, and where the file is looked for; it makes no store."""
    cli = Cli(tmp_path / "store")
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


def test_version_and_help(tmp_path: Path) -> None:
    """--version and --help need no store."""
    cli = Cli(tmp_path / "store")
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
