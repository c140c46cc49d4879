"""What stands in every table: ids, times, and texts that are hashed."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from rewindbox.chain import canonical
from rewindbox.errors import ValidationFailed
from rewindbox.ids import id_bounds, new_id
from rewindbox.store import from_us, to_us


@pytest.mark.parametrize("kind", ["vm", "ex", "pt", "snap"])
def test_new_id(kind):
    """An id is its kind and 26 characters of lower-case base32, and never the same twice."""
    ids = {new_id(kind) for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch(rf"{kind}_[a-z2-7]{{26}}", made) for made in ids)


@pytest.mark.parametrize(
    ("kind", "ref", "usable"),
    [
        ("vm", "vm_abcdef", True),
        ("vm", "vm_abcde", False),
        ("vm", "ex_abcdef", False),
        ("vm", "abcdefgh", False),
        ("vm", "", False),
        ("snap", "snap_abcdef", True),
        ("snap", "snap_a", False),
    ],
)
def test_id_bounds(kind, ref, usable):
    """A prefix needs its kind and six characters; its bounds hold every id that begins so."""
    bounds = id_bounds(kind, ref)
    assert (bounds is not None) == usable
    if bounds:
        assert bounds[0] <= ref + "a" < ref + "7zzz" < bounds[1] or bounds[0] <= ref + "7" < bounds[1]


@pytest.mark.parametrize(
    "when",
    [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=timezone(timedelta(hours=-7))),
        datetime.max.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC),
    ],
)
def test_times_are_exact(when):
    """A time comes back to the microsecond, in UTC, as far as datetime goes."""
    assert from_us(to_us(when)) == when
    assert from_us(to_us(when)).tzinfo is UTC


def test_time_without_zone():
    """A time without a timezone is refused, with the remedy."""
    with pytest.raises(ValidationFailed, match="no timezone; add one"):
        to_us(datetime(2026, 1, 1))


def test_canonical_is_one_text():
    """Equal values give equal text, whatever the order of their keys."""
    assert canonical({"b": [1, 0.5, None], "a": "é"}) == canonical({"a": "é", "b": [1, 0.5, None]})
    assert canonical({"a": "é"}) == '{"a":"\\u00e9"}'
