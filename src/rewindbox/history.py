"""Every execution: begun before the code runs, ended once, never changed afterwards.

"Newest" is by start time in `query`, as people read a list, and by order of recording in `trim`, so that a
clock put back cannot make the execution of this minute the oldest. Environment and stdin never come here.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

from rewindbox.chain import canonical, digest
from rewindbox.errors import HistoryError, InvalidArgument, UnknownExecution
from rewindbox.execution import Ended, Execution
from rewindbox.ids import PREFIX_MIN, id_bounds, new_id
from rewindbox.rows import Start, end_row, read_execution, read_start, refuse_another
from rewindbox.schema import BEGUN, ENDED, OUTPUT_DROPPED
from rewindbox.store import Row, Steps, Store, Transaction, Value, done, to_us
from rewindbox.timeline import Timeline

_BIGGEST = 2**63 - 1
_MANY, _MANY_BYTES = 500, 4 << 20
"""Read at once, of executions one after the other: as many as are well worth a thread."""
_LONG_BYTES = 256 << 10
"""Output that takes as long to read as a thread takes to begin, half a millisecond."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryPage:
    """Executions, newest first, and how many match in all."""

    entries: list[Execution]
    total: int
    next: str | None = None
    """Given as `older_than`, the page that follows comes: its last execution. None: nothing follows."""
    note: str | None = None
    """What the user should know of how it was found."""

    @property
    def size_bytes(self) -> int:
        """Of their code, of what they wrote and of what they showed."""
        return sum(entry.size_bytes for entry in self.entries)


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What a history ends with. Kept in another place, its text shows later whether anything was cut off."""

    text: str
    """Number and hash of the newest log entry, with a colon between."""
    entries: int
    executions: int
    """That have ended."""


class History:
    """The executions of one store. Writes take the open transaction, so that they can go together."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def begin(
        self,
        tx: Transaction,
        *,
        vm_id: str,
        agent_id: str,
        language: str,
        code: str,
        started_at: datetime,
        before: str | None = None,
        block: int | None = None,
        session: str | None = None,
        session_begins: bool = False,
        execution_id: str | None = None,
    ) -> Start:
        """Note that an execution begins; `execution_id` None makes an id. Leave the transaction before the code runs.

        Raises InvalidArgument: `started_at` without a timezone, or code that is no Unicode text.
        """
        row: dict[str, Value] = {
            "id": execution_id or new_id("ex"),
            "vm_id": vm_id,
            "agent_id": agent_id,
            "language": language,
            "code_sha256": digest(code),
            "started_us": to_us(started_at),
            "before_point": before,
            "block_index": block,
            "pid": os.getpid(),
            "session": session,
            "session_begins": 1 if session_begins else None,
        }
        seq = tx.add(BEGUN, str(row["id"]), row, code=code)
        tx.execute("insert into running values (?, ?)", (seq, vm_id))
        return read_start({**row, "code": code, "seq": seq})

    def finish(self, tx: Transaction, execution: Execution, start: Start | None = None) -> None:
        """Note how an execution ended. Its points may be added before or after, in the same transaction.

        `start`: what `begin` returned, where the caller still has it; None: it is looked up.

        Raises:
            UnknownExecution: it was not begun.
            HistoryError: it ended before.
            Internal: vm, agent, language, code, start or point before are not those it was begun with.
        """
        start = start or self._begun(execution.id)
        seq = start.seq
        refuse_another(start, execution)
        if not tx.execute("delete from running where start_seq = ?", (seq,)).rowcount:
            raise HistoryError(f"{execution.id} has ended before", remedy="finish an execution once")
        displays = canonical(execution.displays) if execution.displays else None
        end = {**end_row(seq, execution), "displays_sha256": None if displays is None else digest(displays)}
        tx.add(ENDED, execution.id, end)
        tx.execute(
            "insert into outputs(start_seq, vm_id, stdout, stderr, displays) values (?, ?, ?, ?, ?)",
            (seq, execution.vm_id, execution.stdout_bytes, execution.stderr_bytes, displays),
        )

    def _begun(self, execution_id: str) -> Start:
        rows = self._store.rows("select * from starts where id = ?", (execution_id,))
        if not rows:
            raise UnknownExecution(f"{execution_id} was not begun", remedy="call `begin` before it runs")
        return read_start(dict(rows[0]))

    def unfinished(self, vm_id: str | None = None) -> list[Start]:
        """Begun and not ended, oldest first; None: of every vm. They run now, or their process died."""
        rows = self._store.rows(
            "select s.* from running r cross join starts s on s.seq = r.start_seq"  # few running, many starts
            " where :vm is null or r.vm_id = :vm order by r.start_seq",
            {"vm": vm_id},
        )
        return [read_start(dict(row)) for row in rows]

    def get(self, ref: str, *, output: bool = True) -> Execution:
        """By id, or a unique prefix of one (`ex_` and 6 characters or more); `output`: as in `asking`.

        Raises UnknownExecution: none, several, or one that has not ended; the text says which.
        """
        begun = self._find(ref)
        for execution in self._each([begun["seq"]], output=output):
            return execution
        raise UnknownExecution(f"{begun['id']} has not ended", remedy="ask again when it has")

    def is_long(self, ref: str) -> bool:
        """Whether reading what it wrote and showed takes long; to know that takes none: it is not read.

        By id or a prefix, as `get`. Raises UnknownExecution: none, or several.
        """
        return bool(self._store.rows(_IS_LONG, (self._find(ref)["seq"], _LONG_BYTES)))

    def _find(self, ref: str) -> Row:
        """What has begun, by id or a unique prefix of one. Raises UnknownExecution."""
        bounds = id_bounds("ex", ref)
        if bounds is None:
            raise UnknownExecution(f"{ref!r} is no id", remedy=f"give `ex_` and {PREFIX_MIN} characters or more")
        found = self._store.rows("select seq, id from starts where id >= ? and id < ? limit 2", bounds)
        if len(found) > 1:
            raise UnknownExecution(f"several ids begin with {ref!r}", remedy="give more characters of the id")
        if not found:
            raise _unknown(ref)
        return found[0]

    def _place(self, ref: str, agent_id: str | None) -> tuple[int, int]:
        """Where an execution stands, by its whole id. Raises UnknownExecution, also of another agent's."""
        sql = "select started_us, seq from starts where id = :id and (:agent is null or agent_id = :agent)"
        for row in self._store.rows(sql, {"id": ref, "agent": agent_id}):
            return row["started_us"], row["seq"]
        raise _unknown(ref)

    def query(self, **asked: Any) -> HistoryPage:
        """What `asking` finds, at once."""
        return done(self.asking(**asked))

    def asking(
        self,
        *,
        vm_id: str | None = None,
        session: str | None = None,
        agent_id: str | None = None,
        failures_only: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
        language: str | None = None,
        ended: Ended | None = None,
        text: str | None = None,
        limit: int | None = 100,
        offset: int = 0,
        older_than: str | None = None,
        max_bytes: int | None = None,
        output: bool = True,
    ) -> Steps[HistoryPage]:
        """Ended executions, newest start first, and how many match in all, whatever is on the page.

        Args:
            session: The name of a session, of any vm.
            failures_only: Those that did not end by themselves with exit code 0.
            since, until: Bounds of the start, both inclusive, in any timezone.
            ended: Only those that ended so.
            text: Stands in the code, in stdout or in stderr, in upper or lower case. Output that is no longer kept
                is not searched. The first search in a long history makes an index of it.
            limit: At most so many; None: all of them, with their output, in memory.
            offset: Without the newest so many. Where an execution ends between two pages, what is newest has changed.
            older_than: Only what began before this execution, by its whole id: the `next` of the page before. What had
                ended when the first page was asked for comes once, and on one page, whatever ends meanwhile. With
                `agent_id` it is one of that agent's.
            max_bytes: The page ends before code, output and displays are more, but for a single execution that is.
            output: False: what they wrote and showed is left out, and not read; `output_dropped` says what it said.

        It pauses while it makes an index, so that whoever asks can do something else in between.
        Raises InvalidArgument: a time without a timezone, a negative number, or no way to end. UnknownExecution.
        """
        from rewindbox.query import Cut, Query, found  # noqa: PLC0415  an execution does without

        for name, number in (("limit", limit or 0), ("offset", offset), ("max_bytes", max_bytes or 0)):
            if not 0 <= number <= _BIGGEST:
                raise InvalidArgument(f"{name} is {number}", remedy="give 0 or more")
        if ended is not None and ended not in get_args(Ended):
            raise InvalidArgument(f"ended is {ended!r}", remedy=f"give one of {', '.join(get_args(Ended))}")
        asked = Query(
            vm_id=vm_id,
            session=session,
            agent_id=agent_id,
            failures_only=failures_only,
            ended=ended,
            language=language,
            since_us=None if since is None else to_us(since),
            until_us=None if until is None else to_us(until),
            text=text or "",
        )
        past = None if older_than is None else self._place(older_than, agent_id)
        page = yield from found(self._store, asked, Cut(limit, offset, past))
        entries = list(within(self._each(page.numbers, output=output), max_bytes))
        is_last = page.before + len(entries) >= page.total or not entries
        return HistoryPage(entries=entries, total=page.total, next=None if is_last else entries[-1].id, note=page.note)

    def head(self) -> Head:
        """What the history ends with now."""
        seq, entry = self._store.head()
        return Head(text=f"{seq}:{entry}", entries=seq, executions=self._store.rows(_ENDED_COUNT)[0][0])

    def verify(self, expect: str | None = None) -> list[str]:
        """What is wrong with the history, a sentence each; see `Store.verify`. `expect`: the text of an earlier `head`.

        Also whether what makes finding quick says the same; where it does not, it is made anew.
        Raises InvalidArgument: `expect` is no head.
        """
        from rewindbox.query import problems  # noqa: PLC0415  as above

        return [*self._store.verify(None if expect is None else _expected(expect)), *problems(self._store)]

    def after(self, seq: int) -> list[tuple[int, Execution]]:
        """The next ended executions in the order of recording, each with its number; 0 begins at the first.

        Fewer where they have written much.
        """
        sql = "select start_seq from executions where start_seq > ? order by start_seq limit ?"
        numbers = [row["start_seq"] for row in self._store.rows(sql, (seq, _MANY))]
        return list(zip(numbers, within(self._each(numbers), _MANY_BYTES), strict=False))

    def of_session(self, vm_id: str, session: str, point_id: str) -> Iterator[Execution]:
        """What made the variables that a session had at a point: its executions since it began, oldest first.

        Only those that led to the point; what was undone did not. Each is read when it is asked for.
        """
        rows = self._store.rows(_LINE_OF_SESSION, {"vm": vm_id, "session": session, "point": point_id})
        begun = max((number for number, row in enumerate(rows) if row["session_begins"]), default=0)
        return self._each([row["start_seq"] for row in rows[begun:]])

    def last_success(self, vm_id: str) -> Execution | None:
        """The success whose `after` point the vm can go back to; None when no kept point is one.

        The nearest one at or above the vm's tip; where there is none, the newest one recorded.
        """
        with self._store.reading():
            asked = {"vm": vm_id}
            found = self._store.rows(_NEAREST_SUCCESS, asked) or self._store.rows(_NEWEST_SUCCESS, asked)
            return next(self._each([found[0]["found"]])) if found else None

    def trim(self, tx: Transaction, vm_id: str, max_entries: int) -> list[str]:
        """Drop the output of all but the newest `max_entries` executions of a vm; the rows stay.

        With it go the snapshots that were taken for them without anybody asking.

        Returns the points whose states nothing needs any more because of it, for `Timeline.drop_states`
        once the backend has dropped their files. Raises InvalidArgument: `max_entries` is negative.
        """
        if max_entries < 0:
            raise InvalidArgument(f"max_entries is {max_entries}", remedy="give 0 or more")
        old = self._store.rows(_OLD, (vm_id, max_entries))
        for row in old:
            tx.execute("delete from outputs where start_seq = ?", (row["start_seq"],))
            tx.append(OUTPUT_DROPPED, row["id"], {})
        if old:
            Timeline(self._store).expire_snapshots(tx, vm_id, {row["id"] for row in old}, max_entries)
        return self.needless(vm_id) if old else []

    def exceeds(self, vm_id: str, max_entries: int) -> bool:
        """Whether `trim` would find any to drop."""
        return bool(self._store.rows(_ONE_OLD, (vm_id, max_entries)))

    def needless(self, vm_id: str) -> list[str]:
        """The points whose states may go: no tip, no snapshot and no execution with output needs them."""
        return [row["id"] for row in self._store.rows(_NEEDLESS, {"vm": vm_id})]

    def _each(self, numbers: Iterable[int], *, output: bool = True) -> Iterator[Execution]:
        """Those that have ended, one after the other. To sort them SQLite would have all that they wrote in memory."""
        sql = f"{_EXECUTIONS if output else _WITHOUT_OUTPUT} where x.start_seq = ?"
        for number in numbers:
            yield from map(read_execution, self._store.rows(sql, (number,)))


def within(executions: Iterable[Execution], max_bytes: int | None) -> Iterator[Execution]:
    """As many as are no more than that together; the first one in any case. None: all of them."""
    size_bytes = 0
    for number, execution in enumerate(executions):
        size_bytes += execution.size_bytes
        if number and max_bytes is not None and size_bytes > max_bytes:
            return
        yield execution


def _unknown(ref: str) -> UnknownExecution:
    return UnknownExecution(f"no execution has the id {ref!r}", remedy="choose one that history lists")


_WRITTEN = "o.stdout, o.stderr, o.displays"

_EXECUTIONS = f"""
select s.id, s.code, s.session, x.*, o.start_seq is null as output_dropped, {_WRITTEN}
from executions x join starts s on s.seq = x.start_seq left join outputs o on o.start_seq = x.start_seq"""  # noqa: S608 (our names)

_WITHOUT_OUTPUT = _EXECUTIONS.replace(_WRITTEN, "null as stdout, null as stderr, null as displays")

_IS_LONG = """
select 1 from outputs where start_seq = ? and (length(stdout) + length(stderr) > ? or displays is not null)"""

_ENDED_COUNT = "select count(*) from executions"

_NEEDLESS = """
select id from points where vm_id = :vm and state is not null
and id is not (select tip from vms where id = :vm)
and id not in (select point_id from snapshots where vm_id = :vm and id not in (select snapshot_id from removals))
and id not in (select before_point from running r join starts s on s.seq = r.start_seq
               where r.vm_id = :vm and before_point is not null)
and id not in (select x.before_point from outputs o join executions x on x.start_seq = o.start_seq
               where o.vm_id = :vm and x.before_point is not null)
and id not in (select x.after_point from outputs o join executions x on x.start_seq = o.start_seq
               where o.vm_id = :vm and x.after_point is not null)"""

# Those with output, beyond the newest so many.
_OLD = """
select s.id, x.start_seq, x.before_point, x.after_point
from executions x join starts s on s.seq = x.start_seq where x.start_seq in (
    select start_seq from outputs where vm_id = ? order by start_seq desc limit -1 offset ?)"""

_ONE_OLD = "select 1 from outputs where vm_id = ? limit 1 offset ?"

# The walk goes up from the tip one parent at a time and stops at the first row, or where no point is old
# enough to have been kept: a parent is always older than its child.
_NEAREST_SUCCESS = """
with recursive line(id, parent_id, kept) as (
    select id, parent_id, state is not null from points where id = (select tip from vms where id = :vm)
    union all
    select p.id, p.parent_id, p.state is not null from line join points p on p.id = line.parent_id
    where p.seq >= (select min(seq) from points where vm_id = :vm and state is not null))
select (select max(start_seq) from executions
        where after_point = line.id and vm_id = :vm and success = 1) as found
from line where kept and found is not null limit 1"""

_LINE_OF_SESSION = """
with recursive line(id, parent_id) as (
    select id, parent_id from points where id = :point and vm_id = :vm
    union all select p.id, p.parent_id from line join points p on p.id = line.parent_id)
select x.start_seq, s.session_begins from line join executions x on x.after_point = line.id
join starts s on s.seq = x.start_seq where s.session = :session and x.rolled_back_to is null order by x.start_seq"""

# `cross join` keeps the order: the kept points are few, the executions of a vm may be many.
_NEWEST_SUCCESS = """
select x.start_seq as found from points p cross join executions x on x.after_point = p.id
where p.vm_id = :vm and p.state is not null and x.vm_id = :vm and x.success = 1
order by x.start_seq desc limit 1"""


def _expected(head: str) -> tuple[int, str]:
    if not re.fullmatch(r"[0-9]{1,18}:[0-9a-f]{64}", head.strip()):
        raise InvalidArgument(f"{head[:80]!r} is no head of a history", remedy="give one that `verify` has printed")
    seq, _, entry = head.strip().partition(":")
    return int(seq), entry
