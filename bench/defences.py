"""What all defences cost together: the same execution in a vm that has them and in one that has not.

That one is started with a boot code of ours, in place of the launcher's: there is no such switch in the library.
Both are sampled in the same round, in turn the first; the figure is the difference.
"""

import itertools
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from bench.bare import BARE
from bench.runner import Case, Row
from rewindbox import Rewindbox, Vm
from rewindbox.backends.namespace import starting

BOOT = """
import sys
sys.path.append(sys.argv[1])
from rewindbox.backends.namespace import ground, kernel, landlock, launcher, machine, seccomp
seccomp.install = lambda *_, **__: 0
landlock.put_on = lambda: False
ground.claim = lambda owner: ground.Ground(why_not="left out")
machine._mask_proc = lambda proc: None
kernel.empty_bounding_set = kernel.no_new_privileges = lambda: None
launcher.main()
"""
_CODE = "exec /bin/true"


class Defences(Case):
    """One execution with everything that a vm wears, and one without."""

    rows = (
        Row(
            name="undefended true",
            work="`exec /bin/true` in bash without seccomp, Landlock, control groups, masks and the rest",
            over=BARE,
        ),
        Row(name="defences", work="all defences together: what they add to that", over=BARE, at_most=0.15),
    )

    def __init__(self, box: Rewindbox, store: str) -> None:
        self._box, self._folder = box, os.path.join(store, "undefended")
        self._open = ExitStack()
        self._vms: list[Vm] = []
        self._rounds = itertools.count()

    def open(self) -> None:
        with _undefended():
            other = self._open.enter_context(Rewindbox(self._folder))
            self._vms = [self._box.vm(), other.vm()]
            for vm in self._vms:
                _run(vm)

    def sample(self) -> Mapping[str, float]:
        order = [0, 1] if next(self._rounds) % 2 else [1, 0]
        seconds = {number: _run(self._vms[number]) for number in order}
        return {"undefended true": seconds[1], "defences": seconds[0] - seconds[1]}

    def close(self) -> None:
        for vm in self._vms:
            vm.remove()
        self._vms = []
        self._open.close()


@contextmanager
def _undefended() -> Iterator[None]:
    """A launcher that is started meanwhile is one without defences."""
    boot = starting._BOOT
    starting._BOOT = BOOT
    try:
        yield
    finally:
        starting._BOOT = boot


def _run(vm: Vm) -> float:
    started = time.perf_counter()
    execution = vm.execute("bash", _CODE)
    seconds = time.perf_counter() - started
    assert execution.success, execution
    return seconds
