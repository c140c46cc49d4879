"""Settings: order, types, unknown keys, and that they are the types of the original."""

import json
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from rewindbox import config
from rewindbox.engine import AsyncRewindbox
from rewindbox.errors import ConfigError, InvalidArgument, Refused
from rewindbox.limits import Limits
from rewindbox.models import HistoryConfig, VmExecutionConfig


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch, tmp_path):
    """Nothing of this machine's configuration is seen."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def write_file(tmp_path, text):
    (tmp_path / "rewindbox").mkdir()
    (tmp_path / "rewindbox" / "config.toml").write_text(text)


def test_defaults_are_those_of_the_original():
    """Settings and the pydantic types have the same names and defaults."""
    settings = asdict(config.load())
    for name, value in VmExecutionConfig().model_dump().items():
        assert settings[name] == value, name
    assert [entry.name for entry in fields(config.HistorySettings)] == list(HistoryConfig.model_fields)


def test_a_role_is_taken_over():
    """What a role says can be merged as it is."""
    role = VmExecutionConfig(max_code_length=5, history=HistoryConfig(auto_rollback_on_failure=True))
    settings = config.load(**role.model_dump(exclude_unset=True))
    assert (settings.max_code_length, settings.history.auto_rollback_on_failure) == (5, True)


def test_order_is_argument_environment_file_default(monkeypatch, tmp_path):
    """The nearest one wins, key by key, also inside tables."""
    write_file(tmp_path, 'max_code_length = 1\nagent_id = "file"\nvm_pool_size = 7\n[history]\nenabled = false\n')
    monkeypatch.setenv("REWINDBOX_MAX_CODE_LENGTH", "2")
    monkeypatch.setenv("REWINDBOX_AGENT_ID", "environment")
    monkeypatch.setenv("REWINDBOX_HISTORY_MAX_HISTORY_ENTRIES", "9")
    monkeypatch.setenv("REWINDBOX_LIMITS_WALL_S", "2")
    monkeypatch.setenv("REWINDBOX_ALLOWED_LANGUAGES", "python, bash")
    settings = config.load(max_code_length=3, agent_id=None)
    assert (settings.max_code_length, settings.agent_id, settings.vm_pool_size) == (3, "environment", 7)
    assert (settings.history.enabled, settings.history.max_history_entries) == (False, 9)
    assert settings.limits == Limits(wall_s=2.0)
    assert settings.allowed_languages == ["python", "bash"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("max_code_lenght = 5", "max_code_lenght"),
        ('max_code_length = "5"', "max_code_length"),
        ("max_code_length = -5", "max_code_length"),
        ('require = "seccomp"', "require"),
        ('require = ["seccomp", "armour"]', "armour"),
        ('require = ["memory_mib=watched"]', "memory_mib=watched"),
        ("max_code_length = true", "max_code_length"),
        ("enabled = 1", "enabled"),
        ("allowed_languages = [1]", "allowed_languages"),
        ("history = true", "history"),
        ("[history]\nenable = true", "history.enable"),
        ("[limits]\nwall = 1", "limits.wall"),
        ('default_vm_type = "windows"', "windows"),
        ("[pool]\nmax = 0", "pool.max"),
        ("[pool]\nhealth_s = 0.0", "pool.health_s"),
        ("[pool]\nsize = 3", "pool.size"),
        ('history.integration_mode = "http"', "history.integration_mode = 'http'"),
        ('history.integration_mode = "telnet"', "telnet"),
    ],
)
def test_wrong_keys_and_values_are_named(tmp_path, text, key):
    """An unknown key or a wrong type is an error that names key, value and remedy."""
    write_file(tmp_path, text)
    with pytest.raises(ConfigError, match=key) as caught:
        config.load()
    assert caught.value.remedy


def test_a_limit_of_nothing_is_refused(tmp_path):
    """Limits are above 0."""
    write_file(tmp_path, "[limits]\nwall_s = 0")
    with pytest.raises(InvalidArgument, match="wall_s"):
        config.load()


def test_unreadable_files_are_named(monkeypatch, tmp_path):
    """A file that is no TOML, and one that was named and is not there."""
    write_file(tmp_path, "this is not TOML")
    with pytest.raises(ConfigError, match=r"config\.toml"):
        config.load()
    monkeypatch.setenv("REWINDBOX_CONFIG", str(tmp_path / "nowhere.toml"))
    with pytest.raises(ConfigError, match="nowhere"):
        config.load()


def test_environment_of_the_wrong_type_is_named(monkeypatch):
    """What cannot be read as the setting's type stays a text, and is refused as one."""
    monkeypatch.setenv("REWINDBOX_VM_POOL_SIZE", "many")
    with pytest.raises(ConfigError, match="vm_pool_size = 'many'"):
        config.load()


def test_the_store_is_where_the_system_keeps_data(monkeypatch, tmp_path):
    """XDG by default, a folder of choice on request; always absolute."""
    assert config.load().folder == str(tmp_path / "data" / "rewindbox")
    monkeypatch.setenv("REWINDBOX_STORE", "~/somewhere")
    assert config.load().folder.endswith("/somewhere")
    assert config.load(store="here").folder.startswith("/")


ON = {"enabled": True, "max_code_length": 5}


@pytest.mark.parametrize(
    "role",
    [
        {"name": "ann", "vm_execution": ON},
        {"name": "ann", "extra": {"vm_execution": ON}},
        {"name": "ann", "extra": {"extra": {"vm_execution": ON}}},
    ],
)
def test_a_role_is_read_wherever_the_original_writes_it(role):
    """In itself, in its extra, in an extra inside that; its name is the agent's."""
    settings = AsyncRewindbox.from_role(role).settings
    assert (settings.max_code_length, settings.agent_id, settings.vm_pool_size) == (5, "ann", 1)


def test_true_is_enabled_with_defaults():
    """The short form."""
    settings = AsyncRewindbox.from_role({"name": "ann", "extra": {"vm_execution": True}}).settings
    assert asdict(settings) == asdict(config.load()) | {"enabled": True, "agent_id": "ann"}


@pytest.mark.parametrize(
    "extra", [{}, {"vm_execution": False}, {"vm_execution": {}}, {"vm_execution": {"enabled": False}}]
)
def test_a_role_that_is_not_enabled_is_refused(extra):
    """Whoever holds it is told that no code may run, and what would allow it."""
    with pytest.raises(Refused, match="'ann'") as caught:
        AsyncRewindbox.from_role({"name": "ann", "extra": extra})
    assert "enabled = true" in str(caught.value.remedy)


def test_the_environment_can_switch_a_role_off(monkeypatch):
    """It is nearer than a role."""
    monkeypatch.setenv("REWINDBOX_ENABLED", "false")
    with pytest.raises(Refused, match="'ann'"):
        AsyncRewindbox.from_role({"name": "ann", "extra": {"vm_execution": True}})


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"execution_timeout_ms": "5000"}, "the role has execution_timeout_ms = '5000'"),
        ({"allowed_languages": ["python", 1]}, "allowed_languages"),
        ({"history": True}, "history"),
        ({"security_settings": {}}, "security_settings"),
        ({"history": {"integration_mode": "telnet"}}, "integration_mode"),
        ("yes", "vm_execution = 'yes'"),
        (None, "vm_execution = None"),
    ],
)
def test_what_is_wrong_in_a_role_is_named(said, named):
    """Nothing in it falls back to a default in silence."""
    with pytest.raises(ConfigError, match=named) as caught:
        AsyncRewindbox.from_role({"name": "ann", "extra": {"vm_execution": said}})
    assert caught.value.remedy


@pytest.mark.parametrize("role", [[], "ann", {"extra": []}, {"extra": {"extra": 1}}, {"name": 5, "vm_execution": True}])
def test_what_is_no_role_is_named(role):
    """A role, an extra or a name of another type is a ConfigError."""
    with pytest.raises(ConfigError, match="the role"):
        AsyncRewindbox.from_role(role)


def test_a_role_stands_between_environment_and_file(monkeypatch, tmp_path):
    """Flag, environment, role, file, default: key by key, and `origins` says which it was."""
    write_file(tmp_path, "max_code_length = 1\nvm_pool_size = 1\nauto_provision = false\n[history]\nenabled = false\n")
    monkeypatch.setenv("REWINDBOX_MAX_CODE_LENGTH", "3")
    said = {"enabled": True, "max_code_length": 2, "vm_pool_size": 2, "history": {"max_history_entries": 2}}
    flags = {"limits": Limits(wall_s=4), "agent_id": "bob"}
    settings = AsyncRewindbox.from_role({"name": "ann", "vm_execution": said}, **flags).settings
    assert (settings.max_code_length, settings.vm_pool_size, settings.auto_provision) == (3, 2, False)
    assert (settings.history.enabled, settings.history.max_history_entries) == (False, 2)
    assert (settings.limits.wall_s, settings.agent_id) == (4, "bob")
    origins = config.origins(config.of_role({"name": "ann", "vm_execution": said}), **flags)
    assert {key: place for key, place in origins.items() if place != "default"} == {
        **{"max_code_length": "environment", "vm_pool_size": "role", "auto_provision": "file", "enabled": "role"},
        **{"history.enabled": "file", "history.max_history_entries": "role", "agent_id": "flag"},
        **{f"limits.{entry.name}": "flag" for entry in fields(Limits)},
    }


@pytest.mark.parametrize("name", ["host", "focal-optimized", "ubuntu-22.04", "bionic", "terraphim-minimal"])
def test_the_vm_types_of_the_original_are_known(name):
    """They all mean the host's own system, until there are images."""
    assert config.load(default_vm_type=name).default_vm_type == name


def test_every_setting_is_documented():
    """docs/configuration.md has a row for each: key, type, unit, default, environment."""
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    defaults = config.as_dict(config.Settings()) | {"store": ""}
    flat = {key: value for key, value in defaults.items() if not isinstance(value, dict)}
    for part in ("history", "limits", "pool"):
        flat |= {f"{part}.{key}": value for key, value in defaults[part].items()}
    for key, value in flat.items():
        row = next((line for line in text.splitlines() if line.startswith(f"| `{key}` ")), None)
        assert row is not None, key
        assert f"`REWINDBOX_{key.replace('.', '_').upper()}`" in row, key
        assert f"`{json.dumps(value)}`" in row, key
