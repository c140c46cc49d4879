"""The hash chain over the log, and what must hold between log and tables for the history to be whole."""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rewindbox.errors import ValidationFailed
from rewindbox.schema import FACTS, Fact

FIRST_HASH = "0" * 64  # what stands for "the entry before" in the first entry
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
_encode_any = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=repr).encode  # edited rows too


def not_unicode(exc: UnicodeEncodeError) -> ValidationFailed:
    found = exc.object[exc.start : exc.end]
    return ValidationFailed(f"{found!r} at character {exc.start} is no Unicode text", remedy="remove it")


def digest(content: bytes | str) -> str:
    """SHA-256 in hexadecimal. Raises ValidationFailed: text that is not Unicode (a lone surrogate)."""
    try:
        return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
    except UnicodeEncodeError as exc:
        raise not_unicode(exc) from exc


def canonical(value: Any) -> str:
    """JSON with sorted keys, no spaces, ASCII only: equal values give equal text."""
    return _encode(value)


def entry_hash(previous: str, *entry: object) -> str:
    """Entries are seq, at_us, kind, subject, body; a JSON list, so that nothing can move between fields."""
    return hashlib.sha256(_encode_any([previous, *entry]).encode()).hexdigest()


_Query = Callable[..., Iterable[sqlite3.Row]]


def _check_file(query: _Query) -> Iterator[str]:
    """What SQLite itself finds: damaged pages, indexes that do not agree with their tables."""
    for row in query("pragma integrity_check(20)"):
        if row[0] != "ok":
            yield f"file: {row[0]}"


def _check_chain(query: _Query) -> Iterator[str]:
    """Every entry follows the one before it. After a break the walk goes on from what is written."""
    seq, previous = 0, FIRST_HASH
    for row in query("select seq, at_us, kind, subject, body, hash from log order by seq"):
        if row["seq"] != seq + 1:
            yield f"log: entries {seq + 1} to {row['seq'] - 1} are missing"
        if row["hash"] != entry_hash(previous, *tuple(row)[:5]):
            name = f"{row['seq']} ({row['kind']} {row['subject']})"
            yield f"log: entry {name} does not follow from the one before"
        seq, previous = row["seq"], row["hash"]


def _check_facts(query: _Query) -> Iterator[str]:
    """Every row is what its entry says, and every entry has its row."""
    entries = {row[0]: row[1] for row in query("select kind, count(*) from log group by kind")}
    for fact in FACTS:
        columns = ", ".join(f"t.{name}" for name in fact.names)
        rows = 0
        for row in query(
            f"select t.seq, l.kind, l.body, {columns} from {fact.table} t left join log l on l.seq = t.seq"  # noqa: S608 (our names)
        ):
            rows += 1
            body = fact.body(dict(zip(fact.names, tuple(row)[3:], strict=True)))
            if (row["kind"], row["body"]) != (fact.kind, _encode_any(body)):
                yield f"{fact.table}: row {row['seq']} is not what the log says"
        if rows != entries.get(fact.kind, 0):  # an added row that makes up for a missing one was named above
            yield from _missing_rows(query, fact)


def _missing_rows(query: _Query, fact: Fact) -> Iterator[str]:
    sql = f"select seq, subject from log where kind = ? and seq not in (select seq from {fact.table})"  # noqa: S608 (our names)
    for row in query(sql, (fact.kind,)):
        yield f"{fact.table}: the row of {row['subject']} (log entry {row['seq']}) is missing"


def _check_contents(query: _Query) -> Iterator[str]:
    """Code, output and states are what was written."""
    for row in query("select id, code, code_sha256 from starts"):
        if _digest(row["code"], str) != row["code_sha256"]:
            yield f"starts: the code of {row['id']} was changed"
    for row in query("select id, state, state_sha256 from points where state is not null"):
        if _digest(row["state"], str) != row["state_sha256"]:
            yield f"points: the state of {row['id']} was changed"
    for row in query(
        "select o.start_seq, o.stdout, o.stderr, o.displays, x.stdout_sha256, x.stderr_sha256, x.displays_sha256,"
        " o.vm_id = x.vm_id as same_vm"
        " from outputs o left join executions x on x.start_seq = o.start_seq"
    ):
        kept = (_digest(row["stdout"], bytes), _digest(row["stderr"], bytes), _digest(row["displays"], str))
        if not row["same_vm"] or kept != (row["stdout_sha256"], row["stderr_sha256"], row["displays_sha256"]):
            yield f"outputs: the output of execution {row['start_seq']} was changed"


def _digest(content: Any, kind: type[str] | type[bytes]) -> str | None:
    """As `digest`; None: it is not of the kind that was written."""
    return digest(content) if isinstance(content, kind) else None


# What is gone must have been taken away by us, and what the log says is gone must be. Each query gives the
# rows for which that does not hold.
_LOSSES = {
    "outputs: the output of {} is missing": (
        "select s.id from executions x join starts s on s.seq = x.start_seq"
        " where x.start_seq not in (select start_seq from outputs)"
        " and s.id not in (select subject from log where kind = 'output_dropped')"
    ),
    "points: the state of {} is missing": (
        "select id from points where state is null and id not in (select subject from log where kind = 'state_dropped')"
    ),
    "vms: whether {} was removed is not what the log says": (
        "select id from vms where removed != (id in (select subject from log where kind = 'vm_removed'))"
    ),
    "starts: {} neither ended nor runs": (
        "select id from starts where seq not in (select start_seq from executions)"
        " and seq not in (select start_seq from running)"
    ),
    "running: execution {} did end, or never began": (
        "select start_seq from running where start_seq in (select start_seq from executions)"
        " or start_seq not in (select seq from starts where starts.vm_id = running.vm_id)"
    ),
}


def _check_losses(query: _Query) -> Iterator[str]:
    for text, sql in _LOSSES.items():
        for row in query(sql):
            yield text.format(row[0])


def check_head(query: _Query, seq: int, entry: str) -> Iterator[str]:
    """The entry that was the newest once is still there, and the same: nothing up to it was cut off or made anew."""
    found = [row["hash"] for row in query("select hash from log where seq = ?", (seq,))]
    if not found and seq:
        yield f"log: entry {seq}, which is expected, is not there: the newest entries were cut off"
    elif found and found[0] != entry:
        yield f"log: entry {seq} is not the one that is expected: the chain was made anew"


CHECKS = (_check_file, _check_chain, _check_facts, _check_contents, _check_losses)
