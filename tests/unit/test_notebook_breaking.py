"""Code that breaks what its notebook stands on: the next block runs all the same."""

import pytest
from cells import Run, folder_alone, run_loaded

alone = pytest.fixture(scope="module")(folder_alone)
run = pytest.fixture(scope="module")(run_loaded)


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
