"""A moment as people write it -> a time: `yesterday`, `2h`, `3 days ago`, or a date.

Pure: what the time is now is told. Whatever names no zone is of the clock on the wall.
"""

import re
from datetime import date, datetime, time, timedelta

from rewindbox.errors import InvalidArgument

_AGO = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([a-z]+)(?:\s+ago)?", re.ASCII)
_UNITS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), timedelta(seconds=1)),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), timedelta(minutes=1)),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), timedelta(hours=1)),
    **dict.fromkeys(("d", "day", "days"), timedelta(days=1)),
    **dict.fromkeys(("w", "week", "weeks"), timedelta(weeks=1)),
}
_DAYS = {"today": 0, "yesterday": 1}
_A_MOMENT = timedelta(microseconds=1)
_REMEDY = "give today, yesterday, 2h or 3 days ago, or a date as ISO 8601"


def moment(text: str, now: datetime, *, is_end: bool = False) -> datetime:
    """The moment that `text` names; has a timezone.

    A day is its first moment, or, where it `is_end` of a time that includes it, its last. Raises InvalidArgument.
    """
    words = text.strip().lower()
    try:
        if words == "now":
            return now
        if match := _AGO.fullmatch(words):
            return now - float(match[1]) * _UNITS[match[2]]
        day = _day(words, now)
        if day is not None:
            return _midnight(day + timedelta(days=1)) - _A_MOMENT if is_end else _midnight(day)
        return _zoned(datetime.fromisoformat(words.upper()))
    except (ValueError, OverflowError, KeyError) as error:
        raise InvalidArgument(f"{text[:80]!r} is no moment", remedy=_REMEDY) from error


def _day(words: str, now: datetime) -> date | None:
    if words in _DAYS:
        return now.astimezone().date() - timedelta(days=_DAYS[words])
    try:
        return date.fromisoformat(words.upper())
    except ValueError:
        return None


def _midnight(day: date) -> datetime:
    return _zoned(datetime.combine(day, time()))


def _zoned(when: datetime) -> datetime:
    """As it is, or of the clock on the wall: whether summer time held then is for then, not for now."""
    return when if when.tzinfo is not None else when.astimezone()
