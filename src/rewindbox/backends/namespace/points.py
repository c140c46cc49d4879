"""What a vm is, and was: its files and its sessions, taken and put back together. Runs in the supervisor."""

import time
from typing import Any

from rewindbox.backends.namespace import scratch
from rewindbox.backends.namespace.layers import Layers
from rewindbox.backends.namespace.replies import Reply
from rewindbox.backends.namespace.sessions import Session, Sessions
from rewindbox.backends.namespace.watch import Disk

_REST_MS = 1.5
"""So long after its turn a session's checkpoint waits, if nothing is asked of us: whoever has the answer needs the
processor to write it down."""


class Points:
    """The points of one vm. No job runs meanwhile."""

    def __init__(self, layers: Layers, sessions: Sessions, disk: Disk) -> None:
        self._layers, self._sessions, self._disk = layers, sessions, disk
        self.resting: Session | None = None
        """Of this one a checkpoint is due."""
        self._rests_since = 0.0

    def rest(self, session: Session) -> None:
        """Its turn is over: its checkpoint is due, soon; at once where threads of it go on meanwhile."""
        self.resting, self._rests_since = session, time.monotonic()
        if session.threads:
            self.checkpoint()

    def rest_ms(self) -> float:
        """How long the checkpoint that is due may wait."""
        return max(_REST_MS - (time.monotonic() - self._rests_since) * 1000, 0.0)

    def checkpoint(self) -> None:
        """Of the session whose turn was the last, before anything else happens to it."""
        if self.resting is not None:
            session, self.resting = self.resting, None
            self._sessions.checkpoint(session)

    def take(self) -> Reply:
        """What the vm is now."""
        with self._sessions.quiet() as changing:
            taken = self._layers.take_point(changing)
        if taken["method"] == "freeze":
            self._sessions.enter_folders()
        return {**taken, "state": {**taken["state"], "sessions": self._sessions.state()}}

    def go_to(self, state: dict[str, Any]) -> Reply:
        """Files and sessions. Where that fails, sessions are what they were before, but for what ran in them.

        Heads end, checkpoints fork new ones and the files are put together, all at once; before the vm moves onto
        them all has ended that is to end, and is there that is to move.
        """
        before, wanted = self._sessions.state(), state.get("sessions", {})
        notes = self._sessions.leave()
        back: list[str] = []
        self._sessions.send_for(wanted)
        try:
            self._layers.go_to(state, lambda: back.extend(self._wait_for_heads()))
        except BaseException:
            self._wait_for_heads()
            self._sessions.leave()
            self._sessions.gone()
            self._sessions.send_for(before)
            self._sessions.arrive()
            raise
        self._sessions.enter_folders()
        self._disk.forget()
        lost = sorted({*wanted, *before} - {*back})
        return {"live": self._layers.live, "back": back, "lost": lost, "gone": notes + self._sessions.open_files()}

    def _wait_for_heads(self) -> list[str]:
        came = self._sessions.arrive()
        self._sessions.gone()
        self._sessions.kill_strays()
        scratch.clear()
        scratch.clear_ipc(self._sessions.ipc_ns)
        return came
