"""CI installs exactly what the lock files say, by hashes; and they say all that pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = PROJECT["project"]["dependencies"]
ALL = RUNTIME + PROJECT["project"]["optional-dependencies"]["dev"] + PROJECT["build-system"]["requires"]
LINE = re.compile(r"([A-Za-z0-9._-]+)==([^\s;]+) \\\n((?: {4}--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)")


def locked(name: str) -> dict[str, str]:
    """Name -> version; a file with anything else in it than versions and hashes fails."""
    text = (ROOT / ".ci" / name).read_text()
    assert LINE.sub("", text) == ""
    return {str(canonicalize_name(found[1])): found[2] for found in LINE.finditer(text)}


@pytest.mark.parametrize(("name", "wanted"), [("requirements.txt", ALL), ("runtime.txt", RUNTIME)])
def test_the_lock_has_what_the_project_asks_for(name: str, wanted: list[str]) -> None:
    """Every dependency is in the lock, in a version that the project allows, with its hashes and nothing else."""
    versions = locked(name)
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_both_locks_say_the_same() -> None:
    """What runs is what is tested: the runtime's lock is a part of the other."""
    assert locked("runtime.txt").items() <= locked("requirements.txt").items()


def test_ci_installs_from_the_lock() -> None:
    """Neither CI nor the test of the wheel lets pip choose a version."""
    assert "make locked" in (ROOT / ".ci/run").read_text()
    recipe = (ROOT / "Makefile").read_text().partition("\nlocked:")[2].partition("\n\n")[0]
    for text in (recipe, (ROOT / "tests/wheel.sh").read_text()):
        installs = [line for line in text.replace("\\\n", " ").splitlines() if "pip" in line and " install " in line]
        assert installs and all("--require-hashes" in line or "--no-deps" in line for line in installs)
