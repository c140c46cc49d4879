"""Files of a vm for its holder: opened and listed by the supervisor, resolved inside the vm's root at every step."""

import itertools
import os
import stat
from typing import Any

from rewindbox.backends.namespace import paths

HOME = "/home/agent"
_OWN_FILES = paths.IN_ROOT | paths.SAME_MOUNT
_LIST_MAX = 100_000
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}


class BadPath(ValueError):
    """A path inside the vm that cannot be what was asked for."""


def working_folder(root: int, folder: str | None) -> str:
    """An absolute path to a folder in the vm; where the code deleted its home, the root."""
    path = os.path.join(HOME, folder or "")
    try:
        os.close(paths.open_in(root, path, os.O_PATH | os.O_DIRECTORY))
    except OSError as error:
        if folder is None:
            return "/"
        raise BadPath(f"working_dir {folder!r}: {os.strerror(error.errno or 0)}") from error
    return path


def nothing(root: int) -> int:
    """To be read where no input is given: the vm's own /dev/null. The host's cannot be opened again, as /dev/stdin."""
    return paths.open_in(root, "dev/null", os.O_RDONLY, 0, paths.NO_LINKS)


def open_file(root: int, path: str, *, write: bool, mode: int) -> int:
    """A descriptor of a regular file of the vm's own; for writing, folders on the way are made."""
    path = os.path.join(HOME, path)
    if write:
        _make_folders(root, os.path.dirname(path))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOCTTY | os.O_NONBLOCK
    else:
        flags = os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK
    descriptor = paths.open_in(root, path, flags, mode if write else 0, _OWN_FILES)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadPath("it is not a regular file")
    if write:
        os.fchmod(descriptor, mode)
    return descriptor


def _make_folders(root: int, path: str) -> None:
    """As mkdir -p, resolved inside the vm at every step."""
    parts = [part for part in path.split("/") if part]
    for count in range(1, len(parts) + 1):
        folder = "/".join(parts[:count])
        try:
            os.close(paths.open_in(root, folder, os.O_PATH | os.O_DIRECTORY, 0, _OWN_FILES))
        except FileNotFoundError:
            above = "/".join(parts[: count - 1]) or "."
            parent = paths.open_in(root, above, os.O_PATH | os.O_DIRECTORY, 0, _OWN_FILES)
            try:
                os.mkdir(parts[count - 1], 0o755, dir_fd=parent)
            finally:
                os.close(parent)


def list_folder(root: int, path: str) -> list[list[Any]]:
    """Name, kind, size and time of change of each entry, by name; without those that go meanwhile."""
    folder = paths.open_in(root, os.path.join(HOME, path), os.O_RDONLY | os.O_DIRECTORY, 0, _OWN_FILES)
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, _LIST_MAX + 1)]
        if len(names) > _LIST_MAX:
            raise BadPath(f"it has more than {_LIST_MAX} entries; at most so many are listed")
        return [entry for name in sorted(names) if (entry := _entry(folder, name)) is not None]
    finally:
        os.close(folder)


def _entry(folder: int, name: str) -> list[Any] | None:
    try:
        status = os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return None
    return [name, kind_of(status), status.st_size, status.st_mtime]


def kind_of(status: os.stat_result) -> str:
    """What it is, as `base.FileKind` says."""
    return _KINDS.get(stat.S_IFMT(status.st_mode), "other")
