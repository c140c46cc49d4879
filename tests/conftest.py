"""What all tests share: real vms in folders of their own, bounded waiting, and the host's view of a vm.

Nothing here is a stand-in: a vm takes milliseconds. `REWINDBOX_SOAK=1` multiplies what is random, and
`REWINDBOX_FULL=1` takes the sizes of the documentation; what else the developer has set does not count.
"""

import contextlib
import fcntl
import gc
import itertools
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import anyio
import pytest

import skeletons
from rewindbox import backends
from rewindbox.attacks.host import Host
from rewindbox.backends.base import Job, Outcome
from rewindbox.backends.namespace import starting, trees
from rewindbox.engine import AsyncRewindbox
from rewindbox.languages import LANGUAGES
from rewindbox.limits import Limits

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Whoever started us in the background had Ctrl-C ignored, and every program that a test starts inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


SOAK = bool(os.environ.get("REWINDBOX_SOAK"))
FULL = bool(os.environ.get("REWINDBOX_FULL"))
PATIENCE_S = 60.0
"""How long a condition may take on a machine that is busy; no test is about time."""

_numbers = itertools.count()


def scaled(usual: int) -> int:
    """How many random examples to try."""
    return usual * 10 if SOAK else usual


def boot_after(lines: str) -> str:
    """The code that a launcher is started with, which runs these lines before it goes."""
    return starting._BOOT.replace("launcher.main()", f"\n{lines}\nlauncher.main()")


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition of the outside world, and fail with its name."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:.0f} s for: {what}"
        time.sleep(0.002)


async def eventually(condition: Callable[[], object], what: str) -> None:
    """As `until`, while the event loop goes on."""
    deadline = anyio.current_time() + PATIENCE_S
    while not condition():
        assert anyio.current_time() < deadline, f"waited {PATIENCE_S:.0f} s for: {what}"
        await anyio.sleep(0.002)


def is_in(file: str) -> bool:
    """Whether a thread of this process runs code of that file of ours."""
    return threads_in(file) > 0


def threads_in(file: str, function: str | None = None) -> int:
    """How many threads of this process run code of that file of ours, or of that function in it."""
    count = 0
    for frame in sys._current_frames().values():
        inner = frame
        while inner is not None:
            code = inner.f_code
            if code.co_filename.endswith(f"rewindbox/{file}") and function in (None, code.co_name):
                count += 1
                break
            inner = inner.f_back
    return count


def job(
    code: str, language: str = "bash", *, environment=None, stdin=b"", working_dir=None, session=None, **limits
) -> Job:
    """A job with an id of its own; keywords that are left over are limits."""
    return Job(
        id=f"ex_{next(_numbers)}",
        language=LANGUAGES.find(language),
        code=code,
        limits=Limits(**{"wall_s": PATIENCE_S, **limits}),
        environment=environment or {},
        stdin=stdin,
        working_dir=working_dir,
        session=session,
    )


async def run(vm, code: str, language: str = "bash", on_output=None, **more) -> Outcome:
    """Run one piece of code in a backend's vm."""
    return await vm.execute(job(code, language, **more), on_output)


async def out(vm, code: str, language: str = "bash", **more) -> str:
    """What a piece of code that must succeed writes."""
    outcome = await run(vm, code, language, **more)
    assert (outcome.ended, outcome.exit_code) == ("exit", 0), (outcome, outcome.stderr.decode(errors="replace"))
    return outcome.stdout.decode()


def needs(made, language: str, optional: tuple[str, ...] = ()) -> None:
    """Skip where the host has no toolchain; fail where it is expected to have all but those that are optional."""
    if made.programs()[language] is None:
        text = f"no {LANGUAGES.find(language).program} where a vm could find it"
        pytest.fail(text) if os.environ.get("CI") and language not in optional else pytest.skip(text)


def data(name: str) -> Path:
    """A file of real test data, or a skip that names it."""
    root = os.environ.get("REWINDBOX_TEST_DATA")
    path = Path(root or "") / name
    if not root or not path.exists():
        pytest.skip(f"{name} not found: set REWINDBOX_TEST_DATA to the folder that has it")
    return path


def namespace_of(pid: int | str) -> str | None:
    """The pid namespace of a process, as the host sees it; None: it is gone or not ours to see."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def members(namespace: str) -> list[int]:
    """The host's pids of everything in a pid namespace, its pid 1 included."""
    return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and namespace_of(pid) == namespace]


def status_of(pid: int | str) -> dict[str, str]:
    """/proc/PID/status as the host sees it; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            pairs = (line.partition(":") for line in file)
            return {name: value.strip() for name, _, value in pairs}
    except OSError:
        return {}


def open_files(pid: int | str) -> list[str]:
    """What the descriptors of a process are of, as the host sees it."""
    found = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
    return found


def children(pid: int) -> list[int]:
    """Of all threads of a process."""
    found = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def has_ready_thread(supervisor: int) -> bool:
    """Whether a supervisor has a thread that wears what the next job will."""
    threads = os.listdir(f"/proc/{supervisor}/task")
    return any(status_of(f"{supervisor}/task/{thread}").get("Seccomp") == "2" for thread in threads)


def survivors(namespace: str) -> list[int]:
    """What lives in a vm besides the pid 1 that holds it together."""
    found = [(pid, status_of(pid).get("NSpid", "1").split()[-1]) for pid in members(namespace)]
    return [pid for pid, inner in found if inner != "1"]


def cpu_s(pids: Iterable[int]) -> float:
    """Processor time of processes so far; of one that is gone, none."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def namespace(vm) -> str:
    """The pid namespace of a vm, asked of the host about a process that only this vm can have."""
    mark = f"31{next(_numbers):05d}.{os.getpid()}"
    found: list[str] = []

    def look() -> bool:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[:2] == [b"sleep", mark.encode()] and (inode := namespace_of(pid)):
                found.append(inode)
                return True
        return False

    async with anyio.create_task_group() as group:
        group.start_soon(run, vm, f"exec sleep {mark}")
        await eventually(look, "the host sees the vm's process")
        await vm.cancel()
    return found[0]


def remove(folder: Path, *, was_weak: bool = False) -> None:
    """Whatever code in a vm has made of its files. `was_weak`: it may have changed what all vms share."""
    if not was_weak:
        skeletons.take_back(folder)
    trees.delete(str(folder))
    shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Of workers side by side, one that looks at the whole host (mark `alone`) has it for itself.

    Two locks, so that it gets its turn: who waits for the second one has the first, and nobody comes past it.
    """
    if not hasattr(item.config, "workerinput"):
        return (yield)
    with open(item.config.rootpath / "pyproject.toml", "rb") as door, open(__file__, "rb") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        return (yield)


_COUNTED = {
    "attack": "attacks held",
    "control": "of their controls fired",
    "road": "roads to exhaustion closed",
    "road's control": "of their controls fired",
}
_UNCONTROLLED = ("uncontrolled", "road without")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many attacks and roads were held, how many of their controls fired, and which have none, with the reason."""
    found: dict[str, list[str]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", ()):
                found.setdefault(name, []).append(outcome if name in _COUNTED else value)
    for name, text in _COUNTED.items():
        if name in found:
            terminalreporter.write_line(f"{text}: {found[name].count('passed')} of {len(found[name])}")
    for line in (line for name in _UNCONTROLLED for line in found.get(name, [])):
        terminalreporter.write_line(f"without a control: {line}")


@pytest.fixture(scope="session", autouse=True)
def no_settings_of_the_developer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither environment nor configuration file of whoever runs the tests reaches what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("REWINDBOX_") and name not in ("REWINDBOX_TEST_DATA", "REWINDBOX_DEBUG"):
                patch.delenv(name)
        for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name)))
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_kept() -> Iterator[None]:
    """What tests have left to each other goes with the last one."""
    yield
    skeletons.forget()


@pytest.fixture(scope="module")
def canaries() -> Iterator[Host]:
    """Files, servers and memory of the host that no code may come to."""
    with Host() as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open() -> Iterator[None]:
    """What a module of tests forgets to close is found at its end, not when the whole run is over."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def signals_are_the_tests() -> Iterator[None]:
    """The command line, called in this process, catches signals for good; the next test has its own again."""
    kept = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    }
    yield
    for number, handler in kept.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio, as the library does."""
    return "asyncio"


@pytest.fixture(scope="module", params=sorted(backends._TABLE))
def backend_name(request: pytest.FixtureRequest) -> str:
    """Every backend in the table."""
    return request.param


@pytest.fixture(scope="module")
def vms_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a backend keeps the files of its vms; its name is too long for a socket's address."""
    place = tmp_path_factory.mktemp("backend") / ("a-long-name-" * 10)
    yield skeletons.lend(place / "vms")
    remove(place)


@pytest.fixture(scope="module")
async def backend(backend_name: str, anyio_backend: str, vms_folder: Path):
    """A backend with a folder of its own."""
    made = backends.load(backend_name, str(vms_folder))
    yield made
    await made.close()


@pytest.fixture
async def vm(backend):
    """A new vm, gone with all its files after the test."""
    made = await backend.create(f"vm_{next(_numbers)}")
    yield made
    await backend.destroy(made.id)


@pytest.fixture
def store(backend_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a box keeps everything, on the chosen backend."""
    monkeypatch.setenv("REWINDBOX_BACKEND", backend_name)
    yield skeletons.lend(tmp_path / "store" / "vms").parent
    remove(tmp_path / "store")


@pytest.fixture
async def box(store: Path):
    """A box with a store of its own."""
    async with AsyncRewindbox(store) as opened:
        yield opened
