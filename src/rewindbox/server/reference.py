"""OpenAPI -> the part of docs/http-api.md that is made: each call with its command, every type, every error.

python -m rewindbox.server.reference docs/http-api.md     puts it into the file
"""

import json
import shlex
import sys
from collections.abc import Iterator
from typing import Any

from rewindbox import errors
from rewindbox.server import app
from rewindbox.server.gate import OPEN
from rewindbox.server.problems import EVERYWHERE, MEDIA_TYPE, STATUS

BEGIN = "<!-- made from OpenAPI by `make reference`; what stands below is not written by hand -->\n"
_NAMES = {
    **{"vm": "demo", "execution": "$EX", "run": "$RUN", "lease": "$LEASE"},
    **{"session": "main", "snapshot": "good", "stream": "stdout"},
}
"""What stands for a part of a path in a command."""

_COMMON = {kind.code for kind in EVERYWHERE}


def page() -> str:
    """Calls, types and errors, in Markdown."""
    openapi = app.routed().openapi()
    calls = "".join(_call(openapi, *call) for call in _calls(openapi))
    kinds = "".join(_kind(name, schema) for name, schema in sorted(openapi["components"]["schemas"].items()))
    common = ", ".join(f"`{kind.code}`" for kind in EVERYWHERE)
    return f"{BEGIN}\n## Calls\n\nErrors that every call can have: {common}.\n\n{calls}## Types\n\n{kinds}{_errors()}"


def commands() -> list[str]:
    """The command of each call, as the page has it."""
    openapi = app.routed().openapi()
    return [command(openapi, *call) for call in _calls(openapi)]


def _calls(openapi: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            yield method.upper(), path, operation


def command(openapi: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    """A call of curl. `$URL` is where the server is, `$AUTH` the header with the token."""
    words = [] if path in OPEN else ["-H", '"$AUTH"']
    body = operation.get("requestBody", {}).get("content", {})
    if "application/json" in body:
        words += ["--json", shlex.quote(json.dumps(_example(openapi, body["application/json"]["schema"])))]
    elif body:
        words += ["--upload-file", "data.csv"]
    implied = "POST" if "application/json" in body else "PUT" if body else "GET"
    if method != implied:
        words += ["-X", method]
    if MEDIA_EVENTS in operation["responses"].get("200", {}).get("content", {}):
        words.insert(0, "-N")
    for name, value in _NAMES.items():
        path = path.replace(f"{{{name}}}", value)
    required = [one for one in operation.get("parameters", ()) if one["in"] == "query" and one["required"]]
    query = "&".join(f"{one['name']}={one['schema']['examples'][0]}" for one in required)
    return " ".join(["curl", *words, f'"$URL{path}{"?" if query else ""}{query}"'])


MEDIA_EVENTS = "text/event-stream"


def _example(openapi: dict[str, Any], schema: dict[str, Any]) -> Any:
    name = schema["$ref"].rpartition("/")[2]
    return openapi["components"]["schemas"][name]["examples"][0]


def _call(openapi: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    lines = [f"### {method} {path}", "", operation["description"], ""]
    lines += ["```console", f"$ {command(openapi, method, path, operation)}", "```", ""]
    lines += [*_parameters(operation)]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body:
        lines.append(f"Takes {_type(body['schema'])}.")
    lines.append(_answers(operation))
    return "\n".join(lines) + "\n\n"


def _parameters(operation: dict[str, Any]) -> Iterator[str]:
    for one in operation.get("parameters", ()):
        if one["in"] != "path":
            kind = _type(one["schema"])
            yield f"- `{one['name']}` ({one['in']}, {kind}): {one.get('description', '')}"
    if any(one["in"] != "path" for one in operation.get("parameters", ())):
        yield ""


def _answers(operation: dict[str, Any]) -> str:
    """The statuses of a call: what is answered, and the codes of its errors."""
    good, bad = [], []
    for status, response in sorted(operation["responses"].items()):
        content = response.get("content", {})
        if MEDIA_TYPE in content:
            codes = [code for code in response["description"].split("`")[1::2] if code not in _COMMON]
            bad += [f"{status} {', '.join(f'`{code}`' for code in codes)}"] if codes else []
        else:
            kinds = [_type(each["schema"]) if each.get("schema") else f"`{name}`" for name, each in content.items()]
            good.append(f"{status} {' or '.join(kinds)}".strip())
    return f"Answers {'; '.join(good)}.{' Errors of its own: ' + '; '.join(bad) + '.' if bad else ''}"


def _type(schema: dict[str, Any]) -> str:
    """A type in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    return str(schema.get("format") or schema.get("type") or "any")


def _kind(name: str, schema: dict[str, Any]) -> str:
    rows = []
    for field, described in schema["properties"].items():
        default = described.get("default")
        must = field in schema.get("required", ())
        kind = _type(described) + ("" if must or default is None else f", without: `{json.dumps(default)}`")
        rows.append(f"| `{field}` | {kind} | {described['description']} |")
    head = "| field | type | meaning |\n|---|---|---|\n"
    return f"### {name}\n\n{schema['description']}\n\n{head}" + "\n".join(rows) + "\n\n"


def _errors() -> str:
    """Every code that a client can get, with its status and what it means."""
    rows = []
    for kind in sorted(_every(errors.RewindboxError), key=lambda kind: kind.code):
        status = next((number for base, number in STATUS.items() if issubclass(kind, base)), 500)
        rows.append(f"| `{kind.code}` | {status} | {(kind.__doc__ or '').splitlines()[0]} |")
    return "## Errors\n\n| code | status | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def _every(kind: type[errors.RewindboxError]) -> set[type[errors.RewindboxError]]:
    below = {each for one in kind.__subclasses__() if one.__module__ == errors.__name__ for each in _every(one)}
    return below | ({kind} if kind is not errors.RewindboxError else set())


def main() -> None:
    """Put the page into the file that is named."""
    (path,) = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        written = file.read().partition(BEGIN)[0]
    with open(path, "w", encoding="utf-8") as file:
        file.write(written + page())


if __name__ == "__main__":
    main()
