"""`rewindbox serve` and `rewindbox token`."""

import asyncio
import ipaddress
import json
import socket
from typing import TYPE_CHECKING

from rewindbox import config, show
from rewindbox.call import Call
from rewindbox.engine import AsyncRewindbox
from rewindbox.errors import BadRequest, ConfigError, Internal, InvalidArgument
from rewindbox.server.tokens import Tokens

if TYPE_CHECKING:
    from rewindbox.server.listener import Listener

FIRST = "first"
"""The name of the token that the first start makes."""


def main(call: Call) -> int:
    """Carry out `serve` or a verb of `token`."""
    if call.arguments.command == "serve":
        return _serve(call)
    return {"create": _create, "list": _list, "revoke": _revoke}[call.arguments.verb](call)


def _tokens(call: Call) -> Tokens:
    folder = config.load(store=call.arguments.store).folder
    config.check_owner(folder)
    return Tokens(folder)


def _create(call: Call) -> int:
    name, agent = call.arguments.token_name, call.arguments.agent
    secret = _tokens(call).create(name, agent)
    whose = f", of agent {agent}" if agent else ""
    return call.confirm(
        {"name": name, "agent": agent, "token": secret},
        secret,
        f"{secret}\ntoken {name}{whose}; it is not shown again",
    )


def _list(call: Call) -> int:
    found = _tokens(call).all()
    value = {"tokens": [token.as_dict() for token in found]}
    return call.emit(value, lambda: show.lines((token.name, token.agent or "-", token.created_at) for token in found))


def _revoke(call: Call) -> int:
    gone = _tokens(call).revoke(call.arguments.token_name)
    return call.confirm(gone.as_dict(), gone.name, f"token {gone.name} is revoked")


def _serve(call: Call) -> int:
    try:
        from rewindbox.server import app, journal, listener  # noqa: PLC0415  only here, and only with the extra
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("rewindbox"):
            raise
        remedy = "pip install 'rewindbox[server]'"
        raise ConfigError(f"`serve` needs {error.name}, which is not installed", remedy=remedy) from error
    arguments = call.arguments
    _check_loopback(arguments.host, arguments.no_auth)
    tokens = None if arguments.no_auth else _tokens(call)
    is_first = tokens is not None and not tokens.all()
    box = AsyncRewindbox(arguments.store)  # a wrong setting is said now
    choices = app.Choices(tokens=tokens, hosts=arguments.name or (), origins=arguments.origin or ())
    gate, inner = app.made(box, choices)
    with bound(arguments.host, arguments.port) as listening:
        journal.begin()
        server = listener.Listener(
            gate,
            choices.bounds,
            on_stop=lambda: app.stop(inner),
            on_started=lambda port: _say_where(call, arguments.host, port, tokens if is_first else None),
        )
        asyncio.run(_served(server, box, listening))
    return 0


async def _served(server: "Listener", box: AsyncRewindbox, listening: socket.socket) -> None:
    """Serve until told to stop. Raises HistoryError, before anything is served: the store cannot be opened."""
    async with box:
        await server.serve([listening])
    if not server.started:
        raise Internal("the server did not start", remedy="its log, on standard error, says why")


def _check_loopback(host: str, no_auth: bool) -> None:
    """Raises InvalidArgument: anybody on the network could run code."""
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise InvalidArgument(f"--host {host!r}", remedy="give an address of this host, such as 127.0.0.1") from error
    if no_auth and not is_loopback:
        raise InvalidArgument(f"--no-auth on {host}", remedy="leave out one of them: anybody could run code here")


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises BadRequest: it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP: without, asyncio does not send small answers at once (TCP_NODELAY), and each takes 40 ms.
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except (OSError, OverflowError) as error:
        made.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise BadRequest(f"{host}:{port} cannot be listened on: {reason}", remedy="choose another --port") from error
    return made


def _say_where(call: Call, host: str, port: int, tokens: Tokens | None) -> None:
    """Where it is, and once the token: a line each, or with --json a document.

    `tokens`: where the first one is to be made. It is made now and not before: one that nobody was told is lost.
    """
    first = None if tokens is None else tokens.create(FIRST)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if call.arguments.no_auth:
        warning = "WARNING: --no-auth: every program on this host may run code here"
        call.err.write(f"{call.err.styled(warning, 'red')}\n")
    if call.arguments.json:
        call.out.write(json.dumps({"url": url, "token": first, "auth": not call.arguments.no_auth}) + "\n")
        return
    call.out.write(f"rewindbox at {url}\n")
    if first is not None:
        note = f"named {FIRST}; it is not shown again, `rewindbox token create` makes others"
        call.out.write(f"token: {first}\n({note})\n")
    elif not call.arguments.no_auth:
        call.err.write(
            "(asked for a token; `rewindbox token list` names them, `rewindbox token create NAME` makes another)\n"
        )
