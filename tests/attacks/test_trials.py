"""How attacks are looked at: what is ours and about to become a job is no attack."""

import threading

import anyio
import pytest

from conftest import job, until
from rewindbox.attacks import trial

pytestmark = pytest.mark.anyio


async def test_what_is_starting_is_waited_for(vm, monkeypatch):
    """A job on its way to its program has capabilities, as whoever starts it; that is no complaint, in any vm."""
    looked, found, seen = threading.Event(), [], trial._inhabitants

    def seen_again():
        if looks := getattr(seen_again, "looks", 0):
            looked.set()
        seen_again.looks = looks + 1
        return seen()

    def look():
        found.append(anyio.run(trial.complaints))

    looker = threading.Thread(target=look)

    def hold():
        """Before the job may go: it is held until somebody has looked at it twice."""
        until(lambda: trial._complaints(*seen()), "it waits at the gate")
        monkeypatch.setattr(trial, "_inhabitants", seen_again)
        looker.start()
        assert looked.wait(30)

    await vm.execute(job("true"), on_ready=hold)
    await anyio.to_thread.run_sync(looker.join)
    assert found == [[]]
