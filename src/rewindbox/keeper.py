"""The keeper: a process of its own that holds vms with live sessions, so that they outlive a command.

The first command that wants a session starts it; nobody else has to. It listens on a socket in the store's folder
that only its user can open, carries out what other commands ask of the vms it holds, and ends when no session
is left, or after the configured idle time.
"""

import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from rewindbox import kept, wire
from rewindbox.engine import AsyncRewindbox
from rewindbox.errors import BadRequest, Internal, RewindboxError
from rewindbox.kept import CALLS
from rewindbox.meanwhile import meanwhile
from rewindbox.session import AsyncSession

_LINGER_S = 3.0
"""Without any vm it ends so soon."""


class Keeper:
    """Holds the vms of one store that have sessions."""

    def __init__(self, folder: str, idle_s: float | None = None) -> None:
        """`idle_s`: None is the configured one."""
        self._box = AsyncRewindbox(folder)
        self._idle_s = self._box.settings.session_idle_s if idle_s is None else idle_s
        self._asked_at = time.monotonic()
        self._asking = 0

    async def serve(self, folder: str, on_ready: Callable[[], None]) -> None:
        """Until nobody needs it any more, or SIGTERM."""
        async with self._box, kept.listening(folder) as listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, self._serve_one)
            group.start_soon(self._end_on_signal, group.cancel_scope)
            on_ready()
            await self._until_idle()
            group.cancel_scope.cancel()

    async def _end_on_signal(self, scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                scope.cancel()

    async def _until_idle(self) -> None:
        """Vms without a session are let go of as soon as nobody asks anything of them."""
        while True:
            await anyio.sleep(min(0.5, self._idle_s / 4))
            idle_s = time.monotonic() - self._asked_at
            if self._asking:
                continue
            for vm in self._box.running():
                if not vm.sessions or idle_s >= self._idle_s:
                    await vm.stop(reason=f"idle for {self._idle_s:g} s")
            if not self._box.running() and idle_s >= min(_LINGER_S, self._idle_s):
                return

    async def _serve_one(self, stream: SocketStream) -> None:
        self._asking += 1
        try:
            async with stream:
                if _peer_uid(stream) == os.getuid():
                    with suppress(Exception):  # who cannot be understood or answered ends alone
                        await self._answer(stream)
        finally:
            self._asking -= 1
            self._asked_at = time.monotonic()

    async def _answer(self, stream: SocketStream) -> None:
        incoming = BufferedByteReceiveStream(stream)
        request = await wire.receive(incoming)
        try:
            value = {"result": await self._carry_out(request, stream, incoming)}
        except RewindboxError as error:
            value = {"error": wire.error_as_value(error)}
        except Exception as error:
            value = {"error": wire.error_as_value(Internal(f"{type(error).__name__}: {error}"))}
        await wire.send(stream, value)

    async def _carry_out(self, request: dict[str, Any], stream: SocketStream, incoming: Any) -> Any:
        """The call's result. Who asked and goes away (Ctrl-C) cancels it."""
        if request["call"] == "held":
            return {vm.id: sorted(vm.sessions) for vm in self._box.running()}
        if request["call"] not in CALLS:
            raise BadRequest(f"call {request['call']!r}")
        vm = await self._box.vm(request["vm"], create=False)
        call = partial(getattr(vm, request["call"]), **request["arguments"])
        if request["call"] != "execute":
            result = await call()
            return None if isinstance(result, AsyncSession) else result
        return await self._execute(call, stream, incoming)

    async def _execute(self, call: Callable[..., Any], stream: SocketStream, incoming: Any) -> Any:
        """As `_carried_out`; what it writes is sent as it comes, all of it before the result."""
        send, receive = anyio.create_memory_object_stream[dict[str, Any]](float("inf"))
        all_sent = anyio.Event()

        async def tell() -> None:
            with receive:
                async for told in receive:
                    await wire.send(stream, told)
            all_sent.set()

        async with meanwhile(tell, partial(_until_gone, incoming)):
            try:
                return await call(
                    on_output=lambda name, data: send.send_nowait({"output": name, "data": data}),
                    on_begun=lambda name: send.send_nowait({"begun": name}),
                )
            finally:
                send.close()
                await all_sent.wait()


async def _until_gone(incoming: BufferedByteReceiveStream) -> None:
    """Raises EndOfStream: who asked is gone. Nothing else is said while something is carried out."""
    await incoming.receive_exactly(1)
    raise anyio.EndOfStream


def _peer_uid(stream: SocketStream) -> int:
    raw = stream.extra(SocketAttribute.raw_socket)  # noqa: S610  anyio's, no database's
    _, uid, _ = struct.unpack("iii", raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def main() -> None:
    """`python -m rewindbox.keeper FOLDER FD`: says `ready`, or why not, on the descriptor."""
    if os.fork():
        os._exit(0)  # whoever started us is not our parent: it may end, or go on, without us
    folder, ready = sys.argv[1], int(sys.argv[2])

    def say(text: str) -> None:
        with suppress(OSError):
            os.write(ready, text.encode())
            os.close(ready)

    lock = kept.claim(folder)
    if lock is None:  # another one was faster
        say("ready")
        return
    try:
        anyio.run(Keeper(folder).serve, folder, lambda: say("ready"))
    except RewindboxError as error:
        say(str(error))


if __name__ == "__main__":
    main()
