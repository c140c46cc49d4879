"""What names of languages mean."""

import dataclasses
from pathlib import Path

import pytest

from rewindbox import models
from rewindbox.errors import ConfigError, UnsupportedLanguage
from rewindbox.language import _SETTABLE, Table
from rewindbox.languages import LANGUAGES


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("python", "python"),
        ("Python", "python"),
        ("py", "python"),
        ("python3", "python"),
        (" JS ", "javascript"),
        ("node", "javascript"),
        ("sh", "bash"),
        ("shell", "bash"),
        ("rs", "rust"),
        ("C++", "cpp"),
        ("", ""),
    ],
)
def test_canonical(name, expected):
    """Aliases in any case have the table's name; what the table does not know stays, in lower case."""
    assert LANGUAGES.canonical(name) == expected


def test_each_name_means_one_language():
    """No alias belongs to two languages, and each is in lower case, as look-ups are."""
    names = [name for language in LANGUAGES.values() for name in (language.name, *language.aliases)]
    assert len(names) == len(set(names))
    assert all(name == name.lower() for name in names)


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES.keys())
def test_a_language_can_be_found_by_all_its_names(language):
    """`find` gives the same entry for the name and every alias."""
    assert all(LANGUAGES.find(name) is language for name in (language.name, *language.aliases))


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES.keys())
def test_a_language_says_how_its_file_is_run(language):
    """The block's file is given to the compiler where there is one, else to the interpreter."""
    assert "{file}" in (language.compile or language.run)
    assert ("{binary}" in language.compile) == ("{binary}" in language.run)
    assert language.timeout_multiplier >= 1.0
    assert "hello" in language.hello
    assert language.package


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES.keys())
def test_what_is_built_in_is_what_a_user_could_have_written(language):
    """Each row, as TOML gives it, makes the same row again: one form, one check."""
    rows = Table([language]).changes(Table([]))
    made = Table([]).changed(rows, "a test")[language.name]
    assert dataclasses.replace(made, session=language.session) == language


def test_the_languages_of_the_original():
    """Extension, program, multiplier, packages and restrictions of its four are the original's; others have no row."""
    table = {name: models.language_config(name) for name in ("python", "JS", "bash", "rust", "klingon")}
    assert [(row.extension, row.execute_command, row.timeout_multiplier) for row in table.values()] == [
        ("py", "python3", 1.0),
        ("js", "node", 1.0),
        ("sh", "bash", 1.5),
        ("rs", "rustc", 3.0),
        ("txt", "cat", 1.0),
    ]
    assert table["python"].common_packages == ["numpy", "pandas", "requests"]
    assert table["klingon"].name == "unknown"


LUA = {"extension": "lua", "run": ["luax", "{file}"]}


def test_a_language_of_a_user():
    """A new row needs an extension and a command; the program is the command's first word."""
    table = LANGUAGES.changed({"moonscript": {**LUA, "aliases": ["moon"]}}, "a test")
    assert table.find("MOON").programs == ("luax",)
    assert "moonscript" not in LANGUAGES
    assert table.changes(LANGUAGES).keys() == {"moonscript"}


def test_one_field_of_a_built_in_language():
    """What is not given stays as it was, sessions included."""
    table = LANGUAGES.changed({"python": {"timeout_multiplier": 2}}, "a test")
    assert table["python"] == dataclasses.replace(LANGUAGES["python"], timeout_multiplier=2.0)
    assert table.changes(LANGUAGES) == {"python": {"timeout_multiplier": 2.0}}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"golang": LUA}, "say [languages.go]"),
        ({"x": {**LUA, "aliases": ["py"]}}, "'py' would mean both python and x"),
        ({"x": {**LUA, "aliases": ["go"]}}, "'go' would mean both go and x"),
        ({"x": {**LUA, "aliases": ["A b"]}}, "languages.x.aliases = 'A b'"),
        ({"X y": LUA}, "languages = 'X y'"),
        ({"x": {"run": ["x", "{file}"]}}, "give languages.x.extension"),
        ({"x": {"extension": "x"}}, "give languages.x.run"),
        ({"x": 3}, "languages.x = 3"),
        ({"x": {**LUA, "colour": 1}}, "unknown key languages.x.colour = 1"),
        ({"python": {"session": "live"}}, "unknown key languages.python.session"),
        ({"python": {"timeout_multiplier": 0}}, "languages.python.timeout_multiplier = 0"),
        ({"python": {"timeout_multiplier": True}}, "give a number above 0"),
        ({"python": {"run": "python3"}}, "give a list of texts"),
        ({"python": {"run": []}}, "have the word {file} in it"),
        ({"python": {"run": ["python3"]}}, "have the word {file} in it"),
        ({"python": {"environment": {"A": 1}}}, "give a table of texts"),
        ({"python": {"extension": "../x"}}, "without a dot"),
        ({"x": {**LUA, "program": "/bin/sh"}}, "without a folder"),
        ({"x": {**LUA, "program": "other"}}, "let it begin with other"),
    ],
)
def test_what_a_user_may_not_write(values, text):
    """Each error names where it comes from, key and value, and what to write instead."""
    with pytest.raises(ConfigError, match="a test has ") as caught:
        LANGUAGES.changed(values, "a test")
    assert text in str(caught.value)


def test_rust():
    """Rust is compiled by rustc, has three times the time, and keeps the original's restrictions as data."""
    rust = LANGUAGES.find("rust")
    assert (rust.extension, rust.program, rust.timeout_multiplier) == ("rs", "rustc", 3.0)
    assert rust.restrictions == ("unsafe", "std::process")


@pytest.mark.parametrize("name", ["cobol", "", "brainfuck", "text"])
def test_unknown_language(name):
    """An unknown language is refused by name, with the list of those there are."""
    with pytest.raises(UnsupportedLanguage, match=r"choose one of bash, c, cpp, .*, typescript, or add it") as caught:
        LANGUAGES.find(name)
    assert repr(name) in str(caught.value)


def test_the_page_about_languages_is_true():
    """docs/languages.md has the row of every built-in language, and every key that a user may write."""
    text = (Path(__file__).parents[2] / "docs/languages.md").read_text()
    for language in LANGUAGES.values():
        programs = " or ".join(f"`{program}`" for program in language.programs)
        aliases = ", ".join(language.aliases) or "-"
        row = (language.name, aliases, programs, language.package, f"{language.timeout_multiplier:g}")
        assert f"| {' | '.join(row)} |" in text
    for key in _SETTABLE:
        assert f"`{key}`" in text
