"""Calls into one event loop that callers drive: results, errors, signals, threads, and an end that waits."""

import asyncio
import contextvars
import os
import signal
import threading

import anyio
import pytest

from conftest import until
from rewindbox.portal import Portal

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


def test_nothing_is_left_of_a_refused_call(portal):
    """After a call was refused the others go on, and so does the end."""

    async def refused():
        with pytest.raises(RuntimeError):
            portal.call(add, 1)
        return 1

    assert portal.call(refused) == 1
    assert portal.call(add, 4) == 4


def test_threads_call_at_once(portal):
    """Calls of several threads go on together; who ends first leaves the loop to the others."""
    inside, order = [], []
    both = threading.Barrier(9, timeout=60)

    async def meet(number):
        inside.append(number)
        while len(inside) < 8 or len(order) < number:
            await anyio.sleep(0.0001)
        order.append(number)

    def one(number):
        both.wait()
        portal.call(meet, number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    both.wait()
    for thread in threads:
        thread.join(60)
    assert order == list(range(8))


def test_many_short_calls_of_many_threads(portal):
    """No call is lost and none waits for ever, however the seat is passed on."""
    found = []

    def many(number):
        found.extend(portal.call(add, number, other=n) for n in range(200))

    threads = [threading.Thread(target=many, args=(1000 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == sorted(1000 * number + n for number in range(6) for n in range(200))


def test_where_a_loop_runs_already(portal):
    """In a notebook, say: a thread that runs a loop can call, and its own loop is as it was."""

    async def notebook():
        first = portal.call(add, 1)
        await asyncio.sleep(0)
        return first, portal.call(add, 2)

    assert asyncio.run(notebook()) == (1, 2)


@pytest.fixture
def busy(portal):
    """Another thread that drives the loop, until it is told to end."""
    drives, end = threading.Event(), threading.Event()

    async def drive():
        drives.set()
        while not end.is_set():
            await anyio.sleep(0.001)

    thread = threading.Thread(target=portal.call, args=(drive,))
    thread.start()
    drives.wait(60)
    yield
    end.set()
    thread.join(60)


async def long(seen, begun):
    """Waits for ever, and ends in order."""
    try:
        begun()
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.01)
            seen.append("in order")


def interrupt_main():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def ended_in_order(portal):
    seen = []
    with pytest.raises(KeyboardInterrupt):
        portal.call(long, seen, interrupt_main)
    assert seen == ["in order"]
    assert portal.call(add, 1) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupted_driver(portal):
    """Ctrl-C cancels the call, what it shields is done first, and only then does the caller go on."""
    ended_in_order(portal)


def test_interrupted_while_another_drives(portal, busy):
    """The same where another thread runs the loop."""
    ended_in_order(portal)


def test_interrupted_in_a_notebook(portal):
    """The same where the caller's thread runs a loop of its own, whose own Ctrl-C is not asyncio.run's."""

    async def notebook():
        ended_in_order(portal)

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(notebook())
    finally:
        loop.close()


def test_a_signal_that_does_not_end_the_wait(portal):
    """As one that comes just before the loop begins to wait, or to another thread: the loop is woken for it."""
    waits, ended = threading.Event(), []

    async def wait():
        asyncio.get_running_loop().call_later(0.05, waits.set)  # in the wait of half a minute after that
        await anyio.sleep(30)
        ended.append("by itself")

    def take_it():
        assert waits.wait(60)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    thread = threading.Thread(target=take_it)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        portal.call(wait)
    thread.join()
    assert not ended and signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("others", [0, 1], ids=["in a notebook", "while another drives"])
def test_interrupted_at_any_moment(portal, others):
    """Wherever the waiting thread is when Ctrl-C comes: between looking for it and beginning to wait, say."""
    over, ended = threading.Event(), []

    async def interrupted(spin):
        try:
            for _ in range(spin):
                pass
            interrupt_main()
            await anyio.sleep_forever()
        finally:
            ended.append(spin)

    def drive_often():
        while not over.is_set():
            portal.call(anyio.sleep, 0.0002)

    async def notebook():
        for number in range(400):
            with pytest.raises(KeyboardInterrupt):
                portal.call(interrupted, number * 17 % 1000)

    thread = threading.Thread(target=drive_often)
    if others:
        thread.start()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(notebook())
    loop.close()
    over.set()
    if others:
        thread.join(60)
    assert len(ended) == 400


def test_interrupted_before_its_first_step(portal):
    """A call that another thread's callback keeps from starting is cancelled all the same, and never goes on."""
    blocks, go_on, seen = threading.Event(), threading.Event(), []

    async def block():
        blocks.set()
        go_on.wait(60)

    def interrupt():
        until(lambda: len(portal._waiting) == 1, "the main thread waits")
        interrupt_main()
        go_on.set()

    threads = [threading.Thread(target=portal.call, args=(block,)), threading.Thread(target=interrupt)]
    threads[0].start()
    blocks.wait(60)
    threads[1].start()

    async def never():
        await anyio.sleep(0)
        seen.append("went on")

    with pytest.raises(KeyboardInterrupt):
        portal.call(never)
    for thread in threads:
        thread.join(60)
    assert seen == []


class Alarm(Exception):
    """What a handler raises."""


@pytest.fixture
def handler(monkeypatch):
    """Sets a handler of SIGUSR1; the old one comes back."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda function: signal.signal(signal.SIGUSR1, function)
    signal.signal(signal.SIGUSR1, before)


def test_a_handler_that_returns(portal, handler):
    """It runs soon, between steps of the loop, may call into it itself, and the interrupted call goes on."""
    ran = []

    def handle(number, frame):
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        ran.append(portal.call(add, 1))

    async def call():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert ran == []
        while not ran:
            await anyio.sleep(0.001)
        return "done"

    handler(handle)
    assert portal.call(call) == "done"
    assert ran == [1] and signal.getsignal(signal.SIGUSR1) is handle


def test_a_handler_that_raises(portal, handler):
    """Whatever it raises comes out of the call that it interrupted, the first where it raises again."""
    numbers = iter((1, 2, 3))

    def handle(number, frame):
        raise Alarm(next(numbers))

    async def call():
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            await anyio.sleep_forever()
        finally:
            os.kill(os.getpid(), signal.SIGUSR1)

    handler(handle)
    with pytest.raises(Alarm, match="1"):
        portal.call(call)
    assert portal.call(add, 3) == 3


def test_a_handler_of_the_callers(portal, handler):
    """A handler that sets another one: that one stays."""

    def second(number, frame):
        pass

    async def call():
        os.kill(os.getpid(), signal.SIGUSR1)
        await anyio.sleep(0.01)

    handler(lambda number, frame: signal.signal(signal.SIGUSR1, second))
    portal.call(call)
    assert signal.getsignal(signal.SIGUSR1) is second


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
    with pytest.raises(OSError, match="Too many"):
        Portal().__enter__()


def test_generators_that_were_let_go_are_closed():
    """One within the other, by the end of the portal: what they hold is given back."""
    closed: list[str] = []

    async def inner():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append("inner")

    async def outer():
        try:
            async for number in inner():
                yield number
        finally:
            closed.append("outer")

    async def let_go():
        return await anext(outer())

    with Portal() as portal:
        assert portal.call(let_go) == 1
    assert closed == ["outer", "inner"]
