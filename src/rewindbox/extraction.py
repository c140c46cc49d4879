"""A model's text -> its code blocks, in document order.

Read `blocks` first. What a fence is, and which lines belong to it, is decided by CommonMark (`fences.py`). Between
fences there may be code in tags and commands on lines of their own (`elements.py`), and indented code whose language
leaves no doubt (`guess.py`). What a model has thought before it answered is not part of its answer.

Pure: no I/O, no clock. Nothing here decides whether a block may run, or whether it can: code with NUL
characters or lone surrogates is handed on as it is, for whoever runs it to refuse.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from rewindbox import intent
from rewindbox.elements import Element, bare, commands, may_have_commands, may_have_tags, tags
from rewindbox.errors import ValidationFailed
from rewindbox.fences import fences
from rewindbox.guess import (
    guess,
    is_dockerfile,
    is_jsx,
    is_no_shell,
    is_python,
    is_shell,
    parsed,
    says,
    settings,
)
from rewindbox.language import Table
from rewindbox.languages import LANGUAGES
from rewindbox.models import CodeBlock
from rewindbox.naming import has_place, is_path, named
from rewindbox.transcripts import typed

MAX_CHARS = 20_000_000

_THOUGHTS = (
    ("<think>", "</think>"),
    *((f"<{name}>", f"</{name}>") for name in ("thinking", "thought", "reasoning", "scratchpad", "seed:think")),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
    ("◁think▷", "◁/think▷"),
)
"""How models mark what they think before they answer."""
_THOUGHT_ENDS = re.compile(r"(?:\A|[\r\n])[ \t]*</think>[ \t]*(?=[\r\n]|\Z)")
"""Where only the end is marked: the beginning was part of the prompt."""
_LATER = re.compile(r"(?<=\n)[ \t]{0,3}<(think|thinking)>[ \t]*(?=[\r\n])")
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"
_UNSEEN = dict.fromkeys(map(ord, _INVISIBLE))
_VERSION = re.compile(r"(?<=[a-z+])(?<!perl)-?[0-9][0-9.]*\Z")
"""That of `python3.11` and `c++17`; perl6 is another language."""
_LINES = re.compile(r"\A(?:[0-9]+:)+")
"""Those of a file, before its name: `12:15:src/app.py`."""

_DIFF = re.compile(
    r"\s*(?:diff --git |<{5,9} ?(?:SEARCH|HEAD|ORIGINAL)|--- \S[^\n]*\n\+\+\+ |@@ -\d"
    r"|\*\*\* Begin Patch|[^\n]{1,200}\n<{5,9} ?SEARCH)"
)
"""What is to be applied to a file, whatever its info string says."""
_CONFLICT = ("\n<<<<<<< ", "\n=======\n", "\n>>>>>>> ")
_CHANGES = re.compile(r"(?:[ +-].*\n|\n)+")
_TRACEBACK = "Traceback (most recent call last):"
_TREE = re.compile(r"\s*[^\n]{1,80}\n(?:[│|]?[ \t]*\n)?[│|]?[ \t]{0,8}[├└]─")
"""The files of a project, drawn."""

_NAMELESS = ("", "console", "terminal", "command", "commands", "command-line", "cli", "code", "jupyter", "notebook")
"""Words behind a fence that leave open which language it is."""
_JSON = re.compile(r"\s*\{\s*\"[^\"\n]{0,200}\"\s*:")
_VARIABLE = re.compile(r"\$\{?([A-Z_][A-Z0-9_]*)")
_OUTPUT = re.compile(
    r"\W*(?:(?:the|expected|example|sample|console|program|your|this|will|should|would) ){0,3}output(?: of \S{1,60})?"
    r"(?: (?:is|will be|should be|would be|looks? like(?: this)?))?\W*",
    re.IGNORECASE,
)
"""A line before what a program has shown."""

_NAME = re.compile(r"\.?(?:lang(?:uage)?-)?([^\s{}()\[\]<>:,;='\"`]+)(=?)", re.IGNORECASE)

_BASE = {"python": 0.4, "javascript": 0.4, "bash": 0.4, "rust": 0.3, "go": 0.3, "java": 0.3}
_BASE |= {"text": 0.1, "plaintext": 0.1}
_VERBS = ("run", "execute", "try")
_ASKING = (*_VERBS, "test", "check", "verify", "what", "does", "will")
_DENYING = ("not", "n't", "n’t", "never", "avoid", "without", "instead", "rather", "stop")
_DEFINING = ("def", "function", "fn")
_IMPORTING = ("import", "use", "require(")
_VERB = re.compile(r"\b(?:run|execute|try)\b")
_ASKED = re.compile(
    r"\b(?:(?:run|execute|try)\s+(?:this|the|it)"
    r"|(?:can|could|would)\s+you\s+(?:run|execute|try)"
    r"|(?:test|check|verify)\s+(?:this|the)\s+code"
    r"|what\s+(?:happens|would\s+happen)\s+if"
    r"|(?:does|will)\s+(?:this|it)\s+(?:work|run))\b"
)
_DEFINITION = re.compile(r"\b(?:def|function|fn)\s")
_IMPORT = re.compile(r"\b(?:import|use)\s|\brequire\(")
_NEARBY_CHARS = 200
"""A request so near to a block is one to run it."""
_BEHIND_CHARS = 500
"""So far behind it may be said how to save it."""


def blocks(
    text: str, *, max_chars: int = MAX_CHARS, languages: Table = LANGUAGES, request: str | None = None
) -> list[CodeBlock]:
    """Every block of `text`, in the order of the document.

    `code` has "\\n" at the end of each line, whatever ends the lines of `text`, and is otherwise unaltered.
    `start_pos` is the first character of the element: of a fence that of the opening one (not of the line: a quote or
    list marker may come before it). `end_pos` is one past its last: past the closing fence, or, for a block that
    nothing closes, the end of its last line. Both count characters of `text` as given.
    `metadata` has what is known besides: `info`, all that stands after the opening fence; `guessed`, a language that
    nobody has named but the code itself; `commands`, those of a transcript in `code`; `path`, the file whose content
    it is, in the vm, or `elsewhere`, where no vm has such a path; `write` where the text says to write it, `added` to
    add it to the file; `part`, where it leaves out what the file has already; `kind`, where it is no fence: `indented`,
    `tag`, `inline`, `bare` (the program in a text without anything else).
    None where there is nothing.
    A model's thoughts (`<think>`, at the beginning or on a line of its own) have no blocks; where they do not end,
    nothing behind them is an answer.
    `request`: what the user has asked for, which counts in `execution_confidence`.
    Time is linear in the length of `text`. Any `str` is acceptable, malformed Unicode included.

    Raises:
        ValidationFailed: `text` is longer than `max_chars`. Nothing was read.
    """
    if len(text) > max_chars:
        raise ValidationFailed(
            f"a text of {len(text)} characters, where {max_chars} are allowed",
            remedy="split it, or pass a larger max_chars",
        )
    asked = intent.words(request) if request is not None else None
    text = _answer(text)
    found = _with_others(text, fences(text))
    if not found and (program := bare(text)) is not None:
        found = [program]
    used = _variables(found, languages)
    pieces = _with_prose(text, found)
    return [_block(piece, before, after, languages, asked, used) for piece, before, after in pieces]


def language(info: str, languages: Table = LANGUAGES) -> str:
    """The canonical language that an info string names, `text` where it names none.

    The first word counts, without what tools put around it: `python title="x"`, `python:app.py`,
    `{.python #id}`, `{r, echo=FALSE}` `language-python`, `python3.11` and `src/app.py` name what they seem to name.
    """
    if (name := languages.canonical(info)) in languages:
        return name
    words = [word for word in info.translate(_UNSEEN).strip("{} \t").split() if not word.startswith("#")]
    match = _NAME.match(words[0]) if words else None
    if match is None or match[2]:  # `title="x"` alone is an attribute
        return "text"
    said = match[1]
    candidates = [said, _VERSION.sub("", said)]
    if is_path(path := _LINES.sub("", words[0])):
        candidates.append(path.rpartition(".")[2])
    return next((name for name in map(languages.canonical, candidates) if name in languages), said.lower())


def confidence(language: str, code: str, nearby: str, asked: intent.Words | None = None) -> float:
    """How sure we are that a block is meant to be run: 0.0 to 1.0, in steps of 0.1.

    A sum of fixed weights, not a probability: what the language is (0.1 to 0.4), whether the code has 2 to 49
    lines (0.2), defines a function (0.1), imports (0.1), and whether the prose `nearby` asks to run it (0.2)
    or has the words run, execute or try (0.1). Prose that forbids it takes 0.3 away instead (`intent.words`). The words
    of the code never count as a request, and no part of a longer word does (`entry`, `runtime`). What the user has
    `asked` for counts like prose that asks, or forbids; what prose says of this very block not to do is nearer.
    """
    score = _BASE.get(language, 0.2)
    score += 0.2 * (1 < code.count("\n", 0, len(code.rstrip("\n"))) + 1 < 50)
    score += 0.1 * says(code, _DEFINING, _DEFINITION)
    score += 0.1 * says(code, _IMPORTING, _IMPORT)
    return min(1.0, max(0.0, round(score + _wish(nearby, asked), 2)))


def _wish(nearby: str, asked: intent.Words | None) -> float:
    """What prose and the user's request add, or take away."""
    prose = nearby.lower()
    names_it = says(prose, _VERBS, _VERB)
    if names_it and any(word in prose for word in _DENYING) and intent.forbids(nearby):
        return -0.3
    if asked is not None and (asked.forbidding or asked.asking):
        return -0.3 if asked.forbidding else 0.3
    return 0.2 * says(prose, _ASKING, _ASKED) + 0.1 * names_it


def _answer(text: str) -> str:
    """The text as long as it was, with blank lines for thoughts and for what nobody sees at its beginning."""
    start = len(text) - len(text.lstrip(_INVISIBLE))
    while (end := _thought(text, start)) is not None:
        start = end
    if start == 0 and "</think>" in text and "<think>" not in text:
        start = ends.end() if (ends := _THOUGHT_ENDS.search(text)) and not _is_code(text, ends.start()) else 0
    text = "\n" * start + text[start:] if start else text
    return _without_later(text) if "\n<think" in text[start:] else text


def _thought(text: str, start: int) -> int | None:
    """Where the thought that begins here ends: with the text, where nothing ends it."""
    said = text[start : start + 200].lstrip()
    for opening, closing in _THOUGHTS:
        if said.startswith(opening):
            return end + len(closing) if (end := text.find(closing, start)) >= 0 else len(text)
    return None


def _without_later(text: str) -> str:
    """Without what was thought between two parts of the answer, on lines of its own; in a block it is code."""
    pieces = [(piece.start, piece.end) for piece in fences(text)]
    parts: list[str] = []
    position = 0
    for opening in _LATER.finditer(text):
        inside = bisect_left(pieces, (opening.start(), 0)) - 1
        if opening.start() < position or (inside >= 0 and pieces[inside][1] > opening.start()):
            continue
        closing = text.find(f"</{opening[1]}>", opening.end())
        end = closing + len(opening[1]) + 3 if closing >= 0 else len(text)
        parts += (text[position : opening.start()], "\n" * (end - opening.start()))
        position = end
    return "".join((*parts, text[position:]))


def _is_code(text: str, position: int) -> bool:
    return any(piece.start < position < piece.end for piece in fences(text))


def _variables(pieces: list[Element], languages: Table) -> frozenset[str]:
    """Those that code of shells uses, other than settings."""
    codes = (piece.code for piece in pieces if "$" in piece.code and language(piece.info, languages) == "bash")
    return frozenset(name for code in codes if not settings(code) for name in _VARIABLE.findall(code))


def _block(
    piece: Element, before: str, after: str, languages: Table, asked: intent.Words | None, used: frozenset[str]
) -> CodeBlock:
    nearby = f"{before}\n{after[:_NEARBY_CHARS]}"
    guessed = piece.guessed if piece.guessed or piece.info.lower() not in _NAMELESS else guess(piece.code)
    name = _language(piece.code, guessed or language(piece.info, languages), before, used)
    console = typed(name, piece.code)
    name = console.language if console is not None else name
    file = named(piece.info, piece.code, before, name, after) if name != "diff" else None
    known = {
        "kind": piece.kind if piece.kind != "fence" else None,
        "info": piece.info if piece.kind == "fence" else None,
        "guessed": guessed,
        "commands": console.code if console is not None else None,
        "path": file.path if file is not None and has_place(file.path) else None,
        "elsewhere": file.path if file is not None and not has_place(file.path) else None,
        "write": file is not None and (file.is_to_be_written or _is_file(piece)),
        "part": file is not None and file.is_part,
        "added": file is not None and file.is_added,
    }
    # Unvalidated, because pydantic refuses lone surrogates, and they are what undecodable bytes become.
    return CodeBlock.model_construct(
        language=name,
        code=piece.code,
        execution_confidence=confidence(name, piece.code, nearby, asked),
        start_pos=piece.start,
        end_pos=piece.end,
        metadata={key: value for key, value in known.items() if value} or None,
    )


def _language(code: str, said: str, before: str, used: frozenset[str]) -> str:
    """What a block is, whatever it is called."""
    if _is_diff(code):
        return "diff"
    if _is_shown(said, code, before):
        return "text"
    if said == "javascript" and code.lstrip()[:1] == "<":
        return "html"
    if said == "javascript" and is_jsx(code):
        return "jsx"
    if said == "python":
        return "bash" if is_shell(code) and parsed(code) is None else said
    return _of_shell(code, used) if said == "bash" else said


def _of_shell(code: str, used: frozenset[str]) -> str:
    if is_dockerfile(code):
        return "dockerfile"
    if (names := settings(code)) and names.isdisjoint(used):
        return "dotenv"
    return "python" if is_python(code) else "bash"


def _is_file(piece: Element) -> bool:
    """A tag has said so: it has its name."""
    return piece.kind == "tag" and is_path(piece.info)


def _is_diff(code: str) -> bool:
    """It is to be applied to a file: a diff, a patch, a conflict, or lines that come and lines that go."""
    if _DIFF.match(code) or ("\n=======\n" in code and _has_conflict(f"\n{code}")):
        return True
    if code[:1] not in (" ", "+", "-") or "\n+" not in f"\n{code}" or "\n-" not in f"\n{code}":
        return False
    return _CHANGES.fullmatch(code) is not None


def _has_conflict(code: str) -> bool:
    """Two versions of some lines, between the marks of a merge."""
    place = 0
    return all((place := code.find(mark, place)) >= 0 for mark in _CONFLICT)


def _is_shown(language: str, code: str, before: str) -> bool:
    """What a program has shown, the files of a project, or data: nobody's program, whatever it is called."""
    if code.startswith(_TRACEBACK) or (language == "javascript" and _JSON.match(code) is not None):
        return True
    if language in ("bash", "python") and _OUTPUT.fullmatch(before.rstrip().rpartition("\n")[2]) is not None:
        return guess(code) != "bash" if language == "bash" else parsed(code) is None
    if language != "bash":
        return False
    return is_no_shell(code) or ("─" in code and _TREE.match(code) is not None)


def _with_others(text: str, pieces: list[Element]) -> list[Element]:
    """Fences, and what is between them: tags, else indented code that nobody can doubt, else commands."""
    pieces = [piece if piece.kind == "fence" else replace(piece, guessed=guess(piece.code)) for piece in pieces]
    pieces = [piece for piece in pieces if piece.kind == "fence" or piece.guessed is not None]
    has_tags, has_commands = may_have_tags(text), may_have_commands(text)
    if not has_tags and not has_commands:
        return pieces
    indented = [piece for piece in pieces if piece.kind == "indented"]
    starts = [piece.start for piece in indented]

    def certain(start: int, end: int) -> Iterator[Element]:
        for piece in indented[bisect_left(starts, start) : bisect_left(starts, end)]:
            if piece.end <= end:
                yield piece

    found = [piece for piece in pieces if piece.kind == "fence"]
    if has_tags:
        found = _filled(text, found, lambda start, end: tags(text, start, end))
    found = _filled(text, found, certain)
    return _filled(text, found, lambda start, end: commands(text, start, end)) if has_commands else found


def _filled(text: str, pieces: list[Element], between: Callable[[int, int], Iterable[Element]]) -> list[Element]:
    """Pieces, and what is found from the end of each to the start of the next."""
    filled: list[Element] = []
    last = 0
    for piece in pieces:
        filled += (*between(last, piece.start), piece)
        last = piece.end
    return [*filled, *between(last, len(text))]


def _with_prose(text: str, pieces: list[Element]) -> list[tuple[Element, str, str]]:
    """Each with what stands right before and behind it, short of its neighbours."""
    ends = [0, *(piece.end for piece in pieces)]
    starts = [*(piece.start for piece in pieces[1:]), len(text)]
    found = []
    for piece, previous_end, next_start in zip(pieces, ends, starts, strict=False):
        before = text[max(previous_end, piece.start - _NEARBY_CHARS) : piece.start]
        after = text[piece.end : min(next_start, piece.end + _BEHIND_CHARS)]
        found.append((piece, before, after))
    return found
