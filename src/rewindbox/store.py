"""The database file: opening, migrations, transactions, and the hash chain over every fact in it.

A fact (an execution begun, a point added ...) is one row of its own table and one entry of `log`, written
together and never changed; the entry's body is the row as canonical JSON. Content that may be dropped or is
large (code, output, states) stands beside the row, its SHA-256 in it. docs/store.md shows all of it.

Calls are synchronous and take microseconds; several processes may use one file. One thread at a time.
Not covered: someone who may write the file and recomputes the whole chain; keep `head()` elsewhere for that.
"""

import hashlib
import json
import os
import sqlite3
import time
from base64 import b32encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from rewindbox.errors import HistoryError, Internal, RewindboxError, ValidationFailed

Kind = Literal["vm", "ex", "pt", "snap"]
Row = sqlite3.Row
Value = str | int | float | bytes | None

BUSY_TIMEOUT_S = 5.0
PREFIX_MIN = 6
"""Characters of an id, after its kind, that a unique prefix needs at least."""

_APPLICATION_ID = 0x52776278  # "Rwbx": tells our files from other programs' SQLite files
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_HASH = "0" * 64  # what stands for "the entry before" in the first entry
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
_encode_any = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=repr).encode  # edited rows too


def new_id(kind: Kind) -> str:
    """`kind`, an underscore, and 26 characters of lower-case base32 (128 random bits)."""
    return f"{kind}_{b32encode(os.urandom(16)).decode()[:26].lower()}"


def id_bounds(kind: Kind, ref: str) -> tuple[str, str] | None:
    """The range in which the ids beginning with `ref` lie; None: it is no id, or cut too short."""
    if not ref.startswith(f"{kind}_") or len(ref) < len(kind) + 1 + PREFIX_MIN:
        return None
    return ref, ref + "~"  # "~" sorts after every character of an id


def now_us() -> int:
    """The wall clock in microseconds since 1970, UTC."""
    return time.time_ns() // 1000


def to_us(when: datetime) -> int:
    """Microseconds since 1970, exactly. Raises ValidationFailed: `when` has no timezone."""
    if when.utcoffset() is None:
        raise ValidationFailed(f"the time {when.isoformat()} has no timezone", remedy="add one, such as +00:00 or Z")
    return (when - _EPOCH) // timedelta(microseconds=1)


def from_us(at_us: int) -> datetime:
    """The inverse of `to_us`, in UTC."""
    return _EPOCH + timedelta(microseconds=at_us)


def digest(content: bytes | str) -> str:
    """SHA-256 in hexadecimal. Raises ValidationFailed: text that is not Unicode (a lone surrogate)."""
    try:
        return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
    except UnicodeEncodeError as exc:
        raise _not_unicode(exc) from exc


def canonical(value: Any) -> str:
    """JSON with sorted keys, no spaces, ASCII only: equal values give equal text."""
    return _encode(value)


@dataclass(frozen=True, slots=True)
class Fact:
    """A kind of log entry that has a table. `columns` are its body; other columns are not in the chain."""

    kind: str
    table: str
    columns: tuple[str, ...]


def _fact(kind: str, table: str, columns: str) -> Fact:
    return Fact(kind, table, tuple(columns.split()))


VM_CREATED = _fact("vm_created", "vms", "id name vm_type backend agent_id created_us")
BEGUN = _fact(
    "execution_begun",
    "starts",
    "id vm_id agent_id language code_sha256 started_us before_point block_index pid",
)
ENDED = _fact(
    "execution_ended",
    "executions",
    "start_seq vm_id agent_id language started_us success ended exit_code stdout_sha256 stderr_sha256"
    " truncated wall_s cpu_s memory_peak_bytes error before_point after_point rolled_back_to",
)
POINT_ADDED = _fact(
    "point_added",
    "points",
    "id vm_id parent_id execution_id created_us method written_bytes state_sha256",
)
SNAPSHOT_ADDED = _fact(
    "snapshot_added",
    "snapshots",
    "id vm_id point_id kind name created_us execution_id agent_id",
)
SNAPSHOT_REMOVED = _fact("snapshot_removed", "removals", "snapshot_id removed_us")
ROLLED_BACK = _fact(
    "rolled_back",
    "rollbacks",
    "vm_id from_point to_point snapshot_id reason agent_id at_us",
)
FACTS = (VM_CREATED, BEGUN, ENDED, POINT_ADDED, SNAPSHOT_ADDED, SNAPSHOT_REMOVED, ROLLED_BACK)

# Entries without a table: what was taken away, so that a gap is either explained here or a loss.
VM_REMOVED = "vm_removed"
OUTPUT_DROPPED = "output_dropped"
STATE_DROPPED = "state_dropped"

# `seq` of a row is that of its log entry. References are checked at commit, so that the order of writes
# within a transaction is free.
_SCHEMA = """
create table log(
    seq integer primary key, at_us integer not null, kind text not null, subject text not null,
    body text not null, hash text not null);
create table vms(
    seq integer primary key, id text not null unique, name text not null, vm_type text not null,
    backend text not null, agent_id text not null, created_us integer not null,
    last_activity_us integer, tip text references points(id) deferrable initially deferred,
    live text, removed integer not null default 0);
create unique index vms_name on vms(name) where removed = 0;
create table starts(
    seq integer primary key, id text not null unique, vm_id text not null references vms(id),
    agent_id text not null, language text not null, code_sha256 text not null, started_us integer not null,
    before_point text references points(id) deferrable initially deferred, block_index integer,
    pid integer not null, code text not null);
create table running(
    start_seq integer primary key references starts(seq), vm_id text not null);
create table executions(
    start_seq integer primary key references starts(seq), seq integer not null, vm_id text not null,
    agent_id text not null, language text not null, started_us integer not null, success integer not null,
    ended text not null, exit_code integer not null, stdout_sha256 text not null,
    stderr_sha256 text not null, truncated integer not null, wall_s real not null, cpu_s real not null,
    memory_peak_bytes integer not null, error text, before_point text,
    after_point text references points(id) deferrable initially deferred,
    rolled_back_to text references points(id) deferrable initially deferred);
create index executions_vm on executions(vm_id, started_us, success, language, agent_id);
create index executions_agent on executions(agent_id, started_us, success, language);
create index executions_time on executions(started_us, language);
create index executions_failed on executions(started_us, success, language) where success = 0;
create index executions_after on executions(after_point);
create table outputs(
    start_seq integer primary key references executions(start_seq), vm_id text not null,
    stdout blob not null, stderr blob not null);
create index outputs_vm on outputs(vm_id);
create table points(
    seq integer primary key, id text not null unique, vm_id text not null references vms(id),
    parent_id text references points(id) deferrable initially deferred,
    execution_id text references starts(id) deferrable initially deferred, created_us integer not null,
    method text not null, written_bytes integer not null, state_sha256 text not null, state text);
create index points_vm on points(vm_id);
create index points_kept on points(vm_id) where state is not null;
create table snapshots(
    seq integer primary key, id text not null unique, vm_id text not null references vms(id),
    point_id text not null references points(id) deferrable initially deferred, kind text not null,
    name text, created_us integer not null,
    execution_id text references starts(id) deferrable initially deferred, agent_id text);
create index snapshots_vm on snapshots(vm_id);
create index snapshots_point on snapshots(point_id);
create table removals(
    seq integer primary key, snapshot_id text not null unique references snapshots(id),
    removed_us integer not null);
create table rollbacks(
    seq integer primary key, vm_id text not null references vms(id), from_point text references points(id),
    to_point text not null references points(id), snapshot_id text references snapshots(id),
    reason text not null, agent_id text, at_us integer not null);
create index rollbacks_vm on rollbacks(vm_id);
"""


# What SQLite reports -> what it means, what to do. https://sqlite.org/rescode.html
_BUSY = (f"another process kept it locked for {BUSY_TIMEOUT_S:.0f} s", "try again, or end that process")
_CAUSES = {
    sqlite3.SQLITE_PERM: ("access is denied", "make it readable and writable for this user"),
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_NOMEM: ("memory ran out", "free some memory and try again"),
    sqlite3.SQLITE_READONLY: ("it is read-only", "make the file and its folder writable for this user"),
    sqlite3.SQLITE_IOERR: ("the disk did not do as told", "check the disk and the system's log"),
    sqlite3.SQLITE_CORRUPT: (
        "its content is damaged",
        "move it away together with its -wal and -shm files, and put back a copy or begin anew",
    ),
    sqlite3.SQLITE_FULL: ("no space is left", "free some space; nothing of this change was written"),
    sqlite3.SQLITE_CANTOPEN: (
        "it cannot be opened",
        "name a file, not a folder, in a folder that this user may write",
    ),
    sqlite3.SQLITE_TOOBIG: ("a value is too big", "keep less output (`output_bytes`)"),
    sqlite3.SQLITE_CONSTRAINT: ("a row contradicts the others", "this is a bug of ours; please report it"),
    sqlite3.SQLITE_NOTADB: ("it is not a history database", "name another file, or move this one away"),
}
_UNKNOWN_CAUSE = ("SQLite refused", "this may be a bug of ours; please report it")


def _history_error(where: str, exc: sqlite3.Error) -> HistoryError:
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF  # the upper bits only say more of the same
    cause, remedy = _CAUSES.get(code, _UNKNOWN_CAUSE)
    return HistoryError(f"{where}: {cause} ({exc})", remedy=remedy)


def _not_unicode(exc: UnicodeEncodeError) -> ValidationFailed:
    found = exc.object[exc.start : exc.end]
    return ValidationFailed(f"{found!r} at character {exc.start} is no Unicode text", remedy="remove it")


class Transaction:
    """An open write transaction. Whatever writes takes it, so that nothing is written outside of one."""

    def __init__(self, store: "Store") -> None:
        self._store: Store | None = store
        self._head: tuple[int, str] | None = None
        self._failure: RewindboxError | None = None

    def execute(self, sql: str, values: Sequence[Value] = ()) -> sqlite3.Cursor:
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
        entry = _entry_hash(previous, seq, at_us, kind, subject, text)
        self.execute("insert into log values (?, ?, ?, ?, ?, ?)", (seq, at_us, kind, subject, text, entry))
        self._head = (seq, entry)
        return seq

    def add(self, fact: Fact, subject: str, values: Mapping[str, Value], **beside: Value) -> int:
        """Add a fact: its log entry and its row; `beside` are columns that the entry does not have."""
        seq = self.append(fact.kind, subject, {name: values[name] for name in fact.columns})
        row = {"seq": seq, **values, **beside}
        marks = ", ".join("?" * len(row))
        self.execute(f"insert into {fact.table}({', '.join(row)}) values ({marks})", tuple(row.values()))  # noqa: S608 (our names)
        return seq

    def end(self) -> None:
        """From here on, `execute` refuses."""
        self._store = None

    def _opened(self) -> "Store":
        if self._store is None:
            raise Internal("this transaction has ended", remedy="write inside its `with` block")
        return self._store


def _first_schema(tx: Transaction) -> None:
    tx.execute(f"pragma application_id = {_APPLICATION_ID}")
    for statement in _SCHEMA.split(";\n"):  # `executescript` would commit the transaction that we are in
        tx.execute(statement)


_STEPS: tuple[Callable[[Transaction], None], ...] = (_first_schema,)
"""Step n turns a database of version n into one of version n+1. A released step is never edited."""


def _entry_hash(previous: str, *entry: Value) -> str:
    """Entries are seq, at_us, kind, subject, body; a JSON list, so that nothing can move between fields."""
    return hashlib.sha256(_encode_any([previous, *entry]).encode()).hexdigest()


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

    def _run(self, sql: str, values: Sequence[Value] = ()) -> sqlite3.Cursor:
        """Run one statement. Other modules read by `rows` and write by a `Transaction`."""
        if self._db is None:
            raise HistoryError(f"{self._where}: it is closed", remedy="open it again")
        if self._pid != os.getpid():
            raise HistoryError(f"{self._where}: opened by process {self._pid}", remedy="open it again after a fork")
        try:
            return self._db.execute(sql, values)
        except sqlite3.Error as exc:
            raise _history_error(self._where, exc) from exc
        except UnicodeEncodeError as exc:
            raise _not_unicode(exc) from exc

    def rows(self, sql: str, values: Sequence[Value] = ()) -> list[Row]:
        """All rows of a query. Raises HistoryError."""
        cursor = self._run(sql, values)
        try:
            return cursor.fetchall()
        except sqlite3.Error as exc:  # SQLite reads as it goes: damage may show up late
            raise _history_error(self._where, exc) from exc

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
        return (rows[0][0], rows[0][1]) if rows else (0, _FIRST_HASH)

    def verify(self) -> list[str]:
        """What is wrong with the file, a sentence each; empty when nothing is.

        Finds what was edited, deleted, put in another order or cut off, in the log or in a table of facts;
        not: edits of a vm's tip, live state or last activity, and a cut that took log and tables alike.
        Reads everything: two to three minutes for a million executions (3 GB). Raises HistoryError: it cannot be read.
        """
        if self._db is None:
            raise HistoryError(f"{self._where}: it is closed", remedy="open it again")
        self._db.text_factory = lambda raw: raw.decode("utf-8", "replace")  # an edit may be no text at all
        try:
            with self.reading():
                return [problem for check in _CHECKS for problem in check(self._each)]
        finally:
            self._db.text_factory = str

    def close(self) -> None:
        """Idempotent. An open transaction is rolled back."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _each(self, sql: str, values: Sequence[Value] = ()) -> Iterator[Row]:
        with closing(self._run(sql, values)) as cursor:
            try:
                yield from cursor
            except sqlite3.Error as exc:
                raise _history_error(self._where, exc) from exc

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
            raise _history_error(self._where, exc) from exc
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
        if application != _APPLICATION_ID and (application or version or tables):
            raise HistoryError(
                f"{self._where}: it is a database of another program",
                remedy="name another file, or move this one away",
            )
        if version > len(_STEPS):
            raise HistoryError(
                f"{self._where}: it has version {version}, and this rewindbox knows up to {len(_STEPS)}",
                remedy="update rewindbox, or name another file",
            )

    def _migrate(self) -> None:
        while self._version() < len(_STEPS):
            with self.transaction() as tx:
                version = self._version()  # again: another process may have been quicker
                if version < len(_STEPS):
                    _STEPS[version](tx)
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
            code = getattr(exc.__cause__, "sqlite_errorcode", 0) & 0xFF
            if code != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


_Query = Callable[..., Iterable[Row]]


def _check_file(query: _Query) -> Iterator[str]:
    """What SQLite itself finds: damaged pages, indexes that do not agree with their tables."""
    for row in query("pragma integrity_check(20)"):
        if row[0] != "ok":
            yield f"file: {row[0]}"


def _check_chain(query: _Query) -> Iterator[str]:
    """Every entry follows the one before it. After a break the walk goes on from what is written."""
    seq, previous = 0, _FIRST_HASH
    for row in query("select seq, at_us, kind, subject, body, hash from log order by seq"):
        if row["seq"] != seq + 1:
            yield f"log: entries {seq + 1} to {row['seq'] - 1} are missing"
        if row["hash"] != _entry_hash(previous, *tuple(row)[:5]):
            name = f"{row['seq']} ({row['kind']} {row['subject']})"
            yield f"log: entry {name} does not follow from the one before"
        seq, previous = row["seq"], row["hash"]


def _check_facts(query: _Query) -> Iterator[str]:
    """Every row is what its entry says, and every entry has its row."""
    entries = {row[0]: row[1] for row in query("select kind, count(*) from log group by kind")}
    for fact in FACTS:
        columns = ", ".join(f"t.{name}" for name in fact.columns)
        rows = 0
        for row in query(
            f"select t.seq, l.kind, l.body, {columns} from {fact.table} t left join log l on l.seq = t.seq"  # noqa: S608 (our names)
        ):
            rows += 1
            body = dict(zip(fact.columns, tuple(row)[3:], strict=True))
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
        "select o.start_seq, o.stdout, o.stderr, x.stdout_sha256, x.stderr_sha256,"
        " o.vm_id = x.vm_id as same_vm"
        " from outputs o left join executions x on x.start_seq = o.start_seq"
    ):
        kept = (_digest(row["stdout"], bytes), _digest(row["stderr"], bytes))
        if not row["same_vm"] or kept != (row["stdout_sha256"], row["stderr_sha256"]):
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


_CHECKS = (_check_file, _check_chain, _check_facts, _check_contents, _check_losses)
