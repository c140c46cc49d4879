"""Who is there, as the supervisor sees it."""

import contextlib
import os
import threading
from pathlib import Path

import pytest

from rewindbox.backends.namespace.processes import StillAlive, kill_all, processes


def test_two_who_look_at_once_both_see_everybody():
    """A listing in another thread, as for what is counted on disk, takes nobody out of that by which all are ended."""
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    over = threading.Event()

    def look_all_the_time() -> None:
        while not over.is_set():
            processes(proc)

    others = [threading.Thread(target=look_all_the_time) for _ in range(2)]
    try:
        for other in others:
            other.start()
        missed = [number for number in range(300) if os.getpid() not in processes(proc)]
    finally:
        over.set()
        for other in others:
            other.join()
        os.close(proc)
    assert not missed


class Slowly:
    """A clock that goes by 6 s with each sleep, after which so many of the processes in a folder have gone."""

    def __init__(self, proc: Path, each: int) -> None:
        self._proc, self._each, self._now = proc, each, 0.0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, _: float) -> None:
        self._now += 6
        for entry in list(self._proc.iterdir())[: self._each]:
            entry.rmdir()


@pytest.mark.parametrize("each", [0, 1])
def test_who_dies_slowly_is_waited_for(tmp_path, monkeypatch, each):
    """As long as one after the other goes, however many there are; where none does somebody is told."""
    for pid in range(100, 110):
        (tmp_path / str(pid)).mkdir()
    proc = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    monkeypatch.setattr("rewindbox.backends.namespace.processes.time", Slowly(tmp_path, each))
    with contextlib.nullcontext() if each else pytest.raises(StillAlive, match="10 processes"):
        kill_all(proc)
    os.close(proc)
