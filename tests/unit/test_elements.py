"""Code that is in no fence, and the files that blocks are the content of."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewindbox.extraction import blocks
from rewindbox.naming import has_place, is_path, named


def found(text):
    """Language and code of each block, each cut out of the text."""
    result = blocks(text)
    for block in result:
        assert 0 <= block.start_pos < block.end_pos <= len(text)
    assert all(a.end_pos <= b.start_pos for a, b in itertools.pairwise(result))
    return [(block.language, block.code) for block in result]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Let me see.\n<execute>\nprint(1)\n</execute>\n", [("python", "print(1)\n")]),
        ("<execute_bash>\nls -l\n</execute_bash>", [("bash", "ls -l\n")]),
        ("<execute_ipython>\nx = 1\n\nx\n</execute_ipython>", [("python", "x = 1\n\nx\n")]),
        ("<execute>ls -l && pwd</execute>", [("bash", "ls -l && pwd\n")]),
        ("<execute>\n```bash\nls\n```\n</execute>", [("bash", "ls\n")]),
        ("<execute>\n~~~~ py title=x\nls\n~~~~\n</execute>", [("python", "ls\n")]),
        ("<execute>\r```bash\rls\r```\r</execute>\rpython3 a.py\r", [("bash", "ls\n"), ("bash", "python3 a.py\n")]),
        (
            "<execute>\ndef f():\n\n    import os\n    return os\n\nf()\n</execute>\n",
            [("python", "def f():\n\n    import os\n    return os\n\nf()\n")],
        ),
        ("<code>\nprint(1)\nprint(2)\n</code>", [("python", "print(1)\nprint(2)\n")]),
        ("Use <code>x</code> or\n<code>y</code> here", []),
        ("<execute>\nprint(1)\n", []),
        ("[PYTHON]\ndef f():\n    return 1\n[/PYTHON]\n", [("python", "def f():\n    return 1\n")]),
        ('<invoke name="bash">\n<parameter name="command">ls</parameter>\n</invoke>', [("bash", "ls\n")]),
        (
            "<function=execute_ipython_cell>\n<parameter=timeout>9</parameter>\n"
            "<parameter=code>\nx = 1\n</parameter>\n</function>",
            [("python", "x = 1\n")],
        ),
        ('<invoke name="search">\n<parameter name="command">ls</parameter>\n</invoke>', []),
        ('<tool_call>\n{"name": "python", "arguments": {"code": "a\\nb"}}\n</tool_call>', [("python", "a\nb\n")]),
        ('<tool_call>{"name": "Bash", "arguments": "{\\"command\\": \\"ls\\"}"}</tool_call>', [("bash", "ls\n")]),
        ('<tool_call>{"name": "search", "arguments": {"code": "x"}}</tool_call>', []),
        ('<tool_call>{"name": ["python"], "arguments": {"code": 5}}</tool_call>', []),
        ("<tool_call>" + "[" * 9_000 + "</tool_call>", []),
        ('<pre><code class="language-js">a &lt; b;\n</code></pre>', [("javascript", "a < b;\n")]),
        ("<pre><code>a</code></pre>", []),
        (
            "Here it is:\r\n\r\nimport os\r\n\r\ndef f():\r\n    return 1\r\n\r\nIt returns 1.\r\n",
            [("python", "import os\n\ndef f():\n    return 1\n")],
        ),
        ("python\nCopy code\nimport os\nx = 1\nprint(x)\n", [("python", "import os\nx = 1\nprint(x)\n")]),
        ("#!/bin/sh\n\nset -e\nls\n", [("bash", "#!/bin/sh\n\nset -e\nls\n")]),
        ("A script:\n\n#!/bin/sh\nls\nls\n\nIt lists.", []),
        ("import taxes\n\nare high,\nas they say.", []),
        ("import os\nimport re\nimport sys\n\nand so on, you know", []),
        ("import os\nx = 1\nprint(x)\n\n```text\nx\n```\n", [("text", "x\n")]),
        (
            "<execute>a</execute>\n\n```bash\nb\n```\n<execute>c</execute>",
            [("python", "a\n"), ("bash", "b\n"), ("python", "c\n")],
        ),
        ("```xml\n<execute>\nls\n</execute>\n```\n", [("xml", "<execute>\nls\n</execute>\n")]),
        ("Then:\n\n    python3 app.py --port 80\n", [("bash", "python3 app.py --port 80\n")]),
        ("Run it:\n`node server.js`\n", [("bash", "node server.js\n")]),
        ("Run it with `python3 app.py -v`, then stop.", [("bash", "python3 app.py -v\n")]),
        ("Run:\n`node a.js`\nand execute `sh b.sh`\n", [("bash", "node a.js\n"), ("bash", "sh b.sh\n")]),
        ("The file `app.py` is run by `python3 app.py` at night.", []),
        ("Do not run `python3 app.py` here.", []),
        ("cargo run --release\n", [("bash", "cargo run --release\n")]),
        ("python is a language.\nnode is a runtime\nbash rules\n", []),
        ("timeout = 30 seconds is the default; please run it\n", []),
        ("See\n\n    import os\n    print(os.getcwd())\n\nthere.", [("python", "import os\nprint(os.getcwd())\n")]),
        ("See\n\n    just some words\n    in a row\n", []),
        ("- a list\n\n      import os\n", [("python", "import os\n")]),
    ],
)
def test_elements(text, expected):
    """Tags of agents, commands on lines of their own, and indented code that leaves no doubt; prose is none of them."""
    assert found(text) == expected


@pytest.mark.parametrize(
    "code",
    [
        "--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a\n+b\n",
        "diff --git a/x b/x\n",
        "<<<<<<< SEARCH\na = 1\n=======\na = 2\n>>>>>>> REPLACE\n",
        "app.py\n<<<<<<< SEARCH\na = 1\n=======\na = 2\n>>>>>>> REPLACE\n",
        "*** Begin Patch\n*** Update File: a.py\n",
        "@@ -1,2 +1,2 @@\n-a\n",
    ],
)
def test_what_is_to_be_applied_is_no_program(code):
    """A diff is a diff, also in a block that says python; and never the content of the file that it changes."""
    for info in ("", "python", "diff"):
        assert found(f"```{info}\n{code}```") == [("diff", code)]
        (block,) = blocks(f"app.py\n\n```{info}\n{code}```")
        assert "path" not in (block.metadata or {})


def test_a_drawn_tree_is_no_program():
    """The files of a project, drawn in a block that says bash, are text; a script that prints some is a script."""
    assert found("```bash\napp/\n│\n├── src/\n│   └── a.py\n```") == [("text", "app/\n│\n├── src/\n│   └── a.py\n")]
    assert found("```bash\nset -e\ncat <<E\napp/\n├── src\nE\n```")[0][0] == "bash"


def test_a_transcript_keeps_its_code_and_tells_its_commands():
    """`code` is what Markdown says; what was typed is beside it."""
    (block,) = blocks("```console\n$ echo a\na\n```")
    assert (block.language, block.code) == ("bash", "$ echo a\na\n")
    assert block.metadata == {"info": "console", "commands": "echo a\n"}


@pytest.mark.parametrize(
    ("info", "code", "before", "path", "is_to_be_written"),
    [
        ("python", "", "text\n\n**app.py**\n", "app.py", False),
        ("python", "", "### `src/app.py`:\n\n", "src/app.py", False),
        ("html", "", "1. index.html\n", "index.html", False),
        ("", "", "File: Dockerfile\n", "Dockerfile", False),
        ("python", "", "Save this as `app.py`:\n", "app.py", True),
        ("python", "", "Create a file called app.py with this content:\n", "app.py", True),
        ("python", "", "Save this as `app.py` and run it:\n", "app.py", False),
        ("python:app.py", "", "", "app.py", False),
        ('python title="src/app.py"', "", "", "src/app.py", False),
        ("src/app.py", "", "", "src/app.py", False),
        ("python filename=app.py", "", "", "app.py", False),
        ("python", "# app.py\nx\n", "Here:\n", "app.py", False),
        ("js", "// src/server.js\nx\n", "", "src/server.js", False),
        ("html", "<!-- index.html -->\n", "", "index.html", False),
        ("python", "", "Save this as `./app.py`:\n", "app.py", True),
        ("python", "", "Save this as `~/src/app.py`:\n", "src/app.py", True),
        ("python", "", "Save this as `/tmp/app.py`:\n", "/tmp/app.py", True),
        ("nginx", "", "**/etc/nginx/nginx.conf**\n", "/etc/nginx/nginx.conf", False),
        ("python:/app/main.py", "", "", "/app/main.py", False),
        ("python", "", "Save this as `../app.py`:\n", "../app.py", True),
        ("python", "", "Save this as C:\\proj\\app.py:\n", "C:\\proj\\app.py", True),
        ("ruby", "", "`Gemfile`\n", "Gemfile", False),
        ("", "", "Create `.env.local`:\n", ".env.local", True),
        ("python", "", "Save what https://example.org/a/app.py has:\n", None, None),
        ("python", "", "Create `<project>/app.py`:\n", None, None),
        ("python", "# this is app.py of old\n", "We look at app.py first.\n", None, None),
        ("python", "", "Run the following:\n", None, None),
        ("python", "", "", None, None),
    ],
)
def test_names_of_files(info, code, before, path, is_to_be_written):
    """A heading, an info string, a first comment or a sentence names the file; an address is none."""
    file = named(info, code, before)
    if path is None:
        assert file is None
    else:
        assert file is not None
        assert (file.path, file.is_to_be_written) == (path, is_to_be_written)


@pytest.mark.parametrize(
    ("language", "before"),
    [
        ("bash", "Create `app.py` by the following command:\n"),
        ("bash", "Save the code in `app.py`, and start the server:\n"),
        ("bash", "Copy the .env file into the container:\n"),
        ("python", "Add this to your `index.html`:\n"),
        ("bash", "First, create a new Nest.js project:\n"),
        ("javascript", "### Node.js\n"),
    ],
)
def test_a_sentence_about_another_file(language, before):
    """A block in a language that runs is the content of files in that language; frameworks are no files."""
    assert named(language, "x\n", before, language) is None


@given(st.text(), st.text(), st.text() | st.text("save as `app.py/*#: \n"))
def test_a_name_is_always_safe(info, code, before):
    """Whatever a text says, a path is one of plain characters, and where a vm can have it, it does not lead up."""
    file = named(info, code, before)
    assert file is None or (is_path(file.path) == has_place(file.path) and file.path.isprintable())
    assert file is None or not has_place(file.path) or not {"..", "C:"} & set(file.path.split("/"))


@given(
    st.text()
    | st.text("<execute>/_bash \n`$>python3 a.py    ")
    | st.lists(
        st.sampled_from(
            [
                "<execute>",
                "</execute>",
                "\n",
                "```",
                "```bash\n",
                "    ",
                "print(1)",
                "python3 a.py",
                "> ",
                "- ",
                "\r\n",
                "<code>",
                "</code>",
                "[PYTHON]",
                "[/PYTHON]",
                '<tool_call>{"name": "bash", "arguments": {"command": "ls"}}',
                "</tool_call>",
                '<invoke name="bash">',
                "</invoke>",
                "<parameter=code>",
                "</parameter>",
                "import os\nx = 1\ny = 1\n",
            ]
        )
    ).map("".join)
)
def test_any_text_has_elements(text):
    """In order, without overlap, never an exception."""
    found(text)


@pytest.mark.parametrize(
    ("after", "path"),
    [
        ("\n\n1. Save this code to a file named `app.py`.\n2. Run it with `python3 app.py`.", "app.py"),
        ("\r\nCopy the script into src/app.py and start it.", "src/app.py"),
        ("\nSave it as `index.html`.", None),
        ("\nNow save the following code as `b.py`:\n\n", None),
        ("\nSave this as `b.py`:\n", None),
        ("\nIt saves the code of app.py.", None),
        ("\nSave this as `../app.py`.", "../app.py"),
    ],
)
def test_a_block_is_saved_as_the_text_behind_it_says(after, path):
    """Only what is said of the block before, and only a file of its language; whether it is written decides policy."""
    file = named("python", "x = 1\n", "", "python", after)
    assert (file and (file.path, file.is_to_be_written)) == (path and (path, False))


@pytest.mark.parametrize(
    "piece",
    [
        "<execute>",
        "<execute>\n",
        "</execute>\n<execute>\n",
        "python3 a.py\n",
        "    a\n",
        "save a.py ",
        "**a.py**\n```\n",
        "> <execute>\n",
        "python3 a.py ",
        "run `python3 a.py",
        "run ",
        "`",
        " ",
        "import a\n\n",
        "def f():\n  pass\n\n\n",
        "<tool_call>\n",
        "</tool_call>\n<tool_call>\n",
        '<invoke name="bash">\n',
        "<parameter=code></parameter>\n",
        "[PYTHON]\n",
    ],
)
def test_huge_texts_of_elements(piece):
    """A mebibyte of what could be something comes to an end."""
    found(piece * (2**20 // len(piece)))
    found(f"<execute>\n```\n{piece * (2**20 // len(piece))}\n</execute>")
