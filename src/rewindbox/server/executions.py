"""/v1/executions: run code in a vm, wait for it or follow it, cancel it, read how it ended."""

import base64
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from rewindbox import errors, policy
from rewindbox.backends.base import Stream
from rewindbox.execution import Execution
from rewindbox.meanwhile import meanwhile
from rewindbox.server import encoding, feeds
from rewindbox.server.access import Caller, Who
from rewindbox.server.bodies import (
    Accepted,
    AllGoingOn,
    ExecutionBody,
    ExecutionRequest,
    Given,
    GoingOn,
    Output,
    execution_body,
    is_whole,
)
from rewindbox.server.counted import Route
from rewindbox.server.feeds import Event, Feed, Place
from rewindbox.server.problems import Responses, responses
from rewindbox.server.streams import MEDIA_TYPE, EventStream, until_gone
from rewindbox.stdin import Stdin
from rewindbox.vm import AsyncVm, encoded

routes = APIRouter(tags=["executions"], route_class=Route)
_RUNNING = (
    *(errors.UnsupportedLanguage, errors.VmBusy, errors.VmDamaged, errors.VmNotAvailable),
    *(errors.SnapshotFailed, errors.ExecutionFailed),
)
_HOW: Responses = {
    200: {"content": {MEDIA_TYPE: {}}, "description": "How it ended; or its events, if these are accepted."},
    202: {"model": Accepted, "description": "It has begun."},
}


def last_id(pattern: str) -> Any:
    """The id of the event after which a client goes on, of ids that look so; None: it has had none."""

    def last(
        last: Annotated[
            str, Header(alias="Last-Event-ID", pattern=pattern, description="The id of the last event that came.")
        ] = "",
        in_query: Annotated[
            str, Query(alias="last_event_id", pattern=pattern, description="The same, for who cannot set a header.")
        ] = "",
    ) -> str | None:
        return last or in_query or None

    return Depends(last)


Close = Annotated[bool, Query(description="Nothing comes after it: the program reads end of file.")]
At = Annotated[
    int | None,
    Query(ge=0, lt=2**53, description="So many bytes were given before it. Null: whatever was given."),
]
LastId = Annotated[str | None, last_id(r"^(|end|\d{1,18}-\d{1,18})$")]


async def begin(who: Caller, vm: str | None, asked: ExecutionRequest) -> Feed | Execution:
    """Begin an execution; what was asked for before, under the same id, is not begun again.

    `vm` None: it waits for one of the pool. Raises UnknownVm, and what is wrong with the request.
    """
    found = None if vm is None else await who.vm(vm)
    if asked.id is not None and (known := await _known(who, asked.id)) is not None:
        is_elsewhere = found is not None and known.vm_id != found.id
        if is_elsewhere or (isinstance(known, Execution) and known.code != asked.code):
            raise errors.InvalidArgument(f"the id {asked.id} is that of something else", remedy="make another")
        return known
    if asked.timeout_s is not None:
        who.limits({"wall_s": asked.timeout_s})
    agent_id = who.agent(asked.agent_id)
    feed = who.service.work.execute(
        _lent(who, agent_id, asked) if found is None else nullcontext(found),
        who.token,
        asked.language,
        asked.code,
        vm_id=None if found is None else found.id,
        agent_id=agent_id,
        limits=who.limits(asked.limits.model_dump(exclude_none=True) if asked.limits else None),
        timeout_seconds=asked.timeout_s,
        environment=asked.environment,
        stdin=_input(asked),
        working_dir=asked.working_dir,
        rollback_on_failure=None if asked.on_failure is None else asked.on_failure == "rollback",
        session=asked.session,
        execution_id=asked.id,
        block=asked.block,
    )
    return feed


def _lent(who: Caller, agent_id: str | None, asked: ExecutionRequest) -> AbstractAsyncContextManager[AsyncVm]:
    """One of the pool, for what may run there: nobody gets a vm to hear that it may not."""
    policy.check(asked.language, asked.code, who.service.box.settings)
    return who.service.box.pool.vm(agent_id)


async def _known(who: Caller, execution_id: str) -> Feed | Execution | None:
    """What has that id, whoever's it is. Where nothing has, nobody else has a turn before the caller has begun it."""
    feed = who.service.work.feed(execution_id)
    if feed is None:
        try:
            await who.service.box.execution(execution_id, output=False)
        except errors.UnknownExecution:
            return None
        return await who.execution(execution_id)
    if not who.sees(feed.agent_id):
        raise errors.UnknownExecution(f"no execution has the id {execution_id!r}", remedy="make another")
    return feed


def _input(asked: ExecutionRequest) -> bytes | Stdin:
    if not asked.stdin_open:
        return written(asked.stdin, asked.stdin_base64)
    if asked.stdin or asked.stdin_base64:
        remedy = "give it when the execution has begun"
        raise errors.InvalidArgument("standard input that is given whole and stays open", remedy=remedy)
    return Stdin()


def written(text: str | None, exact: str | None) -> bytes:
    """Bytes as a client has them in JSON: as text, or in base64. Raises InvalidArgument."""
    if exact is None:
        return encoded(text or "", "stdin")
    try:
        return base64.b64decode(exact, validate=True)
    except ValueError as error:
        raise errors.InvalidArgument("what is to be base64 is none", remedy="give it as text") from error


@routes.post(
    "/v1/vms/{vm}/executions",
    response_model=ExecutionBody,
    responses=responses(errors.UnknownVm, *_RUNNING, also=_HOW),
)
async def execute(who: Who, vm: str, asked: ExecutionRequest, request: Request) -> Response:
    """Run a piece of code. Code that fails, is too slow or too big is an answer like any other, not an error.

    It goes on when the connection ends, unless `cancel_on_disconnect` says otherwise; what it did is in history. With
    `Accept: text/event-stream` its events are the answer, from now on: see `GET /v1/executions/{execution}/events`.
    """
    return await _answered(who, await begin(who, vm, asked), asked, request)


@routes.post(
    "/v1/executions",
    response_model=ExecutionBody,
    responses=responses(errors.PoolFull, errors.TooManyVms, *_RUNNING, also=_HOW),
)
async def execute_somewhere(who: Who, asked: ExecutionRequest, request: Request) -> Response:
    """The same in a vm of the pool, which the answer names: the agent's own, with its files and sessions, or another.

    It is the agent's while this runs. Where none is free for `pool.wait_s`, 429 with `Retry-After`, and nothing ran.
    """
    return await _answered(who, await begin(who, None, asked), asked, request)


async def _answered(who: Caller, feed: Feed | Execution, asked: ExecutionRequest, request: Request) -> Response:
    if MEDIA_TYPE in request.headers.get("accept", ""):
        found = feed.events(Place(), from_the_start=True) if isinstance(feed, Feed) else _replayed(who, feed.id, None)
        return EventStream(found, who.service.bounds)
    if isinstance(feed, Execution):
        return await _told(feed)
    if asked.wait:
        await _waited(feed, request if asked.cancel_on_disconnect else None)
    else:
        await feed.until_begun()
    if feed.error is not None:
        raise feed.error
    if feed.execution is not None:
        return await _told(feed.execution)
    accepted = _accepted(feed)
    return JSONResponse(accepted.model_dump(), 202, {"Location": accepted.url})


async def _told(execution: Execution) -> Response:
    return await encoding.answer(partial(execution_body, execution), execution.size_bytes)


def _accepted(feed: Feed) -> Accepted:
    url = f"/v1/executions/{feed.execution_id}"
    return Accepted(execution_id=feed.execution_id, vm_id=feed.vm_id, status="running", url=url, events=f"{url}/events")


async def _waited(feed: Feed, request: Request | None) -> None:
    """Wait for the end; with `request`, that of its connection is the end of the code."""
    watching = () if request is None else (partial(until_gone, request.receive, feed.scope),)
    async with meanwhile(*watching):
        await feed.until_over()


@routes.get("/v1/executions", responses=responses())
async def going_on(who: Who) -> AllGoingOn:
    """The executions that go on. Those that have ended are in `/v1/history`."""
    found = []
    for execution_id, feed in who.service.work.going_on().items():
        if who.sees(feed.agent_id):
            sizes = {f"{stream}_bytes": len(data) for stream, data in feed.written.items()}
            found.append(GoingOn(execution_id=execution_id, vm_id=feed.vm_id, **sizes))
    return AllGoingOn(executions=found)


@routes.get(
    "/v1/executions/{execution}",
    response_model=ExecutionBody,
    responses=responses(errors.UnknownExecution, also={202: {"model": Accepted, "description": "It goes on."}}),
)
async def look(who: Who, execution: str, output: Output = True) -> Response:
    """How an execution ended, by its id or the beginning of one that no other has."""
    feed = live(who, execution)
    if feed is not None:
        return JSONResponse(_accepted(feed).model_dump(), 202)
    return await _told(await who.execution(execution, output=output))


@routes.get(
    "/v1/executions/{execution}/output/{stream}",
    response_class=Response,
    responses=responses(
        errors.UnknownExecution, also={200: {"content": {"application/octet-stream": {}}, "description": "The bytes."}}
    ),
)
async def output(who: Who, execution: str, stream: Stream) -> Response:
    """What an execution that has ended wrote, byte by byte."""
    found = await who.execution(execution)
    data = found.stdout_bytes if stream == "stdout" else found.stderr_bytes
    return Response(data, media_type="application/octet-stream", headers={"X-Content-Type-Options": "nosniff"})


@routes.post("/v1/executions/{execution}/cancel", status_code=202, responses=responses(errors.UnknownExecution))
async def cancel(who: Who, execution: str) -> Accepted:
    """End an execution that goes on; it is recorded as `killed`. One that has ended stays as it is: 404."""
    feed = live(who, execution)
    if feed is None:
        raise errors.UnknownExecution(f"no execution {execution[:80]!a} goes on", remedy="`GET /v1/executions`")
    feed.scope.cancel()
    return _accepted(feed)


@routes.post(
    "/v1/executions/{execution}/stdin",
    responses=responses(errors.UnknownExecution, errors.InputClosed, errors.InputFull),
    openapi_extra={"requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string"}}}}},
)
async def stdin(who: Who, execution: str, request: Request, close: Close = False, at: At = None) -> Given:
    """Write to the standard input of an execution that goes on, begun with `stdin_open`: at most 1 MiB waits for it.

    It is answered at once, whether or not the program reads; what does not fit is refused whole, 429. With `at` a
    request whose answer did not come can be made again: what of it came the first time is left out.
    """
    data = await request.body()
    return await give(who, execution, data, close=close, at=at)


async def give(who: Caller, execution: str, data: bytes, *, close: bool, at: int | None) -> Given:
    """See `stdin`. Raises what `Stdin.write` raises; UnknownExecution, InputClosed: nobody reads it."""
    feed = live(who, execution)
    if feed is None:
        ended = await who.execution(execution, output=False)
        raise errors.InputClosed(f"{ended.id} has ended", remedy="nothing that is written now can be read")
    if feed.stdin is None:
        raise errors.InputClosed(f"{feed.execution_id} was given its input whole", remedy="begin it with `stdin_open`")
    before = feed.stdin.given_bytes
    if at is not None and not at <= before <= at + len(data):
        raise errors.InvalidArgument(f"at {at}, and {before} bytes were given", remedy=f"go on at {before}")
    if content := data[before - at if at is not None else 0 :]:
        feed.stdin.write(content)
    if close:
        feed.stdin.close()
    return Given(execution_id=feed.execution_id, given_bytes=feed.stdin.given_bytes)


@routes.get(
    "/v1/executions/{execution}/events",
    response_class=Response,
    responses=responses(
        errors.UnknownExecution,
        also={
            200: {"content": {MEDIA_TYPE: {}}, "description": "The events."},
            204: {"description": "The last event was told already."},
        },
    ),
)
async def events(who: Who, execution: str, after: LastId) -> Response:
    """What an execution does, as server-sent events: `begun`, `output`, and at its end `ended` or `error`.

    A client that comes back with the id of the last event goes on there, also when the execution has ended
    meanwhile, and when the server was started anew: then events come from the record. Comments are signs of life.
    """
    if after == feeds.END:
        await who.execution(execution, output=False)
        return Response(status_code=204)
    found = await follow(who, execution, after)
    return EventStream(found, who.service.bounds)


async def follow(who: Caller, execution: str, after: str | None) -> AsyncGenerator[Event, None]:
    """The events of an execution after a place. Raises UnknownExecution, InvalidArgument: before the first one."""
    place = Place() if after is None else Place.parse(after)
    feed = live(who, execution)
    if feed is not None:
        return feed.events(place, from_the_start=after is None)
    return _replayed(who, (await who.execution(execution, output=False)).id, None if after is None else place)


async def _replayed(who: Caller, execution_id: str, after: Place | None) -> AsyncGenerator[Event, None]:
    """The events of one that has ended, after a place, when it has its turn; None: from the first."""
    async with who.service.turns.had(who.token):
        found = await who.execution(execution_id)
        async with aclosing(feeds.recorded(found, after or Place(), from_the_start=after is None)) as events:
            async for event in events:
                yield event


def live(who: Caller, execution: str) -> Feed | None:
    """The feed of an execution that goes on and is the caller's to see."""
    feed = who.service.work.feed(execution) if is_whole(execution) else None
    return feed if feed is not None and who.sees(feed.agent_id) else None
