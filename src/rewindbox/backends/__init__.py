"""What makes vms: chosen by name from one table, loaded only when chosen."""

from collections.abc import Sequence
from importlib import import_module

from rewindbox.backends.base import CHECKPOINTS, Backend
from rewindbox.backends.namespace import trees
from rewindbox.errors import ConfigError

_TABLE = {"namespace": "rewindbox.backends.namespace.backend:NamespaceBackend"}

_AHEAD = {"namespace": "rewindbox.backends.namespace.starting"}


def ahead(name: str, folder: str) -> None:
    """Start what the backend will need before it is loaded, where it can; `load` then finds it running."""
    if name in _AHEAD:
        import_module(_AHEAD[name]).ahead(folder)


def load(
    name: str,
    folder: str,
    *,
    spare: bool = True,
    checkpoints: tuple[int, int] = CHECKPOINTS,
    require: Sequence[str] = (),
) -> Backend:
    """The backend called `name`, keeping its vms in `folder`. Raises ConfigError: no such backend.

    `spare`: keep the makings of one more vm ready, so that a new one is there at once.
    `checkpoints`: of live sessions, see `base.CHECKPOINTS`.
    `require`: what must hold for a vm to start, see `limits.REQUIREMENTS`.
    """
    try:
        module, _, attribute = _TABLE[name].partition(":")
    except KeyError:
        known = ", ".join(sorted(_TABLE))
        raise ConfigError(f"no backend named {name!r}", remedy=f"choose one of {known}") from None
    made: Backend = getattr(import_module(module), attribute)(
        folder, spare=spare, checkpoints=checkpoints, require=require
    )
    return made


def delete(folder: str) -> None:
    """Delete a folder in which code has written, whatever it made of it. Missing: nothing happens."""
    trees.delete(folder)
