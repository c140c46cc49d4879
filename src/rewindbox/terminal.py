"""Where the command line writes: two streams, what a terminal may be shown, and one thread that does it.

In a pipe bytes pass unchanged. On a terminal nothing that code wrote reaches it as a control character: an
escape sequence could retitle the window, forge our own lines or paste into the shell.
"""

import codecs
import os
import queue
import select
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from rewindbox.errors import Broken

_FORMATTING = (
    0xAD,
    0x61C,
    0x180E,
    *range(0xE0000, 0xE0080),
    0x200B,
    0x200E,
    0x200F,
    *range(0x2028, 0x202F),
    *range(0x2060, 0x2070),
    0xFEFF,
)
"""Unseen, or turning around the text after them."""
_SHOWN = {code: f"^{chr(code ^ 64)}" for code in (*range(32), 127) if chr(code) not in "\t\n"}
_SHOWN |= {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}
_SHOWN |= {code: f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}" for code in _FORMATTING}
_STYLES = {"dim": "2", "bold": "1", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_ASCII = str.maketrans({"✓": "+", "✗": "x", "…": ".", "│": "|", "▸": ">", "·": "-", "↩": "<", "–": "-"})
_WIDTH = 80
TICK_S = 0.1
"""How often a waiting printer may draw."""
_LAST_WORDS_S = 2.0
"""How long an interrupted command waits for a reader that may never read again."""


def visible(text: str) -> str:
    """`text` with its control characters spelled out (`^[` for escape); newline and tab stay."""
    return text.translate(_SHOWN)


def one_line(text: str, width: int = 0) -> str:
    """`text` on one line, its white space joined, nothing that moves a cursor; `width` 0: of any length."""
    line = visible(" ".join(text.split()))
    return line if not width or len(line) <= width else line[: max(width - 1, 0)] + "…"


def clipped(line: str, width: int) -> str:
    """A line of output as it is, cut at the edge; tabs become spaces."""
    line = visible(line.expandtabs())
    return line if len(line) <= width else line[: max(width - 1, 0)] + "…"


class Interrupted(BaseException):
    """A signal asks us to end. Has what `RewindboxError` has, so that it can be told in the same way."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.execution_id: str | None = None
        """What it ended."""

    @property
    def exit_code(self) -> int:
        """As a shell says it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number

    def __str__(self) -> str:
        name = signal.Signals(self.number).name
        if self.execution_id is None:
            return f"interrupted by {name}; no code was running"
        return f"interrupted by {name}: {self.execution_id} was stopped and is recorded as killed; the vm is kept"

    def as_dict(self) -> dict[str, str | None]:
        """The documented JSON shape of an error."""
        return {"code": "interrupted", "message": str(self), "remedy": None}


class Neutral:
    """Bytes as they come -> text that a terminal may be shown.

    What is not UTF-8 is spelled out as well. A carriage return becomes a new line: what a line said stays said.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._held = ""

    def feed(self, data: bytes, *, final: bool = False) -> str:
        """The text of `data`, less what may go on in the next piece; `final`: there is none."""
        text = self._held + self._decoder.decode(data, final)
        self._held = "\r" if text.endswith("\r") and not final else ""
        text = text.removesuffix(self._held) if self._held else text
        return visible(text.replace("\r\n", "\n").replace("\r", "\n"))


class Stream:
    """Standard output or standard error."""

    def __init__(self, descriptor: int, color: str = "auto") -> None:
        """`color`: auto (a terminal, unless NO_COLOR is set), always or never."""
        self.descriptor = descriptor
        self.is_terminal = os.isatty(descriptor)
        plain = not self.is_terminal or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self.has_color = color == "always" or (color == "auto" and not plain)
        self.can_move = self.is_terminal and os.environ.get("TERM") != "dumb"
        standard = sys.stdout if descriptor == 1 else sys.stderr
        self.encoding = (getattr(standard, "encoding", None) or "utf-8").lower()
        chosen = os.environ.get("LC_ALL") or os.environ.get("LANG")  # Python itself sets LC_CTYPE where both are C
        self.is_unicode = self.encoding.startswith("utf") and chosen not in ("C", "POSIX")

    @property
    def width(self) -> int:
        """Columns; COLUMNS, what the terminal says, or 80."""
        with suppress(ValueError, OSError):
            return int(os.environ.get("COLUMNS", "")) or _WIDTH
        with suppress(OSError):
            return os.get_terminal_size(self.descriptor).columns or _WIDTH
        return _WIDTH

    def write(self, text: str) -> None:
        """All of `text`; what the terminal has no character for is replaced or spelled out."""
        if self.is_terminal and not self.is_unicode:
            text = text.translate(_ASCII)
            self.write_bytes(text.encode("ascii", "backslashreplace"))
        else:
            self.write_bytes(text.encode(self.encoding, "backslashreplace"))

    def write_bytes(self, data: bytes) -> None:
        """All of `data`, unchanged. Raises BrokenPipeError: nobody reads it; Broken: it cannot be written."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self.descriptor, view) :]
            except BlockingIOError:  # somebody who shares it made it so
                select.select([], [self.descriptor], [])
            except BrokenPipeError:
                raise
            except OSError as error:
                where = "standard output" if self.descriptor == 1 else "standard error"
                raise Broken(f"{where} cannot be written to: {error.strerror}", remedy="send it elsewhere") from error

    def styled(self, text: str, *styles: str) -> str:
        """`text` in colour, where there is any."""
        if not self.has_color or not text:
            return text
        return f"\x1b[{';'.join(_STYLES[style] for style in styles)}m{text}\x1b[0m"


class Printer:
    """Does all writing in one thread and in order: a reader that is slow never holds up engine or Ctrl-C."""

    def __init__(self, on_broken: Callable[[], None], tick: Callable[[], None] | None = None) -> None:
        """`on_broken`: called once when writing fails. `tick`: called every 0.1 s while there is nothing to write."""
        self._on_broken, self._tick = on_broken, tick
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.error: BrokenPipeError | Broken | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "Printer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until all is written (after an exception: a moment), then raise what writing raised."""
        self._jobs.put(None)
        self._thread.join(None if error is None else _LAST_WORDS_S)
        if self.error is not None and error is None:
            raise self.error

    def put(self, job: Callable[[], None]) -> None:
        """Write this after all that was put before."""
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            if self.error is not None:
                continue
            try:
                job()
            except (BrokenPipeError, Broken) as error:
                self.error = error
                self._on_broken()

    def _next(self) -> Callable[[], None] | None:
        try:
            return self._jobs.get(timeout=None if self._tick is None else TICK_S)
        except queue.Empty:
            assert self._tick is not None
            return self._tick
