"""Which blocks of an answer run, and whether a piece of code is acceptable. Decides; does nothing.

Not a security boundary: it saves time and says why. The vm is the boundary.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rewindbox import languages
from rewindbox.config import Settings
from rewindbox.errors import InvalidArgument, LanguageRefused, ValidationFailed

if TYPE_CHECKING:
    from rewindbox.models import CodeBlock


@dataclass(frozen=True, slots=True)
class Decision:
    """A block, and why it is not run (None: it is)."""

    block: "CodeBlock"
    skipped: str | None


def decide(
    blocks: Iterable["CodeBlock"], settings: Settings, programs: Mapping[str, str | None], threshold: float
) -> list[Decision]:
    """For every block of an answer whether it runs.

    Asking to run is the intent: every block in an allowed language runs whose confidence is at least
    `threshold`. `programs` says for each language where the vm has its program, or None.

    Raises ValidationFailed: `threshold` is not between 0 and 1, or a block that would run is not acceptable.
    """
    if not 0 <= threshold <= 1:
        raise InvalidArgument(f"threshold {threshold}", remedy="give a number from 0 to 1")
    decisions = [Decision(block, _reason(block, settings, programs, threshold)) for block in blocks]
    for number, decision in enumerate(decisions, 1):
        if decision.skipped is None:
            check(decision.block.language, decision.block.code, settings, what=f"block {number}")
    return decisions


def _reason(block: "CodeBlock", settings: Settings, programs: Mapping[str, str | None], threshold: float) -> str | None:
    if block.language not in languages.LANGUAGES:
        return f"{block.language} is not run"
    if block.language not in allowed(settings):
        return f"{block.language} is not allowed"
    if programs.get(block.language) is None:
        return f"no {languages.LANGUAGES[block.language].program} on this host"
    if block.execution_confidence < threshold:
        return f"confidence {block.execution_confidence:.2f} is below {threshold:.2f}"
    if not block.code.strip():
        return "it is blank"
    return None


def allowed(settings: Settings) -> frozenset[str]:
    """The languages that may run, by canonical name."""
    return frozenset(map(languages.canonical, settings.allowed_languages))


def check(language: str, code: str, settings: Settings, what: str = "the code") -> None:
    """Refuse what is not acceptable.

    Raises:
        UnsupportedLanguage: the table has no such language.
        LanguageRefused: it has, but `allowed_languages` does not.
        ValidationFailed: too long, blank, NUL, or not text (only where `code_validation` is on).
    """
    name = languages.find(language).name
    if name not in allowed(settings):
        raise LanguageRefused(f"{name} is not allowed", remedy="add it to allowed_languages")
    if not settings.code_validation:
        return
    if not code.strip():
        raise ValidationFailed(f"{what} is empty", remedy="give some code")
    if len(code) > settings.max_code_length:
        raise ValidationFailed(
            f"{what} has {len(code)} characters and exceeds the maximum length of {settings.max_code_length}",
            remedy="shorten it or raise max_code_length",
        )
    if "\0" in code:
        raise ValidationFailed(f"{what} has a NUL character at position {code.index(chr(0))}", remedy="remove it")
    try:
        code.encode()
    except UnicodeEncodeError as error:
        raise ValidationFailed(
            f"{what} has a lone surrogate at position {error.start}", remedy="give text that UTF-8 can write"
        ) from error
