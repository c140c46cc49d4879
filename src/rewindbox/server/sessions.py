"""/v1/vms/VM/sessions: variables that stay. An execution names its session; here they are begun and ended."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from rewindbox import errors
from rewindbox.server.access import Who
from rewindbox.server.bodies import Asked, Name, Text
from rewindbox.server.counted import Route
from rewindbox.server.problems import responses

routes = APIRouter(prefix="/v1/vms/{vm}/sessions", tags=["sessions"], route_class=Route)
_STARTING = (errors.UnknownVm, errors.VmBusy, errors.VmDamaged, errors.VmNotAvailable, errors.UnsupportedLanguage)


class NewSession(Asked):
    """A session to be begun."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"language": "python", "name": "main"}]})

    language: Text = Field("python", description="A language that has sessions.")
    name: Name = Field("main", description="1 to 64 letters, digits, `.`, `_`, `-`.")


class Session(BaseModel):
    """Variables that stay from one execution to the next."""

    vm_id: str = Field(description="Its vm.")
    name: str = Field(description="Its name: `session` of an execution.")
    language: str | None = Field(description="Its language; null where only its name is known.")


class Sessions(BaseModel):
    """The live sessions of a vm."""

    sessions: list[Session] = Field(description="By name.")


@routes.post("", status_code=201, responses=responses(*_STARTING))
async def begin(who: Who, vm: str, asked: NewSession) -> Session:
    """Begin a session, if there is none of that name; it can as well begin with its first execution."""
    found = await who.vm(vm)
    session = await found.session(asked.language, asked.name)
    return Session(vm_id=found.id, name=session.name, language=session.language)


@routes.get("", responses=responses(errors.UnknownVm))
async def list_all(who: Who, vm: str) -> Sessions:
    """The live sessions of a vm. Those that are saved in its files, as bash's are, are not among them."""
    found = await who.vm(vm)
    return Sessions(sessions=[Session(vm_id=found.id, name=name, language=None) for name in sorted(found.sessions)])


@routes.delete("/{session}", responses=responses(errors.SessionNotFound, *_STARTING))
async def end(
    who: Who,
    vm: str,
    session: Annotated[Name, Path()],
    language: Annotated[str, Query(max_length=256, description="Its language.")] = "python",
) -> Session:
    """End a session; points that it left can still be gone back to."""
    found = await who.vm(vm)
    await found.end_session(session, language)
    return Session(vm_id=found.id, name=session, language=language)
