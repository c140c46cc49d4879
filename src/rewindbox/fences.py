"""A text -> its fences and its indented code, in document order, by CommonMark (markdown-it-py, its block rules only).

Where Markdown's reading cannot be what a model meant, because its fences do not come in pairs then, a fence is read as
it was meant (`_mend`, `_late`, `_html`). Nothing else departs from the standard.

Pure and linear. Knows nothing of languages.
"""

import re
from collections.abc import Callable, Iterator
from itertools import accumulate

from markdown_it import MarkdownIt
from markdown_it.common.utils import unescapeAll
from markdown_it.rules_block import StateBlock, blockquote, fence, heading, hr, html_block, list_block
from markdown_it.token import Token

from rewindbox.elements import Element

# A quote is one level, a list two. Beyond, `>` and list markers are plain text: the library would drop the
# rest of the document instead, fences and all. Each level costs three frames of Python's recursion limit.
_DEEPEST = 40

_Rule = Callable[[StateBlock, int, int, bool], bool]

_FIRST_GUESS = 4
"""How many lines of a quote are looked at before more are."""

_PATIENCE = 2_000_000
"""So many characters of a text are read twice for what its fences mean; beyond, the standard's reading stands."""

_HTML_LINES = 4
"""So soon after a tag a fence is one; later it is what the tag holds."""

_INDENTED = re.compile(r"(?:^|(?<=\r))(?: {4}|\t)", re.MULTILINE)
_LINE_END = re.compile(r"\r\n?|\n")
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)?")

_INFO = re.compile(r"[.{]{0,2}[A-Za-z][\w+#.:/{}-]*")
"""The first word behind a fence that opens."""
_CLOSES = re.compile(r"`{3,}[ \t]*")
_CLOSES_TAGGED = re.compile(r"`{3,}[ \t]*(?:</[A-Za-z][\w-]{0,40}>[ \t]*)?")
_MARKDOWN = ("markdown", "md", "mdx")
_SHELLS = ("bash", "sh", "shell", "zsh")
_HERE_DOCUMENT = re.compile(r"(?<!<)<<-?[ \t]*(['\"]?)([A-Za-z_]\w{0,40})\1")
_WRAPPING = re.compile(
    r"<(?!(?:script|pre|style|textarea)\b)[a-z][\w-]{0,40}(?:\s[^<>]{0,200})?>\s*(?:<summary>[^<]{0,200}</summary>\s*)?",
    re.IGNORECASE,
)
_FENCE = re.compile(r"`{3,}[^`]*|~{3,}.*")


def fences(text: str) -> list[Element]:
    """Every fence, and every piece of indented code, in order. Positions are those of `text` as given."""
    if "```" not in text and "~~~" not in text and not _INDENTED.search(text):
        return []
    tokens = _parse(text)
    if not tokens:
        return []
    lines = _LINE.findall(text) if "\r" in text else text.split("\n")
    ends = 0 if "\r" in text else 1
    starts = [start + number * ends for number, start in enumerate(accumulate(map(len, lines), initial=0))]
    return [_element(text, token, lines, starts) for token in tokens]


def _element(text: str, token: Token, lines: list[str], starts: list[int]) -> Element:
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


def _fenced(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    if not fence(state, start, end, silent):
        return False
    if not silent:
        _mend(state, state.tokens[-1], start, end)
    return True


def _mend(state: StateBlock, token: Token, start: int, end: int) -> None:
    """Where the library's reading leaves fences without their pair, what a model means by them.

    - A block of Markdown has fences of its own length inside: it ends where they have come in pairs.
    - A shell's block ends no earlier than the here-document in it.
    - An opening fence right behind another is the one that opens; the other block is empty.
    - Where else another fence opens inside, or nothing closes it, what nearly closes it does: code before the
      closing fence on its line, or something behind it (`</s>`, `<end_code>`, a full stop).
    """
    name = token.info.strip("{. \t").split(" ")[0].lower()
    if token.markup[0] != "`" or not name:
        return
    if name in _MARKDOWN:
        closing = _paired(state, token.markup, start, end)
    elif name in _SHELLS and (word := _open_document(token.content)) is not None:
        closing = _after(state, word, start, end)
    elif token.markup in token.content and _has_patience(state, len(token.content)):
        _end_nearly(state, token, start)
        return
    else:
        return
    if closing is not None:
        state.line = closing + 1
        token.content = state.getLines(start + 1, closing, state.sCount[start], True)
        token.map = [start, state.line]


def _paired(state: StateBlock, markup: str, start: int, end: int) -> int | None:
    """The line that closes a block of Markdown, if all the fences inside have come in pairs by then."""
    inside = ""  # how the inner fence opened: with a name, or plainly
    for number, line in _lines(state, start + 1, end):
        if not line.startswith(markup):
            continue
        if _CLOSES.fullmatch(line) is None:
            if inside == "plainly" and _opening(line):
                return None
            inside = inside or "named"
        elif inside:
            inside = ""
        elif _leads(_said(state, number - 1)) and number + 1 < end and not state.isEmpty(number + 1):
            inside = "plainly"
        else:
            return number
    return None


def _leads(line: str) -> bool:
    """A blank line, a heading, and a line that ends in a colon say that something is to be shown."""
    return not line.strip() or line.startswith("#") or line.rstrip().endswith(":")


def _open_document(code: str) -> str | None:
    """The word that is to end the last here-document of a shell's code, if it has not come."""
    found = list(_HERE_DOCUMENT.finditer(code)) if "<<" in code else []
    if not found or any(line.strip() == found[-1][2] for line in code[found[-1].end() :].split("\n")):
        return None
    return found[-1][2]


def _after(state: StateBlock, word: str, start: int, end: int) -> int | None:
    """The line that closes a shell's block, behind the word that ends its here-document."""
    has_ended = False
    for number, line in _lines(state, start + 1, end):
        has_ended = has_ended or line.strip() == word
        if has_ended and line.startswith("```"):
            return number if _CLOSES.fullmatch(line) is not None else None
    return None


def _lines(state: StateBlock, start: int, end: int) -> Iterator[tuple[int, str]]:
    """Lines of the same container with their numbers, without their indentation; while there is patience."""
    for number in range(start, end):
        is_outside = state.sCount[number] < state.blkIndent and not state.isEmpty(number)
        if is_outside or not _has_patience(state, state.eMarks[number] - state.bMarks[number] + 1):
            return
        if state.sCount[number] - state.blkIndent < 4:
            yield number, _said(state, number)


def _has_patience(state: StateBlock, count: int) -> bool:
    """Whether so many characters more may be read twice, which keeps the time linear."""
    state.env["patience"] = state.env.get("patience", _PATIENCE) - count
    return bool(state.env["patience"] >= 0)


def _said(state: StateBlock, number: int) -> str:
    return state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]]


def _end_nearly(state: StateBlock, token: Token, start: int) -> None:
    assert token.map is not None  # for mypy: the library has set it
    lines = token.content.split("\n")
    is_closed = token.map[1] - start - 1 > token.content.count("\n")
    nearly, opening = _oddities(lines, len(token.markup))
    if opening == 0:
        nearly = (-1, "")
    if nearly is not None and (opening is not None or not is_closed):
        number, code = nearly
        token.content = "".join(f"{line}\n" for line in (*lines[: max(number, 0)], *([code] if code else [])))
        state.line = start + number + 2
        token.map = [start, state.line]


def _oddities(lines: list[str], length: int) -> tuple[tuple[int, str] | None, int | None]:
    """In a block's code, what nearly closes it, as line and the code before it; and the line where another opens."""
    nearly = None
    for number, line in enumerate(lines):
        if "```" not in line:
            continue
        if _opening(line) >= length:
            return nearly, number
        code = _nearly_closed(line, length)
        if nearly is None and code is not None:
            nearly = number, code
    return nearly, None


def _opening(line: str) -> int:
    """How many backticks open a fence in this line that has a name; 0: none."""
    said = line.lstrip(" ")
    info = said.lstrip("`")
    if len(said) - len(info) < 3 or len(line) - len(said) > 3 or "`" in info:
        return 0
    first, _, rest = info.strip().partition(" ")
    is_name = _INFO.fullmatch(first) is not None and (not rest or any(mark in rest for mark in "={}:"))
    return len(said) - len(info) if is_name else 0


def _nearly_closed(line: str, length: int) -> str | None:
    """The code before a closing fence on its own line; empty where there is something behind the fence instead."""
    code, fence, rest = line.partition("`" * length)
    if not fence or "`" in rest:
        return None
    if not rest.strip():
        return code.rstrip() if code.strip(" \t>*+-.)0123456789") else None
    return "" if not code.strip(" ") and len(code) < 4 else None


def _late(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A fence that opens at the end of a line of prose, if the next one closes it. Else that would open another."""
    if state.src.find("```", state.bMarks[start], state.eMarks[start]) < 0:
        return False
    prose, _, name = _said(state, start).partition("```")
    if not prose.strip(" \t>*+-.)0123456789") or "`" in prose + name or not _INFO.fullmatch(name.rstrip()):
        return False
    closing = next(((number, line) for number, line in _lines(state, start + 1, end) if line.startswith("```")), None)
    if closing is None or _CLOSES_TAGGED.fullmatch(closing[1]) is None:
        return False
    if not silent:
        state.line = closing[0] + 1
        token = state.push("fence", "code", 0)
        token.info, token.markup, token.map = name, "```", [start, state.line]
        token.content = state.getLines(start + 1, closing[0], state.blkIndent, True)
    return True


def _html(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """The library's HTML; but a fence right behind a tag on its own line (`<solution>`) is one, as behind a blank."""
    if not silent and _WRAPPING.fullmatch(_said(state, start)) is not None:
        for number in range(start + 1, min(end, start + _HTML_LINES)):
            if state.sCount[number] - state.blkIndent < 4 and _FENCE.fullmatch(_said(state, number)):
                end = number
                break
    return html_block(state, start, end, silent)


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


def _at(marks: str, rule: _Rule) -> _Rule:
    """The rule, asked only about lines that begin with one of its marks, however far they are indented.

    Most lines are prose, and a rule of the library takes ten times as long to find that out.
    """

    def asked(state: StateBlock, start: int, end: int, silent: bool) -> bool:
        return state.src[state.bMarks[start] + state.tShift[start]] in marks and rule(state, start, end, silent)

    return asked


def _commonmark() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"maxNesting": _DEEPEST + 2})
    # Link definitions are paragraphs to us: the library ends the paragraph after each, so that `<span>` on
    # the next line hides the fences below it; the reference implementation does not.
    parser.disable("reference")
    rules, everywhere = parser.block.ruler, ["paragraph", "reference", "blockquote", "list"]
    rules.at("fence", _at("`~", _fenced), {"alt": everywhere})
    rules.before("paragraph", "late", _late, {"alt": ["paragraph"]})
    rules.at("html_block", _at("<", _html), {"alt": everywhere[:3]})
    rules.at("list", _at("-+*0123456789", _list), {"alt": everywhere[:3]})
    rules.at("blockquote", _at(">", _quote), {"alt": everywhere})
    rules.at("hr", _at("-*_", hr), {"alt": everywhere})
    rules.at("heading", _at("#", heading), {"alt": everywhere[:3]})
    return parser


_PARSER = _commonmark()
