"""Code in a text that is in no fence: in the tags that agents write, and commands on lines of their own.

Pure and linear. Looks only where no fence is; whoever calls says where the fences are.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rewindbox.guess import guess

_TAGS = {
    "execute": None,
    "execute_code": None,
    "execute_python": "python",
    "execute_ipython": "python",
    "execute_bash": "bash",
    "execute_sh": "bash",
    "execute_shell": "bash",
    "execute_javascript": "javascript",
    "python": "python",
    "ipython": "python",
    "bash": "bash",
    "shell": "bash",
    "javascript": "javascript",
    "code": None,
}
"""Name of the tag -> language; None: it is guessed, and else python, which agents that write these tags speak."""
_LINE_BEGINS = r"(?:^|(?<=\r))"
_OPENING = re.compile(rf"{_LINE_BEGINS}[ \t]{{0,3}}<({'|'.join(_TAGS)})>", re.MULTILINE)
_LINE_END = re.compile(r"\r\n?")
_CLOSINGS = tuple(f"</{name}>" for name in _TAGS)
_RUNNERS = ("python ", "python3 ", "node ", "bash ", "sh ")
_SCRIPTS = (".py", ".js", ".mjs", ".cjs", ".sh")
_PROGRAM = (
    r"((?:(?:python3?|node|bash|sh)[ ](?:-[a-zA-Z]+[ ])?[\w./-]{1,200}\.(?:py|js|mjs|cjs|sh)"
    r"|cargo[ ]+(?:run|build|test))(?:[ ][\w./=:@,+-]{1,200}){0,20})"
)
_COMMAND = re.compile(rf"{_LINE_BEGINS}[ \t]*(?:\$ |`)?{_PROGRAM}`?[ \t]*(?=[\r\n]|\Z)", re.MULTILINE)
_SAID = re.compile(
    r"(?<!is )(?<!be )(?<!are )(?<!not )(?<!n't )\b(?:[Rr]un|[Ee]xecute|[Ss]tart|[Ll]aunch)\b[^`\r\n]{0,80}"
    rf"`{_PROGRAM}`"
)
"""A command in a sentence that says to run it."""


@dataclass(frozen=True, slots=True)
class Element:
    """A piece of code, and where the whole of it stands."""

    kind: str
    """`fence`, `indented`, `tag` or `inline`."""
    info: str
    """What follows the opening fence, or else the language, as far as it is known."""
    code: str
    start: int
    end: int
    guessed: str | None = None
    """The language of indented code, which nobody has named."""


def may_have(text: str) -> bool:
    """Whether looking between fences is worth the while."""
    if "</" in text and any(tag in text for tag in _CLOSINGS):
        return True
    return _may_have_commands(text) and (_COMMAND.search(text) or _SAID.search(text)) is not None


def _may_have_commands(text: str) -> bool:
    """Looking for the words takes a tenth of the time that the patterns take."""
    return "cargo " in text or (any(word in text for word in _SCRIPTS) and any(word in text for word in _RUNNERS))


def tags(text: str, start: int, end: int) -> Iterator[Element]:
    """The code in tags in `text[start:end]`, which has no fence, in order."""
    position, missing = start, set[str]()
    while (opening := _OPENING.search(text, position, end)) is not None:
        name, position = opening[1], opening.end()
        closing = -1 if name in missing else text.find(f"</{name}>", position, end)
        if closing < 0:
            missing.add(name)  # nor will there be one for the next
            continue
        language, code = _inside(name, text[position:closing])
        position = closing + len(name) + 3
        if code.strip() and (name != "code" or "\n" in code.strip("\n")):
            yield Element("tag", language, code, opening.start() + len(opening[0]) - len(name) - 2, position)


def commands(text: str, start: int, end: int) -> Iterator[Element]:
    """The commands of `text[start:end]`, which has neither fences nor tags, in order: on a line of their own, or
    where a sentence says to run one.
    """
    found = [*_COMMAND.finditer(text, start, end), *_SAID.finditer(text, start, end)]
    for match in sorted(found, key=lambda match: match.start(1)):
        yield Element("inline", "bash", match[1] + "\n", match.start(1), match.end(1))


def _inside(name: str, code: str) -> tuple[str, str]:
    """Language and code; a fence right inside a tag is part of the wrapping."""
    language, (info, code) = _TAGS[name], _unwrapped(_LINE_END.sub("\n", code).strip("\n"))
    return info or language or guess(code) or "python", f"{code}\n"


def _unwrapped(code: str) -> tuple[str, str]:
    """First word of the info string and content of a fence that is all there is; without one, the code as it is."""
    first, *lines = code.strip().split("\n")
    info = first.lstrip("`") if first.startswith("```") else first.lstrip("~")
    fence = first[: len(first) - len(info)]
    if len(fence) < 3 or not lines or lines[-1].strip() != fence or "`" in info:
        return "", code
    return next(iter(info.lower().split()), ""), "\n".join(lines[:-1])
