"""What blocks of a notebook show: the forms of a value, pictures, and what is cut or dropped."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from cells import Ended, Run, folder_alone, python, run_loaded, run_unloaded

alone = pytest.fixture(scope="module")(folder_alone)
run = pytest.fixture(scope="module")(run_loaded)
run_bare = pytest.fixture(scope="module")(run_unloaded)


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
