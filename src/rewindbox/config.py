"""Settings: what a flag, the environment, the configuration file and the defaults say, in this order.

Names, meaning and defaults are those of the seed's `VmExecutionConfig` and `HistoryConfig` (`models.py`), plus
where the store is. Plain dataclasses here: pydantic would cost the command line more than its work. A wrong
type or an unknown key is a ConfigError that names key, value and remedy; nothing is guessed.
"""

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from rewindbox.errors import ConfigError
from rewindbox.language import Table
from rewindbox.languages import LANGUAGES
from rewindbox.limits import REQUIREMENTS, Limits

PREFIX = "REWINDBOX_"
_ENVIRONMENT = "the environment"
_NOT_SETTINGS = ("REWINDBOX_CONFIG", "REWINDBOX_DEBUG", "REWINDBOX_TEST_DATA")


@dataclass(frozen=True, kw_only=True, slots=True)
class HistorySettings:
    """The seed's HistoryConfig."""

    enabled: bool = True
    snapshot_on_execution: bool = False
    snapshot_on_failure: bool = True
    auto_rollback_on_failure: bool = False
    max_history_entries: int = 100
    persist_history: bool = True
    integration_mode: str = "http"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything that can be set."""

    store: str = ""
    """Folder of history and vms; empty: `$XDG_DATA_HOME/rewindbox`, or `~/.local/share/rewindbox`."""
    backend: str = "namespace"
    agent_id: str = "local"
    """Who runs, where a call does not say."""
    require: list[str] = field(default_factory=list)
    """Barriers and hard limits (`limits.REQUIREMENTS`) without which no vm starts."""
    max_text_chars: int = 20_000_000
    """Longest answer in which we look for code."""
    session_idle_s: float = 900.0
    """So long after the last command, live sessions of the command line end."""
    session_checkpoints: int = 16
    """Checkpoints that a vm keeps of its live sessions, besides the newest and the named ones."""
    session_checkpoints_mib: int = 512
    """Memory for all of them; the oldest go first."""
    enabled: bool = False
    api_base_url: str = "http://localhost:8080"
    vm_pool_size: int = 1
    default_vm_type: str = "focal-optimized"
    execution_timeout_ms: int = 30_000
    allowed_languages: list[str] = field(default_factory=lambda: ["python", "javascript", "bash", "rust"])
    languages: Table = field(default_factory=lambda: LANGUAGES)
    """Those that we ship, with what `[languages.NAME]` of the configuration file adds or changes."""
    auto_provision: bool = True
    code_validation: bool = True
    max_code_length: int = 10_000
    history: HistorySettings = field(default_factory=HistorySettings)
    limits: Limits = field(default_factory=Limits)

    @property
    def folder(self) -> str:
        """The store's folder, absolute."""
        if self.store:
            return os.path.abspath(os.path.expanduser(self.store))
        base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
        return os.path.join(base, "rewindbox")


def load(**given: Any) -> Settings:
    """Settings from keyword arguments (None: not given), then environment, then file, then defaults.

    Raises ConfigError: a file that cannot be read, an unknown key, a value of the wrong type.
    """
    settings = merge(Settings(), _from_file(), "the configuration file")
    settings = merge(settings, _from_environment(os.environ), _ENVIRONMENT)
    return merge(settings, {key: value for key, value in given.items() if value is not None}, "an argument")


def file_path() -> str:
    """Where the configuration file is looked for."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.environ.get("REWINDBOX_CONFIG") or os.path.join(base, "rewindbox", "config.toml")


def merge(settings: Settings, values: Mapping[str, Any], origin: str) -> Settings:
    """`settings` with `values` over them; a table in `values` is merged key by key."""
    merged = _merge(settings, values, origin, "")
    assert isinstance(merged, Settings)
    return merged


def _merge(target: Any, values: Mapping[str, Any], origin: str, above: str) -> Any:
    known = {entry.name: entry for entry in fields(target)}
    changes = {}
    for key, value in values.items():
        if key not in known:
            shown = "" if origin == _ENVIRONMENT else f" = {value!r}"  # it may be a secret of somebody else's
            raise ConfigError(
                f"{origin} has the unknown key {above}{key}{shown}",
                remedy=f"choose one of {', '.join(known)}",
            )
        old = getattr(target, key)
        if isinstance(old, Table) and not isinstance(value, Table):
            changes[key] = old.changed(_table(value, f"{above}{key}", origin), origin)
        elif isinstance(old, (HistorySettings, Limits)) and not isinstance(value, type(old)):
            changes[key] = _merge(old, _table(value, f"{above}{key}", origin), origin, f"{above}{key}.")
        else:
            changes[key] = _checked(value, old, f"{above}{key}", origin)
    return replace(target, **changes)


def _table(value: Any, key: str, origin: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{origin} has {key} = {value!r}", remedy="give a table of keys and values")
    return value


def _checked(value: Any, old: Any, key: str, origin: str) -> Any:
    """`value` where it is of the type of `old`; a whole number also where a fraction may stand."""
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    right = type(value) is type(old) and (not isinstance(old, list) or all(isinstance(entry, str) for entry in value))
    if not right or (isinstance(old, (int, float)) and not isinstance(old, bool) and value < 0):
        raise ConfigError(f"{origin} has {key} = {value!r}", remedy=f"give {_EXPECTED[type(old)]}")
    if key == "require":
        _check_requirements(value, origin)
    return value


def _check_requirements(names: list[str], origin: str) -> None:
    for name in names:
        if name not in REQUIREMENTS:
            raise ConfigError(f"{origin} has require = {name!r}", remedy=f"choose from {', '.join(REQUIREMENTS)}")


_EXPECTED: dict[type, str] = {
    bool: "true or false",
    int: "a whole number of 0 or more",
    float: "a number of 0 or more",
    str: "a text",
    list: "a list of texts",
    HistorySettings: "a table",
    Limits: "a table",
    Table: "a table",
}


def _from_file() -> dict[str, Any]:
    path = file_path()
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError as error:
        if "REWINDBOX_CONFIG" in os.environ:
            raise ConfigError(f"no configuration file {path}", remedy="correct or unset REWINDBOX_CONFIG") from error
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", remedy="correct it or remove it") from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """REWINDBOX_MAX_CODE_LENGTH=5, REWINDBOX_HISTORY_ENABLED=false, REWINDBOX_LIMITS_WALL_S=2 ..."""
    values: dict[str, Any] = {}
    for name, text in environment.items():
        if name.startswith(PREFIX) and name not in _NOT_SETTINGS:
            _place(values, name.removeprefix(PREFIX).lower(), text)
    return values


def _place(values: dict[str, Any], key: str, text: str) -> None:
    default: Any = Settings()
    for part in ("history", "limits"):
        if key.startswith(f"{part}_"):
            default, key = getattr(default, part), key.removeprefix(f"{part}_")
            values = values.setdefault(part, {})
    values[key] = _parsed(text, getattr(default, key, ""))


def _parsed(text: str, like: Any) -> Any:
    """A text as the type of `like`, or unchanged where it is none: the check then names it."""
    parse: dict[type, Callable[[str], Any]] = {
        bool: lambda text: {"true": True, "1": True, "false": False, "0": False}[text.lower()],
        int: int,
        float: float,
        list: lambda text: [part.strip() for part in text.split(",") if part.strip()],
    }
    try:
        return parse.get(type(like), str)(text)
    except (ValueError, KeyError):
        return text


def as_dict(settings: Settings) -> dict[str, Any]:
    """Every setting as it is in force (of languages what differs from ours), for `config show`."""
    languages = settings.languages.changes(LANGUAGES)
    return {**asdict(settings), "store": settings.folder, "languages": languages}
