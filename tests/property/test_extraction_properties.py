"""What holds for every text."""

from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from rewindbox.extraction import blocks

_MARKS = ("```", "````", "~~~", "~~~~", "`", "~", "```py", ">", ">>", "-", "*", "1.", "2)", "#", "---", "===")
_TAGS = ("<div>", "<span>", "<!--", "-->", "[a]:", "[a]:b", "a", "\0", "\ud800", "é", "漢")
_CODED = (
    "    import os",
    "    print(1)",
    "    >",
    "\t\x0b",
    "<execute>",
    "</execute>",
    "python3 a.py",
    "$ ",
    "<python>",
)
_SPACES = ("\n", "\n\n", "\r\n", "\r", " ", "  ", "    ", "\t", "\n> ", "\n- ", "\n```\n")
_PIECES = st.sampled_from(_MARKS + _TAGS + _CODED + _SPACES)
_FENCED = st.lists(_PIECES, max_size=40).map("".join)
_ANY = st.text(st.characters(exclude_categories=()))
_LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=()), max_size=20)
_CODE = st.lists(_LINE | _PIECES.filter(lambda piece: not set(piece) & set("\r\n")), max_size=6)
_NAME = st.sampled_from(["", "python", "c++", "bash title=x", "{.rust}"])


@given(_ANY | _FENCED)
def test_any_text(text):
    """No text raises, and positions are inside the text, in order, never overlapping."""
    at = 0
    for block in blocks(text):
        assert at <= block.start_pos < block.end_pos <= len(text)
        kind = (block.metadata or {}).get("kind", "fence")
        assert kind != "fence" or text[block.start_pos : block.start_pos + 3] in ("```", "~~~")
        assert text[block.start_pos : block.end_pos].strip(" \t\r\n")
        assert 0.0 <= block.execution_confidence <= 1.0
        at = block.end_pos


def _longest_run(lines, character):
    """As whoever writes Markdown chooses a fence: longer than any that a line begins with."""
    said = [line.lstrip(" \t") for line in lines]
    return max((len(line) - len(line.lstrip(character)) for line in said), default=0)


def _written(lines, character, extra, name):
    fence = character * (max(3, _longest_run(lines, character) + 1) + extra)
    return "".join(f"{line}\n" for line in (fence + name, *lines, fence))


@given(st.lists(st.tuples(_CODE, st.sampled_from("`~"), st.integers(0, 4), _NAME), max_size=5), st.data())
def test_what_is_written_comes_back(written, data):
    """Blocks of any content, written with fences of any sufficient length, come back exactly, in order."""
    prefix = data.draw(st.sampled_from(["", "> ", "   "]), label="prefix")
    text = "prose\n\n" + "prose\n\n".join(_written(*block) for block in written)
    if prefix:
        text = "".join(f"{prefix}{line}\n" for line in text.split("\n"))
    found = blocks(text)
    assert [block.code for block in found] == ["".join(f"{line}\n" for line in block[0]) for block in written]
    assert [(block.metadata or {}).get("info", "") for block in found] == [block[3] for block in written]


@given(_FENCED)
@example("\n    import os")
def test_line_ends_do_not_matter(text):
    """A text has the same code with any of the three line ends."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    unix, windows, mac = ([block.code for block in blocks(line_end.join(lines))] for line_end in ("\n", "\r\n", "\r"))
    assert unix == windows == mac


_QUOTED = st.lists(
    st.sampled_from(["> ", ">", "> > ", "- ", "  ", "    "]).flatmap(
        lambda prefix: st.sampled_from(["a", "b", "# c", "```", "```\n", "~~~", "", "- d", "> e"]).map(
            lambda line: f"{prefix}{line}\n"
        )
    )
    | st.sampled_from(["a\n", "b\n", "\n", "```\n", "- a\n"]),
    max_size=60,
).map("".join)


@given(_QUOTED)
def test_quotes_are_those_of_the_library(text):
    """Reading quotes little by little finds what reading them at once finds."""
    parser = MarkdownIt("commonmark").disable(["inline", "reference"])
    expected = [token.content for token in parser.parse(text) if token.type == "fence"]
    assert [block.code for block in blocks(text)] == expected
