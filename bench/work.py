"""What Rewindbox does, by its synchronous door, as a program that embeds it sees it.

Every call measured here writes history and points as by default; nothing is switched off.
"""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Mapping

from bench.bare import BARE
from bench.runner import Case, Missing, Row
from rewindbox import Limits, Rewindbox, Vm

_numbers = itertools.count()


def cases(box: Rewindbox, store: str, big_mib: int) -> list[Case]:
    """All of them, in the order of the table."""
    small = Points(box, 1)
    return [
        Executed(box, "vm python", "python", "pass", "a `pass` in python in a vm that exists", 1.3),
        Executed(box, "vm true", "bash", "exec /bin/true", "`exec /bin/true` in bash in the same way", 0.35),
        Executed(box, "vm plain true", "bash", "/bin/true", "`/bin/true` in bash, which forks for it", None),
        NewVm(box),
        Points(box, 0, at_most=0.4),
        small,
        Points(box, big_mib, beside=small),
        Shell(box, store),
    ]


class Executed(Case):
    """One piece of code in a vm that exists."""

    def __init__(self, box: Rewindbox, name: str, language: str, code: str, work: str, at_most: float | None) -> None:
        self.rows = (Row(name=name, work=work, over=BARE, at_most=at_most),)
        self._box, self._language, self._code = box, language, code
        self._vm: Vm | None = None

    def open(self) -> None:
        self._vm = self._box.vm()
        self.sample()

    def sample(self) -> Mapping[str, float]:
        assert self._vm is not None
        started = time.perf_counter()
        execution = self._vm.execute(self._language, self._code)
        seconds = time.perf_counter() - started
        assert execution.success, execution
        return {self.rows[0].name: seconds}

    def close(self) -> None:
        if self._vm is not None:
            self._vm.remove()
            self._vm = None


class NewVm(Case):
    """A vm from nothing to where an execution could start, and away again."""

    rows = (
        Row(name="new vm", work="a new vm, ready for its first execution", over=BARE, at_most=1.0),
        Row(name="new vm after another", work="one more at once, before another machine is kept ready", over=BARE),
        Row(name="stop", work="stopping it", over=BARE),
        Row(name="remove", work="removing it", over=BARE),
    )

    def __init__(self, box: Rewindbox) -> None:
        self._box = box

    def sample(self) -> Mapping[str, float]:
        times = [time.perf_counter()]
        vm = self._started(times)
        other = self._started(times)
        vm.stop()
        times.append(time.perf_counter())
        vm.remove()
        times.append(time.perf_counter())
        other.remove()
        return {row.name: b - a for row, (a, b) in zip(self.rows, itertools.pairwise(times), strict=True)}

    def _started(self, times: list[float]) -> Vm:
        vm = self._box.vm(f"new-{next(_numbers)}")
        vm.list(".")  # what starts it
        times.append(time.perf_counter())
        return vm


class Points(Case):
    """A small file written (which leaves a point), a snapshot, and back to before: with so much in the vm."""

    def __init__(
        self, box: Rewindbox, held_mib: int, *, at_most: float | None = None, beside: "Points | None" = None
    ) -> None:
        """`beside`: the case with little in the vm that this one is a ratio to, instead of the interpreter."""
        self._box, self._held_mib = box, held_mib
        self._vm: Vm | None = None
        self._base = ""
        held = f", {held_mib} MiB in the vm" if held_mib else ""
        target = 1.5 if beside else at_most
        names = [(f"{verb}{held}", words + held) for verb, words in _VERBS.items()]
        self.rows = tuple(
            Row(name=name, work=words, over=beside.rows[i].name if beside else BARE, at_most=target)
            for i, (name, words) in enumerate(names)
        )

    def open(self) -> None:
        self._vm = self._box.vm()
        self._vm.write("notes.txt", "at first\n")
        if self._held_mib:
            filling = self._vm.execute("python", _FILL.format(self._held_mib), limits=Limits(wall_s=900, cpu_s=900))
            if not filling.success:
                raise Missing(f"{self._held_mib} MiB do not fit: {filling.error or filling.stderr[-200:]}")
        self._base = self._vm.snapshot().id

    def sample(self) -> Mapping[str, float]:
        assert self._vm is not None
        times = [time.perf_counter()]
        self._vm.write("notes.txt", f"change {next(_numbers)}\n")
        times.append(time.perf_counter())
        self._vm.snapshot()
        times.append(time.perf_counter())
        self._vm.rollback(self._base)
        times.append(time.perf_counter())
        assert self._vm.read("notes.txt") == b"at first\n"
        return {row.name: b - a for row, (a, b) in zip(self.rows, itertools.pairwise(times), strict=True)}

    def close(self) -> None:
        if self._vm is not None:
            self._vm.remove()
            self._vm = None


_VERBS = {
    "point": "a small file written, and the point after it",
    "snapshot": "a snapshot",
    "rollback": "rollback of a changed small file",
}
_FILL = """
import os
os.makedirs("held")
for number in range({}):
    with open(f"held/{{number}}", "wb") as file:
        file.write(os.urandom(1 << 20))
"""


class Shell(Case):
    """The command line, from the start of its process to the end."""

    rows = (Row(name="shell", work="`rewindbox exec bash true` from a shell", over=BARE, at_most=15),)

    def __init__(self, box: Rewindbox, store: str) -> None:
        self._box, self._name = box, "from-a-shell"
        self._words = [sys.executable, "-m", "rewindbox", "exec", "--vm", self._name, "bash", "true"]
        self._environment = {**os.environ, "REWINDBOX_STORE": store}
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode

    def open(self) -> None:
        vm = self._box.vm(self._name)
        vm.execute("bash", "true")
        vm.stop()  # it is another process that will hold it
        done = subprocess.run(self._words, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(f"`rewindbox exec bash true` ends with {done.returncode}: {done.stderr.strip()[-200:]}")

    def sample(self) -> Mapping[str, float]:
        started = time.perf_counter()
        subprocess.run(
            self._words,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        return {"shell": time.perf_counter() - started}
