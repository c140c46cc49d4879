"""What a configuration requires of the host holds, or no vm starts."""

import os

import pytest

import skeletons
from conftest import out, remove
from rewindbox import AsyncRewindbox, backends
from rewindbox.errors import BadRequest, HostUnsupported
from rewindbox.limits import BARRIERS

pytestmark = pytest.mark.anyio


async def test_what_is_there_may_be_required(backend_name, anyio_backend, tmp_path):
    """All barriers that stand and all limits that are hard, required at once, let a vm start as without."""
    folder = str(skeletons.lend(tmp_path / "vms"))
    asked = backends.load(backend_name, folder, spare=False)
    barriers, limits = await asked.barriers(), await asked.limits()
    await asked.close()
    assert [barrier.name for barrier in barriers] == list(BARRIERS)
    names = [barrier.name for barrier in barriers if barrier.stands]
    names += [f"{report.limit}=hard" for report in limits if report.enforcement == "hard"]
    assert {"seccomp", "no_new_privs", "capabilities", "kernel_ids", "processes=hard"} <= set(names)
    made = backends.load(backend_name, folder, require=names)
    try:
        assert await out(await made.create("vm_required"), "echo fine") == "fine\n"
    finally:
        await made.close()
        remove(tmp_path / "vms")


async def test_what_is_not_there_stops_everything(store, monkeypatch):
    """A limit that is only watched, required as hard: HostUnsupported with cause and remedy, and nothing ran."""
    monkeypatch.setenv("REWINDBOX_REQUIRE", "seccomp, wall_s=hard")
    async with AsyncRewindbox(store) as box:
        vm = await box.vm("v")
        with pytest.raises(HostUnsupported, match="wall_s is watched") as caught:
            await vm.execute("bash", "echo ran > /tmp/ran")
        assert "require" in str(caught.value.remedy)
    monkeypatch.delenv("REWINDBOX_REQUIRE")
    async with AsyncRewindbox(store) as box:
        assert (await (await box.vm("v")).execute("bash", "ls /tmp/ran")).exit_code == 2


async def test_a_session_does_not_undo_what_is_required(store, monkeypatch):
    """Live sessions do not wear Landlock: where it is required they are refused, and jobs go on."""
    async with AsyncRewindbox(store) as box:
        stands = {barrier.name: barrier.stands for barrier in await box._opened().backend.barriers()}
    if not stands["landlock"]:
        pytest.skip("this kernel has no Landlock")
    monkeypatch.setenv("REWINDBOX_REQUIRE", "landlock")
    async with AsyncRewindbox(store) as box:
        vm = await box.vm("v")
        with pytest.raises(BadRequest, match="landlock is required"):
            await (await vm.session()).execute("1")
        assert (await vm.execute("bash", "echo fine")).stdout == "fine\n"


async def test_hard_memory_may_be_required_where_it_is(store, monkeypatch):
    """`memory_mib=hard` starts a vm exactly where doctor says hard; elsewhere the remedy names a way to get it."""
    monkeypatch.setenv("REWINDBOX_REQUIRE", "memory_mib=hard")
    async with AsyncRewindbox(store) as box:
        reports = {report.limit: report.enforcement for report in await box._opened().backend.limits()}
        vm = await box.vm("v")
        if reports["memory_mib"] == "hard":
            assert (await vm.execute("bash", "echo fine")).stdout == "fine\n"
        else:
            assert os.getuid()
            with pytest.raises(HostUnsupported) as caught:
                await vm.execute("bash", "echo fine")
            assert "control group" in str(caught.value.remedy)
