"""One execution in a live session, watched. Runs in the supervisor.

The head has its order while the holder still writes down that the execution begins, and waits for the holder itself,
at an event descriptor that comes along: of four changes of process between that word and the code one is left. A head
that does not wait is a head whose earlier code has been hostile, and which needs no order of ours to run something.
"""

import math
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from rewindbox.backends.namespace.forks import ENDING_S, readable
from rewindbox.backends.namespace.machine import Machine
from rewindbox.backends.namespace.processes import processes, stat_fields
from rewindbox.backends.namespace.replies import memory_file
from rewindbox.backends.namespace.sessions import Session, Sessions
from rewindbox.backends.namespace.watch import TICK, Disk, Watched

_INLINE_BYTES = 90 * 1024
_PAGE = os.sysconf("SC_PAGE_SIZE")
_RESULT_BYTES = 64
_CPUS = os.cpu_count() or 1
_DEADLY_S = 10.0
_RESULT = re.compile(rb"(\d{1,3}) (\d{1,6}) ([01])")
"""Exit code, how many python threads there are besides the first, and whether it can map files."""


class Turn(Watched):
    """One running execution of a session. It ends when the head says so, or when the head ends."""

    def __init__(
        self, machine: Machine, disk: Disk, limits: dict[str, float], sessions: Sessions, session: Session
    ) -> None:
        super().__init__(machine, disk, limits, machine.groups.sessions, lambda: sessions.ipc_ns, sessions.growth)
        self.session, self._sessions = session, sessions
        self.most_threads = sessions.most_threads
        self.result, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._clock = ~session.head.outer << 3 | 2  # CPU time of that process, see clock_getcpuclockid(3)
        self.told: bool | None = None
        """Whether the holder said that it may go; None: it has said nothing yet."""
        self._head_before = 0.0
        self._others_before: float | None = None

    def start(self, code: bytes, streams: list[int]) -> None:
        """`streams` (output, error, displays, what it waits for) are closed. Raises Lost."""
        descriptors = [*streams[:3], self._theirs.detach(), *streams[3:]]
        try:
            name = b"R%s %d\n" % (self.session.name.encode(), self.session.count + 1)
            if len(code) > _INLINE_BYTES:
                descriptors.append(memory_file(code))
                code = b""
            self.session.head.signal(signal.SIGCONT)  # other code of the vm may have stopped it
            self.deadline = math.inf  # its time counts from the holder's word
            self._head_before = self._head_cpu_s()
            self.session.head.tell(name + code, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def hear(self, word: Callable[[], float | None]) -> None:
        """Take the holder's word, unless it is known. The head has it by itself, so it need not wake us."""
        if self.told is None:
            said_at = word()
            self.told = said_at is not None
            self.begin(said_at)

    def members(self) -> list[int]:
        """See `Watched.members`."""
        return self._sessions.members(self.session)

    def cpu_s(self, spent_ticks: int) -> float:
        """See `Watched.cpu_s`. What other processes of the session used before we first looked does not count."""
        head = self._head_cpu_s()
        others = max(spent_ticks / TICK - head, 0.0)
        if self._others_before is None:
            self._others_before = others
        spent_s = head - self._head_before + max(others - self._others_before, 0.0)
        return max(spent_s, self.counted_s()) if len(self._sessions.live) == 1 else spent_s

    def _head_cpu_s(self) -> float:
        try:
            return time.clock_gettime(self._clock)
        except OSError:  # it has ended, and its parent has looked
            return self._head_before

    def kill(self) -> None:
        """SIGKILL to the head and all that its code has started; `reap` does the rest."""
        self._sessions.strike(self.session)

    def reap(self) -> dict[str, Any]:
        """Call when there is a result, or the head has ended: say how it was. A session without a head is ended."""
        wall_s = self.elapsed_s()
        self.let_go()
        is_alive = self.session.head.is_alive
        self.ran_out_of_memory()
        status = self._said() if is_alive and self.why is None else None
        fields = stat_fields(self.machine.proc, self.session.head.pid)
        ticks, waited = (sum(map(int, fields[at : at + 2])) if len(fields) > 14 else 0 for at in (11, 13))
        head_s = (self._head_cpu_s() if is_alive else ticks / TICK) - self._head_before
        # Who has counted knows what they have used in this execution; those that end in one that is over before the
        # first look may have begun in another.
        has_looked = self._others_before is not None
        of_children_s = 0.0 if has_looked else min(max(waited - self.session.waited_ticks, 0) / TICK, _CPUS * wall_s)
        self.session.waited_ticks = waited
        reply: dict[str, Any] = {
            "why": self.why,
            "wall_s": wall_s,
            "cpu_s": max(head_s + of_children_s, self.spent_s, 0.0),
            "memory_peak_bytes": max(self.peak_bytes, int(fields[21]) * _PAGE if len(fields) > 21 else 0),
        }
        if status is not None:
            self._sessions.new_tip(self.session)
            return {**reply, "status": status}
        if self.session.head.is_alive and self.why is None:
            reply["why"] = "broken"
        status = self._wait()
        reply["ended"] = self._sessions.end(self.session)
        return {**reply, "status": status, "session": "lost"}

    def _said(self) -> int | None:
        """The status that the head claims, as wait(2) would give it; None: it breaks the rules."""
        try:
            message = self.result.recv(_RESULT_BYTES, socket.MSG_DONTWAIT)
        except OSError:
            return None
        if not message:  # a process closes its descriptors a moment before it has ended
            readable([self.session.head.handle], ENDING_S)
        found = _RESULT.fullmatch(message)
        if found is None or int(found[1]) > 255:
            return None
        self.session.threads, self.session.may_map = int(found[2]), found[3] == b"1"
        return int(found[1]) << 8

    def _wait(self) -> int:
        """How the head ended, as its parent would be told; its parent leaves that to us."""
        self.kill()
        readable([self.session.head.handle], _DEADLY_S)
        fields = stat_fields(self.machine.proc, self.session.head.pid)
        return int(fields[49]) if len(fields) > 49 and fields[0] == b"Z" else signal.SIGKILL

    def close(self) -> None:
        """When its answer has gone out."""
        self._memory.note()
        self._memory.settle(processes(self.machine.proc))
        self.result.close()
        self._theirs.close()
