"""Live sessions of a vm: a template, a head for each session, and the checkpoints that it can go back to.

Runs in the supervisor; head.py is the other side. A session's head runs its code and stays; after each execution
it forks a child that waits, frozen: the checkpoint. To go back, everything of the session dies and a checkpoint
forks a new head, as often as one likes. Checkpoints and the template cannot be signalled by the code (guard.py)
nor opened by it (they are undumpable); the kernel tells us when one ends (its handle).

What is the session's own is told by an ipc namespace that all sessions of the vm share and no job has, and which
of them it belongs to by its limit of message queues, which is the session's mark: both go on to children.
"""

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rewindbox.backends.namespace import descriptions, template
from rewindbox.backends.namespace.checkpoints import Budget, Checkpoint, Checkpoints
from rewindbox.backends.namespace.forks import (
    ENDING_S,
    Look,
    Lost,
    Process,
    ask_to_fork,
    born,
    first_to_go,
    fork_of,
    mark_of,
    readable,
    spared,
)
from rewindbox.backends.namespace.growth import PINNED, Growth
from rewindbox.backends.namespace.guard import Guard
from rewindbox.backends.namespace.machine import Machine
from rewindbox.backends.namespace.processes import (
    Spare,
    StillAlive,
    has_ended,
    ipc_ns_of,
    kill_all,
    processes,
    rest,
    signal_each,
    stat_fields,
    stop_all,
)
from rewindbox.backends.namespace.spawner import OWN_THREADS, Spawner

_DEADLY_S = 10.0
_MARK_BYTES = 800 << 10
_STEPS = 32
"""What is used is rounded up to a 32nd of the limit: saying a new limit before each execution takes 0.1 ms."""


@dataclass(eq=False)
class Session:
    """A live session."""

    name: str
    mark: int
    head: Process
    parent: Process
    """Who forked the head, and knows how it ended."""
    tip: str = ""
    """The checkpoint that the head was when it was last at rest; it may be gone."""
    count: int = 0
    """Executions so far."""
    waited_ticks: int = 0
    """CPU time of children that the head had waited for when its last execution ended."""
    may_map: bool = False
    """It has the means to map files, it says."""
    threads: int = 0
    """Python threads besides the first, as the head says; other ones belong to libraries."""
    seen: set[int] = field(default_factory=set)
    """Its processes at the last look at them in this execution: no number is given away again so soon."""
    struck: set[int] = field(default_factory=set)
    """What was killed of it."""
    gone: list[str] = field(default_factory=list)
    """What of that was more than an idle head, in words."""


class Sessions:
    """The sessions of one vm. Nothing is started before the first one is."""

    def __init__(self, machine: Machine, budget: Budget) -> None:
        self.machine = machine
        self.checkpoints = Checkpoints(machine.proc, budget, self._needed, self._forget)
        self.guard: Guard | None = None
        self.live: dict[str, Session] = {}
        self.beside_job = False
        """A job runs, which is no session's."""
        self.limits: dict[str, float] = {}
        """What the kernel counts for each process: fixed for all sessions when the first one begins."""
        self._template: Process | None = None
        self._spawner: Spawner | None = None
        self._ipc = 0
        self._instance = os.urandom(4).hex()
        self._last = 0
        self.look: Look = lambda: _DEADLY_S
        """Looks at what rests, and at `coming`, while one of us forks."""
        self.growth = Growth(PINNED)
        """Of the host, as far as it may be theirs."""
        self._leaving: list[Process] = []
        self._coming: dict[tuple[str, str], socket.socket] = {}

    @property
    def ipc_ns(self) -> int:
        return self._spawner.ipc_ns if self._spawner is not None else -1

    @property
    def coming(self) -> list[Process]:
        """Checkpoints that fork heads."""
        found = (self.checkpoints.find(key) for key in self._coming)
        return [one.process for one in found if one is not None]

    @property
    def leaving(self) -> set[int]:
        """The pids of heads that were killed."""
        return {head.pid for head in self._leaving}

    @property
    def processes(self) -> int:
        """How many there are besides those that the code starts, our own thread included."""
        return len(self.live) + len(self.checkpoints) + 2 if self._template is not None else 0

    @property
    def most_threads(self) -> int:
        """So many of the code's there may be, and the few that come of not knowing how many are ours."""
        return int(self.limits["processes"]) + OWN_THREADS + self.machine.groups.threads

    def state(self) -> dict[str, str]:
        """What a point says of sessions: name -> id of the checkpoint."""
        return {name: session.tip for name, session in self.live.items() if session.tip}

    def begin(self, name: str, order: dict[str, Any]) -> Session:
        """The live session of that name; made when it is not there. Raises Lost and Changed."""
        if name not in self.live:
            parent = self._ready_template(order)
            self._last += 1
            head = template.head_of(parent)
            self.live[name] = Session(name, _MARK_BYTES - self._last, head, parent)
            head.limit(resource.RLIMIT_MSGQUEUE, self.live[name].mark, self.live[name].mark)
            first_to_go(head)
            self._bound(head)
        return self.live[name]

    def _ready_template(self, order: dict[str, Any]) -> Process:
        """A python that has loaded head.py and notebook.py, and nothing else; 15 ms, once in a vm's life."""
        if self._template is not None and self._template.is_alive:
            return self._template
        self.guard = self.guard or Guard(self.machine.proc)
        self.end_all()
        self.limits = order["limits"]
        with self.guard.births:
            self._template, self._spawner = template.start(self.machine, self.guard, order)
            self.guard.protected.add(self._template.pid)
        self._ipc = os.fstat(self._spawner.ipc_ns).st_ino
        return self._template

    def _bound(self, head: Process, *, beside: int | None = None) -> None:
        """Its soft limit: what the code may have, and `beside`, None: what is ours. The hard one is above."""
        most = self.most_threads + (self.processes - 1 if beside is None else beside)
        head.limit(resource.RLIMIT_NPROC, most, self.most_threads + template.BESIDE)

    def restrict(self, memory_bytes: int) -> None:
        """An execution may add so much to what sessions and checkpoints have in memory together.

        Not less: what it writes to is no longer shared with a checkpoint, and counts twice then.
        """
        group, step = self.machine.groups.sessions, memory_bytes // _STEPS + 1
        used_bytes = -(-group.used_bytes() // step) * step
        group.restrict(used_bytes + memory_bytes, int(self.limits["processes"]) + template.BESIDE)

    def checkpoint(self, session: Session) -> None:
        """Fork what the head is now; where that fails, its point has files only. Then keep to the budget."""
        assert self.guard is not None
        try:
            self._bound(session.head, beside=template.BESIDE)
            with self.guard.births, spared(session.head):
                process = fork_of(session.head, b"C", self.look)
                self.guard.protected.add(process.pid)
        except Lost:
            readable([session.head.handle], ENDING_S)  # it may be on its way out: then that is known from now on
            return
        process.signal(signal.SIGSTOP)  # it waits anyway; but nothing stops a liar from saying that it is one
        key = session.name, session.tip
        self.checkpoints.add(key, Checkpoint(process, session.mark, session.count, session.may_map, self.growth.known))
        self._bound(session.head)

    def new_tip(self, session: Session) -> None:
        """An execution has ended: what the session is now will be the checkpoint of this id."""
        self._last += 1
        session.count += 1
        session.seen.clear()
        session.tip = f"{self._instance}.{self._last}"

    def _needed(self) -> tuple[set[str], list[Process]]:
        """The tips of live sessions, and the parents of heads, which know how a head ended."""
        return {session.tip for session in self.live.values()}, [session.parent for session in self.live.values()]

    def _forget(self, pid: int) -> None:
        if self.guard is not None:
            self.guard.protected.discard(pid)

    def go_back(self, name: str, tip: str) -> bool:
        """Make the checkpoint the session's head, once more; False when it is not there."""
        self.send_for({name: tip})
        return bool(self.arrive())

    def send_for(self, wanted: dict[str, str]) -> None:
        """Have the checkpoints of these sessions fork heads; `arrive` waits for them."""
        for name, tip in wanted.items():
            found = self.checkpoints.find((name, tip))
            if found is not None:
                found.process.signal(signal.SIGCONT)
                with contextlib.suppress(Lost):
                    self._coming[name, tip] = ask_to_fork(found.process)

    def arrive(self) -> list[str]:
        """The sessions whose heads have come."""
        names = []
        while self._coming:
            (name, tip), control = next(iter(self._coming.items()))
            found = self.checkpoints.find((name, tip))
            assert found is not None  # nothing is given up meanwhile
            with contextlib.suppress(Lost):
                head = born(control, found.process, self.look)
                self.growth.become(found.growth)
                self.live[name] = Session(name, found.mark, head, found.process, tip, found.count, found.may_map)
                first_to_go(head)
                self._bound(head)
                names.append(name)
            found.process.signal(signal.SIGSTOP)
            del self._coming[name, tip]
        return names

    def leave(self) -> list[str]:
        """Kill all sessions; says what was more than idle heads. Where nothing was, `gone` waits for their end."""
        notes = []
        if self._has_company({session.head.pid for session in self.live.values()}):
            notes = [f"{name}: {text}" for name, s in self.live.items() for text in self._company(s, self.members(s))]
        for session in self.live.values():
            session.head.signal(signal.SIGKILL)
            self._leaving.append(session.head)
        self.live.clear()
        if notes:
            self.kill_strays()
        return notes

    def gone(self) -> None:
        """Wait for the heads that were killed. Raises StillAlive."""
        for head in self._leaving:
            if not readable([head.handle], _DEADLY_S):
                raise StillAlive("a session survives SIGKILL")
            head.close()
        self._leaving.clear()

    def kill_strays(self) -> None:
        """Kill what belongs neither to us nor to a live session that has only its head."""
        heads = {session.head.pid for session in self.live.values()}
        if self.guard is None or self._leaving or self._has_company(heads):
            protected = self.guard.protected if self.guard is not None else set()
            kill_all(self.machine.proc, lambda pid: pid in protected or pid in heads)

    def owns(self, pid: int) -> bool:
        """Whether a process (as the vm numbers it) is a session's, and none that a job has started."""
        if self.guard is None:
            return False
        return pid in self.guard.protected or ipc_ns_of(self.machine.proc, pid) == self._ipc

    def members(self, session: Session) -> list[int]:
        """The head, and what its code has started."""
        proc, is_other = self.machine.proc, self._others(session)
        session.seen = {
            pid for pid in processes(proc) if pid in session.seen or not (is_other(pid) or has_ended(proc, pid))
        }
        return list(session.seen)

    def _others(self, session: Session) -> Spare:
        """Tells of a process whether it is none of this session's: 0.05 ms where it is new, and others live.

        Where no other session lives, and no job does, all that runs in the vm beside ours is this one's.
        """
        assert self.guard is not None
        if len(self.live) == 1 and not self.beside_job:
            return self.guard.protected.__contains__
        known = {other.head.pid for other in self.live.values()} | self.guard.protected

        def is_other(pid: int) -> bool:
            if pid == session.head.pid or (pid in session.seen and pid not in known):
                return False
            return pid in known or not self.owns(pid) or mark_of(self.machine.proc, pid) != session.mark

        return is_other

    def strike(self, session: Session) -> None:
        """SIGKILL to everything of a session but its checkpoints, stopped before; `end` waits for it. Idempotent."""
        if not session.struck:
            proc = self.machine.proc
            rested = self.checkpoints.pids if len(self.live) == 1 else None
            session.struck = stop_all(proc, self._others(session), rested)
            session.gone = self._company(session, session.struck)
            signal_each(proc, list(session.struck), signal.SIGKILL)

    def end(self, session: Session) -> list[str]:
        """Kill everything of a session but its checkpoints; says what was more than an idle head."""
        self.strike(session)
        kill_all(self.machine.proc, self._others(session), session.struck)
        session.head.close()
        self.live.pop(session.name, None)
        if not self.live:
            self.growth.become({})
        return session.gone

    def end_all(self) -> None:
        """Kill every session and checkpoint."""
        for session in list(self.live.values()):
            self.end(session)
        for key in self.checkpoints:
            self.checkpoints.drop(key)

    def _company(self, session: Session, members: Iterable[int]) -> list[str]:
        return descriptions.of_company(self.machine.proc, session.head.pid, session.threads, members)

    def open_files(self) -> list[str]:
        """What sessions have open for writing, in words: after going back, that is no longer the file of this name."""
        proc, live = self.machine.proc, self.live.values()
        return [text for s in live for text in descriptions.of_open_files(proc, s.head.pid, s.name)]

    @contextlib.contextmanager
    def quiet(self) -> Iterator[set[str] | None]:
        """Nothing of a session runs meanwhile but idle heads: what they left running could write.

        Gives the files that are mapped for writing, None where that may be any. Reading maps takes 0.1 ms: not where
        there cannot be one.
        """
        proc, idle = self.machine.proc, {session.head.pid for session in self.live.values()}
        running = [pid for pid in processes(proc) if self._may_run(pid, idle)] if self._has_company(idle) else []
        rest(proc, running)
        mapping = {session.head.pid for session in self.live.values() if session.may_map} | set(running)
        try:
            found = [descriptions.mapped_files(proc, pid) for pid in mapping]
            yield None if None in found else {path for paths in found for path in paths or ()}
        finally:
            signal_each(proc, running, signal.SIGCONT)

    def _has_company(self, idle: set[int]) -> bool:
        """Whether there is anything besides us and these, or one of these has threads.

        Everything that is there is looked at: what code leaves may be a child of what a session goes back to.
        """
        if self.guard is None:
            return False
        proc, known = self.machine.proc, self.guard.protected | idle
        if any(stat_fields(proc, pid)[17:18] != [b"1"] for pid in idle):
            return True
        return any(not has_ended(proc, pid) for pid in processes(proc) if pid not in known)

    def _may_run(self, pid: int, idle: set[int]) -> bool:
        assert self.guard is not None
        if pid in self.guard.protected:
            return False
        fields = stat_fields(self.machine.proc, pid)
        return bool(fields) and fields[0] not in (b"T", b"Z") and (fields[17] != b"1" or pid not in idle)

    def enter_folders(self) -> None:
        """The vm stands on other files: idle heads go back into their working directories there."""
        for session in self.live.values():
            with contextlib.suppress(Lost):
                session.head.tell(b"D", [])
