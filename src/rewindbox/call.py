"""A command as it was called: its words, its streams, the store it opens and what it reads from the host."""

import argparse
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rewindbox import documents
from rewindbox.door import Rewindbox
from rewindbox.errors import BadRequest, InvalidArgument, UnknownVm, ValidationFailed
from rewindbox.telling import Progress
from rewindbox.terminal import Neutral, Stream

TEXT_BYTES = 128 << 20
"""Read of an answer or of code at most; the settings have a bound of their own, in characters."""
FILE_BYTES = 1 << 30
"""Copied or given to a program at most: it is held in memory."""

_TOKEN_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Call:
    """A command with its arguments, and where it writes."""

    arguments: argparse.Namespace
    out: Stream
    err: Stream

    def emit(self, value: Any, text: Callable[[], str]) -> int:
        """What was asked for: `value` with --json, else `text`. Returns 0."""
        self.out.write(documents.document(value) if self.arguments.json else text())
        return 0

    def confirm(self, value: Any, plain: str, text: str) -> int:
        """What was done: `text` for a person, `plain` in a pipe."""
        if self.arguments.json or not self.arguments.quiet:
            self.emit(value, lambda: f"{text if self.out.is_terminal else plain}\n")
        return 0

    @property
    def program(self) -> str:
        """How to call us again, on the same store or server; where its token is, who calls knows."""
        for flag in ("store", "server"):
            if place := getattr(self.arguments, flag):
                return f"rewindbox --{flag} {shlex.quote(place)}"
        return "rewindbox"


def opened(call: Call) -> Rewindbox:
    """The store or the server, with the limits that flags name over the configured ones."""
    given = {
        name.removeprefix("limit_"): value
        for name, value in vars(call.arguments).items()
        if name.startswith("limit_") and value is not None
    }
    arguments = call.arguments
    return Rewindbox(
        arguments.server or arguments.store,
        limits=given or None,
        ask_keeper=True,
        token=token(call),
    )


def progress_of(call: Call) -> Progress:
    """Where a command says what it is at; nowhere with --quiet or --json."""
    return Progress(call.err, is_shown=not call.arguments.quiet and not call.arguments.json)


def token(call: Call) -> str | None:
    """What a server knows us by, of the file that a flag names; None: the environment has it, or nothing."""
    path = call.arguments.token_file
    return None if path is None else read(path, "token", _TOKEN_BYTES).decode("ascii", "replace")


def read(source: str, what: str, at_most: int = TEXT_BYTES) -> bytes:
    """A file of the host or standard input, whole; a terminal is nobody's file."""
    if source == "-" and os.isatty(0):
        raise InvalidArgument(f"no {what}: standard input is a terminal", remedy="name a file, or pipe it in")
    try:
        with open(0 if source == "-" else source, "rb", closefd=source != "-") as file:
            data = file.read(at_most + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadRequest(f"{source}: {reason}", remedy="name a file that can be read") from error
    if len(data) > at_most:
        raise ValidationFailed(f"{source} has more than {at_most} bytes", remedy="give less")
    return data


def write_through(stream: Stream, data: bytes) -> None:
    """Unchanged in a pipe, neutralised on a terminal."""
    if stream.is_terminal:
        stream.write(Neutral().feed(data, final=True))
    else:
        stream.write_bytes(data)


def vm_id(box: Rewindbox, name: str) -> str | None:
    try:
        return box.vm(name, create=False).id
    except UnknownVm:
        return None
