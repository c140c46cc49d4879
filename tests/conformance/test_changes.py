"""Every backend says what going back would undo: which files were made, changed and deleted since a state."""

import json
import os
import shutil

import pytest

from conformance.specimens import DAMAGE, FILLERS, SPECIMENS, describe
from conftest import out
from rewindbox.errors import VmDamaged

pytestmark = pytest.mark.anyio

HOME = "/home/agent"


@pytest.fixture(params=FILLERS)
def filler(request):
    """Code that makes a vm small or large."""
    return FILLERS[request.param]


async def told(vm, state):
    """Path -> what has become of it."""
    found = await vm.changes(state)
    assert found.is_complete
    assert [file.path for file in found.files] == sorted(file.path for file in found.files)
    return {file.path: (file.change, file.kind, file.size_bytes) for file in found.files}


def compared(before, after):
    """The same of two descriptions: of a folder its attributes matter, not its time nor what is in it."""
    found = dict.fromkeys(after.keys() - before.keys(), "created")
    found |= dict.fromkeys(before.keys() - after.keys(), "deleted")
    for path in before.keys() & after.keys():
        one, other = plain(before[path]), plain(after[path])
        if one != other:
            found[path] = "modified"
    return found


def plain(entry):
    """Without a folder's time and names, and without where a file has its other names and its holes."""
    kind, mode, time, *rest = entry
    if kind == 0o040000:
        return kind, mode, [part for part in rest if is_attribute(part)]
    parts = [part for part in rest if not isinstance(part, bool) and not str(part).startswith(HOME)]
    return kind, mode, time if kind == 0o100000 else 0, parts


def is_attribute(part):
    return isinstance(part, list) and len(part) == 2 and str(part[0]).startswith("user.")


async def test_what_was_done_is_told(vm, filler):
    """Every kind of file and of change to it, however the point was kept; after going back there is none."""
    await out(vm, SPECIMENS, "python")
    await out(vm, filler)
    before, state = await describe(vm), (await vm.take_point()).state
    assert await told(vm, state) == {}
    await out(vm, DAMAGE)
    after, seen = await describe(vm), await told(vm, state)
    closed = f"{HOME}/closed/"  # what code itself could not look into before
    expected = {path: how for path, how in compared(before, after).items() if not path.startswith(closed)}
    assert {path: how for path, (how, _, _) in seen.items() if not path.startswith(closed)} == expected
    assert seen[f"{HOME}/closed/in"] == ("modified", "file", 7)
    later = (await vm.take_point()).state
    assert await told(vm, state) == seen
    await vm.go_to(state)
    assert await told(vm, state) == {}
    back = {path: {"created": "deleted", "deleted": "created"}.get(how, how) for path, (how, _, _) in seen.items()}
    assert {path: change for path, (change, _, _) in (await told(vm, later)).items()} == back


async def test_kinds_and_sizes(vm):
    """A file that became a folder, a folder that became a link: what it is now, and what went with it."""
    await out(vm, "mkdir -p d/e; echo 12345 > d/e/f; echo x > a; ln -s a l; mkfifo p")
    state = (await vm.take_point()).state
    await out(vm, "rm -r d; ln -s / d; rm a; mkdir a; echo 123 > a/b; rm l; echo 12 > /tmp/t; rm p; echo > p")
    assert await told(vm, state) == {
        f"{HOME}/a": ("modified", "folder", 0),
        f"{HOME}/a/b": ("created", "file", 4),
        f"{HOME}/d": ("modified", "link", 0),
        f"{HOME}/d/e": ("deleted", "folder", 0),
        f"{HOME}/d/e/f": ("deleted", "file", 6),
        f"{HOME}/l": ("deleted", "link", 0),
        f"{HOME}/p": ("modified", "file", 1),
        "/tmp/t": ("created", "file", 3),
    }


async def test_a_change_that_hides_is_told(vm, filler):
    """Other content of the same size, with the time set back to what it was."""
    await out(vm, f"echo good > f; echo good > g; touch -r f was; {filler}")
    state = (await vm.take_point()).state
    await out(vm, "echo evil > f; touch -r was f; cat g > /dev/null")
    assert await told(vm, state) == {f"{HOME}/f": ("modified", "file", 5)}


async def test_what_is_the_host_s_is_not_told(vm):
    """What lies in /run, /dev/shm and /proc is no file of the vm, and neither does anybody follow a link there."""
    state = (await vm.take_point()).state
    await out(vm, "echo x > /dev/shm/x; ln -s /proc/1 proc; ln -s /etc etc")
    assert await told(vm, state) == {f"{HOME}/proc": ("created", "link", 0), f"{HOME}/etc": ("created", "link", 0)}


async def test_more_than_is_told(vm):
    """Where there is too much, or it is nested too deep, a part is told and that it is one; the vm goes on."""
    state = (await vm.take_point()).state
    await out(vm, "for i in $(seq 11); do mkdir $i; (cd $i; seq 1000 | xargs touch); done")
    many = await vm.changes(state)
    assert (len(many.files), many.is_complete) == (10_000, False)
    await vm.go_to(state)
    for name in ("n" * 200, "\U0001d4b3" * 50):  # what counts is bytes, not characters
        await out(vm, f"for i in $(seq 40); do mkdir {name} && cd {name}; done")
        deep = await vm.changes(state)
        assert not deep.is_complete and 10 < len(deep.files) < 40
        taken = await vm.take_point()
        assert await out(vm, "echo on") == "on\n"
        await vm.go_to(taken.state)
        await vm.go_to(state)


async def test_names_that_are_no_text(vm):
    """Such a name comes through whole, as it does everywhere."""
    state = (await vm.take_point()).state
    await out(vm, "open(b'\\xff\\xfe\\n', 'w').close()", "python")
    (path,) = await told(vm, state)
    assert path.encode("utf-8", "surrogateescape") == b"/home/agent/\xff\xfe\n"


async def test_after_many_points(vm):
    """Whatever was folded into one meanwhile, each point is compared as it is."""
    states = []
    for number in range(43):
        await out(vm, f"mkdir -p m; cd m; rm -f *; seq 101 | split -l 1 - {number % 3}.")
        states.append((await vm.take_point()).state)
    of_kind = {kind for kind, _, _ in (await told(vm, states[0])).values()}
    assert of_kind == {"modified"}  # the same names, written again
    assert await told(vm, states[-1]) == {}
    apart = await told(vm, states[-2])
    assert sorted(kind for kind, _, _ in apart.values()) == ["created"] * 101 + ["deleted"] * 101


async def test_files_of_a_point_that_are_gone(vm, vms_folder, tmp_path):
    """A point whose files are gone is an error that says so; the vm goes on."""
    await out(vm, "echo 1 > a")
    lost = (await vm.take_point()).state
    await out(vm, "echo 2 > a")
    await vm.take_point()
    for name in os.listdir(vms_folder / vm.id):
        if json.dumps(name) in json.dumps(lost) and json.dumps(name) not in json.dumps(vm.live):
            shutil.move(vms_folder / vm.id / name, tmp_path / name)
    with pytest.raises(VmDamaged, match="choose another point"):
        await vm.changes(lost)
    assert await out(vm, "cat a") == "2\n"
