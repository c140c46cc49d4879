"""What the server says of itself: whether it is there and can work, its numbers, its languages, its host."""

from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

import anyio
import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from rewindbox import __version__, doctor, errors
from rewindbox.execution import rfc3339
from rewindbox.server import metrics
from rewindbox.server.access import Who
from rewindbox.server.problems import responses

routes = APIRouter(tags=["about"])


class Language(BaseModel):
    """A language, and whether it runs here."""

    name: str = Field(description="Its name.")
    aliases: list[str] = Field(description="What else it is called.")
    extension: str = Field(description="Of its files, without a dot.")
    timeout_multiplier: float = Field(description="The configured time of an execution is multiplied by it.")
    allowed: bool = Field(description="`allowed_languages` has it.")
    program: str | None = Field(description="Where a vm finds its program; null: it is not installed.")
    programs: list[str] = Field(description="The programs that can run it, the first that is there does.")
    package: str | None = Field(description="The Debian package that has it.")


class Languages(BaseModel):
    """The table of languages."""

    languages: list[Language] = Field(description="All of them, in the table's order.")


class Finding(BaseModel):
    """What one probe of the host found."""

    name: str = Field(description="What was probed.")
    verdict: Literal["good", "missing", "bad"] = Field(description="`missing`: vms can do without.")
    text: str = Field(description="What was seen.")
    remedy: str | None = Field(description="What to do about it.")


class LimitFound(BaseModel):
    """How this host holds one limit."""

    limit: str = Field(description="A field of an execution's `limits`.")
    enforcement: Literal["hard", "watched", "absent"] = Field(description="The kernel refuses; we look and kill; none.")
    by: str = Field(description="What enforces it.")


class Doctor(BaseModel):
    """What this host can do, found out by doing it."""

    ok: bool = Field(description="Vms work here.")
    findings: list[Finding] = Field(description="What each probe found.")
    limits: list[LimitFound] = Field(description="How each limit is held.")


class Health(BaseModel):
    """That there is a server, and whether it can work."""

    status: Literal["healthy", "ready", "stopping", "broken"] = Field(description="What it is.")
    service: str = Field("rewindbox", description="Who answers.")
    version: str = Field(description="Its version.")
    timestamp: str = Field(description="Its clock.")
    error: str | None = Field(None, description="Why it cannot work.")


def _health(status: str, error: str | None = None) -> dict[str, Any]:
    now = rfc3339(datetime.now(UTC))
    return Health.model_validate(
        {"status": status, "version": __version__, "timestamp": now, "error": error}
    ).model_dump()


@routes.get("/health", response_model=Health)
async def health() -> Response:
    """Whether the server is there. Needs no token."""
    return JSONResponse(_health("healthy"))


@routes.get("/ready", response_model=Health, responses={503: {"model": Health, "description": "It cannot work."}})
async def ready(who: Who) -> Response:
    """Whether it can work: a machine was made, and the store can be written to, 10 s ago or later. Needs no token."""
    if who.service.work.is_stopping:
        return JSONResponse(_health("stopping"), 503)
    error = await who.service.readiness.error()
    return JSONResponse(_health("broken", error), 503) if error else JSONResponse(_health("ready"))


@routes.get(
    "/metrics",
    response_class=Response,
    responses=responses(also={200: {"content": {metrics.MEDIA_TYPE: {}}, "description": "The numbers."}}),
)
async def numbers(who: Who) -> Response:
    """Numbers for Prometheus, of all agents: with the token of one they are refused."""
    who.check_all("these are the numbers of all agents")
    box = who.service.box
    gauges = {
        "rewindbox_vms": ("Vms that there are.", float(len(await box.vms()))),
        "rewindbox_vms_running": ("Vms that this server holds.", float(len(box.running()))),
    }
    pool = await box.pool.stats()
    gauges |= {
        "rewindbox_pool_ready": ("Vms of the pool that are nobody's yet.", float(pool.ready)),
        "rewindbox_pool_leased": ("Vms of the pool that are in use.", float(pool.leased)),
        "rewindbox_pool_resting": ("Vms of the pool that are an agent's and not in use.", float(pool.resting)),
        "rewindbox_pool_waiting": ("Requests that wait for a vm of the pool.", float(pool.waiting)),
        "rewindbox_pool_max": ("Vms of the pool that may run.", float(pool.max)),
    }
    return Response(who.service.metrics.text(gauges), media_type=metrics.MEDIA_TYPE)


@routes.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    """What can be asked, for programs."""
    return JSONResponse(request.app.openapi())


@routes.get("/v1/doctor", responses=responses(errors.Refused))
async def examine(who: Who) -> Doctor:
    """What this host can do, found out by doing it, which takes some seconds. Not with the token of an agent."""
    who.check_all("this is about the host")
    store = who.service.box.settings.folder
    found = await anyio.to_thread.run_sync(doctor.examined, store, limiter=_one_at_a_time())
    return Doctor.model_validate(found)


@cache
def _one_at_a_time() -> anyio.CapacityLimiter:
    return anyio.CapacityLimiter(1)


@routes.get("/v1/languages", responses=responses())
async def languages(who: Who) -> Languages:
    """Every language: how it is run, whether it may, and where a vm finds its program."""
    found = await who.service.box.languages()
    return Languages.model_validate({"languages": [entry.as_dict() for entry in found.values()]})
