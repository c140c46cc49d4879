"""What code inside lays out for whoever reads and writes its files from outside: nothing of the host is ever touched.

Each case on a host with openat2 and on one that refuses it.
"""
# ruff: noqa: E501  programs that are run inside stand here as they are

import contextlib
import errno
import itertools
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from refusing import OPENAT2, boot

import skeletons
from conftest import FULL, boot_after, eventually, out, remove, run, scaled
from rewindbox import backends
from rewindbox.backends.namespace import starting
from rewindbox.errors import BadRequest

pytestmark = pytest.mark.anyio
BIG = 1 << 30
SECRET = b"the host's own"


@pytest.fixture(scope="module", params=[None, errno.EPERM], ids=["openat2", "on-foot"])
async def backend(request, anyio_backend, vms_folder):
    """Backends that open files by either way."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param is not None:
            patch.setattr(starting, "_BOOT", boot(OPENAT2, request.param))
        made = backends.load("namespace", str(vms_folder))
        made.warm()
    yield made
    await made.close()


@pytest.fixture
def canary(tmp_path):
    """A file of the host that everybody may write, in a folder likewise; both as they were when the test is over."""
    path = tmp_path / "canary"
    path.write_bytes(SECRET)
    path.chmod(0o666)
    tmp_path.chmod(0o777)
    before = path.stat()
    yield path
    assert path.read_bytes() == SECRET
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert sorted(os.listdir(tmp_path)) == ["canary"]


@dataclass(frozen=True, kw_only=True)
class Lure:
    """Something made inside (python, in the vm's home), and paths that lead into it. `@` stands for the canary."""

    id: str
    code: str
    paths: tuple[str, ...]
    reads: bytes | None = None
    """What reading gives; None: it is refused."""


LURES = (
    Lure(
        # The kernel follows forty; a walk that it begins anew, as where names change meanwhile, counts on from there.
        id="many-links",
        code="open('end', 'w').write('x')\nfor n in range(13): os.symlink(f'l{n - 1}' if n else 'end', f'l{n}')",
        paths=("l12",),
        reads=b"x",
    ),
    Lure(
        id="too-many-links",
        code="open('end', 'w').write('x')\nfor n in range(41): os.symlink(f'l{n - 1}' if n else 'end', f'l{n}')",
        paths=("l40", "l40/x"),
    ),
    Lure(
        id="link-loops",
        code="os.symlink('a', 'b'); os.symlink('b/x', 'a'); os.symlink('self/self', 'self'); os.symlink('/home/agent/here', 'here')",
        paths=("a", "b", "self", "here", "here/x", "a/../b"),
    ),
    Lure(
        id="links-that-multiply",
        code="""
os.mkdir('d')
for n in range(12): os.symlink('/'.join([f'd/../l{n - 1}' if n else 'd/..'] * 300)[:4000].rstrip('/.'), f'l{n}')""",
        paths=("l11/x", "l11", "l6"),
    ),
    Lure(
        id="links-to-the-host",
        code="os.symlink('@', 'out'); os.symlink(os.path.dirname('@'), 'folder'); os.symlink('/..' * 30 + '@', 'up'); os.symlink('../' * 30 + '@'[1:], 'more')",
        paths=("out", "folder/canary", "up", "more", "./folder/./canary", "folder/../" + "../" * 20 + "@"),
    ),
    Lure(
        id="magic-links",
        code="""
for n, t in enumerate(('/proc/self/root@', '/proc/1/root@', '/proc/self/cwd/x', '/proc/1/cwd@', '/proc/thread-self/root@', '/proc/self/exe', '/proc/1/exe',
        '/proc/self/fd/0', '/proc/self/fd/1', '/proc/1/fd/3', '/proc/self/fd/3', '/proc/self/map_files', '/proc/self/ns/mnt', '/dev/fd/0', '/dev/fd/3', '/proc/self/task/1/root@')):
    os.symlink(t, f'l{n}')""",
        paths=tuple(f"l{n}" for n in range(16)),
    ),
    Lure(
        id="devices",
        code="""
for n, t in enumerate(('/dev/zero', '/dev/full', '/dev/random', '/dev/tty', '/dev/ptmx', '/dev/pts/ptmx', '/dev/stdout', '/dev/shm', '/proc/kmsg', '/proc/self/mem', '/proc/sysrq-trigger')):
    os.symlink(t, f'l{n}')""",
        paths=tuple(f"l{n}" for n in range(11)),
    ),
    Lure(
        id="pipes-and-sockets",
        code="""
import socket
os.mkfifo('pipe'); socket.socket(socket.AF_UNIX).bind('socket'); os.symlink('pipe', 'l0'); os.symlink('socket', 'l1'); os.mkdir('d'); os.link('pipe', 'd/hard')""",
        paths=("pipe", "socket", "l0", "l1", "d/hard", "d"),
    ),
    Lure(
        id="a-file-as-folder",
        code="open('f', 'w').close(); os.symlink('f/', 'l')",
        paths=("f/", "f/.", "f/..", "f/x", "f/../f", "l", "l/"),
    ),
    Lure(
        id="an-empty-sparse-giant",
        code="open('giant', 'wb').truncate(1 << 31)",
        paths=("giant",),
    ),
)


@pytest.mark.parametrize("lure", LURES, ids=lambda lure: lure.id)
async def test_lures(vm, canary, lure):
    """Reading what is laid out is refused or gives what is inside; writing changes nothing of the host."""
    await out(vm, "import os\n" + lure.code.replace("@", str(canary)), "python")
    for path in (name.replace("@", str(canary)) for name in lure.paths):
        with anyio.fail_after(60):
            if lure.reads is not None:
                assert await vm.read(path, BIG) == lure.reads
                continue
            with pytest.raises(BadRequest):
                await vm.read(path, BIG)
            with contextlib.suppress(BadRequest):  # where it goes to the same place inside, or a file is made there
                await vm.write(path, b"x")
            with contextlib.suppress(BadRequest):
                await vm.list(path)
    assert await out(vm, "echo fine") == "fine\n"


UNDEFENDED = boot_after(
    "import os, stat; from rewindbox.backends.namespace import files, paths; "
    "paths.open_in = lambda root, path, flags, mode=0, how=0: os.open(path.lstrip('/') or '.', flags, mode, dir_fd=root); "
    "files.stat = type('Trusting', (), dict(vars(stat), S_ISREG=lambda mode: True))"
)
"""Boot code of a launcher whose supervisors open paths as everybody does, and take whatever it is that was opened."""


@pytest.fixture
async def undefended(tmp_path, monkeypatch):
    """A vm of such a supervisor, and a canary where that can see it: it has a /tmp of its own."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    folder.chmod(0o755)
    (folder / "canary").write_bytes(SECRET)
    (folder / "canary").chmod(0o666)
    monkeypatch.setattr(starting, "_BOOT", UNDEFENDED)
    made = backends.load("namespace", str(skeletons.lend(tmp_path / "vms")))
    yield await made.create("vm_control"), folder / "canary"
    await made.close()
    remove(tmp_path / "vms")
    shutil.rmtree(folder)


async def test_lures_are_lures(undefended):
    """Where paths are opened as everybody opens them, links lead to the host, by reading and by writing."""
    vm, canary = undefended
    for lure in (lure for lure in LURES if lure.id == "links-to-the-host"):
        await out(vm, "import os\n" + lure.code.replace("@", str(canary)), "python")
        for path in ("out", "folder/canary", "folder/../" + "../" * 20 + str(canary)):
            assert await vm.read(path, BIG) == SECRET
    with contextlib.suppress(BadRequest):  # of a file of somebody else's the mode cannot be set, afterwards
        await vm.write("out", b"broke")
    assert canary.read_bytes() in (b"broke", b"")


SWAPS = {
    "folder-for-link": """
def lay(): os.mkdir('x'); open('x/canary', 'w').write('inside'); os.symlink(host, 'l')
def swap(): os.rename('x', 'y'); os.rename('l', 'x'); os.rename('x', 'l'); os.rename('y', 'x')""",
    "exchanged": """
import ctypes, platform
def lay(): os.mkdir('x'); open('x/canary', 'w').write('inside'); os.symlink(host, 'l')
number, libc = {'x86_64': 316, 'aarch64': 276}[platform.machine()], ctypes.CDLL(None)
def swap():
    for _ in range(100):
        if libc.syscall(number, -100, b'x', -100, b'l', 2): raise OSError""",
    "file-for-link": """
def lay(): os.mkdir('x'); os.symlink(host + '/canary', 'l'); open('f', 'w').write('inside')
def swap(): os.rename('f', 'x/canary'); os.rename('x/canary', 'f'); os.rename('l', 'x/canary'); os.rename('x/canary', 'l')""",
    "file-for-pipe": """
import socket
def lay():
    os.mkdir('x'); os.mkfifo('p'); socket.socket(socket.AF_UNIX).bind('s'); open('f', 'w').write('inside')
    readers.append(os.open('p', os.O_RDONLY | os.O_NONBLOCK)); readers[:-1] = []
readers = []
def swap():
    for name in 'fps': os.rename(name, 'x/canary'); os.rename('x/canary', name)""",
    "up-and-down": """
def lay(): os.makedirs('x/deep/deeper'); open('x/canary', 'w').write('inside'); os.symlink(host, 'l')
def swap():
    os.rename('x/deep/deeper', 'moved'); os.rename('x', 'y'); os.rename('l', 'x'); os.rename('x', 'l'); os.rename('y', 'x')
    os.rename('moved', 'x/deep/deeper')""",
    "deleted-and-made": """
def lay(): os.symlink(host, 'l')
def swap():
    os.mkdir('x'); open('x/canary', 'w').write('inside'); shutil.rmtree('x')
    os.link('l', 'x', follow_symlinks=False); os.unlink('x')""",
}
"""What is there at first, and how it is changed without pause."""

SWAPPING = """
import os, shutil
host = {host!r}
{swap}
def clear():
    for name in os.listdir():
        try: shutil.rmtree(name) if os.path.isdir(name) and not os.path.islink(name) else os.unlink(name)
        except OSError: pass
lay()
print("x", flush=True)
while True:
    try: swap()
    except OSError:  # a verb from outside made something where it was not expected
        try: clear(); lay()
        except OSError: pass
"""


@contextlib.asynccontextmanager
async def swapping(vm, swap: str, host: Path):
    """Code in the vm that swaps as fast as it can, from the first line of the block to its last."""
    code = SWAPPING.format(host=str(host), swap=SWAPS[swap])
    started, outcomes = anyio.Event(), []

    async def go_on():
        outcomes.append(await run(vm, code, "python", wall_s=600, cpu_s=600, on_output=lambda *_: started.set()))

    async with anyio.create_task_group() as group:
        group.start_soon(go_on)
        await started.wait()
        with anyio.fail_after(120):
            yield
        await vm.cancel()
    assert outcomes[0].ended == "killed", outcomes  # it swapped until the end


@pytest.mark.parametrize("swap", SWAPS)
async def test_swapped_at_full_speed(vm, canary, swap):
    """However often and whenever a folder becomes a link, a verb gets what is inside, or is refused."""
    seen = {"inside": 0, "refused": 0}
    async with swapping(vm, swap, canary.parent):
        for number in itertools.count():
            if number >= scaled(400) and min(seen.values()) > 0:  # who is faster differs from machine to machine
                break
            for path in ("x/canary", "x/deep/../canary", "x/deep/deeper/../../canary", "x/../x/canary"):
                with contextlib.suppress(BadRequest):
                    assert SECRET not in await vm.read(path, BIG)
                    seen["inside"] += 1
                    continue
                seen["refused"] += 1
            with contextlib.suppress(BadRequest):
                await vm.write("x/canary" if number % 2 else f"x/new{number % 9}", b"written")
            with contextlib.suppress(BadRequest):
                await vm.list("x")
    assert await out(vm, "echo fine") == "fine\n"


@pytest.mark.parametrize("swap", SWAPS)
async def test_swaps_reach_the_host(undefended, swap):
    """Where paths are opened as everybody opens them, each of the swaps gets a reader out, sooner or later.

    The one without a link has nothing to lead out with: it gets its pipe taken for a file, which reads as empty.
    """
    vm, canary = undefended
    wanted = b"" if swap == "file-for-pipe" else SECRET
    async with swapping(vm, swap, canary.parent):
        while True:
            with contextlib.suppress(BadRequest):
                if await vm.read("x/canary", BIG) == wanted:
                    break


async def test_entries_that_come_and_go(vm):
    """A folder whose entries come and go is listed, with those that are there."""
    code = "import os\nos.mkdir('d')\nopen('d/stays', 'w').close()\nprint('x', flush=True)\nwhile True:\n    for n in range(50): os.mknod(f'd/{n}')\n    for n in range(50): os.unlink(f'd/{n}')"
    started = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: run(vm, code, "python", on_output=lambda *_: started.set()))
        await started.wait()
        for _ in range(scaled(300)):
            assert "stays" in [entry.name for entry in await vm.list("d")]
        await vm.cancel()


async def test_a_file_that_changes_its_size(vm):
    """A file that grows and shrinks while it is read gives some of its bytes, at most as many as allowed."""
    code = "import os\nf = open('f', 'wb', 0)\nprint('x', flush=True)\nwhile True:\n    f.truncate(0); f.truncate(60_000); os.pwrite(f.fileno(), b'y' * 3000, 57_000)"
    started = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: run(vm, code, "python", on_output=lambda *_: started.set()))
        await started.wait()
        for _ in range(scaled(500)):
            data = await vm.read("f", 60_000)
            assert len(data) <= 60_000 and set(data) <= {0, ord("y")}
            with contextlib.suppress(BadRequest):
                assert len(await vm.read("f", 1000)) <= 1000
        await vm.cancel()


async def test_a_file_with_a_lease(vm):
    """Code that would be asked before its file is opened does not make us wait."""
    code = "import fcntl, signal, time\nsignal.signal(signal.SIGIO, signal.SIG_IGN)\nf = open('f', 'w')\nf.close()\nf = open('f')\ntry: fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_RDLCK)\nexcept OSError: pass\nprint('x', flush=True)\ntime.sleep(1000)"
    started = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: run(vm, code, "python", on_output=lambda *_: started.set()))
        await started.wait()
        with anyio.fail_after(20):
            with contextlib.suppress(BadRequest):
                await vm.write("f", b"x")
            with contextlib.suppress(BadRequest):
                await vm.read("f", BIG)
        await vm.cancel()


async def test_hard_links(vm):
    """Writing to one of a file's names changes it under all of them, and nothing else; a program of the host has no second name."""
    told = await out(
        vm,
        "echo old > a; ln a b; mkdir d; ln a d/c; for f in /usr/bin/env /etc/../usr/bin/python3 /proc/self/exe /dev/null; do ln -L $f stolen 2>/dev/null && echo stolen $f; done; true",
    )
    assert told == ""
    await vm.write("d/c", b"new")
    assert await vm.read("a", BIG) == await vm.read("b", BIG) == b"new"


async def test_no_bits_of_privilege_stay(vm):
    """A file that is written over loses set-uid and set-gid, whatever it was, and what is asked for."""
    await out(vm, "echo x > f; chmod 6777 f; ln f g; mkdir d; chmod 6777 d")
    await vm.write("f", b"y", 0o7777)
    await vm.write("d/new/er", b"y", 0o7755)
    told = await out(vm, "stat -c '%n %a' f g d/new d/new/er")
    assert all(int(line.split()[1], 8) & stat.S_ISUID == 0 for line in told.splitlines()), told
    assert told.startswith("f 777\ng 777\n")


async def test_a_deep_tree(backend, vm, canary):
    """A tree of 10,000 folders in each other (100,000 in full), a link out at its end, is kept, left and deleted."""
    code = f"""
import os
for n in range({100_000 if FULL else 10_000}): os.mkdir("d"); os.chdir("d")
os.symlink({str(canary.parent)!r}, "out"); open("f", "w").close()"""
    before = (await vm.take_point()).state
    await out(vm, code, "python", wall_s=120)
    assert [entry.name for entry in await vm.list("d/d")] == ["d"]
    assert [entry.name for entry in await vm.list("d/" * 1900)] == ["d"]
    with pytest.raises(BadRequest):
        await vm.read("d/" * 1990 + "f", BIG)
    deep = (await vm.take_point()).state
    await vm.go_to(before)
    assert await vm.list(".") == []
    await vm.go_to(deep)
    assert [entry.name for entry in await vm.list("d")] == ["d"]
    await vm.go_to(before)
    vm.sweep([before])
    named = {name for name in deep["layers"] if name not in before["layers"]}
    folder = os.path.join(backend.folder, vm.id)
    await eventually(lambda: not named & set(os.listdir(folder)), "the tree is deleted")


def test_copies_from_the_command_line(store, tmp_path):
    """`cp` takes only regular files out of a vm, and puts them only into its own, whatever is laid out on the way."""
    canary, given, taken = (tmp_path / name for name in ("canary", "given", "taken"))
    canary.write_bytes(SECRET)
    given.write_bytes(b"given")
    lay = f"ln -s {canary} out; ln -s {tmp_path} folder; mkfifo pipe; mkdir d; ln -s d/../no/thing dangling; echo inside > f"
    assert command(store, "exec", "--vm", "one", "bash", lay) == 0
    for path in ("out", "folder/canary", "pipe", "d", "dangling", "/proc/self/environ", "/dev/zero", "/usr/bin/env"):
        assert command(store, "cp", f"one:{path}", str(taken)) == 2, path
        assert not taken.exists()
    for path in ("pipe", "d", "/proc/self/comm", "/dev/null", "/usr/new", "/run/new"):
        assert command(store, "cp", str(given), f"one:{path}") == 2, path
    for path in ("out", "folder/new", "f"):
        command(store, "cp", str(given), f"one:{path}")
    assert canary.read_bytes() == SECRET
    assert {entry.name for entry in tmp_path.iterdir()} == {"canary", "given", "store"}
    assert command(store, "cp", "one:f", str(taken)) == 0
    assert taken.read_bytes() == b"given"


def command(store, *words: str) -> int:
    """One command of the command line, as a process; its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "rewindbox", "--store", str(store), *words],
        capture_output=True,
        timeout=120,
        check=False,
    )
    return done.returncode
