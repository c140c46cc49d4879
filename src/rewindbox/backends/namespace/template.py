"""Starts a vm's template: a python that has loaded head.py and notebook.py, and forks the heads of sessions."""

import contextlib
import os
import socket
from typing import Any

from rewindbox.backends.namespace import loading
from rewindbox.backends.namespace.forks import Lost, Process, fork_of, pair
from rewindbox.backends.namespace.guard import Guard
from rewindbox.backends.namespace.machine import MEMORY, Machine
from rewindbox.backends.namespace.processes import status
from rewindbox.backends.namespace.spawner import Spawner

BESIDE = 128
"""Heads and checkpoints that the limit of processes leaves room for."""
PLACE = f"{MEMORY}/code/.session"
_SOURCES: dict[str, bytes] = {}
"""Read when this is loaded: later the supervisor sees no more of the host than the vm needs."""
for _name in ("head.py", "notebook.py"):
    with open(os.path.join(os.path.dirname(__file__), _name), "rb") as _file:
        _SOURCES[_name] = _file.read()
_COMMAND = ("python3", "-c", "exec(open('/run/code/.session/template').read())")
_BOOT = """
import builtins, ctypes, gc, json, linecache, marshal, os, site, sys, traceback
def compiled(*names):
    reading, writing = os.pipe()
    if not os.fork():
        with open(writing, "wb") as told:
            for name in names:
                with open("/run/code/.session/" + name) as file:
                    marshal.dump(compile(file.read(), name, "exec"), told)
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as told:
        codes = [marshal.load(told) for _ in names]
    os.wait()
    return codes
def load(code):
    names = {"__builtins__": dict(vars(builtins)), "__name__": "rewindbox_session"}
    exec(code, names)
    return names
head, notebook = map(load, compiled("head.py", "notebook.py"))
for name in [name for name in os.environ if name.startswith("REWINDBOX_HELD_")]:
    os.environ[name[15:]] = os.environ.pop(name)
os.chdir("/")
process = head["Process"](notebook["Notebook"]().run)
site.USER_BASE = site.USER_SITE = None
sys.path[1:1] = [os.path.abspath(place) for place in os.environ.get("PYTHONPATH", "").split(":") if place]
if site.ENABLE_USER_SITE and os.path.isdir(site.getusersitepackages()):
    before = (n for n, place in enumerate(sys.path) if "-packages" in place)
    sys.path.insert(next(before, len(sys.path)), site.USER_SITE)
del compiled, load, head, notebook
gc.collect()
gc.freeze()
getattr(ctypes.CDLL(None), "malloc_trim", id)(0)
process.be_template()
process.be_head()
"""
"""What every fork has a copy of is what this leaves in memory. So a child compiles: by ourselves, that would leave
1.4 MiB of 7 behind, between what lives. And what glibc keeps for later goes back (musl has no such function).

It outlives every rollback, so that it may load nothing that the code wrote: until all is loaded it is in a folder of
the host, with a home there, and what names folders of the vm is held back. `*.pth` and `usercustomize` of a vm's home
are not executed in sessions."""
_HELD = ("HOME", "PYTHONPATH", "PYTHONUSERBASE", "PYTHONHOME")
_READ_ONLY = "/usr"


def start(machine: Machine, guard: Guard, order: dict[str, Any]) -> tuple[Process, Spawner]:
    """The template, and what started it, whose ipc namespace all sessions are in. 15 ms. Raises Lost and Changed."""
    loading.check(machine, "no session can begin")
    ours, theirs = pair()
    try:
        spawner, pid = _spawned(machine, guard, order, theirs)
        return Process(ours, os.pidfd_open(pid), pid, int(dict(status(pid))["NSpid"][-1])), spawner
    except BaseException:
        ours.close()
        raise


def head_of(template: Process) -> Process:
    """A new head. Raises Lost: also where the template, a python, has not come so far as to listen."""
    try:
        return fork_of(template)
    except Lost as error:
        remedy = "see whether python starts in an execution of its own"
        raise Lost(f"no session can begin ({error}): {remedy}") from error


def _spawned(machine: Machine, guard: Guard, order: dict[str, Any], control: socket.socket) -> tuple[Spawner, int]:
    _place_sources()
    woken, wake = os.pipe2(os.O_CLOEXEC)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        spawner = Spawner(machine, wake, machine.groups.sessions, guard, is_for_job=False)
        streams = [control.detach(), os.dup(null), os.dup(null)]
        is_ready = spawner.start({**order, **_of_the_host(order["environment"])}, streams, beside=BESIDE)
        is_through = is_ready and spawner.let_go()
        if not is_through:
            spawner.give_up()
        os.read(woken, 1)
        if spawner.pid is None or not is_through:
            spawner.close()
            raise Lost(f"no session can begin: {spawner.failure or 'the host has no room or no time for its process'}")
        return spawner, spawner.pid
    finally:
        for number in (woken, wake, null):
            os.close(number)


def _of_the_host(environment: dict[str, str]) -> dict[str, Any]:
    held = {f"REWINDBOX_HELD_{name}" if name in _HELD else name: value for name, value in environment.items()}
    return {"command": _COMMAND, "folder": _READ_ONLY, "environment": {**held, "HOME": _READ_ONLY}}


def _place_sources() -> None:
    """What the template loads, where the vm sees it read-only."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(PLACE, 0o755)
    for name, text in (("template", _BOOT.encode()), *_SOURCES.items()):
        with open(f"{PLACE}/{name}", "wb") as target:
            target.write(text)
