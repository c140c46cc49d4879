"""Calls from other threads into one event loop: results, errors, Ctrl-C, and an end that waits."""

import contextvars
import threading

import anyio
import pytest

from rewindbox.portal import Portal, _Call

NAME = contextvars.ContextVar("NAME", default="nobody")


@pytest.fixture
def portal():
    with Portal() as portal:
        yield portal


async def add(one, other=0):
    await anyio.sleep(0)
    return one + other


async def fail(error):
    raise error


def test_what_it_returns_and_raises(portal):
    """Arguments go in, the result comes out, or the very exception; one that ends programs does not end the loop."""
    assert portal.call(add, 1, other=2) == 3
    for error in (ValueError("no"), SystemExit(3), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            portal.call(fail, error)
        assert caught.value is error
    assert portal.call(add, 4) == 4


def test_context_of_the_caller(portal):
    """Callbacks see the context variables of the thread that calls."""

    async def who():
        return NAME.get()

    NAME.set("me")
    assert portal.call(who) == "me"


def test_from_its_own_thread(portal):
    """A callback that calls again would wait for itself: it is told so."""

    async def again():
        portal.call(add, 1)

    with pytest.raises(RuntimeError, match="event loop thread"):
        portal.call(again)


def test_threads_call_at_once(portal):
    """Calls of several threads go on together."""
    both = threading.Barrier(2, timeout=60)
    inside = []

    async def meet():
        inside.append(None)
        while len(inside) < 2:
            await anyio.sleep(0.001)

    def one():
        both.wait()
        portal.call(meet)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(inside) == 2


@pytest.mark.parametrize("where", ["before its first step", "while it waits"])
def test_interrupted_caller(portal, monkeypatch, where):
    """The call is cancelled, what it shields is done first, and only then does the caller go on."""
    seen = []
    waiting = threading.Event()

    async def long():
        try:
            waiting.set()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
                seen.append("in order")

    waits = iter([True, False])

    def wait(call, wait=_Call.wait):
        if next(waits):
            if where == "while it waits":
                waiting.wait(60)
            raise KeyboardInterrupt
        wait(call)

    monkeypatch.setattr("rewindbox.portal._Call.wait", wait)
    with pytest.raises(KeyboardInterrupt):
        portal.call(long)
    assert seen == ["in order"]


def test_end_waits_for_calls():
    """A call of another thread that goes on at the end is waited for; afterwards nothing can be called."""
    begun, ended = threading.Event(), []

    async def slow():
        begun.set()
        await anyio.sleep(0.05)
        ended.append(None)

    with Portal() as portal:
        thread = threading.Thread(target=portal.call, args=(slow,))
        thread.start()
        begun.wait(60)
    assert ended == [None]
    thread.join(60)
    with pytest.raises(RuntimeError):
        portal.call(add, 1)


def test_no_loop(monkeypatch):
    """Where no event loop can be made, who opens the portal is told why."""

    def no_loop():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("asyncio.new_event_loop", no_loop)
    monkeypatch.setattr("asyncio.events.new_event_loop", no_loop)
    with pytest.raises(OSError, match="Too many"):
        Portal().__enter__()
