"""The WebSockets of the original's API: /ws/{vm} for one vm, /ws for the guide's commands.

One message is answered after the other. What a program writes is told as it comes; a client that goes away does not
end it.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import anyio
from fastapi import APIRouter
from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from rewindbox.errors import InvalidArgument, NotYet, RewindboxError, TooLarge
from rewindbox.execution import Execution, rfc3339
from rewindbox.ids import new_id
from rewindbox.opened import beside
from rewindbox.server import counted, problems
from rewindbox.server.access import Caller, Who
from rewindbox.server.encoding import encoded
from rewindbox.server.feeds import Feed, Place
from rewindbox.server.original.route import Lenient, both, failure
from rewindbox.server.original.runs import NO_AGENTS, Run, parsed, ran, response, written_bytes
from rewindbox.server.original.vms import (
    NewSnapshot,
    Page,
    history_body,
    history_of,
    labelled,
    rolled_back,
    snapshot_body,
)

routes = APIRouter()
Data = Mapping[str, Any]


class Target(Lenient):
    """Where to go back to."""

    snapshot_id: str
    create_pre_rollback_snapshot: bool = True


class Talk:
    """One connection: messages of a kind, with data, heard and said."""

    def __init__(self, socket: WebSocket, who: Caller, vm: str | None) -> None:
        """`vm`: the one that it is about; None: the guide's commands."""
        self.socket, self.who, self.vm = socket, who, vm
        self._heard: dict[str, Any] = {}
        self.session_id, self.since = new_id("ws"), datetime.now(UTC)

    async def serve(self, answers: Mapping[str, "Answer"]) -> None:
        """Answer one message after the other, until the client is gone."""
        while (heard := await self._hear()) is not None:
            self._heard = heard
            kind, data = heard.get("message_type" if self.vm is not None else "command_type"), heard.get("data")
            try:
                if not isinstance(kind, str) or kind not in answers:
                    raise InvalidArgument(f"message {str(kind)[:80]!r}", remedy=f"send one of {', '.join(answers)}")
                await answers[kind](self, data if isinstance(data, dict) else {})
            except WebSocketDisconnect:
                return
            except Exception as error:
                await self.fail(_known(error), data if isinstance(data, dict) else {})

    async def _hear(self) -> dict[str, Any] | None:
        """The next message that is an object; None: the client is gone."""
        while True:
            message = await self.socket.receive()
            if message["type"] == "websocket.disconnect":
                return None
            why: RewindboxError = InvalidArgument("a message that is no JSON object", remedy="send one")
            try:
                heard = counted.loads(message.get("text") or message.get("bytes") or b"")
            except TooLarge as error:
                heard, why = None, error
            except (ValueError, RecursionError):
                heard = None
            if isinstance(heard, dict):
                return heard
            self._heard = {}
            await self.fail(why, {})

    async def fail(self, error: RewindboxError, data: Data) -> None:
        """Say what is wrong with the message."""
        kind = "LlmExecutionError" if self.vm is not None else "error"
        await self.say(kind, {**failure(error), **_named(data)}, error=str(error))

    async def say(self, kind: str, data: Data, *, error: str | None = None) -> None:
        """Send a message. Raises WebSocketDisconnect: nobody is there, or takes it."""
        await self.tell(kind, lambda: data, 0, error=error)

    async def tell(self, kind: str, make: Callable[[], Data], size_bytes: int, *, error: str | None = None) -> None:
        """As `say`, of data that may be as long as `size_bytes`; see encoding.py."""
        text = await beside(lambda: b"".join(encoded(both(self._message(kind, make(), error)))).decode(), size_bytes)
        try:
            with anyio.fail_after(self.who.service.bounds.told_s):
                await self.socket.send_text(text)
        except (TimeoutError, RuntimeError, OSError) as broken:
            raise WebSocketDisconnect(1006) from broken

    def _message(self, kind: str, data: Data, error: str | None) -> dict[str, Any]:
        body: dict[str, Any] = {"message_type": kind, "data": data}
        if self.vm is None:
            body = {"response_type": kind, "data": data, "timestamp": rfc3339(datetime.now(UTC))}
            body |= {
                "session_id": self._heard.get("session_id") or self.session_id,
                "workflow_id": self._heard.get("workflow_id"),
            }
            body |= {"success": error is None, "error": error}
        return body


Answer = Callable[[Talk, dict[str, Any]], Awaitable[None]]


@routes.websocket("/ws/{vm}")
async def of_vm(socket: WebSocket, who: Who, vm: str) -> None:
    """Messages about one vm: `message_type` and `data`, both ways."""
    await socket.accept()
    with suppress(WebSocketDisconnect):
        await Talk(socket, who, vm).serve(_MESSAGES)


@routes.websocket("/ws")
async def commands(socket: WebSocket, who: Who) -> None:
    """The guide's commands: `command_type`, answered by `response_type`."""
    await socket.accept()
    with suppress(WebSocketDisconnect):
        talk = Talk(socket, who, None)
        can = {"server_time": rfc3339(talk.since), "capabilities": ["command_execution"]}
        await talk.say("connection_established", {"session_id": talk.session_id, **can})
        await talk.serve(_COMMANDS)


def _named(data: Data) -> dict[str, str]:
    """The id under which the client knows the execution, if it gave one."""
    return {"execution_id": data["execution_id"]} if isinstance(data.get("execution_id"), str) else {}


def _known(error: Exception) -> RewindboxError:
    if isinstance(error, ValidationError):
        return problems.malformed(error)
    return problems.ours(error)


async def _execute(talk: Talk, data: dict[str, Any]) -> None:
    """Run code: what it writes as it comes, then how it ended."""
    named = _named(data)

    async def output(stream: str, text: str, execution_id: str | None) -> None:
        told = {"execution_id": execution_id, "content": text, "stream": stream, stream: text, **named}
        await talk.say("LlmExecutionOutput", told)

    done = await _followed(talk, Run.model_validate({**data, "vm_id": talk.vm}), output)
    await talk.tell("LlmExecutionComplete", lambda: {**response(done), "entry_id": done.id, **named}, done.size_bytes)


async def _followed(talk: Talk, run: Run, output: Callable[[str, str, str | None], Awaitable[None]]) -> Execution:
    async def follow(feed: Feed) -> None:
        async for event in feed.events(Place(), from_the_start=False):
            if event.kind == "output":
                await output(event.data["stream"], event.data["text"], feed.execution_id)

    return await ran(talk.who, run, follow)


async def _parse(talk: Talk, data: dict[str, Any]) -> None:
    assert talk.vm is not None
    told = await parsed(talk.who, data, talk.vm)
    await talk.tell("LlmExecutionComplete", lambda: told, written_bytes(told))


async def _history(talk: Talk, data: dict[str, Any]) -> None:
    vm = await talk.who.vm(str(talk.vm))
    given = {name: value for name, value in data.items() if value is not None}
    found = await history_of(talk.who, vm, Page.model_validate(given))
    await talk.tell("HistoryResponse", lambda: history_body(found), found.size_bytes)


async def _snapshot(talk: Talk, data: dict[str, Any]) -> None:
    asked, vm = NewSnapshot.model_validate(data), await talk.who.vm(str(talk.vm))
    await talk.say("SnapshotCreated", snapshot_body(await labelled(talk.who, vm, asked.name, asked.agent_id)))


async def _roll_back(talk: Talk, data: dict[str, Any]) -> None:
    asked, vm = Target.model_validate(data), await talk.who.vm(str(talk.vm))
    done = await rolled_back(talk.who, vm, asked.snapshot_id, snapshot_first=asked.create_pre_rollback_snapshot)
    await talk.say("RollbackComplete", done)


async def _execute_code(talk: Talk, data: dict[str, Any]) -> None:
    """As `_execute`, in the guide's words."""

    told = []

    async def output(stream: str, text: str, execution_id: str | None) -> None:
        told.append(stream)
        await talk.say("execution_output", {"execution_id": execution_id, stream: text})

    done = await _followed(talk, Run.model_validate(data), output)
    if not told:
        await output("stdout", "", done.id)
    await talk.tell("execution_complete", lambda: response(done), done.size_bytes, error=done.error)


async def _pong(talk: Talk, _: dict[str, Any]) -> None:
    await talk.say("pong", {"timestamp": rfc3339(datetime.now(UTC))})


async def _session(talk: Talk, _: dict[str, Any]) -> None:
    """Of the connection, which is what the original calls a session here; it follows no workflow."""
    told = {"session_id": talk.session_id, "connected_at": rfc3339(talk.since), "subscribed_workflows": []}
    await talk.say("session_info", told)


async def _no_agents(talk: Talk, data: dict[str, Any]) -> None:
    await talk.fail(NotYet(NO_AGENTS), data)


_MESSAGES: dict[str, Answer] = {
    "LlmExecuteCode": _execute,
    "LlmParseExecute": _parse,
    "QueryHistory": _history,
    "CreateSnapshot": _snapshot,
    "RollbackToSnapshot": _roll_back,
}
_COMMANDS: dict[str, Answer] = {
    "execute_code": _execute_code,
    "ping": _pong,
    "heartbeat": _pong,
    "get_session_info": _session,
    **dict.fromkeys(
        (
            *("subscribe_workflow", "unsubscribe_workflow", "get_workflow_status", "list_active_workflows"),
            *("execute_workflow", "pause_workflow", "resume_workflow", "stop_workflow"),
            "update_config",
        ),
        _no_agents,
    ),
}
