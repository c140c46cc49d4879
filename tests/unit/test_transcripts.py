"""What was typed at a console."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewindbox.guess import says
from rewindbox.transcripts import _CELL, _CELL_BEGINS, typed

TRANSCRIPTS = [
    ("bash", "$ echo a\na\n$ echo b\nb\n", "bash", "echo a\necho b\n"),
    ("text", "$ ls -l\ntotal 0\n", "bash", "ls -l\n"),
    ("console", "ann@host:~/src$ make\ncc x.c\nann@host:~/src$ ./x\n$5\n", "bash", "make\n./x\n"),
    ("console", "(env) $ pip list\nPackage\n", "bash", "pip list\n"),
    ("console", "[root@host ~]# id\nuid=0\n", "bash", "id\n"),
    ("console", "root@host:~# id\nuid=0\n", "bash", "id\n"),
    ("bash", "$ docker run \\\n>   -it \\\n>   debian\nhello\n", "bash", "docker run \\\n  -it \\\n  debian\n"),
    ("bash", "$ curl \\\n    -s x\nbody\n", "bash", "curl \\\n    -s x\n"),
    (
        "bash",
        "$ cat <<'E' > a\n> it's\n> $ x\n> E\n$ echo 'a\n> b' # it's\n> no\n",
        "bash",
        "cat <<'E' > a\nit's\n$ x\nE\necho 'a\nb' # it's\n",
    ),
    ("bash", "$ npm start\n> app@1.0.0 start\n", "bash", "npm start\n"),
    ("python", "%%bash\nls\n", "bash", "ls\n"),
    ("python", "%%time\nx = 1\n", "python", "x = 1\n"),
    (
        "python",
        "%matplotlib inline\nif x:\n    !pip install 'a'\n",
        "python",
        "pass\nif x:\n    __import__('subprocess').run(\"pip install 'a'\", shell=True)\n",
    ),
    ("python", "%pip install a\n", "python", "__import__('subprocess').run('pip install a', shell=True)\n"),
    ("python", "    def f():\n        return 1\n", "python", "def f():\n    return 1\n"),
    ("python", ">>> 1 + 1\n2\n>>> print('a')\na\n", "python", "1 + 1\nprint('a')\n"),
    ("pycon", ">>> for x in (1, 2):\n...     print(x)\n...\n1\n2\n>>> x\n2\n", "python", None),
    ("text", ">>> import os\n", "python", "import os\n"),
    ("python", "In [1]: x = 1\n\nIn [2]: x\nOut[2]: 1\n", "python", "x = 1\nx\n"),
    ("python", "In [1]: for a in b:\n   ...:     c\n   ...: \n", "python", "for a in b:\n    c\n"),
]
NO_TRANSCRIPTS = [
    ("bash", "echo a\n$ echo b\n"),
    ("bash", "$HOME/bin/x\n"),
    ("bash", "$(echo ls)\n"),
    ("bash", "# a comment\nls\n"),
    ("text", "5 $ and 3\n"),
    ("text", "> quoted\n"),
    ("javascript", "$ echo\n"),
    ("python", "x = 1\n>>> 2\n"),
    ("python", "s = (5\n% x)\n"),
    ("python", 's = """\n!a\n%%bash\n"""\n'),
    ("python", "!pip install a\nis it?\n"),
    ("python", "    is it?\n"),
    ("javascript", "!x\n"),
    ("text", ""),
]


@pytest.mark.parametrize(("language", "code", "inside", "commands"), TRANSCRIPTS)
def test_what_was_typed(language, code, inside, commands):
    """Commands and their further lines, without prompts and output; of a notebook's cell what python can read."""
    found = typed(language, code)
    if inside is None:
        assert found is None
        return
    assert found is not None
    assert found.language == inside
    assert commands is None or found.code == commands
    if inside == "python":
        compile(found.code, "typed", "exec")


@pytest.mark.parametrize(("language", "code"), NO_TRANSCRIPTS)
def test_what_is_no_transcript(language, code):
    """Only what begins with a prompt, in a block that can be one."""
    assert typed(language, code) is None


@given(st.sampled_from(["bash", "python", "text"]), st.lists(st.from_regex(r"[ -~]{1,20}", fullmatch=True)))
def test_commands_come_back(language, lines):
    """Each line that is typed comes back, whatever stands between."""
    prompt = ">>> " if language == "python" else "$ "
    lines = [line.rstrip("\\").replace("<<", "") + "x" for line in lines]
    text = "".join(f"{prompt}{line}\noutput {number}\n" for number, line in enumerate(lines))
    found = typed(language, text)
    assert (found is None) == (not lines)
    if found is not None:
        kept = [line for line in found.code.split("\n") if line]
        assert kept == lines


@given(st.sampled_from(["bash", "python", "text", "console"]), st.text() | st.text("$>. In[1]:\n\\@#"))
def test_any_block(language, code):
    """A transcript or none; never an exception."""
    typed(language, code)


def test_a_cell_is_not_overlooked():
    """What is looked for first stands wherever a cell of a notebook begins, behind the first line."""
    for length in range(1, 6):
        for rest in itertools.product("\n\t !%a", repeat=length):
            code = "x" + "".join(rest)
            assert says(code, _CELL_BEGINS, _CELL) == (_CELL.search(code) is not None), code
