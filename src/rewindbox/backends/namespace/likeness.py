"""Whether an entry is still what the last point copied, where its change time cannot tell.

Before Linux 6.13, and on file systems that are content with less, times come from a clock that ticks every 1 to 10 ms.
What is written twice within a tick has the same change time both times; if the point was taken in between, the second
time leaves no trace. So what is as young as the clock when it is seen is looked at itself the next time.
"""

import errno
import os
import stat
import time
from collections.abc import Collection
from typing import Any

from rewindbox.backends.namespace import attributes, paths
from rewindbox.backends.namespace.trees import Signature

_TICKING = 5
"""CLOCK_REALTIME_COARSE, of which file systems take their times."""
_READ_MAX = 2 << 20
"""A young file that has more in it is copied again."""
_OWN = paths.NO_LINKS | paths.SAME_MOUNT
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY


def now_ns() -> int:
    """The time that a file has which is changed now."""
    return time.clock_gettime_ns(_TICKING)


def young(found: Signature, since_ns: int) -> set[str]:
    """Those that may change after `since_ns`, when it was begun to look at them, and have the same time then."""
    return {path for path, identity in found.items() if identity[1] >= since_ns}


def unlike(tree: str, copy: str, which: Collection[str]) -> set[str]:
    """Those of the paths that are not the same below both folders, or of which that cannot be said."""
    if not which:
        return set()
    roots = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for folder in (tree, copy)]
    try:
        return {path for path in which if not _is_alike(roots, path)}
    finally:
        for root in roots:
            os.close(root)


def _is_alike(roots: list[int], path: str) -> bool:
    try:
        here, there = (_look(root, path) for root in roots)
    except OSError:
        return False
    return here is not None and here == there


def _look(root: int, path: str) -> tuple[Any, ...] | None:
    """All that a copy has of an entry; None: it is too long."""
    above, name = os.path.split(path)
    folder = paths.open_in(root, above or ".", _FOLDER, 0, _OWN)
    try:
        status, here = os.lstat(name or ".", dir_fd=folder), f"/proc/self/fd/{folder}/{name}"
        told = (status.st_mode, status.st_mtime_ns, attributes_of(here))
        if stat.S_ISLNK(status.st_mode):
            return (*told, os.readlink(name, dir_fd=folder))
        if not stat.S_ISREG(status.st_mode):
            return told
        content = _content(folder, name)
        return None if content is None else (*told, status.st_size, content)
    finally:
        os.close(folder)


def attributes_of(path: str) -> dict[str, bytes]:
    """Those of an entry that its copy has, too."""
    names = [name for name in os.listxattr(path, follow_symlinks=False) if attributes.fate(name) != "made anew"]
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def _content(folder: int, name: str) -> list[tuple[int, bytes]] | None:
    """What is between its holes, and where; None: that is too much, or it is no file any more."""
    file = paths.open_in(folder, name, _FILE, 0, _OWN)
    with open(file, "rb", buffering=0) as opened:
        parts, at, room = [], 0, _READ_MAX
        status = os.fstat(file)
        while stat.S_ISREG(status.st_mode) and at < status.st_size:
            try:
                at = os.lseek(file, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break  # only a hole is left
            end = os.lseek(file, at, os.SEEK_HOLE)
            room -= end - at
            if room < 0:
                return None
            opened.seek(at)
            parts.append((at, opened.read(end - at)))
            at = end
        return parts if stat.S_ISREG(status.st_mode) else None
