"""Which blocks of an answer run, and whether a piece of code is acceptable. Decides; does nothing.

Not a security boundary: it saves time and says why. The vm is the boundary.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from rewindbox.config import Settings
from rewindbox.errors import InvalidArgument, LanguageRefused, ValidationFailed
from rewindbox.language import Language

if TYPE_CHECKING:
    from rewindbox.models import CodeBlock

OnFailure = Literal["stop", "continue", "rollback"]
"""What becomes of the blocks behind one that fails, and of what it did; see `AsyncRewindbox.run`."""
_ALLOW = "add it to allowed_languages"
_PLACE = "name it by a path with / and without .."
_FILE = re.compile(r"(?<![\w./-])[\w./-]{1,200}\.[A-Za-z]{1,8}\b")
_ABSOLUTE = re.compile(r"(?<![\w./-])/[\w./-]{1,200}")
_IMPORTED = re.compile(r"^[ \t]*(?:from|import)\s+\.{0,3}([A-Za-z_][\w.]{0,200})", re.MULTILINE)

_REQUIRED = re.compile(
    r"(?:\brequire\(|\bfrom\s|\bimport[\s(])\s*['\"]\.{1,2}/(?:[\w.-]{1,80}/){0,8}([\w.-]{1,80})['\"]"
)
_OF_FOLDERS = ("__init__.py", "__main__.py", "index.js")
"""What is imported by the name of its folder."""
_STARTED = re.compile(
    r"^[ \t]*(?:python3? -m|uvicorn|gunicorn|hypercorn)(?: -\S{1,40})* ([A-Za-z_][\w.]{0,200})", re.MULTILINE
)
_TOOL = re.compile(
    r"^[ \t]*(?:python3? -m |npx )?(cargo|pytest|unittest|jest|vitest|mocha|make|go(?= (?:run|build|test)\b)"
    r"|npm(?= (?:start|test|run)\b)|yarn(?= (?:start|test|dev|build)\b))\b",
    re.MULTILINE,
)
_READING = {
    "cargo": re.compile(r".+\.rs"),
    "go": re.compile(r".+\.go"),
    "make": re.compile(r".+\.(?:c|h|cc|cpp|hpp)"),
    **dict.fromkeys(("pytest", "unittest"), re.compile(r"(?:test_.+|.+_test|conftest|tests?)\.py")),
    **dict.fromkeys(("jest", "vitest", "mocha"), re.compile(r".+[._](?:test|spec)\.(?:[cm]?[jt]s|[jt]sx)|test\.js")),
    **dict.fromkeys(("npm", "yarn"), re.compile(r".+\.(?:[cm]?[jt]s|[jt]sx)")),
}
"""Tools that read files which nobody names to them."""
_STARTING = re.compile(
    r"[ \t]*(?:time )?(?:"
    r"(?:(?:python3?|py|node|bash|sh|zsh|ruby|perl|php|Rscript|lua|rustc|javac|gcc|g\+\+|clang|go run)\b"
    r"|chmod \S{1,9}(?= ))[^\n|;&<>]{0,100}?[ ]|\./)(?:\./)?((?:[\w-]{1,80}/){0,8}[\w-]{1,80}\.[A-Za-z]{1,4})\b[^\n<]*"
)
_STARTING_LINES = 20
_GENERATED = {"manage.py", "setup.py"}
"""Files that tools make, and that nobody shows."""
_BESIDES = re.compile(r"[ \t]*(?:#|pip3? install|java [A-Za-z]\w{0,80}$|\./[\w./-]{1,80}\s*$|$)[^\n]*")
"""A line that starts a file; and what may be beside it in a shell's block that does nothing else."""


@dataclass(frozen=True, slots=True)
class Support:
    """What is so about a language here."""

    language: Language
    allowed: bool
    """Whether `allowed_languages` has it."""
    program: str | None
    """Where a vm has its program; None: it is to be installed."""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        row = self.language
        return {
            "name": row.name,
            "aliases": list(row.aliases),
            "extension": row.extension,
            "timeout_multiplier": row.timeout_multiplier,
            "allowed": self.allowed,
            "program": self.program,
            "programs": list(row.programs),
            "package": row.package or None,
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """A block, and why it is not run, with what would change that (None: it is run)."""

    block: "CodeBlock"
    skipped: str | None
    path: str | None = None
    """The file of the vm that it is written to, instead of being run."""

    @property
    def code(self) -> str:
        """What is run: of a transcript what was typed, else the block."""
        return str((self.block.metadata or {}).get("commands") or self.block.code)


def decide(
    blocks: Iterable["CodeBlock"], settings: Settings, programs: Mapping[str, str | None], threshold: float
) -> list[Decision]:
    """For every block of an answer whether it runs.

    Asking to run is the intent: every block in an allowed language runs whose confidence is at least
    `threshold`. `programs` says for each language where the vm has its program, or None.

    A block that is the content of a named file is written instead, where the text says so, where a later block names
    the file or imports it, or where nothing runs its language. A command between the lines of prose runs only if
    a block of the text was written to a file that it names.

    Raises ValidationFailed: `threshold` is not between 0 and 1, or a block that would run is not acceptable.
    """
    if not 0 <= threshold <= 1:
        raise InvalidArgument(f"threshold {threshold}", remedy="give a number from 0 to 1")
    blocks = list(blocks)
    decisions = [Decision(block, _reason(block, settings, programs, threshold)) for block in blocks]
    decisions = _with_files(_with_found(decisions, settings))
    for number, decision in enumerate(decisions, 1):
        if decision.skipped is None:
            check(decision.block.language, decision.code, settings, what=f"block {number}")
    return decisions


def _with_files(decisions: list[Decision]) -> list[Decision]:
    """The same, with what is written instead. From the last one, so that each is known by what comes after it; what a
    page loads is a file, wherever the page stands."""
    mentioned = {name for each in decisions if each.block.language == "html" for name in _names(each.code)}
    found: list[Decision] = []
    first: dict[str, int] = {}
    for decision in decisions:
        first.setdefault(_path(decision), decision.block.start_pos)
    for decision in reversed(decisions):
        known = decision.block.metadata or {}
        path = _path(decision)
        if path and decision.path is None and _is_written(decision, path, mentioned):
            decision = _writing(decision.block, path, known, is_again=decision.block.start_pos > first[path])
        mentioned |= _names(decision.code)
        found.append(decision)
    return _without_idle_commands(found[::-1])


def _with_found(decisions: list[Decision], settings: Settings) -> list[Decision]:
    """The same, with the file that nobody has named but a command that does nothing else than to start it: where of the
    blocks before it one alone is in the language of such files and without a name, it is that one."""
    if any("git clone" in each.code for each in decisions):
        return decisions  # it may be a file of what is fetched
    extensions = {language.extension: name for name, language in settings.languages.items()}
    starting = [_started(each) for each in decisions]
    named = {name for each, starts in zip(decisions, starting, strict=True) if not starts for name in _known(each)}
    named |= _GENERATED
    nameless: dict[str, list[int]] = {}
    found = list(decisions)
    for number, (decision, starts) in enumerate(zip(decisions, starting, strict=True)):
        for path in starts:
            numbers = nameless.get(extensions.get(path.rpartition(".")[2], ""), [])
            if len(numbers) == 1 and path.rpartition("/")[2] not in named:
                block = decisions[numbers[0]].block
                found[numbers.pop()] = Decision(block, f"written to {path}", path)
        if not starts and _may_be_a_file(decision):
            nameless.setdefault(decision.block.language, []).append(number)
    return found


def _started(decision: Decision) -> list[str]:
    """The files that a shell's block starts, if that is all it does."""
    if decision.block.language != "bash" or _is_inline(decision):
        return []
    lines = decision.code.split("\n", _STARTING_LINES)
    matches = [_STARTING.fullmatch(line) for line in lines]
    if not all(match or _BESIDES.fullmatch(line) for match, line in zip(matches, lines, strict=True)):
        return []
    return [match[1] for match in matches if match]


def _known(decision: Decision) -> set[str]:
    """The files whose content a block is, or that it does something with."""
    path = (decision.block.metadata or {}).get("path", "")
    return {path.rpartition("/")[2], *(_names(decision.code) if decision.block.language == "bash" else ())}


def _may_be_a_file(decision: Decision) -> bool:
    block, known = decision.block, decision.block.metadata or {}
    is_script = block.language != "bash" or block.code.startswith("#!")
    return is_script and bool(block.code.strip()) and not {"path", "elsewhere", "commands"} & set(known)


def _path(decision: Decision) -> str:
    """The file whose content a block is, wherever that is; empty: none is named."""
    known = decision.block.metadata or {}
    return str(known.get("path") or known.get("elsewhere") or "")


def _writing(block: "CodeBlock", path: str, known: Mapping[str, Any], *, is_again: bool) -> Decision:
    """That a block is written, or why it cannot be; it is not run then either."""
    if "elsewhere" in known:
        return Decision(block, f"not written, because no vm has {path}; {_PLACE}")
    if "part" in known or (is_again and "added" in known):
        return Decision(block, f"not written to {path}, because it is a part of it; give the whole file")
    return Decision(block, f"written to {path}", path)


def _is_written(decision: Decision, path: str, mentioned: set[str]) -> bool:
    folder, _, name = path.replace("\\", "/").rpartition("/")
    known = decision.block.metadata or {}
    asked = bool(known.get("write") or known.get("part"))
    stem = name.rpartition(".")[0]
    if name in _OF_FOLDERS:
        stem = folder.rpartition("/")[2]
    needed = {name, f"import {stem}", *(f"run {tool}" for tool, reads in _READING.items() if reads.fullmatch(name))}
    is_needed = not needed.isdisjoint(mentioned) and (not path.startswith("/") or folder in mentioned)
    return asked or decision.skipped is not None or is_needed


def _names(code: str) -> set[str]:
    """The names of files in code, `import x` for what it imports, and `run x` for a tool that finds its files; of what
    is named from `/` on also the whole and its folder."""
    files = {match[0].rpartition("/")[2] for match in _FILE.finditer(code)}
    whole = [match[0].rstrip("/") for match in _ABSOLUTE.finditer(code)]
    modules = (match[1].split(".") for which in (_IMPORTED, _STARTED) for match in which.finditer(code))
    required = (f"import {match[1]}" for match in _REQUIRED.finditer(code))
    tools = (f"run {match[1]}" for match in _TOOL.finditer(code))
    folders = {*whole, *(path.rpartition("/")[0] for path in whole)}
    return files | folders | {f"import {part}" for parts in modules for part in parts}.union(tools, required)


def _without_idle_commands(decisions: list[Decision]) -> list[Decision]:
    written: set[str] = set()
    found = []
    for decision in decisions:
        if decision.path is not None:
            written.add(decision.path.rpartition("/")[2])
        if _is_inline(decision) and decision.skipped is None and not written & _names(decision.code):
            decision = Decision(decision.block, "a command in prose, on no file of this text")
        found.append(decision)
    return found


def _is_inline(decision: Decision) -> bool:
    return (decision.block.metadata or {}).get("kind") == "inline"


def _reason(block: "CodeBlock", settings: Settings, programs: Mapping[str, str | None], threshold: float) -> str | None:
    language = settings.languages.get(block.language)
    if language is None:
        return f"{block.language} is not run"
    if language.name not in allowed(settings):
        return f"{language.name} is not allowed; {_ALLOW}"
    if programs.get(language.name) is None:
        return f"no {language.program} on this host; install {language.package or language.program}"
    if block.execution_confidence < threshold:
        return f"confidence {block.execution_confidence:.2f} is below {threshold:.2f}; lower the threshold to run it"
    if not block.code.strip():
        return "it is blank"
    return None


def support(settings: Settings, programs: Mapping[str, str | None]) -> dict[str, Support]:
    """Every language of the table by name; `programs` as in `decide`."""
    may_run = allowed(settings)
    return {
        name: Support(language, name in may_run, programs.get(name)) for name, language in settings.languages.items()
    }


def allowed(settings: Settings) -> frozenset[str]:
    """The languages that may run, by canonical name."""
    return frozenset(map(settings.languages.canonical, settings.allowed_languages))


def check(language: str, code: str, settings: Settings, what: str = "the code") -> None:
    """Refuse what is not acceptable.

    Raises:
        UnsupportedLanguage: the table has no such language.
        LanguageRefused: it has, but `allowed_languages` does not.
        ValidationFailed: too long, blank, NUL, or not text (only where `code_validation` is on).
    """
    name = settings.languages.find(language).name
    if name not in allowed(settings):
        raise LanguageRefused(f"{name} is not allowed", remedy=_ALLOW)
    if not settings.code_validation:
        return
    if not code.strip():
        raise ValidationFailed(f"{what} is empty", remedy="give some code")
    if len(code) > settings.max_code_length:
        raise ValidationFailed(
            f"{what} has {len(code)} characters and exceeds the maximum length of {settings.max_code_length}",
            remedy="shorten it or raise max_code_length",
        )
    if "\0" in code:
        raise ValidationFailed(f"{what} has a NUL character at position {code.index(chr(0))}", remedy="remove it")
    try:
        code.encode()
    except UnicodeEncodeError as error:
        raise ValidationFailed(
            f"{what} has a lone surrogate at position {error.start}", remedy="give text that UTF-8 can write"
        ) from error


def check_on_failure(on_failure: str) -> None:
    """Raises InvalidArgument: it is none."""
    if on_failure not in get_args(OnFailure):
        raise InvalidArgument(f"on_failure {on_failure!r}", remedy="choose stop, continue or rollback")
