"""The measuring tools work and report what they say they report. Nothing here is about how fast anything is."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import data, scaled

ROOT = Path(__file__).parents[2]
ANSWERS = "llm-wildbench/with_fence.jsonl.gz"
ALWAYS = {
    *("bare python", "bare true", "bare bash", "vm python", "vm true", "vm plain true"),
    *("undefended true", "defences"),
    *("new vm", "new vm after another", "stop", "remove", "point", "snapshot", "rollback"),
    *(f"{verb}, {size} MiB in the vm" for verb in ("point", "snapshot", "rollback") for size in (1, 4)),
    *("session execute", "session execute at once", "new session", "new session used", "first session"),
    *(
        f"session {verb}{held}"
        for verb in ("rollback", "after rollback")
        for held in ("", ", 3 MB in arrays", ", 3 MB in small objects")
    ),
    *("checkpoint", "checkpoint private", "session memory"),
    *(
        "shell",
        "http python",
        "http beyond",
        "http session",
        "memory",
        "memory new",
        "memory once",
        "extraction growth",
        "deadline",
        "deadline p99",
        "recovery",
    ),
    *("deadline code", "deadline code p99", "session deadline code", "session deadline code p99"),
    *("bare deadline", "bare deadline p99", "session deadline", "session deadline p99"),
}
MAY_BE_ABSENT = {"bubblewrap", "sandlock", "ipykernel", "eryx", "eryx snapshot", "extraction", "library parse"}
DIFFERENCES = {"defences", "http beyond"}
"""They may be anything: two samples of a busy machine say nothing."""
ONLY_FOR_ROOT = {"bare setpriv", "bubblewrap setpriv"}


def tool(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a module of the bench as its user does: from the project's folder."""
    search = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    given = {**os.environ, "PYTHONPATH": search, **environment}
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=given, capture_output=True, text=True, check=False, timeout=600
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """A quick run's JSON and what it printed."""
    path = tmp_path_factory.mktemp("bench") / "figures.json"
    done = tool("bench", "--samples", "2", "--big-mib", "4", "--session-mb", "3", "--json", str(path))
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text()), done.stdout


@pytest.fixture(autouse=True)
def bench_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies beside the package, not in it."""
    monkeypatch.syspath_prepend(str(ROOT))


def test_every_case_is_in_the_report(quick: tuple[dict[str, Any], str]) -> None:
    """Each case has a row with figures; only what is not installed may have none, and says how to get it."""
    rows = {row["name"]: row for row in quick[0]["rows"]}
    expected = ALWAYS | MAY_BE_ABSENT | (ONLY_FOR_ROOT if os.getuid() == 0 else set())
    assert set(rows) == expected
    for name, row in rows.items():
        if row["missing"] is None:
            assert row["samples"] >= 1 and (row["median"] > 0 or name in DIFFERENCES), row
        else:
            assert name in MAY_BE_ABSENT | ONLY_FOR_ROOT and ("install" in row["missing"] or "set " in row["missing"])


def test_targets_are_judged(quick: tuple[dict[str, Any], str]) -> None:
    """A row with a target has a verdict that follows from its own figures."""
    judged = [row for row in quick[0]["rows"] if row["at_most"] is not None and row["missing"] is None]
    assert len(judged) >= 10
    for row in judged:
        figure = row["ratio"] if row["over"] else row["median"]
        assert row["verdict"] == ("PASS" if figure <= row["at_most"] else "over"), row


def test_the_header_says_what_it_was_measured_on(quick: tuple[dict[str, Any], str]) -> None:
    """Date, kernel, CPU, Python, load and user stand above the figures; no path of the machine anywhere."""
    found, printed = quick
    assert {"date", "kernel", "CPU", "python", "load average", "user"} <= set(found["header"])
    for place in (str(ROOT), str(Path.home()) + "/", sys.prefix + "/"):
        assert place not in json.dumps(found) + printed


def test_the_table_has_a_line_for_each_case(quick: tuple[dict[str, Any], str]) -> None:
    """In a pipe the table is plain text: no colours, no frames."""
    found, printed = quick
    assert all(row["work"] in printed for row in found["rows"])
    assert "\x1b" not in printed and "│" not in printed


def test_only_measures_what_was_asked_for(tmp_path: Path) -> None:
    """--only takes the rows with that word, and what their ratios need."""
    path = tmp_path / "figures.json"
    done = tool("bench", "--samples", "1", "--only", "vm true", "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert [row["name"] for row in json.loads(path.read_text())["rows"]] == ["bare python", "vm true"]


def test_figures_go_between_the_markers_of_the_page(quick: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    """The page of the documentation has the markers; what stands around them stays; twice is as good as once."""
    from bench import report

    page = tmp_path / "page.md"
    page.write_text(Path(report.PAGE).read_text())
    around = page.read_text().split(report.BEGIN)[0], page.read_text().split(report.END)[1]
    report.write_page(quick[0], str(page))
    once = page.read_text()
    report.write_page(quick[0], str(page))
    assert page.read_text() == once
    assert once.startswith(around[0]) and once.endswith(around[1])
    assert all(f"| {row['work']} |" in once for row in quick[0]["rows"])


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    """Nothing is written where it is not known where."""
    from bench import report

    page = tmp_path / "page.md"
    page.write_text("# Nothing here\n")
    with pytest.raises(ValueError, match="markers"):
        report.write_page({"header": {}, "rows": []}, str(page))
    assert page.read_text() == "# Nothing here\n"


@pytest.mark.alone
def test_real_answers_leave_the_host_as_it_was(tmp_path: Path) -> None:
    """A few real answers end to end: every block is accounted for, nothing crashes, the host is untouched."""
    data(ANSWERS)
    path = tmp_path / "real.json"
    done = tool("bench.real", "--count", "5", "--seed", "3", "--json", str(path))
    found = json.loads(path.read_text())
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["is_well"] and found["answers"] == 5
    assert found["blocks"] == found["run"] + sum(found["skipped"].values())
    assert found["run"] == found["succeeded"] + sum(found["failed"].values())
    assert "seed 3" in done.stdout and "untouched" in done.stdout


def test_without_answers_it_says_how_to_get_them() -> None:
    """No data: exit code 2, and the name of the variable."""
    done = tool("bench.real", "--count", "1", REWINDBOX_TEST_DATA="")
    assert done.returncode == 2
    assert "REWINDBOX_TEST_DATA" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.alone  # its programs have 30 s, which other tests that take all there is can use up
def test_a_crowd_is_served(tmp_path: Path) -> None:
    """A hundred clients in three languages at once: no error, and no execution that was acknowledged is lost."""
    path = tmp_path / "crowd.json"
    done = tool("bench.service", "--clients", "100", "--seconds", str(scaled(20)), "--json", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())
    assert (found["clients"], found["wrong"], found["lost"]) == (100, {}, 0)
    assert found["executions"] >= 100


@pytest.mark.alone
def test_the_proof_would_notice(tmp_path: Path) -> None:
    """A file, a process, a socket and a descriptor that appear are each named; without them nothing is."""
    from bench import outside

    canaries = tmp_path / "canaries"
    canaries.mkdir()
    (canaries / "letter").write_text("dear host")
    before = outside.look(str(canaries), str(tmp_path))
    assert not outside.differences(before, outside.look(str(canaries), str(tmp_path)))
    (canaries / "letter").write_text("DEAR HOST")
    with socket.create_server(("127.0.0.1", 0)), subprocess.Popen(["sleep", "infinity"]) as process:
        found = "\n".join(outside.differences(before, outside.look(str(canaries), str(tmp_path))))
        process.kill()
    for what in ("canary files: changed", "sleep", "listening sockets: new", "our open descriptors: new"):
        assert what in found


@pytest.mark.parametrize(
    ("language", "stderr", "expected"),
    [
        (
            "python",
            "Traceback (most recent call last):\n  x\nModuleNotFoundError: No module named 'x'",
            "missing package",
        ),
        (
            "python",
            "Traceback (most recent call last):\n  x\nEOFError: EOF when reading a line",
            "reads standard input",
        ),
        ("python", "Traceback (most recent call last):\n  x\nKeyError: 'name'", "other exception"),
        ("python", "  File\nSyntaxError: invalid syntax", "syntax error"),
        ("javascript", "node:1\nError: Cannot find module 'x'\n  at y\n\nNode.js v20", "missing package"),
        ("javascript", "ReferenceError: db is not defined\n  at x", "undefined name"),
        ("bash", "x.sh: line 1: ls: cannot access 'a': No such file or directory", "missing input file"),
        ("bash", "x.sh: line 1: syntax error near unexpected token `('", "syntax error"),
        ("bash", "curl: (6) Could not resolve host: example.org", "network"),
        ("rust", "error[E0308]: mismatched types\n", "compile error"),
        ("rust", "thread 'main' panicked at 'x'", "other exception"),
        ("bash", "", "other exit code"),
    ],
)
def test_causes_are_told_apart(language: str, stderr: str, expected: str) -> None:
    """Why a block failed is read from what it wrote to stderr."""
    from bench.causes import cause

    assert cause(failed(language, stderr)) == expected


def failed(language: str, stderr: str) -> Any:
    """An execution with exit code 1."""
    from datetime import UTC, datetime

    from rewindbox import Execution

    return Execution(
        id="ex_1",
        vm_id="vm_1",
        agent_id="test",
        language=language,
        code="",
        ended="exit",
        exit_code=1,
        stdout_bytes=b"",
        stderr_bytes=stderr.encode(),
        truncated=False,
        started_at=datetime.now(UTC),
        wall_s=0.1,
        cpu_s=0.1,
        memory_peak_bytes=0,
        error=None,
        before=None,
        after=None,
    )


def test_history_answers(tmp_path: Path) -> None:
    """Every kind of question is asked of a history, and what it finds is told beside how long it took."""
    report = tmp_path / "report.json"
    done = tool("bench.history", "--executions", "400", "--samples", "2", "--json", str(report))
    assert done.returncode in (0, 1) and not done.stderr, done
    rows = {row["name"]: row for row in json.loads(report.read_text())}
    assert rows["everything"]["matching"] == rows["text that all have"]["matching"] == 400
    assert rows["text that few have"]["matching"] == 1 and rows["text that nobody has"]["matching"] == 0
    assert all(row["median_ms"] > 0 and row["name"] in done.stdout for row in rows.values())
