"""A program that never comes to its gate, on a host that has no time for it."""

from pathlib import Path

import pytest

from rewindbox.backends.namespace import starting
from rewindbox.engine import AsyncRewindbox
from rewindbox.errors import ExecutionFailed

pytestmark = pytest.mark.anyio


@pytest.fixture
def busy(monkeypatch, store) -> Path:
    """While this file is there, supervisors find nobody at the gate. Their folder is that of their vm; the store's own
    folder, where root made it, they do not see."""
    lines = (
        "import os, sys; sys.path.append(sys.argv[1])",
        "from rewindbox.backends.namespace import launcher, spawner",
        "looks = spawner.Spawner._looks",
        "spawner.Spawner._looks = lambda found: iter(()) if os.path.exists('../busy') else looks(found)",
        "launcher.main()",
    )
    monkeypatch.setattr(starting, "_BOOT", "\n".join(lines))
    return Path(store, "vms", "busy")


async def test_what_could_not_be_started_says_so(busy, store):
    """It is a result that says why, nothing of it runs afterwards, and the vm goes on."""
    async with AsyncRewindbox(store) as box:
        vm = await box.vm("one")
        assert (await vm.execute("bash", "echo 1")).stdout == "1\n"
        busy.touch()
        kept = await vm.execute("bash", "echo started > f")
        assert (kept.ended, kept.exit_code) == ("killed", 137)
        assert "could not be started" in str(kept.error)
        busy.unlink()
        assert (await vm.execute("bash", "cat f; ps -e -o comm= > there; grep -c bash there")).stdout == "1\n"


async def test_a_session_that_could_not_be_started_says_so(busy, store):
    """No session comes of it, and one does when there is time again."""
    async with AsyncRewindbox(store) as box:
        vm = await box.vm("one")
        await vm.execute("bash", "true")
        busy.touch()
        with pytest.raises(ExecutionFailed, match="no session can begin: the host has no room or no time"):
            await vm.session()
        busy.unlink()
        assert (await (await vm.session()).execute("6 * 7")).result == "42"


async def test_a_python_that_does_not_start_says_so(monkeypatch, store):
    """Where python ends at once no session begins; the error says where to look."""
    lines = (
        "import sys; sys.path.append(sys.argv[1])",
        "from rewindbox.backends.namespace import launcher, template",
        "template._COMMAND = ('/bin/false',)",
        "launcher.main()",
    )
    monkeypatch.setattr(starting, "_BOOT", "\n".join(lines))
    async with AsyncRewindbox(store) as box:
        vm = await box.vm("one")
        for _ in range(3):
            with pytest.raises(ExecutionFailed, match=r"no session can begin .*see whether python starts"):
                await vm.execute("python", "1", session="s")
        assert (await vm.execute("bash", "echo 1")).stdout == "1\n"
