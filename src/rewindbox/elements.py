"""Code in a text that is in no fence: in the tags and calls that agents write, in HTML, in commands on lines of their
own; and the program in a text that has nothing else.

Pure and linear. Looks only where no fence is; whoever calls says where the fences are.
"""

import ast
import html
import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rewindbox.guess import guess, has_any, parsed, says

_TAGS = {
    "execute": None,
    "execute_code": None,
    **dict.fromkeys(("execute_python", "run_python", "python_code", "code_interpreter", "tool_code"), "python"),
    "execute_ipython": "python",
    "execute_bash": "bash",
    "execute_sh": "bash",
    "execute_shell": "bash",
    "execute_command": "bash",
    "execute_javascript": "javascript",
    "python": "python",
    "ipython": "python",
    "bash": "bash",
    "shell": "bash",
    "javascript": "javascript",
    "code": None,
}
"""Name of the tag -> language; None: it is guessed, and else python, which agents that write these tags speak."""
_MISSING_TAGS = 100
"""Behind so many different tags that nothing closes, none is looked for any more: each takes the rest of the text."""
_LINE_BEGINS = r"(?:^|(?<=\r))"
_CALLED = {
    **dict.fromkeys(("bash", "execute_bash", "run_bash", "shell", "run_shell", "terminal", "run_command"), "bash"),
    **dict.fromkeys(("execute_command", "run_terminal_cmd", "cmd_run", "run_terminal_command", "bash_tool"), "bash"),
    **dict.fromkeys(("execute_shell", "run_shell_command", "exec_command", "run_in_terminal", "shell_exec"), "bash"),
    **dict.fromkeys(("python", "execute_python", "run_python", "python_repl", "code_interpreter"), "python"),
    **dict.fromkeys(("ipython", "execute_ipython_cell", "execute_code", "run_code", "python_interpreter"), "python"),
    **dict.fromkeys(("python_repl_ast", "execute_python_code", "run_python_code", "code_execution"), "python"),
    **dict.fromkeys(("javascript", "execute_javascript", "run_javascript"), "javascript"),
}
"""Name of a tool that is called -> language of what it is given."""
_GIVEN = ("code", "command", "cmd", "script", "source")
"""The argument that is the code."""
_NAMES = ("name", "tool", "action")
_ARGUMENTS = ("arguments", "parameters", "input", "args", "tool_input", "action_input")
"""Under which of these names a call in JSON has the tool, and what it gives."""
_CALLS = ("tool_call", "tool_calls", "function_call")
_WRITERS = ("write_to_file", "write_file", "create_file")
"""Tags with `<path>` and `<content>` in them."""
_SAYING = (
    r" (?:(?:file_?[pP]ath|path|file|filename)=[\"'](?P<file>[\w./\\:~@-]{1,200})"
    r"|language=[\"'](?P<language>[\w+#.-]{1,30})|type=[\"'](?P<type>shell|bash|python))[\"']"
)
"""What an attribute of a tag says about the code in it."""
_OPENING = re.compile(
    rf"{_LINE_BEGINS}[ \t]{{0,3}}(?P<whole><(?P<tag>{'|'.join(_TAGS)})>|\[(?P<bracket>PYTHON|BASH|CODE|BEGIN)\]"
    rf"|<(?P<json>{'|'.join(_CALLS)})>(?=\s*[\[{{])|<(?P<writer>{'|'.join(_WRITERS)})>"
    r"|<(?P<call>(?:antml:)?(?:invoke|function))(?: name=|=)[\"']?(?P<name>[\w.-]{1,60})[\"']?>"
    r"|(?P<pre><pre>\s?<code(?: class=[\"'](?:hljs )?(?:language-|lang-)?(?P<class>[\w+#-]{1,30})[^>\n]{0,80})?>)"
    r"|<(?!(?:script|style|html|pre)\b)(?P<with>[A-Za-z][\w-]{0,40})"
    rf"(?=[^<>\n]{{0,300}}?{_SAYING})(?: [\w:-]{{1,30}}=(?:\"[^\"<>\n]{{0,200}}\"|'[^'<>\n]{{0,200}}')){{1,8}}>"
    r"|Action:[ ]*(?P<action>[\w-]{1,60})[ \t]*\r?\nAction Input:"
    r"|(?:<\|start\|>assistant)?<\|channel\|>\w{1,20} to=(?:functions\.)?(?P<to>[\w-]{1,60})[^<\n]{0,40}"
    r"(?:<\|constrain\|>\w{1,20})?<\|message\|>|<\|(?P<token>python)_tag\|>"
    r"|\[(?P<pythonic>[A-Za-z_]\w{0,59})\((?=[a-z_]{1,20}=))",
    re.MULTILINE,
)
_PARAMETER = re.compile(rf"<(?P<end>(?:antml:)?parameter)(?: name=|=)[\"']?(?:{'|'.join(_GIVEN)})[\"']?>")
_CHILD = re.compile(r"\s*<(command|code|script)>(.*?)</\1>", re.DOTALL)
_CONTENT = re.compile(r"\s*<path>\s*([^<>\s]{1,200})\s*</path>\s*<content>(.*)</content>", re.DOTALL)
_ACTION_ENDS = re.compile(
    r"^(?:Observation|Thought|Action|Final Answer):|<\|(?:eom_id|eot_id|call|end|return)\|>", re.MULTILINE
)
_TOKENS = ("<|python_tag|>", "<|channel|>")
_PYTHONIC = re.compile(r"\[([a-z_]+)\(")
_PROGRAM_BEGINS = re.compile(
    rf"{_LINE_BEGINS}(?:import \w|from [\w.]{{1,80}} import [\w(*]|(?:async )?def \w+\(|class \w+[(:]|#!/)",
    re.MULTILINE,
)
_PROGRAM_LINES, _PROGRAM_CHARS = 3, 50_000
_GAP = re.compile(r"(?:\r\n?|\n)[ \t]*(?:\r\n?|\n)|(?:\r\n?|\n)(?=[ \t]*</[A-Za-z][\w-]{0,40}>[ \t]*(?:[\r\n]|\Z))")
"""Between two paragraphs, or before a closing tag."""
_CUTS = 12
"""So many paragraphs at the end may be prose."""
_LINE_END = re.compile(r"\r\n?")
_CLOSING = re.compile(r"</([\w:-]+)>")
_CLOSED = frozenset((*_TAGS, *_CALLS, *_WRITERS, "parameter", "antml:parameter"))
_CLOSED_OTHERWISE = (
    *("</code></pre>", "[/PYTHON]", "[/BASH]", "[/CODE]"),
    *("path=", "Path=", "file=", "filename=", "language=", "type="),
)
_RUNNERS = ("python ", "python3 ", "node ", "bash ", "sh ")
_PROGRAMS = (*_RUNNERS, "cargo ")
_QUOTED = (*(f"`{name}" for name in _RUNNERS), "`cargo ")
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
    """`fence`, `indented`, `tag`, `inline` or `bare`."""
    info: str
    """What follows the opening fence, or else the language, as far as it is known."""
    code: str
    start: int
    end: int
    guessed: str | None = None
    """The language of indented code, which nobody has named."""


def may_have_tags(text: str) -> bool:
    """Whether looking for tags and calls between fences is worth the while."""
    if "</" in text and not _CLOSED.isdisjoint(_CLOSING.findall(text)):
        return True
    if ("</" in text or "[/" in text) and has_any(text, _CLOSED_OTHERWISE):
        return True
    if (
        "\nAction Input:" in text
        or ("<|" in text and has_any(text, _TOKENS))
        or ("[BEGIN]" in text and "[DONE]" in text)
    ):
        return True
    return ")]" in text and not _CALLED.keys().isdisjoint(_PYTHONIC.findall(text))


def may_have_commands(text: str) -> bool:
    """The same of commands. Looking for the words takes a tenth of the time that the patterns take."""
    if "cargo " not in text and not (has_any(text, _SCRIPTS) and has_any(text, _RUNNERS)):
        return False
    lines = (line.lstrip(" \t$`") for line in text.splitlines())
    return any(line.startswith(_PROGRAMS) for line in lines) or says(text, _QUOTED, _SAID)


def tags(text: str, start: int, end: int) -> Iterator[Element]:
    """The code in tags and calls in `text[start:end]`, which has no fence, in order."""
    position, missing = start, set[str]()
    while (opening := _OPENING.search(text, position, end)) is not None:
        position, tag = opening.end(), _closing(opening)
        may_close = tag not in missing and len(missing) < _MISSING_TAGS
        closing = _found(text, position, end, tag) if may_close else -1
        if closing < 0:
            missing.add(tag)  # nor will there be one for the next
            continue
        language, code = _inside(opening, text[position:closing])
        position = closing + len(tag)
        if code.strip() and (opening["tag"] != "code" or "\n" in code.strip("\n")):
            yield Element("tag", language, code, opening.start("whole"), position)


def _found(text: str, position: int, end: int, tag: str) -> int:
    """Where the closing tag is; what an action is given ends at the next word of such an agent, or with the text."""
    if tag:
        return text.find(tag, position, end)
    ends = _ACTION_ENDS.search(text, position, end)
    return ends.start() if ends is not None else end


def _closing(opening: re.Match[str]) -> str:
    if opening["bracket"]:
        return "[DONE]" if opening["bracket"] == "BEGIN" else f"[/{opening['bracket']}]"
    if opening["pythonic"]:
        return ")]"
    if _actor(opening):
        return ""
    names = (opening[each] for each in ("tag", "json", "call", "writer", "with"))
    return "</code></pre>" if opening["pre"] else f"</{next(name for name in names if name)}>"


def bare(text: str) -> Element | None:
    """The program in a text that has no code in any other form, without the prose around it. Only what Python can read,
    and a script that is all there is and says by `#!` what runs it.
    """
    begins = _PROGRAM_BEGINS.search(text)
    if begins is None:
        return None
    start = begins.start()
    gaps = deque((gap.start() for gap in _GAP.finditer(text, start)), maxlen=_CUTS)
    for end in (len(text), *reversed(gaps)):
        if end - start > _PROGRAM_CHARS:
            continue
        code = f"{_LINE_END.sub(chr(10), text[start:end]).rstrip()}\n"
        if sum(bool(line.strip()) for line in code.split("\n")) < _PROGRAM_LINES:
            return None
        language = guess(code)
        is_all = language is not None and code.startswith("#!") and not text[:start].strip()
        if is_all or (language == "python" and _does_something(code)):
            return Element("bare", "", code, start, start + len(text[start:end].rstrip()), language)
        if code.startswith("#!"):
            return None
    return None


def _does_something(code: str) -> bool:
    """Python can read it, and it does more than to import."""
    tree = parsed(code)
    return tree is not None and not all(isinstance(line, ast.Import | ast.ImportFrom) for line in tree.body)


def commands(text: str, start: int, end: int) -> Iterator[Element]:
    """The commands of `text[start:end]`, which has neither fences nor tags, in order: on a line of their own, or
    where a sentence says to run one.
    """
    found = [*_COMMAND.finditer(text, start, end), *_SAID.finditer(text, start, end)]
    for match in sorted(found, key=lambda match: match.start(1)):
        yield Element("inline", "bash", match[1] + "\n", match.start(1), match.end(1))


def _inside(opening: re.Match[str], code: str) -> tuple[str, str]:
    """Language, or the file, and code; a fence or a tag right inside a tag is part of the wrapping."""
    code = _LINE_END.sub("\n", code)
    if opening["json"]:
        return _called(code)
    if opening["call"]:
        return _invoked(opening["name"].lower(), code)
    if opening["pythonic"]:
        return _pythonic(opening["pythonic"].lower(), code)
    if (tool := _actor(opening)) is not None:
        return _acted(tool.lower(), code.strip())
    if opening["pre"]:
        code = html.unescape(code).strip("\n") + "\n"
        language = opening["class"].lower() if opening["class"] else guess(code)
        return (language, code) if language else ("", "")
    return _tagged(opening, code)


def _invoked(tool: str, code: str) -> tuple[str, str]:
    given = _PARAMETER.search(code)
    if given is None or tool not in _CALLED:
        return "", ""
    return _CALLED[tool], code[given.end() :].partition(f"</{given['end']}>")[0].strip("\n") + "\n"


def _tagged(opening: re.Match[str], code: str) -> tuple[str, str]:
    if opening["writer"]:
        content = _CONTENT.match(code)
        return (content[1], content[2].strip("\n") + "\n") if content is not None else ("", "")
    child = _CHILD.match(code)
    info, code = _unwrapped((child[2] if child is not None else code).strip("\n"))
    if opening["with"]:
        return opening["file"] or opening["language"] or opening["type"], f"{code}\n"
    name = opening["tag"] or opening["bracket"].lower()
    return info or _TAGS.get(name) or guess(code) or "python", f"{code}\n"


def _actor(opening: re.Match[str]) -> str | None:
    """The tool that is given all up to the next word of such an agent."""
    return opening["action"] or opening["to"] or opening["token"]


def _pythonic(tool: str, arguments: str) -> tuple[str, str]:
    """Language and code of a call that is written as python writes one: `[bash(command="ls")]`."""
    tree = parsed(f"_({arguments})")
    call = tree.body[0].value if tree is not None and isinstance(tree.body[0], ast.Expr) else None
    given = {each.arg: each.value for each in call.keywords} if isinstance(call, ast.Call) else {}
    code = next((given[name] for name in _GIVEN if name in given), None)
    if tool not in _CALLED or not isinstance(code, ast.Constant) or not isinstance(code.value, str):
        return "", ""
    return _CALLED[tool], code.value.strip("\n") + "\n"


def _acted(tool: str, given: str) -> tuple[str, str]:
    """Language and code of an action: what it is given is the code, perhaps quoted, or JSON that has it."""
    if given.startswith("{"):
        return _called(json.dumps({"name": tool, "arguments": given}))
    if given[:1] == given[-1:] == "`":
        given = given.strip("`")
    elif given[:1] in ("'", '"') and (tree := parsed(given)) is not None:
        value = tree.body[0].value if isinstance(tree.body[0], ast.Expr) else None
        given = value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else given
    return _CALLED.get(tool, ""), f"{given}\n" if tool in _CALLED else ""


def _called(text: str) -> tuple[str, str]:
    """Language and code of a call in JSON: `{"name": "python", "arguments": {"code": "..."}}`; or nothing."""
    try:
        call = json.loads(text)
        call = call[0] if isinstance(call, list) and len(call) == 1 else call
        call = call.get("function", call)
        given = next(call[name] for name in _ARGUMENTS if name in call)
        given = json.loads(given) if isinstance(given, str) else given
        language = _CALLED[next(call[name] for name in _NAMES if name in call).lower()]
        code: Any = next((given[name] for name in _GIVEN if name in given), None)
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError, StopIteration):
        return "", ""
    return (language, code.strip("\n") + "\n") if isinstance(code, str) and code.strip() else ("", "")


def _unwrapped(code: str) -> tuple[str, str]:
    """First word of the info string and content of a fence that is all there is; without one, the code as it is."""
    first, *lines = code.strip().split("\n")
    info = first.lstrip("`") if first.startswith("```") else first.lstrip("~")
    fence = first[: len(first) - len(info)]
    if len(fence) < 3 or not lines or lines[-1].strip() != fence or "`" in info:
        return "", code
    return next(iter(info.lower().split()), ""), "\n".join(lines[:-1])
