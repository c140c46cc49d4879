"""Attacks on those who hold a vm: on what they are told, on their descriptors, and on children before their exec."""
# ruff: noqa: E501  programs that are run inside stand here as they are

import os
from pathlib import Path

import pytest

import skeletons
from conftest import job, members, namespace, out, remove, run, status_of, until
from defences import without
from rewindbox import backends
from rewindbox.attacks.sessions import SESSIONS
from rewindbox.attacks.trial import attempt

pytestmark = pytest.mark.anyio

FORGED = """
import os, socket
def forge():
    for number in range(3, 1024):
        for message in (b"0 0 0", b"ready", b'{"status": 0, "why": null}'):
            try: os.write(number, message)
            except OSError: pass
"""
WATCHER = """
import os
if os.fork() == 0:
    scans = os.open("scans", os.O_CREAT | os.O_WRONLY)
    found = os.open("found", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    count, own = 0, {os.getpid(), os.getppid()}
    while True:
        for pid in range(2, 1000):
            if pid in own: continue
            for name in ("mem", "environ", "cmdline"):
                try:
                    opened = os.open(f"/proc/{pid}/{name}", os.O_RDONLY)
                    words = open(f"/proc/{pid}/cmdline", "rb").read()
                    os.close(opened)
                    if b"launcher.main" in words: os.write(found, b"%s\\n" % name.encode())
                except OSError: pass
        count += 1
        os.pwrite(scans, b"%d" % count, 0)
"""
STOPPER = """
import os, signal, time
if os.fork() == 0:
    while True:
        me = os.fork()
        if me == 0: os._exit(0)
        os.waitpid(me, 0)
        for pid in range(me + 1, me + 40):
            try: os.kill(pid, signal.SIGSTOP)
            except OSError: pass
"""


def in_session(code: str, **limits):
    return job(code, "python", session="main", **limits)


def supervisor_of(inside: str) -> int:
    """Who started pid 1 of a vm."""
    (first,) = [pid for pid in members(inside) if status_of(pid)["NSpid"].split()[-1] == "1"]
    return int(status_of(first)["PPid"])


async def test_an_exit_code_cannot_be_forged(vm):
    """How a program ended is what the host's wait says, whatever the program writes to whom."""
    outcome = await run(vm, FORGED + "forge()\nprint('exit 0')\nos._exit(7)", "python")
    assert (outcome.ended, outcome.exit_code) == ("exit", 7)
    outcome = await vm.execute(in_session(FORGED + "os.closerange(900, 1024)\nos._exit(7)"))
    assert (outcome.ended, outcome.exit_code, outcome.lost_session) == ("exit", 7, True)
    assert await out(vm, "echo fine") == "fine\n"


async def test_a_session_that_forges_its_answer(vm):
    """A session that answers in another way than by one line of numbers is ended; the next one is as good as new."""
    for message in ('b"0 0 0 0"', 'b"-1 0 0"', 'b"999 0 0"', 'b"0 0 0\\n"', 'b"x" * 50_000', 'b""', 'b"0 0 7"'):
        spoken = f"\nfor n in range(900, 1024):\n try: os.write(n, {message}) or os.close(n)\n except OSError: pass\nwhile True: pass"
        outcome = await vm.execute(in_session(FORGED + spoken, wall_s=20))
        assert (outcome.ended, outcome.lost_session) == ("killed", True), message
        outcome = await vm.execute(in_session("print('fine')"))
        assert (outcome.ended, outcome.stdout) == ("exit", b"fine\n")


@pytest.mark.parametrize("attack", [attack for attack in SESSIONS if attack.is_ended], ids=lambda attack: attack.id)
async def test_descriptors_sent_to_a_supervisor(vm, canaries, attack):
    """Whatever code sends to the supervisor of its vm, that holds no descriptor more than before."""
    held = supervisor_of(await namespace(vm))

    async def descriptors() -> int:
        """Without the two that it has for each checkpoint: a handle and a socket."""
        kept = len(await vm.live_checkpoints([]))
        return len(os.listdir(f"/proc/{held}/fd")) - 2 * kept

    assert (await attempt(vm, attack, canaries, session="main")).held
    assert await out(vm, "echo fine") == "fine\n"
    before = await descriptors()
    for _ in range(5):
        assert (await attempt(vm, attack, canaries, session="main")).held
    assert await out(vm, "echo fine") == "fine\n"
    assert await descriptors() <= before + 2  # a spawner, made ready for the next job, has some


def waits_at_the_gate() -> bool:
    """Whether a child of a supervisor is there that has not yet become its job."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        numbers = status_of(int(pid)).get("NSpid", "").split()
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if len(numbers) > 2 and numbers[-1] != "1" and b"launcher.main" in words:
            return True
    return False


async def watched_children(vm, folder: Path) -> set[str]:
    """What code of a session has opened of children that had not become their job yet."""
    assert (await vm.execute(in_session(WATCHER))).ended == "exit"

    def scans() -> int:
        texts = [path.read_text() for path in folder.glob(f"{vm.id}/u*/home/agent/scans")]
        return max((int(text) for text in texts if text), default=0)

    def wait_until_looked_at() -> None:
        until(waits_at_the_gate, "the job's process waits to be let go")
        begun = scans()
        until(lambda: scans() > begun + 2, "the code has looked at all pids")

    for _ in range(3):
        outcome = await vm.execute(job("true"), on_ready=wait_until_looked_at)
        assert outcome.ended == "exit"
    found = (await vm.read("found", 1 << 20)).decode().split()
    return set(found)


@pytest.mark.alone
async def test_children_before_their_exec(vm, vms_folder):
    """A child that still has the supervisor's memory is not to be seen, let alone opened, by code of its vm."""
    assert await watched_children(vm, vms_folder) == set()


@pytest.mark.alone
@pytest.mark.parametrize(("defence", "opened"), [("hidepid", "cmdline"), ("effective set until exec", "mem")])
async def test_children_before_their_exec_without(anyio_backend, tmp_path, defence, opened):
    """Without what hides them, or with capabilities given up too early, the same code does open them."""
    folder = tmp_path / "vms"
    with without([defence]):
        backend = backends.load("namespace", str(skeletons.lend(folder)))
        vm = await backend.create("vm_weak")
    try:
        assert opened in await watched_children(vm, folder)
    finally:
        await backend.close()
        remove(folder, was_weak=True)


async def test_children_that_are_stopped_before_their_exec(vm):
    """Code that stops every next process delays jobs until their time is up, no longer, and holds up nobody else."""
    assert (await vm.execute(in_session(STOPPER))).ended == "exit"
    for _ in range(4):
        outcome = await run(vm, "true", wall_s=1)
        assert outcome.ended in ("exit", "timeout", "killed", "signal"), outcome
    assert await vm.list(".") is not None
    await vm.end_session("main", job("", "python").language)
    assert await out(vm, "echo fine") == "fine\n"


WAITER = """
import os, signal
if os.fork() == 0:
    gate = os.open("/run/code/.gate", os.O_RDONLY | os.O_NONBLOCK)
    signal.pause()
"""
"""Somebody is always at the gate, who is no child of the supervisor's."""


async def test_who_waits_at_the_gate_holds_up_nobody(vm):
    """A job goes through whoever else has the gate open: it stays open until the job is through."""
    assert (await vm.execute(in_session(WAITER))).ended == "exit"
    assert (await vm.execute(in_session("import time; time.sleep(0.1)"))).ended == "exit"
    for _ in range(5):
        assert (await run(vm, "true", wall_s=5)).ended == "exit"
