"""What folders written by hostile code occupy, measured while it may be changing them, without following anything.

By descriptors of folders, of which a bounded number is held, as in trees.py.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from rewindbox.backends.namespace import kernel, paths

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LONG_PATH = 2000
_WITHOUT_BOUND = 1 << 62


@dataclass(slots=True)
class Usage:
    """What a tree occupies."""

    files: int = 0
    size_bytes: int = 0


Weight = Callable[[int, str, os.stat_result], int]
"""The bytes of an entry: the folder that it is in, its name, its status."""


def on_disk() -> Weight:
    """Blocks as the disk counts them, once for all of a file's names: of some trees, of which others may have more."""
    counted: set[int] = set()

    def weight(folder: int, name: str, status: os.stat_result) -> int:
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if status.st_ino in counted:
                return 0
            counted.add(status.st_ino)
        return status.st_blocks * 512

    return weight


def in_attributes(folder: int, name: str, status: os.stat_result) -> int:
    """What the extended attributes of an entry take: in memory's own file systems that is memory, and no block."""
    path, size = f"/proc/self/fd/{folder}/{name}", 0
    with contextlib.suppress(OSError):  # it is gone meanwhile, or one of them
        for attribute in os.listxattr(path, follow_symlinks=False):
            size += kernel.attribute_bytes(path, attribute)
    return size


def usage(root: str, weight: Weight | None = None) -> Usage:
    """Entries and bytes (`on_disk`) below `root`, while code may be changing it.

    A tree that is nested too deep for our descriptors counts as without bound; one that is gone as nothing.
    """
    total, waiting, weight = Usage(), [(0, ".")], weight or on_disk()
    try:
        anchors = [os.open(root, _FOLDER)]
    except FileNotFoundError:
        return total
    try:
        while waiting:
            depth, path = waiting.pop()
            while len(anchors) > depth + 1:  # what lies below it was measured
                os.close(anchors.pop())
            try:
                waiting += _measure(anchors, path, total, weight)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    return Usage(_WITHOUT_BOUND, _WITHOUT_BOUND)  # else it is gone meanwhile
    finally:
        for anchor in anchors:
            os.close(anchor)
    return total


def _measure(anchors: list[int], path: str, total: Usage, weight: Weight) -> list[tuple[int, str]]:
    """Add up one folder; returns its folders. A path that gets long goes on from a descriptor of its own."""
    folder = paths.open_in(anchors[-1], path, _FOLDER, 0, paths.NO_LINKS)
    if len(os.fsencode(path)) > _LONG_PATH:
        anchors.append(folder)
        path = "."
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                total.files += 1
                total.size_bytes += weight(folder, entry.name, status)
                if stat.S_ISDIR(status.st_mode):
                    found.append((len(anchors) - 1, os.path.join(path, entry.name)))
    finally:
        if anchors[-1] != folder:
            os.close(folder)
    return found
