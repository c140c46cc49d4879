"""Every backend's live sessions: variables stay from one execution to the next, and go back with the files."""
# ruff: noqa: E501  programs that are run inside stand here as they are

import base64

import anyio
import pytest

from conftest import eventually
from rewindbox.errors import BadRequest, ExecutionFailed, UnsupportedLanguage
from rewindbox.limits import Limits

pytestmark = pytest.mark.anyio


@pytest.fixture
async def session(box):
    """A python session in a new vm: x is 1, and so says the file f."""
    found = await (await box.vm("one")).session()
    await good(found, "x = 1; open('f', 'w').write('1')")
    return found


async def good(session, code: str, **options):
    """Run what must succeed."""
    execution = await session.execute(code, **options)
    assert execution.success, (execution, execution.stderr)
    return execution


async def value(session, code: str):
    """The value of an expression."""
    return (await good(session, code)).result


UNDO = {"rollback_on_failure": True}
SPOIL = "x = 99; open('f', 'w').write('99'); import ctypes, fcntl, gc, os, resource, signal, subprocess, sys\n"
WAYS = {
    "exception": ("1/0", "exit", 1, UNDO),
    "timeout": ("while True: pass", "timeout", 124, {"limits": Limits(wall_s=0.3)}),
    "exit of the process": ("os._exit(3)", "exit", 3, {}),
    "segmentation fault": ("ctypes.string_at(0)", "signal", 139, {}),
    "kill itself": ("os.kill(os.getpid(), 9)", "signal", 137, {}),
    "abort": ("os.abort()", "signal", 134, {}),
    "kill the parent": ("os.kill(os.getppid(), 9)", "exit", 1, UNDO),
    "kill the parent by handle": (
        "signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)",
        "exit",
        1,
        UNDO,
    ),
    "kill everything": ("os.kill(-1, 9); 1/0", "exit", 1, UNDO),
    "kill everything from a child": ("subprocess.run(['bash', '-c', 'kill -9 -1'])", "signal", 137, {}),
    "pkill": ("subprocess.run(['pkill', '-9', 'python'])", "signal", 137, {}),
    "limit of the parent": ("resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))", "exit", 1, UNDO),
    "signals by a file": (
        "r, w = os.pipe()\nfor c, v in ((10, 9), (8, os.getppid())):\n  try: fcntl.fcntl(r, c, v)\n  except OSError: pass\n"
        "else: 1/0",
        "exit",
        1,
        UNDO,
    ),
    "close everything": ("os.closerange(0, 65536)", "killed", 137, {}),
    "fork bomb": ("while True: os.fork()", "exit", 1, {**UNDO, "limits": Limits(wall_s=20)}),
    "fork bomb of children": (
        "while True:\n try: os.fork()\n except OSError: pass",
        "timeout",
        124,
        {"limits": Limits(wall_s=0.5)},
    ),
    "out of memory": (
        "a = [bytes(range(256)) * 4000 for _ in range(10**6)]",
        "memory",
        137,
        {"limits": Limits(memory_mib=200)},
    ),
    "flood": ("while True: print('x' * 1000)", "output", 137, {"limits": Limits(output_bytes=10_000)}),
    "deep recursion": (  # from 3.12 on python looks after its stack, and says so
        "sys.setrecursionlimit(10**9)\ndef f(): return [*map(lambda _: f(), [1])]\n"
        "try: f()\nexcept RecursionError: os.kill(os.getpid(), signal.SIGSEGV)",
        "signal",
        139,
        {},
    ),
    "no builtins": ("import builtins; vars(builtins).clear(); nothing", "exit", 1, UNDO),
    "no modules": ("sys.modules.clear(); sys.stdout = sys.stderr = None; 1/0", "exit", 1, UNDO),
    "patched session": (
        "for o in gc.get_objects():\n if type(o).__name__ in ('Process', 'Notebook'): vars(o).clear()\n1/0",
        "exit",
        1,
        UNDO,
    ),
    "every descriptor": (
        "for n in range(3, 2000):\n"
        " for do in (lambda: os.set_blocking(n, False), lambda: os.read(n, 9), lambda: os.write(n, b'junk')):\n"
        "  try: do()\n  except OSError: pass",
        "killed",
        137,
        {},
    ),
    "stop everything": (
        "for n in filter(str.isdigit, os.listdir('/proc')):\n try: os.kill(int(n), signal.SIGSTOP)\n except OSError: pass",
        "timeout",
        124,
        {"limits": Limits(wall_s=0.5)},
    ),
    "stop all pids there may be": (
        "for n in range(2, 3000):\n try: os.kill(n, signal.SIGSTOP)\n except OSError: pass",
        "timeout",
        124,
        {"limits": Limits(wall_s=1)},
    ),
}


@pytest.mark.parametrize("way", WAYS)
async def test_ways_to_die(session, way):
    """Whatever the code does to itself: it is told how it ended, and variables and files are as before."""
    code, ended, exit_code, options = WAYS[way]
    execution = await session.execute(SPOIL + code, **options)
    assert (execution.ended, execution.exit_code) == (ended, exit_code), (execution, execution.stderr[-2000:])
    assert execution.rolled_back_to == execution.before
    assert await value(session, "x, open('f').read()") == "(1, '1')"
    assert execution.before in await session.vm.live_points()


async def test_cancelled(session):
    """A caller who gives up (Ctrl-C) leaves variables and files as before."""
    with anyio.move_on_after(0.3):
        await session.execute(SPOIL + "while True: pass")
    assert await value(session, "x, open('f').read()") == "(1, '1')"
    (entry,) = (await session.vm.history(failures_only=True)).entries
    assert (entry.ended, entry.rolled_back_to) == ("killed", entry.before)


async def test_an_exception_keeps_what_was_done(session):
    """As in a notebook: what a block did before it failed stays, unless asked otherwise."""
    execution = await session.execute("x = 2\n1/0")
    assert (execution.ended, execution.exit_code, execution.rolled_back_to) == ("exit", 1, None)
    assert 'File "<main 2>", line 2' in execution.stderr
    assert "1/0" in execution.stderr
    assert await value(session, "x") == "2"


async def test_a_fork_that_falls_out_of_the_block(session):
    """Of a plain fork only the session itself goes on to the next execution."""
    await good(session, "import os\nx = 'child' if os.fork() == 0 else 'parent'")
    assert await value(session, "x") == "'parent'"


async def test_a_session_that_dies_at_rest(session):
    """Where its process ends between two executions, the next one finds what the last one left."""
    vm = session.vm
    await good(session, "x = 2\nimport os, threading\nthreading.Timer(0.05, os._exit, (1,)).start()")
    await eventually_dead(vm)
    assert await value(session, "x") == "2"


async def eventually_dead(vm) -> None:
    """Wait until no python is left that can be seen."""
    while "python3" in (await vm.execute("bash", "ps -e -o comm,stat | grep -v Z | grep -v template")).stdout:
        pass


async def test_what_comes_back(session):
    """A half-consumed generator, a file's position, a lambda, 100 MB, an object of a C extension: as they were."""
    await good(
        session,
        "import os, sqlite3\n"
        "g = (n * n for n in range(10)); next(g); next(g)\n"
        "open('lines', 'w').write('one\\ntwo\\nthree\\n'); file = open('lines'); file.readline()\n"
        "double = lambda n: n * factor\nfactor = 2\nbig = bytearray(100 << 20); big[-1] = 7\n"
        "db = sqlite3.connect(':memory:'); db.execute('create table t as select 1 as a')\n"
        "os.mkdir('deep'); os.chdir('deep')",
    )
    point = (await session.vm.snapshot("here")).point_id
    look = "next(g), file.readline(), double(3), big[-1], db.execute('select * from t').fetchall(), os.getcwd()"
    told = await value(session, look)
    assert told == "(4, 'two\\n', 6, 7, [(1,)], '/home/agent/deep')"
    await good(
        session,
        "factor = 3; big[-1] = 8; db.execute('delete from t'); os.chdir('/'); os.rename('/home/agent/lines', '/tmp/l')",
    )
    for _ in range(2):
        rollback = await session.vm.rollback(point)
        assert (rollback.sessions, rollback.lost) == (("main",), ())
        assert await value(session, look) == told


async def test_randomness(session):
    """After a rollback pseudo-random numbers go on as they would have; what the kernel gives is always fresh."""
    await good(session, "import random, os; random.seed(7); random.random()")
    point = (await session.vm.history()).entries[0].after
    seen = [await value(session, "random.random(), random.Random(3).random()")]
    fresh = [await value(session, "os.urandom(8)")]
    for _ in range(3):
        await session.vm.rollback(point)
        seen.append(await value(session, "random.random(), random.Random(3).random()"))
        fresh.append(await value(session, "os.urandom(8)"))
    assert len(set(seen)) == 1
    assert len(set(fresh)) == 4


async def test_a_module_called_random(session):
    """A file of the code that has the name of a module is no reason to leave no checkpoint; nor is gc, which stays off."""
    await good(session, "open('random.py', 'w').write('number = 4'); import random, gc; gc.disable()")
    point = (await good(session, "x = random.number")).after
    await good(session, "x = 5")
    await session.vm.rollback(point)
    assert await value(session, "x, gc.isenabled()") == "(4, False)"


async def test_threads_and_children_live_on(session):
    """Threads, children and event loops go on between executions; a rollback ends them, and says so."""
    before = (await session.vm.history()).entries[0].after
    await good(
        session,
        "import asyncio, subprocess, threading\nbox = []; go = threading.Event()\n"
        "thread = threading.Thread(target=lambda: (go.wait(), box.append(1)), daemon=True); thread.start()\n"
        "child = subprocess.Popen(['cat'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "task = asyncio.ensure_future(asyncio.sleep(0.01, 'slept')); await asyncio.sleep(0)",
    )
    await good(session, "go.set(); thread.join()\nchild.stdin.write(b'hello'); child.stdin.close()")
    assert await value(session, "box, child.stdout.read(), child.wait(), await task") == "([1], b'hello', 0, 'slept')"
    await good(session, "threading.Thread(target=threading.Event().wait).start(); subprocess.Popen(['sleep', '1000'])")
    rollback = await session.vm.rollback(before)
    assert any("1 thread" in text for text in rollback.gone)
    assert any("sleep" in text for text in rollback.gone)
    assert "sleep" not in (await session.vm.execute("bash", "ps -e")).stdout


async def test_cpu_time_of_children(session):
    """What a child uses is told once, of the execution during which it did, and not of the one that waits for it."""
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    await good(session, f"import subprocess; p = subprocess.Popen(['python3', '-c', {burn!r}], stdout=-1)")
    assert (await good(session, "p.stdout.read()")).cpu_s < 1
    assert (await good(session, "p.wait()")).cpu_s < 0.3


async def test_an_end_of_file_arrives(session):
    """A checkpoint keeps no end of a pipe or connection open that the session closes."""
    await good(
        session,
        "import os, socket, subprocess\nchild = subprocess.Popen(['cat'], stdin=subprocess.PIPE)\n"
        "server = socket.create_server(('127.0.0.1', 0)); a = socket.create_connection(server.getsockname())\n"
        "b, _ = server.accept()",
    )
    await good(session, "pass")
    assert await value(session, "child.stdin.close(); a.close(); child.wait(10), b.recv(1)") == "(0, b'')"


async def test_displays(session):
    """The last expression and what is shown come back as MIME bundles, now and from history."""
    code = "class T:\n def _repr_html_(self): return '<b>t</b>'\n def __repr__(self): return 'T'\ndisplay(T())\n[1, 2]"
    execution = await good(session, code)
    shown, result = execution.displays
    assert (shown["kind"], shown["data"]) == ("display", {"text/plain": "T", "text/html": "<b>t</b>"})
    assert (result["kind"], result["data"]) == ("result", {"text/plain": "[1, 2]"})
    assert (await session.vm.history()).entries[0] == execution


async def test_numpy_pandas_matplotlib(session):
    """Arrays, tables and figures come back as MIME bundles; numpy's random numbers go back; nothing is said to be lost."""
    if not (await session.execute("import matplotlib.pyplot as plt, numpy as np, pandas as pd")).success:
        pytest.skip(
            "the host's python3 has no numpy, pandas and matplotlib (apt install python3-matplotlib python3-pandas)"
        )
    await good(session, "np.random.seed(1); rng = np.random.default_rng(2); a = np.random.rand(300, 300); b = a @ a")
    point = (await good(session, "plt.plot([1, 2]); pd.DataFrame({'a': [1]})")).after
    shown = {kind: data for d in (await session.vm.history()).entries[0].displays for kind, data in d["data"].items()}
    assert base64.b64decode(shown["image/png"]).startswith(b"\x89PNG")
    assert "<table" in shown["text/html"]
    told = await value(session, "np.random.rand(), rng.random(), float((a @ a - b).sum())")
    await good(session, "a[:] = 0")
    rollback = await session.vm.rollback(point)
    assert (rollback.sessions, rollback.gone) == (("main",), ())
    assert await value(session, "np.random.rand(), rng.random(), float((a @ a - b).sum())") == told


async def test_input_is_refused(session):
    """Nobody can be asked, and the error says so."""
    execution = await session.execute("input('name? ')")
    assert execution.exit_code == 1
    assert "input() has nobody to ask" in execution.stderr


async def test_sessions_of_one_vm(session):
    """Sessions have names and variables of their own, share files, and go back together."""
    other = await session.vm.session(name="other")
    await good(other, "x = 'other'; open('f', 'w').write('2')")
    point = (await session.vm.history()).entries[0].after
    await good(session, "x = 5; open('f').read()")
    await good(other, "x = 6")
    assert (await other.execute("import os; os._exit(1)")).rolled_back_to
    assert (await value(session, "x"), await value(other, "x")) == ("5", "6")
    rollback = await session.vm.rollback(point)
    assert set(rollback.sessions) == {"main", "other"}
    assert (await value(session, "x, open('f').read()"), await value(other, "x")) == ("(1, '2')", "'other'")


async def test_jobs_beside_a_session(session):
    """Other executions of the vm cannot end a session or its checkpoints; what they start dies, as always."""
    await good(session, "import subprocess; child = subprocess.Popen(['sleep', '1000'])")
    points = await session.vm.live_points()
    done = await session.vm.execute(
        "bash",
        "(setsid sleep 2000 &) ; for n in $(seq 2 400); do [ $n = $$ ] || kill -STOP $n; done; kill -9 -1; echo alive",
    )
    assert "alive" in done.stdout
    assert await session.vm.live_points() == points | {done.after}
    assert await value(session, "x") == "1"
    await good(session, "import subprocess; child = subprocess.Popen(['sleep', '1000'])")
    await session.vm.execute("bash", "(setsid sleep 2000 &)")
    assert (await session.vm.execute("bash", "pgrep -x sleep | wc -l")).stdout == "1\n"
    assert await value(session, "child.poll() is None") == "True"


@pytest.mark.parametrize("kind", ["session", "job"])
async def test_files_signal_only_who_asks(session, kind):
    """With sessions in the vm a program's files may signal the program, and no other process or group."""
    code = "import fcntl, os\nfile, _ = os.pipe()\ndef owned(by):\n  try: return fcntl.fcntl(file, fcntl.F_SETOWN, by)\n  except OSError as e: return e.errno\n"
    code += "print([owned(by) for by in (os.getpid(), os.getppid() or 1, -os.getpgrp(), 0, 1, -1)])"
    done = await (session.execute(code) if kind == "session" else session.vm.execute("python", code))
    assert done.stdout == "[0, 1, 1, 0, 1, 1]\n"


async def test_points_that_are_kept(box, session):
    """Only the newest points keep variables, and those that were given a name; the others have files."""
    vm, count = session.vm, box.settings.session_checkpoints
    await vm.snapshot("named")
    points = [(await good(session, f"x = {n}; open('f', 'w').write('{n}')")).after for n in range(count + 5)]
    live = await vm.live_points()
    assert set(points[-count:]) <= live
    assert not set(points[:4]) & live
    rollback = await vm.rollback(points[0])
    assert (rollback.sessions, rollback.lost) == ((), ("main",))
    assert (await vm.read("f")) == b"0"
    assert "NameError" in (await session.execute("x")).stderr
    assert (await vm.rollback("named")).sessions == ("main",)
    assert await value(session, "x, open('f').read()") == "(1, '1')"


async def test_memory_of_checkpoints(store, monkeypatch):
    """Checkpoints that take too much together go, the oldest first; the newest stays."""
    from rewindbox import AsyncRewindbox

    monkeypatch.setenv("REWINDBOX_SESSION_CHECKPOINTS_MIB", "100")
    async with AsyncRewindbox(store, limits=Limits(memory_mib=2000)) as box:
        session = await (await box.vm("one")).session()
        points = [(await good(session, f"x = bytes([{n}]) * (40 << 20)")).after for n in range(5)]

        async def live() -> list[str]:
            found = await session.vm.live_points()
            return [point for point in points if point in found]

        while len(await live()) > 2:
            await anyio.sleep(0.01)
        assert await live() == points[-2:]


async def test_a_vm_that_stopped(box, session):
    """Variables end with the processes of the vm; files stay, and a rollback says that variables are gone."""
    point = (await session.vm.history()).entries[0].after
    await session.vm.stop()
    assert await session.vm.live_points() == frozenset()
    assert (await session.vm.rollback(point)).lost == ("main",)
    assert "NameError" in (await session.execute("x")).stderr
    assert await value(session, "open('f').read()") == "'1'"


async def test_rebuilt(session):
    """When asked, a session that is gone is made anew on the point's files, and differences are told."""
    vm = session.vm
    await good(session, "x += 1; print(x)")
    await session.execute("x = 99; import os; os._exit(1)")
    last = await good(session, "import os; y = os.urandom(4); open('f', 'a').write('more'); x + 1")
    await good(session, "y")
    point = (await good(session, "z = x, open('f').read()")).after
    await vm.execute("bash", "echo other > f")
    await vm.stop()
    rollback = await vm.rollback(point, rebuild=True)
    (rebuilt,) = rollback.rebuilt
    assert (rollback.lost, rebuilt.session, rebuilt.executions) == ((), "main", 5)
    assert len(rebuilt.differences) == 1
    assert "has another result now" in rebuilt.differences[0]
    assert last.id not in rebuilt.differences[0]
    assert await value(session, "x, open('f').read()") == "(2, '1more')"
    again = await vm.rollback(point, rebuild=True)
    assert again.rebuilt[0].executions == 5


async def test_closed(session):
    """A session that was closed begins anew; its points can still be gone back to."""
    point = (await session.vm.history()).entries[0].after
    await session.close()
    await session.close()
    assert "NameError" in (await session.execute("x")).stderr
    assert (await session.vm.rollback(point)).sessions == ("main",)
    assert await value(session, "x") == "1"


async def test_closed_for_good(session):
    """What undoes a later failure does not bring a closed session back."""
    await session.close()
    await session.vm.execute("bash", "touch g; exit 1", rollback_on_failure=True)
    await session.execute("y = 1; import os; os._exit(1)")
    assert "NameError" in (await session.execute("x")).stderr


async def test_names_are_of_a_language(session):
    """A python and a bash session of one name have nothing to do with each other; each can be closed."""
    bash = await session.vm.session("bash")
    await good(bash, "y=1")
    await bash.close()
    assert (await good(bash, "echo .$y")).stdout == ".\n"
    assert await value(session, "x") == "1"


async def test_a_file_mapped_for_writing(session):
    """What is written to a file through memory is in the next point, though the file's times do not show it."""
    await good(
        session,
        "import mmap\nopen('m', 'wb').write(bytes(4096))\nfile = open('m', 'r+b'); m = mmap.mmap(file.fileno(), 4096)",
    )
    points = [(await good(session, f"m[0] = {n}")).after for n in (1, 2, 3)]
    for n, point in ((3, points[2]), (1, points[0]), (2, points[1])):
        await session.vm.rollback(point)
        assert await session.vm.read("m") == bytes([n]) + bytes(4095)


async def test_a_big_vm(session):
    """Where points are layers, sessions stay in their folder, and go back with it."""
    await good(
        session,
        "import os\nos.mkdir('many'); os.chdir('many')\nfor n in range(300): open(f'{n}', 'w').write('x' * 20000)",
    )
    point = (await session.vm.history()).entries[0].after
    assert (
        await value(session, "open('new', 'w').write('n'); os.getcwd(), len(os.listdir())")
        == "('/home/agent/many', 301)"
    )
    await session.vm.rollback(point)
    assert await value(session, "os.getcwd(), len(os.listdir())") == "('/home/agent/many', 300)"


async def test_a_file_open_for_writing(session):
    """A file that stays open for writing is no reason for a broken point."""
    await good(session, "file = open('big', 'wb'); file.write(bytes(5 << 20)); file.flush()")
    point = (await session.vm.history()).entries[0].after
    await good(session, "file.write(b'more'); file.flush(); open('other', 'w').close()")
    await session.vm.rollback(point)
    assert await value(session, "import os; os.path.getsize('big'), os.path.exists('other')") == f"({5 << 20}, False)"


async def test_names_that_are_gone_beside_a_file_open_for_writing(session):
    """Files of an older point that were deleted since, while something stays open for writing: no broken point."""
    await good(
        session, "import os; os.mkdir('t'); os.chdir('t')\nfor name in 'abc': open(name, 'wb').write(bytes(1 << 20))"
    )
    await good(session, "file = open('log', 'w'); os.remove('a'); os.remove('b'); os.mkdir('d')")
    point = (await session.vm.history()).entries[0].after
    await good(session, "os.remove('c'); os.rmdir('d'); file.write('x'); file.flush()")
    assert await value(session, "sorted(os.listdir())") == "['log']"
    await session.vm.rollback(point)
    assert await value(session, "sorted(os.listdir())") == "['c', 'd', 'log']"


async def test_bash_sessions(box):
    """A bash session keeps variables, functions, options and directory; they go back with the files."""
    vm = await box.vm("one")
    session = await vm.session("bash")
    await good(session, "x=1; f() { echo f$x; }; shopt -s extglob; mkdir d; cd d")
    point = (await good(session, "x=2")).after
    assert (await good(session, "x=3; f; pwd; shopt -q extglob")).stdout == "f3\n/home/agent/d\n"
    await vm.rollback(point)
    assert (await good(session, "f")).stdout == "f2\n"
    assert (await session.execute("x=9; sleep 100", timeout_seconds=0.3)).ended == "timeout"
    assert (await good(session, "f")).stdout == "f2\n"


async def test_a_text_in_a_session(box):
    """The blocks of an answer share their variables when asked to."""
    text = "```python\nx = 20\n```\n```bash\ny=1\n```\n```python\nprint(x + 1)\n```\n```bash\necho y$y\n```\n"
    assert [e.stdout async for e in box.run(text, session=True)] == ["", "", "21\n", "y1\n"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"stdin": b"x"}, BadRequest),
        ({"environment": {"A": "b"}}, BadRequest),
        ({"working_dir": "/tmp"}, BadRequest),
        ({"limits": Limits(processes=7)}, BadRequest),
    ],
)
async def test_what_a_session_cannot_do(session, options, error):
    """An execution in a live session is refused what it cannot have; nothing ran."""
    with pytest.raises(error):
        await session.execute("x = 2", **options)
    assert await value(session, "x") == "1"


async def test_languages_without_sessions(box):
    """JavaScript has none yet, and says so."""
    with pytest.raises(UnsupportedLanguage, match="no sessions yet"):
        await (await box.vm("one")).session("javascript")


async def test_a_session_beyond_recovery(session, monkeypatch):
    """A session that died at rest before a checkpoint was taken says that it is gone; it does not begin silently."""
    await session.execute("import os\nos.register_at_fork(before=lambda: os._exit(1))")
    with pytest.raises(ExecutionFailed, match="variables are gone"):
        await session.execute("x")
    assert "NameError" in (await session.execute("x")).stderr


async def test_nothing_is_left(backend, session):
    """When a vm stops, checkpoints and template go with it."""
    from conftest import members, namespace

    running = session.vm._standing.running
    inside = await namespace(running)
    assert len(members(inside)) > 3
    await session.vm.stop()
    await eventually(lambda: not members(inside), "the vm's processes are gone")
