"""The synchronous door: the same as the engine, without `await`."""

import inspect
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from boxes import ANSWER

from conftest import until
from rewindbox.door import Rewindbox, Vm
from rewindbox.engine import AsyncRewindbox
from rewindbox.errors import SnapshotNotFound
from rewindbox.kept import KeptVm
from rewindbox.vm import AsyncVm


def test_the_doors_are_the_same():
    """The synchronous door has the engine's names and arguments, no more and no fewer."""
    for plain, engine in ((Rewindbox, AsyncRewindbox), (Vm, AsyncVm), (KeptVm, AsyncVm)):
        own = {name for name in vars(plain) if not name.startswith("_")} - {"call", "inner"}
        theirs = {name for name in vars(engine) if not name.startswith("_")} | ({"settings"} & own)
        theirs -= {"look"} - own  # `record` of the plain door may take its time
        assert own == theirs
        for name in own:
            if inspect.isfunction(vars(plain)[name]):
                ours = set(inspect.signature(vars(plain)[name]).parameters)
                other = set(inspect.signature(vars(engine)[name]).parameters)
                assert {"options", "query"} & (ours | other) or ours == other - {"block", "execution_id"}, name


def test_the_plain_door(store):
    """The synchronous door runs, remembers, goes back, streams and closes."""
    seen = []
    with Rewindbox(store) as box:
        vm = box.vm("one")
        first = vm.execute("bash", "echo 1 > f; echo out", on_output=lambda stream, data: seen.append((stream, data)))
        vm.write("g", "2")
        assert [entry.name for entry in vm.list()] == ["f", "g"]
        vm.rollback(first)
        assert vm.list() == []
        assert [execution.exit_code for execution in box.run(ANSWER, vm)] == [0, 2]
        assert box.history().total == 3
        assert box.verify() == []
        with pytest.raises(SnapshotNotFound):
            vm.rollback("none")
    assert seen == [("stdout", b"out\n")]


INTERRUPTED = """
import sys
import textwrap
from rewindbox import Rewindbox
with Rewindbox(sys.argv[1]) as box:
    vm = box.vm("one")
    try:
        vm.execute("bash", "echo 1 > f; echo so far; sleep 1000", on_output=lambda *_: print("started", flush=True))
    except KeyboardInterrupt:
        (entry,) = vm.history().entries
        fine = vm.execute("bash", "echo fine").stdout.strip()
        print(entry.ended, entry.stdout.strip(), entry.exit_code, fine, box.verify())
"""


def test_interrupted_by_the_keyboard(store):
    """Ctrl-C while the synchronous door waits ends the code, records it as killed, and the vm goes on."""
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(store)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "killed so far 137 fine []\n"
    assert process.returncode == 0


def test_threads_share_a_box(store):
    """Several threads may use one synchronous box."""
    from concurrent.futures import ThreadPoolExecutor

    with Rewindbox(store) as box, ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda n: box.vm(f"vm{n % 3}").execute("bash", f"echo {n}").stdout, range(12)))
        assert done == [f"{number}\n" for number in range(12)]
        assert box.history().total == 12
        until(lambda: box.verify() == [], "the file is whole")


def test_the_session_of_the_readme():
    """The example runs as it stands, prints what the README says, and the README shows its very lines."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(root / "examples/session.py")], capture_output=True, text=True, check=True
    )
    readme = (root / "README.md").read_text()
    assert f"```text\n{done.stdout}```" in readme
    example = (root / "examples/session.py").read_text().partition("as box:\n")[2]
    assert textwrap.dedent(example) in readme
