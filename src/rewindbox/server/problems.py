"""Errors on the wire: RFC 9457, `application/problem+json`, with the stable code of `errors.py`.

What a client gets to see is an error of ours or a sentence of ours: never a traceback, never its own input.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from rewindbox import errors
from rewindbox.errors import Internal, InvalidArgument, RewindboxError
from rewindbox.server.journal import unexpected

MEDIA_TYPE = "application/problem+json"
_REMEDY = "see /openapi.json"

STATUS: Mapping[type[RewindboxError], int] = {
    errors.Unauthorized: 401,
    errors.UnknownVm: 404,
    errors.UnknownExecution: 404,
    errors.UnknownFile: 404,
    errors.UnknownRun: 404,
    errors.UnknownLease: 404,
    errors.UnknownPath: 404,
    errors.SnapshotNotFound: 404,
    errors.SessionNotFound: 404,
    errors.WrongMethod: 405,
    errors.TooSlow: 408,
    errors.VmBusy: 409,
    errors.VmDamaged: 409,
    errors.InputClosed: 409,
    errors.TooManyVms: 409,
    errors.TooManySnapshots: 409,
    errors.TooLarge: 413,
    errors.TooMany: 429,
    errors.InputFull: 429,
    errors.NotYet: 501,
    errors.PoolFull: 429,
    errors.Refused: 403,
    errors.BadRequest: 400,
    errors.VmNotAvailable: 503,
    errors.HostUnsupported: 503,
    errors.Timeout: 504,
    errors.Broken: 500,
}
"""The status of each class; the first that fits an error is its own."""


class Problem(BaseModel):
    """An error, as RFC 9457 has it. `code` is what a program looks at."""

    type: str = Field(description="A name for the kind of error: `urn:rewindbox:` and the code.")
    title: str = Field(description="What the kind of error means, in words; the same for every error of the kind.")
    status: int = Field(description="The HTTP status, once more.")
    detail: str = Field(description="What is wrong here, with the value and the remedy, for a person.")
    code: str = Field(description="The stable name of the kind of error; never renamed, never reused.")
    remedy: str | None = Field(description="What to do about it; null where nobody knows.")


def status_of(error: RewindboxError) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)


def problem(error: RewindboxError) -> dict[str, Any]:
    """An error as a client gets it."""
    title = (type(error).__doc__ or "").split("\n")[0]
    return {
        "type": f"urn:rewindbox:{error.code}",
        "title": title,
        "status": status_of(error),
        "detail": str(error),
        "code": error.code,
        "remedy": error.remedy,
    }


def problem_at(path: str, error: RewindboxError) -> dict[str, Any]:
    """An error as a client gets it under that path: those of the original look for its text under other names."""
    body = problem(error)
    return body if path.startswith("/v1/") else {**body, "error": str(error), "message": str(error)}


def answer(error: RewindboxError, path: str = "/v1/") -> Response:
    """The response that an error is, to a request for that path."""
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, errors.Unauthorized) else {}
    if isinstance(error, (errors.TooMany, errors.InputFull, errors.PoolFull)):
        headers = {"Retry-After": "1"}
    if isinstance(error, (errors.TooLarge, errors.TooSlow)):
        headers = {"Connection": "close"}  # what else comes of that request is nobody's
    return Response(json.dumps(problem_at(path, error)), status_of(error), headers, MEDIA_TYPE)


def ours(error: BaseException) -> RewindboxError:
    """Any exception as an error of ours; one that nobody expected goes into the log, and its text to nobody."""
    if isinstance(error, RewindboxError):
        return error
    unexpected(error)
    return Internal("something went wrong that should not", remedy="the server's log has more; please report it")


def known(error: Exception) -> RewindboxError:
    """Whatever a route raises, as an error of ours."""
    if isinstance(error, RequestValidationError):
        return malformed(error, _REMEDY)
    return _of_http(error) if isinstance(error, HTTPException) else ours(error)


def malformed(error: RequestValidationError | ValidationError, remedy: str | None = None) -> RewindboxError:
    """Where a request or a message does not fit, and why; its content is not repeated. `remedy` None: correct that."""
    found = error.errors()[0]
    place = ".".join(str(part) for part in found["loc"] if isinstance(part, (str, int)))
    place = place[:200].encode("ascii", "replace").decode()
    text = f"{place}: {found['msg'][:300]}".encode("utf-8", "replace").decode()
    return InvalidArgument(text, remedy=f"correct {place}" if remedy is None else remedy)


def _of_http(error: HTTPException) -> RewindboxError:
    if isinstance(error.__cause__, RewindboxError):  # what reading the body raised
        return error.__cause__
    if error.status_code == 405:
        return errors.WrongMethod("that path has no such method", remedy=_REMEDY)
    if error.status_code == 404:
        return errors.UnknownPath("there is nothing under that path", remedy=_REMEDY)
    return errors.BadRequest("the request cannot be read", remedy=_REMEDY)


def _methods(routers: Sequence[APIRouter], path: str) -> set[str]:
    """What a path can be asked for; the framework knows only the first of several routes."""
    every = (route for router in routers for route in router.routes)
    found = [route for route in every if isinstance(route, Route) and route.path_regex.match(path)]
    return {method for route in found for method in route.methods or ()}


def install(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Have every error answered as a problem. `routers`: all that it has."""

    async def told(_: Request, error: Exception) -> Response:
        return answer(ours(error))

    async def unfit(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(malformed(error, _REMEDY))

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        made = answer(_of_http(error), request.url.path)
        if error.status_code == 405:
            made.headers["Allow"] = ", ".join(sorted(_methods(routers, request.url.path)))
        return made

    app.add_exception_handler(RewindboxError, told)
    app.add_exception_handler(Exception, told)
    app.add_exception_handler(RequestValidationError, unfit)
    app.add_exception_handler(HTTPException, of_http)


EVERYWHERE: tuple[type[RewindboxError], ...] = (
    *(errors.Unauthorized, errors.Refused, errors.InvalidArgument, errors.TooSlow, errors.TooLarge),
    *(errors.TooMany, Internal),
)
"""What every call can be answered."""
Responses = dict[int | str, dict[str, Any]]


def responses(*kinds: type[RewindboxError], also: Responses | None = None) -> Responses:
    """For OpenAPI: the errors of a route besides those that every route has, and what else it answers (`also`)."""
    found: Responses = dict(also or {})
    for kind in (*EVERYWHERE, *kinds):
        status = next(number for base, number in STATUS.items() if issubclass(kind, base))
        text = f"`{kind.code}`: {(kind.__doc__ or '').split(chr(10))[0]}"
        old = found.get(status)
        content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        found[status] = {"description": f"{old['description']} {text}" if old else text, "content": content}
    return found
