"""How late the answer comes when a program is ended at its deadline, with five hundred processes against it.

They ignore every signal, are sessions of their own, and fork whenever there is room: each that ends has made another
one before. Two times are told. How long code runs on: the last that any of them said, as each does before a fork, less
the limit. How late the answer is: from the call to it, less the limit; starting the program, the kernel's work of
taking five hundred processes apart, the point and history are in it, for no process is left when there is an answer.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from bench import bare
from bench.runner import Case, Missing, Row
from rewindbox import Limits, Rewindbox, Vm

PROCESSES = 500
_THE_99TH = "the same, 99 of 100"
_WALL_S = 5.0
_LIMITS = Limits(wall_s=_WALL_S, processes=PROCESSES, memory_mib=8192)
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
    os.write({told}, b" %.6f" % time.monotonic())
    try:
        if os.fork() and os.getpid() != first: os._exit(0)
        os.setsid()
    except OSError: time.sleep(os.urandom(1)[0] / 512)  # not all at once: one in half a millisecond
"""


class _InOneVm(Case):
    """All samples in one vm, which is removed when they are over."""

    is_sampled_once = True

    def __init__(self, box: Rewindbox, count: int) -> None:
        """`count`: how often each."""
        self._box, self._count = box, count
        self._vm: Vm | None = None

    def close(self) -> None:
        if self._vm is not None:
            self._vm.remove()
            self._vm = None


class Deadline(_InOneVm):
    """Overshoot of the wall limit, each at `_WALL_S`; in executions of their own, or in a live session."""

    def __init__(self, box: Rewindbox, count: int, *, session: str | None = None) -> None:
        super().__init__(box, count)
        self._session, name = session, "session deadline" if session else "deadline"
        whose = f"with {PROCESSES} processes that fork{', in a session' if session else ''}"
        runs_on, late = f"how long code runs on after a deadline, {whose}", f"how late the answer is, {whose}"
        self.rows = (
            Row(name=f"{name} code", work=runs_on, unit="ms"),
            Row(name=f"{name} code p99", work=_THE_99TH, at_most=100.0, unit="ms"),
            Row(name=name, work=late, unit="ms"),
            Row(name=f"{name} p99", work=_THE_99TH, at_most=100.0, unit="ms"),
        )

    def sample(self) -> Mapping[str, float]:
        self._vm = self._box.vm()
        self._vm.execute("python", "pass", session=self._session, limits=_LIMITS)
        times = zip(*(self._once(self._vm) for _ in range(self._count)), strict=True)
        figures = [figure for kind in times for figure in _median_and_99th(kind)]
        return dict(zip([row.name for row in self.rows], figures, strict=True))

    def _once(self, vm: Vm) -> tuple[float, float]:
        """Seconds that code ran on, and that the answer was late."""
        ends = time.monotonic() + _WALL_S
        execution = vm.execute("python", _TREE.format(told=1), session=self._session, limits=_LIMITS)
        answered = time.monotonic()
        if execution.ended != "timeout" or not execution.stdout.startswith("full "):
            raise Missing(f"there were never {PROCESSES} processes: {execution.ended}, {execution.stderr[-200:]}")
        return float(execution.stdout.split()[-1]) - ends, answered - ends


def _median_and_99th(values: Sequence[float]) -> tuple[float, float]:
    values = sorted(values)
    return values[len(values) // 2], values[min(int(len(values) * 0.99), len(values) - 1)]


class Bare(Case):
    """What the kernel alone takes: the same tree outside of any vm, ended by the end of its pid namespace."""

    is_sampled_once = True
    rows = (
        Row(name="bare deadline", work=f"bare: the end of a pid namespace with {PROCESSES} such processes"),
        Row(name="bare deadline p99", work=f"bare: {_THE_99TH}"),
    )

    def __init__(self, count: int) -> None:
        """`count`: how often."""
        self._count = count

    def sample(self) -> Mapping[str, float]:
        if shutil.which("unshare") is None or shutil.which("prlimit") is None:
            raise Missing("no unshare or prlimit: install util-linux")
        took = [self._once() for _ in range(self._count)]
        return dict(zip([row.name for row in self.rows], _median_and_99th(took), strict=True))

    def _once(self) -> float:
        started = time.monotonic()
        with subprocess.Popen(self._command(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as above:
            assert above.stdout is not None
            try:
                if above.stdout.read(4) != b"full":
                    raise Missing("this user may make no pid namespace, or no process in it")
                time.sleep(max(started + _WALL_S - time.monotonic(), 0))  # as long as in a vm
                with open(f"/proc/{above.pid}/task/{above.pid}/children", encoding="ascii") as file:
                    first = int(file.read().split()[0])
                killed = time.perf_counter()
                os.kill(first, signal.SIGKILL)
                above.wait()
                return time.perf_counter() - killed
            finally:
                above.kill()  # and the kernel all below it

    @staticmethod
    def _command() -> list[str]:
        alone = ["unshare", "--user", "--map-current-user", "--pid", "--fork", "--kill-child"]
        python = [bare.python(), "-c", _TREE.format(told=2)]
        return [*bare.as_anybody(), *alone, "prlimit", f"--nproc={PROCESSES}", *python]


_GREEDY: dict[str, tuple[str, Limits, frozenset[str]]] = {
    "memory": ("x = bytearray(b'x') * (2 << 30)", Limits(memory_mib=300), frozenset({"memory"})),
    "processes": (
        "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
        Limits(wall_s=1, processes=256),
        frozenset({"timeout"}),
    ),
    "output": ("while True: print('x' * 1000)", Limits(output_bytes=1 << 20), frozenset({"output"})),
    "disk": (
        "with open('f', 'wb') as f:\n while True: f.write(b'x' * (1 << 20))",
        Limits(disk_mib=64),
        frozenset({"killed"}),
    ),
    "shared memory": (
        "with open('/dev/shm/f', 'wb') as f:\n for _ in range(240): f.write(b'x' * (1 << 20))\n"
        "import time; time.sleep(5)",
        Limits(memory_mib=150),
        frozenset({"memory"}),
    ),
    "processor": ("import os\nos.fork(); os.fork()\nwhile True: pass", Limits(cpu_s=1), frozenset({"timeout"})),
}
"""What wants all there is, the limit that ends it, and the ways in which that may be told."""


class Recovery(_InOneVm):
    """How long a vm whose program was ended at a limit keeps the next one waiting, from answer to answer."""

    rows = (
        Row(
            name="recovery",
            work=f"`exec /bin/true` after a program that was ended at a limit, the worst of {len(_GREEDY)} kinds",
            at_most=1000.0,
        ),
    )

    def sample(self) -> Mapping[str, float]:
        self._vm = self._box.vm()
        return {"recovery": max(self._once(self._vm, kind) for _ in range(self._count) for kind in _GREEDY)}

    def _once(self, vm: Vm, kind: str) -> float:
        code, limits, endings = _GREEDY[kind]
        execution = vm.execute("python", code, limits=limits)
        if execution.ended not in endings:
            raise Missing(f"{kind}: {execution.ended}, {execution.stderr[-200:]}")
        started = time.perf_counter()
        if not vm.execute("bash", "exec /bin/true").success:
            raise Missing(f"nothing runs after {kind}")
        took_s = time.perf_counter() - started
        vm.rollback(str(execution.before))
        return took_s
