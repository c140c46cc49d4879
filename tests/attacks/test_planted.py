"""What code of a session leaves where nobody looks: below what the session goes back to, without a first thread."""

import os
import secrets

import pytest

import skeletons
from conftest import boot_after, eventually, job, out, run, status_of
from rewindbox import backends
from rewindbox.backends.namespace import starting
from rewindbox.errors import ExecutionFailed, RewindboxError
from rewindbox.languages import LANGUAGES

pytestmark = pytest.mark.anyio
BELOW_A_CHECKPOINT = """
import ctypes, os, signal
planted, libc = [], ctypes.CDLL(None)
def plant():
    if not planted:
        planted.append(1)
        if os.fork() == 0:
            libc.prctl(15, {name!r}.encode())
            signal.pause()
os.register_at_fork(after_in_child=plant)
"""
"""The checkpoint that is forked after this block has a child before anybody knows that it is there."""
WITHOUT_A_FIRST_THREAD = """
import ctypes, os, platform, signal, threading
if os.fork() == 0:
    open("/proc/self/comm", "w").write({name!r})
    threading.Thread(target=signal.pause).start()
    ctypes.CDLL(None).syscall({{"x86_64": 60, "aarch64": 93}}[platform.machine()], 0)
"""
BLIND = {
    BELOW_A_CHECKPOINT: "sessions.Sessions._has_company = lambda *_: False",
    WITHOUT_A_FIRST_THREAD: """
def first_threads_only(proc, pid):
    try: return os.stat(f"{pid}/ns/ipc", dir_fd=proc).st_ino
    except OSError: return 0
sessions.ipc_ns_of = first_threads_only""",
}
"""What makes a supervisor look only where honest processes are."""


@pytest.fixture(params=["watchful", "blind"])
async def vm_of(request, tmp_path, monkeypatch):
    """Makes a vm whose supervisor looks for this program, or does not; and says which."""
    made = backends.load("namespace", str(skeletons.lend(tmp_path / "vms")))
    is_blind = request.param == "blind"

    async def make(code: str):
        if is_blind:
            lines = f"import os; from rewindbox.backends.namespace import sessions\n{BLIND[code]}"
            monkeypatch.setattr(starting, "_BOOT", boot_after(lines))
        return await made.create("vm_planted"), is_blind

    yield make
    await made.close()


def named(name: str) -> bool:
    """Whether the host has a process of that name of which a thread lives."""
    found = [status_of(pid) for pid in os.listdir("/proc") if pid.isdigit()]
    return any(one.get("Name") == name and (one["State"][0] not in "ZX" or one["Threads"] > "1") for one in found)


async def test_what_is_below_a_checkpoint_does_not_survive_going_back(vm_of):
    """A child that code had the checkpoint fork is ended with the session; a blind supervisor leaves it."""
    vm, is_blind = await vm_of(BELOW_A_CHECKPOINT)
    name = f"left{secrets.token_hex(4)}"
    await run(vm, "x = 1", "python", session="s")
    before = (await vm.take_point()).state
    await run(vm, BELOW_A_CHECKPOINT.format(name=name), "python", session="s")
    await vm.take_point()
    await eventually(lambda: named(name), "the checkpoint has its child")
    gone = (await vm.go_to(before)).gone
    assert named(name) == is_blind
    assert is_blind or any(name in text for text in gone)
    await vm.stop()


async def test_a_process_without_a_first_thread_ends_with_its_session(vm_of):
    """Where another session lives on, too; a supervisor that asks only first threads takes it for somebody else's."""
    vm, is_blind = await vm_of(WITHOUT_A_FIRST_THREAD)
    name = f"left{secrets.token_hex(4)}"
    await run(vm, "x = 1", "python", session="other")
    await run(vm, WITHOUT_A_FIRST_THREAD.format(name=name), "python", session="s")
    await vm.take_point()
    await eventually(lambda: named(name), "it is there")
    await run(vm, "x = 1", "python", session="s")  # what was seen in an execution is remembered in that one only
    await vm.end_session("s", LANGUAGES.find("python"))
    assert named(name) == is_blind
    await vm.stop()


IN_MEMORY = """
import ctypes
libc = ctypes.CDLL(None)
libc.shmget(4242, 4096, 0o1600), libc.msgget(4242, 0o1600), libc.semget(4242, 1, 0o1600)
"""
FOUND = "print(libc.shmget(4242, 0, 0), libc.msgget(4242, 0), libc.semget(4242, 0, 0))"


async def test_what_system_v_has_does_not_survive_going_back(vm):
    """Segments, queues and semaphores of sessions are no more there than files in memory are."""
    await run(vm, "import ctypes; libc = ctypes.CDLL(None)", "python", session="s")
    before = (await vm.take_point()).state
    await run(vm, IN_MEMORY, "python", session="s")
    assert await out(vm, FOUND, "python", session="s") == "0 0 0\n"
    await vm.take_point()
    await vm.go_to(before)
    assert await out(vm, FOUND, "python", session="s") == "-1 -1 -1\n"


PLANTED_CODE = 'import threading\\nthreading.Thread(target=lambda: None).start(); open("/tmp/ran", "w").close()\\n'
PLANTS = {
    "modules": ("for n in json ctypes traceback site; do printf '{}' > /$n.py; printf '{}' > ~/$n.py; done", None),
    "start": (
        "d=$(python3 -c 'import site; print(site.getusersitepackages())'); mkdir -p $d;"
        " printf '{}' > $d/usercustomize.py; printf 'import usercustomize' > $d/a.pth;"
        " printf '{}' > ~/sitecustomize.py; printf '{}' > /sitecustomize.py",
        None,
    ),
    "debian's start": (
        "v=$(python3 -c 'import sys; print(*sys.version_info[:2], sep=\".\")'); mkdir -p /etc/python$v;"
        " printf '{}' > /etc/python$v/sitecustomize.py",
        "sitecustomize.py",
    ),
    "preload": ("echo /tmp/some.so > /etc/ld.so.preload", "/etc/ld.so.preload"),
    "libraries": ("mkdir /new; mv /lib /lib-; ln -s new/lib /lib; mkdir -p /new; ln -s /usr/lib /new/lib", "/lib"),
}
"""What code writes before the first session begins, and what the session then says was changed; None: it begins."""


@pytest.mark.parametrize("name", PLANTS)
async def test_nothing_of_the_vm_is_loaded_into_what_outlives_a_rollback(backend, vm, name):
    """A session's template takes no code from the vm's files: that does not run, or no session begins for now."""
    point = (await vm.take_point()).state
    plant, told = PLANTS[name]
    await run(vm, plant.replace("{}", PLANTED_CODE))
    order = job("print(6 * 7)", "python", session="s")
    if told is None:
        assert await out(vm, "rm -f /tmp/ran; ls /tmp") == ""
        assert (await vm.execute(order)).stdout == b"42\n"
        assert await out(vm, "ls /tmp") == ""
    else:
        with pytest.raises(RewindboxError, match=told):
            await vm.execute(order)
    await vm.go_to(point)
    assert (await vm.execute(job("print(6 * 7)", "python", session="s"))).stdout == b"42\n"


@pytest.mark.parametrize("breaks", ["rm -f /lib /lib64", "mv /lib /lib64 /tmp || true"])
async def test_a_vm_without_its_loader_says_so(backend, vm, breaks):
    """What took its own loader away is told that, and what helps; and it does help."""
    point = (await vm.take_point()).state
    await run(vm, breaks)
    with pytest.raises(ExecutionFailed, match=r"was changed in this vm \(/lib.*\); roll back"):
        await vm.execute(job("true"))
    await vm.go_to(point)
    assert await out(vm, "echo 1") == "1\n"


async def test_run_and_shm_are_as_they_were(vm):
    """Modes and attributes of what an execution has in memory are not the next one's."""
    look = 'stat -c %a /run /dev/shm; python3 -c \'import os; print(os.listxattr("/run"), os.listxattr("/dev/shm"))\''
    before = await out(vm, look)
    change = """import os
for folder in "/run", "/dev/shm":
    try: os.setxattr(folder, "user.a", b"kept")
    except OSError: pass  # this kernel keeps none in memory
    os.chmod(folder, 0)"""
    await run(vm, change, "python")
    assert await out(vm, look) == before
