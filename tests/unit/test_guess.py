"""The language of code that nobody has named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewindbox.guess import guess

SURE = [
    ("#!/usr/bin/env python3\nx\n", "python"),
    ("#!/bin/sh\nfoo\n", "bash"),
    ("#!/usr/bin/env node\n1\n", "javascript"),
    ("import os\nprint(os.getcwd())\n", "python"),
    ("def f(x):\n    return x\n", "python"),
    ("print('hello')\n", "python"),
    ("for x in range(3):\n    pass\n", "python"),
    ("pip install numpy\n", "bash"),
    ("cd app\nnpm install\nnpm start\n", "bash"),
    ("git clone https://example.org/a.git\ncd a && ./configure\n", "bash"),
    ("DEBUG=1 ./run.sh\n", "bash"),
    ("# first\nmkdir -p a/b\n", "bash"),
    ("console.log('x')\n", "javascript"),
    ("const x = 5;\nlet y = x + 1;\n", "javascript"),
    ("function f(a) {\n  return a;\n}\n", "javascript"),
    ('fn main() {\n    println!("x");\n}\n', "rust"),
    ("#include <iostream>\nint main() {}\n", "cpp"),
    ("#include <stdio.h>\nint main() {}\n", "c"),
    ("public class A { }\n", "java"),
    ("<?php echo 1;", "php"),
    ("package main\n\nfunc main() {}\n", "go"),
    ("SELECT * FROM t;\n", "sql"),
]
UNSURE = [
    *("", " \n", "hello", "42\n", "x = 5\n", "a b c\n", '{"a": 1}\n', "[1, 2, 3]\n", "├── src\n│   └── app.py\n"),
    "Traceback (most recent call last):\n  File 'x', line 1\n",
    "find the largest number in the list\n",
    "make sure that it works\n",
    "go to the next step.\n",
    "echo of the past\n",
    "cat sat on the mat\n",
    "touch it\n",
    "python is a language.\n",
    "Name: Ann\nAge: 5\n",
    "for x in the list print it\n",
    "print(\n",
    "add_action('init', 'f');\nfunction f() {\n  echo 1;\n}\n",
    "library(x)\ny <- 2\n",
    "body {\n  color: red;\n}\n",
]


@pytest.mark.parametrize(("code", "language"), SURE)
def test_strong_evidence(code, language):
    """A shebang, or what no other language has, names the language."""
    assert guess(code) == language


@pytest.mark.parametrize("code", UNSURE)
def test_no_guess_is_better_than_a_wrong_one(code):
    """Prose, data, output, and what several languages could read are not named."""
    assert guess(code) is None


@given(st.text() | st.text("import def print(){}[]=$#!/\n "))
def test_any_code(code):
    """A name or None, never an exception."""
    assert guess(code) is None or guess(code).islower()


@pytest.mark.parametrize(
    "piece",
    [
        "(",
        "[",
        "-",
        "not ",
        "f(",
        "lambda:",
        "if x:\n ",
        "a=",
        "<",
        "const x = {",
        "#",
        " ",
        "import a from\n",
        "\n",
        "\n ",
        "a\n\n",
    ],
)
def test_deep_and_long_code(piece):
    """What would exhaust a parser is read or given up, quickly."""
    for count in (1_000, 40_000 // len(piece), 200_000):
        guess("import os\n" + piece * count)
