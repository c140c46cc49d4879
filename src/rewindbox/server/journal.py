"""The server's log: a line of JSON for each thing that happened, on standard error.

Ids, names, numbers and codes; no code, no output, no environment, no token and no query string, in which a
client may have put one.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from rewindbox.execution import rfc3339

_LOG = logging.getLogger("rewindbox.server")


class JsonLines(logging.Formatter):
    """A record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """What was said, when, and the facts that were given with it."""
        facts = getattr(record, "facts", {})
        said = {"at": rfc3339(datetime.fromtimestamp(record.created, UTC)), "level": record.levelname.lower()}
        said |= {"event": record.getMessage(), **facts}
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said)


def begin() -> None:
    """Have the server's log, and that of what it is made of, written to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("rewindbox.server", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def note(event: str, **facts: Any) -> None:
    """Something happened."""
    _LOG.info(event, extra={"facts": facts})


def unexpected(error: BaseException) -> None:
    """A bug of ours, with where it is."""
    _LOG.error("bug", exc_info=error)
