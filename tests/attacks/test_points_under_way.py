"""Points of a session whose children go on writing: they are stopped, but the call that each is in is ended first."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import anyio
import pytest

import skeletons
from conftest import boot_after, job, remove, scaled
from rewindbox import backends
from rewindbox.backends.namespace import starting
from rewindbox.errors import RewindboxError

pytestmark = pytest.mark.anyio
SECRET = "the host's own"
NAIVE = boot_after(
    """
import os
from rewindbox.backends.namespace import sessions, trees
trees._opened = lambda path, *seen: os.open(path, os.O_RDONLY | os.O_DIRECTORY)
sessions.rest = lambda proc, pids: sessions.signal_each(proc, pids, 19)"""
)
"""Boot code of a launcher whose supervisors copy by paths, and do not wait for who was told to stop."""

SWAPPING = """
import ctypes, os, platform
os.mkdir("x"); open("x/canary", "w").write("inside"); os.symlink({host!r}, "l")
number, libc = {{"x86_64": 316, "aarch64": 276}}[platform.machine()], ctypes.CDLL(None)
for _ in range(8):
    if os.fork() == 0:
        while True: libc.syscall(number, -100, b"x", -100, b"l", 2)
"""
"""A folder and a link to the host change places all the time; many processes wait for their turn in the kernel."""


@pytest.fixture
def host():
    """A folder of the host that everybody may read, where a supervisor sees it: it has a /tmp of its own."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    folder.chmod(0o755)
    (folder / "canary").write_text(SECRET)
    yield folder
    shutil.rmtree(folder)


async def leaked(folder: Path, host: Path, counts: Iterable[int]) -> bool:
    """Whether something of the host came into one of so many points."""
    made, vm = backends.load("namespace", str(skeletons.lend(folder / "vms"))), None
    try:
        for number in counts:
            code = "open('f', 'w').write('x')"
            if vm is None:
                vm, code = await made.create(f"vm_{number}"), SWAPPING.format(host=str(host))
            assert (await vm.execute(job(code, "python", session="s", cpu_s=600))).ended == "exit"
            copy = await copied(vm)
            if copy is not None and is_in(folder / "vms" / vm.id / copy / "home/agent"):
                return True
            if copy is None:  # what swaps has only the frozen files, which nobody changes any more
                await made.destroy(vm.id)
                vm = None
        return False
    finally:
        await made.close()
        remove(folder / "vms")


async def copied(vm) -> str | None:
    """The copy that the vm's point is; None: it was noticed that it cannot be one."""
    try:
        return (await vm.take_point()).state["copy"]
    except RewindboxError:
        return None


def is_in(home: Path) -> bool:
    places = [home / name for name in os.listdir(home) if name in ("x", "l") and not (home / name).is_symlink()]
    return SECRET in [(place / "canary").read_text() for place in places]


async def test_nothing_of_the_host_comes_into_a_point(tmp_path, host):
    """Whatever is renamed while a point is taken, what is in it was the vm's."""
    assert not await leaked(tmp_path, host, range(scaled(60)))


async def test_a_naive_copy_has_it(tmp_path, host, monkeypatch):
    """Copied by paths, and not waiting for who was told to stop, a point has a file of the host sooner or later."""
    monkeypatch.setattr(starting, "_BOOT", NAIVE)
    with anyio.fail_after(240):
        assert await leaked(tmp_path, host, itertools.count())
