"""One narrow row for each ended execution, so that any page of the history and its total are quick to find.

It follows from the facts and is none: it is filled when somebody looks, from what the log has since, so that an
execution never waits for it, and it can be made anew at any time. `tallies` count what lies between two moments,
about a thousand executions each: of a million that match, the total and a page in the middle take a millisecond.
`mixes` say of longer times how many have the same agent, language and end: where several of these are asked for.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from rewindbox.causes import is_no_time_to_write
from rewindbox.errors import HistoryError
from rewindbox.store import Row, Steps, Store, Transaction, Value

_BUCKET = 1024
"""Executions that one row of `tallies` counts, or more where they began in the same microsecond."""
_MIXED = 8
"""Buckets in one of `mixes`: of a million executions with ten agents and three languages they take 25,000 rows."""
_AT_ONCE = 10_000
"""Taken in by one transaction, in a quarter of a second: an execution that ends meanwhile waits for it."""
EARLIEST, LATEST = -(2**62), 2**62
"""Beyond any time that `datetime` has, in microseconds."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What can be asked for: the column of `listing l` that says it, and which of the executions it is about."""

    name: str
    column: str
    among: str = "1"
    is_mixed: bool = False
    """Whether `mixes` tell its values apart."""

    @property
    def index(self) -> str:
        """The index that leads to what is asked for, in the order of time."""
        return f"listing_{self.name}"

    @property
    def bucket(self) -> int:
        """Executions that one row of `tallies` counts."""
        return _BUCKET


# Where several are asked for, the first leads: what stands before others has them in its index.
KINDS = (
    Kind("vm", "l.vm_id"),
    Kind("session", "l.session", "l.session is not null"),
    Kind("agent", "l.agent_id", is_mixed=True),
    Kind("failed", "''", "l.success = 0", is_mixed=True),
    Kind("ended", "l.ended", is_mixed=True),
    Kind("language", "l.language", is_mixed=True),
    Kind("time", "''"),
)


@dataclass(frozen=True, slots=True)
class _Mix(Kind):
    """Not asked for: its tallies say from when to when `mixes` count."""

    @property
    def index(self) -> str:
        return "listing_time"

    @property
    def bucket(self) -> int:
        return _BUCKET * _MIXED


_MIX = _Mix("mix", "''")

ROWS = """
select x.start_seq, x.started_us, x.vm_id, x.agent_id, x.language, s.session, x.ended, x.success
from executions x join starts s on s.seq = x.start_seq"""
"""What `listing` has to be: the same, slower."""


def bring_up(store: Store) -> Steps[bool]:
    """Take in what ended since somebody last looked. False: nothing can be written now, so it is not whole."""
    return taken_in(store, "listing", "'execution_ended'", _take_in)


def taken_in(store: Store, name: str, kinds: str, take_in: Callable[[Transaction, int], int]) -> Steps[bool]:
    """Call `take_in` with the number of the last entry of these kinds that is in, until none is left.

    Each call has a transaction, and returns up to which it came. False: nothing can be written now.
    """
    news = f"select 1 from log where seq > ? and kind in ({kinds}) limit 1"  # noqa: S608 (our own names)
    is_first = True
    while store.rows(news, (_last(store, name),)):
        if store.is_writing:
            return False
        if not is_first:
            yield store.pause_s
        is_first = False
        try:
            with store.transaction() as tx:
                last = _last(store, name)
                if not store.rows(news, (last,)):  # who had the lock before us has taken it in
                    return True
                last = take_in(tx, last)
                tx.execute("insert or replace into caught_up values (?, ?)", (name, last))
        except HistoryError as error:
            if is_no_time_to_write(error):
                return False
            raise
    return True


def _last(store: Store, name: str) -> int:
    found = store.rows("select log_seq from caught_up where name = ?", (name,))
    return int(found[0][0]) if found else 0


def clear(tx: Transaction) -> None:
    """Forget all of it: it is made anew when somebody looks."""
    for table in ("listing", "tallies", "mixes"):
        tx.execute(f"delete from {table}")  # noqa: S608 (our names)
    tx.execute("delete from caught_up where name = 'listing'")


def _take_in(tx: Transaction, last: int) -> int:
    for statement in _FRESH:
        tx.execute(statement)
    tx.execute(_ENDED_SINCE, (last, _AT_ONCE))
    tx.execute(f"insert or replace into listing {ROWS} where x.start_seq in (select start_seq from fresh)")  # noqa: S608 (our own names)
    for kind in (*KINDS, _MIX):
        for statement in (_FORGET, _TOUCHED, _LATE, _TALLIED):
            tx.execute(statement.format(kind=kind))
    for statement in (_MIXED_LATE, _MIXED_NEW):  # `touched` is of mixes now
        tx.execute(statement)
    return int(
        tx.execute("select max(x.seq) from fresh f join executions x on x.start_seq = f.start_seq").fetchone()[0]
    )


_FRESH = (
    "create temp table if not exists fresh(start_seq integer primary key)",
    "create temp table if not exists touched(value text primary key, first_us integer, since_us integer) without rowid",
    "delete from fresh",
)

_ENDED_SINCE = """
insert into fresh select json_extract(body, '$.start_seq') from log
where seq > ? and kind = 'execution_ended' order by seq limit ?"""

_FORGET = "delete from touched"

# When the first of a value's fresh ones began, and from where on its executions are in no tally yet. `cross join` keeps
# the order: few are fresh, many are listed.
_TOUCHED = f"""
insert into touched select value, first_us, coalesce(
    (select before_us from tallies t where t.kind = '{{kind.name}}' and t.value = f.value
     order by from_us desc limit 1), {EARLIEST})
from (select {{kind.column}} as value, min(l.started_us) as first_us
      from fresh cross join listing l on l.start_seq = fresh.start_seq
      where {{kind.among}} group by {{kind.column}}) f"""  # noqa: S608 (our own names)

# What began before that and ended only now is counted where it belongs, if it is not older than all that is counted.
_LATE = """
insert into tallies select '{kind.name}', value, bucket, 0, count(*) from (
    select t.value, (select max(from_us) from tallies a where a.kind = '{kind.name}' and a.value = t.value
                     and a.from_us <= l.started_us) as bucket
    from touched t cross join fresh cross join listing l on l.start_seq = fresh.start_seq
    where t.first_us < t.since_us and t.value = {kind.column} and l.started_us < t.since_us and {kind.among})
where bucket is not null group by value, bucket
on conflict (kind, value, from_us) do update set executions = executions + excluded.executions"""

# `rank` gives those of one microsecond the same bucket. The last bucket is not complete: it is counted when asked for.
# Most values have not enough for a bucket yet, which is found out at a twentieth of the price.
_TALLIED = """
insert into tallies select '{kind.name}', value, from_us, before_us, executions from (
    select value, min(us) as from_us, lead(min(us)) over (partition by value order by min(us)) as before_us,
           count(*) as executions
    from (select t.value, l.started_us as us,
                 (rank() over (partition by t.value order by l.started_us) - 1) / {kind.bucket} as bucket
          from (select value, since_us from touched t where
                (select 1 from listing l indexed by {kind.index} where l.started_us >= t.since_us
                 and {kind.column} = t.value and {kind.among} limit 1 offset {kind.bucket}) is not null) t
          cross join listing l indexed by {kind.index}
          on l.started_us >= t.since_us and {kind.column} = t.value and {kind.among})
    group by value, bucket) where before_us is not null"""


_MIXED_LATE = f"""
insert into mixes select (select max(from_us) from tallies a where a.kind = '{_MIX.name}' and a.from_us <= l.started_us)
    as bucket, l.agent_id, l.language, l.ended, l.success, count(*)
from touched t cross join fresh cross join listing l on l.start_seq = fresh.start_seq
where l.started_us < t.since_us and bucket is not null group by 1, 2, 3, 4, 5
on conflict do update set executions = executions + excluded.executions"""  # noqa: S608 (our own names)

_MIXED_ROWS = f"""
select t.from_us, l.agent_id, l.language, l.ended, l.success, count(*)
from tallies t cross join listing l indexed by listing_time
on l.started_us >= t.from_us and l.started_us < t.before_us where t.kind = '{_MIX.name}'"""  # noqa: S608 (our own names)
"""What `mixes` have to be."""

_MIXED_NEW = f"""
insert into mixes {_MIXED_ROWS} and t.from_us >= (select since_us from touched) group by 1, 2, 3, 4, 5"""  # noqa: S608 (our own names)


class Stretch:
    """The executions that meet all conditions between two moments, both inclusive: how many, and any page of them."""

    def __init__(self, store: Store, asked: Sequence[tuple[Kind, Value]], since_us: int, until_us: int) -> None:
        """`asked`: kinds and their values, in the order of `KINDS`; at least one."""
        self._store = store
        self._since_us, self._until_us = since_us, until_us
        self._where = f"from listing l indexed by {asked[0][0].index} where {conditions(kind for kind, _ in asked)}"
        self._values = [value for _, value in asked]
        self._buckets = self._counted_buckets(asked)  # newest first
        self._newest_us = self._buckets[0]["before_us"] if self._buckets else since_us
        """What began from then on is in no bucket."""
        self._newest = self._count(self._newest_us, until_us)

    def total(self) -> int:
        """How many there are."""
        if not self._buckets:
            return self._newest
        oldest = self._count(self._since_us, self._buckets[-1]["from_us"] - 1)
        return self._newest + sum(int(bucket["executions"]) for bucket in self._buckets) + oldest

    def page(self, limit: int, offset: int) -> list[int]:
        """Their numbers, newest first."""
        until_us, skipped = self._skip(offset)
        rows = self._store.rows(
            f"select start_seq {self._where} order by started_us desc, start_seq desc limit ? offset ?",
            (*self._values, self._since_us, until_us, limit, offset - skipped),
        )
        return [row[0] for row in rows]

    def _skip(self, offset: int) -> tuple[int, int]:
        """Where to begin so that few rows before the page are read, and how many are skipped by that."""
        if not self._buckets or offset < self._newest:
            return self._until_us, 0
        until_us, skipped = self._newest_us - 1, self._newest
        for bucket in self._buckets:
            if offset < skipped + bucket["executions"]:
                break
            until_us, skipped = bucket["from_us"] - 1, skipped + bucket["executions"]
        return until_us, skipped

    def _count(self, since_us: int, until_us: int) -> int:
        return int(self._store.rows(f"select count(*) {self._where}", (*self._values, since_us, until_us))[0][0])

    def _counted_buckets(self, asked: Sequence[tuple[Kind, Value]]) -> list[Row]:
        """None where nobody has counted: then all that the first condition finds is gone through."""
        if len(asked) == 1:
            return self._store.rows(_BUCKETS, (asked[0][0].name, asked[0][1], self._since_us, self._until_us))
        if not all(kind.is_mixed for kind, _ in asked):
            return []
        mixes = _MIXES.format(mixed=_asked_for(kind for kind, _ in asked))
        return self._store.rows(mixes, (*self._values, self._since_us, self._until_us))


def conditions(kinds: Iterable[Kind]) -> str:
    """In SQL, of `listing l`, with a place for the value of each, and for the first and the last moment."""
    return f"{_asked_for(kinds)} and l.started_us between ? and ?"


def _asked_for(kinds: Iterable[Kind]) -> str:
    return " and ".join(f"{kind.column} = ? and {kind.among}" for kind in kinds)


_BUCKETS = """
select from_us, before_us, executions from tallies
where kind = ? and value = ? and from_us >= ? and before_us <= ? + 1 order by from_us desc"""

_MIXES = f"""
select t.from_us, t.before_us, (select coalesce(sum(l.executions), 0) from mixes l
                                where l.from_us = t.from_us and {{mixed}}) as executions
from tallies t where t.kind = '{_MIX.name}' and t.from_us >= ? and t.before_us <= ? + 1 order by t.from_us desc"""  # noqa: S608 (our own names)


def problems(store: Store) -> Iterator[str]:
    """In what it differs from the facts."""
    for text, sql in _DIFFERENCES.items():
        for row in store.rows(sql):
            yield text.format(*row)


def _wrong_tallies(kind: Kind) -> str:
    return (
        f"select t.kind, t.value from tallies t where t.kind = '{kind.name}' and t.executions != (select count(*)"  # noqa: S608 (our own names)
        f" from listing l indexed by {kind.index} where {kind.column} = t.value and {kind.among}"
        " and l.started_us >= t.from_us and l.started_us < t.before_us)"
    )


_DIFFERENCES = {
    "listing: it has execution {} otherwise than the history": (
        f"select start_seq from (select * from listing except {ROWS}) limit 20"  # noqa: S608 (our own names)
    ),
    "listing: execution {} is missing": (
        f"select start_seq from ({ROWS} where x.seq <= (select log_seq from caught_up where name = 'listing')"  # noqa: S608 (our own names)
        " except select * from listing) limit 20"
    ),
    **{f"tallies: {{}} {{!r}} is counted wrong ({kind.name})": _wrong_tallies(kind) for kind in (*KINDS, _MIX)},
    "mixes: what began from {} on is counted wrong": (
        f"select from_us from (select * from mixes except {_MIXED_ROWS} group by 1, 2, 3, 4, 5)"  # noqa: S608 (our own names)
        f" union select from_us from tallies t where kind = '{_MIX.name}'"
        " and executions != (select coalesce(sum(executions), 0) from mixes m where m.from_us = t.from_us) limit 20"
    ),
}
