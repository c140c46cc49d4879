"""What a console shows -> what was typed at it; what a notebook's cell has -> what is run for it. Run the commands of a
transcript, not its output; and a cell's `!pip` by a shell, which python alone could not read.

Pure and linear. A transcript begins with a prompt; a lone `$` or `>` further down, as in a price or a quotation, makes
none. What follows a prompt is taken as it stands.
"""

import re
import textwrap
from dataclasses import dataclass

from rewindbox.guess import parsed, says

_SHELL = re.compile(
    r"(?:(?:\([\w.-]{1,40}\) ?)?(?:[\w.-]{1,40}@[\w.-]{1,60}[: ][^\s$#]{0,200}[$#]|[\w~/.-]{0,60}\$)"
    r"|\[[\w.-]{1,40}@[\w.-]{1,60} [^\]\n]{1,200}\][$#]|[\w.-]{1,40}@[\w.-]{1,60} [^\s%]{1,200} %"
    r"|➜ {1,3}[^\s]{1,80}(?: git:\([^)\n]{1,80}\))?(?: ✗)? ?) (.*)"
)
"""Prompts of shells: `$`, `ann@host:~$`, `[ann@host dir]$`, `ann@host dir %`, `➜  dir`."""
_ABOVE_PROMPT = re.compile(r"\s*[\w.-]{1,40}@[\w.-]{1,60} MINGW\d{2} [^\n]{0,200}\n")
_SHELL_MORE = re.compile(r"> ?(.*)")
_MARKS = ("'", '"')
_QUOTES = re.compile(r"\\.|['\"]|(?<!\S)#")
_HERE_DOCUMENT = re.compile(r"(?<!<)<<-?[ \t]*(['\"]?)([A-Za-z_]\w{0,40})\1")
_PYTHON = re.compile(r">>> ?(.*)")
_PYTHON_MORE = re.compile(r"\.\.\. ?(.*)")
_IPYTHON = re.compile(r"In \[\d{1,6}\]: ?(.*)")
_IPYTHON_MORE = re.compile(r" {1,9}\.{3,9}: ?(.*)")
_PYTHON_STARTS = re.compile(r"\s*(?:\$ )?i?python[\d.]{0,5}\s*\n(?:(?!>>>)[^\n]*\n){0,9}?(?=>>> )")
"""The command that starts what shows the prompts, and what it says first."""
_CELL = re.compile(r"^[ \t]*(?:!|%{1,2})[ \t]*[A-Za-z./]", re.MULTILINE)
_CELL_BEGINS = tuple(f"{before}{mark}" for before in ("\n", "\t", "\n ", "\t ", "  ") for mark in "!%")
"""One of these stands where `_CELL` does, but for the first line, which is looked at by itself."""
_CELL_LINE = re.compile(r"(?P<before>[ \t]*)(?P<mark>[!%])[ \t]*(?P<said>[A-Za-z./].*)")
_CELL_SHELL = re.compile(r"\s*%%(?:bash|sh|shell)\b[^\n]*\n")
_CELL_TIMED = re.compile(r"\A\s*%%(?:time|timeit|capture)\b[^\n]*\n")
_CLASSIC = ("bash", "text", "console", "shell-session", "shellsession", "sh-session", "terminal", "command", "cmd")
_PLAIN = ("text", "console")
_CONSOLES = (
    ("python", ("python", "bash", "pycon", "python-repl", "ipython", *_PLAIN), _PYTHON, _PYTHON_MORE),
    ("python", ("python", "ipython", *_PLAIN), _IPYTHON, _IPYTHON_MORE),
    ("javascript", ("javascript",), re.compile(r"> ?(.*)"), re.compile(r"\.{3} ?(.*)")),
    ("r", ("r",), re.compile(r"> ?(.*)"), re.compile(r"\+ ?(.*)")),
    (
        "ruby",
        ("ruby", *_PLAIN),
        re.compile(r"irb\([^)\n]{1,40}\)[:\d]{1,12}> ?(.*)"),
        re.compile(r"irb\([^)\n]{1,40}\)[:\d]{1,12}[*'\"] ?(.*)"),
    ),
    ("ruby", ("ruby",), re.compile(r">> ?(.*)"), re.compile(r"\?> ?(.*)")),
)
"""What is typed at a prompt, how blocks with it are called, the prompt, and that of the lines that go on."""


@dataclass(frozen=True, slots=True)
class Typed:
    """What was typed, and in which language."""

    language: str
    code: str


def typed(language: str, code: str) -> Typed | None:
    """The commands of a transcript in a block of that language; None: it is no transcript."""
    if language in _CLASSIC and (before := _PYTHON_STARTS.match(code) or _ABOVE_PROMPT.match(code)) is not None:
        code = code[before.end() :]
    first = code.lstrip().partition("\n")[0].rstrip()
    for spoken, reads, prompt, more in _CONSOLES:
        if language in reads and prompt.match(first):
            return Typed(spoken, _at_prompts(code, prompt, more))
    if language == "python" and (first[:1] in ("!", "%") or _is_indented(code) or _may_be_cell(code)):
        return _cell(code)
    if language in _CLASSIC and _SHELL.match(first):
        return Typed("bash", _shell(code))
    return None


def _may_be_cell(code: str) -> bool:
    return ("!" in code or "%" in code) and says(code, _CELL_BEGINS, _CELL)


def _is_indented(code: str) -> bool:
    return code.lstrip("\n")[:1] in (" ", "\t")


def _cell(code: str) -> Typed | None:
    """What python can read of a notebook's cell, or of code that stands indented as a whole; None: it can as it is."""
    if (shell := _CELL_SHELL.match(code)) is not None:
        return Typed("bash", code[shell.end() :])
    plain = _CELL_TIMED.sub("", textwrap.dedent(code))
    plain = "\n".join(map(_cell_line, plain.split("\n")))
    if plain == code or parsed(code) is not None or parsed(plain) is None:
        return None
    return Typed("python", plain)


def _cell_line(line: str) -> str:
    """`!command` and `%pip` are for a shell; other magic is the notebook's own."""
    if (found := _CELL_LINE.fullmatch(line)) is None:
        return line
    before, said = found["before"], found["said"]
    if found["mark"] == "!" or said.startswith(("pip ", "conda ")):
        return f"{before}__import__('subprocess').run({said!r}, shell=True)"
    return f"{before}pass"


def _at_prompts(code: str, prompt: re.Pattern[str], more: re.Pattern[str]) -> str:
    """A prompt begins a statement; where the last one had more lines a blank line ends it, as at the console."""
    lines: list[str] = []
    for line in code.split("\n"):
        if (found := prompt.match(line.lstrip())) is not None:
            if lines and lines[-1][:1] in (" ", "\t"):
                lines.append("")
            lines.append(found[1])
        elif lines and (found := more.match(line if prompt is _IPYTHON else line.lstrip())) is not None:
            lines.append(found[1])
    return _joined(lines)


def _shell(code: str) -> str:
    """A command goes on after a backslash or in a here-document, with or without `> ` before it, and in a quotation."""
    lines: list[str] = []
    waits_for = ""
    for line in code.split("\n"):
        found, continued = _SHELL.match(line.lstrip()), _SHELL_MORE.match(line.lstrip())
        if found is not None and waits_for in ("", *_MARKS):
            lines.append(found[1])
            waits_for = ""
        elif continued is not None and waits_for:
            lines.append(continued[1])
        elif waits_for and waits_for not in _MARKS:
            lines.append(line)
        else:
            continue
        waits_for = _still_open(lines[-1], waits_for)
    return _joined(lines)


def _still_open(line: str, waits_for: str) -> str:
    """What a command waits for after this line: a quotation mark, the word of a here-document, a line; or nothing."""
    if waits_for not in ("", "\\", *_MARKS):
        return waits_for if line.strip() != waits_for else ""
    quote = waits_for.strip("\\")
    for mark in _QUOTES.finditer(line):
        if mark[0] in _MARKS:
            quote = "" if quote == mark[0] else quote or mark[0]
        elif mark[0] == "#" and not quote:
            return ""
    if quote:
        return quote
    document = _HERE_DOCUMENT.search(line)
    return document[2] if document is not None else "\\" if line.endswith("\\") else ""


def _joined(lines: list[str]) -> str:
    return "\n".join(lines).rstrip("\n") + "\n"
