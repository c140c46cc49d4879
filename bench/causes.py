"""How a block ended -> why, in a word, by what it wrote to stderr. A reader's guess, never the library's business."""

import re

from rewindbox import Execution

SUCCEEDED = "succeeded"
ENDINGS = {"timeout": "timeout", "memory": "memory limit", "output": "output limit", "killed": "killed"}

# The first that matches the last lines of stderr names the cause; what is particular stands before what is general.
_TABLE = [
    (
        "missing package",
        r"ModuleNotFoundError|Cannot find (module|package)|command not found|unresolved (import|module)"
        r"|can't find crate|use of (undeclared|unresolved) (crate|module)|failed to resolve|maybe a missing crate"
        r"|No module named|ERR_MODULE_NOT_FOUND|not installed|cannot import name|externally-managed-environment",
    ),
    (
        "network",
        r"Could not resolve host|Network is unreachable|name resolution|ENOTFOUND|EAI_AGAIN|ENETUNREACH|URLError"
        r"|Name or service not known|gaierror|ConnectionError|ECONNREFUSED|Connection refused|NewConnectionError"
        r"|unable to access 'http|Could not connect|No route to host|fetch failed|Can't connect to|Cannot connect to",
    ),
    ("reads standard input", r"EOFError|EOF when reading|Unexpected end of input on stdin|inappropriate ioctl"),
    ("refused by the vm", r"Permission denied|Operation not permitted|Read-only file system|EACCES|EPERM|EROFS"),
    (
        "limit inside",
        r"Resource temporarily unavailable|Too many open files|No space left|Cannot allocate memory|MemoryError"
        r"|RecursionError|can't start new thread|File too large|heap out of memory|OutOfMemory",
    ),
    (
        "missing input file",
        r"FileNotFoundError|No such file or directory|ENOENT|os error 2\b|cannot (stat|access|open)|unable to open",
    ),
    (
        "syntax error",
        r"SyntaxError|IndentationError|TabError|syntax error|unexpected (EOF|end of file|token)|unterminated"
        r"|event not found|Cannot use import statement|: unexpected",
    ),
    ("compile error", r"error(\[E\d+\])?: .*|could not compile|aborting due to"),
    ("undefined name", r"NameError|ReferenceError"),
    ("assertion", r"AssertionError|assertion .*failed|Assertion failed"),
]
_PATTERNS = [(name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _TABLE]
_TAIL_LINES = 30


def cause(execution: Execution) -> str:
    """Why it failed, or that it did not."""
    if execution.success:
        return SUCCEEDED
    if execution.ended != "exit":
        return ENDINGS.get(execution.ended, "signal")
    said = _last_words(execution)
    for name, pattern in _PATTERNS:
        if name == "compile error" and execution.language != "rust":
            continue
        if pattern.search(said):
            return name
    return "other exception" if _is_exception(said) else "other exit code"


def _last_words(execution: Execution) -> str:
    """Of a Python traceback its last line; of bash the last lines; of rustc and node, whose end is no help, all."""
    said = execution.stderr.strip()
    if execution.language in ("rust", "javascript"):
        return said
    lines = said.splitlines()[-_TAIL_LINES:]
    if execution.language == "python" and "Traceback (most recent call last)" in said:
        return "\n".join(line for line in lines if re.match(r"[A-Za-z_][\w.]*(:|$)", line)) or lines[-1]
    return "\n".join(lines)


def _is_exception(said: str) -> bool:
    return re.search(r"Error\b|^Uncaught |Exception\b|panicked at|^[\w.]+: ", said, re.MULTILINE) is not None
