"""SECURITY.md says of a vm's posture what the table of the attacks says, number by number."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]
BEGIN, END = "| in reach of the code | how many |\n|---|---|\n", "\n\n"


def test_security_has_the_numbers_of_the_posture_test() -> None:
    """Each line of the documented table is a line of tests/attacks/posture.py, and the other way round."""
    spec = importlib.util.spec_from_file_location("posture_table", ROOT / "tests/attacks/posture.py")
    assert spec and spec.loader
    posture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(posture)
    _, begin, rest = (ROOT / "SECURITY.md").read_text().partition(BEGIN)
    assert begin, "SECURITY.md has no table of the posture"
    rows = [line.strip("|").split("|") for line in rest.partition(END)[0].splitlines()]
    assert {name.strip(): number.strip() for name, number in rows} == posture.documented()
