"""Moments as people write them."""

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewindbox.errors import InvalidArgument
from rewindbox.moments import moment

NOW = datetime(2026, 4, 1, 12, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A zone with summer time: since 29 March 2026 two hours before UTC, until then one."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("now", "2026-04-01T12:30Z", None),
        ("2h", "2026-04-01T10:30Z", None),
        ("2 hours ago", "2026-04-01T10:30Z", None),
        ("1.5h", "2026-04-01T11:00Z", None),
        ("90 Sec AGO", "2026-04-01T12:28:30Z", None),
        (" 3 days ago ", "2026-03-29T12:30Z", None),
        ("1w", "2026-03-25T12:30Z", None),
        ("today", "2026-03-31T22:00Z", "2026-04-01T21:59:59.999999Z"),
        ("Yesterday", "2026-03-30T22:00Z", "2026-03-31T21:59:59.999999Z"),
        ("2026-03-29", "2026-03-28T23:00Z", "2026-03-29T21:59:59.999999Z"),  # a day of 23 hours
        ("20260105", "2026-01-04T23:00Z", "2026-01-05T22:59:59.999999Z"),
        ("2026-01-05T08:00", "2026-01-05T07:00Z", None),
        ("2026-07-05 08:00:01.5", "2026-07-05T06:00:01.5Z", None),
        ("2026-07-05t08:00:00z", "2026-07-05T08:00Z", None),
        ("2026-07-05T08:00:00-07:00", "2026-07-05T15:00Z", None),
    ],
)
def test_moments(text, first, last):
    """Words, lengths of time and dates are the moments they name; a day that ends something is its last moment."""
    assert moment(text, NOW) == datetime.fromisoformat(first)
    assert moment(text, NOW, is_end=True) == datetime.fromisoformat(last or first)
    assert moment(text, NOW).utcoffset() is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "ago",
        "2",
        "h",
        "-2h",
        "2 fortnights",
        "tomorrow",
        "9999-12-31x",
        "999999999w",
        "2026-13-01",
        "٣h",
        "1e3s",
    ],
)
def test_no_moments(text):
    """What names no moment, or one before all time, is refused with what can be given."""
    with pytest.raises(InvalidArgument, match="is no moment; give today"):
        moment(text, NOW)


@given(
    st.text(max_size=20) | st.from_regex(r"[0-9]{0,10}[.]?[0-9]{0,3} ?[a-z]{0,4}( ago)?", fullmatch=True), st.booleans()
)
def test_any_text_is_a_moment_or_refused(text, is_end):
    """Whatever is given, there is a time with a zone, or an error of ours."""
    with suppress(InvalidArgument):
        assert moment(text, NOW, is_end=is_end).utcoffset() < timedelta(days=1)
