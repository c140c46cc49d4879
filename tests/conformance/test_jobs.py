"""Every backend runs jobs the same way: what comes back, what ends them, what is left."""

import anyio
import pytest

from conftest import eventually, job, members, namespace, out, run, survivors
from rewindbox.errors import BadRequest, VmNotAvailable

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("code", [0, 1, 2, 42, 124, 137, 255])
async def test_exit_codes_come_back(vm, code):
    """A program's exit code is told as it is, also where it looks like one of ours."""
    outcome = await run(vm, f"exit {code}")
    assert (outcome.ended, outcome.exit_code, outcome.error) == ("exit", code, None)


@pytest.mark.parametrize("number", [1, 2, 6, 9, 11, 15])
async def test_signals_come_back(vm, number):
    """A program that dies by a signal of its own has exit code 128+n, and that is no limit of ours."""
    outcome = await run(vm, f"kill -{number} $$")
    assert (outcome.ended, outcome.exit_code, outcome.error) == ("signal", 128 + number, None)


async def test_streams_are_apart(vm):
    """stdout and stderr do not mix."""
    outcome = await run(vm, "echo one; echo two >&2; echo three")
    assert (outcome.stdout, outcome.stderr) == (b"one\nthree\n", b"two\n")


async def test_bytes_are_exact(vm):
    """NUL, invalid UTF-8, carriage returns and half a character at the end come back as they were written."""
    outcome = await run(vm, r"printf 'a\0b\r\n\xff\xfe\xc3'; printf '\x1b[31m\x80' >&2")
    assert (outcome.stdout, outcome.stderr) == (b"a\0b\r\n\xff\xfe\xc3", b"\x1b[31m\x80")


async def test_a_line_of_a_mebibyte_comes_back(vm):
    """Output does not need line ends, and its last bytes are not lost."""
    outcome = await run(vm, "import sys; sys.stdout.write('x' * (1 << 20) + 'end')", "python")
    assert outcome.stdout == b"x" * (1 << 20) + b"end"


async def test_output_comes_while_the_program_runs(vm):
    """The first output is handed on before the program ends."""
    seen, chunks, outcomes = anyio.Event(), [], []

    def on_output(stream, chunk):
        chunks.append((stream, chunk))
        seen.set()

    async def start():
        outcomes.append(
            await run(vm, "echo first; until [ -e go ]; do read -t 0.01 <> <(:); done; echo last", on_output=on_output)
        )

    async with anyio.create_task_group() as group:
        group.start_soon(start)
        with anyio.fail_after(60):
            await seen.wait()
        assert not outcomes
        await vm.write("/home/agent/go", b"")
    assert b"".join(chunk for _, chunk in chunks) == outcomes[0].stdout == b"first\nlast\n"


async def test_stdin_is_what_was_given(vm):
    """The program reads exactly the given bytes, then end of file."""
    given = bytes(range(256)) * 4096
    outcome = await run(vm, "cat", stdin=given)
    assert outcome.stdout == given


async def test_no_stdin_is_end_of_file(vm):
    """Without stdin a program that reads gets end of file at once."""
    assert await out(vm, "cat; echo done") == "done\n"


async def test_environment_is_added(vm):
    """Given variables are seen, also odd ones; they win over the vm's own and do not stay."""
    environment = {"A": "1 2\n3", "ÄÖ": "ü", "TZ": "Asia/Tokyo", "EMPTY": ""}
    code = "import os; print([os.environ.get(n) for n in ('A', 'ÄÖ', 'TZ', 'EMPTY')])"
    assert await out(vm, code, "python", environment=environment) == "['1 2\\n3', 'ü', 'Asia/Tokyo', '']\n"
    assert await out(vm, code, "python") == "[None, None, 'UTC', None]\n"


@pytest.mark.parametrize(
    "environment",
    [
        {"": "x"},
        {"A=B": "x"},
        {"A": "x\0y"},
        {"A\0": "x"},
        {"A": "x" * 200_000},
        {"A": "\ud800"},
        {"\ud800": "x"},
        {"A": "\U0001f600" * 20_000},
    ],
)
async def test_impossible_environments_are_refused(vm, environment):
    """What no program can be given is refused, and nothing runs."""
    with pytest.raises(BadRequest):
        await run(vm, "touch /home/agent/ran", environment=environment)
    assert await vm.list(".") == []


FILE_THAT_SIGNALS = """
import fcntl, os, signal, socket
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
a, b = socket.socketpair()
fcntl.fcntl(a, fcntl.F_SETOWN, os.getpid())
fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC)
b.send(b"x")
print(signal.sigtimedwait([signal.SIGIO], 10) is not None)
"""


async def test_a_file_signals_its_program(vm):
    """A program has its own files tell it by SIGIO that there is something to read; nginx does not start without."""
    assert await out(vm, FILE_THAT_SIGNALS, "python") == "True\n"


async def test_working_folder(vm):
    """A job runs in the folder it names, relative to its home."""
    await out(vm, "mkdir -p a/b")
    assert await out(vm, "pwd", working_dir="a/b") == "/home/agent/a/b\n"
    assert await out(vm, "pwd", working_dir="/tmp") == "/tmp\n"
    assert await out(vm, "pwd") == "/home/agent\n"


@pytest.mark.parametrize("missing", ["missing", "/etc/passwd", "a\0b", "x" * 5000, "/proc/1/root"])
async def test_no_such_working_folder(vm, missing):
    """A working folder that is none is refused, and nothing runs."""
    with pytest.raises(BadRequest):
        await run(vm, "touch /home/agent/ran", working_dir=missing)
    assert await vm.list(".") == []


async def test_a_removed_home_does_not_end_the_vm(vm):
    """Code may delete its home; the next job still runs."""
    await out(vm, "cd /; rm -rf /home/agent")
    assert await out(vm, "echo here") == "here\n"


async def test_deadline(vm):
    """Too slow is a result: timeout, 124, the text of the original, and the output so far."""
    outcome = await run(vm, "echo so far; sleep 1000", wall_s=0.4)
    assert (outcome.ended, outcome.exit_code, outcome.stdout) == ("timeout", 124, b"so far\n")
    assert outcome.error == "Execution timeout after 400ms"


async def test_deadline_for_what_ignores_signals(vm):
    """Ignoring signals, stopping itself or holding the output open delays nothing."""
    code = "trap '' TERM INT HUP QUIT; (trap '' TERM HUP; setsid sleep 1000) & echo a; kill -STOP $$; sleep 1000"
    outcome = await run(vm, code, wall_s=0.4)
    assert (outcome.ended, outcome.stdout) == ("timeout", b"a\n")
    assert await out(vm, "ps -e -o comm=") == "bash\nps\n"


async def test_cpu_limit(vm):
    """CPU time used up ends the job as a timeout whose text says CPU."""
    outcome = await run(vm, "while :; do :; done", cpu_s=0.5)
    assert (outcome.ended, outcome.exit_code) == ("timeout", 124)
    assert "CPU" in outcome.error
    assert outcome.cpu_s >= 0.4


async def test_cpu_limit_counts_all_processes(vm):
    """CPU time is that of all processes together, not of each."""
    code = "for i in 1 2 3 4 5 6; do (while :; do :; done) & done; wait"
    outcome = await run(vm, code, cpu_s=1)
    assert (outcome.ended, outcome.exit_code) == ("timeout", 124)


async def test_cpu_time_of_commands(vm):
    """What a script's commands have used counts and is told, though they have ended, and not the script."""
    code = "import time\nwhile time.process_time() < 0.1: pass"
    outcome = await run(vm, f"while true; do python3 -c '{code}'; done; true", cpu_s=0.5, wall_s=50)
    assert outcome.ended == "timeout" and "CPU" in outcome.error
    assert outcome.cpu_s >= 0.5


async def test_cpu_time_where_the_first_thread_has_ended(vm):
    """What the others use counts once, and not again with each that ends."""
    code = """
import ctypes, os, platform, threading, time
def burn(more):
    while time.thread_time() < 0.15: pass
    threading.Thread(target=burn, args=(more - 1,)).start() if more else os._exit(0)
threading.Thread(target=burn, args=(9,)).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)"""
    outcome = await run(vm, code, "python", cpu_s=4, wall_s=50)
    assert outcome.ended == "exit" and outcome.cpu_s < 3, outcome


async def test_memory_limit(vm):
    """Too much memory ends the job as such, with the output so far."""
    code = "print('so far', flush=True)\nx = []\nwhile True: x.append(bytearray(1 << 20))"
    outcome = await run(vm, code, "python", memory_mib=100)
    assert (outcome.ended, outcome.exit_code, outcome.stdout) == ("memory", 137, b"so far\n")
    assert "100 MiB" in outcome.error
    assert outcome.memory_peak_bytes > 50 << 20


async def test_memory_limit_counts_all_processes(vm):
    """Memory is that of all processes together: small ones add up."""
    code = (
        "import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n"
        "        x = bytearray(os.urandom(1 << 20)) * 24; time.sleep(1000)\nos.wait()"
    )
    assert (await run(vm, code, "python", memory_mib=100)).ended == "memory"


async def test_shared_memory_counts_once(vm):
    """What processes share is not counted for each: a small program in many processes stays within."""
    code = (
        "import os, mmap\nm = mmap.mmap(-1, 30 << 20); m[:] = b'x' * len(m)\n"
        "kids = []\nfor _ in range(6):\n    pid = os.fork()\n    if pid == 0:\n        sum(m[::4096]); os._exit(0)\n"
        "    kids.append(pid)\nprint([os.waitpid(k, 0)[1] for k in kids])"
    )
    assert (await out(vm, code, "python", memory_mib=150)) == "[0, 0, 0, 0, 0, 0]\n"


async def test_process_limit(vm):
    """Beyond the limit fork fails inside with EAGAIN; the program goes on."""
    code = (
        "import os, errno, signal\nkids = []\ntry:\n    while True:\n        pid = os.fork()\n"
        "        if pid == 0: signal.pause()\n        kids.append(pid)\n"
        "except OSError as e: print(errno.errorcode[e.errno], len(kids))\n"
        "for k in kids: os.kill(k, 9)"
    )
    name, count = (await out(vm, code, "python", processes=20)).split()
    assert name == "EAGAIN"
    assert 10 <= int(count) <= 30


async def test_a_fork_bomb_stops(vm):
    """A fork bomb ends at its deadline with nothing left, and the vm goes on."""
    inside = await namespace(vm)
    outcome = await run(vm, "bomb() { bomb | bomb & }; bomb; sleep 1000", wall_s=1, processes=64)
    assert outcome.ended == "timeout"
    assert survivors(inside) == []
    assert await out(vm, "echo fine") == "fine\n"


async def test_output_limit(vm):
    """A flood ends the job; what is kept is its beginning, up to the limit."""
    outcome = await run(vm, "yes & yes >&2", output_bytes=100_000)
    assert (outcome.ended, outcome.exit_code, outcome.truncated) == ("output", 137, True)
    assert max(len(outcome.stdout), len(outcome.stderr)) == 100_000
    assert set(outcome.stdout) <= set(b"y\n")


async def test_output_of_exactly_the_limit(vm):
    """The limit is what may be written; one byte more is too much, whatever the program's own end."""
    exact = await run(vm, "head -c 1000 /dev/zero", output_bytes=1000)
    assert (exact.ended, len(exact.stdout), exact.truncated) == ("exit", 1000, False)
    over = await run(vm, "head -c 1001 /dev/zero", output_bytes=1000)
    assert (over.ended, len(over.stdout), over.truncated) == ("output", 1000, True)


async def test_file_size_limit(vm):
    """A file cannot grow beyond the limit."""
    code = (
        "import signal, errno, os\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nf = open('big', 'wb', 0)\n"
        "try:\n    while True: f.write(bytes(1 << 20))\nexcept OSError as e: print(errno.errorcode[e.errno])\n"
        "print(os.stat('big').st_size >> 20)"
    )
    assert await out(vm, code, "python", file_mib=5) == "EFBIG\n5\n"


async def test_open_files_limit(vm):
    """A process cannot hold more descriptors than the limit."""
    code = (
        "import os, errno\nfound = []\ntry:\n    while True: found.append(os.open('/dev/null', 0))\n"
        "except OSError as e: print(errno.errorcode[e.errno], found[-1])"
    )
    assert await out(vm, code, "python", open_files=64) == "EMFILE 63\n"


async def test_disk_limit(vm):
    """Many files that are small enough one by one end the job when the vm's disk is used up."""
    code = "import os\nfor i in range(4000):\n    with open(f'f{i}', 'wb') as f: f.write(os.urandom(1 << 20))"
    outcome = await run(vm, code, "python", disk_mib=20, file_mib=5)
    assert (outcome.ended, outcome.exit_code) == ("killed", 137)
    assert "disk" in outcome.error
    assert len(await vm.list(".")) < 3500


async def test_inode_limit(vm):
    """Empty files count too."""
    outcome = await run(vm, "import os\nfor i in range(1_000_000): os.mknod(f'f{i}')", "python", inodes=500)
    assert (outcome.ended, outcome.exit_code) == ("killed", 137)


async def test_background_programs_delay_nothing(vm):
    """A job is over when its first process is, though something holds its output open; that is dead then."""
    inside = await namespace(vm)
    outcome = await run(vm, "sleep 1000 & setsid sleep 1000 & (sleep 1000 &) & echo started")
    assert (outcome.ended, outcome.exit_code, outcome.stdout) == ("exit", 0, b"started\n")
    assert survivors(inside) == []


async def test_cancel(vm):
    """A cancelled job is killed, with its output so far, and the vm goes on."""
    inside, started, outcomes = await namespace(vm), anyio.Event(), []

    async def start():
        code = "echo so far; sleep 1000 & wait"
        outcomes.append(await run(vm, code, on_output=lambda *_: started.set()))

    async with anyio.create_task_group() as group:
        group.start_soon(start)
        await started.wait()
        await vm.cancel()
    outcome = outcomes[0]
    assert (outcome.ended, outcome.exit_code, outcome.stdout) == ("killed", 137, b"so far\n")
    assert survivors(inside) == []
    assert await out(vm, "echo fine") == "fine\n"


async def test_cancel_of_nothing(vm):
    """Cancelling when nothing runs has no effect, also not on the next job."""
    await vm.cancel()
    await vm.cancel()
    assert await out(vm, "echo fine") == "fine\n"
    await vm.cancel()
    assert await out(vm, "echo fine") == "fine\n"


async def test_cancelling_the_call_kills_the_job(vm):
    """Who stops waiting stops the job; its outcome is kept for them, and nothing of it is left."""
    inside, started = await namespace(vm), anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: run(vm, "echo so far; sleep 1000", on_output=lambda *_: started.set()))
        await started.wait()
        group.cancel_scope.cancel()
    assert (vm.interrupted.ended, vm.interrupted.stdout) == ("killed", b"so far\n")
    assert survivors(inside) == []
    assert await out(vm, "echo fine") == "fine\n"


async def test_cancelling_the_call_at_any_moment(vm):
    """At whatever step the call is cancelled, the vm knows how the job ended, and goes on."""
    for steps in range(150):
        tag, done = f"job {steps}", False

        async def start(tag=tag):
            nonlocal done
            await run(vm, f"echo {tag}")
            done = True

        vm.interrupted = None
        async with anyio.create_task_group() as group:
            group.start_soon(start)
            for _ in range(steps):
                if done:
                    break
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        if not done and vm.interrupted is not None:
            assert vm.interrupted.stdout in (b"", f"{tag}\n".encode())
    assert await out(vm, "echo fine") == "fine\n"


async def test_a_callback_that_fails(vm):
    """An error in the caller's own callback reaches the caller, ends the job, and the vm goes on."""
    inside = await namespace(vm)

    def on_output(*_):
        raise LookupError("the caller's own")

    with pytest.raises(BaseException) as caught:
        await run(vm, "echo x; sleep 1000", on_output=on_output)
    error = caught.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, LookupError)
    assert survivors(inside) == []
    assert await out(vm, "echo fine") == "fine\n"


async def test_one_job_at_a_time(vm):
    """A second job is refused while one runs; the first is not disturbed."""
    started, outcomes = anyio.Event(), []

    async def start():
        outcomes.append(await run(vm, "echo a; until [ -e go ]; do :; done", on_output=lambda *_: started.set()))

    async with anyio.create_task_group() as group:
        group.start_soon(start)
        await started.wait()
        with pytest.raises(BadRequest):
            await run(vm, "echo b")
        await vm.write("go", b"")
    assert (outcomes[0].exit_code, outcomes[0].stdout) == (0, b"a\n")


async def test_a_stopped_vm_says_so(vm):
    """A stopped vm raises VmNotAvailable with its id; it never hangs and never runs the code."""
    await vm.stop()
    await vm.stop()
    with pytest.raises(VmNotAvailable, match=vm.id):
        await run(vm, "echo x")


async def test_nothing_of_a_stopped_vm_lives(vm):
    """Stopping ends every process of the vm, whatever runs."""
    inside, started = await namespace(vm), anyio.Event()

    async def start():
        with pytest.raises(VmNotAvailable):
            await run(vm, "sleep 1000 & echo x; wait", on_output=lambda *_: started.set())

    async with anyio.create_task_group() as group:
        group.start_soon(start)
        await started.wait()
        await vm.stop()
    await eventually(lambda: members(inside) == [], "the vm's processes are gone")


async def test_resources_are_told(vm):
    """CPU time and memory of a job are told in the right order of magnitude."""
    code = "import time\nx = bytearray(b'x') * (80 << 20)\nwhile time.process_time() < 0.3: pass"
    outcome = await run(vm, code, "python")
    assert 0.25 <= outcome.cpu_s <= outcome.wall_s * 2 + 1
    assert 80 << 20 <= outcome.memory_peak_bytes < 400 << 20


async def test_code_of_any_size_and_kind(vm):
    """The code reaches the language byte by byte: long, without line end, with odd characters."""
    text = "ü\t'\"\\ \u2028 \U0001f600 \x7f"
    code = "x = " + repr("y" * 900_000) + f"\nprint(len(x), {text!r}, end='')"
    assert await out(vm, code, "python") == f"900000 {text}"


async def test_jobs_with_one_id_after_the_other(vm):
    """An id may come again; nothing of the earlier job's code is left."""
    first = job("echo one")
    assert (await vm.execute(first)).stdout == b"one\n"
    assert (await vm.execute(first)).stdout == b"one\n"
    assert await out(vm, "ls /run /dev/shm") != ""


async def test_nothing_runs_before_it_may(vm):
    """The first instruction waits for `on_ready`; `on_begun` comes after that."""
    order = []

    def ready():
        order.append("ready")

    await vm.execute(job("echo ran > ran"), on_ready=ready, on_begun=lambda: order.append("begun"))
    assert order == ["ready", "begun"]
    assert await out(vm, "cat ran") == "ran\n"


async def test_a_job_that_may_not_run_does_not(vm):
    """What `on_ready` raises goes on to the caller; nothing ran, nothing is left, and the vm goes on."""

    def refuse():
        raise KeyError("no")

    inside = await namespace(vm)
    for _ in range(5):
        with pytest.raises(KeyError):
            await vm.execute(job("echo ran > ran; sleep 1000"), on_ready=refuse)
        assert await out(vm, "ls") == ""
    assert survivors(inside) == []


async def test_a_vm_that_runs_already_is_given(vm, backend):
    """Asked to make a vm of an id that runs, a backend gives that one; it says which of them answer."""
    assert await backend.create(vm.id) is vm
    assert await backend.answers(vm.id)
    assert not await backend.answers("vm_other")


async def test_what_a_vm_takes_is_measured(vm, backend):
    """Processes, memory, CPU and disk of a running vm are the system's own figures, while a job runs, too."""
    found = []
    code = "data = b'1' * (64 << 20); open('f', 'wb').write(data[: 1 << 20]); print(flush=True)\nwhile True: pass"

    async with anyio.create_task_group() as group:
        started = anyio.Event()
        group.start_soon(lambda: vm.execute(job(code, "python"), lambda *_: started.set()))
        await started.wait()
        found.append(await backend.usage(vm.id))
        await vm.cancel()
    busy, resting = found[0], await backend.usage(vm.id)
    assert busy.processes >= 1
    assert 64 << 20 <= busy.memory_bytes < 256 << 20
    assert busy.cpu_percent > 0
    assert (1 << 20) <= busy.disk_bytes < (8 << 20)
    assert busy.files >= 1
    assert 0 < busy.up_s < resting.up_s
    assert resting.memory_bytes < 64 << 20
    assert resting.cpu_percent == 0
    assert await backend.usage("vm_other") is None
