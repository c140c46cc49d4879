"""The app: what there is, and what is open while it runs."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from rewindbox import __version__
from rewindbox.engine import AsyncRewindbox
from rewindbox.errors import RewindboxError
from rewindbox.server import (
    about,
    answers,
    executions,
    files,
    history,
    journal,
    original,
    points,
    pool,
    problems,
    record,
    sessions,
    settings,
    sockets,
    vms,
)
from rewindbox.server.access import Service
from rewindbox.server.bounds import Bounds
from rewindbox.server.gate import OPEN, Gate
from rewindbox.server.leases import Leases
from rewindbox.server.metrics import Metrics
from rewindbox.server.readiness import Readiness
from rewindbox.server.runs import Runs
from rewindbox.server.tokens import Tokens
from rewindbox.server.turns import Turns
from rewindbox.server.work import Work

ROUTES = (
    *(about.routes, vms.routes, executions.routes, sockets.routes, answers.routes, pool.routes, sessions.routes),
    *(points.routes, files.routes, history.routes, record.routes, settings.routes),
)
"""Every group of routes, in the order in which docs and OpenAPI have them."""
_TEXT = "Runs what a model wrote in isolated vms, remembers every execution, and can undo any of them."


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How a server was started."""

    tokens: Tokens | None
    """None: anybody may ask."""
    hosts: Sequence[str] = ()
    """Names by which it may be called besides addresses and localhost."""
    origins: Sequence[str] = ()
    """Web pages of other servers that may ask."""
    bounds: Bounds = field(default_factory=Bounds)


def routed() -> FastAPI:
    """Everything that can be asked, with nothing behind it yet: what OpenAPI is made of."""
    app = FastAPI(
        title="Rewindbox", version=__version__, description=_TEXT, docs_url=None, redoc_url=None, openapi_url=None
    )
    routers = (*ROUTES, *original.ROUTES)
    for router in routers:
        app.include_router(router)
    problems.install(app, routers)
    generated = app.openapi
    app.openapi = lambda: described(generated())  # type: ignore[method-assign]  # FastAPI's way to change it
    return app


def described(openapi: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI with what FastAPI does not know: the token, our errors, and that its own for requests never comes."""
    components = openapi["components"]
    components["schemas"] |= {"Problem": problems.Problem.model_json_schema()}
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer", "description": "`rewindbox token`"}}
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    for path, operations in openapi["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["security"] = [] if path in OPEN else [{"token": []}]
    return openapi


def made(box: AsyncRewindbox, choices: Choices) -> tuple[ASGIApp, FastAPI]:
    """The app behind its gate, and the app; `app.state.service` is there while it runs."""
    app, metrics, turns = routed(), Metrics(), Turns(choices.bounds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with box as opened, anyio.create_task_group() as group:
            work = Work(group, opened, choices.bounds, metrics)
            runs = Runs(opened.settings.folder, opened, work)
            runs.prepare()
            await _settle(opened)
            leases = Leases(opened.pool, opened.settings.pool.lease_s)
            app.state.service = Service(opened, work, runs, choices.bounds, metrics, Readiness(opened), leases, turns)
            group.start_soon(opened.pool.keep)
            group.start_soon(leases.keep)
            try:
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    await work.stop()
                group.cancel_scope.cancel()

    app.router.lifespan_context = lifespan
    gate: ASGIApp = Gate(
        app,
        tokens=choices.tokens,
        hosts=choices.hosts,
        origins=choices.origins,
        bounds=choices.bounds,
        metrics=metrics,
        turns=turns,
    )
    if choices.origins:
        gate = CORSMiddleware(
            gate,
            allow_origins=choices.origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Last-Event-ID"],
            expose_headers=["Location"],
        )
    return gate, app


async def _settle(box: AsyncRewindbox) -> None:
    """What a server before us left unfinished is ended; a host that cannot do that now is said by /ready."""
    try:
        for execution_id in await box.settle():
            journal.note("settled", execution_id=execution_id)
    except RewindboxError as error:
        journal.note("unsettled", code=error.code)


def stop(app: FastAPI) -> None:
    """Told to stop: what goes on is ended in order, so that its streams come to their end."""
    service: Service | None = getattr(app.state, "service", None)
    if service is not None:
        service.work.stop_soon()
