"""/v1/runs and /v1/plan: a model's answer, whose code is found, decided on and run."""

from fastapi import APIRouter, Response

from rewindbox import errors
from rewindbox.server.access import Caller, Who
from rewindbox.server.bodies import Decision, Plan, PlanRequest, Removed, RunRequest
from rewindbox.server.executions import LastId, LastIdInQuery
from rewindbox.server.problems import Responses, responses
from rewindbox.server.runs import Run, decision_body
from rewindbox.server.streams import MEDIA_TYPE, EventStream

routes = APIRouter(prefix="/v1", tags=["runs"])
_EVENTS: Responses = {200: {"content": {MEDIA_TYPE: {}}, "description": "The events."}}


@routes.post("/plan", responses=responses(errors.ValidationFailed))
async def plan(who: Who, asked: PlanRequest) -> Plan:
    """The code blocks of an answer, and what a run would do with each. Nothing is run."""
    decisions = who.service.box.plan(asked.text, threshold=asked.threshold)
    bodies = [decision_body(number, decision) for number, decision in enumerate(decisions, 1)]
    return Plan(decisions=[Decision.model_validate(body) for body in bodies])


@routes.post(
    "/runs",
    response_class=Response,
    responses=responses(errors.UnknownVm, errors.ValidationFailed, errors.VmBusy, also=_EVENTS),
)
async def run(who: Who, asked: RunRequest) -> Response:
    """Run the code blocks of an answer in one vm, in order, and tell what happens as server-sent events.

    `run` with its id; for each block a `decision`; for each that is run `begun`, `output` and `ended`; at last
    `done`, or `error` with a problem. It goes on when the connection ends: `GET /v1/runs/{run}/events` with the id
    of the last event goes on there.
    """
    agent = who.agent(asked.agent_id)
    vm, _ = await who.new_vm(asked.vm, agent)
    begun = who.service.runs.begin(
        vm,
        who.token,
        agent or who.service.box.settings.agent_id,
        asked.text,
        on_failure=asked.on_failure,
        threshold=asked.threshold,
        session=asked.session or False,
        limits=who.limits(asked.limits.model_dump(exclude_none=True) if asked.limits else None),
    )
    found = await who.service.runs.events(begun, None)
    return EventStream(found, who.service.bounds, {"Location": f"/v1/runs/{begun.id}/events"})


@routes.get("/runs/{run}/events", response_class=Response, responses=responses(errors.UnknownRun, also=_EVENTS))
async def events(who: Who, run: str, last: LastId = "", last_in_query: LastIdInQuery = "") -> Response:
    """The events of a run, from the first, or from the one after the id that is given; see `POST /v1/runs`."""
    after = last or last_in_query or None
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
