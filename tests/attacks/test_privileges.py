"""Points of what hostile code has made: exactly as it was, with no more privilege; or refused, and nothing is lost."""
# ruff: noqa: E501  programs that are run inside stand here as they are

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from conformance.specimens import DAMAGE, SPECIMENS, describe
from conftest import job, members, namespace, out, run, status_of
from rewindbox.errors import RewindboxError, VmDamaged, VmNotAvailable

pytestmark = pytest.mark.anyio

PRIVILEGES = r"""
import os, shutil, struct
os.mkdir("p"); os.chdir("p")
for n, mode in enumerate((0o4755, 0o2755, 0o6777, 0o1777, 0o7777, 0o4000, 0)):
    shutil.copy("/usr/bin/id", f"f{n}"); os.mkdir(f"d{n}"); os.chmod(f"f{n}", mode); os.chmod(f"d{n}", mode | 0o700)
for name in (".wh.f", ".wh..wh..opq", ".wh..wh.plnk", "a", "A", "e\u0301", "\u00e9", "x" * 255, b"\xff\xfe\n", "-rf", " "):
    open(name, "w").close()
os.mkdir("wh"); open("wh/.wh.file", "w").close(); open("wh/file", "w").close()
for number, mark in enumerate(("opaque", "whiteout", "redirect", "metacopy", "origin", "impure", "nlink", "protattr", "overlay.opaque", "overlay.overlay.opaque")):
    name = f"m{number}"; os.mkdir(name); open(f"{name}/in", "w").write("in"); open(f"{name}.f", "w").write("f")
    for path in (name, f"{name}.f"):
        try: os.setxattr(path, f"user.overlay.{mark}", b"y")
        except OSError: pass
os.setxattr("a", "user.big", b"x" * 3000); os.setxattr("a", "user.empty", b"")
os.mkdir("lists"); os.mkfifo("lists/fifo"); os.symlink("nowhere", "lists/link"); shutil.copy("a", "lists/a")
acl = struct.pack("<I" + "HHI" * 5, 2, 1, 7, 2**32 - 1, 2, 6, 1000, 4, 1, 2**32 - 1, 16, 7, 2**32 - 1, 32, 0, 2**32 - 1)
for path in ("lists/a", "lists/fifo", "lists"): os.setxattr(path, "system.posix_acl_access", acl)
os.setxattr("lists", "system.posix_acl_default", acl); open("lists/heir", "w").close(); os.mkdir("lists/heirs")
for path in ("lists/a", "lists/link", "lists/heirs"):
    try: os.setxattr(path, "security.selinux", b"label\0", follow_symlinks=False)
    except OSError: pass  # where it means something
refused = []
for path, name in (("a", "security.capability"), ("a", "trusted.overlay.opaque"), ("wh", "trusted.x")):
    try: os.setxattr(path, name, b"\1\0\0\2" + b"\xff" * 16)
    except OSError: refused.append(name)
for device in (os.makedev(0, 0), os.makedev(1, 1), os.makedev(1, 3)):
    try: os.mknod(f"n{device}", 0o20666, device)
    except OSError: refused.append(device)
assert len(refused) == 6, refused
with open("a", "r+") as f: f.truncate(1 << 26)
for ns in (0, 1, 999_999_999, -1, 2**33 * 10**9): os.utime("A", ns=(ns, ns)); os.mknod(f"t{ns}"); os.utime(f"t{ns}", ns=(ns, ns))
"""

POWERLESS = "for f in p/f0 p/f2; do $f -u; $f -ru; done | sort -u; find / -xdev \\( -perm -4000 -o -perm -2000 \\) -not -user agent 2>/dev/null | grep -v ^/usr; stat -c %a p/f* | tr '\\n' ' '"
"""Who a set-uid program runs as, which of them are somebody else's, and their modes."""


@pytest.mark.parametrize(
    "filler", ["", "mkdir many; cd many; for i in {1..150}; do echo $i > $i; done"], ids=["copied", "frozen"]
)
async def test_no_more_privilege(backend, vm, filler):
    """Through points, folds, rollbacks and a new life everything is exactly as it was, and nothing gives privilege."""
    await out(vm, SPECIMENS, "python")
    await out(vm, PRIVILEGES, "python")
    await out(vm, filler)
    before, powers = await describe(vm), await out(vm, POWERLESS)
    assert powers.splitlines()[0] == "1000" and len(powers.splitlines()) == 2, powers
    taken = await vm.take_point()
    assert (taken.state["copy"] is None) == bool(filler)
    for number in range(45 if filler else 3):
        await out(vm, f"rm -rf other; mkdir other; cd other; for i in {{1..110}}; do echo {number} > $i; done")
        await vm.take_point()
    await out(vm, "rm -rf other")
    assert await describe(vm) | {"/home/agent": None} == before | {"/home/agent": None}
    await out(vm, DAMAGE + "\nrm -rf p")
    await vm.take_point()
    await vm.go_to(taken.state)
    assert (await describe(vm), await out(vm, POWERLESS)) == (before, powers)
    await vm.stop()
    again = await backend.create(vm.id, vm.live, taken.state)
    assert (await describe(again), await out(again, POWERLESS)) == (before, powers)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file what its vm may not")
async def test_an_attribute_that_cannot_be_copied(backend, vm):
    """A file with an attribute that the vm may not set is kept by freezing, and comes back with it."""
    await out(vm, "echo 1 > f")
    await vm.take_point()  # that of the execution, which comes unasked
    os.setxattr(Path(backend.folder, vm.id, vm.live["upper"], "home/agent/f"), "security.of-the-host", b"x")
    taken = await vm.take_point()
    assert taken.state["copy"] is None
    await out(vm, "rm f")
    await vm.take_point()
    await vm.go_to(taken.state)
    told = await out(vm, "import os; print(os.listxattr('f'), open('f').read())", "python")
    assert told == "['security.of-the-host'] 1\n\n"


async def test_a_deep_tree_that_somebody_writes_to(vm):
    """Where neither copy nor freeze is possible (a file is open, a path too long) the point is refused, the vm goes on."""
    code = """
import os
held = open("held", "w")
for n in range(200): open(f"f{n}", "w").close()
for n in range(3000): os.mkdir("deep"); os.chdir("deep")
os.chdir("/home/agent")"""
    await vm.execute(job("x = 1", "python", session="s"))
    before = (await vm.take_point()).state
    assert (await vm.execute(job(code, "python", session="s"))).ended == "exit"
    with pytest.raises(RewindboxError) as refused:
        await vm.take_point()
    assert not isinstance(refused.value, VmNotAvailable)
    assert (await vm.execute(job("print(held.name)", "python", session="s"))).stdout == b"held\n"
    await vm.go_to(before)
    assert await out(vm, "ls") == ""


@pytest.mark.parametrize("kind", ["link", "file", "dangling"])
@pytest.mark.parametrize(
    "filler", ["", "mkdir many; cd many; for i in {1..150}; do echo $i > $i; done"], ids=["copied", "frozen"]
)
async def test_a_stored_layer_is_replaced(vm, vms_folder, tmp_path, kind, filler):
    """A link or a file in the place of a stored layer is refused, nothing that it leads to is touched, the vm goes on."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_text("the host's own")
    await out(vm, "echo 1 > f; " + filler)
    wanted = (await vm.take_point()).state
    await vm.go_to(wanted)
    await out(vm, "echo 2 > f; rm -rf many; mkdir more; cd more; for i in {1..150}; do echo $i > $i; done")
    await vm.take_point()
    await out(vm, "echo 3 > f")
    name = wanted["copy"] or wanted["layers"][-1]
    stored, kept = vms_folder / vm.id / name, tmp_path / "kept"
    stored.rename(kept)
    if kind == "file":
        stored.write_text("")
    else:
        stored.symlink_to(outside if kind == "link" else tmp_path / "nowhere")
    with pytest.raises(VmDamaged, match=name):
        await vm.go_to(wanted)
    assert [path.name for path in outside.iterdir()] == ["canary"]
    assert await out(vm, "cat f") == "3\n"
    stored.unlink()
    kept.rename(stored)
    await vm.go_to(wanted)
    assert await out(vm, "cat f") == "1\n"


async def test_no_descriptors_are_left(backend, vm):
    """With any number of descriptors left to the supervisor, points and rollbacks work or say why; nothing is lost."""
    await out(vm, "mkdir many; for i in {1..150}; do echo $i > many/$i; done; echo 1 > f")
    states = [(await vm.take_point()).state]
    await out(vm, "echo 2 > f")
    states.append((await vm.take_point()).state)
    done, rooms = 0, (1, 2, 3, 4, 5, 6, 8, 10, 14, 40)
    for room in rooms:
        supervisor = await supervisor_of(vm)
        held = {int(name) for name in os.listdir(f"/proc/{supervisor}/fd")}
        before = bound_descriptors(supervisor, max(held) + room)
        with contextlib.suppress(RewindboxError, AssertionError):  # it says why, or the job did not begin
            await out(vm, "echo 3 > f; for i in {1..150}; do echo $i > many/new$i; done")
            await vm.take_point()
            await vm.go_to(states[0])
            done += 1
        with contextlib.suppress(subprocess.CalledProcessError):  # it is gone
            bound_descriptors(supervisor, before)
        try:
            await vm.go_to(states[0])
        except VmNotAvailable as error:
            assert error.remedy
            await vm.stop()
            vm = await backend.create(vm.id, vm.live)
        for state, number in zip(states, (1, 2), strict=True):
            await vm.go_to(state)
            assert await out(vm, "cat f; ls many | wc -l") == f"{number}\n150\n"
    assert 0 < done < len(rooms)
    assert (await run(vm, "echo fine")).stdout == b"fine\n"


async def supervisor_of(vm) -> int:
    """The supervisor's pid, as the host knows it."""
    inside = await namespace(vm)
    return next(int(status_of(pid)["PPid"]) for pid in members(inside) if status_of(pid)["NSpid"].split()[-1] == "1")


def bound_descriptors(pid: int, count: int) -> int:
    """Set the soft limit of open files of a process of the same user, as that user; returns what it was."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    before = int(next(line for line in lines if line.startswith("Max open files")).split()[3])
    owner = int(status_of(pid)["Uid"].split()[0])
    words = ["prlimit", f"--pid={pid}", f"--nofile={count}:"]
    subprocess.run(words, check=True, **({"user": owner, "extra_groups": []} if os.getuid() == 0 else {}))
    return before
