"""Standard input that is written while the code runs: what one side gives, the other takes, bounded.

Who writes may be any thread, any task, or a callback of the execution itself: nothing waits that was not told to.
Knows nothing of vms. What goes through here is never recorded.
"""

import contextlib
import os
import threading

from rewindbox.errors import InputClosed, InputFull, InvalidArgument

BUFFER_BYTES = 1 << 20
"""Held for a program that does not read yet; the kernel's pipe holds up to 64 KiB more."""


class Stdin:
    """The standard input of one execution: `vm.execute(..., stdin=stdin)`. The program reads until `close`."""

    def __init__(self) -> None:
        self.given_bytes = 0
        """So many have been written to it."""
        self._changed = threading.Condition()
        """Guards all of it."""
        self._data = bytearray()
        self._is_whole = False
        self._bell: int | None = None
        self._why_ended: str | None = None

    def write(self, data: bytes | str, *, wait_s: float = 0.0) -> None:
        """Give it more: all of it or, where this raises, nothing.

        Args:
            wait_s: So long for room, in the calling thread; an event loop must not wait so.

        Raises:
            InputFull: it does not fit, the program has not read enough yet.
            InputClosed: it was closed, here or by the program, or the execution has ended.
            InvalidArgument: it is more than fits at all, 1 MiB.
        """
        content = data.encode() if isinstance(data, str) else data
        if len(content) > BUFFER_BYTES:
            raise InvalidArgument(f"{len(content)} bytes at once", remedy=f"write at most {BUFFER_BYTES}")
        with self._changed:
            fits = self._changed.wait_for(lambda: self._refusal or self._has_room_for(content), wait_s)
            if self._refusal:
                raise InputClosed(self._refusal, remedy="nothing that is written now can be read")
            if not fits:
                raise InputFull(f"{len(self._data)} bytes wait to be read", remedy="write it again later")
            self._data += content
            self.given_bytes += len(content)
            self._ring()

    def close(self) -> None:
        """No more comes: the program reads what there is, and then end of file. Idempotent."""
        with self._changed:
            self._is_whole = True
            self._ring()
            self._changed.notify_all()

    @property
    def _refusal(self) -> str | None:
        return "it was closed" if self._is_whole else self._why_ended

    def _has_room_for(self, content: bytes) -> bool:
        return len(self._data) + len(content) <= BUFFER_BYTES

    def _ring(self) -> None:
        if self._bell is not None:
            os.eventfd_write(self._bell, 1)

    def open(self) -> int:
        """For who takes from it: a descriptor that can be read when there is news, now for one. Until `end`.

        Raises InvalidArgument: another execution has it.
        """
        with self._changed:
            if self._bell is not None or self._why_ended is not None:
                raise InvalidArgument("this standard input is another execution's", remedy="make one for each")
            self._bell = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            return self._bell

    def waiting(self, at_most: int) -> bytes:
        """What is to be taken next; the news are heard. Empty: nothing is there."""
        with self._changed:
            if self._bell is not None:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._bell)
            return bytes(self._data[:at_most])

    def taken(self, count: int) -> None:
        """So many bytes are where they go."""
        with self._changed:
            del self._data[:count]
            self._changed.notify_all()

    @property
    def is_over(self) -> bool:
        """It was closed, and all of it is taken."""
        return self._is_whole and not self._data

    def end(self, why: str = "the program has closed it, or has ended") -> None:
        """Nobody takes from it any more; who writes is told why. Idempotent, the first counts."""
        with self._changed:
            if self._bell is not None:
                os.close(self._bell)
                self._bell = None
            self._why_ended = self._why_ended or why
            self._data.clear()
            self._changed.notify_all()
