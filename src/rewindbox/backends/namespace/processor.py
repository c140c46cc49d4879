"""The processor's time of processes that come and go, seen from outside. Runs in the supervisor.

/proc shows what a process has used as long as it is there; when its parent has waited for it, the parent shows it. Who
is reaped by the kernel itself (its parent ignores SIGCHLD, or is pid 1, as for every orphan) is shown by nobody any
more: what was last seen of it is added. So of such a process what it uses between the last look and its end is missed,
unless a control group counts (`Nowhere.cpu_s`).
"""

Shown = dict[tuple[int, bytes], tuple[int, int]]
"""Who (pid, and when it started) -> ticks of its own, and of children that it has waited for."""


class Spent:
    """What was used since the first look, by processes that are looked at now and then."""

    def __init__(self) -> None:
        self._shown: Shown = {}
        self._reaped = 0
        self._lost = self._missing = 0

    def ticks(self, shown: Shown, reaped: int) -> int:
        """All that processes have used in their lives. `reaped`: of those that the supervisor itself has waited for.

        Who ends while others are looked at is not there, and his parent, who was looked at before, does not show it
        yet: so what is missing is lost when it is still missing at the next look.
        """
        before = self._shown
        gone = sum(sum(used) for who, used in before.items() if who not in shown)
        handed_on = reaped - self._reaped
        handed_on += sum(waited - before.get(who, (0, 0))[1] for who, (_, waited) in shown.items())
        self._lost += max(self._missing - handed_on, 0)
        self._missing = max(gone - max(handed_on - self._missing, 0), 0)
        self._shown, self._reaped = shown, reaped
        return sum(map(sum, shown.values())) + reaped + self._lost
