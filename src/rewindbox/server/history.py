"""/v1/history: what ran, how it ended, and where a text stands in it."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field

from rewindbox.errors import UnknownExecution, UnknownVm
from rewindbox.execution import Ended
from rewindbox.server import encoding
from rewindbox.server.access import Caller, Who
from rewindbox.server.bodies import ExecutionBody, Output, execution_body
from rewindbox.server.problems import responses

routes = APIRouter(prefix="/v1", tags=["history"])
Words = Annotated[str | None, Query(max_length=256)]


def _no_number(value: object) -> object:
    """Seconds since 1970 are no RFC 3339."""
    if isinstance(value, str) and "T" not in value.upper():
        raise ValueError("a date, a T and a time, with a zone")
    return value


When = Annotated[
    AwareDatetime | None, BeforeValidator(_no_number), Query(description="RFC 3339, with a zone; inclusive.")
]


class History(BaseModel):
    """A page of the history."""

    entries: list[ExecutionBody] = Field(description="Executions that have ended, newest first.")
    total: int = Field(description="How many match in all, on every page.")
    next: str | None = Field(description="What follows comes with this as `older_than`. Null: nothing follows.")


@routes.get("/history", response_model=History, responses=responses(UnknownVm, UnknownExecution))
async def history(
    who: Who,
    vm: Annotated[Words, Query(description="Of this vm, by name or id; a removed one by its id.")] = None,
    text: Annotated[Words, Query(description="With this in code or output, in upper or lower case.")] = None,
    session: Annotated[Words, Query(description="In the session of this name.")] = None,
    agent_id: Annotated[Words, Query(description="That this agent ran.")] = None,
    language: Annotated[Words, Query(description="In this language, by its name or an alias.")] = None,
    ended: Annotated[Ended | None, Query(description="That ended so.")] = None,
    failures_only: Annotated[bool, Query(description="That did not succeed.")] = False,
    since: When = None,
    until: When = None,
    limit: Annotated[int, Query(ge=0, le=100, description="At most so many.")] = 20,
    offset: Annotated[int, Query(ge=0, lt=2**53, description="Without the newest so many.")] = 0,
    older_than: Annotated[Words, Query(description="That began before this execution: the `next` of a page.")] = None,
    output: Output = True,
) -> Response:
    """Executions that have ended, newest first, with their output.

    A page ends before its code, output and displays are more than 8 MiB, but for a single execution that has more:
    then there are fewer than `limit`. While `next` is not null, the same question with it as `older_than` goes on. What
    had ended when the first page was asked for comes once, whatever ends meanwhile; with `offset` alone, which counts
    from what is the newest then, something may come twice.
    """
    if vm is not None:
        await _check_seen(who, vm)
    page = await who.service.box.history(
        vm,
        text=text,
        session=session,
        agent_id=who.agent(agent_id),
        failures_only=failures_only,
        since=since,
        until=until,
        language=language,
        ended=ended,
        limit=limit,
        offset=offset,
        older_than=older_than,
        max_bytes=who.service.bounds.page_bytes,
        output=output,
    )

    def told() -> dict[str, Any]:
        entries = [execution_body(entry) for entry in page.entries]
        return {"entries": entries, "total": page.total, "next": page.next}

    return await encoding.answer(told, page.size_bytes)


async def _check_seen(who: Caller, vm: str) -> None:
    """Raises UnknownVm: it is another agent's, or none."""
    agent = who.token.agent
    if agent is None or any(vm in (known.id, known.name) for known in await who.vms()):
        return
    page = await who.service.box.history(vm, agent_id=agent, limit=0) if vm.startswith("vm_") else None
    if page is None or not page.total:  # a removed one, in which it ran something, is there
        raise UnknownVm(f"no vm has the name or id {vm!r}", remedy="`GET /v1/vms` shows them")
