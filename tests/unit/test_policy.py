"""Policy: which blocks run, and what code is acceptable. Pure, by tables."""

import pytest

from rewindbox import policy
from rewindbox.config import Settings
from rewindbox.errors import LanguageRefused, UnsupportedLanguage, ValidationFailed
from rewindbox.models import CodeBlock

PROGRAMS = {"python": "/usr/bin/python3", "bash": "/usr/bin/bash", "javascript": None, "rust": "/usr/bin/rustc"}


def block(language: str, code: str = "code", confidence: float = 0.5) -> CodeBlock:
    return CodeBlock(language=language, code=code, execution_confidence=confidence, start_pos=0, end_pos=1)


@pytest.mark.parametrize(
    ("given", "settings", "threshold", "reason"),
    [
        (block("python"), Settings(), 0.0, None),
        (block("python"), Settings(), 0.5, None),
        (block("python"), Settings(), 0.6, "confidence 0.50 is below 0.60; lower the threshold to run it"),
        (block("json"), Settings(), 0.0, "json is not run"),
        (block("javascript"), Settings(), 0.0, "no node on this host; install nodejs"),
        (block("rust"), Settings(allowed_languages=["py"]), 0.0, "rust is not allowed; add it to allowed_languages"),
        (block("python"), Settings(allowed_languages=["Python3"]), 0.0, None),
        (block("bash", " \n"), Settings(), 0.0, "it is blank"),
    ],
)
def test_which_blocks_run(given, settings, threshold, reason):
    """Every block in an allowed language whose program is there, from the threshold on; else the remedy is told."""
    assert [decision.skipped for decision in policy.decide([given], settings, PROGRAMS, threshold)] == [reason]


def named(language: str, path: str, code: str = "code", **known: object) -> CodeBlock:
    """A block that is the content of a file."""
    given = block(language, code)
    return given.model_copy(update={"metadata": {"path": path, **known}})


@pytest.mark.parametrize(
    ("blocks", "paths"),
    [
        ([named("python", "app.py")], [None]),
        ([named("python", "app.py", write=True)], ["app.py"]),
        ([named("html", "index.html")], ["index.html"]),
        ([named("python", "src/app.py"), block("bash", "python3 src/app.py")], ["src/app.py", None]),
        ([named("python", "shop.py"), block("python", "from shop import price")], ["shop.py", None]),
        ([named("python", "shop.py"), named("python", "main.py", "import shop")], ["shop.py", None]),
        ([block("bash", "python3 app.py"), named("python", "app.py")], [None, None]),
        ([named("python", "app.py"), block("python", "# not the app.pyc")], [None, None]),
    ],
)
def test_which_blocks_are_written(blocks, paths):
    """Where the text says so, a later block needs the file, or nothing runs it; else it runs."""
    decisions = policy.decide(blocks, Settings(), PROGRAMS, 0.0)
    assert [decision.path for decision in decisions] == paths
    for decision in decisions:
        assert decision.skipped == (None if decision.path is None else f"written to {decision.path}")


def test_a_command_in_prose_needs_a_file_of_the_text():
    """`python3 app.py` in prose runs when app.py was written before it, and never otherwise."""
    command = block("bash", "python3 app.py").model_copy(update={"metadata": {"kind": "inline"}})
    assert (
        policy.decide([command], Settings(), PROGRAMS, 0.0)[0].skipped == "a command in prose, on no file of this text"
    )
    written, run = policy.decide([named("python", "app.py"), command], Settings(), PROGRAMS, 0.0)
    assert (written.path, run.skipped) == ("app.py", None)


def test_of_a_transcript_what_was_typed_is_run_and_checked():
    """Its output is neither run nor counted."""
    given = block("bash", "$ ls\n" + "x" * 100).model_copy(update={"metadata": {"commands": "ls\n"}})
    (decision,) = policy.decide([given], Settings(max_code_length=10), PROGRAMS, 0.0)
    assert (decision.code, decision.skipped) == ("ls\n", None)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_thresholds_are_shares(threshold):
    """A threshold is from 0 to 1."""
    with pytest.raises(ValidationFailed, match="threshold"):
        policy.decide([], Settings(), PROGRAMS, threshold)


def test_one_bad_block_stops_all_before_any():
    """A block that would run and may not is named before anything runs."""
    with pytest.raises(ValidationFailed, match="block 2 has 11 characters"):
        policy.decide([block("python"), block("bash", "x" * 11)], Settings(max_code_length=10), PROGRAMS, 0.0)


@pytest.mark.parametrize(
    ("language", "code", "error", "text"),
    [
        ("cobol", "x", UnsupportedLanguage, "choose one of bash, c, cpp, go, java"),
        ("rust", "x", LanguageRefused, "allowed_languages"),
        ("python", "", ValidationFailed, "empty"),
        ("python", "a" * 12_000, ValidationFailed, "exceeds the maximum length"),
        ("python", "a\0b", ValidationFailed, "position 1"),
        ("python", "\ud800", ValidationFailed, "surrogate"),
    ],
)
def test_what_code_is_refused(language, code, error, text):
    """Unknown, not allowed, blank, too long, NUL, not text: each with its value and remedy."""
    with pytest.raises(error, match=text):
        policy.check(language, code, Settings(allowed_languages=["python"]))


def test_length_is_counted_in_characters():
    """Ten characters of four bytes are ten."""
    policy.check("python", "😀" * 10, Settings(max_code_length=10))


def test_validation_can_be_switched_off():
    """`code_validation` false: only the language is looked at."""
    settings = Settings(code_validation=False, max_code_length=1)
    policy.check("py", "a" * 100, settings)
    with pytest.raises(UnsupportedLanguage):
        policy.check("cobol", "a", settings)
