"""What code of one vm takes from the other vms of its user, and from whoever holds them: nothing that they need."""

import subprocess
import sys
from pathlib import Path

import pytest

PARKS = """
import socket
def filled(pair):
    try:
        while True: socket.send_fds(pair[0], [b"x"], [0] * 250)
    except BlockingIOError: return False
    except OSError: return True  # too many on their way
pairs = [socket.socketpair() for _ in range(100)]
for pair in pairs: pair[0].setblocking(False)
last = next(pair for pair in pairs if filled(pair))
print("full", flush=True)
while True: filled(last)
"""
"""As many descriptors on their way as the kernel allows its user, and again as soon as somebody's have arrived."""

HOLDER = f"""
import sys, anyio
from conftest import job, out
from rewindbox import backends

async def main():
    backend = backends.load("namespace", sys.argv[1])
    greedy, other = await backend.create("vm_1"), await backend.create("vm_2")
    is_full, told = anyio.Event(), []
    async def park():
        told.append((await greedy.execute(job({PARKS!r}, "python", wall_s=60), lambda *_: is_full.set())).ended)
    async with anyio.create_task_group() as group:
        group.start_soon(park)
        await is_full.wait()
        for vm in (other, await backend.create("vm_3")):
            assert await out(vm, "echo fine") == "fine\\n"
            await vm.execute(job("x = 41", "python", session="main"))
            point = (await vm.take_point()).state
            await vm.go_to(point)
            assert (await vm.execute(job("print(x)", "python", session="main"))).stdout == b"41\\n"
            await vm.write("f", b"fine")
            assert await vm.read("f", 100) == b"fine"
        await greedy.cancel()
    assert told == ["killed"], told
    await backend.close()

anyio.run(main)
"""


@pytest.mark.parametrize("limit", ["-Sn 256", "-Sn 1024"])
def test_descriptors_on_their_way(tmp_path, limit):
    """A vm whose code parks all descriptors that it can in sockets can be ended, and other vms do all they do.

    Of a holder who may open few at first, as is usual.
    """
    script = tmp_path / "holder.py"
    script.write_text(HOLDER)
    words = ["bash", "-c", f"ulimit {limit}; exec {sys.executable} {script} {tmp_path / 'vms'}"]
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        words,
        cwd=tests,
        env={"PYTHONPATH": f"{tests}:{tests.parent / 'src'}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
