"""Numbers for Prometheus, in its text format 0.0.4: counted here, written out when asked.

Labels are our own words, never a client's: routes as they are declared, languages as the table names them.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Count:
    """What only grows, or with `kind` gauge what is now; one number for each set of labels."""

    name: str
    text: str
    kind: str = "counter"
    values: dict[Labels, float] = field(default_factory=dict)

    def add(self, amount: float = 1, **labels: str) -> None:
        """One more, or so many."""
        key = tuple(sorted(labels.items()))
        self.values[key] = self.values.get(key, 0) + amount

    def lines(self) -> Iterator[str]:
        """In Prometheus's words."""
        yield from (f"# HELP {self.name} {self.text}", f"# TYPE {self.name} {self.kind}")
        for labels, value in sorted(self.values.items()) or [((), 0)]:
            yield f"{self.name}{_braced(labels)} {value:g}"


@dataclass(slots=True)
class Times:
    """How long something took, in seconds: how many took at most so long, for each set of labels."""

    name: str
    text: str
    values: dict[Labels, list[float]] = field(default_factory=dict)
    """A count for each bound and one beyond, then the sum."""

    def add(self, seconds: float, **labels: str) -> None:
        """One that took so long."""
        counts = self.values.setdefault(tuple(sorted(labels.items())), [0] * (len(_SECONDS) + 2))
        counts[bisect_left(_SECONDS, seconds)] += 1
        counts[-1] += seconds

    def lines(self) -> Iterator[str]:
        """In Prometheus's words: each count has those below it in it."""
        yield from (f"# HELP {self.name} {self.text}", f"# TYPE {self.name} histogram")
        for labels, counts in sorted(self.values.items()):
            below = 0.0
            for bound, count in zip((*map(str, _SECONDS), "+Inf"), counts[:-1], strict=True):
                below += count
                yield f"{self.name}_bucket{_braced((*labels, ('le', bound)))} {below:g}"
            yield f"{self.name}_sum{_braced(labels)} {counts[-1]:g}"
            yield f"{self.name}_count{_braced(labels)} {below:g}"


def _braced(labels: Labels) -> str:
    told = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{told}}}" if told else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Metrics:
    """All that the server counts."""

    def __init__(self) -> None:
        self.executions = Count(
            "rewindbox_executions_total", "Executions that ended, by language, outcome and how they ended."
        )
        self.execution_seconds = Times("rewindbox_execution_seconds", "Wall clock time of executions.")
        self.going_on = Count("rewindbox_executions_running", "Executions that run or wait for their turn.", "gauge")
        self.errors = Count("rewindbox_errors_total", "Executions that came to no result, by the error's code.")
        self.rollbacks = Count("rewindbox_rollbacks_total", "Rollbacks, by what asked for them: manual, auto.")
        self.rollback_seconds = Times("rewindbox_rollback_seconds", "Time that rollbacks took that were asked for.")
        self.requests = Count("rewindbox_requests_total", "Requests, by method, route and status.")

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """Everything; `gauges`: name -> text and value of what is only looked at now."""
        looked_at = [Count(name, text, "gauge", {(): value}) for name, (text, value) in gauges.items()]
        everything = [*(getattr(self, name) for name in vars(self)), *looked_at]
        return "".join(f"{line}\n" for one in everything for line in one.lines())
