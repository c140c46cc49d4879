"""In which language code is that nobody has named: only where the evidence is strong.

Pure, bounded, and nothing is evaluated; Python's own parser is asked whether it could read it. No guess is better than
a wrong one: a block that is not recognised is text, and is not run.
"""

import ast
import re
import warnings
from itertools import islice

_MAX_CHARS = 50_000
"""A longer block without a name is data, as a rule; and the parser takes a microsecond a character."""

_SHEBANG = re.compile(r"#![^\n]*?\b(python|bash|sh|zsh|node|perl|ruby|php|lua|Rscript)[\d.]*\b")
_SHEBANG_NAMES = {"sh": "bash", "zsh": "bash", "node": "javascript", "Rscript": "r"}

_DOCKERFILE = re.compile(r"\A(?:\s|#[^\n]*\n|ARG [^\n]*\n)*FROM (?:--\S+ )?\S+(?: (?:AS|as) \S+)?[ \t]*\n")
_MARKS = (
    ("dockerfile", ("FROM ",), _DOCKERFILE),
    ("php", ("<?php",), re.compile(r"\A\s*<\?php\b")),
    (
        "html",
        ("<",),
        re.compile(r"\A\s*<(?:!doctype|html|head|body|div|script|\?xml|svg)\b", re.IGNORECASE),
    ),
    (
        "rust",
        ("fn main", "println!(", "let mut", "use std::"),
        re.compile(
            r"\bfn main\s*\(\s*\)(?:\s*->\s*[^{\n]{1,80})?\s*\{|\bprintln!\(|\blet mut\s|^use std::", re.MULTILINE
        ),
    ),
    (
        "cpp",
        ("#include", "std::"),
        re.compile(
            r"^[ \t]*#include\s*<(?:iostream|vector|string|map|algorithm|memory)>|\bstd::(?:cout|endl)\b", re.MULTILINE
        ),
    ),
    ("c", ("#include",), re.compile(r"^[ \t]*#include\s*[<\"]", re.MULTILINE)),
    (
        "csharp",
        ("using System", "namespace", "Console.Write"),
        re.compile(r"^[ \t]*(?:using System\b|namespace\s+\w+)|\bConsole\.Write", re.MULTILINE),
    ),
    (
        "java",
        ("public", "System.out."),
        re.compile(r"\bpublic\s+(?:static\s+|final\s+|abstract\s+)*(?:class|interface|void)\b|\bSystem\.out\."),
    ),
    (
        "go",
        ("package", "fmt.Print", "func "),
        re.compile(r"^[ \t]*package\s+\w+\s*$|\bfmt\.Print|^func (?:\(\w+\s+\*?\w+\)\s*)?\w+\(", re.MULTILINE),
    ),
    ("kotlin", ("fun ",), re.compile(r"\bfun \s*\w+\s*\(")),
    (
        "typescript",
        ("interface", "type", "const", "let"),
        re.compile(r"^[ \t]*(?:export\s+)?(?:interface|type)\s+\w+\s*[={]|\b(?:const|let)\s+\w+\s*:", re.MULTILINE),
    ),
    (
        "sql",
        (" ",),
        re.compile(r"\A\s*(?:SELECT|INSERT\s+INTO|CREATE\s+TABLE|UPDATE|DELETE\s+FROM|WITH)\b", re.IGNORECASE),
    ),
)
"""The first that is found: a word that it needs is looked for first, which takes a tenth of the time."""

_PYTHON = re.compile(r"^(?:(?:async )?def |class |import |from |for |while |(?:async )?with |print\(|@)", re.MULTILINE)
_SURELY_PYTHON = re.compile(
    r"^(?:(?:async )?def \w+\([^\n]{0,300}\)(?: ?-> ?[^\n]{1,80})?:"
    r"|from [\w.]{1,80} import [\w(*]|class \w+(?:\([\w., =]{0,80}\))?:$)",
    re.MULTILINE,
)
"""Asking the parser takes as long as all the rest."""
_JAVASCRIPT_WORDS = ("console.", "const ", "let ", "var ", "function ", "require(", " from '", ' from "', "document.")
_JAVASCRIPT = re.compile(
    r"\bconsole\.(?:log|error|warn)\(|^[ \t]*(?:const|let|var)\s+(?:\w+|[{\[][^=\n]{1,200}[}\]])\s*=(?!=)"
    r"|^[ \t]*(?:async\s+)?function\s*\*?\s*\w+\s*\([^)\n]{0,200}\)\s*\{|\brequire\(['\"]"
    r"|^[ \t]*import\s[^\n]{1,200}\sfrom\s+['\"]|\bdocument\.\w+\(",
    re.MULTILINE,
)
_NOT_JAVASCRIPT = re.compile(
    r"</?\w+[^>\n]{0,200}>\s*$|^[ \t]*[@.]?[\w-]+\s*\{\s*$|^[ \t]*#\s|^[ \t]*--\s|\$\w+\s*=(?!=)|\w::\w"
    r"|\bfn\s+\w+|\blet\s+mut\b|'package:|'dart:|\blocal\s+function\b|\bstrategy\.|\badd_(?:action|filter)\(|\bvoid\s+\w+\(|\buse\s+\w+;",
    re.MULTILINE,
)

_COMMANDS = frozenset(
    [
        "pip",
        "pip3",
        "python",
        "python3",
        "node",
        "npm",
        "npx",
        "yarn",
        "pnpm",
        "git",
        "cd",
        "ls",
        "mkdir",
        "rm",
        "cp",
        "mv",
        "curl",
        "wget",
        "sudo",
        "apt",
        "apt-get",
        "brew",
        "docker",
        "docker-compose",
        "cargo",
        "rustc",
        "gcc",
        "g++",
        "clang",
        "go",
        "java",
        "javac",
        "conda",
        "chmod",
        "chown",
        "tar",
        "unzip",
        "ssh",
        "scp",
        "grep",
        "sed",
        "awk",
        "kubectl",
        "systemctl",
        "export",
        "echo",
        "cat",
        "touch",
        "source",
        "pytest",
        "virtualenv",
        "poetry",
        "pwd",
        "printf",
        "bash",
        "sh",
        "make",
        "find",
    ]
)
_MAX_COMMANDS = 50
_ALSO_ENGLISH = frozenset(
    ["make", "find", "cat", "touch", "source", "go", "echo", "export", "sed", "node", "git", "java", "sh", "rm"]
)
_LIKE_AN_ARGUMENT = re.compile(
    r"[-./=$\"'`|>&*~:@]|^(?:install|init|clone|commit|push|pull|add|run|build|test|get|all|mod)$"
)
_ASSIGNMENT = re.compile(r"\A[A-Z_][A-Z0-9_]*=\S")
_SETTING = re.compile(
    r"[ \t]*[A-Z_][A-Z0-9_]{0,80} ?= ?(?!\()"
    r"(?:\"[^\"\n]*\"|'[^'\n]*'|<[^<>\n]{0,80}>|[^\s\"'`;|()<>]*(?: [A-Z<][^\s\"'`;|&()]*)*)[ \t]*(?:[ \t]#[^\n]*)?"
)
"""In `A=one Two` a capital begins what no command is called."""
_JSX = re.compile(r"(?:\breturn\s*(?:\(\s*)?|=>\s*(?:\(\s*)?)<[A-Za-z>]")
_FEW = 20
_NO_COMMAND = re.compile(
    r"[^\s:=$\"'(){}\\]+:(?:\s|$)|[^\s=$~/.][^\s=$]*/$|\*|- |<[A-Za-z!?][^>]*>$|\{\s*(?:\"|$)|\[[A-Za-z][\w.:-]*\]$"
    r"|[\d*][\d*/,-]*(?: [\d*][\d*/,-]*){4} \S"
    r"|(?!(?:function|time|coproc|if|while|until|for|select)\b)[\w@.#/~ :-]{1,80} \{$"
    r"|(?:PS )?[A-Za-z]:\\|(?:(?!(?:cat|echo|printf|tee)>)\w{3,20}|[\d.]{7,15}:\d{2,5}|\w{2,8}\(\d+\))> "
    r"|\w{1,30}=[#>] |\((?:gdb|lldb|i?[pP]db)\) "
)
"""Data (a key, a folder, a pattern, a list, a tag, a section, a time, a brace), or the prompt of something else."""
_COMPOUND = re.compile(r"^[ \t]*(?:for \w+ in |while |until |if )[^\n]{1,300};[ \t]*(?:do|then)\b", re.MULTILINE)
_COMPOUND_ENDS = re.compile(r"(?:^|;)[ \t]*(?:done|fi)\b", re.MULTILINE)
"""Only a shell begins and ends a loop so."""


def guess(code: str) -> str | None:
    """The language, by canonical name; None: nothing says so strongly enough."""
    if not code.strip() or len(code) > _MAX_CHARS or "\0" in code:
        return None
    if (found := _SHEBANG.match(code)) is not None:
        return _SHEBANG_NAMES.get(found[1], found[1])
    for name, needed, mark in _MARKS:
        if says(code, needed, mark):
            return name
    if is_shell(code):
        return "bash"
    if says(code, _JAVASCRIPT_WORDS, _JAVASCRIPT) and not _NOT_JAVASCRIPT.search(code):
        return "javascript"
    return "python" if _is_python(code) else None


def says(text: str, words: tuple[str, ...], pattern: re.Pattern[str]) -> bool:
    """Whether `pattern` is in `text`. Looking for the words it needs first takes a tenth of its time."""
    return has_any(text, words) and pattern.search(text) is not None


def has_any(text: str, words: tuple[str, ...]) -> bool:
    """Whether one of the words is in a text."""
    for word in words:  # noqa: SIM110  an `any` of this takes three times as long
        if word in text:
            return True
    return False


def is_dockerfile(code: str) -> bool:
    """It begins as nothing else does, whatever it is called."""
    return "FROM " in code and _DOCKERFILE.match(code) is not None


def is_no_shell(code: str) -> bool:
    """It begins as no command can: its first line is data, or at the prompt of something else than a shell."""
    lines = (line.strip() for line in code[:_MAX_CHARS].split("\n"))
    first = next((line for line in lines if line and not line.startswith("#")), "")
    return _NO_COMMAND.match(first) is not None


def is_python(code: str) -> bool:
    """It defines or imports as only python does, and python can read all of it."""
    return _SURELY_PYTHON.search(code) is not None and parsed(code) is not None


def is_jsx(code: str) -> bool:
    """No expression of JavaScript begins with `<`; a comment may."""
    if not has_any(code, ("return", "=>")):
        return False
    found = islice(_JSX.finditer(code), _FEW)
    return any("//" not in code[code.rfind("\n", 0, match.start()) + 1 : match.start()] for match in found)


def settings(code: str) -> frozenset[str]:
    """The names in lines of `NAME=value` and comments, without a command: as a program they do nothing, whatever they
    are called. Empty: it is something else.
    """
    if "=" not in code or "$(" in code or "`" in code:
        return frozenset()
    names = set()
    for line in code.split("\n"):
        if line.strip() and line.lstrip()[0] != "#":
            if _SETTING.fullmatch(line) is None:
                return frozenset()
            names.add(line.partition("=")[0].strip())
    return frozenset(names)


def is_shell(code: str) -> bool:
    """It loops or decides as only a shell does; or each line begins with a command, and none reads like English."""
    if "; " in code and _COMPOUND.search(code) and _COMPOUND_ENDS.search(code):
        return True
    count = 0
    for line in code.replace("\\\n", " ").split("\n", _MAX_COMMANDS):
        if (line := line.strip()) and not line.startswith("#"):
            if not _is_command(line):
                return False
            count += _ASSIGNMENT.match(line) is None or " " in line  # settings alone are a file
    return 0 < count < _MAX_COMMANDS


def _is_command(line: str) -> bool:
    name, *arguments = line.split()
    if name.startswith("./") or _ASSIGNMENT.match(line):
        return True
    if name not in _COMMANDS:
        return False
    if name in _ALSO_ENGLISH:
        return bool(arguments) and _LIKE_AN_ARGUMENT.search(arguments[0]) is not None
    return not line.endswith((".", ":", "?", "{", ";")) or line.endswith((" .", "/."))


def _is_python(code: str) -> bool:
    """It defines as only python does; or it parses, and imports, loops or prints."""
    if _PYTHON.search(code) is None:
        return False
    if _SURELY_PYTHON.search(code) is not None:
        return True
    tree = parsed(code)
    return tree is not None and any(map(_is_doing, tree.body))


def parsed(code: str) -> ast.Module | None:
    """What Python's parser makes of code; None: it is not Python, or longer than anybody writes a block."""
    if len(code) > _MAX_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_doing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return isinstance(statement.value.func, ast.Name) and statement.value.func.id == "print"
    return isinstance(
        statement,
        ast.Import
        | ast.ImportFrom
        | ast.FunctionDef
        | ast.AsyncFunctionDef
        | ast.ClassDef
        | ast.For
        | ast.While
        | ast.With,
    )
