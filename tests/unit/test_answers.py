"""Which blocks of an answer, written as models write them, are programs, and what a console shows was typed."""

import time

import pytest
from answers import CALC, becomes, fence

from rewindbox.extraction import blocks


@pytest.mark.parametrize(
    "code",
    [
        *("KEY=abc", "# for the app\nKEY=abc\n\nURL=postgres://a:b@c/d?e=1&f=${G}", "APP_NAME=My App # shown", "KEY="),
        "KEY=<your key>\nNAME=\"a b\"\nSALT='$x'",
    ],
)
def test_settings_are_no_program(code):
    """Also where they are labelled as a shell's: they are a file if the text names one."""
    assert becomes(fence("bash", code)) == []
    assert becomes(f"Create `.env`:\n{fence('bash', code)}\n{fence('bash', 'ls')}") == ["W .env", "R bash ls"]


def test_settings_that_a_shell_uses_are_its_own():
    """Its variables, for a session; a page or a file of another language that names them takes them from a file."""
    (first, second), name = ("NAME=World", "echo Hello ${NAME}"), fence("bash", "NAME=World")
    assert becomes(f"{name}{fence('bash', second)}") == [f"R bash {first}", f"R bash {second}"]
    assert becomes(f"{name}{fence('yaml', 'a: ${NAME}')}{fence('bash', 'A=$NAME')}") == []


@pytest.mark.parametrize("code", ["A=1 make all", "A=$(date)", "A=(1 2)", "A=1\necho $A", "a=1", "A=1; ls", "A=`ls`"])
def test_assignments_of_a_shell_run(code):
    """A command among them, a name in small letters, or what only a shell can read."""
    assert becomes(fence("bash", code)) == [f"R bash {code}"]


@pytest.mark.parametrize(
    ("info", "code"),
    [
        ("python", 'Traceback (most recent call last):\n  File "a.py", line 1\nValueError'),
        ("python", "x = 1\n<<<<<<< HEAD\na\n=======\nb\n>>>>>>> main"),
        ("python", " def f():\n-    return 1\n+    return 2"),
        ("bash", "+ ls\n- pwd"),
        ("", "API_KEY=abc\nDEBUG=1"),
        ("", "First, install Python. Then run it."),
        ("tool_outputs", "42"),
        ("bash", "# the image\nFROM php:8.1-fpm\nRUN apk add git"),
        ("", "ARG V=1\nFROM python:3 AS base\nCOPY . ."),
        *(("bash", "all:\n\tgcc x.c"), ("bash", "version: '3'\nservices:"), ("bash", "- name: x\n  hosts: all")),
        *(("bash", '{"a": 1}'), ("bash", "[Unit]\nDescription=x"), ("bash", "server {\n  listen 80;\n}")),
        *(("bash", "# every day\n0 5 * * * /x.sh"), ("bash", "*/5 * * * * x"), ("bash", "node_modules/\n*.log")),
        *(("bash", "*.pyc\n"), ("bash", "Usage: x [options]"), ("bash", "<a>\n</a>"), ("bash", "mysql> select 1;")),
        *(
            ("bash", "PS C:\\> dir"),
            ("bash", "C:\\Users\\a>python a.py"),
            ("bash", "(gdb) run"),
            ("bash", "db=# select"),
        ),
        *(
            ("js", '{\n  "a": 1,\n  "b": 2\n}'),
            ("js", "const A = () => <b>x</b>;"),
            ("js", "<template>\n</template>\n<script>\n</script>"),
            ("js", "function A() {\n  return (\n <>x</>)}"),
        ),
    ],
)
def test_what_is_no_program_is_left(info, code):
    """Output, settings, changes and prose, whatever they are called."""
    assert becomes(fence(info, code)) == []


@pytest.mark.parametrize(
    ("info", "code", "expected"),
    [
        ("", "for i in 1 2 3; do\n  echo $i\ndone", "bash"),
        ("", "if [ -f a ]; then\n  echo yes\nfi", "bash"),
        ("", "while read x; do echo $x; done < a", "bash"),
        ("", "A=1 make all", "bash"),
        ("tool_code", "print(1)", "python"),
        ("python", "-1\n+1\nprint(2)", "python"),
        ("bash", "echo a\n=======\n", "bash"),
        ("bash", "echo FROM\nFROM x", "bash"),
        *(
            ("bash", code, "bash")
            for code in (": > a", "f() {\n  ls\n}", "function f {\n  ls\n}", "[ -f a ] && ls", "[[ a ]]")
        ),
        *(
            ("bash", code, "bash")
            for code in (
                "{ ls; }",
                "./a/b",
                "/bin/ls",
                "~/x/y",
                "if x; then {\n ls\n} fi",
                "time {\n ls; }",
                "cat> a <<E\nE",
                "a=b:",
            )
        ),
        *(
            ("bash", code, "bash")
            for code in ("for x in a; do {", "x && {\n", "(cd a; ls)", "https_proxy=http://a:1/ x")
        ),
        *(
            ("js", code, "javascript")
            for code in ("{ a: 1 }", "if (a <b) { }", "x = () => a < b", "// return <x>", 'return "<b>"')
        ),
    ],
)
def test_what_is_a_program_runs(info, code, expected):
    """Loops of a shell without a name; calls as some models name them; what only looks like a change."""
    assert becomes(fence(info, code)) == [f"R {expected} {code.strip()}"]


@pytest.mark.parametrize(
    "line", ["Output:", "**Expected output:**", "### Output", "The output will be:", "Output of `a.py`:"]
)
def test_what_a_line_calls_output_is_not_run(line):
    """Whatever its label; but a program there is one."""
    assert becomes(f"{line}\n\n{fence('bash', 'Hello 1 2')}{line}\n{fence('python', 'Shape: (1, 2) [1 2]')}") == []
    assert becomes(f"{line}\n\n{fence('bash', 'ls')}{line}\n{CALC}") == ["R bash ls", "R python print(1)"]


@pytest.mark.parametrize(
    ("info", "code", "expected"),
    [
        (
            "js",
            "> const a = 1\nundefined\n> [a].map(x => {\n... return x\n... })\n[ 1 ]",
            "javascript const a = 1#[a].map(x => {#return x#})",
        ),
        *(("bash", ">>> 1\n1", "python 1"), ("bash", "python3\nPython 3.11\n>>> 1\n1", "python 1")),
        *(
            ("", "$ python\n>>> for x in y:\n...     x\n", "python for x in y:#    x"),
            ("bash", "[ann@host ~]$ ls\na", "bash ls"),
        ),
        *(("console", "➜  proj git:(main) ✗ ls\na", "bash ls"), ("console", "ann@mac proj % ls -a\na", "bash ls -a")),
        *(("bash", "ann@PC MINGW64 ~/x (main)\n$ ls\na\nann@PC MINGW64 ~/x (main)\n$ pwd", "bash ls#pwd"),),
    ],
)
def test_more_consoles(info, code, expected):
    """Of each what was typed."""
    assert becomes(fence(info, code)) == [f"R {expected}".replace("#", "\n")]


@pytest.mark.parametrize(
    ("info", "code", "expected"),
    [
        *(("ruby", "irb(main):001:0> puts 1\n1\n=> nil", "puts 1\n"), ("irb", ">> puts 1\n1", "puts 1\n")),
        ("r", "> x <- c(1,\n+ 2)\n> x\n[1] 1 2", "x <- c(1,\n2)\nx\n"),
    ],
)
def test_consoles_of_other_languages(info, code, expected):
    """Also of those that are not allowed to begin with."""
    assert (blocks(fence(info, code))[0].metadata or {})["commands"] == expected


@pytest.mark.parametrize(
    "part",
    [
        "<<<<<<< a\n",
        "\n=======\n",
        "+\n-\n",
        "for i in ;",
        "`a.py` (",
        "; do\n",
        "while x;",
        "# ...",
        "> a.sh",
        "KEY=a ",
    ],
)
def test_looking_takes_no_longer_than_the_text(part):
    """Four times the text takes at most about four times as long."""

    def took(length):
        text = fence("", part * (length // len(part)))
        begun = time.process_time()
        blocks(text)
        return time.process_time() - begun

    took(1_000)
    assert took(160_000) < 12 * took(40_000) + 0.1
