"""What names of languages mean."""

import pytest

from rewindbox.errors import UnsupportedLanguage
from rewindbox.languages import LANGUAGES, canonical, find


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
        ("C++", "c++"),
        ("", ""),
    ],
)
def test_canonical(name, expected):
    """Aliases in any case have the table's name; what the table does not know stays, in lower case."""
    assert canonical(name) == expected


def test_each_name_means_one_language():
    """No alias belongs to two languages, and each is in lower case, as look-ups are."""
    names = [name for language in LANGUAGES.values() for name in (language.name, *language.aliases)]
    assert len(names) == len(set(names))
    assert all(name == name.lower() for name in names)


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES.keys())
def test_a_language_can_be_found_by_all_its_names(language):
    """`find` gives the same entry for the name and every alias."""
    assert all(find(name) is language for name in (language.name, *language.aliases))


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES.keys())
def test_a_language_says_how_its_file_is_run(language):
    """The block's file is given to the compiler where there is one, else to the interpreter."""
    assert "{file}" in (language.compile or language.run)
    assert ("{binary}" in language.compile) == ("{binary}" in language.run)
    assert language.program == (language.compile or language.run)[0]
    assert language.timeout_multiplier >= 1.0


def test_rust():
    """Rust is compiled by rustc, has three times the time, and keeps the original's restrictions as data."""
    rust = find("rust")
    assert (rust.extension, rust.program, rust.timeout_multiplier) == ("rs", "rustc", 3.0)
    assert rust.restrictions == ("unsafe", "std::process")


@pytest.mark.parametrize("name", ["cobol", "", "c++", "text"])
def test_unknown_language(name):
    """An unknown language is refused by name, with the list of those there are."""
    with pytest.raises(UnsupportedLanguage, match=r"choose one of bash, javascript, python, rust") as caught:
        find(name)
    assert repr(name) in str(caught.value)
