"""/api/llm of the original's API: run code, find and run that of an answer. Nothing runs past policy and history."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Response
from pydantic import Field

from rewindbox import seed
from rewindbox.errors import InvalidArgument, NotYet, ValidationFailed
from rewindbox.execution import Execution
from rewindbox.server import encoding
from rewindbox.server.access import Caller, Who
from rewindbox.server.bodies import TEXT_CHARS
from rewindbox.server.feeds import Feed
from rewindbox.server.original.route import Lenient, Route, both, check_unicode
from rewindbox.server.original.vms import shown

routes = APIRouter(route_class=Route, include_in_schema=False)


Time = Annotated[float | None, Field(ge=0, allow_inf_nan=False)]


class Run(Lenient):
    """Code to run. The time comes in seconds or in milliseconds; 0, to which one client rounds down, is none."""

    code: str
    language: str = "python"
    agent_id: str | None = None
    vm_id: str | None = None
    requirements: list[str] | None = None
    timeout_seconds: Time = None
    timeout_ms: Time = None
    working_dir: str | None = None

    @property
    def wall_s(self) -> float | None:
        """Seconds of wall clock; None: as configured."""
        return self.timeout_seconds or (self.timeout_ms or 0) / 1000 or None


@routes.post("/api/llm/execute", response_model=None)
async def execute(who: Who, asked: Run) -> Response:
    """Run a piece of code, in the vm that is named or in one of the agent's."""
    done = await ran(who, asked)
    return await encoding.answer(partial(response, done), done.size_bytes)


async def ran(who: Caller, asked: Run, on_feed: Callable[[Feed], Awaitable[None]] | None = None) -> Execution:
    """How it ended. It goes on when whoever asked is gone. `on_feed` follows it meanwhile."""
    if asked.requirements:
        raise ValidationFailed(
            f"requirements {', '.join(asked.requirements)[:200]!r}: packages cannot be installed yet",
            remedy="leave requirements empty; what the host has installed is there",
        )
    if asked.wall_s is not None:
        who.limits({"wall_s": asked.wall_s})
    agent_id = who.agent(asked.agent_id)
    vm_id = (await who.vm(asked.vm_id)).id if asked.vm_id else None
    feed = who.service.work.execute(
        who.service.box.pool.vm(agent_id, vm_id=vm_id),
        who.token,
        asked.language,
        asked.code,
        agent_id=agent_id,
        timeout_seconds=asked.wall_s,
        working_dir=asked.working_dir,
    )
    if on_feed is not None:
        await on_feed(feed)
    await feed.until_over()
    if feed.error is not None:
        raise feed.error
    assert feed.execution is not None
    return feed.execution


def response(execution: Execution) -> dict[str, Any]:
    """What an execution did."""
    body = seed.response(execution).model_dump(mode="json")
    more = {"success": execution.success, "ended": execution.ended, "language": execution.language}
    return both({**body, **more, "snapshot_id": execution.after, "rolled_back_to": execution.rolled_back_to})


@routes.post("/api/llm/parse-execute", response_model=None)
async def parse_execute(who: Who, asked: dict[str, Any]) -> Response:
    """Find the code of an answer, and run what is sure enough to be meant."""
    told = await parsed(who, asked)
    return await encoding.answer(lambda: told, written_bytes(told))


def written_bytes(told: dict[str, Any]) -> int:
    """How much output and code an answer of `parsed` has, about."""
    results = sum(len(result[name]) for result in told["execution_results"] for name in ("stdout", "stderr"))
    return results + sum(len(block["code"]) for block in told["code_blocks"])


async def parsed(who: Caller, asked: dict[str, Any], vm_name: str | None = None) -> dict[str, Any]:
    """What `AsyncRewindbox.parse_execute` answers, in the vm that is named or in one of the agent's."""
    vm_id = (await who.vm(vm_name)).id if vm_name is not None else None
    check_unicode(asked)
    if len(text := str(asked.get("llm_response", ""))) > TEXT_CHARS:
        raise ValidationFailed(f"a text of {len(text)} characters", remedy=f"send at most {TEXT_CHARS}")
    agent_id = asked.get("agent_id")
    if agent_id is not None and not isinstance(agent_id, str):
        raise InvalidArgument("parse_execute: agent_id is no text", remedy="correct agent_id")
    most = {"max_bytes": who.service.bounds.page_bytes}
    known = {**asked, **most, "agent_id": who.agent(agent_id) or who.service.box.settings.agent_id}

    async def run() -> dict[str, Any]:
        box = who.service.box
        if known.get("auto_execute") is not True:
            return (await box.parse_execute(known)).model_dump(mode="json")
        async with box.pool.vm(known["agent_id"], vm_id=vm_id) as vm:
            return (await box.parse_execute(known, vm=vm)).model_dump(mode="json")

    return await who.service.work.result(who.token, anyio.CancelScope(), run)


@routes.post("/api/llm/provision/{agent}", status_code=201)
async def provision(who: Who, agent: str) -> dict[str, Any]:
    """Have one of the agent's vms run."""
    async with who.service.box.pool.vm(who.agent(agent)) as vm:
        return shown(vm.record, who.service.box)


NO_AGENTS = "agents are not there yet: this server runs code, and asks no model"


async def later() -> None:
    """What needs an agent that thinks. Raises NotYet."""
    raise NotYet(NO_AGENTS, remedy="use /api/llm/execute, or /api/llm/parse-execute with a model's answer")


for _path in ("/chat", "/workflows", "/workflows/{path:path}", "/api/vm/agent/execute"):
    routes.add_api_route(_path, later, methods=["GET", "POST"])
