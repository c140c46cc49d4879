"""What the kernel holds besides namespaces and the filter: control groups and Landlock; and that each of them does.

Each is tried with the defence and, by a boot code that leaves it out, without.
"""
# ruff: noqa: E501  programs that are run inside stand here as they are

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

import skeletons
from conftest import PATIENCE_S, cpu_s, eventually, job, members, namespace, out, remove, run, status_of, survivors
from rewindbox import backends
from rewindbox.backends.namespace import ground, input, landlock, starting
from rewindbox.errors import RewindboxError

pytestmark = pytest.mark.anyio
SECRET = "canary-77e0"
_LEFT_OUT = """
import sys
sys.path.append(sys.argv[1])
from rewindbox.backends.namespace import ground, landlock, launcher, seccomp
{}
launcher.main()
"""
NO_LANDLOCK = _LEFT_OUT.format("landlock.put_on = lambda: False")
NO_GROUPS = _LEFT_OUT.format("ground.claim = lambda owner: ground.Ground(why_not='left out')")
NO_WEIGHT = _LEFT_OUT.format("ground.CONTROLLERS = ('memory', 'pids')")
CORE = """import resource
def told(): print(resource.getrlimit(resource.RLIMIT_CORE))
told()
resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); told()
try: resource.prlimit(0, resource.RLIMIT_CORE, (0, 0))  # asks what it was, too
except PermissionError: told()
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2); told()
"""
CROWD = """import os, time
for n in range(60):
    if os.fork() == 0:
        os.setsid()
        while True: pass
print('on', flush=True); time.sleep(1000)"""
HOG = "import os, time\nfor _ in range(6):\n    if os.fork() == 0:\n        x = bytearray(os.urandom(1 << 20)) * 400; time.sleep(1000)\ntime.sleep(1000)"


def own_groups() -> dict[str, str]:
    """Controller -> the folder of our group; "" stands for version 2."""
    return ground.own_folders(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())


def folder_of(backend, name: str, controller: str = "memory") -> Path:
    """The folder of the only vm's group, found from outside."""
    own = own_groups()
    (found,) = Path(own.get(controller, own.get("", "")), f"rewindbox-{backend._launcher.pid}").glob(f"*-{name}")
    return found


@pytest.fixture
async def alone(backend_name, anyio_backend, tmp_path):
    """A backend that holds a single vm, and that vm; started when the test asks for it."""
    made = []

    async def start():
        backend = backends.load(backend_name, str(skeletons.lend(tmp_path / "vms")), spare=False)
        made.append(backend)
        return backend, await backend.create("vm_alone")

    yield start
    for backend in made:
        await backend.close()
    remove(tmp_path / "vms", was_weak=True)


@pytest.fixture
async def is_hard(alone):
    """Whether this host limits memory by the kernel; root's does where it counts memory at all."""
    backend, _ = await alone()
    return {report.limit: report.enforcement for report in await backend.limits()}["memory_mib"] == "hard"


async def test_memory_has_a_hard_limit(is_hard):
    """Memory is hard for root where version 1 counts it, for nobody else there; for all to whom version 2 is delegated."""
    own = own_groups()
    if "memory" in own:
        assert is_hard == (os.getuid() == 0)
    elif "" in own and ground.is_delegated(own[""]):
        assert is_hard


@pytest.mark.parametrize("memory_mib", [64, 200])
async def test_the_kernel_counts_no_more_than_the_limit(alone, is_hard, memory_mib):
    """Six processes that take 400 MiB each end as `memory`; the kernel's own peak is at most 1.05 of the limit."""
    backend, vm = await alone()
    outcome = await run(vm, HOG, "python", memory_mib=memory_mib)
    assert (outcome.ended, outcome.exit_code) == ("memory", 137)
    if is_hard:
        name = "memory.max_usage_in_bytes" if "memory" in own_groups() else "memory.peak"
        peak = int((folder_of(backend, "jobs") / name).read_text())
        assert memory_mib / 2 <= peak / 2**20 <= memory_mib * 1.05
        assert outcome.memory_peak_bytes <= memory_mib * 1.05 * 2**20
    assert await out(vm, "echo fine", memory_mib=memory_mib) == "fine\n"


async def test_a_job_ends_when_the_kernel_ended_its_child(alone, is_hard):
    """A shell whose child was ended for want of memory does not go on as if nothing had been."""
    _, vm = await alone()
    outcome = await run(vm, "python3 -c 'x = bytearray(1 << 30); print(len(x))'; sleep 1000; echo on", memory_mib=100)
    assert (outcome.ended, outcome.exit_code, outcome.stdout) == ("memory", 137, b"")


async def test_memory_without_control_groups_is_said_to_be_watched(alone, monkeypatch):
    """Left out, they hold nothing, nothing says that they do, and watching still ends the job."""
    monkeypatch.setattr(starting, "_BOOT", NO_GROUPS)
    backend, vm = await alone()
    reports = {report.limit: report for report in await backend.limits()}
    assert reports["memory_mib"].enforcement == "watched" and "left out" in reports["memory_mib"].by
    assert (await run(vm, HOG, "python", memory_mib=100)).ended == "memory"


MAPPED = """import mmap, time
with open("big", "wb") as file:
    for _ in range(200): file.write(b"x" * (1 << 20))
with open("big", "r+b") as file: maps = [mmap.mmap(file.fileno(), 0), mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE)]
print(sum(m[n] for _ in range(20) for m in maps for n in range(0, len(m), 4096)), flush=True)
"""
COPIED = "for n in range(0, len(maps[1]), 4096): maps[1][n] = 1\ntime.sleep(1000)"


async def test_mapped_files_are_not_counted_where_memory_is_watched(alone, monkeypatch):
    """The kernel takes their pages back when it likes, as where it counts; those that a program makes its own count."""
    monkeypatch.setattr(starting, "_BOOT", NO_GROUPS)
    _, vm = await alone()
    outcome = await run(vm, MAPPED, "python", memory_mib=100)
    assert (outcome.ended, outcome.stdout) == ("exit", b"%d\n" % (20 * 2 * 200 * 256 * ord("x")))
    assert outcome.memory_peak_bytes <= 100 << 20
    assert (await run(vm, MAPPED + COPIED, "python", memory_mib=100)).ended == "memory"


async def test_files_are_no_memory_that_is_missing(alone, is_hard):
    """What the kernel keeps of files is given up for a program: writing and reading 300 MiB stays within 100."""
    _, vm = await alone()
    code = "with open('big', 'wb') as f:\n    for _ in range(300): f.write(os.urandom(1 << 20))\nprint(sum(len(b) for b in iter(lambda: g.read(1 << 20), b'')))"
    code = "import os\n" + code.replace("print(", "g = open('big', 'rb')\nprint(", 1)
    assert await out(vm, code, "python", memory_mib=100) == f"{300 << 20}\n"


async def test_a_session_has_room_for_what_it_adds(store, is_hard):
    """Checkpoints keep what was changed: a session that rewrites all it has, again and again, is not ended for it."""
    from rewindbox import AsyncRewindbox, Limits

    async with AsyncRewindbox(store, limits=Limits(memory_mib=300, wall_s=PATIENCE_S)) as box:
        session = await (await box.vm("v")).session()
        assert (await session.execute("x = bytearray(60 << 20)")).success
        for number in range(1, 6):
            execution = await session.execute(f"x[:] = bytes([{number}]) * len(x); x[-1]")
            assert execution.success and execution.result == str(number), execution
        execution = await session.execute("y = bytearray(b'x' * (400 << 20))")
        assert (execution.ended, execution.exit_code) == ("memory", 137)
        assert (await session.execute("x[0]")).result == "5"


async def test_checkpoints_outlive_the_code(store, is_hard):
    """When memory ends the code goes, however many it is and small, not what it can go back to, however big."""
    from rewindbox import AsyncRewindbox, Limits

    children = "import os, time\nfor n in range(12):\n    if os.fork() == 0:\n        y = bytearray(b'y' * (60 << 20)); time.sleep(1000)\ntime.sleep(1000)"
    async with AsyncRewindbox(store, limits=Limits(memory_mib=300, wall_s=PATIENCE_S)) as box:
        session = await (await box.vm("v")).session()
        big = await session.execute("x = b'x' * (150 << 20)")
        assert big.success and (await session.execute("del x")).success
        assert (await session.execute(children)).ended == "memory"
        await session.vm.rollback(str(big.after))
        assert (await session.execute("len(x) >> 20, x[-1]")).result == "(150, 120)"


@pytest.mark.parametrize("session", [None, "s"])
async def test_no_program_of_the_host_takes_core_dumps(alone, monkeypatch, session):
    """Where one would be started (core_pattern begins with |) the limit is the one at which it is not, and stays that.

    Nobody who wants no dumps is refused. That the kernel starts none then is seen on a host with such a program only.
    """
    monkeypatch.setattr(starting, "_BOOT", _LEFT_OUT.format("launcher._core_bytes = lambda: 1"))
    _, vm = await alone()
    found = await run(vm, CORE, "python", session=session)
    assert found.stdout.split(b"\n")[:-1] == [b"(1, 1)"] * 4, found
    assert (await out(vm, "ulimit -c 0; ulimit -c unlimited; ulimit -c")) == "0\n"


async def test_what_no_job_can_wear_is_said(alone, monkeypatch):
    """Where putting a defence on fails in a way that nobody foresaw there is an error with its reason; nothing waits."""
    monkeypatch.setattr(starting, "_BOOT", _LEFT_OUT.format("seccomp.install = lambda: None"))
    _, vm = await alone()
    for _ in range(2):
        with pytest.raises(RewindboxError, match="TypeError"):
            await run(vm, "echo ran")


async def test_code_goes_first_when_memory_ends(alone):
    """Its score is the highest that there is, from its first instruction on, and cannot be put below ours."""
    _, vm = await alone()
    code = "cat /proc/self/oom_score_adj; echo -1 > /proc/self/oom_score_adj; sh -c 'cat /proc/self/oom_score_adj'"
    assert (await run(vm, code)).stdout == b"1000\n1000\n"


async def test_code_of_a_session_goes_first(store):
    """Also what a session runs, from its first execution on and after going back; its checkpoints go last."""
    from rewindbox import AsyncRewindbox

    look = "import os, subprocess; subprocess.getoutput('cat /proc/self/oom_score_adj /proc/%d/oom_score_adj' % os.getppid())"
    async with AsyncRewindbox(store) as box:
        session = await (await box.vm("v")).session()
        first = await session.execute(look)
        again = await session.execute(look)
        await session.vm.rollback(str(first.after))
        found = [execution.result for execution in (first, again, await session.execute(look))]
        assert [result.split("\\n")[0].strip("'") for result in found] == ["1000"] * 3


async def test_processes_are_bounded_twice(alone, is_hard):
    """What a user namespace counts has some threads of ours in it; a group lets exactly as many run as the limit says."""
    backend, vm = await alone()
    code = "import os, time\ntry:\n    for n in range(60):\n        if os.fork() == 0: time.sleep(1000)\nexcept OSError as e: print(n, type(e).__name__)"
    number, name = (await out(vm, code, "python", processes=20)).split()
    assert (int(number) <= 25, name) == (True, "BlockingIOError")  # some threads of ours count
    if is_hard:
        assert int(number) < 20  # itself one of them
        ours = int("pids" in own_groups())  # version 1: the thread that bears them
        assert int((folder_of(backend, "jobs", "pids") / "pids.max").read_text()) == 20 + ours


async def part_left(vm, session: str | None) -> float:
    """Of the processor time of a crowd of sessions, and of a program of the host on each processor, the part of those."""
    inside, heard = await namespace(vm), bytearray()
    async with anyio.create_task_group() as group:
        group.start_soon(vm.execute, job(CROWD, "python", session=session), lambda _, data: heard.extend(data))
        await eventually(lambda: b"on" in heard, "the crowd is there")
        with contextlib.ExitStack() as stack:
            ours = [stack.enter_context(spinning(cpu)).pid for cpu in os.sched_getaffinity(0)]
            crowd = survivors(inside)
            before = cpu_s(crowd), cpu_s(ours)
            await eventually(lambda: cpu_s(crowd) + cpu_s(ours) > sum(before) + 2, "all have run")
            theirs, left = cpu_s(crowd) - before[0], cpu_s(ours) - before[1]
        await vm.cancel()
    return left / (theirs + left)


@contextlib.contextmanager
def spinning(cpu: int):
    """A program of the host, in a session of its own, on one processor."""
    code = f"import os; os.sched_setaffinity(0, [{cpu}]); print(flush=True)\nwhile True: pass"
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True) as process:
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


async def weighs_as_one(backend) -> bool:
    return {barrier.name: barrier.stands for barrier in await backend.barriers()}["cpu_weight"]


@pytest.mark.parametrize("session", [None, "s"], ids=["job", "session"])
async def test_a_crowd_weighs_as_one(alone, session, record_property):
    """Sixty sessions that spin leave the host's programs half of the processors, where it is said that they do."""
    backend, vm = await alone()
    part = await part_left(vm, session)
    record_property("part of the processors left", part)
    assert (part > 0.2) == await weighs_as_one(backend), part
    if "cpu" in own_groups():
        assert os.getuid() or await weighs_as_one(backend)


async def test_without_weight_a_crowd_takes_all(alone, monkeypatch):
    """Left out, it is said so, memory is limited as before, and nothing is left to the host's programs."""
    monkeypatch.setattr(starting, "_BOOT", NO_WEIGHT)
    backend, vm = await alone()
    assert not await weighs_as_one(backend)
    assert await part_left(vm, None) < 0.2


async def test_nothing_of_it_is_seen_inside(alone):
    """A job sees of control groups that there are some, not what the host calls them."""
    _, vm = await alone()
    told = await out(vm, "cut -d: -f3 /proc/self/cgroup | sort -u; ls /sys 2>/dev/null || true")
    assert set(told.split()) <= {"/"}


@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
async def test_groups_go_with_their_vm(alone, is_hard, is_killed):
    """When a vm ends, by whatever, its groups are removed, and with its holder the folder that they were in."""
    backend, vm = await alone()
    place = folder_of(backend, "jobs").parent if is_hard else None
    if is_killed:
        (holds_it_together,) = members(await namespace(vm))
        os.kill(int(status_of(holds_it_together)["PPid"]), signal.SIGKILL)
    else:
        await vm.stop()
    if place is not None:
        await eventually(lambda: not list(place.glob("*-*")), "the groups are gone")
    await backend.close()
    assert place is None or not place.exists()


async def test_what_a_crash_left_goes_at_the_next_start(alone, is_hard):
    """Groups of a launcher that was killed are removed when another one starts."""
    backend, vm = await alone()
    await out(vm, "true")
    place = folder_of(backend, "jobs").parent if is_hard else None
    backend._launcher.kill()
    backend._launcher.wait()
    await vm.stop()
    assert place is None or place.exists()
    _, other = await alone()
    await out(other, "true")
    if place is not None:
        assert not place.exists()


REFUSED_ONCE = """
import errno, sys
sys.path.append(sys.argv[1])
from rewindbox.backends.namespace import launcher, spawner
bound, calls = spawner._bound, []
def refused_once(*arguments):
    calls.append(1)
    if len(calls) == 1: raise OSError(errno.EPERM, "refused")
    bound(*arguments)
spawner._bound = refused_once
launcher.main()
"""


async def test_who_could_not_be_bound_never_runs(alone, monkeypatch):
    """A job whose limits the kernel refuses ends at the gate; the next one does not let it through."""
    monkeypatch.setattr(starting, "_BOOT", REFUSED_ONCE)
    _, vm = await alone()
    assert (await run(vm, "echo ran > /tmp/ran")).ended == "killed"
    assert await out(vm, "ls /tmp; ps -e -o comm=") == "bash\nps\n"


LEAK = "cat /proc/self/fd/0/canary 2>&1"


async def leaked(vm, folder: Path, monkeypatch) -> str:
    """What a job says that was given a descriptor of a folder of the host as its standard input."""
    monkeypatch.setattr(input, "memory_file", lambda data: os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
    outcome = await vm.execute(job(LEAK, stdin=b"x"))
    return outcome.stdout.decode() + outcome.stderr.decode()


@pytest.fixture
def canary(tmp_path):
    """A folder of the host with a file that everybody may read."""
    (tmp_path / "host").mkdir(mode=0o755)
    (tmp_path / "host" / "canary").write_text(SECRET)
    (tmp_path / "host" / "canary").chmod(0o644)
    return tmp_path / "host"


async def test_a_descriptor_of_the_host_leads_nowhere(alone, canary, monkeypatch):
    """With Landlock a job cannot open the host's files even if a descriptor of their folder came to it."""
    if landlock.level() < landlock.LEVEL_MIN:
        pytest.skip("this kernel has no Landlock, or a level that cannot allow renaming across folders")
    _, vm = await alone()
    assert await leaked(vm, canary, monkeypatch) == "cat: /proc/self/fd/0/canary: Permission denied\n"


async def test_without_landlock_it_would(alone, canary, monkeypatch):
    """The same descriptor opens the file where Landlock is left out: the other test proves something."""
    monkeypatch.setattr(starting, "_BOOT", NO_LANDLOCK)
    _, vm = await alone()
    assert await leaked(vm, canary, monkeypatch) == SECRET


EVERYDAY = """
import fcntl, os, pty, shutil, socket, struct, subprocess, tempfile, termios
os.makedirs("a/deep"); os.makedirs("b"); open("a/f", "w").write("x")
os.rename("a/f", "b/f"); os.link("b/f", "a/g"); os.rename("a/deep", "b/deep"); os.rename("b/f", "/tmp/f"); os.link("/tmp/f", "/var/f")
os.truncate("/tmp/f", 0); os.symlink("x", "a/s"); os.mkfifo("a/p"); shutil.rmtree("b")
with open("/tmp/f", "r+") as f: f.truncate(0)
server = socket.socket(socket.AF_UNIX); server.bind("a/socket"); server.listen(); socket.socket(socket.AF_UNIX).connect("a/socket")
os.mkdir("/new"); open("/new/f", "w").write("x"); os.rename("/new/f", "/srv/f")
shutil.copy("/usr/bin/true", "own"); subprocess.run(["./own"], check=True)
with tempfile.TemporaryFile() as f: f.write(b"x")
for place in ("/dev/shm/x", "/run/x"): open(place, "w").write("x"); os.unlink(place)
parent, child = pty.openpty(); fcntl.ioctl(child, termios.TIOCGWINSZ, struct.pack("4H", 0, 0, 0, 0)); os.ttyname(child)
for device in ("null", "zero", "urandom"): open("/dev/" + device, "r+b", 0).write(b"x")
for stream in ("stdout", "stderr"): open("/dev/" + stream, "w").write("said\\n")
print(open("/proc/self/comm").read().strip(), len(os.listdir("/")) > 5)
"""


@pytest.mark.parametrize("again", [False, True], ids=["at-first", "on-other-files"])
async def test_everyday_work_goes_on(alone, again):
    """Renaming and linking across folders, sockets, terminals, devices: also after the vm moved onto other files."""
    _, vm = await alone()
    if again:
        before = (await vm.take_point()).state
        await out(vm, "for n in $(seq 150); do echo $n > $n; done")
        assert (await vm.take_point()).method == "freeze"
        await out(vm, "rm -f *")
        await vm.go_to(before)
    assert await out(vm, EVERYDAY, "python") == "said\npython3 True\n"


async def test_a_session_moves_along(store):
    """What lives through a freeze renames across folders afterwards: no rule of the old root holds it back."""
    from rewindbox import AsyncRewindbox

    async with AsyncRewindbox(store) as box:
        session = await (await box.vm("v")).session()
        await session.execute("import os\nfor n in range(200): open(f'f{n}', 'w').write('x')")
        execution = await session.execute(
            "os.makedirs('d'); os.rename('f1', 'd/f1'); os.link('d/f1', 'f1'); os.listdir('d')"
        )
        assert execution.result == "['f1']", execution
