"""What is asked of the history -> the numbers of its executions, newest first, and how many there are in all.

With `listing` up to date a page and its total take about a millisecond, however many there are, where one kind of
thing is asked for; where several are, or a text, as long as what the first of them finds. Where nothing can be
written (a read-only file, say), the facts themselves are read: the same answer, slower.
"""

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from rewindbox import listing, texts
from rewindbox.causes import is_damage
from rewindbox.errors import HistoryError
from rewindbox.listing import EARLIEST, KINDS, LATEST, Kind, Stretch, conditions
from rewindbox.store import Row, Steps, Store, Value

FEW = 500
"""Executions whose texts are sooner read than an index is asked."""
MANY = 50_000
"""Executions that the index is asked for in any case, if a text is long enough."""

_ANY: tuple[Kind, Value] = (KINDS[-1], "")
"""Whatever began at any time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """Conditions that all hold; None or empty: no condition. Times are microseconds since 1970, both inclusive."""

    vm_id: str | None = None
    session: str | None = None
    agent_id: str | None = None
    failures_only: bool = False
    ended: str | None = None
    language: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    text: str = ""
    """A part of the code or of what was written."""

    def kinds(self) -> list[tuple[Kind, Value]]:
        """What is asked for, in the order of `KINDS`; at least one: any time."""
        asked = (self.vm_id, self.session, self.agent_id, "" if self.failures_only else None, self.ended, self.language)
        found: list[tuple[Kind, Value]] = [
            (kind, value) for kind, value in zip(KINDS, asked, strict=False) if value is not None
        ]
        return found or [_ANY]

    def bounds(self) -> tuple[int, int]:
        """The first and the last moment."""
        since_us = EARLIEST if self.since_us is None else self.since_us
        return since_us, LATEST if self.until_us is None else self.until_us

    def where(self) -> tuple[str, tuple[Value, ...]]:
        """The conditions but for the text, and their values."""
        kinds = self.kinds()
        return conditions(kind for kind, _ in kinds), (*(value for _, value in kinds), *self.bounds())


Place = tuple[int, int]
"""Of an execution in the history: start and number."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Which of those that match, newest first, are on a page."""

    limit: int | None
    """None: all of them."""
    offset: int
    past: Place | None = None
    """Only what stands behind it: older ones."""


@dataclass(frozen=True, slots=True)
class Found:
    """The numbers of a page, newest first."""

    numbers: list[int]
    before: int
    """So many of those that match stand before the page."""
    total: int
    """So many match in all."""
    note: str | None = None
    """What the user should know of how it was found."""


def found(store: Store, query: Query, cut: Cut) -> Steps[Found]:
    """A page."""
    try:
        return (yield from _found(store, query, cut))
    except HistoryError as error:
        if not is_damage(error):
            raise
        note = f"what makes searching quick was damaged, and is made anew ({error.detail})"
    forget(store)
    return replace((yield from _found(store, query, cut)), note=note)


def _found(store: Store, query: Query, cut: Cut) -> Steps[Found]:
    is_listed = yield from listing.bring_up(store)
    with_text = (yield from _with_text(store, query, is_listed=is_listed)) if query.text else None
    with store.reading():  # so that total and page are of the same moment
        if with_text is not None:
            return _page(with_text, cut)
        if not is_listed:
            return _counted(store, query, cut)
        asked, bounds = _narrowing(store, query), query.bounds()
        stretch, before = Stretch(store, asked, *bounds), cut.offset
        if cut.past is not None:
            before += _newer(store, query, asked, cut.past)
        return Found(stretch.page(-1 if cut.limit is None else cut.limit, before), before, stretch.total())


def _narrowing(store: Store, query: Query) -> list[tuple[Kind, Value]]:
    """What is asked for without a vm or session that all executions of that time are of: it need not lead."""
    asked, bounds = query.kinds(), query.bounds()
    leading, others = asked[0], asked[1:]
    if not others or leading[0].is_mixed:
        return asked
    is_narrower = Stretch(store, [leading], *bounds).total() < Stretch(store, [_ANY], *bounds).total()
    return asked if is_narrower else others


def _newer(store: Store, query: Query, asked: Sequence[tuple[Kind, Value]], past: Place) -> int:
    """How many stand before what is behind that place, without going through them."""
    (at_us, number), (since_us, until_us) = past, query.bounds()
    later = Stretch(store, asked, max(at_us + 1, since_us), until_us).total()
    if not since_us <= at_us <= until_us:
        return later
    same = replace(query, since_us=at_us, until_us=at_us)
    return later + _count(store, same, _source(query, is_listed=True), "l.start_seq >= ?", (number,))


def _source(query: Query, *, is_listed: bool) -> str:
    return f"listing l indexed by {query.kinds()[0][0].index}" if is_listed else f"({listing.ROWS}) l"


def _counted(store: Store, query: Query, cut: Cut) -> Found:
    """By going through the facts."""
    (where, values), source = query.where(), _source(query, is_listed=False)
    total, before = _count(store, query, source), cut.offset
    if cut.past is not None:
        before += _count(store, query, source, "(l.started_us, l.start_seq) >= (?, ?)", cut.past)
    newest = "order by l.started_us desc, l.start_seq desc limit ? offset ?"
    sql = f"select l.start_seq from {source} where {where} {newest}"  # noqa: S608 (our own conditions)
    limit = -1 if cut.limit is None else cut.limit
    return Found([row[0] for row in store.rows(sql, (*values, limit, before))], before, total)


def _count(store: Store, query: Query, source: str, more: str = "1", place: tuple[int, ...] = ()) -> int:
    where, values = query.where()
    sql = f"select count(*) from {source} where {where} and {more}"  # noqa: S608 (our own conditions)
    return int(store.rows(sql, (*values, *place))[0][0])


def _with_text(store: Store, query: Query, *, is_listed: bool) -> Steps[Iterator[Row]]:
    """Start and number of all that have the text, in any order."""
    needle = texts.fold(query.text)
    if not texts.can_be_found(needle):
        return iter(())
    where, values = query.where()
    source = _source(query, is_listed=is_listed)
    number = _number(store, query) if is_listed else 0
    if number <= FEW or not (yield from texts.bring_up(store)):
        return texts.looked_at(store, needle, source, where, values)
    large = texts.looked_at(store, needle, "listing l", where, values, large_only=True)
    if len(needle) < texts.SHORTEST or (number <= MANY and texts.are_more(store, needle, number)):
        return chain(texts.scanned(store, needle, source, where, values), large)
    return chain(texts.matching(store, needle, where, values), large)


def _number(store: Store, query: Query) -> int:
    """How many the first condition finds."""
    return Stretch(store, query.kinds()[:1], *query.bounds()).total()


def _page(rows: Iterator[Row], cut: Cut) -> Found:
    """Of rows in any order; no more of them are in memory than are asked for."""
    total = newer = 0

    def behind() -> Iterator[Place]:
        nonlocal total, newer
        for row in rows:
            total += 1
            place = (row[0], row[1])
            if cut.past is not None and place >= cut.past:
                newer += 1
            else:
                yield place

    if cut.limit is None:
        newest = sorted(behind(), reverse=True)[cut.offset :]
    else:
        newest = heapq.nlargest(cut.offset + cut.limit, behind())[cut.offset :]
        deque(behind(), maxlen=0)  # of no page nobody reads the rows
    return Found([start_seq for _, start_seq in newest], cut.offset + newer, total)


def forget(store: Store) -> None:
    """Forget what makes finding quick; it is made anew when somebody looks."""
    with store.transaction() as tx:
        listing.clear(tx)
        texts.clear(tx)


def problems(store: Store) -> list[str]:
    """In what that differs from the history, a sentence each. If it does, it is forgotten."""
    wrong = [*listing.problems(store), *texts.problems(store)]
    if wrong:
        forget(store)
        wrong.append("what `history` shows may have been wrong; it is made anew, from the history itself")
    return wrong
