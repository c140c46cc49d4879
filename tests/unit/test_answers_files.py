"""Which blocks of an answer are files, and which: by the lines around them, a comment in them, a command after them."""

import pytest
from answers import CALC, PROGRAMS, RUN, SETTINGS, WRITTEN, becomes, fence

from rewindbox.extraction import blocks
from rewindbox.policy import decide


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
