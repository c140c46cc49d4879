"""Waiting for a child that comes to its gate: soon where it can, and out of its way where it cannot."""

from itertools import islice
from typing import Any

import pytest

from rewindbox.backends.namespace import spawner
from rewindbox.backends.namespace.spawner import Spawner


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(spawner, "time", clock)
    return clock


def waiting() -> Any:
    found = object.__new__(Spawner)  # nothing is started
    found.is_over = False
    return found


def test_who_waits_looks_at_once_and_often_at_first(clock):
    """A child that takes a fifth of a millisecond is not kept waiting for more than a fifth of that again."""
    looks = waiting()._looks()
    at = [clock.now for _ in islice(looks, 50)]
    assert at[0] == 0
    first_after = next(moment for moment in at if moment >= 0.0002)
    assert first_after < 0.0002 * 1.2


def test_who_waits_long_gives_way(clock):
    """Who waits for seconds asks for less than a twentieth of a processor, at 50 us a look, and gives up some time."""
    count = sum(1 for _ in waiting()._looks())
    assert clock.now >= spawner._HELD_S
    assert count * 50e-6 < clock.now / 20


def test_nobody_waits_for_what_is_over(clock):
    """A start that has failed is not waited for."""
    found = waiting()
    looks = found._looks()
    next(looks)
    found.is_over = True
    assert list(looks) == []
    assert clock.now < 0.001
