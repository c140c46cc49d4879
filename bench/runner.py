"""Cases -> samples, round-robin, so that whatever disturbs the machine disturbs all of them alike.

Read `measure` first. Knows no case: a case makes ready, is sampled as often as asked, and is put away. It does
its own timing, because what it prepares for one sample is not what it measures.
"""

import random
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bench import report

Unit = Literal["ms", "MiB", "times"]
WARM_UPS = 3
"""Rounds that do not count: caches, first imports, folders that are made once."""


class Missing(Exception):
    """A case cannot be measured here; the text says what is missing and how to get it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    """Its key in JSON, and what other rows name in `over`."""
    work: str
    """What was done, in words."""
    over: str | None = None
    """The row it is a ratio to; None: the value itself is what counts."""
    at_most: float | None = None
    """The target: of the ratio, or of the value where there is no `over`. None: shown for comparison."""
    unit: Unit = "ms"


class Case:
    """Something that can be measured; one sample may fill several rows."""

    rows: Sequence[Row] = ()
    is_sampled_once = False
    """It takes its own many samples; it is called when all rounds are over."""

    def open(self) -> None:
        """Make ready. Raises Missing."""

    def sample(self) -> Mapping[str, float]:
        """Do it once: a value for each row's name, seconds where the row's unit is ms."""
        raise NotImplementedError

    def close(self) -> None:
        """Put away. Idempotent; called also when `open` raised."""


@dataclass(slots=True)
class Measured:
    """A row and what was found."""

    row: Row
    values: list[float] = field(default_factory=list)
    missing: str | None = None
    ratio: float | None = None

    @property
    def median(self) -> float | None:
        """In the row's unit."""
        return statistics.median(self.values) if self.values else None

    @property
    def verdict(self) -> Literal["PASS", "over", "missing"] | None:
        """Against the target; None where there is none."""
        if self.missing is not None:
            return "missing"
        figure = self.ratio if self.row.over is not None else self.median
        if self.row.at_most is None or figure is None:
            return None
        return "PASS" if figure <= self.row.at_most else "over"

    def as_dict(self) -> dict[str, Any]:
        """The shape of a row in JSON."""
        return {
            "name": self.row.name,
            "work": self.row.work,
            "unit": self.row.unit,
            "samples": len(self.values),
            "median": _rounded(self.median),
            "p10": _rounded(_quantile(self.values, 0.1)),
            "p90": _rounded(_quantile(self.values, 0.9)),
            "over": self.row.over,
            "ratio": _rounded(self.ratio),
            "at_most": self.row.at_most,
            "verdict": self.verdict,
            "missing": self.missing,
        }


def measure(cases: Sequence[Case], samples: int) -> list[Measured]:
    """Sample every case `samples` times and relate the medians.

    The order within a round is drawn anew each time (from a fixed seed): none always follows the same other one.
    """
    found = {row.name: Measured(row) for case in cases for row in case.rows}
    try:
        ready = [case for case in cases if _is_ready(case, found)]
        repeated = [case for case in ready if not case.is_sampled_once]
        for number in range(-WARM_UPS, samples):
            report.progress(max(number, 0), samples, "rounds")
            for case in random.Random(number).sample(repeated, len(repeated)):
                _take(case, found, keep=number >= 0)
        report.progress(samples, samples, "rounds")
        for case in repeated:  # what they hold would be in the way of the others
            case.close()
        for case in ready:
            if case.is_sampled_once:
                _take(case, found, keep=True)
    finally:
        for case in cases:
            case.close()
    _relate(found)
    return list(found.values())


def needed(cases: Sequence[Case], words: Sequence[str]) -> list[Case]:
    """The cases with one of `words` in a row's name, and those that their ratios need; all without words."""
    chosen = [case for case in cases if not words or any(word in row.name for word in words for row in case.rows)]
    names = {row.over for case in chosen for row in case.rows}
    return [case for case in cases if case in chosen or any(row.name in names for row in case.rows)]


def _is_ready(case: Case, found: dict[str, Measured]) -> bool:
    try:
        case.open()
    except Missing as error:
        for row in case.rows:
            found[row.name].missing = _without_paths(str(error))
        return False
    return True


def _take(case: Case, found: dict[str, Measured], *, keep: bool) -> None:
    try:
        taken = case.sample()
    except Missing as error:
        for row in case.rows:
            found[row.name].missing = _without_paths(str(error))
        return
    for name, value in taken.items() if keep else ():
        scale = 1e3 if found[name].row.unit == "ms" else 1.0
        found[name].values.append(value * scale)


def _without_paths(text: str) -> str:
    """Reports are shown to others: where things lie on this machine is not their business."""
    return re.sub(r"(/[\w.@+-]+){2,}", "...", text)


def _relate(found: dict[str, Measured]) -> None:
    for measured in found.values():
        base = found[measured.row.over].median if measured.row.over else None
        if base and measured.median is not None:
            measured.ratio = measured.median / base


def _quantile(values: list[float], part: float) -> float | None:
    return sorted(values)[min(int(len(values) * part), len(values) - 1)] if values else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
