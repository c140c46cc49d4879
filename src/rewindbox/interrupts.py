"""Signals of a thread that runs an event loop for its own call: their handlers wait until the loop is at rest.

A handler runs between any two steps of the main thread, and what it raises, as that of Ctrl-C does, would hit
whatever the loop is at. So while a call goes on, a handler's turn comes when the loop has stopped; what it raises
cancels the call, and is raised when that has ended in order. In other threads Python runs no handlers.
"""

import asyncio
import signal
import threading
from collections.abc import Callable
from importlib import import_module
from types import FrameType, TracebackType
from typing import Any

_NUMBERS = tuple(int(number) for number in signal.valid_signals())
_kernel_side: Any = import_module("_signal")
"""`signal.signal` and `getsignal` make enums of what they take and give: 100 us for a call from the cold."""
_handler_of, _set_handler = _kernel_side.getsignal, _kernel_side.signal
_wake_by = _kernel_side.set_wakeup_fd
_LOOK_S = 0.05
"""A signal that comes after Python has looked for one and before the wait begins does not end the wait."""


class Interrupts:
    """What interrupts one call. Use it in a `with` block; its end raises what a handler did."""

    def __init__(self, loop: asyncio.AbstractEventLoop, cancel: Callable[[], None], bell: int) -> None:
        """`cancel` is called in the loop when a handler has raised something. What is written to `bell` wakes it."""
        self._loop, self._cancel, self._bell = loop, cancel, bell
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._caught: list[tuple[int, FrameType | None]] = []
        self._waits = False
        self._error: BaseException | None = None

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in _NUMBERS:
                handler = _handler_of(number)
                if callable(handler):  # neither the kernel's nor somebody else's
                    self._handlers[number] = handler
                    _set_handler(number, self._catch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        waiting = list(self._handlers)
        while waiting:
            try:
                number = waiting[-1]
                if _handler_of(number) == self._catch:  # a handler may have put another one there
                    _set_handler(number, self._handlers[number])
                waiting.pop()
            except BaseException as raised:  # by one that is back already
                self._error = self._error or raised
        self.handle()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its traceback has this frame, which has us

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if not self._waits:
            self._caught.append((number, frame))
            self._loop.call_soon_threadsafe(self._loop.stop)
            return
        self._waits = False  # until it has returned: what it raises must come through alone
        self._handlers[number](number, frame)
        self._waits = True

    def while_driving(self, drive: Callable[[], None]) -> None:
        """Have this thread drive the loop: a signal that comes just before the loop waits wakes it, too."""
        if not self._handlers:
            drive()
            return
        before = _wake_by(self._bell, warn_on_full_buffer=False)
        try:
            drive()
        finally:
            _wake_by(before)

    def while_waiting(self, bell: threading.Lock) -> None:
        """Wait a while for another thread, which drives the loop, to release it: meanwhile handlers run at once.

        A lock, because to take it is one step: what a handler raises within the steps of an Event leaves it locked.
        """
        try:
            self._waits = True
            bell.acquire(timeout=_LOOK_S)
        except BaseException as error:
            self._fail(error)
        finally:
            self._waits = False

    def handle(self) -> None:
        """Run the handlers of what has come. The loop is at rest, or another thread's affair."""
        while self._caught:
            number, frame = self._caught.pop(0)
            try:
                self._handlers[number](number, frame)
            except BaseException as error:
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel)
        self._error = self._error or error
