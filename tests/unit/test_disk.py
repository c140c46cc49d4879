"""What a vm's files occupy is counted while its code runs, or, where that takes long, is stopped."""

import os
import threading
import time

import pytest

from rewindbox.backends.namespace.occupied import Usage
from rewindbox.backends.namespace.watch import Disk

LIMITS = {"disk_mib": 100, "inodes": 1000}
GROWN = 200 << 20


class Slow:
    """A count that takes as long as one likes, of a disk that has less with each look."""

    def __init__(self, monkeypatch) -> None:
        self.said, self.may_end = Usage(), threading.Event()
        self._real, self._less = os.statvfs("."), 0
        monkeypatch.setattr(os, "statvfs", self.statvfs)

    def statvfs(self, _: str) -> os.statvfs_result:
        free = self._real.f_bfree - self._less // self._real.f_frsize
        return os.statvfs_result((*self._real[:3], free, *self._real[4:]))

    def grow(self) -> None:
        self._less += GROWN

    def count(self) -> Usage:
        assert self.may_end.wait(60)
        return self.said


def until(is_so) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("said", [Usage(1, GROWN), Usage(1, 0)], ids=["over", "others"])
def test_what_may_be_over_is_awaited(monkeypatch, said):
    """Where the disk has so much less that the limit may be passed, and to count takes long, nobody is to write."""
    slow = Slow(monkeypatch)
    disk = Disk(slow.count, lambda: (Usage(), False), is_new=True)
    assert not disk.is_over(LIMITS) and not disk.is_awaited
    slow.grow()
    assert not disk.is_over(LIMITS)
    until(lambda: disk.is_awaited)
    slow.said = said
    slow.may_end.set()
    until(lambda: not disk.is_awaited)
    assert disk.is_over(LIMITS) == (said.size_bytes > 0)


def test_what_nobody_knows_is_counted_beside_the_code(monkeypatch):
    """The first count of a vm that stands on files of before stops nobody: nothing says that it has too much."""
    slow = Slow(monkeypatch)
    disk = Disk(slow.count, lambda: (Usage(), False), is_new=False)
    assert not disk.is_over(LIMITS)
    until(lambda: time.monotonic() > disk._began + 0.1)
    assert not disk.is_awaited
    slow.grow()  # since it began by more than the limit, whatever was there before
    assert not disk.is_over(LIMITS) and disk.is_awaited
    slow.may_end.set()
