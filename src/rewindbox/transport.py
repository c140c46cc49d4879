"""Requests to a server of ours. What goes wrong on the way, and what the server says is wrong, are errors of ours.

The time of the code and that of the way to it are two things. A request waits as long as its answer takes; while it
waits, the server is asked now and then whether it is still there. A stream tells by itself that it is alive.
Nothing is asked twice unless asking twice is the same as asking once. Knows nothing of what is asked.
"""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

import anyio

from rewindbox import __version__
from rewindbox.config import is_url
from rewindbox.errors import (
    ApiError,
    BadRequest,
    ConfigError,
    ConnectionFailed,
    InvalidArgument,
    RewindboxError,
    Unauthorized,
)
from rewindbox.meanwhile import meanwhile
from rewindbox.wire import error_of_code

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_WAY_S = 10.0
"""To a connection, and to a sign of life on one."""
_ASK_AFTER_S = 30.0
"""So long without an answer, and the server is asked whether it is still there."""
SILENT_S = 40.0
"""A stream without a word for so long has been cut: the server says every 15 s that it is alive."""
WAITS_S = (0.1, 0.3, 1.0, 3.0, 9.0)
"""Before what may be asked again is asked again: a server that is started anew is back by then."""
_ANSWER_MAX_BYTES = 1 << 30
_EVENT_MAX_BYTES = 64 << 20
_SEGMENT_MAX_CHARS = 256
_UNAUTHORIZED = 401


def segment(text: str, unknown: type[RewindboxError]) -> str:
    """A name or id as a part of a path. Raises `unknown`: nothing can have that name."""
    if not text or "/" in text or len(text) > _SEGMENT_MAX_CHARS or not text.isprintable():
        raise unknown(f"nothing has the name or id {text[:_SEGMENT_MAX_CHARS]!r}", remedy="choose one that is listed")
    return quote(text, safe="").replace(".", "%2E")  # a segment of dots alone would lead up


@dataclass(frozen=True, slots=True)
class Told:
    """One event of a stream."""

    kind: str
    data: Any
    id: str | None
    """Where the stream goes on after it; None: where it did before."""


class Server:
    """A server, as whoever asks it sees it. Nothing is connected before the first request."""

    def __init__(self, url: str, token: str | None) -> None:
        """Raises InvalidArgument: the URL or the token is none. ConfigError: httpx is not installed."""
        self.url, self._token = _checked_url(url), _checked_token(token)
        self._http = _httpx()
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """End its connections. Idempotent."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def get(self, path: str, /, **query: Any) -> Any:
        """What is there, from JSON."""
        return _json(await self._again(lambda: self._content("GET", path, query)), path)

    async def fetch(self, path: str, /, *, at_most: int = _ANSWER_MAX_BYTES, **query: Any) -> bytes:
        """What is there, byte by byte. Raises BadRequest: it is more than `at_most` bytes."""
        return await self._again(lambda: self._content("GET", path, query, at_most=at_most))

    async def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What comes of a request, from JSON."""
        return _json(await self._content("POST", path, body=body), path)

    async def send(self, path: str, data: bytes, /, **query: Any) -> Any:
        """As `post`, of bytes that the server tells from those it has: it may be asked again."""
        return _json(await self._again(lambda: self._content("POST", path, query, data=data)), path)

    async def put(self, path: str, data: bytes, /, **query: Any) -> Any:
        """As `post`, of bytes."""
        return _json(await self._content("PUT", path, query, data=data), path)

    async def delete(self, path: str, /, **query: Any) -> Any:
        """As `post`."""
        return _json(await self._content("DELETE", path, query), path)

    async def lines(self, path: str, /, **query: Any) -> AsyncGenerator[Any, None]:
        """What is there, from JSON Lines, each when it has come."""
        async with aclosing(self._parts(self._request("GET", path, query, read_s=SILENT_S), b"\n")) as lines:
            async for line in lines:
                yield _json(line, path)

    async def events(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None, after: str | None = None
    ) -> AsyncGenerator[Told, None]:
        """The events of a stream, as they come; after the one with the id `after`.

        Raises ConnectionFailed: it was cut, or nothing came for `SILENT_S`.
        """
        request = self._request(method, path, body=body, read_s=SILENT_S)
        request.headers["Accept"] = "text/event-stream"
        if after is not None:
            request.headers["Last-Event-ID"] = after
        async with aclosing(self._parts(request, b"\n\n")) as parts:
            async for part in parts:
                if told := _event(part, path):
                    yield told

    async def _again(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask what may be asked again, until there is an answer."""
        for wait_s in WAITS_S[:2]:
            try:
                return await ask()
            except ConnectionFailed:
                await anyio.sleep(wait_s)
        return await ask()

    async def _content(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        data: bytes | None = None,
        at_most: int = _ANSWER_MAX_BYTES,
    ) -> bytes:
        request = self._request(method, path, query, body=body, data=data)
        async with meanwhile(self._watch):
            return await self._read(request, at_most)

    async def _watch(self) -> None:
        """Ask now and then whether the server is there. Raises ConnectionFailed: it is not."""
        while True:
            await anyio.sleep(_ASK_AFTER_S)
            try:
                await self._read(self._request("GET", "/health", read_s=_WAY_S), _ANSWER_MAX_BYTES)
            except ConnectionFailed:
                raise
            except RewindboxError:
                continue  # an answer, whatever it says

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        data: bytes | None = None,
        read_s: float | None = None,
    ) -> "httpx.Request":
        """`read_s`: so long may nothing come; None: watched otherwise."""
        timeout = self._http.Timeout(_WAY_S, read=read_s, pool=None)
        given = {name: _word(value) for name, value in (query or {}).items() if value is not None}
        headers = {}
        if body is not None:
            data = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
            headers["Content-Type"] = "application/json"
        return self._connected().build_request(
            method, self.url + path, params=given or None, headers=headers, content=data, timeout=timeout
        )

    def _connected(self) -> "httpx.AsyncClient":
        if self._client is None:
            headers = {"User-Agent": f"rewindbox/{__version__}"}
            if self._token is not None:
                headers["Authorization"] = f"Bearer {self._token}"
            # A server may close what was idle for 5 s: a request that meets that end could not be told from one that
            # was carried out.
            limits = self._http.Limits(max_connections=None, max_keepalive_connections=8, keepalive_expiry=2.0)
            is_far = urlsplit(self.url).hostname not in _LOOPBACK  # a proxy would be asked for its own loopback
            self._client = self._http.AsyncClient(
                headers=headers,
                limits=limits,
                trust_env=is_far,
                verify=self.url.startswith("https"),  # otherwise nothing is to be verified: 20 ms
            )
        return self._client

    async def _read(self, request: "httpx.Request", at_most: int) -> bytes:
        content = bytearray()
        try:
            response = await self._connected().send(request, stream=True)
            try:
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > at_most:
                        raise BadRequest(f"{request.url.path} has more than {at_most} bytes", remedy="ask for less")
            finally:
                await response.aclose()
        except self._http.HTTPError as error:
            raise self._lost(error) from error
        if not response.is_success:
            raise self._refusal(response, bytes(content))
        return bytes(content)

    async def _parts(self, request: "httpx.Request", end: bytes) -> AsyncGenerator[bytes, None]:
        """An answer in pieces, as it comes, each without what it ends with; what has no end is left out."""
        pending = bytearray()
        try:
            response = await self._connected().send(request, stream=True)
            try:
                if not response.is_success:
                    raise self._refusal(response, await response.aread())
                async for chunk in response.aiter_bytes():
                    begin, searched = 0, max(0, len(pending) - len(end) + 1)
                    pending += chunk
                    while (found := pending.find(end, searched)) >= 0:
                        yield bytes(pending[begin:found])
                        begin = searched = found + len(end)
                    del pending[:begin]
                    if len(pending) > _EVENT_MAX_BYTES:
                        raise _unreadable(request.url.path, f"more than {_EVENT_MAX_BYTES} bytes at once")
            finally:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
        except self._http.HTTPError as error:
            raise self._lost(error) from error

    def _refusal(self, response: "httpx.Response", content: bytes) -> RewindboxError:
        """What the server says is wrong; ApiError: what says so is no server of ours."""
        try:
            problem = json.loads(content)
            code, text, remedy = problem["code"], problem["detail"], problem["remedy"]
            assert isinstance(code, str) and isinstance(text, str) and isinstance(remedy, str | None)
        except (ValueError, RecursionError, TypeError, KeyError, AssertionError):
            return ApiError(
                f"{response.request.url.path} was answered with {response.status_code}, and not by rewindbox",
                remedy="see whether the URL is that of `rewindbox serve`, and what is between here and there",
            )
        if response.status_code == _UNAUTHORIZED and self._token is None:
            remedy = "give one: `token` of the box, REWINDBOX_TOKEN, or --token-file"
            return Unauthorized(f"{self.url} asks for a token", remedy=remedy)
        return error_of_code(code, text, remedy)

    def _lost(self, error: "httpx.HTTPError") -> RewindboxError:
        """What went wrong on the way, as what to do about it."""
        http, text = self._http, str(error) or type(error).__name__
        if isinstance(error, (http.ConnectError, http.ConnectTimeout)):
            remedy = "start `rewindbox serve` there, or correct the URL"
            return ConnectionFailed(f"{self.url} cannot be reached: {text}", remedy=remedy)
        if isinstance(error, http.TimeoutException):
            return ConnectionFailed(f"{self.url} does not answer any more", remedy="see whether it is still there")
        remedy = "what was under way may have been done: see its history"
        return ConnectionFailed(f"the connection to {self.url} was cut: {text}", remedy=remedy)


def readable(make: Callable[[Any], T], value: Any, path: str) -> T:
    """What `make` makes of an answer. Raises ApiError: it is not as an answer is."""
    try:
        return make(value)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {error}") from error


def _httpx() -> Any:
    try:
        import httpx  # noqa: PLC0415  only here, and only with the extra
    except ModuleNotFoundError as error:
        remedy = "pip install 'rewindbox[client]'"
        raise ConfigError(f"a server is asked with {error.name}, which is not installed", remedy=remedy) from error
    return httpx


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_good = is_url(url) and bool(parts.hostname) and url.isprintable() and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good or parts.username is not None or parts.query or parts.fragment:
        raise InvalidArgument("the server's URL", remedy="give http://HOST:PORT or https://HOST, and the token apart")
    return url.rstrip("/")


def _checked_token(token: str | None) -> str | None:
    token = token.strip() if token is not None else None
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token and token):
        raise InvalidArgument("the token is none", remedy="give what `rewindbox token create` told, a word of ASCII")
    return token


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _json(content: bytes, path: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, "it is no JSON") from error


def _unreadable(path: str, why: str) -> ApiError:
    return ApiError(
        f"the answer of {path} cannot be read: {why[:200]}",
        remedy="see whether the URL is that of `rewindbox serve`, of this version",
    )


def _event(part: bytes, path: str) -> Told | None:
    """https://html.spec.whatwg.org/multipage/server-sent-events.html, as far as we write it; None: a comment."""
    fields = dict(line.partition(b": ")[::2] for line in part.split(b"\n"))
    if b"event" not in fields:
        return None
    name = fields.get(b"id")
    told = _json(fields.get(b"data", b""), path)
    return Told(
        fields[b"event"].decode("ascii", "replace"), told, None if name is None else name.decode("ascii", "replace")
    )
