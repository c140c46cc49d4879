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
_OPENING = re.compile(rf"^[ \t]{{0,3}}<({'|'.join(_TAGS)})>", re.MULTILINE)
_WRAPPED = re.compile(r"\s*(`{3,}|~{3,})[ \t]*([\w+#-]{0,40})[^\n]*\n(.*?)\n?[ \t]*\1[ \t]*\s*\Z", re.DOTALL)
_IN_COMMANDS = (".py", ".js", ".mjs", ".cjs", ".sh", "cargo ")
_COMMAND = re.compile(
    r"^[ \t]*(?:\$ |`)?((?:(?:python3?|node|bash|sh)[ ](?:-[a-zA-Z]+[ ])?[\w./-]{1,200}\.(?:py|js|mjs|cjs|sh)"
    r"|cargo[ ]+(?:run|build|test))(?:[ ][\w./=:@,+-]{1,200}){0,20})`?[ \t]*\r?$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Element:
    """A piece of code, and where the whole of it stands."""

    kind: str
    """`tag` or `inline`."""
    language: str
    code: str
    start: int
    end: int


def elements(text: str, start: int, end: int) -> list[Element]:
    """Those of `text[start:end]`, which has no fence, in order; they do not overlap."""
    found: list[Element] = []
    last = start
    for tag in _tags(text, start, end):
        found += [*_commands(text, last, tag.start), tag]
        last = tag.end
    return [*found, *_commands(text, last, end)]


def may_have(text: str) -> bool:
    """Whether looking between fences is worth the while."""
    has_tag = "<" in text and _OPENING.search(text) is not None
    return has_tag or (any(word in text for word in _IN_COMMANDS) and _COMMAND.search(text) is not None)


def _tags(text: str, start: int, end: int) -> Iterator[Element]:
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


def _inside(name: str, code: str) -> tuple[str, str]:
    """Language and code; a fence right inside a tag is part of the wrapping."""
    language = _TAGS[name]
    if (wrapped := _WRAPPED.match(code)) is not None:
        language, code = wrapped[2].lower() or language, wrapped[3]
    code = f"{code.strip(chr(10))}\n".replace("\r\n", "\n")
    return language or guess(code) or "python", code


def _commands(text: str, start: int, end: int) -> Iterator[Element]:
    for match in _COMMAND.finditer(text, start, end):
        yield Element("inline", "bash", match[1] + "\n", match.start(1), match.end(1))
