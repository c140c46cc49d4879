"""What becomes of whole answers, written as models write them: R what runs, W what is written to a file."""

import time
from dataclasses import replace

import pytest

from rewindbox.config import Settings
from rewindbox.extraction import blocks
from rewindbox.policy import decide

SETTINGS = replace(Settings(), code_validation=False)
PROGRAMS = dict.fromkeys(SETTINGS.languages, "/usr/bin/x")


def fence(info, code):
    return f"```{info}\n{code}\n```\n"


def becomes(text):
    """`R language code` and `W path`, in order; what is left alone is not there."""
    found = []
    for decision in decide(blocks(text), SETTINGS, PROGRAMS, 0.0):
        if decision.path is not None:
            found.append(f"W {decision.path}")
        elif decision.skipped is None:
            found.append(f"R {decision.block.language} {decision.code.strip()}")
    return found


CALC, RUN = fence("python", "print(1)"), fence("bash", "python3 calc.py")
WRITTEN = ["W calc.py", "R bash python3 calc.py"]


@pytest.mark.parametrize(
    "before",
    [
        *("Here is `calc.py`:\n\n", "In `calc.py`:\n\n", "The file `calc.py` contains:\n", "**calc.py**\n\n"),
        *("First the helper (`calc.py`):\n\n", "📄 **calc.py**\n\n", "3. ✅ `calc.py`\n\n", "### File: `calc.py`\n"),
        *("Create a script (e.g., `calc.py`) with the following code:\n\n", "Save this as `calc.py`:\n\n"),
        *(
            "Create a script, e.g. `calc.py`:\n",
            "**File:** `calc.py`\n",
            "**File: `calc.py`**\n",
            "**Filename:** calc.py\n",
        ),
        *(
            "**calc.py** - the sums\n",
            "#### `calc.py` (the sums)\n",
            "### 2.1 `calc.py` — sums\n",
            "**1. `calc.py`**\n",
            "## Sums: calc.py\n",
        ),
        *("**Sums (calc.py):**\n", "**calc.py**：\n", "<summary>calc.py</summary>\n\n", "- **`calc.py`**: the sums\n"),
        *(
            "文件：`calc.py`\n",
            "将以下代码保存为 `calc.py`：\n",
            "次のコードを `calc.py` として保存します：\n",
            "Создайте файл `calc.py`:\n",
        ),
        *("Speichere dies als `calc.py`:\n", "Guarda el código como `calc.py`:\n", "Créez un fichier `calc.py` :\n"),
    ],
)
def test_a_line_before_says_which_file_it_is(before):
    """Then it is written, because a later block runs it."""
    assert becomes(f"{before}{CALC}\nThen:\n\n{RUN}") == WRITTEN


@pytest.mark.parametrize("after", ["Save the code above as `calc.py` and run:\n\n", "Save as `calc.py`.\n\nThen:\n"])
def test_a_line_behind_says_which_file_it_is(after):
    """Also where that line leads on to the command."""
    assert becomes(f"{CALC}\n{after}{RUN}") == WRITTEN


@pytest.mark.parametrize(
    "before",
    [
        "We can use `calc.py` for it:\n",
        "After running `calc.py`:\n",
        "In `calc.py` and `main.py`:\n",
        "See `calc.py`\n",
        "## Running `calc.py`\n",
        "## What `calc.py` is for\n",
        "**Use it (calc.py):**\n",
        "This script will create `calc.py`:\n",
    ],
)
def test_a_file_that_is_only_mentioned_is_not_the_block(before):
    """A line that does something with a file, or names two, shows the content of none."""
    assert becomes(f"{before}{CALC}\n{fence('bash', 'ls; python3 calc.py')}")[0] == "R python print(1)"


@pytest.mark.parametrize(
    "code",
    [
        "cat > run.sh <<'E'\necho 1\nE",
        "touch run.sh",
        "nano run.sh",
        "echo 1 | tee run.sh",
        "chmod +x run.sh",
        "./x > run.sh",
    ],
)
def test_what_makes_a_file_is_not_in_it(code):
    """A shell's block that writes, opens or starts the file runs, whatever the line before it says."""
    text = f"Create `run.sh`:\n{fence('bash', code)}\n{fence('bash', './run.sh')}"
    assert becomes(text) == [f"R bash {code}", "R bash ./run.sh"]
    assert becomes(text.replace(code, "echo 1")) == ["W run.sh", "R bash ./run.sh"]


@pytest.mark.parametrize(
    "part", ["...", "# ... existing code ...", "    # ... rest of the code", "// … (other methods unchanged)"]
)
def test_a_part_of_a_file_is_not_all_of_it(part):
    """What leaves out what is there already neither replaces the file nor runs."""
    whole, change = fence("python", "def f(): pass\nf()"), fence("python", f"{part}\ndef g(): pass")
    assert becomes(f"`calc.py`:\n{whole}\nUpdate `calc.py`:\n{change}\n{RUN}") == WRITTEN
    assert becomes(f"In `calc.py`:\n{change}") == []
    assert becomes(f"In `calc.py`:\n{change.replace('...', '').replace('…', '')}\n{RUN}") == WRITTEN


@pytest.mark.parametrize("verb", ["Add this to", "Append the following to", "Insert this into", "Edit line 2 of"])
def test_what_is_added_does_not_replace(verb):
    """The block before is the file; where there is none, it is written."""
    more = fence("python", "print(2)")
    assert becomes(f"`calc.py`:\n{CALC}\n{verb} `calc.py`:\n{more}\n{RUN}") == WRITTEN
    assert becomes(f"{verb} `calc.py`:\n{more}\n{RUN}") == WRITTEN
    assert becomes(f"`calc.py`:\n{CALC}\nUpdate `calc.py`:\n{more}\n{RUN}") == ["W calc.py", *WRITTEN]


@pytest.mark.parametrize(
    ("info", "code"),
    [
        *(
            ("python", "# calc.py - the sums\nx"),
            ("python", '"""calc.py"""\nx'),
            ("python", "#!/usr/bin/python\n# calc.py\nx"),
        ),
        *(
            ("python", "# ==== calc.py ====\nx"),
            ("js", "/**\n * calc.js\n */\nx"),
        ),
    ],
)
def test_a_first_comment_says_which_file_it_is(info, code):
    """Below what stands above all comments, and with what the file is for."""
    path = "calc.js" if info == "js" else "calc.py"
    assert becomes(f"{fence(info, code)}{fence('bash', f'ls; cat {path}')}")[0] == f"W {path}"
    assert becomes(f"{fence(info, code.replace('calc', 'not calc'))}{fence('bash', f'ls; cat {path}')}")[0][0] == "R"


def test_the_files_of_a_package():
    """What is imported by the name of its folder is named by it."""
    text = f"`shop/__init__.py`\n{CALC}`main.py`\n{fence('python', 'import shop')}"
    assert becomes(text) == ["W shop/__init__.py", "R python import shop"]


@pytest.mark.parametrize("path", ["/tmp/calc.py", "/home/ann/calc.py", "/app/src/calc.py"])
def test_a_path_from_the_root_is_meant_as_it_is(path):
    """The vm has its own root. A later block needs such a file where it names it, or its folder."""
    folder = path.rpartition("/")[0]
    for command in (f"python3 {path}", f"cd {folder} && python3 calc.py"):
        assert becomes(f"**{path}**\n{CALC}\n{fence('bash', command)}") == [f"W {path}", f"R bash {command}"]
    assert becomes(f"**{path}**\n{CALC}\n{RUN}") == ["R python print(1)", "R bash python3 calc.py"]


@pytest.mark.parametrize("path", ["C:\\work\\calc.py", "C:/work/calc.py", "..\\calc.py", "../calc.py"])
def test_what_no_vm_has_is_not_written(path):
    """Nor is it written elsewhere, nor run instead: the reason has the name."""
    text = f"Save this as `{path}`:\n{CALC}\n{RUN}"
    assert becomes(text) == ["R bash python3 calc.py"]
    assert path in str(decide(blocks(text), SETTINGS, PROGRAMS, 0.0)[0].skipped)
    assert becomes(f"`{path}`\n{CALC}") == ["R python print(1)"]


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
    "command",
    [
        *(
            "python3 calc.py",
            "python calc.py 1 2",
            "./calc.py",
            "chmod +x calc.py\n./calc.py",
            "python calc.py > out.txt",
        ),
        "# first\npip install numpy\npython -u src/calc.py",
    ],
)
def test_a_file_that_only_a_command_names(command):
    """A shell's block that does nothing but start it is enough, where one block alone can be it."""
    path = "src/calc.py" if "src" in command else "calc.py"
    after = f"Run it:\n{fence('bash', command)}"
    assert becomes(f"{CALC}\n{after}") == [f"W {path}", f"R bash {command}"]
    assert becomes(f"{CALC}\n**a.py**\n{fence('python', 'x = 1')}\n{after}")[0] == f"W {path}"
    for others in (f"{CALC}\n{CALC}\n{after}", f"{after}\n{CALC}"):
        assert not any(each.startswith("W") for each in becomes(others))


@pytest.mark.parametrize(
    "command",
    [
        "cd x && python calc.py",
        "git clone x\npython calc.py",
        "python calc.py <file>",
        "python manage.py migrate",
        "python calc.js",
        "python ../calc.py",
    ],
)
def test_a_command_that_does_more_names_no_file(command):
    """The file may be from elsewhere, or is not to be started so."""
    assert becomes(f"{CALC}\n{fence('bash', command)}") == ["R python print(1)", f"R bash {command}"]
    assert not any(each.startswith("W") for each in becomes(f"{fence('bash', 'git clone x')}\n{CALC}\n{RUN}"))


def test_a_script_of_a_shell_that_only_a_command_names():
    """It has a shebang; other commands are no script."""
    script, start = "#!/bin/bash\necho 1", "chmod +x a.sh\n./a.sh"
    assert becomes(f"{fence('bash', script)}\n{fence('bash', start)}") == ["W a.sh", f"R bash {start}"]
    assert becomes(f"{fence('bash', 'ls')}\n{fence('bash', start)}") == ["R bash ls", f"R bash {start}"]


def test_a_script_of_a_page_is_a_file():
    """Wherever the page stands, and whether it runs elsewhere or not."""
    page, script = f"`index.html`\n{fence('html', '<script src=app.js>')}", f"`app.js`\n{fence('js', 'document.x()')}"
    assert becomes(page + script) == ["W index.html", "W app.js"]
    assert becomes(script + page) == ["W app.js", "W index.html"]


@pytest.mark.parametrize("code", ["require('./calc')", "import {a} from './calc'", 'import "../src/calc"'])
def test_what_a_script_requires_is_a_file(code):
    """Without its extension, as is usual."""
    assert becomes(f"`calc.js`\n{fence('js', 'a = 1')}\n{fence('js', code)}") == ["W calc.js", f"R javascript {code}"]


@pytest.mark.parametrize(
    ("path", "info", "command"),
    [
        ("src/main.rs", "rust", "cargo run"),
        *(("a.test.js", "js", "npx jest"), ("server.js", "js", "npm start"), ("app.py", "python", "uvicorn app:app")),
        *(("a.py", "python", "python3 -m a"), ("test_a.py", "python", "python -m unittest")),
        ("test_a.py", "python", "pytest -q"),
        ("a_test.py", "py", "python3 -m pytest"),
    ],
)
def test_a_tool_finds_its_files_itself(path, info, command):
    """Nobody names them to it, and they are written all the same."""
    assert becomes(f"`{path}`:\n{fence(info, 'x')}\n{fence('bash', command)}") == [f"W {path}", f"R bash {command}"]


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


@pytest.mark.parametrize("name", ["code_interpreter", "tool_code", "run_python", "python_code", "execute_python"])
def test_the_tags_of_agents(name):
    """Each has code for python."""
    assert becomes(f"I look.\n\n<{name}>\nprint(1)\n</{name}>\n") == ["R python print(1)"]


@pytest.mark.parametrize("given", ["arguments", "parameters", "input"])
def test_a_call_in_json(given):
    """What it gives has one of three names."""
    assert becomes(f'<tool_call>\n{{"name": "bash", "{given}": {{"command": "ls"}}}}\n</tool_call>') == ["R bash ls"]


SPACE = "antml" + ":"
INVOKED = "<Xinvoke name='bash'>#<Xparameter name='command'>ls</Xparameter>#</Xinvoke>".replace("#", "\n")


@pytest.mark.parametrize(
    "text",
    [
        '<tool_calls>#[{"name": "bash", "arguments": {"command": "ls"}}]#</tool_calls>',
        '<function_call>{"function": {"name": "bash", "arguments": "{\\"command\\": \\"ls\\"}"}}</function_call>',
        "<tool_call>#<function=bash>#<parameter=command>#ls#</parameter>#</function>#</tool_call>",
        "<execute_command>#<command>ls</command>#<requires_approval>false</requires_approval>#</execute_command>",
        *(INVOKED.replace("X", ""), INVOKED.replace("X", SPACE)),
        *('<execute language="bash">#ls#</execute>', '<action type="shell">#ls#</action>'),
        '<artifact id="a" title="b">#<action type="shell">#ls#</action>#</artifact>',
        *("Thought: x#Action: bash#Action Input: ls#Observation: a", "Action: bash#Action Input: `ls`"),
        *(
            '[bash(command="ls")]',
            "I look.#[bash(timeout=3, command='ls')]#",
            "<|channel|>final to=bash<|message|>ls<|call|>",
        ),
        "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>commentary to=functions.bash "
        '<|constrain|>json<|message|>{"command": "ls"}<|call|>',
        'Action: bash#Action Input: "ls"#',
        'Action: search#Action Input: x#Observation: y#Action: bash#Action Input: {"command": "ls"}#Thought: z',
    ],
)
def test_more_calls_of_agents(text):
    """Each gives one command to a shell."""
    assert becomes(text.replace("#", "\n")) == ["R bash ls"]


@pytest.mark.parametrize(
    ("given", "code"), [("x = 'a'", "x = 'a'"), ("`print(1)`", "print(1)"), ("'a' + 'b'", "'a' + 'b'")]
)
def test_what_an_action_is_given(given, code):
    """Quotation marks around all of it are none of the code's; others are."""
    assert becomes(f"Action: python\nAction Input: {given}\nObservation: x") == [f"R python {code}"]
    assert becomes(f"<|python_tag|>{given}<|eom_id|>") == [f"R python {code}"]


@pytest.mark.parametrize(
    "text",
    [
        *('<file path="src/a.py">#print(1)#</file>', "<action type='file' filePath='src/a.py'>#print(1)#</action>"),
        "<write_to_file>#<path>src/a.py</path>#<content>#print(1)#</content>#</write_to_file>",
        '<file path="src/a.py">#```python#print(1)#```#</file>',
    ],
)
def test_a_tag_that_names_a_file(text):
    """It is written, whatever comes after it."""
    assert becomes(text.replace("#", "\n")) == ["W src/a.py"]


@pytest.mark.parametrize(
    "text",
    [
        '<script language="javascript">#alert(1)#</script>',
        '<form>#<input name="a.py" type="text">#</form>',
        "Action: search#Action Input: ls",
        *("[search(command='ls')]", "[bash](command=1)", "[bash(command=f'{x}')]", "[bash(command='ls)]", "[bash(x)]"),
        '<tool_call>{"name": "search", "arguments": {"code": "x"}}</tool_call>',
        '<file path="">#x#</file>',
        "<tool_calls>[1, 2]</tool_calls>",
    ],
)
def test_other_tags_have_no_code(text):
    """Those of a page, and calls of tools that are none of ours."""
    assert becomes(text.replace("#", "\n")) == []


def test_a_fence_within_the_tag_of_an_answer():
    """Where tags stand on the lines of the fence."""
    assert becomes("<answer>```python\nprint(1)\n```</answer>\n") == ["R python print(1)"]


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        *(("<reasoning>", "</reasoning>"), ("<thought>", "</thought>"), ("<scratchpad>", "</scratchpad>")),
        *(("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>")),
    ],
)
def test_thoughts_have_no_code(opening, closing):
    """Whatever a model writes around them; and where they do not end, there is no answer."""
    thought = f"{opening}\n{fence('bash', 'rm x')}"
    assert becomes(f"{thought}{closing}\n{fence('bash', 'ls')}") == ["R bash ls"]
    assert becomes(thought) == []


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


def test_tags_that_nothing_closes():
    """However many different ones there are, the text is looked through a bounded number of times."""

    def took(count):
        text = "".join(f'<a{number} path="a.py">\n' for number in range(count)) + "</a>"
        begun = time.process_time()
        assert blocks(text) == []
        return time.process_time() - begun

    took(100)
    assert took(40_000) < 12 * took(10_000) + 0.1
