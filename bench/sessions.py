"""Live Python sessions, by the synchronous door: executions that leave checkpoints, rollbacks of variables, new ones.

As everywhere here nothing is switched off: every execution is in history, and what is said to be checkpointed is
looked at, outside of what is timed.
"""

import itertools
import time
from collections.abc import Mapping

from bench.bare import BARE
from bench.runner import Case, Missing, Row
from rewindbox import Execution, Limits, Rewindbox, Session, Vm

_FIRST, _LATER = "at first\n", "later\n"
_BEGIN = f"x = 0\nwith open('notes.txt', 'w') as file: file.write({_FIRST!r})"
_CHANGE = f"x += 1\nwith open('notes.txt', 'w') as file: file.write({_LATER!r})"
_HELD = {
    "arrays": "import os; held = bytearray(os.urandom(1000)) * ({mb} * 1000)",
    "small objects": "held = ['%047d' % n if n % 2 else b'%063d' % n for n in range({mb} * 10**6 // 104)]",
}
"""What fills a session. A small object takes 96 bytes, and 8 for its place in the list; no two are the same."""
_numbers = itertools.count()


def cases(box: Rewindbox, held_mb: int) -> list[Case]:
    """All of them, in the order of the table."""
    return [
        Stateful(box),
        Back(box, at_most=0.3),
        Back(box, "arrays", held_mb, at_most=0.5),
        Back(box, "small objects", held_mb, at_most=1.2),
        NewSession(box),
    ]


class InVm(Case):
    """What is measured in one vm that lives as long as the case."""

    def __init__(self, box: Rewindbox) -> None:
        self.box = box
        self._opened: Vm | None = None

    @property
    def vm(self) -> Vm:
        if self._opened is None:
            self._opened = self.box.vm()
        return self._opened

    def close(self) -> None:
        if self._opened is not None:
            self._opened.remove()
            self._opened = None


class Stateful(InVm):
    """An execution in a session that exists, and one more before the first one's checkpoint is there."""

    rows = (
        Row(name="session execute", work="`x += 1` in a python session, checkpointed", over=BARE, at_most=0.15),
        Row(name="session execute at once", work="one more at once, which waits for that checkpoint", over=BARE),
    )

    def open(self) -> None:
        self._session = self.vm.session()
        _run(self._session, "x = 0")
        self.sample()
        assert _run(self._session, "x").result == "2"

    def sample(self) -> Mapping[str, float]:
        times, points = [time.perf_counter()], []
        for _ in self.rows:
            points.append(_run(self._session, "x += 1").after)
            times.append(time.perf_counter())
        if not self.vm.live_points().issuperset(points):  # to be asked it waits for the last checkpoint, too
            raise Missing("an execution left no checkpoint")
        return {row.name: b - a for row, (a, b) in zip(self.rows, itertools.pairwise(times), strict=True)}


class Back(InVm):
    """From a changed file and a changed variable back to before, with so much in the session's variables."""

    def __init__(self, box: Rewindbox, held_as: str = "", held_mb: int = 0, *, at_most: float) -> None:
        super().__init__(box)
        held = f", {held_mb} MB in {held_as}" if held_as else ""
        self._fill = _HELD[held_as].format(mb=held_mb) if held_as else "held = None"
        self._limits = Limits(wall_s=300, cpu_s=300, memory_mib=2048 + 2 * held_mb)
        work = f"rollback of a changed file and a changed variable{held}"
        self.rows = (
            Row(name=f"session rollback{held}", work=work, over=BARE, at_most=at_most),
            Row(name=f"session after rollback{held}", work=f"the first execution after it{held}", over=BARE),
        )

    def open(self) -> None:
        self._session = self.vm.session()
        for code in (self._fill, _BEGIN):
            filling = self._session.execute(code, limits=self._limits)
            if not filling.success:
                raise Missing(f"a session cannot hold as much: {filling.error or filling.stderr[-200:]}")
        self._base = self.vm.snapshot().id
        self.sample()

    def sample(self) -> Mapping[str, float]:
        _run(self._session, _CHANGE, self._limits)
        assert self.vm.read("notes.txt") == _LATER.encode()  # and the checkpoint of that is there
        times = [time.perf_counter()]
        back = self.vm.rollback(self._base)
        times.append(time.perf_counter())
        value = _run(self._session, "x", self._limits).result
        times.append(time.perf_counter())
        if back.lost:
            raise Missing("the session's checkpoint is gone")
        assert value == "0" and self.vm.read("notes.txt") == _FIRST.encode()
        return {row.name: b - a for row, (a, b) in zip(self.rows, itertools.pairwise(times), strict=True)}


class NewSession(InVm):
    """A session more in a vm that has had one; and the first one of a vm."""

    rows = (
        Row(name="new session", work="a new session in a vm that has had one", over=BARE, at_most=0.3),
        Row(name="new session used", work="its first execution", over=BARE),
        Row(name="first session", work="the first session of a vm that runs", over=BARE),
    )

    def open(self) -> None:
        _run(self.vm.session(name="first"), "x = 0")

    def sample(self) -> Mapping[str, float]:
        other = self.box.vm()
        other.list(".")  # what starts it
        name, times = f"new-{next(_numbers)}", [time.perf_counter()]
        session = self.vm.session(name=name)
        times.append(time.perf_counter())
        _run(session, "x = 0")
        times.append(time.perf_counter())
        other.session()
        times.append(time.perf_counter())
        session.close()
        other.remove()
        return {row.name: b - a for row, (a, b) in zip(self.rows, itertools.pairwise(times), strict=True)}


def _run(session: Session, code: str, limits: Limits | None = None) -> Execution:
    execution = session.execute(code, limits=limits)
    assert execution.success, execution
    return execution
