"""What a console shows -> what was typed at it. Run the commands of a transcript, not its output.

Pure and linear. A transcript begins with a prompt; a lone `$` or `>` further down, as in a price or a quotation, makes
none. What follows a prompt is taken as it stands.
"""

import re
from dataclasses import dataclass

_SHELL = re.compile(r"(?:\([\w.-]{1,40}\) ?)?(?:[\w.-]{1,40}@[\w.-]{1,60}[: ][^\s$#]{0,200}[$#]|[\w~/.-]{0,60}\$) (.*)")
_SHELL_MORE = re.compile(r"> ?(.*)")
_PYTHON = re.compile(r">>> ?(.*)")
_PYTHON_MORE = re.compile(r"\.\.\. ?(.*)")
_IPYTHON = re.compile(r"In \[\d{1,6}\]: ?(.*)")
_IPYTHON_MORE = re.compile(r" {1,9}\.{3,9}: ?(.*)")
_CLASSIC = ("bash", "text", "console", "shell-session", "shellsession", "sh-session", "terminal", "command", "cmd")
_READS = {
    "bash": _CLASSIC,
    "python": ("python", "text", "console", "pycon", "python-repl", "ipython"),
}


@dataclass(frozen=True, slots=True)
class Typed:
    """What was typed, and in which language."""

    language: str
    code: str


def typed(language: str, code: str) -> Typed | None:
    """The commands of a transcript in a block of that language; None: it is no transcript."""
    first = next((line.strip() for line in code.split("\n", 50) if line.strip()), "")
    if language in _READS["python"]:
        for prompt, more in ((_PYTHON, _PYTHON_MORE), (_IPYTHON, _IPYTHON_MORE)):
            if prompt.match(first):
                return Typed("python", _python(code, prompt, more))
    if language in _READS["bash"] and _SHELL.match(first):
        return Typed("bash", _shell(code))
    return None


def _python(code: str, prompt: re.Pattern[str], more: re.Pattern[str]) -> str:
    """A prompt begins a statement; where the last one had more lines a blank line ends it, as at the console."""
    lines: list[str] = []
    for line in code.split("\n"):
        if (found := prompt.match(line.lstrip())) is not None:
            if lines and lines[-1][:1] in (" ", "\t"):
                lines.append("")
            lines.append(found[1])
        elif lines and (found := more.match(line.lstrip() if prompt is _PYTHON else line)) is not None:
            lines.append(found[1])
    return _joined(lines)


def _shell(code: str) -> str:
    """A command goes on after a backslash, in a quotation, or in a here-document, with or without `> ` before it."""
    lines: list[str] = []
    goes_on = False
    for line in code.split("\n"):
        if (found := _SHELL.match(line.lstrip())) is not None:
            lines.append(found[1])
        elif goes_on:
            continued = _SHELL_MORE.match(line.lstrip())
            lines.append(continued[1] if continued is not None else line)
        else:
            continue
        goes_on = lines[-1].endswith("\\")
    return _joined(lines)


def _joined(lines: list[str]) -> str:
    return "\n".join(lines).rstrip("\n") + "\n"
