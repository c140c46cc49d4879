"""What makes finding quick: filled late, found damaged, done without. What is found is in `test_search_properties`."""

from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from histories import T0, begin, box_of, ended, finish
from stores import fresh, place

from rewindbox import listing, query, show, texts
from rewindbox import store as store_module
from rewindbox.errors import HistoryError, InvalidArgument
from rewindbox.execution import Execution
from rewindbox.history import History
from rewindbox.store import Store

path, store, vm_id = pytest.fixture(place), pytest.fixture(fresh), pytest.fixture(box_of)


@pytest.fixture(autouse=True)
def by_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a long history: the index is asked."""
    monkeypatch.setattr(query, "FEW", 0)
    monkeypatch.setattr(query, "MANY", 0)
    monkeypatch.setattr(store_module, "PAUSE_S", 0.0)


def run(store: Store, vm_id: str, code: str = "true", out: bytes = b"", **told: Any) -> Execution:
    start = begin(store, vm_id, **{"language": "bash", "code": code, **told})
    return finish(store, ended(start, stdout_bytes=out))


def found(store: Store, text: str, **asked: Any) -> list[str]:
    page = History(store).query(text=text, **asked)
    assert page.total == len(page.entries)
    return [entry.id for entry in page.entries]


def test_executions_fill_no_index(store, vm_id):
    """Nothing is listed and nothing indexed before somebody looks, and a look that finds nothing new writes nothing."""
    run(store, vm_id, "echo one")
    assert [row[0] for row in store.rows("select count(*) from listing")] == [0]
    assert not store.rows("select 1 from sqlite_master where name = 'search'")
    assert len(found(store, "one")) == 1
    before = store.rows("pragma data_version")[0][0], store.rows("select * from caught_up")
    with closing(Store(store.path)) as other:
        assert len(found(other, "one")) == 1
    assert (store.rows("pragma data_version")[0][0], store.rows("select * from caught_up")) == before


def test_several_who_look(store, vm_id):
    """What one process has indexed another finds, and each takes in what is new."""
    with closing(Store(store.path)) as other:
        for number in range(3):
            made = [run(one, vm_id, f"echo n{number}") for one in (store, other)]
            assert found(store, f"n{number}") == found(other, f"n{number}") == [entry.id for entry in reversed(made)]


def test_output_that_is_dropped_leaves_the_index(store, vm_id):
    """What history no longer keeps is no longer found, nor in the index; its code is."""
    old = run(store, vm_id, "cat secret", b"the tulip is blue\n")
    new = run(store, vm_id, "cat secret", b"the tulip is red\n")
    assert found(store, "TULIP") == [new.id, old.id]
    with store.transaction() as tx:
        History(store).trim(tx, vm_id, 1)
    assert found(store, "tulip") == [new.id]
    assert found(store, "cat secret") == [new.id, old.id]
    assert store.rows("select count(*) from search where search match '\"blu\"'")[0][0] == 0
    assert store.rows("select count(*) from search_content where instr(c1, 'blue')")[0][0] == 0


def test_large_texts(store, vm_id):
    """What is too large for the index is found by reading it, until it is dropped; what is small is found beside it."""
    large = run(store, vm_id, "big", b"x" * (512 << 10) + b"Needle")
    small = run(store, vm_id, "small", b"needle", started_at=T0 - timedelta(days=1))
    assert found(store, "needle") == [large.id, small.id]
    assert store.rows("select count(*) from search")[0][0] == 1
    assert found(store, "le", until=T0 - timedelta(hours=1)) == [small.id]
    with store.transaction() as tx:
        History(store).trim(tx, vm_id, 0)
    assert found(store, "needle") == []
    assert found(store, "big") == [large.id]


def test_first_search_in_many_transactions(store, vm_id, monkeypatch):
    """However much there is to take in, it is done in pieces, between which others may write."""
    monkeypatch.setattr(texts, "_AT_ONCE", 3)
    monkeypatch.setattr(listing, "_AT_ONCE", 2)
    made = [run(store, vm_id, f"echo {number}") for number in range(10)]
    pieces = []
    taken = texts._take_in
    monkeypatch.setattr(texts, "_take_in", lambda *told: pieces.append(told) or taken(*told))
    assert found(store, "echo") == [entry.id for entry in reversed(made)]
    assert len(pieces) == 4


def test_pauses(store, vm_id, monkeypatch):
    """Whoever asks can do something else while an index is made; what is recorded meanwhile is found, too."""
    monkeypatch.setattr(texts, "_AT_ONCE", 1)
    monkeypatch.setattr(listing, "_AT_ONCE", 1)
    made = [run(store, vm_id, "echo") for _ in range(3)]
    asking = History(store).asking(text="echo")
    next(asking)
    made.append(run(store, vm_id, "echo"))
    pauses = 1
    with pytest.raises(StopIteration) as ending:
        while True:
            next(asking)
            pauses += 1
    assert pauses == 3 + 3
    assert [entry.id for entry in ending.value.value.entries] == [entry.id for entry in reversed(made)]


@pytest.mark.parametrize("kind", listing.KINDS, ids=lambda kind: kind.name)
def test_what_is_listed_is_not_read_again(store, vm_id, kind):
    """What ended since somebody looked is counted by reading that alone, however much is listed."""
    run(store, vm_id)
    History(store).query()
    for statement in (listing._TOUCHED, listing._LATE, listing._TALLIED):
        plan = store.rows("explain query plan " + statement.format(kind=kind, bucket=1024))
        assert not [row["detail"] for row in plan if row["detail"].startswith("SCAN l")], kind


# --- where it cannot be kept


def test_file_that_is_read_only(store, path, vm_id):
    """A file that may only be read is searched as it is, with the same answer, and stays as it is."""
    made = run(store, vm_id, "echo one")
    store.rows("pragma query_only = on")
    assert found(store, "ONE") == [made.id]
    assert History(store).query(agent_id="me", since=T0, until=T0).total == 1
    assert store.rows("select * from caught_up") == []


def test_file_that_is_locked(store, path, vm_id, monkeypatch):
    """While another process writes for long, the history is read as it is."""
    made = run(store, vm_id, "echo one")
    store.rows("pragma busy_timeout = 10")
    with closing(Store(path)) as other, other.transaction() as tx:
        tx.execute("insert into caught_up values ('x', 1)")
        assert found(store, "one") == [made.id]
        assert History(store).query().total == 1
    assert found(store, "one") == [made.id]
    assert store.rows("select count(*) from listing")[0][0] == 1


def test_sqlite_without_the_index(store, vm_id, monkeypatch):
    """Where this host's SQLite cannot keep the index, all texts are read."""
    monkeypatch.setattr(texts, "_TABLE", "using fts99(code, stdout, stderr)")
    assert not texts.is_available()
    made = run(store, vm_id, "echo one")
    assert found(store, "one") == [made.id]
    assert not store.rows("select 1 from sqlite_master where name = 'search'")


# --- where it is damaged


@pytest.mark.parametrize(
    "damage",
    [
        "update search_data set block = zeroblob(length(block))",
        "update search_data set block = x'ff' where id > 10",
        "delete from search_data",
        "delete from search_idx",
        "delete from search_content",
    ],
)
def test_damage_is_found_and_repaired(store, vm_id, damage):
    """A damaged index is noticed, or does no harm; `verify` names it; then it is made anew, and all is found."""
    made = [run(store, vm_id, f"echo number {number}", b"out\n") for number in range(20)]
    assert len(found(store, "number")) == 20
    with store.transaction() as tx:
        tx.execute(damage)
    with closing(Store(store.path)) as again:  # what was read is in memory
        page = History(again).query(text="number")
        wrong = History(again).verify()
        assert page.total == 20 or wrong
        assert not page.note or ("damaged, and is made anew" in page.note and page.total == 20)
        assert not wrong or (wrong[0].startswith("search: ") and "made anew" in wrong[-1])
        assert found(again, "number") == [entry.id for entry in reversed(made)]
        assert History(again).verify() == []


@pytest.mark.parametrize(
    "edit",
    [
        "delete from listing where start_seq = (select min(start_seq) from listing)",
        "update listing set agent_id = 'you'",
        "update listing set success = 0",
        "update tallies set executions = executions + 1",
        "update mixes set executions = executions + 1",
        "update mixes set agent_id = 'you'",
        "delete from mixes where from_us = (select min(from_us) from mixes)",
        "update search set code = 'echo nothing'",
        "delete from search where rowid = (select min(start_seq) from listing)",
        "insert into search(rowid, code) values (999999, 'echo')",
    ],
)
def test_an_edit_is_found_by_verify(store, vm_id, edit, monkeypatch):
    """Whoever edits what is shown, and not the history, is found out, and what is shown is right again."""
    monkeypatch.setattr(listing, "_BUCKET", 2)
    monkeypatch.setattr(listing, "_MIXED", 2)
    made = [run(store, vm_id, "echo one", started_at=T0 + timedelta(seconds=number)) for number in range(9)]
    assert History(store).verify() == []
    assert len(found(store, "one")) == 9
    assert History(store).verify() == []
    with store.transaction() as tx:
        assert tx.execute(edit).rowcount
    assert "made anew" in History(store).verify()[-1]
    assert History(store).verify() == []
    assert found(store, "one", agent_id="me") == [entry.id for entry in reversed(made)]


def test_damage_elsewhere_is_an_error(store, path, vm_id):
    """Damage of the history itself is not taken for damage of an index."""
    run(store, vm_id, "echo one", b"x" * 100_000)
    store.rows("pragma wal_checkpoint(truncate)")
    page = store.rows("select rootpage from sqlite_master where name = 'outputs'")[0][0]
    size = store.rows("pragma page_size")[0][0]
    store.close()
    with open(path, "r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 200)
    with closing(Store(path)) as again, pytest.raises(HistoryError, match="damaged"):
        History(again).query(text="one")


# --- the head


def test_head_that_is_expected(store, vm_id):
    """A head that was kept elsewhere shows a cut of log and tables alike, and a chain that was made anew."""
    history = History(store)
    empty = history.head()
    run(store, vm_id)
    head = history.head()
    assert (empty.executions, head.executions, head.entries) == (0, 1, store.head()[0])
    for kept in (empty, head):
        assert history.verify(kept.text) == history.verify(f" {kept.text}\n") == []
    run(store, vm_id)
    assert history.verify(head.text) == []
    with store.transaction() as tx:
        for table in ("outputs", "executions", "starts"):
            tx.execute(f"delete from {table}")
        tx.execute("delete from log where seq > ?", (empty.entries,))
        tx.execute("delete from listing")
    assert store.verify() == []
    assert "the newest entries were cut off" in history.verify(head.text)[0]
    seq, _, entry = empty.text.partition(":")
    other = entry.translate(str.maketrans("0123456789abcdef", "123456789abcdef0"))
    assert "not the one that is expected" in history.verify(f"{seq}:{other}")[0]


@pytest.mark.parametrize("text", ["", "12", "12:", "x:" + "0" * 64, "1:" + "G" * 64, "9" * 30 + ":" + "0" * 64])
def test_no_head(store, text):
    """What is no head is refused."""
    with pytest.raises(InvalidArgument, match="no head"):
        History(store).verify(text)


# --- shown


@pytest.mark.parametrize(
    ("code", "out", "text", "line"),
    [
        ("import os\nprint(1)\n", b"", "PRINT", "print(1)"),
        ("x\n", "one\ntwo Straße\n".encode(), "STRASSE", "two Straße"),
        ("x\n", b"a" * 100 + b"needle\n", "needle", "…" + "a" * 24 + "needle"),
        ("x\n", b"one\ntwo\n", "one\ntwo", "one"),
        ("\n  x\n", b"\x1b[2J evil\n", "evil", "^[[2J evil"),
        ("\n  x\n", b"one\n", " \n", "x"),
        ("\n  x\n", b"one\n", "not there", "x"),
    ],
)
def test_found_line(store, vm_id, code, out, text, line):
    """A terminal is shown the line that has what was searched for, near it and harmless, or the first of the code."""
    assert show.found_line(run(store, vm_id, code, out), text) == line
