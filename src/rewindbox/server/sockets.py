"""/v1/ws: the same over a WebSocket: begin, follow and cancel executions, several at once, events as they come.

A message is a JSON object. A client's `do` is `execute`, `follow`, `stdin` or `cancel`; what it gives as `ref`
stands in every answer to it. The end of the connection is not the end of the code.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import anyio
from anyio.abc import TaskGroup
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import Field, TypeAdapter, ValidationError

from rewindbox.errors import TooMany, UnknownExecution
from rewindbox.execution import Execution
from rewindbox.server import counted, executions
from rewindbox.server.access import Caller, Who
from rewindbox.server.bodies import Asked, ExecutionRequest, Text
from rewindbox.server.feeds import Event
from rewindbox.server.gate import PROTOCOL
from rewindbox.server.problems import malformed, ours, problem

routes = APIRouter()
STREAMS = 32
"""Executions that one connection follows at once."""


class Execute(Asked):
    """Begin an execution, and follow it; without a vm it has one of the pool."""

    do: Literal["execute"]
    ref: Text | None = None
    vm: Text | None = None
    request: ExecutionRequest


class Follow(Asked):
    """Follow one that goes on, or read one that has ended, from the event after this one."""

    do: Literal["follow"]
    ref: Text | None = None
    execution_id: Text
    last_event_id: Text | None = None


class Cancel(Asked):
    """End one that goes on."""

    do: Literal["cancel"]
    ref: Text | None = None
    execution_id: Text


class Stdin(Asked):
    """Write to the standard input of one that goes on, as text or in base64; `close`: nothing comes after it."""

    do: Literal["stdin"]
    ref: Text | None = None
    execution_id: Text
    data: str | None = None
    data_base64: str | None = None
    close: bool = False


_MESSAGE: TypeAdapter[Execute | Follow | Cancel | Stdin] = TypeAdapter(
    Annotated[Execute | Follow | Cancel | Stdin, Field(discriminator="do")]
)


@routes.websocket("/v1/ws")
async def connected(socket: WebSocket, who: Who) -> None:
    """One connection."""
    offered = [name for name in socket.scope.get("subprotocols", ()) if name.startswith(PROTOCOL)]
    await socket.accept(offered[0] if offered else None)
    async with anyio.create_task_group() as group:
        connection = _Connection(socket, who, group)
        while True:
            try:
                text = await socket.receive_text()
            except (WebSocketDisconnect, KeyError, RuntimeError):  # gone; or it sent bytes
                break
            await connection.take(text)
        group.cancel_scope.cancel()


class _Connection:
    def __init__(self, socket: WebSocket, who: Caller, group: TaskGroup) -> None:
        self._socket, self._who, self._group = socket, who, group
        self._turn = anyio.Lock()
        self._streams = 0

    async def take(self, text: str) -> None:
        """Do what a message says, or answer why not."""
        ref: Any = None
        try:
            counted.check(text)
            try:
                message = _MESSAGE.validate_json(text)
            except ValidationError as error:
                raise malformed(error, "see docs/http-api.md") from error
            ref = message.ref
            await self._do(message)
        except Exception as error:
            await self._send({"event": "problem", "ref": ref, "data": problem(ours(error))})

    async def _do(self, message: Execute | Follow | Cancel | Stdin) -> None:
        if isinstance(message, Stdin):
            data = executions.written(message.data, message.data_base64)
            await executions.give(self._who, message.execution_id, data, close=message.close, at=None)
            return
        if isinstance(message, Cancel):
            feed = executions.live(self._who, message.execution_id)
            if feed is None:
                raise UnknownExecution("no execution of that id goes on", remedy="`GET /v1/executions`")
            feed.scope.cancel()
            return
        if self._streams >= STREAMS:
            raise TooMany(f"{STREAMS} executions are followed on this connection", remedy="open another")
        self._streams += 1
        self._group.start_soon(self._followed, message)

    async def _followed(self, message: Execute | Follow) -> None:
        execution_id: str | None = None
        try:
            if isinstance(message, Follow):
                execution_id, after = message.execution_id, message.last_event_id
            else:
                execution_id, after = await self._begun(message), None
            events = await executions.follow(self._who, execution_id, after)
            await self._told(events, execution_id, message.ref)
        except Exception as error:
            found = {"event": "problem", "ref": message.ref, "execution_id": execution_id}
            await self._send({**found, "data": problem(ours(error))})
        finally:
            self._streams -= 1

    async def _begun(self, message: Execute) -> str:
        feed = await executions.begin(self._who, message.vm, message.request)
        if isinstance(feed, Execution):
            return feed.id
        await feed.until_begun()
        if feed.error is not None:
            raise feed.error
        return feed.execution_id

    async def _told(self, events: AsyncGenerator[Event, None], execution_id: str, ref: str | None) -> None:
        async with aclosing(events):
            async for event in events:
                told = {"event": event.kind, "id": event.id, "execution_id": execution_id, "ref": ref}
                await self._send({**told, "data": event.data})

    async def _send(self, message: dict[str, Any]) -> None:
        """One message; a client that does not take it in time is let go."""
        try:
            with anyio.fail_after(self._who.service.bounds.told_s):
                async with self._turn:
                    await self._socket.send_text(json.dumps(message))
        except (TimeoutError, WebSocketDisconnect, RuntimeError):
            self._group.cancel_scope.cancel()
