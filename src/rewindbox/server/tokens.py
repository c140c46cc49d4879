"""Who may ask: tokens with names, some of them an agent's. Kept as hashes in a file of the store, mode 0600.

A token is 256 random bits, so that a plain SHA-256 of it says nothing. The file is read again when it has
changed: a revoked token ends at the next request.
"""

import fcntl
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rewindbox.errors import ConfigError, InvalidArgument, Unauthorized
from rewindbox.execution import rfc3339
from rewindbox.registry import check_name

PREFIX = "rbx_"
"""What every token begins with, so that it is known when it turns up where it should not."""
_FILE = "tokens.json"


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token; not the token."""

    name: str
    agent: str | None
    """The only agent whose vms and executions it can see and use; None: all of them."""
    sha256: str
    created_at: str

    def as_dict(self) -> dict[str, Any]:
        """The documented JSON shape, without the hash."""
        return {"name": self.name, "agent": self.agent, "created_at": self.created_at}


ANYBODY = Token(name="anybody", agent=None, sha256="", created_at="")
"""Who asks where no token is asked for."""


class Tokens:
    """The tokens of one store."""

    def __init__(self, folder: str) -> None:
        """`folder`: that of the store. Nothing is read or made before it is needed."""
        self._folder, self.path = folder, os.path.join(folder, _FILE)
        self._seen: tuple[int, int, int] | None = None
        self._known: list[Token] = []

    def all(self) -> list[Token]:
        """All of them, oldest first. Raises ConfigError: the file cannot be read."""
        try:
            stat = os.stat(self.path)
        except FileNotFoundError:
            self._seen, self._known = None, []
            return self._known
        seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if seen != self._seen:
            self._known, self._seen = self._read(), seen
        return self._known

    def _read(self) -> list[Token]:
        try:
            with open(self.path, encoding="utf-8") as file:
                return [Token(**entry) for entry in json.load(file)["tokens"]]
        except (OSError, ValueError, TypeError, KeyError) as error:
            remedy = "remove the file, and make new tokens with `rewindbox token create`"
            raise ConfigError(f"the tokens in {self.path} cannot be read: {error}", remedy=remedy) from error

    def check(self, given: str) -> Token:
        """The token that this is. All of them are compared, each in constant time. Raises Unauthorized."""
        digest, found = _digest(given), None
        for token in self.all():
            if hmac.compare_digest(digest, token.sha256):
                found = token
        if found is None:
            raise Unauthorized("the token is none of this server's", remedy="`rewindbox token create NAME` makes one")
        return found

    def create(self, name: str, agent: str | None = None) -> str:
        """A new token; it is told now and never again. Raises InvalidArgument: the name is not one, or is taken."""
        check_name(name, "token name")
        if agent is not None and not 0 < len(agent) <= 256:
            raise InvalidArgument(f"agent {agent[:300]!r}", remedy="give 1 to 256 characters")
        secret = PREFIX + secrets.token_urlsafe(32)
        with self._changing() as known:
            if any(token.name == name for token in known):
                raise InvalidArgument(f"token name {name!r} is taken", remedy="choose another, or revoke that token")
            known.append(Token(name, agent, _digest(secret), rfc3339(datetime.now(UTC))))
        return secret

    def revoke(self, name: str) -> Token:
        """End a token. Raises InvalidArgument: none has that name."""
        with self._changing() as known:
            for token in known:
                if token.name == name:
                    known.remove(token)
                    return token
        raise InvalidArgument(f"no token has the name {name!r}", remedy="`rewindbox token list` shows them")

    @contextmanager
    def _changing(self) -> Iterator[list[Token]]:
        """The tokens, to be changed; what an exception ends is not written."""
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = list(self.all())
            yield known
            self._write(known)
            os.fsync(lock)
        finally:
            os.close(lock)

    def _write(self, known: list[Token]) -> None:
        """A new file in the place of the old one: a reader sees one or the other, whole."""
        new = f"{self.path}.new"
        with suppress(FileNotFoundError):
            os.unlink(new)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump({"tokens": [asdict(token) for token in known]}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, self.path)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
