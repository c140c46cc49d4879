"""Values between our own processes: frames of JSON with bytes beside it, decoded by a table, never evaluated.

A frame is 4 bytes of length (big endian), a header in JSON, `{"value": ..., "blobs": [sizes]}`, and the blobs. In a
value, `{"#": name, ...}` stands for something that JSON does not have: one of the classes below, bytes (the
number of the blob), or a time.
"""

import json
from dataclasses import fields
from datetime import datetime
from typing import Any

from anyio.abc import ByteReceiveStream, ByteSendStream
from anyio.streams.buffered import BufferedByteReceiveStream

from rewindbox import errors
from rewindbox.backends.base import FileChange, FileInfo
from rewindbox.errors import ApiError, ConnectionFailed, RewindboxError
from rewindbox.execution import Execution
from rewindbox.limits import Limits
from rewindbox.points import Point, Rebuilt, Rollback, Snapshot
from rewindbox.preview import Preview

_CLASSES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (Execution, FileChange, FileInfo, Limits, Point, Preview, Rebuilt, Rollback, Snapshot)
}
_ERRORS = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RewindboxError)
}
_HEADER_MAX_BYTES = 64 << 20
_BLOBS_MAX_BYTES = 2 << 30


async def send(stream: ByteSendStream, value: Any) -> None:
    """Send one value."""
    blobs: list[bytes] = []
    header = json.dumps({"value": _plain(value, blobs), "blobs": [len(blob) for blob in blobs]}).encode()
    await stream.send(len(header).to_bytes(4, "big") + header)
    for blob in blobs:
        await stream.send(blob)


async def receive(stream: ByteReceiveStream) -> Any:
    """Receive one value. Raises anyio.EndOfStream, anyio.IncompleteRead; ConnectionFailed: it is no frame of ours."""
    buffered = stream if isinstance(stream, BufferedByteReceiveStream) else BufferedByteReceiveStream(stream)
    size = int.from_bytes(await buffered.receive_exactly(4), "big")
    if size > _HEADER_MAX_BYTES:
        raise ConnectionFailed(f"a header of {size} bytes", remedy="both sides must be rewindbox")
    header = json.loads(await buffered.receive_exactly(size))
    if sum(header["blobs"]) > _BLOBS_MAX_BYTES:
        raise ConnectionFailed(f"{sum(header['blobs'])} bytes at once", remedy="send less")
    blobs = [await buffered.receive_exactly(size) if size else b"" for size in header["blobs"]]
    return _rich(header["value"], blobs)


def error_as_value(error: RewindboxError) -> dict[str, Any]:
    """What `error_of_value` makes the same error of."""
    return {"code": error.code, "message": str(error), "detail": error.detail, "remedy": error.remedy}


def error_of_value(value: dict[str, Any]) -> RewindboxError:
    """An error of the same class, that says the same."""
    return _error(_ERRORS.get(value["code"], RewindboxError), value["message"], value["detail"], value["remedy"])


def error_of_code(code: str, message: str, remedy: str | None) -> RewindboxError:
    """As a server tells one; ApiError: it is of a class that we do not have."""
    kind = _ERRORS.get(code, ApiError)
    detail = message.removeprefix(kind.prefix).removesuffix(f"; {remedy}")
    return _error(kind, message, detail, remedy)


def _error(kind: type[RewindboxError], message: str, detail: str, remedy: str | None) -> RewindboxError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.detail, error.remedy = detail, remedy
    return error


def _plain(value: Any, blobs: list[bytes]) -> Any:
    if isinstance(value, (bytes, bytearray)):
        blobs.append(bytes(value))
        return {"#": "bytes", "at": len(blobs) - 1}
    if isinstance(value, datetime):
        return {"#": "datetime", "at": value.isoformat()}
    if type(value).__name__ in _CLASSES:
        told = {field.name: _plain(getattr(value, field.name), blobs) for field in fields(value)}
        return {"#": type(value).__name__, "fields": told}
    if isinstance(value, dict):
        return {name: _plain(content, blobs) for name, content in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(content, blobs) for content in value]
    return value


def _rich(value: Any, blobs: list[bytes]) -> Any:
    if isinstance(value, list):
        return [_rich(content, blobs) for content in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("#")
    if kind == "bytes":
        return blobs[value["at"]]
    if kind == "datetime":
        return datetime.fromisoformat(value["at"])
    if kind in _CLASSES:
        told = {name: _rich(content, blobs) for name, content in value["fields"].items()}
        # JSON has no tuples, and our frozen classes have nothing else.
        return _CLASSES[kind](**{name: tuple(v) if isinstance(v, list) else v for name, v in told.items()})
    return {name: _rich(content, blobs) for name, content in value.items()}
