"""Where the command line writes: two streams, what a terminal may be shown, and one thread that does it.

In a pipe bytes pass unchanged. On a terminal nothing that code wrote reaches it as a control character: an
escape sequence could retitle the window, forge our own lines or paste into the shell.
"""

import codecs
import os
import queue
import select
import shutil
import sys
import threading
from collections.abc import Callable
from types import TracebackType

_FORMATTING = (*range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF)
"""Unseen, or turning around the text after them."""
_SHOWN = {code: f"^{chr(code ^ 64)}" for code in (*range(32), 127) if chr(code) not in "\t\n"}
_SHOWN |= {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}
_SHOWN |= {code: f"\\u{code:04x}" for code in _FORMATTING}
_STYLES = {"dim": "2", "bold": "1", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_ASCII = str.maketrans({"✓": "+", "✗": "x", "…": ".", "│": "|", "▸": ">", "·": "-", "↩": "<", "–": "-"})
TICK_S = 0.1
"""How often a waiting printer may draw."""


def visible(text: str) -> str:
    """`text` with its control characters spelled out (`^[` for escape); newline and tab stay."""
    return text.translate(_SHOWN)


def one_line(text: str, width: int = 0) -> str:
    """`text` on one line, its white space joined, nothing that moves a cursor; `width` 0: of any length."""
    line = visible(" ".join(text.split()))
    return line if not width or len(line) <= width else line[: max(width - 1, 0)] + "…"


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
        """Columns; 80 where there is no terminal to ask."""
        return shutil.get_terminal_size().columns

    def write(self, text: str) -> None:
        """All of `text`; what the terminal has no character for is replaced or spelled out."""
        if self.is_terminal and not self.is_unicode:
            text = text.translate(_ASCII)
            self.write_bytes(text.encode("ascii", "backslashreplace"))
        else:
            self.write_bytes(text.encode(self.encoding, "backslashreplace"))

    def write_bytes(self, data: bytes) -> None:
        """All of `data`, unchanged."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self.descriptor, view) :]
            except BlockingIOError:  # somebody who shares it made it so
                select.select([], [self.descriptor], [])

    def styled(self, text: str, *styles: str) -> str:
        """`text` in colour, where there is any."""
        if not self.has_color or not styles:
            return text
        return f"\x1b[{';'.join(_STYLES[style] for style in styles)}m{text}\x1b[0m"


class Printer:
    """Does all writing in one thread and in order: a reader that is slow never holds up engine or Ctrl-C."""

    def __init__(self, on_broken: Callable[[], None], tick: Callable[[], None] | None = None) -> None:
        """`on_broken`: called once when writing fails. `tick`: called every 0.1 s while there is nothing to write."""
        self._on_broken, self._tick = on_broken, tick
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.error: OSError | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "Printer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until all is written. Raises what writing raised, unless something else was raised before."""
        self._jobs.put(None)
        self._thread.join()
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
            except OSError as error:
                self.error = error
                self._on_broken()

    def _next(self) -> Callable[[], None] | None:
        try:
            return self._jobs.get(timeout=None if self._tick is None else TICK_S)
        except queue.Empty:
            assert self._tick is not None
            return self._tick
