"""For schemathesis: two of its checks, without what no schema of ours can say.

That a language exists, that code is not blank or too long as configured, that a name or a path of a vm is free or
there: a request that fits the schema can be refused for these, with a code or a text that says so.
"""

import json
from typing import Any

import schemathesis
from schemathesis.specs.openapi.checks import ensure_resource_availability, positive_data_acceptance

_CODES = ("unsupported_language", "validation_failed", "bad_request")
_TEXTS = ("is taken", "is that of something else", "beginning with neither")
_IN_A_BODY = ("snapshot_not_found", "unknown_execution", "unknown_file", "session_not_found")


def _problem(response: Any) -> tuple[str, str]:
    """The code and the text of an answer that is a problem."""
    try:
        told = json.loads(response.content)
        return told["code"], told["detail"]
    except (ValueError, KeyError, TypeError):
        return "", ""


@schemathesis.check
def what_fits_is_accepted(ctx: Any, response: Any, case: Any) -> bool | None:
    """What a schema allows is not refused for its shape."""
    code, text = _problem(response)
    if code in _CODES or any(part in text for part in _TEXTS):
        return None
    return positive_data_acceptance(ctx, response, case)


@schemathesis.check
def what_was_made_is_there(ctx: Any, response: Any, case: Any) -> bool | None:
    """What was made is found; what a request names in it may be none."""
    if _problem(response)[0] in _IN_A_BODY:
        return None
    return ensure_resource_availability(ctx, response, case)
