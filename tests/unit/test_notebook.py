"""Blocks run as in a notebook, one after another, whatever they break; those of a test in a process of their own."""

import importlib.util
import json
import marshal
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2] / "src/rewindbox/backends/namespace/notebook.py"

# Forks a child for each line of input, which runs the blocks in that line. A child calls functions of C only after
# the first block: the blocks may break everything else.
TEMPLATE = """
import importlib, marshal, os, signal, sys

sys.path[:0] = sys.argv[1].split(":")
for name in sys.argv[2].split():
    importlib.import_module(name)
from notebook import Notebook


def run_all(blocks, file):
    signal.alarm(20)
    streams = [os.memfd_create("out"), os.memfd_create("err")]
    os.dup2(streams[0], 1)
    os.dup2(streams[1], 2)
    results, numbers = [], [str(number) for number in range(1, len(blocks) + 1)]
    run, pread, lseek, truncate = Notebook().run, os.pread, os.lseek, os.ftruncate
    write, end, dumps = os.write, os._exit, marshal.dumps
    for number, block in zip(numbers, blocks):
        bundles = []
        code = run(block, number, bundles.append)
        written = []
        for stream in streams:
            written.append(pread(stream, 10_000_000, 0))
            truncate(stream, 0)
            lseek(stream, 0, 0)
        results.append((code, written, bundles))
    write(file, dumps(results))
    end(0)


answers = os.fdopen(os.dup(1), "wb")
while line := sys.stdin.buffer.readline():
    file = os.memfd_create("results")
    if (pid := os.fork()) == 0:
        run_all(eval(line), file)
    status = os.waitpid(pid, 0)[1]
    marshal.dump((status, os.pread(file, 1 << 26, 0)), answers)
    answers.flush()
    os.close(file)
"""
PYPLOT = """
from matplotlib.figure import Figure
opened = {}
current = None

def figure(number=None):
    if number not in opened:
        number = len(opened) + 1
        opened[number] = Figure(number)
    return opened[number]

def get_fignums():
    return list(opened)

def close(which=None):
    assert which == "all"
    opened.clear()

def show():
    raise AssertionError("not replaced")
"""
FIGURE = """
class Figure:
    def __init__(self, number):
        self.number = number
        self.fails = False

    def __repr__(self):
        return f"<Figure {self.number}>"

    def savefig(self, file, format, bbox_inches):
        if self.fails:
            raise ValueError("cannot be drawn")
        file.write(format.encode() + b"%d" % self.number)
"""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How one block ended."""

    code: int
    out: str
    err: str
    bundles: list[dict[str, Any]]
    lines: list[bytes]

    @property
    def told(self) -> str:
        """Its standard error, without the lines that only underline: versions of Python differ in these."""
        return "".join(line for line in self.err.splitlines(keepends=True) if line.strip(" ~^\n"))

    @property
    def text(self) -> str:
        """The only bundle, if it is the result, as text."""
        (bundle,) = self.bundles
        assert bundle["kind"] == "result"
        text: str = bundle["data"]["text/plain"]
        return text

    @property
    def forms(self) -> dict[str, Any]:
        """All forms of the only bundle but text."""
        (bundle,) = self.bundles
        return {mime: form for mime, form in bundle["data"].items() if mime != "text/plain"}


Run = Callable[..., list[Ended]]


def start(folders: list[Path], *modules: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", TEMPLATE, ":".join(map(str, folders)), " ".join(modules)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def run_in(template: "subprocess.Popen[bytes]", *blocks: str) -> list[Ended]:
    assert template.stdin is not None and template.stdout is not None
    template.stdin.write(repr([textwrap.dedent(block) for block in blocks]).encode() + b"\n")
    template.stdin.flush()
    status, results = marshal.load(template.stdout)
    assert status == 0, f"the process of the blocks ended with status {status}"
    return [
        Ended(code=code, out=out.decode(), err=err.decode(), bundles=[json.loads(line) for line in lines], lines=lines)
        for code, (out, err), lines in marshal.loads(results)
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with notebook.py, as it lies in a vm."""
    folder = tmp_path_factory.mktemp("alone")
    shutil.copy(SOURCE, folder)
    return folder


def python(folder: Path, code: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)


def runner(*arguments: Any) -> Iterator[Run]:
    with start(*arguments) as template:
        yield lambda *blocks: run_in(template, *blocks)
        assert template.stdin is not None
        template.stdin.close()


@pytest.fixture(scope="module")
def run(alone: Path) -> Iterator[Run]:
    """Runs these blocks in a process of their own, which has the modules that blocks load sooner or later."""
    yield from runner([alone], "asyncio", "inspect", "json", "traceback")


@pytest.fixture(scope="module")
def run_bare(alone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """As `run`, in a process that has imported next to nothing, and finds a made-up matplotlib."""
    package = tmp_path_factory.mktemp("fakes") / "matplotlib"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "pyplot.py").write_text(PYPLOT)
    (package / "figure.py").write_text(FIGURE)
    yield from runner([alone, package.parent])


# --- blocks ---


def test_names_are_kept(run: Run) -> None:
    """What a block defines, the next one has."""
    *_, last = run("import math\nx = 20", "def twice(n):\n    return 2 * n", "print(twice(x) + math.floor(2.5))")
    assert (last.code, last.out, last.err, last.bundles) == (0, "42\n", "", [])


@pytest.mark.parametrize("block", ["", "\n", "# nothing", "pass", "x = 1", "None", "print()"])
def test_no_value_no_bundle(run: Run, block: str) -> None:
    """A block that ends without a value gives none."""
    (ended,) = run(block)
    assert (ended.code, ended.bundles) == (0, [])


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ("1 + 1", "2"),
        ("x = 2\nx\n\n# done\n", "2"),
        ("x = 2\r\nx\r\n", "2"),
        ("'a text'", "'a text'"),
        ("'''two\nlines'''", r"'two\nlines'"),
        ("(1,\n 2)  # not; silenced", "(1, 2)"),
        ("'\x0c'\n';'  # \x0c;", "';'"),
        ("1; 2", "2"),
        ("[n for n in range(3)]", "[0, 1, 2]"),
        ("'é\\ud800'", r"'é\ud800'"),
    ],
)
def test_value_of_last_expression(run: Run, block: str, text: str) -> None:
    """The value of a last expression comes back as its repr."""
    (ended,) = run(block)
    assert (ended.code, ended.text) == (0, text)


@pytest.mark.parametrize("block", ["1;", "1 ; # done", "(1\n);", "'é';", "print() or 1;\n\n", "x = 'é'; x;"])
def test_semicolon_silences(run: Run, block: str) -> None:
    """A semicolon behind the last expression says that its value is not wanted."""
    (ended,) = run(block)
    assert (ended.code, ended.bundles) == (0, [])


def test_underscore(run: Run) -> None:
    """`_` is the last value, until the code gives that name a meaning of its own."""
    *_, kept, own, kept_own = run("40", "_ + 2", "None", "_", "_ = 'mine'\n1", "_")
    assert (kept.text, own.text, kept_own.text) == ("42", "1", "'mine'")


def test_code_is_main(run: Run) -> None:
    """Blocks are `__main__`: for pickle, dataclasses, `import __main__` and `if __name__ ...`."""
    *earlier, last = run(
        "from dataclasses import dataclass\nimport pickle, sys, typing",
        "from __future__ import annotations\n@dataclass\nclass Point:\n    x: Number",
        "class Child:\n    parent: Point",  # evaluated at once, were annotations not deferred
        "Number = int\nassert typing.get_type_hints(Point) == {'x': int}",
        "assert Child.__annotations__ == {'parent': 'Point'}",
        "assert pickle.loads(pickle.dumps(Point(3))) == Point(3)",
        "import __main__\nassert __main__.Point is Point and vars(__main__) is globals()",
        "assert __name__ == '__main__' and '__file__' not in globals() and sys.argv == ['']",
        "exec('y = 1')\ny",
    )
    assert [ended.err for ended in earlier] == [""] * 8
    assert last.text == "1"


@pytest.mark.parametrize(
    ("block", "code", "err"),
    [
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit(None)", 0, ""),
        ("import sys; sys.exit(0)", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit(True)", 1, ""),
        ("import sys; sys.exit(-1)", 255, ""),
        ("import sys; sys.exit(256)", 0, ""),
        ("import sys; sys.exit(2**70)", 255, ""),
        ("import sys; sys.exit('no data')", 1, "no data\n"),
        ("import sys; sys.exit((1, 2))", 1, "(1, 2)\n"),
        ("raise SystemExit", 0, ""),
        ("exit(4)", 4, ""),
        ("quit()", 0, ""),
        ("import sys, asyncio\nawait asyncio.sleep(0)\nsys.exit(5)", 5, ""),
    ],
)
def test_exit(run: Run, block: str, code: int, err: str) -> None:
    """sys.exit ends the block, with the exit code and text of a script that does so; the next block runs."""
    ended, after = run(block, "import sys\nsys.stdin.read()")
    assert (ended.code, ended.err, ended.bundles) == (code, err, [])
    assert after.text == "''"


def test_input_has_nobody_to_ask(run: Run) -> None:
    """Reading the standard input finds its end; input() says what to do instead."""
    read, asked, own = run(
        "import sys\nsys.stdin.read(), sys.stdin.readline(), list(sys.stdin)",
        "input('name? ')",
        "import io\nsys.stdin = io.StringIO('Ada\\n')\ninput()",
    )
    assert read.text == "('', '', [])"
    assert asked.code == 1
    assert asked.told == (
        "Traceback (most recent call last):\n  File \"<2>\", line 1, in <module>\n    input('name? ')\n"
        "EOFError: input() has nobody to ask in a session: give values in the code\n"
    )
    assert own.text == "'Ada'"


def test_forgotten_child_ends(run: Run) -> None:
    """A child that the code forks and lets run on ends with the block; its value and the next block come once."""
    first, second = run(
        "import os\npid = os.fork()\nprint('child' if pid == 0 else os.waitpid(pid, 0)[1])\npid and 'parent'",
        "print('next')",
    )
    assert (first.out, first.text) == ("child\n0\n", "'parent'")
    assert second.out == "next\n"


# --- await ---


def test_await(run: Run) -> None:
    """A block may await; what comes before, after, and back from it is as in any other."""
    ended, after = run("import asyncio\nx = 1\ny = await asyncio.sleep(0, x + 1)\nawait asyncio.sleep(0, y + 1)", "y")
    assert (ended.text, after.text) == ("3", "2")


def test_tasks_go_on(run: Run) -> None:
    """A task made in one block goes on while a later block awaits."""
    *_, last = run(
        """
        import asyncio
        seen = []
        async def work():
            for step in range(3):
                seen.append(step)
                await asyncio.sleep(0)
            raise KeyError("task")
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        """,
        "assert seen == [0]\nasyncio.run(asyncio.sleep(0))",
        "await task",
    )
    assert (last.code, last.told) == (
        1,
        'Traceback (most recent call last):\n  File "<3>", line 1, in <module>\n    await task\n'
        '  File "<1>", line 8, in work\n    raise KeyError("task")\nKeyError: \'task\'\n',
    )


def test_interrupted_await(run: Run) -> None:
    """An await that a signal interrupts fails, and is not taken up again by a later block."""
    interrupted, after = run(
        """
        import asyncio, signal
        late = []
        async def work():
            await asyncio.sleep(0.05)
            late.append(1)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        await work()
        """,
        "await asyncio.sleep(0.06)\nlate",
    )
    assert (interrupted.code, interrupted.err) == (1, "KeyboardInterrupt\n")
    assert after.text == "[]"


# --- tracebacks ---


def test_traceback_shows_blocks_only(run: Run) -> None:
    """A traceback has the lines of every block that it passes through, and no frame of ours."""
    *_, ended = run("def half(n):\n    return 1 / n", "import inspect", "linecache = None", "half(1)\nhalf(0)")
    assert (ended.code, ended.told) == (
        1,
        'Traceback (most recent call last):\n  File "<4>", line 2, in <module>\n    half(0)\n'
        '  File "<1>", line 2, in half\n    return 1 / n\nZeroDivisionError: division by zero\n',
    )


def test_display_is_no_frame(run: Run) -> None:
    """What is raised within our own functions, by a callback of the code, shows the code's frames only."""
    (ended,) = run(
        """
        import sys
        def look(frame, event, argument):
            if frame.f_code.co_name == "_show":
                raise LookupError("here")
        sys.settrace(look)
        display(1)
        """
    )
    assert 'line 7, in <module>\n    display(1)\n  File "<1>", line 5, in look\n' in ended.told
    assert "notebook.py" not in ended.err


@pytest.mark.parametrize(
    ("block", "err"),
    [
        ("x = 1\nprint(x))", "  File \"<2>\", line 2\n    print(x))\n            ^\nSyntaxError: unmatched ')'\n"),
        (
            "print('ran')\nif 1:\n    return 2",
            "  File \"<2>\", line 3\n    return 2\n    ^^^^^^^^\nSyntaxError: 'return' outside function\n",
        ),
        ("x = 1\n  y", '  File "<2>", line 2\n    y\nIndentationError: unexpected indent\n'),
    ],
)
def test_syntax_error(run: Run, block: str, err: str) -> None:
    """What is not Python shows the place, and nothing of the block is run."""
    _, ended = run("", block)
    assert (ended.code, ended.out, ended.err) == (1, "", err)


@pytest.mark.parametrize("block", ["print('ran')\0", "print('ran') # \ud800", "(" * 5000, "-" * 200_000 + "1"])
def test_code_that_no_compiler_takes(run: Run, block: str) -> None:
    """What the compiler does not even read fails like anything else."""
    ended, after = run(block, "1")
    assert (ended.code, ended.out, after.text) == (1, "", "1")
    assert "Error" in ended.err and "notebook.py" not in ended.err


def test_source_is_found_at_once(run_bare: Run) -> None:
    """The first block that imports inspect finds the source of functions of its own and of earlier ones."""
    *_, ended = run_bare(
        "def old():\n    return 1",
        "import inspect\ndef new(): pass\n[inspect.getsource(each) for each in (old, new)]",
    )
    assert ended.text == repr(["def old():\n    return 1\n", "def new(): pass\n"])


def test_newest_sources_are_kept(run: Run) -> None:
    """The lines of the newest thousand blocks are known, also when the code has emptied linecache."""
    *_, ended, early, late = run(
        "def early(): 1 / 0",
        "",
        "def late(): 1 / 0",
        *["import linecache"] * 996,
        "linecache.clearcache()\n",
        "early()",
        "late()",
    )
    assert ended.code == 0
    assert "in early\n" in early.err and "def early" not in early.err
    assert "in late\n    def late(): 1 / 0\n" in late.err


@pytest.mark.parametrize(
    ("block", "end"),
    [
        ("class E(Exception):\n    def __str__(self): raise self\nraise E", "E: <exception str() failed>"),
        ("a, b = KeyError(1), KeyError(2)\na.__context__ = b\nb.__context__ = a\nraise a", "KeyError: 1"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit('x')", "GeneratorExit: x"),
        ("class E(BaseException): pass\nraise E(1)", "E: 1"),
        ("class E(Exception):\n    def __bool__(self): 1 / 0\nraise E(1)", "E: 1"),
        ("class E(Exception):\n    @property\n    def __traceback__(self): 1 / 0\nraise E(1)", "E: 1"),
        ("e = KeyError(1)\ne.add_note('mind the gap')\nraise e", "mind the gap"),
        ("class E(Exception):\n    __notes__ = 1\nraise E(1)", "1"),
        ("raise ExceptionGroup('all', [KeyError(1)])", "------------------------------------"),
        ("class E(SystemExit):\n    code = property(lambda self: 1 / 0)\nraise E", "E"),
    ],
)
def test_odd_exceptions(run: Run, block: str, end: str) -> None:
    """Whatever is raised is told, fails the block, and is over."""
    ended, after = run(block, "1")
    assert (ended.code, after.text) == (1, "1")
    assert ended.err.rstrip("\n").endswith(end)
    assert 'File "<1>"' in ended.err and "notebook.py" not in ended.err


def test_failed_block_lets_go(run: Run) -> None:
    """What only a failed block's frames held is freed with its end, not when the garbage collector comes."""
    define = "import gc\ngc.disable()\nclass Big:\n    def __del__(self): print('freed')\ndef fail(big): 1 / 0"
    *_, failed, exited, shown = run(
        define, "fail(Big())", "def leave(big): exit(3)\nleave(Big())", "class It:\n    big = Big()\n    1 / 0"
    )
    assert (failed.out, exited.out, shown.out) == ("freed\n",) * 3


def test_long_chain_is_cut(run: Run) -> None:
    """Exceptions that came of exceptions are told up to a number, so that telling ends."""
    (ended,) = run(
        """
        def retry(n):
            try:
                if n == 0:
                    raise KeyError("first")
                retry(n - 1)
            except Exception:
                raise KeyError(n)
        retry(400)
        """
    )
    assert ended.err.endswith("KeyError: 400\n")
    assert "[what led to this is not shown]" in ended.err and "KeyError: 'first'" not in ended.err


def test_deep_stack_is_cut(run: Run) -> None:
    """A traceback has an end, however deep the stack was; its innermost frames are shown."""
    (ended,) = run(
        """
        import sys
        sys.setrecursionlimit(20_000)
        def even(n): return odd(n - 1)
        def odd(n): return even(n - 1) if n > 1 else 1 / 0
        even(15_000)
        """
    )
    assert ended.err.endswith("ZeroDivisionError: division by zero\n")
    assert ended.err.count("File") == 1200


# --- bundles ---


def method(name: str, answer: str) -> str:
    return f"class It:\n    def __repr__(self): return 'it'\n    def {name}(self, **_): return {answer}\nIt()"


@pytest.mark.parametrize(
    ("name", "answer", "forms"),
    [
        ("_repr_html_", "'<b>é</b>'", {"text/html": "<b>é</b>"}),
        ("_repr_html_", "'<b>', {'isolated': True}", {"text/html": "<b>"}),
        ("_repr_html_", "type('Html', (str,), {'isascii': None, '__str__': None})('<b>')", {"text/html": "<b>"}),
        ("_repr_png_", "b'\\x89PNG'", {"image/png": "iVBORw=="}),
        ("_repr_png_", "'iVBORw=='", {"image/png": "iVBORw=="}),
        ("_repr_jpeg_", "b'\\xff\\xd8'", {"image/jpeg": "/9g="}),
        ("_repr_svg_", "'<svg/>'", {"image/svg+xml": "<svg/>"}),
        ("_repr_json_", "{'a': [1, None, 'é']}", {"application/json": {"a": [1, None, "é"]}}),
        ("_repr_markdown_", "'# a'", {"text/markdown": "# a"}),
        ("_repr_latex_", "'$a$'", {"text/latex": "$a$"}),
        ("_repr_mimebundle_", "{'text/html': '<b>', 'image/png': b'a'}", {"text/html": "<b>", "image/png": "YQ=="}),
        ("_repr_mimebundle_", "{'application/x+json': [1]}, {}", {"application/x+json": [1]}),
        ("_repr_mimebundle_", "{'text/html': 1, 'a/json': {1}, 'b/json': None, 'text/x': 'x'}", {"text/x": "x"}),
        ("_repr_mimebundle_", "3", {}),
        ("_repr_mimebundle_", "{2: 'a'}", {}),
        ("_repr_mimebundle_", "None", {}),
        ("_repr_html_", "None", {}),
        ("_repr_html_", "1 / 0", {}),
        ("_repr_html_", "3", {}),
        ("_repr_html_", "b'<b>'", {}),
        ("_repr_html_", "exit()", {}),
        ("_repr_json_", "float('nan')", {}),
        ("_repr_json_", "{1, 2}", {}),
        ("_repr_nothing_", "'a'", {}),
    ],
)
def test_forms(run: Run, name: str, answer: str, forms: dict[str, Any]) -> None:
    """An object's own methods add forms to its text, as in Jupyter; one that fails or answers nonsense adds none."""
    (ended,) = run(method(name, answer))
    assert (ended.code, ended.err, ended.text, ended.forms) == (0, "", "it", forms)
    assert ended.lines[0].isascii() and ended.lines[0].count(b"\n") == 1


@pytest.mark.parametrize(
    "value",
    [
        "{'a': 1}",
        "Row",
        "__import__('unittest.mock').mock.Mock(name='far')",
        "__import__('xmlrpc.client').client.ServerProxy('http://localhost:9')",
    ],
)
def test_what_has_no_forms(run: Run, value: str) -> None:
    """Plain values, classes, and objects that answer to every name have a text only."""
    (ended,) = run(f"class Row:\n    def _repr_html_(self): return 'a'\n{value}")
    assert (ended.code, ended.forms) == (0, {})


def test_bundle_may_bring_its_text(run: Run) -> None:
    """The text of a _repr_mimebundle_ goes before the repr."""
    (ended,) = run(method("_repr_mimebundle_", "{'text/plain': 'its own'}"))
    assert ended.text == "its own"


def test_display(run: Run) -> None:
    """display() shows objects where it is called, in modules too, after what was printed before."""
    (ended,) = run(
        """
        import os, types
        other = types.ModuleType("other")
        exec("def f(): display('c')", other.__dict__)
        print("before")
        display(1, "b")
        size = os.fstat(1).st_size
        other.f()
        size
        """
    )
    shown = [(bundle["kind"], bundle["data"], bundle["metadata"]) for bundle in ended.bundles]
    assert shown == [
        ("display", {"text/plain": "1"}, {}),
        ("display", {"text/plain": "'b'"}, {}),
        ("display", {"text/plain": "'c'"}, {}),
        ("result", {"text/plain": str(len("before\n"))}, {}),
    ]


def test_long_text_is_cut(run: Run) -> None:
    """A text has an end, and says so."""
    (ended,) = run("'a' * 1_000_000")
    assert ended.text == "'" + "a" * 99_999 + "\n[cut: 100000 of 1000002 characters]"


def test_big_bundle_is_dropped(run: Run) -> None:
    """What is bigger than a bundle may be is replaced by a text that says what it was."""
    (ended,) = run(method("_repr_png_", "bytes(9_000_000)"))
    assert (ended.code, ended.forms) == (0, {})
    assert ended.text == "[dropped: image/png, text/plain: 12.0 MB; at most 10 MB is shown]"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("1 / 0", "<It: its repr raised ZeroDivisionError: division by zero>"),
        ("3", "<It: its repr raised TypeError: __repr__ returned non-string (type int)>"),
        ("exit(3)", "<It: its repr raised SystemExit: 3>"),
        ("repr(self)", "<It: its repr raised RecursionError: maximum recursion depth exceeded"),
        ("type('Text', (str,), {'__len__': None, '__getitem__': None})('odd')", "odd"),
    ],
)
def test_failing_repr_is_told(run: Run, answer: str, text: str) -> None:
    """A repr that raises is told in its place; the block did not fail."""
    ended, after = run(f"class It:\n    def __repr__(self): return {answer}\nIt()", "1")
    assert (ended.code, ended.err, after.text) == (0, "", "1")
    assert ended.text.startswith(text)


def test_interrupted_repr(run: Run) -> None:
    """An interruption while a value is shown is not taken for a failing repr: it ends the block."""
    ended, after = run("class It:\n    def __repr__(self): raise KeyboardInterrupt\nIt()", "1")
    assert (ended.code, ended.bundles, after.text) == (1, [], "1")
    assert ended.err.endswith("KeyboardInterrupt\n")


def test_bundle_that_nobody_takes(alone: Path) -> None:
    """What `show` raises is the block's failure, told without frames of ours."""
    done = python(
        alone,
        """
        from notebook import Notebook
        def show(line): raise BrokenPipeError("gone")
        run = Notebook().run
        print(run("1", "a", show), run("pass", "b", show))
        """,
    )
    assert (done.stdout, done.stderr) == ("1 0\n", "BrokenPipeError: gone\n")


def test_display_between_blocks(alone: Path) -> None:
    """What is shown when no block runs, as by a thread that one left behind, goes to nobody."""
    done = python(
        alone,
        """
        from notebook import Notebook
        Notebook().run("display(1)", "a", print)
        display(2)
        """,
    )
    assert done.stdout == 'b\'{"kind": "display", "data": {"text/plain": "1"}, "metadata": {}}\\n\'\n'


# --- matplotlib ---


def pictures(ended: Ended) -> list[tuple[str, str, str]]:
    data = [(bundle["kind"], bundle["data"]) for bundle in ended.bundles]
    return [(kind, forms["text/plain"], forms.get("image/png", "")) for kind, forms in data]


def test_figures(run_bare: Run) -> None:
    """Open figures are shown and closed at the end of a block, also of one that failed."""
    first, none, failed = run_bare(
        "import matplotlib.pyplot as plt\nplt.figure(), plt.figure()\n1", "", "plt.figure()\n1 / 0"
    )
    two = [("display", "<Figure 1>", "cG5nMQ=="), ("display", "<Figure 2>", "cG5nMg==")]
    assert (first.code, pictures(first)) == (0, [("result", "1", ""), *two])
    assert (none.code, none.bundles) == (0, [])
    assert (failed.code, pictures(failed)) == (1, two[:1])


def test_show_figures(run_bare: Run) -> None:
    """plt.show() shows and closes figures where it is called, from the block on that imports pyplot."""
    (ended,) = run_bare("from matplotlib.pyplot import *\nfigure()\nshow(block=True)\ndisplay(2, figure())\nshow();")
    assert (ended.code, ended.err) == (0, "")
    assert pictures(ended) == [
        ("display", "<Figure 1>", "cG5nMQ=="),
        ("display", "2", ""),
        ("display", "<Figure 1>", "cG5nMQ=="),
        ("display", "<Figure 1>", "cG5nMQ=="),
    ]


def test_figure_as_value(run_bare: Run) -> None:
    """A figure that is a block's value is shown once."""
    (ended,) = run_bare("import matplotlib.pyplot as plt\nplt.figure()")
    assert pictures(ended) == [("result", "<Figure 1>", "cG5nMQ==")]


def test_figure_that_cannot_be_drawn(run_bare: Run) -> None:
    """Drawing is the code's: when it fails the block fails, and the figure does not come again."""
    ended, after = run_bare("import matplotlib.pyplot as plt\nplt.figure().fails = True", "1")
    assert (ended.code, pictures(after)) == (1, [("result", "1", "")])
    assert ended.err == "ValueError: cannot be drawn\n"


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_real_matplotlib(run: Run) -> None:
    """matplotlib's own figures come as pictures, whatever backend the code asks for."""
    first, second = run(
        """
        import os
        os.environ["MPLBACKEND"] = "Agg"
        import matplotlib.pyplot as plt
        plt.plot([1, 2])
        plt.show()
        plt.close()
        matplotlib = __import__("matplotlib")
        matplotlib.use("Agg")
        figure, axes = plt.subplots()
        figure;
        """,
        "plt.get_fignums()",
    )
    assert (first.code, first.err) == (0, "")
    assert [bundle["data"]["text/plain"] for bundle in first.bundles] == [
        "<Figure size 640x480 with 1 Axes>",
        "<Figure size 640x480 with 1 Axes>",
    ]
    assert all(bundle["data"]["image/png"].startswith("iVBORw0KGgo") for bundle in first.bundles)
    assert second.text == "[]"


@pytest.mark.skipif(importlib.util.find_spec("pandas") is None, reason="pandas is not installed")
def test_real_pandas(run: Run) -> None:
    """A data frame comes as text and as a table."""
    (ended,) = run("import pandas\npandas.DataFrame({'a': [1, 2]})")
    assert ended.text == "   a\n0  1\n1  2"
    assert "<table" in ended.forms["text/html"]


# --- code that breaks things ---


@pytest.mark.parametrize(
    "block",
    [
        "import builtins\nbuiltins.len = builtins.repr = builtins.isinstance = builtins.hasattr = None",
        "import builtins\nbuiltins.__dict__.clear()",
        "import builtins\nbuiltins.BaseException = builtins.eval = builtins.compile = builtins.__import__ = None",
        "del __builtins__",
        "globals().clear()",
        "_ = display = input = 3",
        "import builtins\ndel builtins.display",
        "import sys\nsys.modules.clear()",
        "import sys\nsys.modules = sys.path = sys.meta_path = None",
        "import sys\nsys.excepthook = sys.displayhook = sys.__excepthook__ = None",
        "import sys\nsys.stdin = sys.stdout = None",
        "import sys\ndel sys.stdin, sys.stdout, sys.stderr",
        "import sys\nsys.stdin.close()",
        "import sys\nsys.setrecursionlimit(20)",
        "import sys\nsys.settrace(lambda *_: 1 / 0)",
        "import sys\nsys.setprofile(lambda *_: 1 / 0)",
        "import sys\nsys.setprofile(lambda _, event, called: getattr(called, '__name__', 0) == 'setprofile' and 1 / 0)",
        "import notebook\nfor name in dir(notebook): setattr(notebook, name, None)",
        "import notebook\nnotebook.__dict__.clear()",
        "import notebook\nnotebook.__builtins__.clear()",
        "import notebook\nnotebook.len = notebook.BaseException = notebook.eval = 3",
        "import notebook\nnotebook.Notebook.run = notebook.Notebook.__init__ = None",
        "display.__globals__.clear()",
        "import sys\nsys._getframe(1).f_globals.clear()",
        "import ast, linecache, traceback, json\nfor m in (ast, linecache, traceback, json): vars(m).clear()",
        "import linecache\nlinecache.cache = None",
        "import os\nfor name in dir(os): name.startswith('__') or setattr(os, name, None)",
        "import asyncio\nawait asyncio.sleep(0)\nasyncio.get_running_loop().stop()",
        "import asyncio\nawait asyncio.sleep(0)\nasyncio.get_running_loop().close()",
        "import gc, warnings\ngc.set_threshold(1)\nwarnings.simplefilter('error')",
        "import threading\nthreading.excepthook = None\nthreading.Thread(target=lambda: 1 / 0).start()",
        "class Evil(str):\n    __hash__ = str.__hash__\n    def __eq__(self, other): 1 / 0\nglobals()[Evil('_')] = 1",
    ],
)
def test_next_block_runs(run: Run, block: str) -> None:
    """Whatever one block breaks, the next one runs, shows its value, and says how it failed."""
    _, value, nothing, failed = run(block, "(1, [2])", "x = 3", "x + y")
    assert (value.code, value.lines[-1]) == (
        0,
        b'{"kind": "result", "data": {"text/plain": "(1, [2])"}, "metadata": {}}\n',
    ), value.err
    assert (nothing.code, nothing.err, failed.code) == (0, "", 1)
    assert "NameError: name 'y' is not defined" in failed.err or "stderr" in block


@pytest.mark.parametrize(
    "breaking",
    [
        "sys.stderr = None",
        "del sys.stderr",
        "sys.stderr.close = None; sys.stderr = 3",
        "class Bad:\n    def write(self, text): raise SystemExit(7)\nsys.stderr = Bad()",
        "import io\nsys.stderr = io.StringIO()\nsys.stderr.close()",
    ],
)
def test_without_standard_error(run: Run, breaking: str) -> None:
    """A traceback that the code's own stream does not take goes to where it would have gone."""
    (ended,) = run(f"import sys\n{breaking}\n1 / 0")
    assert ended.code == 1
    assert ended.err.endswith("ZeroDivisionError: division by zero\n")


def test_streams_stay_replaced(run: Run) -> None:
    """A stream that one block puts in place is the next one's too, and is flushed."""
    *_, last = run(
        "import io, sys\nraw = io.BytesIO()\nold, new = sys.stdout, io.TextIOWrapper(raw)\nsys.stdout = new",
        "print('there')",
        "sys.stdout = old\nraw.getvalue()",
    )
    assert last.text == r"b'there\n'"


# --- the module ---


def test_loads_next_to_nothing(alone: Path) -> None:
    """Importing it and running blocks that succeed loads no module that is written in Python."""
    done = python(
        alone,
        """
        import sys
        old = set(sys.modules)
        from notebook import Notebook
        run = Notebook().run
        run("1 + 1", "1", lambda line: None)
        run("import os\\nprint(os.getcwd())", "2", lambda line: None)
        print(sorted(set(sys.modules) - old - {"_ast", "_json", "binascii", "notebook"}))
        """,
    )
    assert done.stdout == f"{alone}\n[]\n"
