"""The database file: opening, migrations, transactions, and the hash chain over every fact in it.

A fact (an execution begun, a point added ...) is one row of its own table and one entry of `log`, written
together and never changed; the entry's body is the row as canonical JSON. Content that may be dropped or is
large (code, output, states) stands beside the row, its SHA-256 in it. docs/store.md shows all of it.

Calls are synchronous and take microseconds; several processes may use one file. One thread at a time.
Not covered: someone who may write the file and recomputes the whole chain; keep `head()` elsewhere for that.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TypeVar

from rewindbox.causes import BUSY_TIMEOUT_S, history_error, is_locked
from rewindbox.chain import CHECKS, FIRST_HASH, canonical, check_head, entry_hash, not_unicode
from rewindbox.errors import HistoryError, Internal, InvalidArgument, RewindboxError
from rewindbox.schema import APPLICATION_ID, STEPS, Fact

Row = sqlite3.Row
Value = str | int | float | bytes | None
Values = Sequence[Value] | Mapping[str, Value]
"""For `?`, or for `:name`. Not for `?1`, of which Python 3.12.0 to 3.12.3 warn, as if it were a name."""

T = TypeVar("T")
Steps = Generator[float, None, T]
"""Work in pieces, with its result: between two of them it asks for a pause of so many seconds."""
PAUSE_S = 0.12
"""Long enough for those who wait to write: SQLite looks every tenth of a second whether it may."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now_us() -> int:
    """The wall clock in microseconds since 1970, UTC."""
    return time.time_ns() // 1000


def to_us(when: datetime) -> int:
    """Microseconds since 1970, exactly. Raises InvalidArgument: `when` has no timezone."""
    if when.utcoffset() is None:
        raise InvalidArgument(f"the time {when.isoformat()} has no timezone", remedy="add one, such as +00:00 or Z")
    return (when - _EPOCH) // timedelta(microseconds=1)


def from_us(at_us: int) -> datetime:
    """The inverse of `to_us`, in UTC."""
    return _EPOCH + timedelta(microseconds=at_us)


def done(steps: Steps[T]) -> T:
    """Do all the work."""
    while True:
        try:
            time.sleep(next(steps))
        except StopIteration as end:
            result: T = end.value
            return result


class Transaction:
    """An open write transaction. Whatever writes takes it, so that nothing is written outside of one."""

    def __init__(self, store: "Store") -> None:
        self._store: Store | None = store
        self._head: tuple[int, str] | None = None
        self._failure: RewindboxError | None = None

    def execute(self, sql: str, values: Values = ()) -> sqlite3.Cursor:
        """Run one statement. Raises HistoryError; from then on, nothing of this transaction is kept."""
        self.refuse_after_failure()
        try:
            return self._opened()._run(sql, values)
        except RewindboxError as exc:
            self._failure = exc
            raise

    def refuse_after_failure(self) -> None:
        """A failure that somebody swallowed must not leave half of a change behind."""
        if self._failure is not None:
            remedy = "leave the transaction and try again"
            raise HistoryError("a statement of this transaction failed", remedy=remedy) from self._failure

    def append(self, kind: str, subject: str, body: Mapping[str, Value]) -> int:
        """Add an entry to the log; returns its number."""
        last, previous = self._head or self._opened().head()
        seq = last + 1
        at_us, text = now_us(), canonical(body)
        entry = entry_hash(previous, seq, at_us, kind, subject, text)
        self.execute("insert into log values (?, ?, ?, ?, ?, ?)", (seq, at_us, kind, subject, text, entry))
        self._head = (seq, entry)
        return seq

    def add(self, fact: Fact, subject: str, values: Mapping[str, Value], **beside: Value) -> int:
        """Add a fact: its log entry and its row; `beside` are columns that the entry does not have."""
        seq = self.append(fact.kind, subject, fact.body(values))
        row = (seq, *map(values.get, fact.names), *beside.values())
        self.execute(_insertion(fact, *beside), row)
        return seq

    def end(self) -> None:
        """From here on, `execute` refuses."""
        self._store = None

    def _opened(self) -> "Store":
        if self._store is None:
            raise Internal("this transaction has ended", remedy="write inside its `with` block")
        return self._store


@cache
def _insertion(fact: Fact, *beside: str) -> str:
    """The statement that adds a row of this fact, with columns that its entry does not have."""
    names = ("seq", *fact.names, *beside)
    return f"insert into {fact.table}({', '.join(names)}) values ({', '.join('?' * len(names))})"  # noqa: S608 (our names)


class Store:
    """An open history database.

    An acknowledged transaction survives the death of every process, not a loss of power.
    Not to be carried across a fork.
    """

    def __init__(self, path: str | None) -> None:
        """Open `path`, made with mode 0600 if it is not there; None: in memory, gone with `close`.

        Raises:
            HistoryError: it cannot be opened, is no history, or of a newer version; it was not changed.
        """
        self.path = None if path is None else os.path.abspath(path)
        self._where = self.path or "the history in memory"
        self._pid = os.getpid()
        self._tx: Transaction | None = None
        self._db: sqlite3.Connection | None = None
        if self.path is not None:
            _make_file(self.path)
        self._connect()

    def _run(self, sql: str, values: Values = ()) -> sqlite3.Cursor:
        """Run one statement. Other modules read by `rows` and write by a `Transaction`."""
        if self._db is None:
            raise HistoryError(f"{self._where}: it is closed", remedy="open it again")
        if self._pid != os.getpid():
            raise HistoryError(f"{self._where}: opened by process {self._pid}", remedy="open it again after a fork")
        try:
            return self._db.execute(sql, values)
        except sqlite3.Error as exc:
            raise history_error(self._where, exc) from exc
        except UnicodeEncodeError as exc:
            raise not_unicode(exc) from exc

    def rows(self, sql: str, values: Values = ()) -> list[Row]:
        """All rows of a query. Raises HistoryError."""
        cursor = self._run(sql, values)
        try:
            return cursor.fetchall()
        except sqlite3.Error as exc:  # SQLite reads as it goes: damage may show up late
            raise history_error(self._where, exc) from exc

    def each(self, sql: str, values: Values = ()) -> Generator[Row, None, None]:
        """The rows of a query, one after the other: few are in memory. Raises HistoryError."""
        with closing(self._run(sql, values)) as cursor:
            try:
                yield from cursor
            except sqlite3.Error as exc:
                raise history_error(self._where, exc) from exc

    @property
    def pause_s(self) -> float:
        """Between two of several transactions, so that others come to write; nobody shares what is in memory."""
        return 0.0 if self.path is None else PAUSE_S

    @property
    def is_writing(self) -> bool:
        """A transaction of this store is open."""
        return self._tx is not None

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Write: all of the block, or, on any exception, none of it. Waits up to 5 s for other processes.

        Raises:
            HistoryError: locked, full, damaged or read-only; nothing was written.
            Internal: a transaction of this store is open already.
        """
        if self._tx is not None:
            raise Internal("a transaction of this store is open already", remedy="hand it on, or end it first")
        self._run("begin immediate")
        tx = self._tx = Transaction(self)
        try:
            yield tx
            tx.refuse_after_failure()
            self._run("commit")
        except BaseException:
            self._roll_back()
            raise
        finally:
            tx.end()
            self._tx = None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """All queries of the block see the same moment, whatever other processes write meanwhile."""
        if self._tx is not None:
            yield
            return
        self._run("begin")
        try:
            yield
        finally:
            self._roll_back()

    def head(self) -> tuple[int, str]:
        """Number and hash of the newest log entry. Kept elsewhere, it shows a later truncation."""
        rows = self.rows("select seq, hash from log order by seq desc limit 1")
        return (rows[0][0], rows[0][1]) if rows else (0, FIRST_HASH)

    def verify(self, expected: tuple[int, str] | None = None) -> list[str]:
        """What is wrong with the file, a sentence each; empty when nothing is.

        Finds what was edited, deleted, put in another order or cut off, in the log or in a table of facts;
        not: edits of a vm's tip, live state or last activity, and a cut that took log and tables alike, unless
        a `head` from before it is `expected`.
        Reads everything: two to three minutes for a million executions (3 GB). Raises HistoryError: it cannot be read.
        """
        if self._db is None:
            raise HistoryError(f"{self._where}: it is closed", remedy="open it again")
        self._db.text_factory = lambda raw: raw.decode("utf-8", "replace")  # an edit may be no text at all
        try:
            with self.reading():
                told = [problem for check in CHECKS for problem in check(self.each)]
                return told if expected is None else [*told, *check_head(self.each, *expected)]
        finally:
            self._db.text_factory = str

    def interrupt(self) -> None:
        """End what another thread has going on in it, by a HistoryError there."""
        with suppress(sqlite3.ProgrammingError):  # it is being closed
            if self._db is not None:
                self._db.interrupt()

    def close(self) -> None:
        """Idempotent. An open transaction is rolled back."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _roll_back(self) -> None:
        # What went wrong before is what the caller must hear of; SQLite may also have rolled back by itself.
        if self._db is not None and self._db.in_transaction:
            with suppress(sqlite3.Error):
                self._db.execute("rollback")

    def _connect(self) -> None:
        try:
            self._db = sqlite3.connect(
                self.path or ":memory:",
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,  # we say when a transaction begins
                check_same_thread=False,  # opened by one thread, used by another is fine; both at once is not
            )
            self._db.row_factory = Row
            self._refuse_strangers()
            _until_free(lambda: self._run("pragma journal_mode = wal"))
            self._run("pragma synchronous = normal")
            self._run("pragma foreign_keys = on")
            self._migrate()
        except sqlite3.Error as exc:
            self.close()
            raise history_error(self._where, exc) from exc
        except BaseException:
            self.close()
            raise

    def _version(self) -> int:
        return int(self.rows("pragma user_version")[0][0])

    def _refuse_strangers(self) -> None:
        application, version, tables = self.rows(
            "select a.application_id, v.user_version, (select count(*) from sqlite_master)"
            " from pragma_application_id a, pragma_user_version v"
        )[0]
        if application != APPLICATION_ID and (application or version or tables):
            raise HistoryError(
                f"{self._where}: it is a database of another program",
                remedy="name another file, or move this one away",
            )
        if version > len(STEPS):
            raise HistoryError(
                f"{self._where}: it has version {version}, and this rewindbox knows up to {len(STEPS)}",
                remedy="update rewindbox, or name another file",
            )

    def _migrate(self) -> None:
        while self._version() < len(STEPS):
            with self.transaction() as tx:
                version = self._version()  # again: another process may have been quicker
                if version < len(STEPS):
                    for statement in STEPS[version].split(";\n"):  # `executescript` would commit
                        tx.execute(statement)
                    tx.execute(f"pragma user_version = {version + 1}")


def _make_file(path: str) -> None:
    """Make an empty file that only its owner may read; SQLite gives its -wal and -shm the same mode.

    An existing file is left alone, not even opened: closing a descriptor of it would end the locks that
    another connection of this process holds on it.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not os.path.lexists(path):  # a folder on the way is a file
            raise HistoryError(f"{path}: its folder is not a folder", remedy="name another file") from None
    except OSError as exc:
        remedy = "name a file in a folder that this user may write"
        raise HistoryError(f"{path}: it cannot be made ({exc.strerror})", remedy=remedy) from exc


def _until_free(action: Callable[[], object]) -> None:
    """Switching to WAL does not wait for other processes by itself; so wait here, as long as SQLite would."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            action()
            return
        except HistoryError as exc:
            if not is_locked(exc) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
