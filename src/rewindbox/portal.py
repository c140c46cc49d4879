"""An event loop without a thread of its own: whoever calls into it drives it.

To call into another thread and back takes two changes of thread, 70 to 120 us each where the processor sleeps in
between. So the caller's own thread runs the loop until its call has ended. Of several threads that call at once one
has the *seat* and drives for all; when its call has ended it leaves the seat to one that waits. Knows nothing of what
is called.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, TypeVar

import anyio

from rewindbox.interrupts import Interrupts

T = TypeVar("T")
_RINGS = 4096


class Portal:
    """An event loop, driven by those who call. Use it in a `with` block; its end waits for the calls that go on."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        """Guards the four below."""
        self._has_ended = False
        self._calls: set[_Call[Any]] = set()
        self._driver: _Call[Any] | None = None
        self._waiting: list[_Call[Any]] = []
        self._loop: asyncio.AbstractEventLoop
        self._heard: int
        self._bell: int
        """What is written there wakes the loop."""

    def __enter__(self) -> "Portal":
        self._loop = asyncio.new_event_loop()
        self._heard, self._bell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._loop.add_reader(self._heard, os.read, self._heard, _RINGS)
        return self

    def __exit__(self, *_: object) -> None:
        can_drive = self._can_drive()
        with self._mutex:
            self._has_ended = True
        self._run(_Call(self._leave, self._end_of), can_drive)
        self._loop.close()
        os.close(self._heard)
        os.close(self._bell)

    async def _leave(self) -> None:
        while tasks := [call.task for call in list(self._calls) if call.task is not None]:
            await asyncio.wait(tasks)
        await self._loop.shutdown_asyncgens()
        await _let_go_of_generators()
        await self._loop.shutdown_default_executor()

    def call(self, function: Callable[..., Awaitable[T]], *arguments: Any, **options: Any) -> T:
        """Run a coroutine function to its end, and return or raise what it does.

        Ctrl-C (or any exception) in the caller meanwhile cancels it, waits for it to end in order, and goes on.

        Raises RuntimeError: called by what the loop runs (a callback), which would wait for itself; or after the end.
        """
        can_drive, call = self._can_drive(), _Call(lambda: function(*arguments, **options), self._end_of)
        with self._mutex:
            if self._has_ended:
                raise RuntimeError("the event loop has ended")
            self._calls.add(call)
        result: T = self._run(call, can_drive)
        return result

    def _can_drive(self) -> bool:
        """Whether this thread can run our loop: not while it runs one already, as in a notebook."""
        running = asyncio._get_running_loop()  # without the underscore it raises where there is none, at 20 us
        if running is None:
            return "trio" not in sys.modules or not sys.modules["trio"].lowlevel.in_trio_run()
        if running is self._loop:
            raise RuntimeError("This method cannot be called from the event loop thread")
        return False

    def _run(self, call: "_Call[T]", can_drive: bool) -> T:
        with Interrupts(self._loop, call.cancel, self._bell) as interrupts:
            has_seat = self._takes_seat(call)
            (self._loop.call_soon if has_seat else self._loop.call_soon_threadsafe)(call.start)
            while not call.ended:
                if has_seat and can_drive:
                    interrupts.while_driving(partial(self._drive, call))
                elif has_seat:
                    self._have_driven(call, interrupts)
                else:
                    interrupts.while_waiting(call.turn)
                interrupts.handle()
                has_seat = not call.ended and self._takes_seat(call)
        return call.result()

    def _takes_seat(self, call: "_Call[Any]") -> bool:
        """Whether it has the seat now. Otherwise its turn comes when it has ended, or is the next to drive."""
        with self._mutex:
            if self._driver in (None, call):
                self._driver = call
            elif not call.ended and call not in self._waiting:
                self._waiting.append(call)
            return self._driver is call

    def _drive(self, call: "_Call[Any]") -> None:
        """Run the loop until the call has ended, or a signal has come; then leave the seat to the next."""
        try:
            if not call.ended:
                self._loop.run_forever()
        finally:
            with self._mutex:
                self._driver = self._waiting.pop(0) if self._waiting else None
                if self._driver is not None:
                    self._driver.wake()

    def _have_driven(self, call: "_Call[Any]", interrupts: Interrupts) -> None:
        """As `_drive`, by another thread."""
        left: list[BaseException | None] = []  # a `join` that is interrupted takes the thread for ended
        bell = threading.Lock()
        bell.acquire()

        def drive() -> None:
            failure: BaseException | None = None
            try:
                self._drive(call)
            except BaseException as error:
                failure = error
            left.append(failure)
            bell.release()

        threading.Thread(target=drive).start()
        while not left:
            interrupts.while_waiting(bell)
        if left[0] is not None:
            raise left[0]

    def _end_of(self, call: "_Call[Any]") -> None:
        """Called in the loop."""
        with self._mutex:
            self._calls.discard(call)
            if call in self._waiting:
                self._waiting.remove(call)
        if self._driver is call:
            self._loop.stop()
        else:
            call.wake()


async def _let_go_of_generators() -> None:
    """A generator that nobody has any more is closed by a task of its own, which may let go of another one, and so on.

    One that the end of the loop finds waiting is a warning from Python 3.13 on.
    """
    await asyncio.sleep(0)
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)
        await asyncio.sleep(0)


class _Call(Generic[T]):
    """One call: made and waited for by its thread, all else in the loop."""

    def __init__(self, function: Callable[[], Awaitable[T]], on_end: Callable[["_Call[T]"], None]) -> None:
        self.task: asyncio.Task[None] | None = None
        self.ended = False
        self.turn = threading.Lock()
        """Held until it has ended, or is to drive: a lock is the cheapest thing to wait for."""
        self.turn.acquire()
        self._function, self._on_end = function, on_end
        self._result: T
        self._error: BaseException | None = None
        self._scope: anyio.CancelScope | None = None

    def start(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            with anyio.CancelScope() as self._scope:  # `Task.cancel` would go through anyio's shields
                self._result = await self._function()
        except BaseException as error:
            self._error = error
        finally:
            self.ended = True
            self._on_end(self)

    def wake(self) -> None:
        """Whoever waits for its turn looks again; it may have no need to."""
        if self.turn.locked():
            self.turn.release()

    def cancel(self) -> None:
        """Called in the loop. Effective at its next await, as long as it goes on."""
        if self._scope is None:  # its first step is in the loop's queue
            asyncio.get_running_loop().call_soon(self.cancel)
        elif not self.ended:
            self._scope.cancel()

    def result(self) -> T:
        if self._error is None:
            return self._result
        try:
            raise self._error
        finally:
            self._error = None  # its traceback has this frame, which has it


def soon(function: Callable[..., T]) -> Callable[..., Awaitable[T]]:
    """A plain function as one that the portal can run: what it uses belongs to whoever runs the loop."""

    async def run(*arguments: Any, **options: Any) -> T:
        return function(*arguments, **options)

    return run
