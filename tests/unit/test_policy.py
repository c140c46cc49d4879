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
        (block("python"), Settings(), 0.6, "confidence 0.50 is below 0.60"),
        (block("json"), Settings(), 0.0, "json is not run"),
        (block("javascript"), Settings(), 0.0, "no node on this host"),
        (block("rust"), Settings(allowed_languages=["py"]), 0.0, "rust is not allowed"),
        (block("python"), Settings(allowed_languages=["Python3"]), 0.0, None),
        (block("bash", " \n"), Settings(), 0.0, "it is blank"),
    ],
)
def test_which_blocks_run(given, settings, threshold, reason):
    """Every block in an allowed language whose program is there, from the threshold on."""
    assert [decision.skipped for decision in policy.decide([given], settings, PROGRAMS, threshold)] == [reason]


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
        ("cobol", "x", UnsupportedLanguage, "choose one of bash, javascript, python, rust"),
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
