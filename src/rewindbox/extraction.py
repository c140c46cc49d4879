"""A model's text -> its fenced code blocks, in document order.

Read `blocks` first. What a fence is, and which lines belong to it, is decided by CommonMark (markdown-it-py,
its block rules only); so a fence inside an HTML block, such as `<details>` without a blank line after it, is
no block. Inline code, indented code and shell lines in prose are not blocks either.

Pure: no I/O, no clock. Nothing here decides whether a block may run, or whether it can: code with NUL
characters or lone surrogates is handed on as it is, for whoever runs it to refuse.
"""

import re
from dataclasses import dataclass
from itertools import accumulate

from markdown_it import MarkdownIt
from markdown_it.common.utils import unescapeAll
from markdown_it.rules_block import StateBlock, blockquote, list_block
from markdown_it.token import Token

from rewindbox.errors import ValidationFailed
from rewindbox.languages import canonical
from rewindbox.models import CodeBlock

MAX_CHARS = 20_000_000

# A quote is one level, a list two. Beyond, `>` and list markers are plain text: the library would drop the
# rest of the document instead, fences and all. Each level costs three frames of Python's recursion limit.
_DEEPEST = 40

_FIRST_GUESS = 4
"""How many lines of a quote are looked at before more are."""

_LINE_END = re.compile(r"\r\n?|\n")
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)?")

_NAME = re.compile(r"\.?(?:lang(?:uage)?-)?([^\s{}()\[\]<>:,;='\"`]+)(=?)", re.IGNORECASE)

_BASE = {"python": 0.4, "javascript": 0.4, "bash": 0.4, "rust": 0.3, "go": 0.3, "java": 0.3}
_BASE |= {"text": 0.1, "plaintext": 0.1}
_VERBS = ("run", "execute", "try")
_ASKING = (*_VERBS, "test", "check", "verify", "what", "does", "will")
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


def blocks(text: str, *, max_chars: int = MAX_CHARS) -> list[CodeBlock]:
    """Every fenced block of `text`, in the order of the document.

    `code` has "\\n" at the end of each line, whatever ends the lines of `text`, and is otherwise unaltered.
    `start_pos` is the first character of the opening fence (not of the line: a quote or list marker may come
    before it); `end_pos` is one past the closing fence, or, for a block that nothing closes, the end of its
    last line. Both count characters of `text` as given.
    `metadata` is `{"info": ...}` with all that stands after the opening fence, None where nothing does.
    Time is linear in the length of `text`. Any `str` is acceptable, malformed Unicode included.

    Raises:
        ValidationFailed: `text` is longer than `max_chars`. Nothing was read.
    """
    if len(text) > max_chars:
        raise ValidationFailed(
            f"a text of {len(text)} characters, where {max_chars} are allowed",
            remedy="split it, or pass a larger max_chars",
        )
    if "```" not in text and "~~~" not in text:
        return []
    return [_block(fence, nearby) for fence, nearby in _with_prose(text, _fences(text))]


def language(info: str) -> str:
    """The canonical language that an info string names, `text` where it names none.

    The first word counts, without what tools put around it: `python title="x"`, `python:app.py`,
    `{.python #id}`, `{r, echo=FALSE}` and `language-python` name what they seem to name.
    """
    words = (word for word in info.strip("{} \t").split() if not word.startswith("#"))
    match = _NAME.match(next(words, ""))
    if match is None or match[2]:  # `title="x"` alone is an attribute
        return "text"
    return canonical(match[1])


def confidence(language: str, code: str, nearby: str) -> float:
    """How sure we are that a block is meant to be run: 0.0 to 1.0, in steps of 0.1.

    A sum of fixed weights, not a probability: what the language is (0.1 to 0.4), whether the code has 2 to 49
    lines (0.2), defines a function (0.1), imports (0.1), and whether the prose `nearby` asks to run it (0.2)
    or has the words run, execute or try (0.1). Negation is not understood. The words of the code never count
    as a request, and no part of a longer word does (`entry`, `runtime`).
    """
    score = _BASE.get(language, 0.2)
    score += 0.2 * (1 < code.rstrip("\n").count("\n") + 1 < 50)
    score += 0.1 * _says(code, _DEFINING, _DEFINITION)
    score += 0.1 * _says(code, _IMPORTING, _IMPORT)
    prose = nearby.lower()
    score += 0.2 * _says(prose, _ASKING, _ASKED)
    score += 0.1 * _says(prose, _VERBS, _VERB)
    return min(1.0, round(score, 2))


def _says(text: str, words: tuple[str, ...], pattern: re.Pattern[str]) -> bool:
    """Whether `pattern` is in `text`. Looking for the words it needs first takes a tenth of its time."""
    return any(word in text for word in words) and pattern.search(text) is not None


@dataclass(frozen=True, slots=True)
class _Fence:
    info: str
    code: str
    start: int
    end: int


def _block(fence: _Fence, nearby: str) -> CodeBlock:
    name = language(fence.info)
    # Unvalidated, because pydantic refuses lone surrogates, and they are what undecodable bytes become.
    return CodeBlock.model_construct(
        language=name,
        code=fence.code,
        execution_confidence=confidence(name, fence.code, nearby),
        start_pos=fence.start,
        end_pos=fence.end,
        metadata={"info": fence.info} if fence.info else None,
    )


def _with_prose(text: str, fences: list[_Fence]) -> list[tuple[_Fence, str]]:
    """Each fence with up to 200 characters before and after it, short of its neighbours."""
    ends = [0, *(fence.end for fence in fences)]
    starts = [*(fence.start for fence in fences[1:]), len(text)]
    return [
        (
            fence,
            text[max(previous_end, fence.start - _NEARBY_CHARS) : fence.start]
            + "\n"
            + text[fence.end : min(next_start, fence.end + _NEARBY_CHARS)],
        )
        for fence, previous_end, next_start in zip(fences, ends, starts, strict=False)
    ]


def _fences(text: str) -> list[_Fence]:
    tokens = _parse(text)
    if not tokens:
        return []
    lines = _LINE.findall(text)
    starts = list(accumulate(map(len, lines), initial=0))
    return [_fence(text, token, lines, starts) for token in tokens]


def _fence(text: str, token: Token, lines: list[str], starts: list[int]) -> _Fence:
    assert token.map is not None  # for mypy: the fence rule always sets it
    first, last = token.map[0], token.map[1] - 1
    has_closing_line = last - first > token.content.count("\n")
    last_line = lines[last].rstrip(" \t\r\n" if has_closing_line else "\r\n")
    return _Fence(
        info=unescapeAll(token.info).strip(),
        code=token.content,
        # Only spaces and the markers of quotes and lists can stand before a fence.
        start=text.index(token.markup, starts[first]),
        end=starts[last] + len(last_line),
    )


def _parse(text: str) -> list[Token]:
    """The fence tokens of `text`. Not `MarkdownIt.parse`, which would replace NULs and parse inlines."""
    source = _LINE_END.sub("\n", text) if "\r" in text else text
    if not source.endswith("\n"):
        source += "\n"
    tokens: list[Token] = []
    _PARSER.block.parse(source, _PARSER, {}, tokens)
    return [token for token in tokens if token.type == "fence"]


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
