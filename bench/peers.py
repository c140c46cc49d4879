"""Other people's Python libraries beside ours: each in a process of its own, loaded and warm, where it times itself.

A peer's process reads an empty line for each sample, and answers with a line of JSON: seconds for each of its rows,
or why it cannot. Nothing of the package needs any of them; `make bench` installs those that can be had.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from bench.bare import BARE, ENVIRONMENT, python
from bench.runner import Case, Missing, Row

_ENDING_S = 30.0
"""It ends at the end of its input; a kernel of its own has to end first."""


class Peer(Case):
    """A library that may not be there."""

    def __init__(self, rows: Sequence[Row], program: str, install: str, interpreter: str | None) -> None:
        """`interpreter`: a Python that has it; None: this one. Its option has the name of the first row."""
        self.rows = rows
        self._program, self._interpreter = program, interpreter or sys.executable
        self._remedy = f"{install}, or --{rows[0].name} PYTHON that has it"
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[str] | None = None

    def open(self) -> None:
        if shutil.which(self._interpreter) is None:
            raise Missing(f"no such interpreter ({self._remedy})")
        self._home = tempfile.TemporaryDirectory(prefix="rewindbox-bench-")  # some write to it, even for nothing
        self._process = subprocess.Popen(
            [self._interpreter, "-I", "-c", self._program, python()],
            cwd=self._home.name,
            env={**ENVIRONMENT, "HOME": self._home.name},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.sample()

    def sample(self) -> Mapping[str, float]:
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        try:
            print(file=self._process.stdin, flush=True)
            answer = json.loads(self._process.stdout.readline() or '"it ended"')
        except BrokenPipeError:
            answer = "it ended"
        if not isinstance(answer, list):
            raise Missing(f"{answer} ({self._remedy})")
        return {row.name: seconds for row, seconds in zip(self.rows, answer, strict=True)}

    def close(self) -> None:
        if self._process is not None:
            try:
                self._process.communicate(timeout=_ENDING_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
            self._process = None
        if self._home is not None:
            self._home.cleanup()
            self._home = None


def sandlock(interpreter: str | None) -> Case:
    """A sandbox for one command, beside an execution in a vm."""
    row = Row(name="sandlock", work="sandlock: `python -c pass`, from its warm Python library", over=BARE)
    return Peer([row], _SERVE.format(once=_SANDLOCK, end=""), "`pip install sandlock`", interpreter)


def ipykernel(interpreter: str | None) -> Case:
    """A Jupyter kernel, beside an execution in a session. It has no checkpoints, and nothing contains it."""
    row = Row(name="ipykernel", work="ipykernel: `x += 1`, until the kernel is idle; no checkpoint", over=BARE)
    return Peer([row], _SERVE.format(once=_IPYKERNEL, end=_IPYKERNEL_END), "`pip install ipykernel`", interpreter)


def eryx(interpreter: str | None) -> Case:
    """Python in WebAssembly, beside an execution in a session: as it is, and with what it has for a checkpoint."""
    rows = [
        Row(name="eryx", work="eryx: `x += 1` in its WebAssembly session; no checkpoint", over=BARE),
        Row(name="eryx snapshot", work="the same, and its variables pickled (`snapshot_state`)", over=BARE),
    ]
    # What the package index calls eryx is another thing, a programming language.
    install = "`pip install pyeryx` with Python 3.12 or later"
    return Peer(rows, _SERVE.format(once=_ERYX, end=""), install, interpreter)


_SERVE = """
import json, sys, time
kept = {{}}
{once}
for _ in sys.stdin:
    try:
        print(json.dumps(once()), flush=True)
    except ImportError:
        print(json.dumps("not installed"), flush=True)
    except Exception as error:
        print(json.dumps(f"it refuses: {{type(error).__name__}}: {{error}}"), flush=True)
{end}
"""
_SANDLOCK = """
def once():
    from sandlock import Sandbox
    started = time.perf_counter()
    box = Sandbox(
        fs_readable=["/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/dev"],
        fs_writable=["/tmp"], clean_env=True, env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
    )
    done = box.run([sys.argv[1], "-c", "pass"])
    seconds = time.perf_counter() - started
    return [seconds] if done.success else f"it refuses: {done.error}"
"""
_IPYKERNEL = """
def start():
    import ipykernel
    from jupyter_client.manager import KernelManager
    kept["manager"] = KernelManager()
    kept["manager"].start_kernel(stdout=2)
    kept["client"] = kept["manager"].blocking_client()
    kept["client"].start_channels()
    kept["client"].wait_for_ready(timeout=60)
    execute("x = 0")

def execute(code):
    client = kept["client"]
    started = time.perf_counter()
    wanted = client.execute(code)
    while True:
        said = client.get_iopub_msg(timeout=30)
        if said["parent_header"].get("msg_id") == wanted and said["content"].get("execution_state") == "idle":
            break
    seconds = time.perf_counter() - started
    assert client.get_shell_msg(timeout=30)["content"]["status"] == "ok"
    return seconds

def once():
    if "client" not in kept:
        start()
    return [execute("x += 1")]
"""
_IPYKERNEL_END = """
if "client" in kept:
    kept["client"].stop_channels()
if "manager" in kept:
    kept["manager"].shutdown_kernel(now=True)
"""
_ERYX = """
def once():
    if "session" not in kept:
        from eryx import Session
        kept["session"] = Session()
        kept["session"].execute("x = 0")
    times = [time.perf_counter()]
    kept["session"].execute("x += 1")
    times.append(time.perf_counter())
    kept["session"].execute("x += 1")
    kept["session"].snapshot_state()
    times.append(time.perf_counter())
    return [times[1] - times[0], times[2] - times[1]]
"""
