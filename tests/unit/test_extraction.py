"""Which blocks a text has: what the examples of CommonMark, real answers and odd input promise."""

import gzip
import html
import json
import os
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from rewindbox.errors import ValidationFailed
from rewindbox.extraction import blocks, confidence, language
from rewindbox.models import CodeBlock

_HTML_CODE = re.compile(r"<pre><code[^>]*>(.*?)</code></pre>", re.DOTALL)


def _data(name: str) -> Path:
    root = os.environ.get("REWINDBOX_TEST_DATA")
    if not root or not (path := Path(root, name)).exists():
        pytest.skip(f"{name} not found: set REWINDBOX_TEST_DATA to the folder that has it")
    return path


def _answers() -> list[str]:
    with gzip.open(_data("llm-wildbench/with_fence.jsonl.gz"), "rt", encoding="utf-8") as lines:
        return [json.loads(line)["response"] for line in lines]


def _codes(text: str) -> list[str]:
    return [block.code for block in blocks(text)]


def _element(text: str, block: CodeBlock) -> str:
    return text[block.start_pos : block.end_pos]


FOUND = {
    "backticks": ("```\na\n```\n", ["a\n"]),
    "tildes": ("~~~\na\n~~~\n", ["a\n"]),
    "four hold three": ("````\n```\na\n```\n````\n", ["```\na\n```\n"]),
    "in a list": ("1. do\n\n   ```\n   a\n     b\n   ```\n2. do\n", ["a\n  b\n"]),
    "in a quote": ("> ```\n> a\n> ```\n", ["a\n"]),
    "in a list in a quote": ("> - ```\n>   a\n>   ```\n", ["a\n"]),
    "after a quote": ("> ```\n> a\n```\nb\n```\n", ["a\n", "b\n"]),
    "indented fence": ("   ```\n   a\n    b\n   ```\n", ["a\n b\n"]),
    "windows lines": ("```\r\na\r\nb\r\n```\r\n", ["a\nb\n"]),
    "old mac lines": ("```\ra\rb\r```\r", ["a\nb\n"]),
    "unclosed": ("```\na\nb", ["a\nb\n"]),
    "unclosed with spaces at the end": ("```\na\n  ", ["a\n  \n"]),
    "fence on the last line of code closes nothing": ("```\na```\n", ["a```\n"]),
    "empty": ("```\n```\n", [""]),
    "opening fence only": ("```", [""]),
    "other line separators are text": ("```\na\u2028b\x0bc\x85d\n```\n", ["a\u2028b\x0bc\x85d\n"]),
    "interrupts a paragraph": ("so:\n```\na\n```\nthen\n", ["a\n"]),
    "after a link definition": ("[a]: b\n```\na\n```\n", ["a\n"]),
    "details with a blank line": ("<details>\n\n```\na\n```\n\n</details>\n", ["a\n"]),
    "in a comment": ("<!--\n\n```\na\n```\n-->\n", []),
    "indented by four": ("    ```\n    a\n    ```\n", []),
    "inline": ("```a``` and ``b``\n", []),
    "nothing": ("", []),
}


# What models write where the fences do not come in pairs, as Markdown reads them: text -> language and code.
MEANT = {
    "markdown with fences of its length": (
        "```markdown\n# T\n\n```bash\nls\n```\n\nSo:\n```\nx\n```\n```\n\n```python\n1\n```\n",
        [("markdown", "# T\n\n```bash\nls\n```\n\nSo:\n```\nx\n```\n"), ("python", "1\n")],
    ),
    "markdown whose fences have no pair": (
        "```markdown\n# T\n```bash\nls\n```\nThen it ends.",
        [("markdown", "# T\n```bash\nls\n")],
    ),
    "a here-document with fences": (
        "```bash\ncat > a.md <<'EOF'\n# T\n```python\n1\n```\nEOF\nls\n```\nDone.\n",
        [("bash", "cat > a.md <<'EOF'\n# T\n```python\n1\n```\nEOF\nls\n")],
    ),
    "a here-document that is closed": (
        "```bash\ncat <<A\nx\nA\n```\n\n```\nA\n```\n",
        [("bash", "cat <<A\nx\nA\n"), ("text", "A\n")],
    ),
    "opened twice": ("```python\n```bash\nls\n```\n", [("python", ""), ("bash", "ls\n")]),
    "closed on the last line of code": ("```python\nprint(1)```", [("python", "print(1)\n")]),
    "closed so, and another follows": (
        "```python\nx```\nand\n```bash\nls\n```\n",
        [("python", "x\n"), ("bash", "ls\n")],
    ),
    "the end of a turn": ("```python\n1\n```<|im_end|>\n", [("python", "1\n")]),
    "a full stop": ("```python\n1\n```.\n\n```js title=x\n2\n```\n", [("python", "1\n"), ("javascript", "2\n")]),
    "backticks in code that is closed": ("```python\ns\n```.\nx```\ns\n```\n", [("python", "s\n```.\nx```\ns\n")]),
    "backticks without a name": ("```\na```\n", [("text", "a```\n")]),
    "opened at the end of a sentence": ("Here it is: ```python\n1\n```\nDone.", [("python", "1\n")]),
    "a sentence about fences": ("It begins with ```python\n\n```bash\nls\n```\n", [("bash", "ls\n")]),
    "right in a tag": ("<solution>\n```python\n1\n```\n</solution>\n", [("python", "1\n")]),
    "in details": ("<details>\n<summary>How</summary>\n```bash\nls\n```\n</details>\n", [("bash", "ls\n")]),
    "in a script": ("<script>\n```js\n1\n```\n</script>\n", []),
    "a mark of byte order": ("\ufeff```python\n1\n```\n", [("python", "1\n")]),
    "thoughts": ("<think>\n\n```python\n1\n\n</think>\n\n```python\n2\n```\n", [("python", "2\n")]),
    "thoughts that began before": ("So:\n\n```python\n1\n```\n</think>\n```python\n2\n```\n", [("python", "2\n")]),
    "thoughts without an end": ("<think>\n\n```python\n1\n```\n", []),
    "a tag that is talked of": (
        "`</think>` ends it.\n\n```python\nx = '</think>'\n```\n",
        [("python", "x = '</think>'\n")],
    ),
}


@pytest.mark.parametrize(("text", "found"), MEANT.values(), ids=MEANT.keys())
def test_fences_without_their_pair_are_read_as_meant(text, found):
    """Where Markdown would leave a fence without its pair, the block is what the model meant; else Markdown counts."""
    assert [(block.language, block.code) for block in blocks(text)] == found
    for block in blocks(text):
        assert _element(text, block).startswith("```")


@pytest.mark.parametrize(("text", "codes"), FOUND.values(), ids=FOUND.keys())
def test_fences_are_those_of_commonmark(text, codes):
    """A block is what CommonMark calls a fenced code block, with the content that CommonMark gives it."""
    assert _codes(text) == codes


INFO = {
    "": "text",
    "python": "python",
    "Python": "python",
    "py": "python",
    "python3": "python",
    "js": "javascript",
    "node": "javascript",
    "sh": "bash",
    "rs": "rust",
    "c++": "cpp",
    "c#": "c#",
    "objective-c": "objective-c",
    "R": "r",
    'python title="x"': "python",
    "python:app.py": "python",
    "python, ignore": "python",
    "rust,no_run": "rust",
    "js{1,3}": "javascript",
    "{.python}": "python",
    "{.python .numberLines}": "python",
    "{#id .python}": "python",
    "{#id}": "text",
    "{python}": "python",
    "{r, echo=FALSE}": "r",
    "{ python }": "python",
    "language-python": "python",
    "lang-js": "javascript",
    'title="x"': "text",
    "<body>": "text",
    "visual Prolog": "visual",
    "python3.11": "python",
    "C++17": "cpp",
    "perl6": "perl6",
    "h2": "h2",
    "python\u200b": "python",
    "src/app.py": "python",
    "12:15:web/app.js": "javascript",
    "index.html": "index.html",
    "питон": "питон",
}


@pytest.mark.parametrize(("info", "name"), INFO.items())
def test_language_is_the_first_word_of_the_info_string(info, name):
    """Attributes, braces, file names and prefixes around the language do not hide it."""
    assert language(info) == name
    [block] = blocks(f"~~~ {info}\nx = 1\n~~~\n")
    assert (block.language, block.code) == (name, "x = 1\n")


def test_metadata_keeps_the_info_string():
    """The whole info string is kept, with escapes resolved; there is no metadata where it is empty."""
    named, bare = blocks("```py title=a\\*b&amp;c  \n```\n\n```\n```\n")
    assert named.metadata == {"info": "py title=a*b&c"}
    assert bare.metadata is None


def test_attributes_do_not_shift_the_blocks_after_them():
    """Prose between two blocks is never a block, whatever their info strings are."""
    text = '```python title="a.py"\na\n```\nprose\n```c++\nb\n```\nmore\n```bash\nc\n```\n'
    assert [(block.language, block.code) for block in blocks(text)] == [
        ("python", "a\n"),
        ("cpp", "b\n"),
        ("bash", "c\n"),
    ]


@pytest.mark.parametrize("filler", ["é", "—", "漢", "🐍", "a\u0301"])
@pytest.mark.parametrize("length", [66, 67, 100, 198, 199, 200, 201, 400])
def test_any_script_around_a_block(filler, length):
    """Characters of several bytes near the edge of what is looked at change neither code nor positions."""
    prose = filler * length
    text = f"{prose}\n```python\nprint('{filler}')\n```\n{prose}"
    [block] = blocks(text)
    assert block.code == f"print('{filler}')\n"
    assert _element(text, block) == f"```python\nprint('{filler}')\n```"


@pytest.mark.parametrize(
    "text",
    [
        "```python\nx = 5 + 3\nprint(x)\n```\n",
        "```bash\nNAME=world\necho $NAME\n```\n",
        "timeout = 30 seconds is the default; please run it\n\n```bash\npython3 a.py\n```\n",
    ],
)
def test_a_line_is_never_found_twice(text):
    """Assignments and commands make no block of their own, in a block or in prose."""
    assert len(blocks(text)) == 1


def test_document_order():
    """Blocks come as they stand in the text, not by confidence."""
    text = "```text\nfirst\n```\nPlease run this code\n```python\nimport a\na()\n```\n```sh\nlast\n```"
    assert [block.language for block in blocks(text)] == ["text", "python", "bash"]


def test_three_languages():
    """An answer with three blocks has three, each in its language."""
    text = (
        "Here:\n\n```python\ndef factorial(n):\n    return 1 if n < 2 else n * factorial(n - 1)\n```\n\n"
        "```javascript\nfunction fib(n) { return n < 2 ? n : fib(n - 1) + fib(n - 2) }\n```\n\n"
        "```bash\necho hello\nls\n```\n"
    )
    found = blocks(text)
    assert [block.language for block in found] == ["python", "javascript", "bash"]
    assert found[0].execution_confidence > 0.3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```python\nprint(1)\n```", 0.4),
        ("```python\nprint('executed, entry, runtime')\n```", 0.4),
        ("```python\n# try this\n```", 0.4),
        ("```rust\nlet a = 1;\n```", 0.3),
        ("```rust\nfn main() {}\n```", 0.4),
        ("Execute this code:\n```python\nprint(1)\n```", 0.7),
        ("Execute this Python code:\n```python\na = 1\nprint(a)\n```", 0.9),
        ("```sh\nls\n```\nCan you run it?", 0.7),
        ("```text\nfor each thing\n  do it\n```", 0.3),
        ("Please run this:\n```py\nimport numpy\ndef main():\n    pass\n```", 1.0),
    ],
)
def test_confidence(text, expected):
    """The documented weights add up, without float noise, and words of the code are no request."""
    [block] = blocks(text)
    assert repr(block.execution_confidence) == repr(expected)


@pytest.mark.parametrize(
    ("text", "request_", "expected"),
    [
        ("```sh\nls\n```", "Run the script.", 0.7),
        ("```sh\nls\n```", "Write it, but do not run it.", 0.1),
        ("```sh\nls\n```", "What lists files?", 0.4),
        ("Run this:\n```sh\nls\n```", "What lists files?", 0.7),
        ("Never run this:\n```sh\nls\n```", "Please run it.", 0.1),
    ],
)
def test_what_the_user_asked_for_counts(text, request_, expected):
    """A request that asks or forbids counts for every block; what is said of a block not to do is nearer."""
    [block] = blocks(text, request=request_)
    assert block.execution_confidence == expected


def test_prose_belongs_to_the_nearest_blocks():
    """A request counts for the blocks next to it, not for one behind another block."""
    near, far = blocks("Run this:\n```sh\nls\n```\n\n```sh\nls\n```\n")
    assert near.execution_confidence > far.execution_confidence


@pytest.mark.parametrize(("lines", "expected"), [(1, 0.2), (2, 0.4), (49, 0.4), (50, 0.2)])
def test_confidence_counts_lines(lines, expected):
    """Code of 2 to 49 lines scores higher; the end of the last line is no line."""
    assert confidence("cobol", "x\n" * lines, "") == expected


POSITIONS = {
    "quote": ("a\n\n> ```sh\n> ls\n> ```  \nb", "```sh\n> ls\n> ```"),
    "list": ("- ~~~\n  a\n  ~~~~\n- b", "~~~\n  a\n  ~~~~"),
    "windows": ("a\r\n\r\n```\r\nb\r\n```\r\nc", "```\r\nb\r\n```"),
    "unclosed": ("a\n```\nb\n", "```\nb"),
    "unclosed in a quote": ("> ```\n> a\n\nb", "```\n> a"),
    "closing fence without content": ("```\n```", "```\n```"),
    "alone": ("a\n\n  ```py", "```py"),
}


@pytest.mark.parametrize(("text", "element"), POSITIONS.values(), ids=POSITIONS.keys())
def test_positions(text, element):
    """Positions cut the element out of the text as given, from the first fence character to the last."""
    [block] = blocks(text)
    assert _element(text, block) == element


@pytest.mark.parametrize(
    "text", ["    >", "    > > >", "\t>\n\t>", ">     >", "-     >", "    \x0b", "    \x85", "     \u2028"]
)
def test_indented_code_may_be_what_looks_like_a_marker(text):
    """Indented code of nothing but marks and odd blanks is read, and is no block."""
    assert blocks(text) == []


@pytest.mark.parametrize("odd", ["\0", "\ud800", "\udcff", "\ufeff", "\x1b[0m", "\u202e"])
def test_odd_characters_stay(odd):
    """Code is never altered silently: NUL, lone surrogates and controls are still in it."""
    [block] = blocks(f"{odd}\n```x{odd}\na{odd}b\n```\n{odd}")
    assert block.code == f"a{odd}b\n"
    assert block.metadata == {"info": f"x{odd}"}


def test_too_long():
    """A text above the limit is refused with both numbers and the remedy; one at the limit is not."""
    text = "```\na\n```"
    assert len(blocks(text, max_chars=9)) == 1
    with pytest.raises(ValidationFailed, match=r"9 characters, where 8 .*max_chars"):
        blocks(text, max_chars=8)


HUGE = {
    "a mebibyte of backticks": ("`" * 2**20, 1),
    "lines of backticks": (("`" * 1000 + "\n") * 1000, 500),
    "quotes in quotes": (">" * 100_000 + "\n\n```\na\n```", 1),
    "lists in lists": ("- " * 100_000 + "x\n\n```\na\n```", 1),
    "numbered lists in lists": ("1. " * 100_000 + "x\n\n```\na\n```", 1),
    "many fences": ("```\na\n```\n" * 100_000, 100_000),
    "quotes that end at once": ("> # a\nb\n" * 20_000 + "```", 1),
    "fences in quotes that end at once": ("> ```\nb\n" * 20_000, 20_000),
    "inner quotes that end at once": ("> > # a\n> b\n" * 10_000 + "```", 1),
    "deep quotes with lazy lines": (("> " * 30 + "a\nb\n") * 3_000 + "```", 1),
    "link definitions": ("[a]: b\n" * 50_000 + "```", 1),
    "spaces": (" " * 2**20 + "\n```\n" + " " * 2**20, 1),
    "comments": ("<!-" * 100_000 + "\n```", 1),
    "fences that have no pair": (("```markdown\n```x\n```\n" + "say: ```python\n```python\n1```\n") * 20_000, None),
    "nearly closed": ("```python\n" + "```.\n" * 100_000, 2),
    "here-documents": ("```bash\ncat <<E\n```\n" * 30_000, 30_000),
    "an endless info string": ("```" + "&#1\\{#a " * 100_000, 1),
}


@pytest.mark.parametrize(("text", "count"), HUGE.values(), ids=HUGE.keys())
def test_huge_text_comes_to_an_end(text, count):
    """Text made to be slow or deep is read to its end, and what follows is still found."""
    found = blocks(text)
    assert found and count in (len(found), None)


def test_examples_of_the_commonmark_standard():
    """Every example of fenced code gives the code that the standard shows, in order."""
    for example in json.loads(_data("md-commonmark/fenced_code_blocks.json").read_text("utf-8")):
        shown = [html.unescape(code) for code in _HTML_CODE.findall(example["html"])]
        is_indented_code = example["markdown"].startswith("    ")
        assert _codes(example["markdown"]) == ([] if is_indented_code else shown), example


def test_all_examples_of_the_commonmark_standard():
    """No example of the standard, fenced or not, has a block that it does not show."""
    for example in json.loads(_data("md-commonmark/commonmark.json").read_text("utf-8")):
        shown = [html.unescape(code) for code in _HTML_CODE.findall(example["html"])]
        assert all(code in shown for code in _codes(example["markdown"])), example


def test_real_answers_have_the_blocks_of_the_library():
    """Number, order and code of the blocks in real answers are those of an untouched CommonMark parser; where the
    fences come in pairs, as they do in all but a few.
    """
    parser = MarkdownIt("commonmark").disable("inline")
    odd = 0
    for text in _answers():
        fences = [token for token in parser.parse(text) if token.type == "fence"]
        expected = [token.content for token in fences]
        if any(token.info in ("markdown", "md") or re.search(r"^ {0,3}```", token.content, re.M) for token in fences):
            odd += 1
            continue
        found = [block.code for block in blocks(text) if "kind" not in (block.metadata or {})]
        assert [code.rstrip("\n") for code in found] == [code.rstrip("\n") for code in expected]
    assert odd < len(_answers()) / 50


def test_real_answers_can_be_cut():
    """Each block of a real answer begins with a fence where it says, and ends with one if it is closed."""
    for text in _answers():
        for block in blocks(text):
            element = _element(text, block)
            if "kind" in (block.metadata or {}):
                assert element.strip()
                continue
            fence = re.match(r"`{3,}|~{3,}", element)
            assert fence, element
            last_line = re.split(r"\r\n?|\n", element)[-1]
            is_closed = re.fullmatch(rf"[\s>]*{fence[0]}{fence[0][0]}*", last_line)
            assert is_closed or block.code.rstrip("\n").endswith(last_line.lstrip(" >\t")), element


def test_naughty_strings():
    """Strings that break programs come back from a block as they went in."""
    for naughty in json.loads(_data("text-blns/blns.json").read_text("utf-8")):
        assert _codes(f"~~~~~ {naughty}\n{naughty}\n~~~~~") == [f"{naughty}\n"]
