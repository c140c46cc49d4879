"""What a language is, and the table of those that are known: names and aliases, changed by what a user configures.

Nothing here runs anything; a backend does.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from rewindbox.errors import ConfigError, UnsupportedLanguage

_NAME = re.compile(r"[a-z0-9][a-z0-9+#._-]{0,31}")
_EXTENSION = re.compile(r"[A-Za-z0-9]{1,16}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """How a language is run. A command is a list of words; see `languages.py` for what may stand in them."""

    name: str
    aliases: tuple[str, ...] = ()
    extension: str
    program: str
    """What the host must have on the vm's PATH."""
    alternatives: tuple[str, ...] = ()
    """Programs that do as well; the first that is there is `{program}`."""
    compile: tuple[str, ...] = ()
    """Run first, where it is not empty; its failure is the block's failure."""
    run: tuple[str, ...]
    timeout_multiplier: float = 1.0
    """Times the wall clock of the limits, where the caller did not set one."""
    environment: dict[str, str] = field(default_factory=dict)
    """Added to the vm's own; what the caller of an execution gives wins."""
    session: Literal["live", "saved"] | None = None
    """How its sessions keep their variables: in a process that stays, or in a file of the vm; None: it has none."""
    common_packages: tuple[str, ...] = ()
    restrictions: tuple[str, ...] = ()
    """Words that the original refuses to run. Kept as data: the vm is the barrier, not these."""
    package: str = ""
    """What Debian calls what has to be installed."""
    hello: str = ""
    """A program that prints `hello`, by which `doctor` tries it; empty: it is not tried."""

    @property
    def names(self) -> tuple[str, ...]:
        """All it is called, its name first."""
        return (self.name, *self.aliases)

    @property
    def programs(self) -> tuple[str, ...]:
        """What may run it, in the order in which it is looked for."""
        return (self.program, *self.alternatives)


_SETTABLE = {entry.name: entry for entry in fields(Language) if entry.name not in ("name", "session")}
_EXPECTED = {"float": "a number above 0", "str": "a text", "dict": "a table of texts", "tuple": "a list of texts"}


class Table(Mapping[str, Language]):
    """Languages by name. Never changed: `changed` makes another."""

    def __init__(self, rows: Iterable[Language], origin: str = "the table") -> None:
        """Raises ConfigError: two languages have a name in common."""
        self._rows = {language.name: language for language in rows}
        self._by_alias: dict[str, str] = {}
        for language in self._rows.values():
            for name in language.names:
                other = self._by_alias.setdefault(name, language.name)
                if other != language.name:
                    raise ConfigError(
                        f"{origin} has languages in which {name!r} would mean both {other} and {language.name}",
                        remedy="give it to one language only",
                    )

    def __getitem__(self, name: str) -> Language:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def canonical(self, name: str) -> str:
        """The table's name for `name` in any case, or `name` itself in lower case where the table has none."""
        lowered = name.strip().lower()
        return self._by_alias.get(lowered, lowered)

    def find(self, name: str) -> Language:
        """The language called `name` (or one of its aliases, in any case).

        Raises:
            UnsupportedLanguage: the table has no such language; the text lists those it has.
        """
        try:
            return self._rows[self.canonical(name)]
        except KeyError:
            known = ", ".join(sorted(self))
            raise UnsupportedLanguage(
                repr(name), remedy=f"choose one of {known}, or add it to the configuration as [languages.NAME]"
            ) from None

    def changed(self, values: Mapping[str, Any], origin: str) -> "Table":
        """This table with rows added, or single fields of its rows replaced, as a user configures them.

        Args:
            values: Name -> field -> value; lists where a `Language` has tuples. A new one needs `extension` and `run`.
            origin: Where they come from, for the text of an error.

        Raises ConfigError: an unknown field, a value that is none, a name or alias that means another language.
        """
        rows = dict(self._rows)
        for name, value in values.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise _wrong(origin, "languages", name, "name it in lower case, with digits and + # . _ - (at most 32)")
            if name not in rows and name in self._by_alias:
                raise _wrong(origin, "languages", name, f"it is an alias: say [languages.{self._by_alias[name]}]")
            rows[name] = _row(name, rows.get(name), value, origin)
        return Table(rows.values(), origin)

    def changes(self, other: "Table") -> dict[str, dict[str, Any]]:
        """What `other.changed` would make this table from: the fields that differ."""
        found: dict[str, dict[str, Any]] = {}
        for name, language in self.items():
            old = other.get(name)
            differing = [key for key in _SETTABLE if old is None or getattr(language, key) != getattr(old, key)]
            if differing:
                found[name] = {key: _plain(getattr(language, key)) for key in differing}
        return found


def _row(name: str, old: Language | None, values: Any, origin: str) -> Language:
    above = f"languages.{name}"
    if not isinstance(values, Mapping):
        raise _wrong(origin, above, values, "give a table of keys and values")
    given = {key: _value(above, key, value, origin) for key, value in values.items()}
    command = given.get("compile") or given.get("run")
    if command and "program" not in given and command[0] != "{program}":
        given["program"] = command[0]
    missing = [key for key in ("extension", "run", "program") if old is None and key not in given]
    if missing:
        raise ConfigError(f"{origin} has {above} without {missing[0]}", remedy=f"give {above}.{missing[0]}")
    made = replace(old, **given) if old is not None else Language(name=name, **given)
    _check(made, above, origin)
    return made


def _value(above: str, key: str, value: Any, origin: str) -> Any:
    if key not in _SETTABLE:
        raise ConfigError(
            f"{origin} has the unknown key {above}.{key} = {value!r}", remedy=f"choose one of {', '.join(_SETTABLE)}"
        )
    kind = _kind(key)
    if kind == "float":
        right = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e6
    elif kind == "str":
        right = _is_text(value)
    elif kind == "dict":
        right = isinstance(value, Mapping) and all(_is_text(text) for pair in value.items() for text in pair)
    else:
        right = isinstance(value, (list, tuple)) and all(map(_is_text, value))
    if not right:
        raise _wrong(origin, f"{above}.{key}", value, f"give {_EXPECTED[kind]}")
    return {"float": float, "str": str, "dict": dict, "tuple": tuple}[kind](value)


def _kind(key: str) -> str:
    """How a field is written: `tuple`, `dict`, `float` or `str`."""
    declared = _SETTABLE[key].type
    return getattr(declared, "__name__", str(declared))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _check(language: Language, above: str, origin: str) -> None:
    """What the fields must be together."""
    first = language.compile or language.run
    if not _EXTENSION.fullmatch(language.extension):
        raise _wrong(origin, f"{above}.extension", language.extension, "give 1 to 16 letters or digits, without a dot")
    for alias in language.aliases:
        if not _NAME.fullmatch(alias):
            raise _wrong(origin, f"{above}.aliases", alias, "give it in lower case, as names are looked up")
    if not language.program or "/" in language.program:
        raise _wrong(origin, f"{above}.program", language.program, "give the name of a program, without a folder")
    if not language.run or not any("{file}" in word for word in first):
        key = "compile" if language.compile else "run"
        raise _wrong(origin, f"{above}.{key}", list(first), "have the word {file} in it")
    if not language.compile and language.run[0] not in ("{program}", language.program):
        raise _wrong(origin, f"{above}.run", list(language.run), f"let it begin with {language.program} or {{program}}")


def _wrong(origin: str, key: str, value: Any, remedy: str) -> ConfigError:
    return ConfigError(f"{origin} has {key} = {value!r}", remedy=remedy)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
