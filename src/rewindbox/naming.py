"""The file that a block is the content of, where the text says so.

Pure. A name is a path of plain characters, as the text has it; whoever writes it resolves it inside the vm. Not every
one has a place there: see `has_place`.
"""

import re
from dataclasses import dataclass, replace

from rewindbox.guess import has_any, says

_EXTENSION = (
    r"(?:py|pyi|ipynb|js|mjs|cjs|jsx|ts|tsx|sh|bash|rs|go|c|h|cc|cpp|hpp|java|kt|rb|php|pl|lua|r|R|sql|html?|css|scss"
    r"|vue|svelte|json|jsonl|ya?ml|toml|ini|cfg|conf|env|txt|csv|tsv|xml|md|rst|tex|svg|lock|proto|graphql"
    r"|ps1|bat|cs|swift|dart|scala|jl|hs|sass|less|tf|gradle|properties|service|ejs|j2|prisma|sol|astro|log)"
)
_PATH = (
    r"(?:(?:~|[A-Za-z]:)?[\\/])?(?:[A-Za-z0-9_.-]{1,80}[\\/]){0,8}"
    rf"(?:[A-Za-z0-9_-][A-Za-z0-9_.-]{{0,80}}\.{_EXTENSION}|(?:Docker|Make|Gem|Rake|Proc|Jenkins|Vagrant|Pip|Caddy)file"
    r"|\.(?:gitignore|dockerignore|env(?:\.[a-z]{1,20})?|bashrc|bash_profile|profile|zshrc|npmrc|editorconfig)|go\.(?:mod|sum))"
)
_NOT_WITHIN = r"(?<![\w./\\~$@%>})\]-])"
"""A name in a sentence is not the end of a longer one, as that of an address is."""
_WHOLE = re.compile(_PATH)
_BULLETS = r"(?:\d{1,3}(?:\.\d{1,3}){0,3}[.)]?\s+|[^\w\s]{1,6}\s+)*"
_DOES = (
    r"(?![^\n]*\b(?:run|running|execut\w+|import\w*|us(?:e|ing)|call\w*|test\w*|output|after|before|see"
    r"|add|append|include|insert|update|modify)\b)"
)
"""Not in a line that does something with a file."""
_HEADING = re.compile(
    rf"{_BULLETS}(?:\*\*\d{{1,3}}[.)]\s+)?(?:(?:file(?:\s*name)?|path|文件名?|ファイル名?|datei|fichier|archivo|arquivo|файл)(?:\s*:\s*|\s+))?"
    rf"[*_`\"']{{0,4}}({_PATH})[*_`\"':]{{0,5}}",
    re.IGNORECASE,
)
_MARKED = re.compile(rf"{_BULLETS}[*`#]")
"""A heading that says more than a name; to look for this first takes a tenth of the time."""
_BEGINS = re.compile(
    rf"{_DOES}(?:{_BULLETS}[*`]{{1,4}}|#{{1,6}}\s+)({_PATH})[*`]{{0,4}}(?:\s+[(–—-]|\s*:)[^\n]*", re.IGNORECASE
)
"""A heading with what the file is for: `**app.py** - the server`."""
_ENDS = re.compile(
    rf"{_DOES}(?:{_BULLETS}\*\*|#{{1,6}}\s+)[^\n]{{1,80}}?(?:[(:]|\s[–—-])[*\s`\"]{{0,4}}{_NOT_WITHIN}({_PATH})"
    r"[`\"*]{0,4}\)?[*:]{0,4}",
    re.IGNORECASE,
)
"""A heading that comes to the name after what it is for: `**Filename:** app.py`, `### Server (app.py)`."""
_WRITES_ELSEWHERE = re.compile(
    r"保存|创建|新建|写入|作成|저장|생성|احفظ|أنشئ|\b(?:speicher|erstell|enregistr|cré|sauvegard|сохран|созда)\w*"
    r"|\b(?:guard[ae]|salv[ae]|cri[ae])r?\b|\b(?:crea|cree|crear)\b",
    re.IGNORECASE,
)
"""Save or create, in other languages of people; wherever in the line the file stands."""
_WRITING = (
    *("save", "create", "put", "write", "store", "place", "add", "append", "insert", "copy", "paste", "make", "update"),
    *("edit", "replace", "modify"),
)
_SAYS_WRITE = re.compile(
    r"(?<!script will )(?<!program will )(?<!code will )(?<!command will )(?<!this will )(?<!it will )(?<!which will )"
    rf"\b({'|'.join(_WRITING)})\b"
    r"(?:[^.!?\n]|\.(?=[^\s])|(?<=e\.g)\.){0,120}?[`\"'*]{0,3}"
    rf"{_NOT_WITHIN}({_PATH})(?![\w/\\])",
    re.IGNORECASE,
)
_SAYS_SAVED = re.compile(
    r"\b(?:save|copy|paste|put|store)\b(?=(?:[^.!?\n]|\.(?=g\.)){0,60}?\b(?:code|script|program|this|it|above|as)\b)"
    rf"(?:[^.!?\n]|(?<=\be)\.(?=g)|(?<=e\.g)\.){{0,120}}?[`\"'*]{{0,3}}{_NOT_WITHIN}({_PATH})(?![\w/\\])",
    re.IGNORECASE,
)
"""Said behind a block: `Save the code as app.py`."""
_OF_THE_NEXT = re.compile(r":[ \t*_]*$|\b(?:following|below|next)\b", re.IGNORECASE)
_ABOVE = re.compile(r"\babove\b", re.IGNORECASE)
_SHOWS = re.compile(
    rf"^{_DOES}[^\n]*?"
    r"(?:\b(?:here(?:'s|’s| is| are)|this is|in|inside|contents?|contains|file|for)\b|\()",
    re.IGNORECASE,
)
"""A line before a block that shows what is in the file that it names, and does nothing with it."""
_QUOTED = re.compile(rf"(?:`|\*\*)({_PATH})(?:`|\*\*)")
_COMMENT = re.compile(
    rf"(?:#|//|--|;|/\*|<!--|\*|\"\"\"|''')[\s=*#-]{{0,40}}(?:file(?:name)?:\s*)?({_PATH})"
    r"(?:[\s=*#-]{0,40}(?:\*/|-->|\"\"\"|''')?|\s+[(–—:-].*|:\s.*)",
    re.IGNORECASE,
)
_BEFORE_COMMENT = re.compile(r"#!.*|<\?php|/\*+|\"\"\"|'''|")
"""Lines that may come before the one that names the file."""
_COMMENTS = ("#", "//", "--", ";", "/*", "<!--", "'''", '"""', "<?ph")
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
    "bash": ("sh", "bash", "bashrc", "bash_profile", "profile", "zshrc"),
    "python": ("py", "pyi", "ipynb"),
    "javascript": ("js", "mjs", "cjs", "jsx", "vue", "svelte", "ts", "tsx"),
    "typescript": ("ts", "tsx", "js", "jsx", "vue"),
    "rust": ("rs",),
}
_MAKES = re.compile(
    rf"(?:>|\b(?:touch|nano|vim?|tee(?: -a)?|chmod \S{{1,9}}|code|bash|sh))[ \t]*[\"']?(?:\./|~/)?({_PATH})(?![\w/\\])"
)
"""What a shell does to a file is not in that file."""
_LEFT_OUT = re.compile(
    r"\A\s*(?:\.\.\.|…)[ \t]*\n|^[ \t]*(?:#|//|/\*|<!--|--|\{/\*)(?=[^\n]*(?:\.\.\.|…))[^\n]*\b(?:existing|unchanged"
    r"|(?:rest of (?:the|your)|previous|remaining|other)"
    r" (?:code|methods?|functions?|imports?|routes?|file|class|content))\b",
    re.MULTILINE | re.IGNORECASE,
)
"""A comment for what is there already: `# ... existing code ...`."""
_ATTRIBUTE = re.compile(
    rf"<[\w-]{{1,40}} [^<>]{{0,200}}?\b(?:file_?path|path|file|filename)=[\"']({_PATH})[\"']", re.IGNORECASE
)
"""A tag right before a fence: `<file path="app.py">`."""
_TAGS = re.compile(r"</?(?:summary|strong|b|code|em|h[1-6])>")
_EXTENSION_BEGINS = re.compile(r"\.[A-Za-z]")
_OF_LINES = re.compile(r"\blines?\s+\d", re.IGNORECASE)
_RUNS = re.compile(r"\b(?:run|execute)\b", re.IGNORECASE)
_LOOK_BACK = 300


@dataclass(frozen=True, slots=True)
class Named:
    """A file, and whether the text asks for it to be written rather than for the block to be run."""

    path: str
    is_to_be_written: bool
    is_part: bool = False
    """The block leaves out what the file has already."""
    is_added: bool = False
    """The text says to add it to the file, which need not have anything yet."""


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
    if fitting is not None and file.path.rpartition(".")[2] not in fitting:
        return None
    if language == "bash" and any(match[1] == file.path for match in _MAKES.finditer(code)):
        return None
    return replace(file, is_part=says(code, ("...", "…"), _LEFT_OUT))


def _named(info: str, code: str, before: str) -> Named | None:
    line = _line_before(before)
    if _may_name(line) and (found := _headed(line) or _said(line)) is not None:
        return None if _ABOVE.search(line) else found
    if "." in info and (match := _INFO.search(info)) is not None:
        return _file(match[1])
    if code.lstrip("\n")[:4].startswith(_COMMENTS) and (match := _COMMENT.fullmatch(_first(code))) is not None:
        return _file(match[1])
    shown = _QUOTED.findall(line) if line.endswith(":") and ("`" in line or "*" in line) else []
    says_so = len(shown) == 1 and (_SHOWS.search(line) or _WRITES_ELSEWHERE.search(line))
    return _file(shown[0]) if says_so else None


def _first(code: str) -> str:
    """The first line that is more than what stands above all comments."""
    lines = (line.strip() for line in code.lstrip("\n")[:400].split("\n")[:4])
    return next((line for line in lines if _BEFORE_COMMENT.fullmatch(line) is None), "")


def _headed(line: str) -> Named | None:
    """By a heading, or a tag."""
    if "<" in line and (found := _ATTRIBUTE.search(line)) is not None:
        return _file(found[1], is_to_be_written=True)
    found = _HEADING.fullmatch(line)
    return _file(found[1]) if found is not None else None


def _said(line: str) -> Named | None:
    """By a sentence, or a heading that says more."""
    if has_any(line.lower(), _WRITING) and (said := list(_SAYS_WRITE.finditer(line))):
        file = _file(said[-1][2], is_to_be_written=_RUNS.search(line) is None)
        is_added = said[-1][1].lower() in ("add", "append", "insert") or _OF_LINES.search(line) is not None
        return replace(file, is_added=is_added)
    if _MARKED.match(line) is None:
        return None
    found = _BEGINS.fullmatch(line) or _ENDS.fullmatch(line)
    return _file(found[1]) if found is not None else None


def _saved(after: str) -> Named | None:
    for found in _SAYS_SAVED.finditer(after) if _may_name(after) else ():
        line = after[after.rfind("\n", 0, found.start()) + 1 : found.end()] + after[found.end() :].partition("\n")[0]
        if _ABOVE.search(line) or _OF_THE_NEXT.search(line.rstrip()) is None:
            return _file(found[1])
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


def _file(path: str, *, is_to_be_written: bool = False) -> Named:
    return Named(path.removeprefix("./").removeprefix("~/"), is_to_be_written)


def _line_before(before: str) -> str:
    """The last line that is not blank, without tags."""
    line = before[-_LOOK_BACK:].rstrip(" \t\r\n>").rpartition("\n")[2]
    if "<" in line:
        line = _TAGS.sub("", f"{line}>")
    return line.strip(" \t>\r").replace("：", ":")
