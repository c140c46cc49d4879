"""Settings: order, types, unknown keys, and that they are the types of the original."""

from dataclasses import asdict, fields

import pytest

from rewindbox import config
from rewindbox.errors import ConfigError, InvalidArgument
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
