"""Blocks run as in a notebook, one after another, whatever they break."""

from pathlib import Path

import pytest
from cells import Run, folder_alone, python, run_loaded, run_unloaded

alone = pytest.fixture(scope="module")(folder_alone)
run = pytest.fixture(scope="module")(run_loaded)
run_bare = pytest.fixture(scope="module")(run_unloaded)


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
