"""Every backend gives code the same surroundings, and runs every language of the table."""

import json

import pytest

from conftest import data, needs, out, run

pytestmark = pytest.mark.anyio

HELLO = {
    "python": "print('hello')",
    "javascript": "console.log('hello')",
    "bash": "echo hello",
    "rust": 'fn main() { println!("hello"); }',
}
FAILS = {
    "python": "raise SystemExit(3)",
    "javascript": "process.exit(3)",
    "bash": "exit 3",
    "rust": "fn main() { std::process::exit(3) }",
}
BROKEN = {
    "python": "def (",
    "javascript": "let let = ;",
    "bash": "if then fi (",
    "rust": 'fn main() { let x: u8 = "no"; }',
}


@pytest.mark.parametrize("language", HELLO)
async def test_hello(backend, vm, language):
    """Every language runs."""
    needs(backend, language)
    assert await out(vm, HELLO[language], language) == "hello\n"


@pytest.mark.parametrize("language", FAILS)
async def test_a_failing_program(backend, vm, language):
    """A program's own exit code comes back, in every language."""
    needs(backend, language)
    outcome = await run(vm, FAILS[language], language)
    assert (outcome.ended, outcome.exit_code) == ("exit", 3)


@pytest.mark.parametrize("language", BROKEN)
async def test_code_that_is_not_code(backend, vm, language):
    """What the language refuses is a failed execution with its words, not an error of ours."""
    needs(backend, language)
    outcome = await run(vm, BROKEN[language], language)
    assert (outcome.ended, outcome.exit_code != 0) == ("exit", True)
    assert outcome.stderr


async def test_surroundings(vm):
    """Home, folder, user, language, timezone, mask and terminal are as documented."""
    code = """
import json, os, pwd, socket, sys, time
environ = {name: os.environ.get(name) for name in ("HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "PATH")}
mask = os.umask(0)
try:
    os.open("/dev/tty", os.O_RDWR); terminal = True
except OSError:
    terminal = False
print(json.dumps({
    **environ, "cwd": os.getcwd(), "uid": os.getuid(), "name": pwd.getpwuid(os.getuid()).pw_name,
    "host": socket.gethostname(), "mask": mask, "terminal": terminal, "stdin": sys.stdin.read(),
    "zone": time.tzname[0], "encoding": sys.stdout.encoding, "leader": os.getsid(0) == os.getpid(),
}))"""
    told = json.loads(await out(vm, code, "python"))
    path = told.pop("PATH").split(":")
    assert {"/usr/bin", "/bin", "/usr/local/bin"} <= set(path)
    assert told == {
        "HOME": "/home/agent",
        "USER": "agent",
        "LOGNAME": "agent",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "TMPDIR": "/tmp",
        "cwd": "/home/agent",
        "uid": 1000,
        "name": "agent",
        "host": "rewindbox",
        "mask": 0o022,
        "terminal": False,
        "stdin": "",
        "zone": "UTC",
        "encoding": "utf-8",
        "leader": True,
    }


async def test_usual_tools_work(vm):
    """Temporary files, pipes, process substitution, archives, loopback and name lookup work as anywhere."""
    code = """
set -e
f=$(mktemp); echo x > "$f"; cat "$f"
diff <(echo a) <(echo a)
mkdir d; echo y > d/y; tar cf - d | tar tf -
python3 - <<'END'
import socket, threading, tempfile, multiprocessing
server = socket.create_server(("localhost", 0))
threading.Thread(target=lambda: server.accept()[0].sendall(b"loop")).start()
print(socket.create_connection(server.getsockname()).recv(9).decode())
with tempfile.TemporaryFile() as file: file.write(b"z")
print(sum(multiprocessing.Pool(2).map(abs, [-1, -2])))
END
ls /dev/fd/0 /dev/stdin > /dev/null
test -w /tmp && test -w /dev/shm && test -w /var/tmp && test -w /etc && echo writable
"""
    assert await out(vm, code) == "x\nd/\nd/y\nloop\n3\nwritable\n"


async def test_javascript_has_its_names_to_itself(backend, vm):
    """A script may call its variables as it likes, declared or not; nothing is global that a file would not have."""
    needs(backend, "javascript")
    own = "p = []; for (m in [1]) f = r = g = d = n = k = M = m;"
    told = await out(
        vm, own + "console.log(typeof fs, typeof globalThis.require, typeof require('fs'), M)", "javascript"
    )
    assert told == "undefined undefined object 0\n"
    assert await out(vm, "console.log(require.main === module, __dirname)", "javascript") == "true /home/agent\n"


async def test_files_stay_from_job_to_job(vm):
    """What a job leaves in the vm's files is there for the next one; memory and shared memory are not."""
    await out(vm, "echo kept > kept; echo x > /tmp/kept; echo x > /dev/shm/gone; export GONE=1")
    assert await out(vm, "cat kept /tmp/kept; ls /dev/shm; echo $GONE") == "kept\nx\n\n"


async def test_odd_strings_come_through(vm):
    """Strings that break programs go in as environment, stdin, code and file names, and out again."""
    strings = [text for text in json.loads(data("text-blns/blns.json").read_text()) if "\0" not in text]
    environment = {f"V{number}": text for number, text in enumerate(strings)}
    code = (
        "import json, os, sys\nstdin = json.load(sys.stdin)\n"
        "print(json.dumps([os.environ[f'V{n}'] for n in range(len(stdin))]))\n"
        "print(json.dumps(stdin), file=sys.stderr)"
    )
    outcome = await run(vm, code, "python", environment=environment, stdin=json.dumps(strings).encode())
    assert json.loads(outcome.stdout) == strings
    assert json.loads(outcome.stderr) == strings
    told = await run(vm, "cat", stdin="\n".join(strings).encode())
    assert told.stdout.decode() == "\n".join(strings)
    literal = await out(vm, "import json\nprint(json.dumps([\n" + ",\n".join(map(repr, strings)) + "]))", "python")
    assert json.loads(literal) == strings


async def test_streams_have_names(vm):
    """/dev/stdout and /dev/stderr can be opened and written to, as scripts do."""
    outcome = await run(vm, "echo said > /dev/stdout; echo told > /dev/stderr; echo more | tee /dev/stderr")
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (0, b"said\nmore\n", b"told\nmore\n")
