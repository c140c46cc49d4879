"""A model's text -> its code blocks, in document order.

Read `blocks` first. What a fence is, and which lines belong to it, is decided by CommonMark (markdown-it-py,
its block rules only); so a fence inside an HTML block, such as `<details>` without a blank line after it, is
no block. Between fences there may be code in tags and commands on lines of their own (`elements.py`), and
indented code whose language leaves no doubt (`guess.py`).

Pure: no I/O, no clock. Nothing here decides whether a block may run, or whether it can: code with NUL
characters or lone surrogates is handed on as it is, for whoever runs it to refuse.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from markdown_it import MarkdownIt
from markdown_it.common.utils import unescapeAll
from markdown_it.rules_block import StateBlock, blockquote, list_block
from markdown_it.token import Token

from rewindbox import intent
from rewindbox.elements import Element, commands, may_have, tags
from rewindbox.errors import ValidationFailed
from rewindbox.guess import guess
from rewindbox.language import Table
from rewindbox.languages import LANGUAGES
from rewindbox.models import CodeBlock
from rewindbox.naming import named
from rewindbox.transcripts import typed

MAX_CHARS = 20_000_000

# A quote is one level, a list two. Beyond, `>` and list markers are plain text: the library would drop the
# rest of the document instead, fences and all. Each level costs three frames of Python's recursion limit.
_DEEPEST = 40

_FIRST_GUESS = 4
"""How many lines of a quote are looked at before more are."""

_INDENTED = re.compile(r"(?:^|(?<=\r))(?: {4}|\t)", re.MULTILINE)
_DIFF = re.compile(
    r"\s*(?:diff --git |<{5,9} ?(?:SEARCH|HEAD|ORIGINAL)|--- \S[^\n]*\n\+\+\+ |@@ -\d"
    r"|\*\*\* Begin Patch|[^\n]{1,200}\n<{5,9} ?SEARCH)"
)
"""What is to be applied to a file, whatever its info string says."""

_LINE_END = re.compile(r"\r\n?|\n")
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)?")

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


def blocks(text: str, *, max_chars: int = MAX_CHARS, languages: Table = LANGUAGES) -> list[CodeBlock]:
    """Every block of `text`, in the order of the document.

    `code` has "\\n" at the end of each line, whatever ends the lines of `text`, and is otherwise unaltered.
    `start_pos` is the first character of the element: of a fence that of the opening one (not of the line: a quote or
    list marker may come before it). `end_pos` is one past its last: past the closing fence, or, for a block that
    nothing closes, the end of its last line. Both count characters of `text` as given.
    `metadata` has what is known besides: `info`, all that stands after the opening fence; `guessed`, a language that
    nobody has named but the code itself; `commands`, those of a transcript in `code`; `path`, the file whose content
    it is, and `write` where the text says to write it; `kind`, where it is no fence: `indented`, `tag`, `inline`.
    None where there is nothing.
    Time is linear in the length of `text`. Any `str` is acceptable, malformed Unicode included.

    Raises:
        ValidationFailed: `text` is longer than `max_chars`. Nothing was read.
    """
    if len(text) > max_chars:
        raise ValidationFailed(
            f"a text of {len(text)} characters, where {max_chars} are allowed",
            remedy="split it, or pass a larger max_chars",
        )
    fences = _fences(text) if "```" in text or "~~~" in text or _INDENTED.search(text) else []
    pieces = _with_prose(text, _with_others(text, fences))
    return [_block(piece, nearby, before, languages) for piece, nearby, before in pieces]


def language(info: str, languages: Table = LANGUAGES) -> str:
    """The canonical language that an info string names, `text` where it names none.

    The first word counts, without what tools put around it: `python title="x"`, `python:app.py`,
    `{.python #id}`, `{r, echo=FALSE}` and `language-python` name what they seem to name.
    """
    words = (word for word in info.strip("{} \t").split() if not word.startswith("#"))
    match = _NAME.match(next(words, ""))
    if match is None or match[2]:  # `title="x"` alone is an attribute
        return "text"
    return languages.canonical(match[1])


def confidence(language: str, code: str, nearby: str) -> float:
    """How sure we are that a block is meant to be run: 0.0 to 1.0, in steps of 0.1.

    A sum of fixed weights, not a probability: what the language is (0.1 to 0.4), whether the code has 2 to 49
    lines (0.2), defines a function (0.1), imports (0.1), and whether the prose `nearby` asks to run it (0.2)
    or has the words run, execute or try (0.1). Prose that forbids it takes 0.3 away instead (`intent.words`). The words
    of the code never count as a request, and no part of a longer word does (`entry`, `runtime`).
    """
    score = _BASE.get(language, 0.2)
    score += 0.2 * (1 < code.rstrip("\n").count("\n") + 1 < 50)
    score += 0.1 * _says(code, _DEFINING, _DEFINITION)
    score += 0.1 * _says(code, _IMPORTING, _IMPORT)
    return min(1.0, max(0.0, round(score + _wish(nearby), 2)))


def _wish(nearby: str) -> float:
    """What prose adds, or takes away."""
    prose = nearby.lower()
    names_it = _says(prose, _VERBS, _VERB)
    if names_it and any(word in prose for word in _DENYING) and intent.forbids(nearby):
        return -0.3
    return 0.2 * _says(prose, _ASKING, _ASKED) + 0.1 * names_it


def _says(text: str, words: tuple[str, ...], pattern: re.Pattern[str]) -> bool:
    """Whether `pattern` is in `text`. Looking for the words it needs first takes a tenth of its time."""
    return any(word in text for word in words) and pattern.search(text) is not None


def _block(piece: Element, nearby: str, before: str, languages: Table) -> CodeBlock:
    guessed = guess(piece.code) if not piece.info else None
    name = "diff" if _DIFF.match(piece.code) else guessed or language(piece.info, languages)
    console = typed(name, piece.code)
    name = console.language if console is not None else name
    file = named(piece.info, piece.code, before, name)
    known = {
        "kind": piece.kind if piece.kind != "fence" else None,
        "info": piece.info if piece.kind == "fence" else None,
        "guessed": guessed,
        "commands": console.code if console is not None else None,
        "path": file.path if file is not None else None,
        "write": file is not None and file.is_to_be_written,
    }
    # Unvalidated, because pydantic refuses lone surrogates, and they are what undecodable bytes become.
    return CodeBlock.model_construct(
        language=name,
        code=piece.code,
        execution_confidence=confidence(name, piece.code, nearby),
        start_pos=piece.start,
        end_pos=piece.end,
        metadata={key: value for key, value in known.items() if value} or None,
    )


def _with_others(text: str, pieces: list[Element]) -> list[Element]:
    """Fences, and what is between them: tags, else indented code that nobody can doubt, else commands."""
    if not may_have(text):
        return [piece for piece in pieces if piece.kind == "fence" or guess(piece.code) is not None]
    indented = [piece for piece in pieces if piece.kind == "indented"]
    starts = [piece.start for piece in indented]

    def certain(start: int, end: int) -> Iterator[Element]:
        for piece in indented[bisect_left(starts, start) : bisect_left(starts, end)]:
            if piece.end <= end and guess(piece.code) is not None:
                yield piece

    found = [piece for piece in pieces if piece.kind == "fence"]
    found = _filled(text, found, lambda start, end: tags(text, start, end))
    found = _filled(text, found, certain)
    return _filled(text, found, lambda start, end: commands(text, start, end))


def _filled(text: str, pieces: list[Element], between: Callable[[int, int], Iterable[Element]]) -> list[Element]:
    """Pieces, and what is found from the end of each to the start of the next."""
    filled: list[Element] = []
    last = 0
    for piece in pieces:
        filled += (*between(last, piece.start), piece)
        last = piece.end
    return [*filled, *between(last, len(text))]


def _with_prose(text: str, pieces: list[Element]) -> list[tuple[Element, str, str]]:
    """Each with up to 200 characters before and after it, short of its neighbours; and those before it alone."""
    ends = [0, *(piece.end for piece in pieces)]
    starts = [*(piece.start for piece in pieces[1:]), len(text)]
    found = []
    for piece, previous_end, next_start in zip(pieces, ends, starts, strict=False):
        before = text[max(previous_end, piece.start - _NEARBY_CHARS) : piece.start]
        after = text[piece.end : min(next_start, piece.end + _NEARBY_CHARS)]
        found.append((piece, f"{before}\n{after}", before))
    return found


def _fences(text: str) -> list[Element]:
    tokens = _parse(text)
    if not tokens:
        return []
    lines = _LINE.findall(text) if "\r" in text else text.split("\n")
    ends = 0 if "\r" in text else 1
    starts = list(accumulate((len(line) + ends for line in lines), initial=0))
    return [_fence(text, token, lines, starts) for token in tokens]


def _fence(text: str, token: Token, lines: list[str], starts: list[int]) -> Element:
    assert token.map is not None  # for mypy: both rules always set it
    first, last = token.map[0], token.map[1] - 1
    if token.type == "code_block":
        # Markers of quotes and lists stand before the code, but `>` may be code, too: it is found from the line's end.
        said = token.content.split("\n", 1)[0].lstrip(" \t")
        start = starts[first] + len(lines[first].rstrip("\r\n")) - len(said)
        return Element("indented", "", token.content, start, starts[last] + len(lines[last].rstrip(" \t\r\n")))
    has_closing_line = last - first > token.content.count("\n")
    last_line = lines[last].rstrip(" \t\r\n" if has_closing_line else "\r\n")
    return Element(
        kind="fence",
        info=unescapeAll(token.info).strip(),
        code=token.content,
        # Only spaces and the markers of quotes and lists can stand before a fence.
        start=text.index(token.markup, starts[first]),
        end=starts[last] + len(last_line),
    )


def _parse(text: str) -> list[Token]:
    """The tokens of fences and of indented code. Not `MarkdownIt.parse`, which would replace NULs and parse inlines."""
    source = _LINE_END.sub("\n", text) if "\r" in text else text
    if not source.endswith("\n"):
        source += "\n"
    tokens: list[Token] = []
    _PARSER.block.parse(source, _PARSER, {}, tokens)
    return [token for token in tokens if token.type in ("fence", "code_block")]


def _list(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    return state.level < _DEEPEST and list_block(state, start, end, silent)


def _quote(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """The library's quote, in linear time.

    It looks ahead to the last line that might continue the quote, and may then use one line of them: 8,000
    lines alternating between `> # a` and `b` take it half a minute. Here it is shown few lines first, and
    twice as many if it used all. The number is kept, because an outer quote that is shown more asks again.
    """
    if silent or state.level >= _DEEPEST:
        return state.level < _DEEPEST and blockquote(state, start, end, silent)
    guesses: dict[tuple[int, int], int] = state.env.setdefault("guesses", {})
    here = (start, state.level)
    line_max, mark = state.lineMax, len(state.tokens)
    while True:
        limit = min(end, start + guesses.get(here, _FIRST_GUESS))
        state.lineMax = min(line_max, limit)
        found = blockquote(state, start, limit, silent)
        state.lineMax = line_max
        if not found or state.line < limit:
            return found
        guesses[here] = 2 * (limit - start)
        if limit == end:
            return found
        del state.tokens[mark:]
        state.line = start


def _commonmark() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"maxNesting": _DEEPEST + 2})
    # Link definitions are paragraphs to us: the library ends the paragraph after each, so that `<span>` on
    # the next line hides the fences below it; the reference implementation does not.
    parser.disable("reference")
    parser.block.ruler.at("list", _list, {"alt": ["paragraph", "reference", "blockquote"]})
    parser.block.ruler.at("blockquote", _quote, {"alt": ["paragraph", "reference", "blockquote", "list"]})
    return parser


_PARSER = _commonmark()
