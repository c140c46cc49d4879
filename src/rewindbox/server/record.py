"""/v1/history/export and /v1/verify: the record as a whole."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from functools import partial

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from rewindbox import errors
from rewindbox.server.access import Who
from rewindbox.server.bodies import Asked, Text, execution_body
from rewindbox.server.counted import Route
from rewindbox.server.encoding import told
from rewindbox.server.problems import responses

routes = APIRouter(prefix="/v1", tags=["history"], route_class=Route)
_LINES = "application/jsonl"
_OF_ALL = "this is the record of all agents"


class Verified(BaseModel):
    """Whether the record is as it was written."""

    ok: bool = Field(description="It is.")
    problems: list[str] = Field(description="What is wrong with it, a sentence each.")


@routes.get(
    "/history/export",
    response_class=Response,
    responses=responses(also={200: {"content": {_LINES: {}}, "description": "An `Execution` a line."}}),
)
async def export(who: Who) -> Response:
    """Every execution that has ended, in the order of recording, a line of JSON each."""

    async def lines() -> AsyncIterator[bytes]:
        async for execution in who.service.box.export():
            if who.sees(execution.agent_id):
                async for part in told(partial(execution_body, execution), execution.size_bytes, "\n"):
                    yield part

    return StreamingResponse(lines(), media_type=_LINES)


class VerifyRequest(Asked):
    """What the record is to have been."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})
    expect: Text | None = Field(
        None,
        pattern=r"^\s*[0-9]{1,18}:[0-9a-f]{64}\s*$",
        description="A `text` that `GET /v1/head` has told. Null: any.",
    )


class HeadBody(BaseModel):
    """What the record ends with. Kept in another place, it shows later whether anything was cut off."""

    text: str = Field(description="Number and hash of the newest entry, with a colon between.")
    entries: int = Field(description="How many entries it has.")
    executions: int = Field(description="How many of them are ends of executions.")


@routes.get("/head", responses=responses(errors.HistoryError))
async def head(who: Who) -> HeadBody:
    """What the record ends with. Not with the token of an agent."""
    who.check_all(_OF_ALL)
    return HeadBody.model_validate(asdict(await who.service.box.head()))


@routes.post("/verify", responses=responses(errors.HistoryError))
async def verify(who: Who, asked: VerifyRequest) -> Verified:
    """Whether anybody has changed the record. Not with the token of an agent."""
    who.check_all(_OF_ALL)
    found = await who.service.box.verify(asked.expect)
    return Verified(ok=not found, problems=found)
