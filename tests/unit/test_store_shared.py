"""The database file among processes: locked, forked, opened and written to at once, killed. Real ones."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from stores import SOURCE, add_vm, fresh, place, rows_of

from rewindbox.errors import HistoryError
from rewindbox.store import Store

path, store = pytest.fixture(place), pytest.fixture(fresh)

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}


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
