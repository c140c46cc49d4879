"""What SQLite reports -> what it means and what to do, as a HistoryError."""

import sqlite3

from rewindbox.errors import HistoryError

BUSY_TIMEOUT_S = 5.0
"""So long a store waits for another process."""

# https://sqlite.org/rescode.html
_BUSY = (f"another process kept it locked for {BUSY_TIMEOUT_S:.0f} s", "try again, or end that process")
_BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
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


def history_error(where: str, exc: sqlite3.Error) -> HistoryError:
    """The error for what SQLite reports of a file."""
    cause, remedy = _CAUSES.get(_code(exc), _UNKNOWN_CAUSE)
    return HistoryError(f"{where}: {cause} ({exc})", remedy=remedy)


def is_locked(error: HistoryError) -> bool:
    """Another process writes."""
    return _code(error.__cause__) == sqlite3.SQLITE_BUSY


def is_damage(error: HistoryError) -> bool:
    """What was read is not what SQLite wrote."""
    return _code(error.__cause__) == sqlite3.SQLITE_CORRUPT


def is_no_time_to_write(error: HistoryError) -> bool:
    """Nothing can be written now, but it can be read: it is read-only, locked, or the disk is full."""
    return _code(error.__cause__) in (*_BUSY_CODES, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL)


def _code(exc: BaseException | None) -> int:
    return int(getattr(exc, "sqlite_errorcode", 0)) & 0xFF  # the upper bits only say more of the same
