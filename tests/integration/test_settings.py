"""Each setting does what docs/configuration.md says, over real vms: a setting that is ignored fails here."""

import pytest

from rewindbox.engine import AsyncRewindbox
from rewindbox.errors import LanguageRefused, ValidationFailed, VmNotAvailable
from rewindbox.limits import Limits

pytestmark = pytest.mark.anyio

SPIN = "while :; do :; done"


def holder(store, said=None, flag=None, **more):
    """The box of whoever holds a role that says so."""
    role = {"name": "ann", "extra": {"vm_execution": {"enabled": True, **(said or {}), **more}}}
    return AsyncRewindbox.from_role(role, store, limits=flag)


async def test_who_runs_is_the_role(store):
    """The role's name stands in history."""
    async with holder(store) as box:
        assert (await (await box.vm("one")).execute("bash", "true")).agent_id == "ann"


async def test_auto_provision_off(store):
    """An unknown vm is VmNotAvailable; one that somebody made is had as before."""
    async with holder(store, auto_provision=False) as box:
        with pytest.raises(VmNotAvailable, match="one"):
            await box.vm("one")
        made = await box.vm("one", create=True)
        assert (await box.vm("one")).id == made.id
        assert len(await box.vms()) == 1


async def test_allowed_languages(store):
    """What is not in the list is refused by name and skipped in an answer; aliases count."""
    async with holder(store, allowed_languages=["py"]) as box:
        vm = await box.vm("one")
        assert (await vm.execute("python3", "print(1)")).stdout == "1\n"
        with pytest.raises(LanguageRefused, match="bash"):
            await vm.execute("bash", "true")
        assert [decision.skipped for decision in box.plan("```bash\nls\n```\n")] == ["bash is not allowed; add it to allowed_languages"]


async def test_max_code_length(store):
    """Characters, not bytes: as many as allowed run, one more is refused and not recorded."""
    async with holder(store, max_code_length=10) as box:
        vm = await box.vm("one")
        assert (await vm.execute("bash", "echo äöüß€")).stdout == "äöüß€\n"
        with pytest.raises(ValidationFailed, match="11 characters"):
            await vm.execute("bash", "echo 123456")
        assert (await vm.history()).total == 1


@pytest.mark.parametrize("code", ["", " \n", "#" * 11])
async def test_code_validation(store, code):
    """On, blank and long code is refused; off, it runs."""
    async with holder(store, max_code_length=10) as box:
        with pytest.raises(ValidationFailed):
            await (await box.vm("one")).execute("bash", code)
    async with holder(store, max_code_length=10, code_validation=False) as box:
        assert (await (await box.vm("one")).execute("bash", code)).success


async def test_execution_timeout_counts_times_the_language(store):
    """Bash has one and a half of it, and is ended then."""
    async with holder(store, execution_timeout_ms=400) as box:
        ran = await (await box.vm("one")).execute("bash", SPIN)
    assert (ran.ended, ran.exit_code) == ("timeout", 124)
    assert ran.wall_s >= 0.6


@pytest.mark.parametrize("way", ["flag", "role"])
async def test_a_wall_clock_that_is_set_counts(store, way):
    """`limits.wall_s` stands instead of the configured time, whoever sets it."""
    said = {"limits": {"wall_s": 0.3}} if way == "role" else {}
    async with holder(store, said, Limits(wall_s=0.3) if way == "flag" else None) as box:
        ran = await (await box.vm("one")).execute("bash", SPIN)
    assert (ran.ended, ran.wall_s < 30) == ("timeout", True)


async def test_limits_of_a_role(store):
    """Another limit that a role sets holds."""
    async with holder(store, {"limits": {"output_bytes": 3}}) as box:
        ran = await (await box.vm("one")).execute("bash", "printf 12345")
    assert (ran.ended, ran.stdout) == ("output", "123")


async def test_nothing_is_recorded_with_history_off(store):
    """`history.enabled` false: it ran, and nobody knows."""
    async with holder(store, history={"enabled": False}) as box:
        vm = await box.vm("one")
        assert (await vm.execute("bash", "echo x")).stdout == "x\n"
        assert (await box.history()).total == 0
