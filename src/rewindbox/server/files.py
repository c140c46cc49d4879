"""/v1/vms/VM/file and /files: files into and out of a vm. Paths are the vm's own, never the host's."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from rewindbox.documents import name_as_text
from rewindbox.errors import BadRequest, UnknownFile, UnknownVm, VmBusy, VmDamaged, VmNotAvailable
from rewindbox.server import encoding
from rewindbox.server.access import Who
from rewindbox.server.problems import Responses, responses

routes = APIRouter(prefix="/v1/vms/{vm}", tags=["files"])
_STARTING = (UnknownVm, VmBusy, VmDamaged, VmNotAvailable, BadRequest, UnknownFile)
FilePath = Annotated[
    str,
    Query(
        min_length=1,
        max_length=1000,
        pattern=r"^[^\x00]+$",
        examples=["data.csv"],
        description="In the vm; relative to its home.",
    ),
]
Mode = Annotated[str, Query(pattern=r"^[0-7]{3}$", description="Its permissions, in octal.")]
_ENTRY_CHARS = 100
_BYTES: Responses = {200: {"content": {"application/octet-stream": {}}, "description": "Its content, byte by byte."}}


class FileEntry(BaseModel):
    """One entry of a folder."""

    name: str = Field(description="Its name; bytes that are not UTF-8 are replaced.")
    kind: Literal["file", "folder", "link", "other"] = Field(description="What it is.")
    size_bytes: int = Field(description="Its size, in bytes.")
    modified_s: float = Field(description="When it was last changed, in seconds since 1970, UTC.")


class Folder(BaseModel):
    """The entries of a folder of a vm."""

    path: str = Field(description="The folder, as it was asked for.")
    entries: list[FileEntry] = Field(description="By name.")


class Written(BaseModel):
    """A file that was written."""

    path: str = Field(description="The file, as it was named.")
    bytes: int = Field(description="Its size now, in bytes.")


@routes.get("/files", response_model=Folder, responses=responses(*_STARTING))
async def list_folder(who: Who, vm: str, path: FilePath = ".") -> Response:
    """The entries of a folder, at most 100,000: one that has more is an error."""
    found = await (await who.vm(vm)).list(path)

    def told() -> dict[str, Any]:
        return {"path": path, "entries": [asdict(entry) | {"name": name_as_text(entry.name)} for entry in found]}

    return await encoding.answer(told, len(found) * _ENTRY_CHARS)


@routes.get("/file", response_class=Response, responses=responses(*_STARTING, also=_BYTES))
async def read(who: Who, vm: str, path: FilePath) -> Response:
    """A file's content, at most 64 MiB. What is no regular file, is too big or is not there is an error."""
    return attachment(await (await who.vm(vm)).read(path, max_bytes=who.service.bounds.file_bytes))


def attachment(data: bytes) -> Response:
    """A file's content. A browser that is led to it must not take what the code wrote for a page of ours."""
    headers = {"X-Content-Type-Options": "nosniff", "Content-Disposition": "attachment"}
    return Response(data, media_type="application/octet-stream", headers=headers)


@routes.put(
    "/file",
    responses=responses(*_STARTING),
    openapi_extra={"requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string"}}}}},
)
async def write(who: Who, vm: str, path: FilePath, request: Request, mode: Mode = "644") -> Written:
    """Make or replace a file, at most 64 MiB; folders on the way are made. Leaves a point."""
    found = await who.vm(vm)
    data = await request.body()
    await found.write(path, data, mode=int(mode, 8))
    return Written(path=path, bytes=len(data))
