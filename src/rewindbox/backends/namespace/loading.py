"""Which code a program of the host's /usr begins with, as far as a vm's own files decide it.

Its loader and libraries are found by links and a table of the vm's, and Debian's python reads a file of /etc when it
starts. The code may change them all. What outlives a rollback (template.py) is not started where it has.
"""

import os

from rewindbox.backends.namespace import paths, rootfs
from rewindbox.backends.namespace.machine import Machine

_TABLES = ("etc/ld.so.cache", "etc/ld.so.preload")
_MUSL, _PYTHON = "ld-musl-", "python"
_TABLE_MAX_BYTES = 4 << 20


class Changed(Exception):
    """What programs are loaded by is not what the vm began with: going back mends it."""


def check(machine: Machine, otherwise: str) -> None:
    """Raises Changed, which begins with what comes of it."""
    skeleton = machine.look_at([])
    try:
        names = changed(skeleton, machine.root)
    finally:
        os.close(skeleton)
    if names:
        listed = ", ".join(f"/{name}" for name in names)
        raise Changed(f"{otherwise}: what programs are loaded by was changed in this vm ({listed})")


def changed(skeleton: int, root: int) -> list[str]:
    """The names of what is not in a vm's root as in its skeleton; descriptors of both."""
    before, now = _seen(skeleton), _seen(root)
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def _seen(root: int) -> dict[str, str | bytes | None]:
    """Name -> where a link leads, what a file has, or None: there is none."""
    links = {name: _link(root, name) for name in rootfs.USR_LINKS}
    return links | {name: _content(root, name) for name in _names(root)}


def _names(root: int) -> list[str]:
    try:
        folder = paths.open_in(root, "etc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return list(_TABLES)
    try:
        listed = os.listdir(folder)
    finally:
        os.close(folder)
    return [
        *_TABLES,
        *(f"etc/{name}" for name in listed if name.startswith(_MUSL)),
        *(f"etc/{name}/sitecustomize.py" for name in listed if name.startswith(_PYTHON)),
    ]


def _link(root: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=root)
    except OSError:
        return None


def _content(root: int, name: str) -> str | bytes | None:
    """Its beginning; in words, why it cannot be read."""
    try:
        file = paths.open_in(root, name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        return str(error)
    try:
        return os.read(file, _TABLE_MAX_BYTES)
    except OSError as error:
        return str(error)
    finally:
        os.close(file)
