"""The database file: opening, refusing, sharing, dying, filling up. Real files and real processes."""

import ast
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

import rewindbox.schema as schema_module
import rewindbox.store as store_module
from rewindbox.causes import history_error
from rewindbox.chain import canonical
from rewindbox.errors import HistoryError, Internal, ValidationFailed
from rewindbox.ids import id_bounds, new_id
from rewindbox.registry import Registry
from rewindbox.schema import FACTS
from rewindbox.store import Store, from_us, to_us

SOURCE = Path(store_module.__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "history.db")


@pytest.fixture
def store(path: str) -> Iterator[Store]:
    opened = Store(path)
    yield opened
    opened.close()


def start(script: str, *args: str) -> subprocess.Popen[str]:
    """Another Python process, its standard streams piped to us."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def outcome(process: subprocess.Popen[str], said: str = "") -> str:
    """What it printed; its own error text fails the test."""
    out, err = process.communicate(said)
    assert process.returncode == 0, err
    return out


def rows_of(store: Store) -> dict[str, int]:
    return {
        table: store.rows(f"select count(*) from {table}")[0][0] for table in ["log", *(fact.table for fact in FACTS)]
    }


def add_vm(store: Store, name: str) -> str:
    with store.transaction() as tx:
        return Registry(store).create(tx, name, vm_type="host", backend="namespace", agent_id="me").id


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


def test_modules_start_quickly():
    """None of the modules of the history imports more than the standard library and the plain parts of the package."""
    heavy = {"asyncio", "pydantic", "rich", "anyio", "rewindbox.models", "rewindbox.backends.base"}
    for name in ("ids", "causes", "points", "store", "registry", "history", "timeline"):
        tree = ast.parse((SOURCE / f"{name}.py").read_text())
        froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        plain = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
        assert not (froms | plain) & heavy
        assert all(module.split(".")[0] in (sys.stdlib_module_names | {"rewindbox"}) for module in froms | plain)


def test_file_is_private(store, path):
    """The file and those beside it are readable by their owner only, whatever the umask."""
    add_vm(store, "a")
    for name in (path, f"{path}-wal", f"{path}-shm"):
        assert stat.S_IMODE(os.stat(name).st_mode) == 0o600


def test_folders_are_made(tmp_path):
    """Missing folders on the way to the file are made, the last one private."""
    Store(str(tmp_path / "a" / "b" / "history.db")).close()
    assert stat.S_IMODE(os.stat(tmp_path / "a" / "b").st_mode) == 0o700


def test_memory_leaves_nothing(tmp_path, monkeypatch):
    """Without a path nothing is on disk, and everything works."""
    monkeypatch.chdir(tmp_path)
    store = Store(None)
    add_vm(store, "a")
    assert store.verify() == []
    store.close()
    assert os.listdir(tmp_path) == []


def test_reopening_changes_nothing(path):
    """Opening a file again runs no step again and keeps every row."""
    first = Store(path)
    add_vm(first, "a")
    before = (rows_of(first), first.head())
    first.close()
    second = Store(path)
    assert (rows_of(second), second.head()) == before
    assert second.verify() == []
    second.close()


def test_closed_store(path):
    """Closing twice is fine; using it afterwards names the file and the remedy."""
    store = Store(path)
    store.close()
    store.close()
    for use in (store.head, store.verify, lambda: add_vm(store, "a")):
        with pytest.raises(HistoryError, match=r"history\.db: it is closed; open it again"):
            use()


def test_relative_path(tmp_path, monkeypatch):
    """A relative path is that of the moment of opening, and `:memory:` is a file like any other."""
    monkeypatch.chdir(tmp_path)
    store = Store(":memory:")
    assert store.path == str(tmp_path / ":memory:")
    assert os.path.exists(store.path)
    store.close()


def test_newer_version_is_refused(path):
    """A file of a newer version is refused by name, versions and remedy, and not changed."""
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("pragma user_version = 99")
    db.close()
    before = Path(path).read_bytes()
    with pytest.raises(HistoryError, match=r"history\.db: it has version 99, .* up to 4; update rewindbox"):
        Store(path)
    assert Path(path).read_bytes() == before


def test_other_programs_file_is_refused(path):
    """Another program's SQLite file is refused and not changed."""
    with sqlite3.connect(path) as db:
        db.execute("create table theirs(a)")
    db.close()
    before = Path(path).read_bytes()
    with pytest.raises(HistoryError, match=r"history\.db: it is a database of another program; name another"):
        Store(path)
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("content", [b"xy", b"no database\n" * 500, b"SQLite format 3\0" + b"\xff" * 5000])
def test_no_database(path, content):
    """A file that is no database is refused with a remedy, and not changed."""
    Path(path).write_bytes(content)
    with pytest.raises(HistoryError, match=r"history\.db: it is not a history database.*; name another file"):
        Store(path)
    assert Path(path).read_bytes() == content


def test_folder_in_place_of_file(path):
    """A folder where the file should be is refused with a remedy."""
    os.mkdir(path)
    with pytest.raises(HistoryError, match=r"history\.db: it cannot be opened .*; name a file, not a folder"):
        Store(path)


def test_file_in_place_of_folder(path):
    """A file where its folder should be is refused with a remedy."""
    Path(path).write_text("")
    with pytest.raises(HistoryError, match=r"name (another file|a file in a folder)"):
        Store(f"{path}/below.db")


READ_ONLY = """
import os, sys
import encodings.idna, sqlite3
from rewindbox.errors import HistoryError
from rewindbox.registry import Registry
from rewindbox.store import Store
if os.geteuid() == 0:  # root may write any file; so be somebody who may not
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    store = Store(sys.argv[1])
    with store.transaction() as tx:
        Registry(store).create(tx, "b", vm_type="host", backend="namespace", agent_id="me")
except HistoryError as exc:
    print(exc)
"""


@pytest.mark.parametrize(("file_mode", "folder_mode"), [(0o444, 0o555), (0o444, 0o777), (0o000, 0o755)])
def test_file_that_we_may_not_write(file_mode, folder_mode):
    """A file of another user, or a read-only one, is refused with path and remedy, and is not changed."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own folders are closed to others
        path = f"{folder}/history.db"
        store = Store(path)
        add_vm(store, "a")
        store.close()
        before = Path(path).read_bytes()
        os.chmod(path, file_mode)
        os.chmod(folder, folder_mode)
        said = outcome(start(READ_ONLY, path))
        os.chmod(folder, 0o700)
        os.chmod(path, 0o600)
        assert re.search(r"History error: .*/history\.db: .*; .*(writable|may write)", said)
        assert Path(path).read_bytes() == before


def test_unwritable_folder(tmp_path):
    """A file that cannot be made is refused with path and remedy."""
    with pytest.raises(HistoryError, match=r"/proc/none/history\.db: it cannot be made .*; name a file in"):
        Store("/proc/none/history.db")


def test_exception_undoes_all(store):
    """An exception in a transaction leaves neither rows nor log entries of it."""
    add_vm(store, "kept")
    before = (rows_of(store), store.head())
    with pytest.raises(KeyError), store.transaction() as tx:
        Registry(store).create(tx, "gone", vm_type="host", backend="namespace", agent_id="me")
        raise KeyError
    assert (rows_of(store), store.head()) == before
    assert store.verify() == []


def test_swallowed_failure_undoes_all(store):
    """A statement that failed undoes its transaction, even where the caller went on after it."""
    before = rows_of(store)
    with (
        pytest.raises(HistoryError, match="a statement of this transaction failed"),
        store.transaction() as tx,
    ):
        Registry(store).create(tx, "gone", vm_type="host", backend="namespace", agent_id="me")
        with pytest.raises(HistoryError, match="no such table"):
            tx.execute("insert into nowhere values (1)")
        with pytest.raises(HistoryError, match="a statement of this transaction failed"):
            tx.execute("select 1")
    assert rows_of(store) == before


def test_dangling_reference_undoes_all(store):
    """A row that names a vm which is not there is refused, and nothing of its transaction is kept."""
    before = rows_of(store)
    with pytest.raises(HistoryError, match="a row contradicts the others"), store.transaction() as tx:
        tx.execute("update vms set tip = null")
        tx.execute("insert into running values (5, 'vm_none')")
    assert rows_of(store) == before


def test_transactions_do_not_nest(store):
    """A transaction within a transaction is refused; the outer one goes on."""
    with store.transaction() as tx:
        with pytest.raises(Internal, match="open already"), store.transaction():
            pass
        Registry(store).create(tx, "a", vm_type="host", backend="namespace", agent_id="me")
    assert [vm.name for vm in Registry(store).list()] == ["a"]


def test_ended_transaction(store):
    """A transaction that was kept beyond its block writes nothing."""
    with store.transaction() as tx:
        pass
    with pytest.raises(Internal, match="has ended"):
        tx.execute("delete from log")
    with pytest.raises(Internal, match="has ended"):
        tx.append("x", "y", {})


def test_text_that_is_no_unicode(store):
    """A lone surrogate is refused as bad input, and nothing is kept."""
    before = rows_of(store)
    with pytest.raises(ValidationFailed, match="is no Unicode text; remove it"), store.transaction() as tx:
        Registry(store).create(tx, "a", vm_type="\ud800", backend="namespace", agent_id="me")
    assert rows_of(store) == before


def test_full_disk(store):
    """Without space a change is refused with a remedy and nothing of it is kept; later ones work."""
    add_vm(store, "first")
    before = (rows_of(store), store.head())
    pages = store.rows("pragma page_count")[0][0]
    store.rows(f"pragma max_page_count = {pages}")
    with pytest.raises(HistoryError, match=r"history\.db: no space is left .*; free some space"):
        for number in range(1000):
            add_vm(store, f"vm{number}")
    done = rows_of(store)["vms"]
    assert rows_of(store)["log"] == done
    with pytest.raises(HistoryError, match="no space is left"), store.transaction() as tx:
        for number in range(1000, 2000):
            Registry(store).create(tx, f"vm{number}", vm_type="host", backend="namespace", agent_id="me")
    assert rows_of(store)["vms"] == done >= before[0]["vms"]
    store.rows(f"pragma max_page_count = {pages + 10_000}")
    add_vm(store, "later")
    assert store.verify() == []


def test_locked_by_another(store, path):
    """A file that another process keeps locked gives a remedy, and works once it is free."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")
    store.rows("pragma busy_timeout = 1")  # the wait of 5 s is SQLite's; what follows it is ours
    with pytest.raises(HistoryError, match=r"history\.db: another process kept it locked .*; try again"):
        add_vm(store, "a")
    other.execute("rollback")
    other.close()
    add_vm(store, "a")
    assert store.verify() == []


def test_damaged_page(path):
    """A file in which a page was overwritten gives HistoryError with a remedy, and verify sees it too."""
    store = Store(path)
    add_vm(store, "a")
    (page_bytes,) = store.rows("pragma page_size")[0]
    (page,) = store.rows("select rootpage from sqlite_master where name = 'vms'")[0]
    store.close()
    with open(path, "r+b") as file:
        file.seek((page - 1) * page_bytes)
        file.write(b"\xa5" * page_bytes)
    store = Store(path)
    for use in (Registry(store).list, lambda: add_vm(store, "b"), store.verify):
        with pytest.raises(HistoryError, match=r"history\.db: its content is damaged .*; move it away"):
            use()
    store.close()


def test_fork(store):
    """A store carried across a fork refuses to work in the child; the parent's goes on."""
    pid = os.fork()
    if pid == 0:
        try:
            store.head()
        except HistoryError as exc:
            os._exit(7 if "after a fork" in str(exc) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    add_vm(store, "a")


OPENER = """
import sys
from rewindbox.registry import Registry
from rewindbox.store import Store
print("ready", flush=True)
sys.stdin.readline()
store = Store(sys.argv[1])
with store.transaction() as tx:
    vm, made = Registry(store).get_or_create(tx, "shared", vm_type="host", backend="namespace", agent_id="me")
print(vm.id, made)
store.close()
"""


@pytest.mark.parametrize("attempt", range(3))
def test_processes_open_a_new_file_at_once(path, attempt):
    """Of several processes that open a new file and ask for one name, all succeed and one makes the vm."""
    processes = [start(OPENER, path) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [outcome(process).split() for process in processes]
    assert len({vm for vm, _ in answers}) == 1
    assert sorted(made for _, made in answers) == ["False", "False", "False", "True"]
    store = Store(path)
    assert store.verify() == []
    store.close()


WRITER = """
import sys
from datetime import datetime, timezone
from rewindbox.execution import Execution
from rewindbox.history import History
from rewindbox.registry import Registry
from rewindbox.store import Store
from rewindbox.timeline import Timeline
store = Store(sys.argv[1])
registry, history, timeline = Registry(store), History(store), Timeline(store)
with store.transaction() as tx:
    vm = registry.create(tx, sys.argv[2], vm_type="host", backend="namespace", agent_id="me")
tip = None
for number in range(int(sys.argv[3])):
    told = dict(vm_id=vm.id, agent_id="me", language="bash", code=f"echo {number}", before=tip,
                started_at=datetime.now(timezone.utc))
    with store.transaction() as tx:
        start = history.begin(tx, **told)
    print("begun", start.id, flush=True)
    with store.transaction() as tx:
        point = timeline.add_point(tx, vm_id=vm.id, parent_id=tip, method="copy", written_bytes=1,
                                   state={"layer": number}, execution_id=start.id)
        history.finish(tx, Execution(id=start.id, ended="exit", exit_code=0, stdout_bytes=b"%d" % number,
            stderr_bytes=b"", truncated=False, wall_s=0.1, cpu_s=0.1, memory_peak_bytes=1, error=None,
            after=point.id, **told))
        registry.set_live(tx, vm.id, {"on": point.id}, tip=point.id)
        timeline.drop_states(tx, history.trim(tx, vm.id, 10))
    tip = point.id
    print("ended", start.id, flush=True)
"""


def test_two_processes_write_at_once(path):
    """Two processes that write the same file at once lose nothing, and the chain is one."""
    Store(path).close()
    writers = [start(WRITER, path, name, "150") for name in ("a", "b")]
    said = [outcome(writer) for writer in writers]
    store = Store(path)
    assert store.verify() == []
    for table in ("starts", "executions", "points"):
        assert rows_of(store)[table] == 300
    ids = {row["id"] for row in store.rows("select id from starts")}
    assert ids == {line.split()[1] for text in said for line in text.splitlines()}
    store.close()


@pytest.mark.parametrize("lines", [1, 2, 75, 160])
def test_killed_writer(path, lines):
    """After kill -9 of a writer every acknowledged row is there, and the chain verifies."""
    writer = start(WRITER, path, "a", "100000")
    assert writer.stdout is not None
    said = [writer.stdout.readline() for _ in range(lines)]
    writer.send_signal(signal.SIGKILL)
    rest, _ = writer.communicate()
    acknowledged = [line.split() for line in [*said, *rest.splitlines()] if len(line.split()) == 2]
    store = Store(path)
    assert store.verify() == []
    begun = {row["id"] for row in store.rows("select id from starts")}
    ended = {row["id"] for row in store.rows("select id from starts s join executions x on x.start_seq = s.seq")}
    assert {name for what, name in acknowledged if what == "begun" and len(name) == 29} <= begun
    assert {name for what, name in acknowledged if what == "ended" and len(name) == 29} <= ended
    assert len(begun - ended) <= 1
    assert {row["start_seq"] for row in store.rows("select * from running")} == {
        row["seq"]
        for row in store.rows(
            "select * from starts where id not in (select id from starts s join executions x on x.start_seq = s.seq)"
        )
    }
    add_vm(store, "after")
    assert store.verify() == []
    store.close()


def test_head_shows_a_cut(store):
    """A head that was kept elsewhere no longer stands in the log after a cut of log and tables alike."""
    add_vm(store, "a")
    first = store.head()
    add_vm(store, "b")
    seq, entry = store.head()
    assert (seq, first[0]) == (2, 1)
    with store.transaction() as tx:
        tx.execute("delete from vms where seq = 2")
        tx.execute("delete from log where seq = 2")
    assert store.verify() == []
    assert store.rows("select 1 from log where seq = ? and hash = ?", (seq, entry)) == []
    assert store.rows("select 1 from log where seq = ? and hash = ?", first) != []


def test_every_mapped_cause_has_a_remedy(tmp_path):
    """Whatever SQLite reports becomes HistoryError with the file, a cause and a remedy."""
    codes = [value for name, value in vars(sqlite3).items() if name.startswith("SQLITE_") and type(value) is int]
    for code in codes:
        reported = sqlite3.OperationalError("as SQLite says it")
        reported.sqlite_errorcode = code
        error = history_error("/a/history.db", reported)
        assert str(error).startswith("History error: /a/history.db: ")
        assert "as SQLite says it" in str(error)
        assert error.remedy


def test_docs_show_the_schema():
    """docs/store.md shows the schema word for word, and names every kind of entry."""
    text = (Path(__file__).parents[2] / "docs" / "store.md").read_text()
    assert schema_module.SESSIONS.strip() in text
    assert schema_module.LISTING.strip() in text
    assert schema_module.TABLES.strip() in text
    kinds = [fact.kind for fact in FACTS]
    others = (schema_module.VM_REMOVED, schema_module.OUTPUT_DROPPED, schema_module.STATE_DROPPED)
    for kind in [*kinds, *others, schema_module.SESSIONS_ENDED]:
        assert f"`{kind}`" in text
