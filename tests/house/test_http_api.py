"""docs/http-api.md says what the service does: the part of it that is made is of today."""

from pathlib import Path

from rewindbox.server import reference

PAGE = Path(__file__).parents[2] / "docs/http-api.md"


def test_the_page_is_of_today() -> None:
    """`make reference` would change nothing."""
    assert PAGE.read_text().partition(reference.BEGIN)[2] == reference.page().partition(reference.BEGIN)[2]
