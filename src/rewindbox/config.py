"""Settings: what a flag, the environment, a role, the configuration file and the defaults say, in this order.

Names, meaning and defaults are those of the seed's `VmExecutionConfig` and `HistoryConfig` (`models.py`), plus
where the store is. Plain dataclasses here: pydantic would cost the command line more than its work. A wrong
type or an unknown key is a ConfigError that names key, value and remedy; nothing is guessed.
"""

import os
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from rewindbox.errors import ConfigError, Refused
from rewindbox.language import Table
from rewindbox.languages import LANGUAGES
from rewindbox.limits import REQUIREMENTS, Limits, with_wall

PREFIX = "REWINDBOX_"
_PLACES = {
    "file": "the configuration file",
    "role": "the role",
    "environment": "the environment",
    "flag": "an argument",
}
"""Where a value can come from, the nearest last, and how a message calls it."""
_ABOVE_0 = ("pool.max", "pool.per_agent", "pool.health_s", "pool.lease_s")
_NOT_SETTINGS = (
    *("REWINDBOX_CONFIG", "REWINDBOX_DEBUG", "REWINDBOX_TEST_DATA"),
    *("REWINDBOX_SERVER", "REWINDBOX_TOKEN"),  # where a command asks, and what lets it
)
SHARED = (
    *("max_text_chars", "execution_timeout_ms", "allowed_languages", "languages", "auto_provision", "code_validation"),
    *("max_code_length", "history", "limits"),
)
"""What concerns executions wherever they run: a server tells it, and what is set at its client goes over it."""


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
class PoolSettings:
    """How many vms the pool has, and for how long. How many are ready ahead is `vm_pool_size`."""

    min: int = 2
    """So many stay ready when nobody asks; at most `vm_pool_size`."""
    max: int = 10
    """So many run at once, ready, used and resting."""
    per_agent: int = 3
    """So many one agent may hold at once."""
    wait_s: float = 5.0
    """So long a request waits for one."""
    executions: int = 50
    """After so many, its agent gets a new one; 0: never. Those that history has."""
    age_s: float = 7200.0
    """As old as that, its agent gets a new one."""
    idle_s: float = 300.0
    """Unused for so long it is stopped; its files stay."""
    health_s: float = 30.0
    """So often each one that nobody uses is asked whether it is well."""
    lease_s: float = 600.0
    """A client of the service that holds one and has asked nothing of it for so long is taken to be gone."""


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
    vms_per_agent: int = 1000
    """So many an agent may have, running or not; 0: any number. Those that the pool lends have a bound of their own."""
    code_validation: bool = True
    max_code_length: int = 10_000
    history: HistorySettings = field(default_factory=HistorySettings)
    limits: Limits = field(default_factory=Limits)
    pool: PoolSettings = field(default_factory=PoolSettings)

    def limits_of(self, multiplier: float, given: Limits | None, timeout_s: float | None) -> Limits:
        """Those of one execution: as given, or as configured, with the time of a language."""
        if given is None:
            given = with_wall(self.limits, self.execution_timeout_ms / 1000 * multiplier)
        return given if timeout_s is None else replace(given, wall_s=timeout_s)

    @property
    def folder(self) -> str:
        """The store's folder, absolute."""
        if self.store:
            return os.path.abspath(os.path.expanduser(self.store))
        base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
        return os.path.join(base, "rewindbox")


def check_owner(folder: str) -> None:
    """That nobody else can have put anything into a store's folder, as far as it is there. Raises ConfigError.

    Root is no exception: what an ordinary user has planted in it would act with root's rights.
    """
    for path in (folder, os.path.join(folder, "locks"), os.path.join(folder, "history.db")):
        try:
            status = os.stat(path, follow_symlinks=path == folder)
        except OSError:  # not there yet; what else it is, whoever opens it says better
            continue
        if status.st_uid != os.geteuid():
            raise ConfigError(
                f"the store {folder} is not this user's: {path} belongs to uid {status.st_uid}, not {os.geteuid()}",
                remedy="run as its owner, or choose another with REWINDBOX_STORE",
            )
        if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_IWOTH:
            raise ConfigError(f"the store's folder {path} can be written by every user", remedy=f"chmod go-w {path}")


_PARTS = (HistorySettings, Limits, PoolSettings)
"""Tables inside the settings."""


def load(role: Mapping[str, Any] | None = None, **given: Any) -> Settings:
    """Settings from keyword arguments (None: not given), then environment, role, file, defaults.

    `role`: what `of_role` found in one.

    Raises ConfigError: a file that cannot be read, an unknown key, a value that is not acceptable.
    """
    settings = Settings()
    for place, values in _layers(role, given):
        settings = merge(settings, values, _PLACES[place])
    return settings


def origins(role: Mapping[str, Any] | None = None, **given: Any) -> dict[str, str]:
    """Where each setting (`history.enabled` ...) comes from: flag, environment, role, file, default."""
    found = dict.fromkeys(_flat(as_dict(Settings())), "default")
    for place, values in _layers(role, given):
        found |= dict.fromkeys(_flat(values), place)
    return found


def of_box(config: Any, role: Mapping[str, Any] | None, **over: Any) -> Settings:
    """Those of a box: `config` is a VmExecutionConfig, in which what is set counts, `over` is over it.

    Raises ConfigError. Refused: the role does not allow code to be run.
    """
    settings = load(_of(role), **_arguments(config, over))
    if role is not None:
        check_role(role, settings)
    return settings


def chosen_of_box(config: Any, role: Mapping[str, Any] | None, **over: Any) -> dict[str, Any]:
    """What is said anywhere, of tables key by key: settings without the defaults. Arguments as of `of_box`."""
    found: dict[str, Any] = {}
    for _, values in _layers(_of(role), _arguments(config, over)):
        for key, value in values.items():
            table = asdict(value) if isinstance(value, (HistorySettings, Limits)) else value
            old = found.get(key)
            both = isinstance(table, Mapping) and isinstance(old, Mapping)
            found[key] = {**dict(old or {}), **table} if both else table
    return found


def goes_to_server(config: Any = None, role: Mapping[str, Any] | None = None, **_: object) -> bool:
    """Whether a role or an argument says that vms are at a server; nothing else may say so. Arguments of a box."""
    if role is None and config is None:
        return False
    history = chosen_of_box(config, role).get("history")
    return isinstance(history, Mapping) and history.get("integration_mode") == "http"


def _of(role: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if role is None else of_role(role)


def _arguments(config: Any, over: Mapping[str, Any]) -> dict[str, Any]:
    return {**(config.model_dump(exclude_unset=True) if config is not None else {}), **over}


def is_url(store: object) -> bool:
    """Whether a store is at a server, not in a folder."""
    return isinstance(store, str) and store.lower().startswith(("http://", "https://"))


def of_role(role: Mapping[str, Any]) -> dict[str, Any]:
    """What a role says about running code: its `vm_execution`, and its name as the agent's.

    It stands in the role itself, in its `extra`, or in an `extra` inside that: the original writes all three.
    A table, or `true` for a table with only `enabled = true`; `false` likewise. A role without it says nothing.

    Raises ConfigError: the role, an `extra` or `vm_execution` is of another type.
    """
    name = role.get("name") if isinstance(role, Mapping) else None
    agent = {"agent_id": name} if name else {}
    place: Any = role
    for _ in range(3):
        table = _table(place, "extra", _PLACES["role"])
        if "vm_execution" in table:
            said = table["vm_execution"]
            values = {"enabled": said} if isinstance(said, bool) else _table(said, "vm_execution", _PLACES["role"])
            return {**agent, **values}
        place = table.get("extra", {})
    return agent


def check_role(role: Mapping[str, Any], settings: Settings) -> None:
    """Raises Refused: with all that is in force, the holder of this role is not to run code."""
    if not settings.enabled:
        raise Refused(
            f"the role {role.get('name')!r} may not run code", remedy="set enabled = true in its extra.vm_execution"
        )


def _layers(role: Mapping[str, Any] | None, given: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """What each place says, the nearest last."""
    return [
        ("file", _from_file()),
        ("role", role or {}),
        ("environment", _from_environment(os.environ)),
        ("flag", {key: value for key, value in given.items() if value is not None}),
    ]


def _flat(values: Mapping[str, Any], above: str = "") -> list[str]:
    """The names of all values, those of a table with its name before them."""
    names: list[str] = []
    for key, value in values.items():
        table = asdict(value) if isinstance(value, _PARTS) else value
        names += _flat(table, f"{above}{key}.") if isinstance(table, Mapping) else [above + key]
    return names


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
            shown = "" if origin == _PLACES["environment"] else f" = {value!r}"  # it may be a secret of somebody else's
            raise ConfigError(
                f"{origin} has the unknown key {above}{key}{shown}",
                remedy=f"choose one of {', '.join(known)}",
            )
        old = getattr(target, key)
        if isinstance(old, Table) and not isinstance(value, Table):
            changes[key] = old.changed(_table(value, f"{above}{key}", origin), origin)
        elif isinstance(old, _PARTS) and not isinstance(value, type(old)):
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
    if key in _ABOVE_0 and not value:
        raise ConfigError(f"{origin} has {key} = {value!r}", remedy="give a number above 0")
    if key in _CHECKS:
        _CHECKS[key](value, origin)
    return value


def _check_requirements(names: list[str], origin: str) -> None:
    for name in names:
        if name not in REQUIREMENTS:
            raise ConfigError(f"{origin} has require = {name!r}", remedy=f"choose from {', '.join(REQUIREMENTS)}")


def _check_vm_type(name: str, origin: str) -> None:
    """The images of the original do not exist; what they are used for, the host's own system does."""
    if name not in ("host", "terraphim-minimal") and not name.startswith(("focal", "ubuntu", "bionic")):
        raise ConfigError(
            f"{origin} has default_vm_type = {name!r}",
            remedy="give host, or focal..., ubuntu..., bionic..., which mean it",
        )


def _check_mode(mode: str, origin: str) -> None:
    """Whoever says http wants code to run at a server; running it here instead would be a surprise."""
    if mode not in ("http", "direct"):
        raise ConfigError(f"{origin} has history.integration_mode = {mode!r}", remedy='give "http" or "direct"')
    if mode == "http" and origin in (_PLACES["file"], _PLACES["environment"]):
        raise ConfigError(
            f"{origin} has history.integration_mode = 'http', which is a role's to say",
            remedy="name the server instead: REWINDBOX_SERVER, --server, or its URL where a store is named",
        )


_CHECKS: dict[str, Callable[[Any, str], None]] = {
    "require": _check_requirements,
    "default_vm_type": _check_vm_type,
    "history.integration_mode": _check_mode,
}
_EXPECTED: dict[type, str] = {
    bool: "true or false",
    int: "a whole number of 0 or more",
    float: "a number of 0 or more",
    str: "a text",
    list: "a list of texts",
    HistorySettings: "a table",
    PoolSettings: "a table",
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
    for part in ("history", "limits", "pool"):
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
