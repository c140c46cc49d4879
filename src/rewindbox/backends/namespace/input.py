"""What a job reads: a file in memory where it is given whole, otherwise a pipe that is filled while the job runs.

The pipe never makes us wait: what it does not take stays in the `Stdin`, which is bounded.
"""

import os
import select
from types import TracebackType

from rewindbox.backends.namespace.link import memory_file
from rewindbox.stdin import Stdin

_ROUND_BYTES = 64 << 10


class Input:
    """Standard input of one job. Use it in a `with` block, which ends it."""

    def __init__(self, given: bytes | Stdin) -> None:
        self.readers: list[int] = []
        """What the job is given, if anything: until `sent`."""
        self._given = given if isinstance(given, bytes) else b""
        self._stdin = None if isinstance(given, bytes) else given
        self._writer: int | None = None
        self._bell = -1
        self._poll: select.epoll | None = None

    def __enter__(self) -> "Input":
        if self._stdin is not None:
            self._bell = self._stdin.open()
            reader, self._writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self._writer, False)
            os.fchmod(reader, 0o444)  # who runs inside may be somebody else, and opens /dev/stdin; to read alone
            self.readers.append(reader)
        elif self._given:
            self.readers.append(memory_file(self._given))
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.sent()
        self._end()

    def sent(self) -> None:
        """The job has its end: ours must not keep the pipe open when the job closes it."""
        while self.readers:
            os.close(self.readers.pop())

    def join(self, poll: select.epoll) -> None:
        """Have `poll` wake whenever `pass_on` has something to do."""
        self._poll = poll
        if self._stdin is not None and self._writer is not None:
            poll.register(self._bell, select.EPOLLIN)
            poll.register(self._writer, 0)  # an error, that nobody reads any more, is always told

    def pass_on(self, descriptor: int, events: int) -> None:
        """What an event of that `poll` means: give the job what it takes now."""
        if self._writer is None or self._stdin is None:
            return
        if descriptor == self._writer and events & select.EPOLLERR:
            self._end()
        elif self._fill(self._stdin, self._writer):
            self._wait_for_room(self._writer, self._stdin)

    def _fill(self, stdin: Stdin, writer: int) -> bool:
        """False: nobody reads any more."""
        try:
            while data := stdin.waiting(_ROUND_BYTES):
                stdin.taken(os.write(writer, data))
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._end()
            return False
        return True

    def _wait_for_room(self, writer: int, stdin: Stdin) -> None:
        if stdin.is_over:
            self._end()
        elif self._poll is not None:
            self._poll.modify(writer, select.EPOLLOUT if stdin.waiting(1) else 0)

    def _end(self) -> None:
        if self._writer is not None:
            os.close(self._writer)
            self._writer = None
        if self._stdin is not None:
            self._stdin.end()
