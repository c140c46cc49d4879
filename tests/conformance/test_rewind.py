"""Every backend goes back: to any point, exactly, as often as one likes."""

import json
import os
import shutil

import anyio
import pytest

from conformance.specimens import DAMAGE, FILLERS, SPECIMENS, describe
from conftest import FULL, eventually, members, namespace, open_files, out, run, status_of
from rewindbox.errors import RollbackFailed, SnapshotFailed, VmDamaged

pytestmark = pytest.mark.anyio


@pytest.fixture(params=FILLERS)
def filler(request):
    """Code that makes a vm small or large."""
    return FILLERS[request.param]


async def test_everything_comes_back(vm, filler):
    """Content, kind, mode, time, attributes, links, holes, odd names and closed folders are as they were."""
    await out(vm, SPECIMENS, "python")
    await out(vm, filler)
    before = await describe(vm)
    taken = await vm.take_point()
    assert await describe(vm) == before
    await out(vm, DAMAGE)
    assert await describe(vm) != before
    await vm.take_point()
    await vm.go_to(taken.state)
    assert await describe(vm) == before
    assert await out(vm, "chmod 700 closed; chmod 600 closed/in shut; cat closed/in shut") == "inshut"


async def test_going_back_again(vm, filler):
    """A point is the same however often one goes back to it, and whatever is done in between."""
    await out(vm, filler)
    await out(vm, SPECIMENS, "python")
    taken = await vm.take_point()
    before = await describe(vm)
    for _ in range(3):
        await out(vm, DAMAGE)
        await vm.go_to(taken.state)
        assert await describe(vm) == before
    await vm.go_to(taken.state)
    assert await describe(vm) == before
    assert (await vm.take_point()).written_bytes == 0


async def test_specimens_survive_many_points(vm, filler):
    """Points taken one after the other, and a part of them gone back to, each keep what they saw."""
    states, seen = [], []
    await out(vm, SPECIMENS, "python")
    for number in range(8):
        await out(vm, f"echo {number} > counter; rm -rf part; mkdir -p part/{number}; touch part/{number}/f; " + filler)
        states.append((await vm.take_point()).state)
        seen.append(await describe(vm))
    for number in (0, 7, 3, 3, 6, 1):
        await vm.go_to(states[number])
        assert await describe(vm) == seen[number]


SERVES = """
import socket
server = socket.socket(); server.bind(("127.0.0.1", 8123)); server.listen()
client = socket.create_connection(("127.0.0.1", 8123))
serving = server.accept()[0]
serving.close(); assert client.recv(1) == b""; client.close()
"""


async def test_a_port_is_free_again(vm):
    """What was served before going back keeps no port, nor is it seen: nothing waits for late packets of its own."""
    point = (await vm.take_point()).state
    for _ in range(2):
        await out(vm, SERVES, "python")
        await vm.go_to(point)
        assert await out(vm, "tail -n +2 /proc/net/tcp") == ""


FLAGS = """
import fcntl, os, struct
GET, SET, XGET, XSET, NODUMP, NOATIME = 0x80086601, 0x40086602, 0x801C581F, 0x401C5820, 0x40, 0xC0
open("f", "w").close()
for path in ("f", ".", "/tmp", "/run", "/dev/shm"):
    file = os.open(path, os.O_RDONLY)
    try: before = fcntl.ioctl(file, GET, bytes(8)), fcntl.ioctl(file, XGET, bytes(28))
    except OSError: continue  # its file system has none
    for number, flags in ((SET, struct.pack("q", NODUMP | NOATIME)), (XSET, struct.pack("I24x", NOATIME))):
        try: fcntl.ioctl(file, number, flags); print(path, "took flags")
        except PermissionError: pass
    assert before == (fcntl.ioctl(file, GET, bytes(8)), fcntl.ioctl(file, XGET, bytes(28))), path
"""


async def test_files_have_no_flags_that_a_point_would_lose(vm):
    """What `chattr` sets is in no copy of a file: nobody sets it, in a session neither."""
    assert await out(vm, FLAGS, "python") == ""
    assert await out(vm, FLAGS, "python", session="s") == ""


async def test_branches(vm, filler):
    """From A to B, back to A, on to C, over to B: each is whole, and none has anything of the other."""
    await out(vm, filler)
    await out(vm, "mkdir d; echo a > d/f; echo a > a")
    a = (await vm.take_point()).state
    await out(vm, "echo b > d/f; echo b > b; rm a")
    b = (await vm.take_point()).state
    await vm.go_to(a)
    await out(vm, "rm -r d; mkdir d; echo c > d/g; " + filler)
    c = (await vm.take_point()).state
    for state, expected in ((b, "d/f=b\nb=b\n"), (c, "d/g=c\na=a\n"), (a, "d/f=a\na=a\n"), (b, "d/f=b\nb=b\n")):
        await vm.go_to(state)
        assert await out(vm, "for f in d/* [a-c]; do [ -f $f ] && echo $f=$(cat $f); done; true") == expected


async def test_replaced_kinds(vm, filler):
    """A name that was a folder, then a file, then a folder again has nothing of its former lives."""
    await out(vm, filler)
    await out(vm, "mkdir -p x/y; echo 1 > x/y/one")
    first = (await vm.take_point()).state
    await out(vm, "rm -rf x; echo file > x")
    second = (await vm.take_point()).state
    await out(vm, "rm x; mkdir x; echo 3 > x/three")
    third = (await vm.take_point()).state
    await out(vm, "rm -rf x; ln -s /etc x")
    await vm.take_point()
    for state, expected in ((third, "x\nx/three"), (first, "x\nx/y\nx/y/one"), (second, "x"), (third, "x\nx/three")):
        await vm.go_to(state)
        assert await out(vm, "find x | sort") == expected + "\n"


async def test_the_whole_root_goes_back(vm):
    """Not only home: /etc, /tmp and the root itself are the vm's files."""
    taken = await vm.take_point()
    listing = await out(vm, "ls -A / /etc /tmp /var")
    await out(vm, "echo x > /etc/new; rm /etc/passwd; rm -rf /var/*; echo x > /tmp/x; mkdir /top; rm -rf /home/agent")
    await vm.take_point()
    await vm.go_to(taken.state)
    assert await out(vm, "ls -A / /etc /tmp /var; id -un") == listing + "agent\n"


async def test_a_point_of_nothing_new(vm, filler):
    """A point of an unchanged vm is the same state and writes nothing."""
    await out(vm, filler)
    first = await vm.take_point()
    again = await vm.take_point()
    await out(vm, "ls -R . > /dev/null; cat /etc/passwd > /dev/null")
    third = await vm.take_point()
    assert (again.written_bytes, third.written_bytes) == (0, 0)
    assert again.state == first.state


async def test_small_changes_of_one_size(vm):
    """Contents of one length that follow each other at once are told apart."""
    states = []
    for number in range(30):
        await vm.write("f", str(number % 10).encode())
        states.append((await vm.take_point()).state)
    for number in (0, 29, 7, 15, 3):
        await vm.go_to(states[number])
        assert await vm.read("f", 100) == str(number % 10).encode()


async def test_going_back_ends_everything(vm):
    """Shared memory and /run are empty after going back, and files written there are not brought back."""
    await out(vm, "echo x > f")
    taken = await vm.take_point()
    await vm.go_to(taken.state)
    assert await out(vm, "ls -A /dev/shm; cat f") == "x\n"


async def test_folders_are_renamed_while_small(vm):
    """In a vm with few files a folder of an earlier execution can be renamed, also after going back."""
    await out(vm, "mkdir -p a/b; echo x > a/b/c")
    taken = await vm.take_point()
    rename = "import os; os.rename('a', 'z'); os.rename('z/b', 'y'); print(open('y/c').read(), end='')"
    assert await out(vm, rename, "python") == "x\n"
    await vm.take_point()
    await vm.go_to(taken.state)
    assert await out(vm, rename, "python") == "x\n"


async def test_folders_are_moved_when_large(vm):
    """In any vm `mv` moves a folder of an earlier execution."""
    await out(vm, FILLERS["many"] + "; mkdir -p ../a/b; echo x > ../a/b/c")
    await vm.take_point()
    assert await out(vm, "mv a z; mv many more; cat z/b/c; ls more | wc -l") == "x\n700\n"


async def test_points_are_cheap_whatever_there_is(vm):
    """With a gigabyte in the vm (200 MB where time is short) a point writes at most a few megabytes."""
    size = 1_000_000_000 if FULL else 200_000_000
    await out(vm, f"head -c {size} /dev/urandom > big; md5sum big > sum")
    written = [(await vm.take_point()).written_bytes]
    for number in range(5):
        await out(vm, f"echo {number} > small")
        taken = await vm.take_point()
        written.append(taken.written_bytes)
    await out(vm, "rm big; echo x > small")
    written.append((await vm.take_point()).written_bytes)
    await vm.go_to(taken.state)
    assert await out(vm, "cat small; md5sum -c sum") == "4\nbig: OK\n"
    assert max(written) < 4 << 20


async def test_a_running_program_is_no_part_of_a_point(vm):
    """While a job runs no point is taken and none is gone to; the job is not disturbed."""
    taken = await vm.take_point()
    started, outcomes = anyio.Event(), []

    async def start():
        outcomes.append(await run(vm, "echo x; until [ -e go ]; do :; done", on_output=lambda *_: started.set()))

    async with anyio.create_task_group() as group:
        group.start_soon(start)
        await started.wait()
        with pytest.raises(SnapshotFailed):
            await vm.take_point()
        with pytest.raises(RollbackFailed):
            await vm.go_to(taken.state)
        await vm.write("go", b"")
    assert outcomes[0].exit_code == 0


async def test_a_new_life(backend, vm, filler):
    """A vm that was stopped starts again with its files, on the live state that it had."""
    await out(vm, SPECIMENS, "python")
    await out(vm, filler)
    taken = await vm.take_point()
    before = await describe(vm)
    await vm.stop()
    again = await backend.create(vm.id, vm.live, taken.state)
    assert await describe(again) == before
    await out(again, DAMAGE)
    await again.take_point()
    await again.go_to(taken.state)
    assert await describe(again) == before


async def test_a_new_life_after_a_change(backend, vm, filler):
    """What was written after the last point is there in the next life, and can be undone."""
    await out(vm, "echo 1 > f; " + filler)
    taken = await vm.take_point()
    await out(vm, "echo 2 > f")
    await vm.stop()
    again = await backend.create(vm.id, vm.live)
    assert await out(again, "cat f") == "2\n"
    later = await again.take_point()
    await again.go_to(taken.state)
    assert await out(again, "cat f") == "1\n"
    await again.go_to(later.state)
    assert await out(again, "cat f") == "2\n"


async def test_a_write_after_a_job_is_in_the_point(vm, filler):
    """A point is of the files as they are when it is taken, not as the last job left them."""
    await out(vm, "echo 1 > f; " + filler)
    await vm.write("f", b"2\n")
    taken = await vm.take_point()
    await out(vm, "echo 3 > f")
    await vm.go_to(taken.state)
    assert await out(vm, "cat f") == "2\n"


async def test_jobs_without_points(backend, vm):
    """Files of several jobs are there in the next life, though no point was taken in between."""
    await out(vm, FILLERS["many"])
    await out(vm, "rm -rf many; echo x > f")
    await vm.stop()
    again = await backend.create(vm.id, vm.live)
    assert await out(again, "ls") == "f\n"


async def test_many_lives(backend, vm):
    """Points of every life can be gone back to in every later one."""
    states = []
    for number in range(6):
        await out(vm, f"echo {number} > f; mkdir -p d{number}; " + FILLERS["many"])
        states.append((await vm.take_point()).state)
        await vm.stop()
        vm = await backend.create(vm.id, vm.live, states[-1])
    for number in (2, 5, 0, 3):
        await vm.go_to(states[number])
        assert await out(vm, "cat f; ls -d d* | wc -l") == f"{number}\n{number + 1}\n"


@pytest.mark.parametrize("damage", ["gone", "file", "link"])
async def test_a_damaged_vm(backend, vm, vms_folder, tmp_path, damage):
    """Where files of a vm's folder are gone or of another kind it does not start, and nothing is changed."""
    await out(vm, "echo x > f; " + FILLERS["many"])
    taken = await vm.take_point()
    await out(vm, "echo y > f")
    await vm.stop()
    folder = vms_folder / vm.id
    before = sorted(os.listdir(folder))
    named = [name for name in before if json.dumps(name) in json.dumps(vm.live)]
    assert named
    for name in named:
        kept = tmp_path / name
        shutil.move(folder / name, kept)
        if damage == "file":
            (folder / name).touch()
        elif damage == "link":
            (folder / name).symlink_to(kept)
        damaged = sorted(os.listdir(folder))
        with pytest.raises(VmDamaged, match=vm.id):
            await backend.create(vm.id, vm.live, taken.state)
        assert sorted(os.listdir(folder)) == damaged
        if damage != "gone":
            (folder / name).unlink()
        shutil.move(kept, folder / name)
    again = await backend.create(vm.id, vm.live, taken.state)
    assert await out(again, "cat f") == "y\n"


async def test_a_state_that_is_gone(backend, vm, vms_folder, tmp_path, filler):
    """Going to a state whose files are gone fails; the vm is as it was, and goes on."""
    await out(vm, "echo 1 > f; " + filler)
    kept = (await vm.take_point()).state
    await out(vm, "echo 2 > f; rm -rf many big; mkdir many; cd many; touch {1..500}")
    lost = (await vm.take_point()).state
    await out(vm, "echo 3 > f")
    for name in [
        n
        for n in os.listdir(vms_folder / vm.id)
        if json.dumps(n) in json.dumps(lost) and json.dumps(n) not in json.dumps(vm.live)
    ]:
        shutil.move(vms_folder / vm.id / name, tmp_path / name)
        with pytest.raises((RollbackFailed, VmDamaged)):
            await vm.go_to(lost)
        assert await out(vm, "cat f; touch new") == "3\n"
        shutil.move(tmp_path / name, vms_folder / vm.id / name)
    for state, number in ((lost, 2), (kept, 1)):
        await vm.go_to(state)
        assert await out(vm, "cat f") == f"{number}\n"


async def test_sweep(vm, vms_folder):
    """What no kept state needs is deleted; what one needs can be gone to."""
    states = []
    for number in range(6):
        await out(vm, f"echo {number} > f; " + FILLERS["many" if number % 2 else "small"])
        states.append((await vm.take_point()).state)
    kept = [states[1], states[4]]
    before = set(os.listdir(vms_folder / vm.id))
    vm.sweep(kept)
    needed = {
        name for name in before if any(json.dumps(name) in json.dumps(state) for state in [*kept, states[5], vm.live])
    }
    listed = {name for name in before if any(json.dumps(name) in json.dumps(state) for state in states)}
    assert listed - needed
    await eventually(lambda: not (listed - needed) & set(os.listdir(vms_folder / vm.id)), "the rest is deleted")
    assert needed <= set(os.listdir(vms_folder / vm.id))
    for state, number in ((kept[0], 1), (kept[1], 4)):
        await vm.go_to(state)
        assert await out(vm, "cat f") == f"{number}\n"


async def test_destroy(backend, vm, vms_folder):
    """A destroyed vm leaves nothing, whatever code has made; twice is once."""
    await out(vm, SPECIMENS + "\nfor n in range(300): os.mkdir('d' * 200); os.chdir('d' * 200)", "python")
    await vm.take_point()
    await out(vm, "chmod -R 000 . || true")
    await vm.stop()
    await backend.destroy(vm.id)
    await backend.destroy(vm.id)
    assert vm.id not in os.listdir(vms_folder)


async def test_sweeps_at_once(vm, vms_folder):
    """Sweeps that are asked for faster than they are done delete all that is to go, and keep nothing of it open."""
    inside = await namespace(vm)
    kept = (await vm.take_point()).state
    for number in range(6):
        await out(vm, f"mkdir -p deep/{{1..60}}/x{number}; echo {number} > f; chmod 0 deep/7")
        await vm.take_point()
    await vm.go_to(kept)
    for _ in range(20):
        vm.sweep([kept])
    needed = {name for name in os.listdir(vms_folder / vm.id) if json.dumps(name) in json.dumps([kept, vm.live])}
    scratch = f"w{vm.live['upper'][1:]}-"
    await eventually(
        lambda: all(n in needed or n.startswith(scratch) for n in os.listdir(vms_folder / vm.id)), "the rest is deleted"
    )
    first = next(pid for pid in members(inside) if status_of(pid)["NSpid"].split()[-1] == "1")
    supervisor = int(status_of(first)["PPid"])
    await eventually(lambda: not [name for name in open_files(supervisor) if "deleted" in name], "nothing is open")
