"""The file that a block is the content of, where the text says so.

Pure. A name is a path of plain characters, as the text has it; whoever writes it resolves it inside the vm. Not every
one has a place there: see `has_place`.
"""

import re
from dataclasses import dataclass

_EXTENSION = (
    r"(?:py|pyi|ipynb|js|mjs|cjs|jsx|ts|tsx|sh|bash|rs|go|c|h|cc|cpp|hpp|java|kt|rb|php|pl|lua|r|R|sql|html?|css|scss"
    r"|vue|svelte|json|jsonl|ya?ml|toml|ini|cfg|conf|env|txt|csv|tsv|xml|md|rst|tex|svg|lock|proto|graphql)"
)
_PATH = (
    r"(?:(?:~|[A-Za-z]:)?[\\/])?(?:[A-Za-z0-9_.-]{1,80}[\\/]){0,8}"
    rf"(?:[A-Za-z0-9_-][A-Za-z0-9_.-]{{0,80}}\.{_EXTENSION}|(?:Docker|Make|Gem|Rake|Proc|Jenkins|Vagrant|Pip|Caddy)file"
    r"|\.(?:gitignore|dockerignore|env(?:\.[a-z]{1,20})?|bashrc|bash_profile|profile|zshrc|npmrc|editorconfig)|go\.(?:mod|sum))"
)
_NOT_WITHIN = r"(?<![\w./\\~$@%>})\]-])"
"""A name in a sentence is not the end of a longer one, as that of an address is."""
_WHOLE = re.compile(_PATH)
_HEADING = re.compile(
    rf"(?:\d{{1,3}}[.)]\s+|[^\w\s]{{1,6}}\s+)*(?:(?:file(?:\s*name)?|path)(?:\s*:\s*|\s+))?[*_`\"']{{0,4}}({_PATH})[*_`\"':]{{0,5}}",
    re.IGNORECASE,
)
_SAYS_WRITE = re.compile(
    r"\b(?:save|create|put|write|store|place|add|copy|paste|make|update|edit|replace|modify)\b(?:[^.!?\n]|\.(?=[^\s])){0,120}?[`\"'*]{0,3}"
    rf"{_NOT_WITHIN}({_PATH})(?![\w/\\])",
    re.IGNORECASE,
)
_SAYS_SAVED = re.compile(
    r"\b(?:save|copy|paste|put|store)\b(?=[^.!?\n]{0,60}\b(?:code|script|program|this|it|above)\b)"
    rf"[^.!?\n]{{0,120}}?[`\"'*]{{0,3}}{_NOT_WITHIN}({_PATH})(?![\w/\\])",
    re.IGNORECASE,
)
"""Said behind a block: `Save the code as app.py`."""
_OF_THE_NEXT = re.compile(r":[ \t*_]*$|\b(?:following|below|next)\b", re.IGNORECASE)
_ABOVE = re.compile(r"\babove\b", re.IGNORECASE)
_SHOWS = re.compile(
    r"^(?![^\n]*\b(?:run|running|execut\w+|import\w*|us(?:e|ing)|call\w*|test\w*|output|after|before|see"
    r"|add|append|include|insert|update|modify)\b)[^\n]*?"
    r"(?:\b(?:here(?:'s|’s| is| are)|this is|in|inside|contents?|contains|file|for)\b|\()",
    re.IGNORECASE,
)
"""A line before a block that shows what is in the file that it names, and does nothing with it."""
_QUOTED = re.compile(rf"(?:`|\*\*)({_PATH})(?:`|\*\*)")
_COMMENT = re.compile(rf"(?:#|//|--|;|/\*|<!--)\s*(?:file(?:name)?:\s*)?({_PATH})\s*(?:\*/|-->)?", re.IGNORECASE)
_COMMENTS = ("#", "//", "--", ";", "/*", "<!--")
_INFO = re.compile(
    rf"(?:^(?:\d{{1,6}}:){{0,3}}|^\w[\w+#-]{{0,30}}:|\b(?:title|file|filename|name|path)\s*=\s*[\"']?|\s)({_PATH})[\"']?(?=[\s}},]|$)"
)
_THINGS = re.compile(
    r"(?:node|nest|next|nuxt|vue|react|express|three|d3|angular|ember|backbone|chart|moment|discord|socket|p5|alpine|ext"
    r"|handlebars|knockout|require|solid|electron|web3|ethers|tensorflow|bootstrap|underscore|brain|matter|pixi)\.js",
    re.IGNORECASE,
)
"""They are called like files."""
_EXTENSIONS = {
    "bash": ("sh", "bash"),
    "python": ("py", "pyi", "ipynb"),
    "javascript": ("js", "mjs", "cjs", "jsx", "vue", "svelte", "ts", "tsx"),
    "typescript": ("ts", "tsx", "js", "jsx", "vue"),
    "rust": ("rs",),
}
_EXTENSION_BEGINS = re.compile(r"\.[A-Za-z]")
_RUNS = re.compile(r"\b(?:run|execute)\b", re.IGNORECASE)
_LOOK_BACK = 300


@dataclass(frozen=True, slots=True)
class Named:
    """A file, and whether the text asks for it to be written rather than for the block to be run."""

    path: str
    is_to_be_written: bool


def named(info: str, code: str, before: str, language: str = "text", after: str = "") -> Named | None:
    """The file whose content a block is: by its info string, the line before it, a comment in its first line, or a line
    behind it that says how to save it.

    `before`: the text up to the block; its end is looked at. `after`: to the next one. A block in a language that runs
    is the content of files of that language only: "create `app.py` by the following command" stands before a command.
    """
    file = _named(info, code, before) or _saved(after)
    if file is None or _THINGS.fullmatch(file.path) is not None:
        return None
    fitting = _EXTENSIONS.get(language)
    return file if fitting is None or file.path.rpartition(".")[2] in fitting else None


def _named(info: str, code: str, before: str) -> Named | None:
    line = _line_before(before)
    if _may_name(line):
        if (found := _HEADING.fullmatch(line)) is not None:
            return _file(found[1], is_to_be_written=False)
        if said := [match[1] for match in _SAYS_WRITE.finditer(line)]:
            return None if _ABOVE.search(line) else _file(said[-1], is_to_be_written=_RUNS.search(line) is None)
    if "." in info and (found := _INFO.search(info)) is not None:
        return _file(found[1], is_to_be_written=False)
    if code.lstrip("\n")[:4].startswith(_COMMENTS):
        first = code.lstrip("\n")[:300].split("\n", 1)[0].strip()
        if (found := _COMMENT.fullmatch(first)) is not None:
            return _file(found[1], is_to_be_written=False)
    shown = _QUOTED.findall(line) if line.endswith(":") and ("`" in line or "*" in line) else []
    return _file(shown[0], is_to_be_written=False) if len(shown) == 1 and _SHOWS.search(line) else None


def _saved(after: str) -> Named | None:
    for found in _SAYS_SAVED.finditer(after) if _may_name(after) else ():
        line = after[after.rfind("\n", 0, found.start()) + 1 : found.end()] + after[found.end() :].partition("\n")[0]
        if _ABOVE.search(line) or _OF_THE_NEXT.search(line.rstrip()) is None:
            return _file(found[1], is_to_be_written=False)
    return None


def _may_name(text: str) -> bool:
    """Looking for this first takes a tenth of the time of the patterns that are looked for then."""
    return "file" in text or "FILE" in text or _EXTENSION_BEGINS.search(text) is not None


def is_path(text: str) -> bool:
    """Whether a text is nothing but the name of a file that a vm can have."""
    return _WHOLE.fullmatch(text) is not None and has_place(text)


def has_place(path: str) -> bool:
    """Whether a vm can have a file of that name: relative or from `/` on, but no `C:\\x`, and without `..`."""
    return "\\" not in path and path[1:2] != ":" and ".." not in path.split("/")


def _file(path: str, *, is_to_be_written: bool) -> Named:
    return Named(path.removeprefix("./").removeprefix("~/"), is_to_be_written)


def _line_before(before: str) -> str:
    """The last line that is not blank."""
    return before[-_LOOK_BACK:].rstrip(" \t\r\n>").rpartition("\n")[2].strip(" \t>\r")
