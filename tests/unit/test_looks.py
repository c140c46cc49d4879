"""How long the supervisor looks away from what it watches."""

import pytest

from rewindbox.backends.namespace import watch
from rewindbox.backends.namespace.groups import Nowhere


class Clock:
    """Goes only as far as it is put."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


class Idle:
    """A disk on which nothing happens."""

    is_awaited = False

    def is_over(self, limits: dict[str, float]) -> bool:
        return False


@pytest.mark.parametrize(
    ("took_s", "left_mib", "next_s"),
    [(0.001, 1500, 0.05), (0.16, 1500, 0.32), (0.16, 1024, 0.25), (0.16, 0, 0.16), (0.24, 2000, 0.48)],
)
def test_after_a_slow_look_there_is_a_pause_as_long(monkeypatch, took_s, left_mib, next_s):
    """Who has much to be counted has half of the time for itself, unless it could pass its limit by then."""
    clock = Clock()
    monkeypatch.setattr(watch, "time", clock)
    watched = watch.Watched.__new__(watch.Watched)
    watched.limits, watched.deadline, watched.why = {"memory_mib": 2000, "cpu_s": 60}, 200.0, None
    watched.spent_s, watched.peak_bytes, watched._left_bytes, watched.most_threads = 0.0, 0, 2000 << 20, 100
    watched._group, watched._kills_before, watched._disk, watched._held = Nowhere(""), 0, Idle(), []
    watched._next_look = clock.now

    def used(limit_bytes, until):
        clock.now += took_s
        return limit_bytes - (left_mib << 20), 0.0, 1

    monkeypatch.setattr(watched, "_used", used)
    monkeypatch.setattr(watched, "_continue", lambda pids: None)
    assert watched.look_when_due() + took_s == pytest.approx(next_s)


class Counting(Nowhere):
    """A group whose memory the kernel counts."""

    def counts(self, controller: str) -> bool:
        return True

    def used_bytes(self) -> int:
        return 300 << 20


@pytest.mark.parametrize(("group", "told_mib"), [(Nowhere(""), 12_000), (Counting(""), 300)])
def test_what_is_shared_is_counted_once_where_the_kernel_counts(monkeypatch, group, told_mib):
    """Forty processes that share 300 MiB need not be gone through where a control group says that it is no more."""
    fields = [b"0"] * 21 + [b"%d" % ((300 << 20) // watch._PAGE)]
    monkeypatch.setattr(watch, "living", lambda proc, pid: (pid, fields))
    watched, told = watch.Watched.__new__(watch.Watched), []
    watched._group, watched._spent = group, watch.Spent()
    watched.machine = watched._memory = type(
        "Fake", (), {"proc": -1, "used_bytes": lambda _, pids, *given: told.append(given)}
    )()
    monkeypatch.setattr(watched, "members", lambda: list(range(2, 42)))
    monkeypatch.setattr(watched, "cpu_s", lambda ticks: 0.0, raising=False)
    watched._used(2048 << 20, float("inf"))
    assert told == [(told_mib << 20, 2048 << 20)]
