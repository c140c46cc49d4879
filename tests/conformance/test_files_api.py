"""Every backend's file verbs: they see the vm's own files, and nothing a hostile vm wants them to see."""

import contextlib
import json
import os

import anyio
import pytest

from conftest import SOAK, data, out, run
from rewindbox.errors import BadRequest, InvalidArgument

pytestmark = pytest.mark.anyio
BIG = 1 << 30
SECRET = b"the host's own"


@pytest.fixture
def canary(tmp_path):
    """A file of the host that no vm may see or change."""
    path = tmp_path / "canary"
    path.write_bytes(SECRET)
    path.chmod(0o666)
    tmp_path.chmod(0o777)
    yield path
    assert path.read_bytes() == SECRET
    assert sorted(os.listdir(tmp_path)) == ["canary"]


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 20_000], ids=["empty", "short", "long"])
async def test_round_trip(vm, content):
    """What is written is read back, and what code sees."""
    await vm.write("a/b/c", content)
    assert await vm.read("a/b/c", BIG) == content
    assert int(await out(vm, "stat -c %s a/b/c")) == len(content)


async def test_written_files_belong_to_the_code(vm):
    """Folders on the way and the file itself are the code's own, with the given mode, no set-uid bits."""
    await vm.write("d/e/run", b"#!/bin/sh\necho ran\n", 0o6755)
    assert await out(vm, "d/e/run; rm d/e/run; rmdir d/e d; echo gone") == "ran\ngone\n"
    await vm.write("f", b"x", 0o6755)
    assert await out(vm, "stat -c '%a %U' f") == "755 agent\n"


async def test_writing_replaces(vm):
    """A shorter content leaves nothing of the longer one; the mode is the new one, whatever it was."""
    await vm.write("f", b"longer")
    await out(vm, "chmod 000 f")
    await vm.write("f", b"short", 0o600)
    assert await vm.read("f", BIG) == b"short"
    assert await out(vm, "stat -c %a f") == "600\n"


async def test_closed_files_are_the_callers_too(vm):
    """Modes inside are for the code, not for who holds the vm."""
    await out(vm, "mkdir -p d && echo x > d/f && chmod 000 d/f d")
    assert await vm.read("d/f", BIG) == b"x\n"
    assert [entry.name for entry in await vm.list("d")] == ["f"]
    await vm.write("d/g", b"y")


async def test_list(vm):
    """A folder's entries come by name, with kind and size; also names that are no text."""
    await out(
        vm, "mkdir d; cd d; echo abc > file; mkdir folder; ln -s file link; mkfifo pipe; : > $'\\xff'; : > .hidden"
    )
    found = {entry.name: entry.kind for entry in await vm.list("d")}
    assert found == {
        ".hidden": "file", "file": "file", "folder": "folder", "link": "link", "pipe": "other", "\udcff": "file",
    }  # fmt: skip
    assert [entry.name for entry in await vm.list("d")] == sorted(found)
    sizes = {entry.name: entry.size_bytes for entry in await vm.list("d")}
    assert sizes["file"] == 4
    modified = {entry.name: entry.modified_s for entry in await vm.list("d")}["file"]
    assert abs(modified - float(await out(vm, "stat -c %.Y d/file"))) < 0.001
    assert await vm.list("d/folder") == []
    assert "agent" in [entry.name for entry in await vm.list("/home")]


async def test_list_of_many(vm):
    """A folder of twenty thousand names is listed, whatever messages can hold."""
    await out(vm, "import os\nfor n in range(20_000): os.mknod(f'{n:05}-' + 'x' * 200)", "python")
    assert len(await vm.list(".")) == 20_000


@pytest.mark.parametrize(
    "path", ["missing", "d", "pipe", "socket", "loop", "dangling", "f/g", "", "a\0b", "x" * 5000, "n" * 256]
)
async def test_what_cannot_be_read(vm, path):
    """Reading what is no regular file is refused at once: a pipe does not hang."""
    code = "mkdir d; mkfifo pipe; ln -s loop loop; ln -s nowhere dangling; echo x > f; "
    code += "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'"
    await out(vm, code)
    with anyio.fail_after(30), pytest.raises(BadRequest):
        await vm.read(path, BIG)


@pytest.mark.parametrize(
    "path", ["d", "pipe", "socket", "loop", "f/g", "", "a\0b", "x" * 5000, "n" * 256, "/", ".", ".."]
)
async def test_what_cannot_be_written(vm, path):
    """Writing to what is no regular file is refused at once, and changes nothing."""
    code = "mkdir d; mkfifo pipe; ln -s loop loop; echo x > f; "
    code += "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'"
    await out(vm, code)
    before = await vm.list(".")
    with anyio.fail_after(30), pytest.raises(BadRequest):
        await vm.write(path, b"x")
    assert await vm.list(".") == before


@pytest.mark.parametrize("path", ["missing", "f", "pipe", "/proc", "/dev", "/usr", "/proc/self/root", "/run"])
async def test_what_cannot_be_listed(vm, path):
    """Only folders of the vm's own are listed."""
    await out(vm, "echo x > f; mkfifo pipe")
    with pytest.raises(BadRequest):
        await vm.list(path)


async def test_too_big(vm):
    """A file beyond what the caller takes is refused, and says both sizes."""
    await vm.write("f", b"x" * 1001)
    assert len(await vm.read("f", 1001)) == 1001
    with pytest.raises(BadRequest, match="1001 bytes, more than 1000"):
        await vm.read("f", 1000)


async def test_a_file_that_grows(vm):
    """A file that grows while it is read gives no more than the caller takes."""
    started = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(
            lambda: run(vm, "echo x; while :; do echo yyyyyyyy >> f; done", on_output=lambda *_: started.set())
        )
        await started.wait()
        for _ in range(50):
            try:
                assert len(await vm.read("f", 1 << 16)) <= 1 << 16
            except BadRequest:
                break
        await vm.cancel()


async def test_links_stay_inside(vm, canary):
    """A link is followed inside the vm: an absolute one from the vm's root, and none leads out."""
    await vm.write("/srv/target", b"inside")
    await out(
        vm, "ln -s /srv/target absolute; mkdir d; ln -s ../../../../../../srv/target d/relative; ln -s /srv folder"
    )
    for path in ("absolute", "d/relative", "folder/target"):
        assert await vm.read(path, BIG) == b"inside"
    await vm.write("absolute", b"changed")
    assert await vm.read("/srv/target", BIG) == b"changed"
    await out(
        vm, f"ln -s {canary} out; ln -s {canary.parent} outside; ln -s /proc/1/root root; ln -s /proc/self/cwd cwd"
    )
    for path in (
        "out",
        "outside/canary",
        f"root{canary}",
        f"/proc/1/root{canary}",
        f"/proc/self/root{canary}",
        "cwd/x",
    ):
        with pytest.raises(BadRequest):
            await vm.read(path, BIG)
    for path in ("outside/new", f"/proc/1/root{canary}", "cwd/new"):
        try:
            await vm.write(path, b"x")
        except BadRequest:
            continue
        assert await vm.read(path, BIG) == b"x"  # it went to the same path inside


async def test_dots_stay_inside(vm, canary):
    """`..` stops at the vm's root."""
    await vm.write("../../../../../../../../top", b"x")
    assert await vm.read("/top", BIG) == b"x"
    assert [entry.name for entry in await vm.list("/../../..")] == [entry.name for entry in await vm.list("/")]
    with pytest.raises(BadRequest):
        await vm.read("../" * 30 + str(canary).lstrip("/"), BIG)


@pytest.mark.parametrize(
    "path",
    ["/proc/self/environ", "/proc/1/mem", "/proc/self/mem", "/dev/zero", "/dev/null", "/dev/tty", "/dev/shm/x",
     "/run/x", "/proc/kcore", "/usr/bin/env", "/proc/sys/kernel/hostname", "/dev/fd/0", "/dev/stdin"],
)  # fmt: skip
async def test_what_is_not_the_vms_own_files(vm, path):
    """Devices, /proc, shared memory and the host's programs are neither read nor written through the verbs."""
    await out(vm, "echo x > /dev/shm/x || true; echo x > /run/x || true; ln -s " + path + " link")
    for name in (path, "link"):
        with pytest.raises(BadRequest):
            await vm.read(name, BIG)
        with pytest.raises(BadRequest):
            await vm.write(name, b"x")


async def test_links_that_change_meanwhile(vm, canary):
    """Code that swaps folders for links, as fast as it can, never leads a verb out."""
    code = f"""
import os
os.makedirs("real/sub"); open("real/sub/canary", "w").write("inside")
os.symlink("{canary.parent}", "lure")
print("x", flush=True)
while True:
    os.rename("real", "spare"); os.symlink("{canary.parent.parent}", "real")
    os.unlink("real"); os.rename("spare", "real")
"""
    started = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: run(vm, code, "python", on_output=lambda *_: started.set()))
        await started.wait()
        for number in range(300):
            for path in (f"real/{canary.parent.name}/canary", "real/sub/canary"):
                with contextlib.suppress(BadRequest):
                    assert await vm.read(path, BIG) != SECRET
            with contextlib.suppress(BadRequest):
                await vm.write(f"real/{canary.parent.name}/new{number}", b"x")
        await vm.cancel()


async def test_odd_names(vm):
    """Names that break programs are written, listed, seen by code, and read back."""
    strings = json.loads(data("text-blns/blns.json").read_text())
    names = sorted(
        {s for s in strings if s and "/" not in s and "\0" not in s and s not in (".", "..") and len(s.encode()) < 256}
    )
    assert len(names) > 300
    for number, name in enumerate(names):
        await vm.write(f"odd/{name}", str(number).encode())
    assert [entry.name for entry in await vm.list("odd")] == names
    told = json.loads(await out(vm, "import json, os; print(json.dumps(sorted(os.listdir('odd'))))", "python"))
    assert told == names
    for number, name in enumerate(names):
        assert await vm.read(f"odd/{name}", BIG) == str(number).encode()


@pytest.mark.parametrize("name", ["deep_traversal", "directory_traversal", "traversals-8-deep-exotic-encoding"])
async def test_traversals(vm, canary, name):
    """No known way to write a path leads out; each is a file inside or a BadRequest. One in four, or all."""
    lines = (
        data(f"risk-payloads/Directory_Traversal__Intruder__{name}.txt")
        .read_text(errors="surrogateescape")
        .splitlines()
    )
    payloads = {line.replace("{FILE}", file) for line in lines for file in (str(canary), "canary")}
    for payload in sorted(payloads)[:: 1 if SOAK else 4]:
        with contextlib.suppress(BadRequest):
            assert await vm.read(payload, BIG) != SECRET
        with contextlib.suppress(BadRequest):
            await vm.write(payload, b"x")


@pytest.mark.parametrize("path", ["", "a\0b", "\ud800", "x" * 4001, "\udcff" * 4001])
async def test_what_is_no_path(vm, path):
    """Empty, NUL, more bytes than a path has, text that is no bytes: refused by every verb before the vm is asked."""
    for verb in (vm.read(path, BIG), vm.write(path, b"x"), vm.list(path)):
        with pytest.raises(InvalidArgument, match=r"path '"):
            await verb


async def test_verbs_do_not_wait_for_a_job(vm):
    """Files are written, read and listed while a job runs."""
    started = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: run(vm, "echo x; sleep 1000", on_output=lambda *_: started.set()))
        await started.wait()
        await vm.write("f", b"x")
        assert await vm.read("f", BIG) == b"x"
        assert [entry.name for entry in await vm.list(".")] == ["f"]
        await vm.cancel()
