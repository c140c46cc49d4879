"""Every language of the table does what a block needs, in real vms, with the limits that we ship.

What the host does not have is skipped by its name; under CI only what is too big to install there.
"""

from typing import NamedTuple

import pytest

from conftest import needs
from rewindbox.config import load
from rewindbox.engine import AsyncRewindbox
from rewindbox.languages import LANGUAGES

pytestmark = pytest.mark.anyio

NON_ASCII = "größer\nпривет 你好\n🙂\n"


class Programs(NamedTuple):
    """One language's: each does what its name says."""

    non_ascii: str
    """Prints NON_ASCII."""
    reads: str
    """Prints standard input, which is one line."""
    fails: str
    """Ends with exit code 7."""
    writes: str
    """Writes `kept` to the file f.txt of its working directory."""
    shows: str
    """Prints what is in f.txt."""
    broken: str
    """Is no program; a compiler says so."""


def c_like(headers: str, body: str) -> str:
    return "".join(f"#include <{name}>\n" for name in headers.split()) + f"int main(void) {{ {body} }}\n"


def java(body: str) -> str:
    return (
        "import java.nio.file.*;\nimport java.util.*;\n"
        f"public class Main {{ public static void main(String[] a) throws Exception {{ {body} }} }}\n"
    )


def go(packages: str, body: str) -> str:
    imports = "\n".join(f'import "{name}"' for name in packages.split())
    return f"package main\n{imports}\nfunc main() {{ {body} }}\n"


NODE = Programs(
    non_ascii="console.log('größer\\nпривет 你好\\n🙂')",
    reads="process.stdout.write(require('fs').readFileSync(0))",
    fails="process.exit(7)",
    writes="require('fs').writeFileSync('f.txt', 'kept')",
    shows="process.stdout.write(require('fs').readFileSync('f.txt', 'utf8'))",
    broken="const = 1",
)
C = Programs(
    non_ascii=c_like("stdio.h", 'puts("größer\\nпривет 你好\\n🙂"); return 0;'),
    reads=c_like("stdio.h", "char s[99]; fputs(fgets(s, 99, stdin), stdout); return 0;"),
    fails=c_like("stdio.h", "return 7;"),
    writes=c_like("stdio.h", 'FILE *f = fopen("f.txt", "w"); fputs("kept", f); return fclose(f);'),
    shows=c_like("stdio.h", 'char s[99]; FILE *f = fopen("f.txt", "r"); fputs(fgets(s, 99, f), stdout); return 0;'),
    broken="int main(void) { return nothing; }",
)
PROGRAMS = {
    "python": Programs(
        non_ascii="print('größer\\nпривет 你好\\n🙂')",
        reads="print(input())",
        fails="raise SystemExit(7)",
        writes="open('f.txt', 'w').write('kept')",
        shows="print(open('f.txt').read(), end='')",
        broken="def",
    ),
    "javascript": NODE,
    "bash": Programs(
        non_ascii="printf 'größer\\nпривет 你好\\n🙂\\n'",
        reads="cat",
        fails="exit 7",
        writes="printf kept > f.txt",
        shows="cat f.txt",
        broken="if",
    ),
    "rust": Programs(
        non_ascii='fn main() { println!("größer\\nпривет 你好\\n🙂"); }',
        reads='fn main() { let mut s = String::new(); std::io::stdin().read_line(&mut s).unwrap(); print!("{s}"); }',
        fails="fn main() { std::process::exit(7) }",
        writes='fn main() { std::fs::write("f.txt", "kept").unwrap(); }',
        shows='fn main() { print!("{}", std::fs::read_to_string("f.txt").unwrap()); }',
        broken="fn main() { nothing }",
    ),
    "typescript": NODE._replace(
        non_ascii="interface Word { text: string }\nenum E { A = 1 }\n"
        "const word: Word = { text: 'größer\\nпривет 你好\\n🙂' }; if (E.A) console.log(word.text as string)",
        shows="import { readFileSync } from 'fs';\nprocess.stdout.write(readFileSync('f.txt', 'utf8'))",
    ),
    "go": Programs(
        non_ascii=go("fmt", 'fmt.Println("größer\\nпривет 你好\\n🙂")'),
        reads=go("io os", "io.Copy(os.Stdout, os.Stdin)"),
        fails=go("os", "os.Exit(7)"),
        writes=go("os", 'if os.WriteFile("f.txt", []byte("kept"), 0o644) != nil { panic("no") }'),
        shows=go("fmt os", 'text, _ := os.ReadFile("f.txt"); fmt.Print(string(text))'),
        broken=go("fmt", "nothing"),
    ),
    "c": C,
    "cpp": C._replace(
        non_ascii=c_like("iostream", 'std::cout << "größer\\nпривет 你好\\n🙂" << std::endl;'),
        reads=c_like("iostream string", "std::string s; std::getline(std::cin, s); std::cout << s << '\\n';"),
    ),
    "java": Programs(
        non_ascii=java('System.out.println("größer\\nпривет 你好\\n🙂");'),
        reads=java("System.out.println(new Scanner(System.in).nextLine());"),
        fails=java("System.exit(7);"),
        writes=java('Files.writeString(Path.of("f.txt"), "kept");'),
        shows=java('System.out.print(Files.readString(Path.of("f.txt")));'),
        broken=java("nothing;"),
    ),
    "ruby": Programs(
        non_ascii="puts 'größer', 'привет 你好', '🙂'",
        reads="puts gets",
        fails="exit 7",
        writes="File.write('f.txt', 'kept')",
        shows="print File.read('f.txt')",
        broken="def",
    ),
    "perl": Programs(
        non_ascii='print "größer\\nпривет 你好\\n🙂\\n";',
        reads="print <STDIN>;",
        fails="exit 7;",
        writes='open(my $f, ">", "f.txt") or die; print $f "kept"; close $f;',
        shows='open(my $f, "<", "f.txt") or die; print <$f>;',
        broken="my $x = ;",
    ),
    "php": Programs(
        non_ascii='<?php\necho "größer\\nпривет 你好\\n🙂\\n";',
        reads="echo fgets(STDIN);",
        fails="<?php exit(7);",
        writes="<?php file_put_contents('f.txt', 'kept');",
        shows="<?php echo file_get_contents('f.txt');",
        broken="<?php echo ;",
    ),
    "r": Programs(
        non_ascii='cat("größer\\nпривет 你好\\n🙂\\n")',
        reads='cat(readLines(file("stdin")), sep = "\\n"); cat("\\n")',
        fails="quit(status = 7)",
        writes='cat("kept", file = "f.txt")',
        shows='cat(readLines("f.txt", warn = FALSE))',
        broken="x <- <-",
    ),
    "lua": Programs(
        non_ascii='print("größer\\nпривет 你好\\n🙂")',
        reads="print(io.read())",
        fails="os.exit(7)",
        writes='local f = assert(io.open("f.txt", "w")); f:write("kept"); f:close()',
        shows='io.write(io.open("f.txt"):read("a"))',
        broken="local = 1",
    ),
}
BIG = ("go", "java", "r")
"""Too big for the machine that checks every change (.ci/run says how big)."""


@pytest.fixture
async def vm(store, monkeypatch):
    """A new vm that may run every language."""
    monkeypatch.setenv("REWINDBOX_ALLOWED_LANGUAGES", ",".join(LANGUAGES))
    async with AsyncRewindbox(store) as box:
        yield await box.vm("one")


@pytest.mark.parametrize("name", LANGUAGES)
async def test_a_language(backend, vm, name):
    """Output, input, exit codes, errors and files are a block's own, in the time and memory that a block has."""
    needs(backend, name, optional=BIG)
    programs = PROGRAMS[name]

    async def good(code: str, **options) -> str:
        execution = await vm.execute(name, code, **options)
        assert execution.success, (execution.error, execution.stderr)
        return execution.stdout

    assert await good(LANGUAGES[name].hello) == "hello\n"
    assert await good(programs.non_ascii) == NON_ASCII
    assert (await good(programs.reads, stdin="one línea\n")).strip() == "one línea"
    failed = await vm.execute(name, programs.fails)
    assert (failed.ended, failed.exit_code) == ("exit", 7), failed.stderr
    broken = await vm.execute(name, programs.broken)
    assert (broken.ended, broken.stdout) == ("exit", "" if name != "php" else broken.stdout)
    assert broken.exit_code != 0
    assert broken.stderr or name == "php"
    assert await good(programs.writes) == ""
    assert await good(programs.shows) == "kept"
    assert {entry.name for entry in await vm.list() if not entry.name.startswith(".bash")} == {"f.txt"}


async def test_a_language_that_is_not_allowed_says_so(box):
    """Those of the original run as they are; the others say what to write where."""
    from rewindbox.errors import LanguageRefused

    vm = await box.vm("one")
    with pytest.raises(LanguageRefused, match=r"perl is not allowed.*allowed_languages"):
        await vm.execute("pl", "print 1")


async def test_a_language_of_a_program(store, monkeypatch):
    """What a program gives the box stands for that box alone."""
    monkeypatch.setenv("REWINDBOX_ALLOWED_LANGUAGES", "awk")
    row = {"extension": "awk", "compile": ["cp", "{file}", "{binary}"], "run": ["awk", "-f", "{binary}"]}
    async with AsyncRewindbox(store, languages={"awk": row}) as box:
        execution = await (await box.vm("one")).execute("awk", "BEGIN { print 6 * 7 }")
        assert execution.stdout == "42\n"
    assert "awk" not in load().languages


async def test_a_language_of_the_configuration_file(store, tmp_path, monkeypatch):
    """awk, which the table does not have, runs after a few lines of TOML; so does a built-in one that is changed."""
    file = tmp_path / "config.toml"
    file.write_text(
        'allowed_languages = ["awk", "bash"]\n'
        "[languages.awk]\n"
        'aliases = ["gawk", "mawk"]\nextension = "awk"\nrun = ["{program}", "-f", "{file}"]\nprogram = "awk"\n'
        "[languages.bash]\nenvironment = { GREETING = 'hi' }\n"
    )
    monkeypatch.setenv("REWINDBOX_CONFIG", str(file))
    assert load().languages.find("gawk").name == "awk"
    text = "Run this:\n\n```gawk\nBEGIN { print 6 * 7 }\n```\n\nand\n\n```sh\necho $GREETING\n```\n"
    async with AsyncRewindbox(store) as box:
        assert [execution.stdout async for execution in box.run(text)] == ["42\n", "hi\n"]
        assert (await box.languages())["awk"].allowed
