"""How late the answer comes when a program is ended at its deadline, with five hundred processes against it.

They ignore every signal, are sessions of their own, and fork whenever there is room: each that ends has made another
one before. Timed from the call to its answer, less the limit: starting the program, ending all of them, taking the
point and writing history are in it. That none is left is not timed, and is tested elsewhere.
"""

import time
from collections.abc import Mapping

from bench.runner import Case, Missing, Row
from rewindbox import Limits, Rewindbox, Vm

PROCESSES = 500
_WALL_S = 5.0
_TREE = """
import os, signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
first = os.getpid()
wait, full = os.pipe()
try:
    while os.fork() or os.setsid(): pass
except OSError:
    os.write(1, b"full")
    os.close(full)
else:
    os.close(full)
    os.read(wait, 1)  # until all are there
while True:
    try:
        if os.fork() and os.getpid() != first: os._exit(0)
        os.setsid()
    except OSError: time.sleep(0.25)
"""


class Deadline(Case):
    """Overshoot of the wall limit."""

    rows = (
        Row(name="deadline", work=f"overshoot of a deadline with {PROCESSES} processes that fork", unit="ms"),
        Row(name="deadline p99", work="the same, 99 of 100", at_most=100.0, unit="ms"),
    )
    is_sampled_once = True

    def __init__(self, box: Rewindbox, count: int = 20) -> None:
        """`count`: how often, at `_WALL_S` each."""
        self._box, self._count = box, count
        self._vm: Vm | None = None

    def sample(self) -> Mapping[str, float]:
        self._vm = self._box.vm()
        self._vm.execute("python", "pass")
        late = sorted(self._once(self._vm) for _ in range(self._count))
        return {"deadline": late[len(late) // 2], "deadline p99": late[min(int(len(late) * 0.99), len(late) - 1)]}

    def _once(self, vm: Vm) -> float:
        limits = Limits(wall_s=_WALL_S, processes=PROCESSES, memory_mib=8192)
        started = time.perf_counter()
        execution = vm.execute("python", _TREE, limits=limits)
        late_s = time.perf_counter() - started - _WALL_S
        if execution.ended != "timeout" or "full" not in execution.stdout:
            raise Missing(f"there were never {PROCESSES} processes: {execution.ended}, {execution.stderr[-200:]}")
        return late_s

    def close(self) -> None:
        if self._vm is not None:
            self._vm.remove()
            self._vm = None
