"""What all routes of the original's API share: how errors are said, how wide requests are, names of values."""

import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, model_validator

from rewindbox.errors import InvalidArgument, RewindboxError
from rewindbox.server import counted, problems


class Route(counted.Route):
    """A route whose errors are JSON as the original's clients read it: `error` and `message`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, and what it raises as an answer."""
        handler = super().get_route_handler()

        async def told(request: Request) -> Response:
            try:
                return await handler(request)
            except Exception as error:
                return answer(error)

        return told


def answer(error: Exception) -> Response:
    """An error as the original's clients read it."""
    made = problems.answer(known := problems.known(error))
    headers = {name: value for name, value in made.headers.items() if name in ("retry-after", "connection")}
    return JSONResponse(failure(known), made.status_code, headers)


def failure(error: RewindboxError) -> dict[str, Any]:
    """What is said of an error: the text under both names that are looked for."""
    return problems.problem_at("", error)


class Lenient(BaseModel):
    """A request that may have more fields than we know."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _is_unicode(cls, data: Any) -> Any:
        check_unicode(data)
        return data


def check_unicode(data: Any) -> None:
    """JSON can spell half of a character, which no answer and no database can hold. Raises InvalidArgument."""
    try:
        json.dumps(data, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        raise InvalidArgument("a text with half of a character (a lone surrogate)", remedy="send Unicode") from None


def both(body: Mapping[str, Any]) -> dict[str, Any]:
    """Every value under its name and under that name as JavaScript writes it."""
    return {**body, **{_camel(name): value for name, value in body.items()}}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
