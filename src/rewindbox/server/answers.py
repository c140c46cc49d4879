"""/v1/runs and /v1/plan: a model's answer, whose code is found, decided on and run."""

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from rewindbox import errors
from rewindbox.server.access import Caller, Who
from rewindbox.server.bodies import TEXT_CHARS, Asked, LimitsBody, Name, Removed, Text
from rewindbox.server.counted import Route
from rewindbox.server.executions import last_id
from rewindbox.server.problems import Responses, responses
from rewindbox.server.runs import Run, decision_body
from rewindbox.server.streams import MEDIA_TYPE, EventStream
from rewindbox.vm import AsyncVm

routes = APIRouter(prefix="/v1", tags=["runs"], route_class=Route)
_REQUEST = "What the user had asked for: it counts in `execution_confidence`. Null: unknown."
LastId = Annotated[str | None, last_id(r"^(|\d{1,9}(:\d{1,18}-\d{1,18})?)$")]
_EVENTS: Responses = {200: {"content": {MEDIA_TYPE: {}}, "description": "The events."}}


class RunRequest(Asked):
    """A model's answer, whose code is to be run."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "```python\nprint(6 * 7)\n```", "vm": "demo"}]})
    text: str = Field(max_length=TEXT_CHARS, description="The answer, Markdown; at most 400,000 characters.")
    vm: Name | None = Field(None, description="By name or id; made when it is new. Null: one of the pool.")
    on_failure: Literal["stop", "continue", "rollback"] = Field(
        "stop", description="After a block that fails: run no more; go on; or undo it and go on."
    )
    threshold: float = Field(0.0, ge=0, le=1, description="Least `execution_confidence` of a block that is run.")
    request: str | None = Field(None, max_length=TEXT_CHARS, description=_REQUEST)
    session: Name | None = Field(None, description="Run blocks in the session of this name, where they have one.")
    agent_id: Text | None = Field(None, description="Who runs. Null: the token's agent, or as configured.")
    limits: LimitsBody | None = Field(None, description="What each execution may consume.")


class PlanRequest(Asked):
    """A model's answer, to be looked at."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "```python\\nprint(6 * 7)\\n```"}]})

    text: str = Field(max_length=TEXT_CHARS, description="The answer, Markdown; at most 400,000 characters.")
    threshold: float = Field(0.0, ge=0, le=1, description="Least `execution_confidence` of a block that is run.")
    request: str | None = Field(None, max_length=TEXT_CHARS, description=_REQUEST)


class Decision(BaseModel):
    """A block of an answer, and what is to become of it."""

    number: int = Field(description="Its number in the answer, from 1.")
    language: str = Field(description="Its language.")
    code: str = Field(description="The block.")
    execution_confidence: float = Field(description="How sure we are that it is meant to be run, 0 to 1.")
    start_pos: int = Field(description="Where it begins in the answer, in characters.")
    end_pos: int = Field(description="Where it ends.")
    metadata: dict[str, Any] | None = Field(description="How it was found.")
    skipped: str | None = Field(description="Why it is not run; null: it is, or it is written to `path`.")
    path: str | None = Field(description="The file of the vm to which it is written instead of being run.")


class Plan(BaseModel):
    """What `POST /v1/runs` would do with an answer."""

    decisions: list[Decision] = Field(description="In the order of the answer.")


@routes.post("/plan", responses=responses(errors.ValidationFailed))
async def plan(who: Who, asked: PlanRequest) -> Plan:
    """The code blocks of an answer, and what a run would do with each. Nothing is run."""
    decisions = await who.service.box.plan(asked.text, threshold=asked.threshold, request=asked.request)
    bodies = [decision_body(number, decision) for number, decision in enumerate(decisions, 1)]
    return Plan(decisions=[Decision.model_validate(body) for body in bodies])


@routes.post(
    "/runs",
    response_class=Response,
    responses=responses(
        errors.UnknownVm, errors.ValidationFailed, errors.VmBusy, errors.TooManyVms, errors.PoolFull, also=_EVENTS
    ),
)
async def run(who: Who, asked: RunRequest) -> Response:
    """Run the code blocks of an answer in one vm, in order, and tell what happens as server-sent events.

    `run` with its id; for each block a `decision`; for each that is run `begun`, `output` and `ended`; at last
    `done`, or `error` with a problem. It goes on when the connection ends: `GET /v1/runs/{run}/events` with the id
    of the last event goes on there. Without `vm` the agent has one of the pool until all of it is done; where none is
    free for `pool.wait_s`, 429 with `Retry-After`, and nothing ran.
    """
    agent = who.agent(asked.agent_id) or who.service.box.settings.agent_id
    begun = await who.service.runs.begin(
        await _where(who, asked.vm, agent),
        who.token,
        agent,
        asked.text,
        on_failure=asked.on_failure,
        threshold=asked.threshold,
        request=asked.request,
        session=asked.session or False,
        limits=who.limits(asked.limits.model_dump(exclude_none=True) if asked.limits else None),
    )
    found = await who.service.runs.events(begun, None)
    return EventStream(found, who.service.bounds, {"Location": f"/v1/runs/{begun.id}/events"})


async def _where(who: Caller, vm: str | None, agent: str) -> AbstractAsyncContextManager[AsyncVm]:
    """The vm that is named, or one of the pool."""
    if vm is None:
        return who.service.box.pool.vm(agent)
    found, _ = await who.new_vm(vm, agent)
    return nullcontext(found)


@routes.get("/runs/{run}/events", response_class=Response, responses=responses(errors.UnknownRun, also=_EVENTS))
async def events(who: Who, run: str, after: LastId) -> Response:
    """The events of a run, from the first, or from the one after the id that is given; see `POST /v1/runs`."""
    return EventStream(await who.service.runs.events(_seen(who, run), after), who.service.bounds)


@routes.post("/runs/{run}/cancel", status_code=202, responses=responses(errors.UnknownRun))
async def cancel(who: Who, run: str) -> Removed:
    """End a run, and the execution that it has going on; that is recorded as `killed`. One that is over stays so."""
    found = _seen(who, run)
    found.scope.cancel()
    return Removed(id=found.id, name=None)


def _seen(who: Caller, run_id: str) -> Run:
    found = who.service.runs.find(run_id)
    if not who.sees(found.agent_id):
        raise errors.UnknownRun(f"no run has the id {run_id[:80]!a}", remedy="its executions are in history")
    return found
