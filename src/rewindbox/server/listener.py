"""HTTP and WebSocket on a socket, by uvicorn: with an end to waiting for who says nothing or takes nothing, and an
end in order when we are told to stop."""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from rewindbox.server.bounds import Bounds


def protocol(bounds: Bounds) -> type[H11Protocol]:
    """uvicorn's protocol, which waits for ever for a request and for an answer to be taken, with an end to both."""

    class Bounded(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None
        _stuck: asyncio.TimerHandle | None = None
        _is_upgraded = False

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stuck = self.loop.call_later(bounds.told_s, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            _cancel(self._stuck)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            _cancel(self._deadline)
            _cancel(self._stuck)

        def handle_websocket_upgrade(self, event: Any) -> None:
            self._is_upgraded = True
            super().handle_websocket_upgrade(event)

        def _watch(self) -> None:
            """A time limit while there is no request, none while there is one."""
            is_waiting = self.cycle is None or self.cycle.response_complete
            if self._is_upgraded or self.transport.is_closing() or not is_waiting:
                _cancel(self._deadline)
                self._deadline = None
            elif self._deadline is None:
                self._deadline = self.loop.call_later(bounds.headers_s, self.transport.close)

    return Bounded


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


_KEPT_S = 20
"""So long a connection is kept between two requests. Clients that keep one for 5 s themselves, as httpx does, would
else send one now and then into a connection that is just being closed."""


class Listener(uvicorn.Server):
    """A server that, told to stop, first has the app end what goes on: streams end with that."""

    def __init__(
        self, app: Any, bounds: Bounds, on_stop: Callable[[], None], on_started: Callable[[int], None]
    ) -> None:
        """`on_stop` is called once, in the event loop; `on_started` with the port, when connections are taken."""
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol(bounds),
                ws="websockets-sansio",
                ws_max_size=bounds.message_bytes,
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=bounds.connections,
                h11_max_incomplete_event_size=64 << 10,
                timeout_graceful_shutdown=round(bounds.shutdown_s),
                timeout_keep_alive=_KEPT_S,
            )
        )
        self._on_stop, self._on_started = on_stop, on_started
        self._loop: asyncio.AbstractEventLoop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it, and then say so."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started and sockets:
            self._on_started(sockets[0].getsockname()[1])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first signal ends in order, the second at once. uvicorn's own would raise it again afterwards."""
        if threading.current_thread() is not threading.main_thread():  # who started us there calls `stop`
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """End in order; asked again, at once."""
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        self._on_stop()

    def stop_soon(self) -> None:
        """As `stop`, from another thread."""
        self._loop.call_soon_threadsafe(self.stop)
