"""Who may ask, and how much at once: every request and WebSocket comes through here before anything reads it.

In order: the name by which we were called (a web page that had its own name resolved to us is refused), the page
that asks, the token, how much of this token goes on already, and, while it is read, size and time of the body.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Collection, Iterator, MutableMapping
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import Any

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rewindbox.errors import Refused, RewindboxError, TooLarge, TooMany, TooSlow, Unauthorized
from rewindbox.server import journal, problems
from rewindbox.server.bounds import Bounds
from rewindbox.server.metrics import Metrics
from rewindbox.server.tokens import ANYBODY, Token, Tokens
from rewindbox.server.turns import Turns

OPEN = ("/health", "/ready")
"""Paths that say no more than that we are there, to whoever asks."""
_LONG = re.compile(
    r"/v1/history|/v1/executions/[^/]+(/output/[^/]+)?|/api/vms/[^/]+/history"  # of the record
    r"|/v1/vms/[^/]+/files"
)
PROTOCOL = "rewindbox.bearer."
"""A browser cannot set a header of a WebSocket: it offers a protocol of this name with the token behind."""


class Gate:
    """ASGI, around the app."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Tokens | None,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        bounds: Bounds,
        metrics: Metrics,
        turns: Turns,
    ) -> None:
        """`tokens` None: anybody may ask. `hosts`: names by which we may be called besides addresses and localhost.
        `origins`: web pages that may ask besides those that we served ourselves."""
        self.app, self._tokens, self._bounds, self._metrics = app, tokens, bounds, metrics
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self._origins = set(origins)
        self._busy: dict[str, int] = {}
        self._turns = turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it through, or say why not."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        begun = anyio.current_time()
        told = _Told(scope, send, self._admitted)
        try:
            token = self._admitted(scope)
            scope.setdefault("state", {})["token"] = token
            with self._turn(token):
                async with self._reading(token, scope):
                    await self.app(scope, _Body(scope, self._heard(scope, receive, told), self._bounds), told)
        except RewindboxError as error:
            if told.has_begun:
                raise
            await refuse(error, scope, receive, told)
        finally:
            self._note(scope, told.status, anyio.current_time() - begun)

    def _admitted(self, scope: Scope) -> Token:
        headers = Headers(scope=scope)
        self._check_host(headers.get("host", ""))
        self._check_origin(scope, headers)
        if scope["path"] in OPEN or self._tokens is None:
            return ANYBODY
        return self._tokens.check(_bearer(headers))

    def _heard(self, scope: Scope, receive: Receive, told: "_Told") -> Receive:
        """Of a WebSocket each message is admitted by itself: with who is not any more the connection ends."""

        async def received() -> Message:
            message = await receive()
            if message["type"] == "websocket.receive" and await told.is_ended():
                return {"type": "websocket.disconnect", "code": _NOT_ADMITTED}
            return message

        return received if scope["type"] == "websocket" else receive

    def _check_host(self, host: str) -> None:
        name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        if name.lower() in self._hosts:
            return
        try:
            ipaddress.ip_address(name)  # an address is nobody's name: it cannot have been made to lead here
        except ValueError:
            remedy = "call it by its address, or start it with --name"
            raise Refused(f"this server is not called {name[:100]!a}", remedy=remedy) from None

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is None and site in _OF_OTHERS:
            raise Refused(f"a page of another site ({site}) may not ask", remedy="open the address by itself")
        scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
        if origin is None or origin in self._origins or origin == f"{scheme}://{headers.get('host', '')}":
            return
        raise Refused(f"a page of {origin[:100]!a} may not ask", remedy="start the server with --origin for it")

    @contextmanager
    def _turn(self, token: Token) -> Iterator[None]:
        busy = self._busy.get(token.name, 0)
        if busy >= self._bounds.requests:
            raise TooMany(f"{busy} requests of this token go on", remedy="wait until some of them have ended")
        self._busy[token.name] = busy + 1
        try:
            yield
        finally:
            self._busy[token.name] -= 1
            if not self._busy[token.name]:
                del self._busy[token.name]

    def _reading(self, token: Token, scope: Scope) -> AbstractAsyncContextManager[None]:
        """A turn at what may be long, until the answer is sent, where the request is for that. Raises TooMany."""
        if scope["type"] != "http" or not _LONG.fullmatch(scope["path"]):
            return nullcontext()
        return self._turns.had(token, self._bounds.turn_s)

    def _note(self, scope: Scope, status: int, took_s: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        method = scope.get("method", "WEBSOCKET")
        method = method if method in _METHODS else "OTHER"
        self._metrics.requests.add(method=method, route=route, status=str(status))
        token = scope.get("state", {}).get("token")
        facts = {"method": method, "route": route, "status": status, "ms": round(took_s * 1000, 1)}
        ids = {name: value[:80] for name, value in scope.get("path_params", {}).items() if name != "path"}
        journal.note("request", **facts, **ids, token=token.name if token else None)


_OF_OTHERS = ("cross-site", "same-site")
"""What a browser says of a request that a page of others makes without an origin: an image, a link, a fetch of which
it reads nothing."""
_NOT_ADMITTED = 1008
"""Policy violation (RFC 6455, 7.4.1)."""
_END: dict[str, Message] = {
    "http": {"type": "http.response.body", "body": b""},
    "websocket": {"type": "websocket.close", "code": _NOT_ADMITTED},
}
"""Of an answer that has begun."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "WEBSOCKET")


_DRAIN_S, _DRAIN_MESSAGES = 1.0, 64


class _Told:
    """What was sent so far. What comes part by part, and so may take long, ends with who is not admitted any more."""

    def __init__(self, scope: Scope, send: Send, admit: Callable[[Scope], Token]) -> None:
        self._scope, self._send, self._admit = scope, send, admit
        self.status, self.has_begun, self._has_ended = 0, False, False

    async def __call__(self, message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            self.status, self.has_begun = message["status"], True
        elif message["type"] in ("websocket.accept", "websocket.close"):
            self.status, self.has_begun = self.status or (101 if message["type"].endswith("accept") else 403), True
        is_part = message["type"] == "websocket.send" or message.get("more_body")
        if not self._has_ended and not (is_part and await self.is_ended()):
            await self._send(message)

    async def is_ended(self) -> bool:
        """Whether it has ended, because who asks would not be admitted now."""
        if not self._has_ended:
            try:
                self._admit(self._scope)
            except RewindboxError:
                self._has_ended = True
                await self._send(_END[self._scope["type"]])
        return self._has_ended


class _Body:
    """What a client sends, no more and no longer than it may."""

    def __init__(self, scope: Scope, receive: Receive, bounds: Bounds) -> None:
        self._receive, self._deadline = receive, anyio.current_time() + bounds.body_s
        is_file = scope["path"].startswith("/v1/vms/") and scope.get("method") == "PUT"
        self._left = self._most = bounds.file_bytes if is_file else bounds.body_bytes
        self._is_over = scope["type"] != "http"
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._most:
            self._left = -1

    async def _refused(self) -> TooLarge:
        """Some of the rest is read first: an answer to who still writes is lost when the connection is closed."""
        with anyio.move_on_after(_DRAIN_S):
            for _ in range(_DRAIN_MESSAGES):
                if not (await self._receive()).get("more_body"):
                    break
        return TooLarge(f"a body of more than {self._most} bytes", remedy="send less")

    async def __call__(self) -> MutableMapping[str, Any]:
        if self._is_over:
            return await self._receive()
        if self._left < 0:
            raise await self._refused()
        try:
            with anyio.fail_after(max(0.0, self._deadline - anyio.current_time())):
                message = await self._receive()
        except TimeoutError as error:
            raise TooSlow("the body did not come to its end in time", remedy="send it faster") from error
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise await self._refused()
        self._is_over = message["type"] != "http.request" or not message.get("more_body")
        return message


def _bearer(headers: Headers) -> str:
    """The token of a request. Raises Unauthorized: it has none, or more than one."""
    given = [value for value in headers.getlist("authorization") if value]
    offered = [word.strip() for value in headers.getlist("sec-websocket-protocol") for word in value.split(",")]
    found = [value.partition(" ")[2].strip() for value in given if value[:7].lower() == "bearer "]
    found += [word.removeprefix(PROTOCOL) for word in offered if word.startswith(PROTOCOL)]
    if len(found) != 1 or len(given) > 1:
        raise Unauthorized("there is no token", remedy="send the header `Authorization: Bearer TOKEN`")
    return found[0]


async def refuse(error: RewindboxError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request, or one to open a WebSocket, by an error."""
    if scope["type"] == "http":
        await problems.answer(error, scope["path"])(scope, receive, send)
        return
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", problems.MEDIA_TYPE.encode())]
    status, body = problems.status_of(error), json.dumps(problems.problem(error)).encode()
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
