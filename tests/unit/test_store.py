"""The database file: opening, refusing, undoing, filling up. Real files."""

import ast
import os
import sqlite3
import stat
import sys
from pathlib import Path

import pytest
from stores import SOURCE, add_vm, fresh, place, rows_of

import rewindbox.schema as schema_module
from rewindbox import opened
from rewindbox.causes import history_error
from rewindbox.errors import ConfigError, HistoryError, Internal, ValidationFailed
from rewindbox.registry import Registry
from rewindbox.schema import FACTS
from rewindbox.store import Store

path, store = pytest.fixture(place), pytest.fixture(fresh)


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


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_store_is_private(tmp_path, umask):
    """Its own folder and that of its locks, whatever the umask: nobody else can put a file in place of ours."""
    before = os.umask(umask)
    try:
        opened.make_folder(str(tmp_path / "new" / "store"))
    finally:
        os.umask(before)
    for name in ("", "locks"):
        assert stat.S_IMODE(os.stat(tmp_path / "new" / "store" / name).st_mode) == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder that is another user's")
@pytest.mark.parametrize("theirs", ["", "locks", "history.db"])
def test_a_store_of_another_user_is_not_used(tmp_path, theirs):
    """Not by root either: it is refused with path, owner and remedy."""
    folder = tmp_path / "store"
    (folder / theirs).mkdir(parents=True)
    os.chown(folder / theirs, 4711, 4711)
    with pytest.raises(ConfigError, match=f"{folder / theirs} belongs to uid 4711, not 0; run as its owner, or choose"):
        opened.make_folder(str(folder))


def test_a_store_that_everybody_can_write_is_not_used(tmp_path):
    """Who could put files in place of ours is kept out first, as the message says."""
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match=f"{tmp_path} can be written by every user; chmod go-w {tmp_path}"):
        opened.make_folder(str(tmp_path))
    tmp_path.chmod(0o755)
    opened.make_folder(str(tmp_path))


def test_a_lock_is_no_link(tmp_path):
    """What a lock's name leads to is not written to."""
    precious = tmp_path / "precious"
    precious.write_text("kept")
    opened.make_folder(str(tmp_path))
    os.symlink(precious, opened.lock_path(str(tmp_path), "keeper"))
    with pytest.raises(HistoryError, match="is a link"):
        opened.hold(str(tmp_path), "keeper")
    assert precious.read_text() == "kept"


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
