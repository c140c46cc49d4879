"""Each setting does what docs/configuration.md says, over real vms: a setting that is ignored fails here."""

from pathlib import Path

import pytest

from rewindbox import config
from rewindbox.engine import AsyncRewindbox
from rewindbox.errors import ConfigError, LanguageRefused, TooManyVms, ValidationFailed, VmNotAvailable
from rewindbox.limits import Limits

pytestmark = pytest.mark.anyio

SHOWN = {
    "test_settings.py": (
        *(
            "agent_id",
            "enabled",
            "allowed_languages",
            "auto_provision",
            "vms_per_agent",
            "code_validation",
            "max_code_length",
        ),
        *("execution_timeout_ms", "max_text_chars", "session_checkpoints", "default_vm_type", "backend", "store"),
        *("history.enabled", "limits.wall_s", "limits.output_bytes"),
    ),
    "test_going_back.py": (
        *("history.snapshot_on_execution", "history.snapshot_on_failure", "history.auto_rollback_on_failure"),
    ),
    "test_what_history_keeps.py": ("history.max_history_entries", "history.persist_history"),
    "test_every_language.py": ("languages",),
    "test_cli_sessions.py": ("session_idle_s",),
    "../conformance/test_sessions.py": ("session_checkpoints_mib",),
    "../conformance/test_required.py": ("require",),
    "../conformance/test_jobs.py": (
        *("limits.cpu_s", "limits.memory_mib", "limits.processes", "limits.file_mib", "limits.open_files"),
        *("limits.disk_mib", "limits.inodes"),
    ),
    "test_pool.py": ("pool.min", "pool.max", "pool.per_agent", "pool.wait_s", "pool.executions", "pool.health_s"),
    "../server/test_server_leases.py": ("pool.lease_s",),
    "../unit/test_choosing.py": ("pool.age_s", "pool.idle_s"),
    "../unit/test_config.py": ("history.integration_mode", "vm_pool_size"),
}
"""Where each setting is seen to do what it says, in a real vm wherever it is about one. `api_base_url` is read by
nothing yet."""

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


async def test_vms_per_agent(store):
    """One more than an agent may have is refused by number; others are not concerned, and a removed one makes room."""
    async with holder(store, vms_per_agent=2) as box:
        vms = [await box.vm(name) for name in ("one", "two")]
        with pytest.raises(TooManyVms, match="'ann' has 2 vms, of at most 2; remove some"):
            await box.vm("three")
        assert (await box.vm("two")).id == vms[1].id
        await box.vm("four", agent_id="bob")
        await vms[0].remove()
        await box.vm("three")
        assert [vm.name for vm in await box.vms()] == ["two", "four", "three"]
    async with holder(store, vms_per_agent=0) as box:
        assert (await box.vm("five")).name == "five"


async def test_allowed_languages(store):
    """What is not in the list is refused by name and skipped in an answer; aliases count."""
    async with holder(store, allowed_languages=["py"]) as box:
        vm = await box.vm("one")
        assert (await vm.execute("python3", "print(1)")).stdout == "1\n"
        with pytest.raises(LanguageRefused, match="bash"):
            await vm.execute("bash", "true")
        assert [decision.skipped for decision in await box.plan("```bash\nls\n```\n")] == [
            "bash is not allowed; add it to allowed_languages"
        ]


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


async def test_max_text_chars(store):
    """A text of as many characters as allowed is read, one more is refused with both numbers, and nothing runs."""
    text = "é\n```bash\ntrue\n```"
    async with holder(store, max_text_chars=len(text)) as box:
        assert [decision.skipped for decision in await box.plan(text)] == [None]
        with pytest.raises(ValidationFailed, match=f"{len(text) + 1} characters, where {len(text)} are allowed"):
            await box.plan(f"{text}\n")
        with pytest.raises(ValidationFailed, match="characters"):
            async for _ in box.run(f"{text}\n", "one"):
                pytest.fail("it ran")
        assert await box.vms() == []


async def test_session_checkpoints(store):
    """So many points keep variables besides the newest; those before have files only."""
    async with holder(store, session_checkpoints=1) as box:
        vm = await box.vm("one")
        session = await vm.session()
        points = [(await session.execute(f"x = {n}")).after for n in range(4)]
        assert not set(points[:2]) & await vm.live_points()
        assert points[-1] in await vm.live_points()


@pytest.mark.parametrize(("key", "value"), [("default_vm_type", "windows-11"), ("backend", "qmeu"), ("store", 5)])
async def test_what_vms_are_made_of_is_checked(store, monkeypatch, key, value):
    """A type, a backend, a place that there is none of is named, with what may be said instead."""
    monkeypatch.delenv("REWINDBOX_BACKEND", raising=False)  # the environment is nearer than a role
    with pytest.raises(ConfigError, match=f"{value}") as caught:
        async with holder(None if key == "store" else store, {key: value}) as box:
            await box.vm("one")
    assert caught.value.remedy


def test_every_setting_is_shown_to_work():
    """Each stands in `SHOWN`, and the file there speaks of it; a new one has to be added, with its test."""
    known = {key for keys in SHOWN.values() for key in keys}
    assert known - {"languages"} == set(config.origins()) - {"api_base_url"}
    for path, keys in SHOWN.items():
        text = (Path(__file__).parent / path).read_text()
        assert not [key for key in keys if (name := key.rpartition(".")[2]) not in text and name.upper() not in text]
