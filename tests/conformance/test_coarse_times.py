"""Points where files have coarse times, as before Linux 6.13: within a tick of the clock a change leaves no trace."""

import pytest

import skeletons
from conftest import boot_after, remove, run
from rewindbox import backends
from rewindbox.backends.namespace import starting

pytestmark = pytest.mark.anyio
COARSE = """
from rewindbox.backends.namespace import likeness, trees
import time
identity, TICK_NS = trees._identity, 60 * 10**9
def coarse(status):
    inode, changed_ns, size, mode = identity(status)
    return inode, changed_ns // TICK_NS * TICK_NS, size, mode
trees._identity, likeness.now_ns = coarse, lambda: time.time_ns() // TICK_NS * TICK_NS
"""
"""Change times of whole minutes."""
TRUSTING = "likeness.young = lambda *_: set()\n"


@pytest.fixture
async def vm_on(tmp_path, monkeypatch):
    """Makes a vm whose supervisor has this boot code before it begins."""
    made = backends.load("namespace", str(skeletons.lend(tmp_path / "vms")))

    async def make(lines: str):
        monkeypatch.setattr(starting, "_BOOT", boot_after(lines))
        return await made.create("vm_coarse")

    yield make
    await made.close()
    remove(tmp_path / "vms")


async def points(vm, folder):
    """What a file has been in each of ten points, each taken after it was written, its length being the same."""
    found = []
    for number in range(10):
        code = f"import os\nopen('n', 'w').write('{number}')\nos.utime('t', ns=({number}, {number}))"
        await run(vm, ("open('t', 'w')\n" if not number else "") + code, "python", session="s" if number % 2 else None)
        copy = folder / "vms/vm_coarse" / (await vm.take_point()).state["copy"] / "home/agent"
        found.append(((copy / "n").read_text(), (copy / "t").stat().st_mtime_ns))
    return found


async def test_a_point_has_what_was_written_within_a_tick(vm_on, tmp_path):
    """Contents and times are those of the moment; and where nothing has changed the point is the same one."""
    vm = await vm_on(COARSE)
    assert await points(vm, tmp_path) == [(str(number), number) for number in range(10)]
    await run(vm, "f = open('sparse', 'wb'); f.truncate(1 << 30); f.seek(1 << 29); f.write(b'x')", "python")
    taken = await vm.take_point()
    await run(vm, "open('n').read()", "python")
    assert (await vm.take_point()).method == "same"
    await run(vm, "open('n', 'w').write('x')", "python")
    await vm.go_to(taken.state)
    assert await vm.read("n", 9) == b"9"
    await run(vm, "open('n', 'w').write('y')", "python")
    assert (await vm.take_point()).method == "copy"


async def test_times_alone_do_not_tell(vm_on, tmp_path):
    """A supervisor that trusts them keeps the same content again and again."""
    vm = await vm_on(COARSE + TRUSTING)
    assert await points(vm, tmp_path) != [(str(number), number) for number in range(10)]
