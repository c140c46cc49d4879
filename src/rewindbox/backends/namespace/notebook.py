"""Blocks of Python, one after another, in one namespace: source in; exit code, traceback and MIME bundles out.

Runs inside the vm in the vm's own python3 (3.11 or later), where this file lies alone: standard library only, nothing
of rewindbox. It knows nothing of sockets, limits or clocks and captures no output: whoever holds a `Notebook` hands it
the blocks, reads file descriptors 1 and 2, and is handed the bundles.

Not a barrier: the code shares this process and can reach everything here. But what it breaks by mistake or mischief
(its builtins, its streams, this module) must not keep the next block from being run: see `_sealing`.
"""

import builtins
import sys
from _ast import Expr, Expression, PyCF_ALLOW_TOP_LEVEL_AWAIT, PyCF_ONLY_AST, stmt
from _collections_abc import Callable
from _io import BytesIO
from _json import encode_basestring_ascii as _quoted  # of C, as all that is imported here: json takes 8 ms
from binascii import b2a_base64
from os import _exit, getpid, write
from sys import __excepthook__ as _excepthook
from sys import getrecursionlimit, setrecursionlimit

# A function finds builtins in what `__builtins__` was when it was made: ours have a copy of their own.
globals()["__builtins__"] = dict(vars(builtins))

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

TEXT_CHARACTERS = 100_000  # of text/plain; what is longer is cut and says so
BUNDLE_BYTES = 10_000_000  # of a bundle as JSON; what is bigger is dropped and a text says so
KEPT_SOURCES = 1000  # newest blocks whose lines tracebacks can show
_MOST_FRAMES = 1200  # of one traceback, innermost: all of them where the recursion limit is Python's own
_MOST_CHAINED = 30  # exceptions: of retries that fail within each other chain and tracebacks are as long as the stack
_LEAST_RECURSION = 300  # what it takes to show a traceback or draw a figure
_CO_COROUTINE, _CO_FUTURE_ANNOTATIONS = 0x80, 0x1000000
_MIMES = ("text/html", "image/png", "image/jpeg", "image/svg+xml", "application/json", "text/markdown", "text/latex")
_FORMS = {"_repr_mimebundle_": ""} | {f"_repr_{mime.split('/')[1].split('+')[0]}_": mime for mime in _MIMES}
"""Method -> what it gives, as in Jupyter; the first gives any."""
_WATCHED = frozenset({"linecache", "matplotlib.pyplot"})
_modules = sys.modules
_traceback_of: "Callable[[BaseException], Any]" = vars(BaseException)["__traceback__"].__get__


class Notebook:
    """One namespace and the blocks run in it. One a process: it makes itself `__main__`.

    A caller keeps the bound `run`, which goes on when the code has replaced what this class has.
    """

    def __init__(self) -> None:
        self.main = type(sys)("__main__")
        self.namespace: dict[str, Any] = self.main.__dict__  # the globals of every block
        self.sources: dict[str, tuple[int, None, list[str], str]] = {}  # file -> what linecache has of it, oldest first
        self.flags = PyCF_ALLOW_TOP_LEVEL_AWAIT  # and __future__.annotations, from where it is imported on
        self.last: object = None  # what we bound `_` to
        self.loop: Any = None
        self.show: Callable[[bytes], None] = lambda line: None
        self.stdin = open("/dev/null", encoding="utf-8")  # noqa: SIM115  open as long as the process
        self.stdin.close = lambda: None  # type: ignore[method-assign]  # which `exit()` does
        sys.stdin, sys.argv = self.stdin, [""]
        _modules["__main__"] = self.main
        _add_builtins(self)
        sys.meta_path.insert(0, _Watch(self))

    def run(self, code: str, number: str, show: Callable[[bytes], None]) -> int:
        """Run one block; its exit code: 0, 1 when it raised, or what it gave to `sys.exit`.

        What it raised is on its `sys.stderr` by then, without frames of ours. May never return, and ends with the
        process if the code ends that. In a child that the code forked and let run on, it ends that child. What the
        code asked of `sys.settrace` and `sys.setprofile` ends with the block.

        Args:
            code: Anything; what is not Python ends as SyntaxError.
            number: Names the block in tracebacks, `File "<number>"`. A second block of that name hides the first.
            show: Called with a line of ASCII JSON for each bundle: `{"kind": "result" | "display", "data": {MIME type:
                ...}, "metadata": {}}`. By any thread, but not after the block's end. What it raises fails the block.
        """
        pid = getpid()
        try:
            value, raised = _sealed(_evaluate, self, code, f"<{number}>", show)
            if getrecursionlimit() < _LEAST_RECURSION:
                setrecursionlimit(_LEAST_RECURSION)
            if getpid() == pid:  # not a child, or what is shown would be shown twice
                _, failed = _sealed(_show_all, self, value)
                raised = failed if raised is None else raised
            ended = 0 if raised is None else _reported(self, raised)
            value = raised = failed = None  # what was raised refers to this frame: a cycle, and all it held would stay
            for stream in ("stdout", "stderr"):
                _sealed(_flush, stream)
        except BaseException as raised:  # a handler of a signal, between two steps
            ended = _reported(self, raised)
        self.show = lambda line: None
        if getpid() != pid:
            _exit(ended)
        return ended


def _sealing() -> "Callable[..., tuple[Any, BaseException | None]]":
    """What calls a function that may run the code: its value and what it raised, with this module as it was before."""
    ours, ours_builtins = globals(), globals()["__builtins__"]
    kept, kept_builtins = dict(ours), dict(ours_builtins)
    caught, trace, profile = BaseException, sys.settrace, sys.setprofile

    def sealed(function: "Callable[..., Any]", *arguments: object) -> "tuple[Any, BaseException | None]":
        try:  # every name in here is a local or in a cell: none can be gone
            return function(*arguments), None
        except caught as raised:
            return None, raised
        finally:
            profile(None)
            trace(None)
            if ours.__len__() != kept.__len__():
                ours.clear()  # a name that was added may hide a builtin
            ours.update(kept)
            ours_builtins.update(kept_builtins)

    kept["_sealed"] = sealed
    return sealed


def _attempt(function: "Callable[..., Any]", *arguments: object) -> "Any":
    """What it gives; None if it raises. An interruption is nobody's to keep."""
    try:
        return function(*arguments)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return None


def _evaluate(book: Notebook, code: str, file: str, show: Callable[[bytes], None]) -> object:
    """Run a block; the value of its last expression."""
    lines = code.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    _attempt(_prepare, book, file, lines, show)
    parts = _compiled(book, code, file, lines)
    if any(part.co_flags & _CO_COROUTINE for part in parts):
        return _awaited(book, parts)
    value = None
    for part in parts:
        value = eval(part, book.namespace)  # noqa: S307  what this process is for
    return value


def _prepare(book: Notebook, file: str, lines: list[str], show: Callable[[bytes], None]) -> None:
    """Put back what a block counts on, and keep its lines for tracebacks."""
    book.show = show
    book.sources.pop(file, None)
    book.sources[file] = (len(lines), None, [line + "\n" for line in lines], file)
    _modules.setdefault("__main__", book.main)
    book.namespace.setdefault("__name__", "__main__")
    book.namespace.setdefault("__builtins__", builtins)  # else eval would give it our copy
    cache = getattr(_modules.get("linecache"), "cache", {})
    cache[file] = book.sources[file]
    if len(book.sources) > KEPT_SOURCES:
        oldest = next(iter(book.sources))
        del book.sources[oldest]
        cache.pop(oldest, None)


def _compiled(book: Notebook, code: str, file: str, lines: list[str]) -> "list[CodeType]":
    """The statements, and on its own the last one if it is an expression whose value is wanted."""
    parts: list[CodeType] = []
    try:
        tree = compile(code, file, "exec", PyCF_ONLY_AST | book.flags, dont_inherit=True)
        wanted = tree.body.pop() if tree.body and _is_wanted(tree.body[-1], lines) else None
        if tree.body:
            parts.append(compile(tree, file, "exec", book.flags, dont_inherit=True))
            book.flags |= parts[0].co_flags & _CO_FUTURE_ANNOTATIONS
        if wanted is not None:
            parts.append(compile(Expression(wanted.value), file, "eval", book.flags, dont_inherit=True))
    except SyntaxError as error:
        if error.text is None and error.filename == file and 0 < (error.lineno or 0) <= len(lines):
            error.text = lines[error.lineno - 1]  # type: ignore[operator]  # the compiler looks for it in files only
        raise
    return parts


def _is_wanted(statement: stmt, lines: list[str]) -> bool:
    """Whether it is an expression that no semicolon silences."""
    rest = lines[(statement.end_lineno or 0) - 1].encode()[statement.end_col_offset :]  # columns count bytes
    return isinstance(statement, Expr) and not rest.lstrip(b" \t\f").startswith(b";")


def _awaited(book: Notebook, parts: "list[CodeType]") -> object:
    """Run a block that awaits on the loop that all such blocks share: the tasks of earlier ones go on meanwhile."""
    import asyncio  # noqa: PLC0415  40 ms
    import selectors  # noqa: PLC0415  asyncio has it

    if book.loop is None or book.loop.is_closed():
        # Unlike epoll it keeps nothing in the kernel: a fork of this process goes on with a loop of its own.
        book.loop = asyncio.SelectorEventLoop(selectors.PollSelector())
        asyncio.set_event_loop(book.loop)
    task = book.loop.create_task(_evaluate_within(book, parts))
    try:
        return book.loop.run_until_complete(task)
    finally:
        if not task.done():  # interrupted: it must not go on in a later block
            task.cancel()
            book.loop.run_until_complete(asyncio.wait([task], timeout=1))
        elif not task.cancelled():
            task.exception()  # seen, else it is told a second time as never retrieved


async def _evaluate_within(book: Notebook, parts: "list[CodeType]") -> object:
    value = None
    for part in parts:
        value = eval(part, book.namespace)  # noqa: S307  as above
        if part.co_flags & _CO_COROUTINE:
            value = await value
    return value


def _add_builtins(book: Notebook) -> None:
    """Add `display` and replace `input`, for the code and every module that it imports."""
    ask = builtins.input

    def display(*objects: object) -> None:
        """Show each object in its richest forms."""
        for value in objects:
            _show(book, "display", value)

    def input(prompt: object = "", /) -> str:
        """Read a line from the `sys.stdin` that the code has made."""
        if sys.stdin is book.stdin:
            raise EOFError("input() has nobody to ask in a session: give values in the code")
        return ask(prompt)

    builtins.display = display  # type: ignore[attr-defined]
    builtins.input = input


class _Watch:
    """On `sys.meta_path`: linecache knows the blocks, and pyplot shows its figures, from their import on.

    For matplotlib this, not a backend named in MPLBACKEND: programs that the code starts inherit that and do not have
    the backend, and `matplotlib.use("Agg")`, which is in much code, would switch away from it.
    """

    def __init__(self, book: Notebook) -> None:
        self._book = book
        self._loaders: dict[str, Any] = {}
        for name in _WATCHED & _modules.keys():
            self._meet(_modules[name])

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        for finder in sys.meta_path if name in _WATCHED else ():
            spec: Any = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                self._loaders[name], spec.loader = spec.loader, self
                return spec
        return None

    def create_module(self, spec: "Any") -> "Any":
        return self._loaders[spec.name].create_module(spec)

    def exec_module(self, module: "Any") -> None:
        module.__loader__ = module.__spec__.loader = loader = self._loaders[module.__name__]
        loader.exec_module(module)
        self._meet(module)

    def _meet(self, module: "Any") -> None:
        if module.__name__ == "linecache":
            module.cache.update(self._book.sources)
        else:
            module.show = lambda *_arguments, **_options: _show_figures(self._book)


def _show_all(book: Notebook, value: object) -> None:
    """Show what a block leaves: its value and its figures."""
    try:
        if value is not None:
            _attempt(_bind, book, value)
            _show(book, "result", value)
    finally:
        _show_figures(book, value)


def _bind(book: Notebook, value: object) -> None:
    if book.namespace.get("_", book.last) is book.last:  # else it is the code's own
        book.namespace["_"] = book.last = value


def _show_figures(book: Notebook, shown: object = None) -> None:
    """Show and close every figure that pyplot has open; the one that was just shown is only closed."""
    if (pyplot := _modules.get("matplotlib.pyplot")) is None:
        return
    try:
        for figure in [pyplot.figure(number) for number in pyplot.get_fignums()]:
            if figure is not shown:
                _show(book, "display", figure)
    finally:
        pyplot.close("all")


def _show(book: Notebook, kind: str, value: object) -> None:
    """Hand over a bundle of all forms of a value. Raises if a figure cannot be drawn; forms that fail are left out."""
    data: dict[str, str] = {}
    _attempt(_add_forms, data, value)
    if (matplotlib := _modules.get("matplotlib.figure")) is not None and isinstance(value, matplotlib.Figure):
        value.savefig(file := BytesIO(), format="png", bbox_inches="tight")
        data["image/png"] = _encoded("image/png", file.getvalue())
    if "text/plain" not in data:
        data["text/plain"] = _encoded("text/plain", _plain(value))
    if (size := sum([len(form) for form in data.values()])) > BUNDLE_BYTES:
        note = f"[dropped: {', '.join(data)[:1000]}: {size / 1e6:.1f} MB; at most {BUNDLE_BYTES / 1e6:.0f} MB is shown]"
        data = {"text/plain": _quoted(note)}
    pairs = ", ".join([f"{_quoted(mime)}: {form}" for mime, form in data.items()])
    _attempt(_flush, "stdout")  # what was printed before comes before
    book.show(f'{{"kind": "{kind}", "data": {{{pairs}}}, "metadata": {{}}}}\n'.encode("ascii"))


def _add_forms(data: dict[str, str], value: object) -> None:
    """Add what the value's own methods make of it, MIME type -> JSON. What raises or is None is left out."""
    for method, mime in _FORMS.items():
        # Asked of the type: a proxy for something far has every attribute, and a call of it would reach out.
        if mime not in data and hasattr(type(value), method):
            for each, form in (_attempt(_ask, value, method, mime) or {}).items():
                if (encoded := _attempt(_encoded, each, form)) is not None:
                    data[each] = encoded


def _ask(value: object, method: str, mime: str) -> dict[str, object]:
    options = {} if mime else {"include": None, "exclude": None}
    form = getattr(value, method)(**options)
    form = form[0] if isinstance(form, tuple) else form  # the second is metadata
    return {mime: form} if mime else {str.__str__(each): form[each] for each in form}


def _encoded(mime: str, form: object) -> str:
    """A form as JSON: bytes in base64, text without halves of characters, which no reader could encode."""
    if isinstance(form, bytes) and not mime.startswith("text/"):
        return f'"{b2a_base64(form, newline=False).decode("ascii")}"'
    if mime.endswith("json") and form is not None and not isinstance(form, str):
        import json  # noqa: PLC0415  8 ms

        return json.dumps(form, allow_nan=False)
    text = str.__str__(form)  # raises for what is no str
    if mime == "text/plain" and len(text) > TEXT_CHARACTERS:
        text = f"{text[:TEXT_CHARACTERS]}\n[cut: {TEXT_CHARACTERS} of {len(text)} characters]"
    return _quoted(text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8"))


def _plain(value: object) -> str:
    try:
        return repr(value)
    except KeyboardInterrupt:
        raise
    except BaseException as raised:
        name, error = type(value).__name__, type(raised).__name__
        return f"<{name}: its repr raised {error}: {_attempt(str, raised) or ''}>"


def _reported(book: Notebook, raised: BaseException) -> int:
    """The exit code for what a block raised, having told it on its standard error."""
    ended, failed = _sealed(_report, book, raised)
    if failed is not None:  # the interpreter's own shows no lines of blocks, but does without what can be broken
        _sealed(_excepthook, type(raised), raised, _traceback_of(raised))
    return 1 if failed is not None else ended


def _report(book: Notebook, raised: BaseException) -> int:
    start = _traceback_of(raised)
    while start is not None and start.tb_frame.f_code.co_filename not in book.sources:
        start = start.tb_next
    BaseException.with_traceback(raised, start)
    if not isinstance(raised, SystemExit):
        _shorten(raised)
        _tell(_formatted(book, raised))
        return 1
    if raised.code is None or isinstance(raised.code, int):  # as the interpreter does at its end
        code = int.__index__(raised.code or 0)
        return code & 0xFF if -(2**63) <= code < 2**63 else 0xFF
    _tell(f"{raised.code}\n")
    return 1


def _shorten(raised: BaseException) -> None:
    """Cut a chain of exceptions that is longer than anybody reads."""
    seen: set[int] = set()
    one: BaseException | None = raised
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        earlier = one.__cause__ if one.__suppress_context__ else one.__context__
        if earlier is not None and len(seen) == _MOST_CHAINED:
            one.__cause__ = one.__context__ = earlier = None
            one.add_note("[what led to this is not shown]")
        one = earlier


def _formatted(book: Notebook, raised: BaseException) -> str:
    import linecache  # noqa: PLC0415  8 ms
    import traceback  # noqa: PLC0415  3 ms

    linecache.cache.update(book.sources)  # again: the code may have emptied it
    whole = traceback.TracebackException(type(raised), raised, _traceback_of(raised), limit=-_MOST_FRAMES, compact=True)
    pending = [whole]
    while pending:
        one = pending.pop()
        one.stack[:] = [frame for frame in one.stack if frame.filename != _formatted.__code__.co_filename]
        pending += [each for each in (one.__cause__, one.__context__, *(one.exceptions or ())) if each is not None]
        if not one.stack:
            one.stack = None  # type: ignore[assignment]  # else a heading with nothing below it
    return "".join(whole.format())


def _tell(text: str) -> None:
    try:
        sys.stderr.write(text)
    except BaseException:  # the code's own stream, or none
        write(2, text.encode("utf-8", "backslashreplace"))


def _flush(stream: str) -> None:
    getattr(sys, stream).flush()


_sealed = _sealing()
