"""Where a text stands in code or output: an index of every three characters that follow each other.

A text is found as a part of another, whatever the case, and nothing in it means anything: no words, no wildcards.
SQLite's FTS5 keeps the index, with its tokenizer `trigram`; what the index gives is looked at again, so that what is
found is right in any case. Like `listing`, it is filled when somebody searches, and can be made anew.

Not in it: texts of more than half a mebibyte, which are looked at one by one.
"""

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress

from rewindbox.errors import HistoryError
from rewindbox.listing import taken_in
from rewindbox.store import Row, Steps, Store, Transaction, Value, done

SHORTEST = 3
"""Characters that the index needs."""
_LARGE_BYTES = 512 << 10
_AT_ONCE = 2_000
_AT_ONCE_BYTES = 512 << 10
"""Taken in by one transaction, in less than a quarter of a second: an execution that ends meanwhile waits for it."""
_ASKED = 60
"""Groups of three characters that the index is asked for; a longer text is looked at anyway."""

_TABLE = "using fts5(code, stdout, stderr, tokenize = 'trigram case_sensitive 1', detail = none)"
_SURROGATE = re.compile("[\ud800-\udfff]")


def fold(text: str | bytes | None) -> str:
    """As texts are compared: case is folded as Unicode says; what is not UTF-8, and NUL, count as U+FFFD."""
    if text is None:
        return ""
    decoded = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return decoded.replace("\0", "\ufffd").casefold()  # SQLite takes NUL for the end


def can_be_found(needle: str) -> bool:
    """No text that is kept has half of a character in it."""
    return _SURROGATE.search(needle) is None


def is_available() -> bool:
    """Whether this host's SQLite can keep the index; it takes 3.34 with FTS5."""
    with closing(sqlite3.connect(":memory:")) as db, suppress(sqlite3.OperationalError):
        db.execute(f"create virtual table probe {_TABLE}")
        return True
    return False


def bring_up(store: Store) -> Steps[bool]:
    """Take in what is new. False: it cannot be, so it is not whole. The first time it reads everything."""
    if not is_available():
        return False
    return (yield from taken_in(store, "search", _NEW, lambda tx, last: _take_in(store, tx, last)))


_NEW = "'execution_ended', 'output_dropped'"


def clear(tx: Transaction) -> None:
    """Forget all of it: it is made anew when somebody searches."""
    if tx.execute("select 1 from sqlite_master where name = 'search_data'").fetchone():
        tx.execute("insert or replace into search_data values (10, x'00000000000000')")  # without it, no drop
    tx.execute("drop table if exists search")
    tx.execute("delete from large_texts")
    tx.execute("delete from caught_up where name = 'search'")


def are_more(store: Store, needle: str, number: int) -> bool:
    """Whether the index gives more than so many for it; found out without reading many more."""
    sql = "select count(*) from (select rowid from search where search match ? limit ?)"
    return bool(store.rows(sql, (_asked(needle), number + 1))[0][0] > number)


def matching(store: Store, needle: str, where: str, values: tuple[Value, ...]) -> Iterator[Row]:
    """Start and number of the executions that have the folded text, of those that the index has, by the index."""
    source = "search t cross join listing l on l.start_seq = t.rowid where t.search match ?"
    return store.each(f"{_FOUND} {source} and {_HAS} and {where}", (_asked(needle), *[needle] * 3, *values))


def scanned(store: Store, needle: str, source: str, where: str, values: tuple[Value, ...]) -> Iterator[Row]:
    """The same, by going through all that `source` and `where` give."""
    return store.each(
        f"{_FOUND} {source} cross join search t on t.rowid = l.start_seq where {_HAS} and {where}",
        (*[needle] * 3, *values),
    )


def _asked(needle: str) -> str:
    """The groups of characters that a text must have, each quoted: whatever they are, they mean nothing."""
    groups = dict.fromkeys(needle[at : at + SHORTEST] for at in range(len(needle) - SHORTEST + 1))
    return " AND ".join('"' + group.replace('"', '""') + '"' for group in list(groups)[:_ASKED])


def looked_at(
    store: Store, needle: str, source: str, where: str, values: tuple[Value, ...], *, large_only: bool = False
) -> Iterator[Row]:
    """The same without the index, of any executions: the texts of each are read."""
    large = " and l.start_seq in (select start_seq from large_texts)" if large_only else ""
    for row in store.each(_LOOKED_AT.format(source=source) + f" where {where}{large}", values):
        if any(needle in fold(text) for text in tuple(row)[2:]):
            yield row


_FOUND = "select l.started_us, l.start_seq from"
_HAS = "(instr(t.code, ?) or instr(t.stdout, ?) or instr(t.stderr, ?))"

_LOOKED_AT = """
select l.started_us, l.start_seq, s.code, o.stdout, o.stderr from {source}
join starts s on s.seq = l.start_seq left join outputs o on o.start_seq = l.start_seq"""

_NEWS = f"select seq, subject from log where seq > ? and kind in ({_NEW}) order by seq limit ?"  # noqa: S608 (our names)

_TEXTS = """
select s.seq, s.code, o.stdout, o.stderr from starts s left join outputs o on o.start_seq = s.seq where s.id = ?"""


def _take_in(store: Store, tx: Transaction, last: int) -> int:
    tx.execute(f"create virtual table if not exists search {_TABLE}")
    room = _AT_ONCE_BYTES
    for entry in store.rows(_NEWS, (last, _AT_ONCE)):
        (row,) = store.rows(_TEXTS, (entry["subject"],))
        room -= _put(tx, row)
        last = entry["seq"]
        if room <= 0:
            break
    return last


def _put(tx: Transaction, row: Row) -> int:
    """Into the index, in place of what it had of that execution; returns how much it is."""
    size = sum(len(text or b"") for text in tuple(row)[1:])
    tx.execute("delete from search where rowid = ?", (row["seq"],))
    tx.execute("delete from large_texts where start_seq = ?", (row["seq"],))
    if size > _LARGE_BYTES:
        tx.execute("insert into large_texts values (?)", (row["seq"],))
        return 0
    sql = "insert into search(rowid, code, stdout, stderr) values (?, ?, ?, ?)"
    tx.execute(sql, (row["seq"], fold(row["code"]), fold(row["stdout"]), fold(row["stderr"])))
    return size


def problems(store: Store) -> Iterator[str]:
    """In what it differs from the texts that it is of, and whether it is whole in itself.

    Nobody has to wait for it: FTS5's own check would keep others from writing for a minute in a long history.
    """
    try:
        is_there = bool(store.rows("select 1 from sqlite_master where name = 'search'"))
        if is_there and done(bring_up(store)):
            with store.reading():
                yield from _differences(store)
    except HistoryError as error:
        yield f"search: {error.detail}"


def _differences(store: Store) -> Iterator[str]:
    terms: Counter[str] = Counter()
    for row in store.each(_INDEXED):
        has = tuple(row)[5:]
        if not row["is_late"] and tuple(map(fold, tuple(row)[2:5])) != has:
            yield f"search: what it has of execution {row['rowid']} is not what the history has"
        terms.update(
            {text[at : at + SHORTEST] for text in map(_spelled, has) for at in range(len(text) - SHORTEST + 1)}
        )
    for row in store.each(_MISSING):
        yield f"search: execution {row[0]} is missing, or there twice"
    store.rows("create virtual table temp.terms using fts5vocab(main, search, row)")  # gone when reading ends
    found = {row["term"]: row["doc"] for row in store.each("select term, doc from temp.terms")}
    if wrong := len(found.items() ^ terms.items()):
        yield f"search: of {wrong} groups of characters it does not say how many texts have them"


def _spelled(text: object) -> str:
    """As the tokenizer spells it: it has no noncharacters."""
    return str(text).translate({0xFFFE: 0xFFFD, 0xFFFF: 0xFFFD})


# Output that is dropped after we looked leaves with the next search.
_INDEXED = """
select t.rowid, s.id in (select subject from log where kind = 'output_dropped'
                         and seq > (select log_seq from caught_up where name = 'search')) as is_late,
       s.code, o.stdout, o.stderr, t.code, t.stdout, t.stderr
from search t left join starts s on s.seq = t.rowid left join outputs o on o.start_seq = s.seq"""

_MISSING = """
select start_seq from executions x where seq <= (select log_seq from caught_up where name = 'search')
and (x.start_seq in (select rowid from search)) = (x.start_seq in (select start_seq from large_texts)) limit 20"""
