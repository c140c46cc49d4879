"""How a run is told while it goes on: to a person at a terminal, line by line in a pipe, or as bare output.

A teller is called by one thread (`terminal.Printer`), in order. It writes, and knows nothing of vms.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rewindbox import show
from rewindbox.backends.base import Stream as Name
from rewindbox.execution import Execution
from rewindbox.terminal import TICK_S, Neutral, Printer, Stream, clipped, one_line, visible

if TYPE_CHECKING:
    from rewindbox.policy import Decision

_SHOWN_LINES = 12
"""Of a block's output, on a terminal. All of it is in `rewindbox show`."""
_LINE_CHARS = 4096
"""Kept of a line that goes on, on a terminal."""
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_PATIENCE_S = 0.3
"""A block that is faster than this needs no spinner."""
_MARKS: dict[Name, bytes] = {"stdout": b"| ", "stderr": b"! "}


@dataclass(slots=True)
class Told:
    """A block of the text, and what became of it."""

    number: int
    language: str
    code: str
    skipped: str | None
    """Why it did not run."""
    path: str | None = None
    """The file of the vm that it was written to instead."""
    execution: Execution | None = None

    def as_dict(self) -> dict[str, Any]:
        """The documented JSON shape of a block."""
        return {"number": self.number, "language": self.language, "skipped": self.skipped, "path": self.path}


def told(number: int, decision: "Decision") -> Told:
    """A block that was decided on."""
    block = decision.block
    return Told(
        number=number, language=block.language, code=decision.code, skipped=decision.skipped, path=decision.path
    )


class Teller(Protocol):
    """Hears what happens, in order."""

    def decided(self, block: Told) -> None:
        """A block starts, or is skipped."""

    def output(self, name: Name, data: bytes) -> None:
        """The running block wrote this."""

    def ended(self, block: Told) -> None:
        """The running block has ended."""

    def tick(self) -> None:
        """A moment has passed."""


class Bare:
    """The output of the code and nothing else: bytes in a pipe, neutralised on a terminal."""

    def __init__(self, out: Stream, err: Stream, *, mute: bool = False) -> None:
        """`mute`: not even that."""
        self._mute = mute
        self._streams: dict[Name, Stream] = {"stdout": out, "stderr": err}
        self._neutral: dict[Name, Neutral] = {"stdout": Neutral(), "stderr": Neutral()}
        self._open_line = False

    def decided(self, block: Told) -> None:
        """See `Teller`."""

    def output(self, name: Name, data: bytes) -> None:
        """See `Teller`."""
        self._write(name, data, final=False)

    def ended(self, block: Told | None = None) -> None:
        """See `Teller`. Leaves a terminal at the start of a line."""
        for name, stream in self._streams.items():
            if stream.is_terminal:
                self._write(name, b"", final=True)
        if self._open_line:
            self._streams["stderr"].write("\n")
            self._open_line = False

    def tick(self) -> None:
        """See `Teller`."""

    def _write(self, name: Name, data: bytes, *, final: bool) -> None:
        stream = self._streams[name]
        if self._mute:
            return
        if not stream.is_terminal:
            stream.write_bytes(data)
        elif text := self._neutral[name].feed(data, final=final):
            stream.write(text)
            both = all(stream.is_terminal for stream in self._streams.values())
            self._open_line = both and not text.endswith("\n")


class Plain:
    """A line for everything, each with its block's number; the code's own bytes come after `| ` or `! `."""

    def __init__(self, out: Stream) -> None:
        self._out, self._number = out, 0
        self._rest: dict[Name, bytes] = {"stdout": b"", "stderr": b""}

    def decided(self, block: Told) -> None:
        """See `Teller`."""
        self._number = block.number
        what = block.skipped if block.path is not None else f"skipped, {block.skipped}"
        self._line(f"{block.language}: {what}" if block.skipped else block.language)

    def output(self, name: Name, data: bytes) -> None:
        """See `Teller`."""
        *whole, self._rest[name] = (self._rest[name] + data).split(b"\n")
        before = b"[%d] %s" % (self._number, _MARKS[name])
        self._out.write_bytes(b"".join(before + line + b"\n" for line in whole))

    def ended(self, block: Told) -> None:
        """See `Teller`."""
        for name in _MARKS:
            if self._rest[name]:
                self.output(name, b"\n")
        assert block.execution is not None
        word, style = show.outcome(block.execution), show.marked(block.execution)[1]
        parts = [self._out.styled(word, style), show.seconds(block.execution.wall_s), block.execution.id]
        parts += [visible(text) for text in (block.execution.error, undone(block)) if text]
        self._line(f"{block.language}: {', '.join(parts)}")

    def tick(self) -> None:
        """See `Teller`."""

    def _line(self, text: str) -> None:
        self._out.write(f"[{self._number}] {text}\n")


class Live:
    """For a person: a line as a block starts, the first lines it writes, a line as it ends, time passing."""

    def __init__(self, out: Stream) -> None:
        self._out = out
        self._since_s: float | None = None
        self._is_drawn = False
        self._lines = 0
        self._neutral: dict[Name, Neutral] = {}
        self._rest: dict[Name, str] = {}

    def decided(self, block: Told) -> None:
        """See `Teller`."""
        head = f"{block.number} {block.language}"
        if block.skipped:
            what = "skipped: " if block.path is None else ""
            self._say(self._out.styled(one_line(f"· {head}  {what}{block.skipped}", self._out.width), "dim"))
            return
        room = max(self._out.width - len(head) - 4, 8)
        code = self._out.styled(one_line(show.first_line(block.code), room), "dim")
        self._say(f"{self._out.styled(f'▸ {head}', 'bold')}  {code}")
        self._neutral = {"stdout": Neutral(), "stderr": Neutral()}
        self._rest = {"stdout": "", "stderr": ""}
        self._lines, self._since_s = 0, time.monotonic()

    def output(self, name: Name, data: bytes, *, final: bool = False) -> None:
        """See `Teller`."""
        text = self._rest[name] + self._neutral[name].feed(data, final=final)
        *whole, rest = text.split("\n")
        self._rest[name] = rest[:_LINE_CHARS]
        for line in whole:
            self._lines += 1
            if self._lines <= _SHOWN_LINES:
                self._say(self._out.styled(f"  │ {clipped(line, self._out.width - 4)}", "dim"))

    def ended(self, block: Told) -> None:
        """See `Teller`."""
        assert block.execution is not None
        for name in _MARKS:
            self.output(name, b"", final=True)
            if self._rest[name]:
                self.output(name, b"\n")
        self._since_s = None
        if self._lines > _SHOWN_LINES:
            more = f"  │ … {self._lines - _SHOWN_LINES} more lines"
            self._say(self._out.styled(more, "dim"))
        word, style = show.marked(block.execution)
        note = "".join(f"  ↩ {text}" for text in (undone(block),) if text)
        time_s = self._out.styled(show.seconds(block.execution.wall_s), "dim")
        self._say(f"  {self._out.styled(word, style)}  {time_s}{self._out.styled(note, 'yellow')}")

    def tick(self) -> None:
        """See `Teller`."""
        if self._since_s is None or not self._out.can_move:
            return
        past_s = time.monotonic() - self._since_s
        if past_s < _PATIENCE_S:
            return
        self._out.write(f"\r\x1b[K  {spinner(self._out, past_s)}")
        self._is_drawn = True

    def _say(self, line: str) -> None:
        wipe = "\r\x1b[K" if self._is_drawn else ""
        self._is_drawn = False
        self._out.write(f"{wipe}{line}\n")


def spinner(out: Stream, past_s: float) -> str:
    """That time passes."""
    mark = _SPINNER[int(past_s * 10) % len(_SPINNER)] if out.is_unicode else "*"
    return out.styled(f"{mark} {past_s:.1f} s", "cyan")


class Progress:
    """What is done just then, on one line of a terminal, for a person who waits; elsewhere nothing."""

    def __init__(self, err: Stream, *, is_shown: bool) -> None:
        self._err, self.is_shown = err, is_shown and err.can_move
        self._begun_s, self._drawn_s = time.monotonic(), 0.0

    @property
    def past_s(self) -> float:
        """Since it began."""
        return time.monotonic() - self._begun_s

    def at(self, text: str) -> None:
        """Show this, unless the line has just been drawn."""
        if self.is_shown and self.past_s - self._drawn_s >= TICK_S:
            self._drawn_s = self.past_s
            self._err.write(f"\r\x1b[K  {spinner(self._err, self.past_s)} {text}")

    def over(self) -> None:
        """Leave no trace."""
        if self._drawn_s:
            self._err.write("\r\x1b[K")


@contextmanager
def waiting(progress: Progress, text: str) -> Iterator[None]:
    """Show this again and again while this thread waits for what says nothing itself."""
    if not progress.is_shown:
        yield
        return
    with Printer(lambda: None, lambda: progress.at(text)) as printer:
        try:
            yield
        finally:
            printer.put(progress.over)


def undone(block: Told) -> str | None:
    """What became of the files."""
    if block.execution is None or block.execution.rolled_back_to is None:
        return None
    return f"rolled back to before block {block.number}"


def counts(blocks: Sequence[Told]) -> str:
    """A run in one line of numbers."""
    ran = [block.execution for block in blocks if block.execution is not None]
    numbers = {
        "blocks": len(blocks),
        "run": len(ran),
        "failed": sum(not execution.success for execution in ran),
        "rolled back": sum(execution.rolled_back_to is not None for execution in ran),
        "written": sum(block.path is not None for block in blocks),
        "skipped": sum(block.execution is None and block.path is None for block in blocks),
    }
    return ", ".join(f"{number} {name}" for name, number in numbers.items() if number or name != "written")


def summary(out: Stream, blocks: Sequence[Told]) -> str:
    """The table at the end of a run, on a terminal."""
    rows = [_summary_row(block) for block in blocks]
    return "\n" + show.table(out, ("#", "language", "outcome", "time", "result"), rows, wrap=True)


def _summary_row(block: Told) -> show.Row:
    number, language = (str(block.number), "bold"), (one_line(block.language, 12), "")
    if block.execution is None:
        what = ("· skipped", "dim") if block.path is None else ("✎ written", "")
        return number, language, what, ("", ""), (one_line(str(block.path or block.skipped), 120), "dim")
    said = one_line(show.gist(block.execution), 120)
    note = undone(block)
    result = "\n".join(text for text in (said, f"↩ {note}" if note else "") if text)
    time_s = (show.seconds(block.execution.wall_s), "dim")
    return number, language, show.marked(block.execution), time_s, (result, "")
