"""Files of a vm for its holder: opened and listed by the supervisor, resolved inside the vm's root at every step."""

import os
import stat
from typing import Any

from rewindbox.backends.namespace import kernel

HOME = "/home/agent"
_INSIDE = kernel.RESOLVE_IN_ROOT | kernel.RESOLVE_NO_MAGICLINKS
_OWN_FILES = _INSIDE | kernel.RESOLVE_NO_XDEV
_LIST_MAX = 100_000


class BadPath(ValueError):
    """A path inside the vm that cannot be what was asked for."""


def working_folder(root: int, folder: str | None) -> str:
    """An absolute path to a folder in the vm; where the code deleted its home, the root."""
    path = os.path.join(HOME, folder or "")
    try:
        os.close(kernel.openat2(root, path, os.O_PATH | os.O_DIRECTORY, 0, _INSIDE))
    except OSError as error:
        if folder is None:
            return "/"
        raise BadPath(f"working_dir {folder!r}: {os.strerror(error.errno or 0)}") from error
    return path


def open_file(root: int, path: str, *, write: bool, mode: int) -> int:
    """A descriptor of a regular file of the vm's own; for writing, folders on the way are made."""
    path = os.path.join(HOME, path)
    if write:
        _make_folders(root, os.path.dirname(path))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOCTTY | os.O_NONBLOCK
    else:
        flags = os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK
    descriptor = kernel.openat2(root, path, flags, mode if write else 0, _OWN_FILES)
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
            os.close(kernel.openat2(root, folder, os.O_PATH | os.O_DIRECTORY, 0, _OWN_FILES))
        except FileNotFoundError:
            above = "/".join(parts[: count - 1]) or "."
            parent = kernel.openat2(root, above, os.O_PATH | os.O_DIRECTORY, 0, _OWN_FILES)
            try:
                os.mkdir(parts[count - 1], 0o755, dir_fd=parent)
            finally:
                os.close(parent)


def list_folder(root: int, path: str) -> list[list[Any]]:
    """Name, kind, size and time of change of each entry, by name."""
    folder = kernel.openat2(root, os.path.join(HOME, path), os.O_RDONLY | os.O_DIRECTORY, 0, _OWN_FILES)
    try:
        names = os.listdir(folder)
        if len(names) > _LIST_MAX:
            raise BadPath(f"it has {len(names)} entries; at most {_LIST_MAX} are listed")
        return [_entry(folder, name) for name in sorted(names)]
    finally:
        os.close(folder)


def _entry(folder: int, name: str) -> list[Any]:
    status = os.lstat(name, dir_fd=folder)
    kind = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    return [name, kind.get(stat.S_IFMT(status.st_mode), "other"), status.st_size, status.st_mtime]
