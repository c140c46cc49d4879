"""Programs with known outcomes behave inside as outside; a sample here, all of them with REWINDBOX_FULL."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import FULL, data

ROOT = Path(__file__).parents[2]


def tool(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the module as its user does: from the project's folder."""
    search = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    given = {**os.environ, "PYTHONPATH": search, **environment}
    return subprocess.run(
        [sys.executable, "-m", "bench.programs", *words],
        cwd=ROOT,
        env=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=7200 if FULL else 600,
    )


@pytest.fixture(autouse=True)
def bench_is_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies beside the package, not in it."""
    monkeypatch.syspath_prepend(str(ROOT))


def test_programs_behave_inside_as_outside(tmp_path: Path) -> None:
    """Each program of each set ends, writes and passes inside exactly as outside; no set is left out in CI."""
    data("exec-humanevalpack")
    data("exec-exercism-bash")
    path = tmp_path / "programs.json"
    done = tool("--one-in", "1" if FULL else "20", "--json", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())
    assert found["is_well"] and found["programs"] == sum(row["programs"] for row in found["rows"])
    assert not (os.environ.get("CI") and found["missing"]), found["missing"]
    for row in found["rows"]:
        print(row)
        # Of 164 canonical solutions one needs a JavaScript package and six need crates; a few examples and one stub in
        # bash do what nobody expects of them, outside as well.
        least = row["programs"] * 0.9 - 1 if row["variant"] in ("canonical", "example") else 0
        most = {"buggy": 0, "stub": 1}.get(row["variant"], row["programs"])
        assert least <= row["passed inside"] <= most, row


def program(code: str, language: str = "python", **more: Any) -> Any:
    """A program of a set of one."""
    from bench.suites import Program

    given = {"set": "own", "variant": "x", "name": code[:20], "needs": (), **more}
    return Program(language=language, runs_as=language, code=code, **given)


@pytest.mark.parametrize(
    "code",
    ["import os; print(os.path.exists('/sys/kernel'))", "import os, sys; sys.exit(os.path.exists('/sys/kernel'))"],
    ids=["stdout", "exit code"],
)
def test_a_difference_is_found(code: str) -> None:
    """A program that can tell the inside from the outside is told, with both sides."""
    import anyio
    from bench import programs

    tally = anyio.run(programs.run, [program(code), program("print(1)")])
    assert [row["differences"] for row in tally.counts.values()] == [1]
    (found,) = tally.differences
    assert found["outside"] != found["inside"] and "own python" in found["program"]


def test_programs_of_every_day_are_told_apart() -> None:
    """Each has a name of its own within its language, and code; the three languages have some."""
    from bench import suites

    found = suites.everyday()
    assert {each.language for each in found} == {"bash", "javascript", "python"}
    assert len({(each.language, each.name) for each in found}) == len(found)
    assert all(each.code.strip() for each in found)


def test_output_that_varies_outside_does_not_count() -> None:
    """A program that writes something else each time is named, and no difference; its exit code still counts."""
    import anyio
    from bench import programs

    dice = "import os, sys; print(os.urandom(8)); sys.exit({})"
    tally = anyio.run(programs.run, [program(dice.format("0")), program(dice.format("os.path.exists('/sys/kernel')"))])
    assert len(tally.varying) == 2
    assert [difference["outside"][:6] for difference in tally.differences] == ["exit 1"]


def test_endings_are_compared() -> None:
    """A program that ends by a signal, and one whose JavaScript assertion fails with exit code 0, are told alike."""
    import anyio
    from bench import programs

    tally = anyio.run(
        programs.run,
        [
            program("import os; os.kill(os.getpid(), 11)"),
            program("while True: pass", cpu_s=1.0),
            program("console.assert(1 === 2)", "javascript", told_by="Assertion failed", needs=("node",)),
            program("print(1)", needs=("no-such-program",)),
        ],
    )
    assert not tally.differences
    assert [row["passed inside"] for row in tally.counts.values()] == [0] * len(tally.counts)
    assert tally.missing == {"own python x: no-such-program not on the path of a vm": 1}


def test_without_programs_it_says_how_to_get_them() -> None:
    """No data: exit code 2, and the name of the variable."""
    done = tool(REWINDBOX_TEST_DATA="")
    assert done.returncode == 2
    assert "REWINDBOX_TEST_DATA" in done.stderr and "Traceback" not in done.stderr
