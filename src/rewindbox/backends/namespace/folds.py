"""Many frozen layers made one, by hard links: nobody writes to any of them any more."""

import os
import stat
from dataclasses import dataclass

from rewindbox.backends.namespace.trees import Linker, copy_attributes

_OPAQUE = "user.overlay.opaque"


def fold(layers: list[str], skeleton: str, target: str) -> None:
    """Make one layer of several (bottom first) by hard links: what an overlay of them shows.

    Marks for deleted names and replaced folders are kept only where `skeleton`, which stays below, has the
    name: in a folder that nothing below has, the kernel would list them.
    """
    os.mkdir(target, 0o700)
    folders: list[tuple[str, str]] = []
    linker, waiting = Linker(), [_Merge("", layers[::-1], True)]
    while waiting:
        merge = waiting.pop()
        folders.append((os.path.join(merge.layers[0], merge.path), os.path.join(target, merge.path)))
        waiting += _fold_folder(merge, skeleton, target, linker)
    for here, there in reversed(folders):
        copy_attributes(here, there, folding=True)


@dataclass(frozen=True, slots=True)
class _Merge:
    """A folder of the result, and the layers (top first) whose entries show in it."""

    path: str
    layers: list[str]
    skeleton_shows: bool


def _fold_folder(merge: _Merge, skeleton: str, target: str, linker: Linker) -> list[_Merge]:
    """Link the entries of one folder; returns its own folders, which are merged next."""
    holders: dict[str, list[str]] = {}
    for layer in merge.layers:
        for name in os.listdir(os.path.join(layer, merge.path)):
            holders.setdefault(name, []).append(layer)
    inner = []
    for name, having in holders.items():
        path = os.path.join(merge.path, name)
        below = merge.skeleton_shows and os.path.lexists(os.path.join(skeleton, path))
        top = os.lstat(os.path.join(having[0], path))
        if stat.S_ISDIR(top.st_mode):
            shown, covered = _shown(path, having)
            os.mkdir(os.path.join(target, path), 0o700)
            if covered and below:
                os.setxattr(os.path.join(target, path), _OPAQUE, b"y")
            inner.append(_Merge(path, shown, below and not covered))
        elif below or not is_whiteout(top):
            linker.link(os.path.join(having[0], path), os.path.join(target, path))
    return inner


def _shown(path: str, layers: list[str]) -> tuple[list[str], bool]:
    """The layers whose folder `path` is merged, and whether what lies further below is covered."""
    for count, layer in enumerate(layers):
        here = os.path.join(layer, path)
        if not stat.S_ISDIR(os.lstat(here).st_mode):
            return layers[:count], True
        if _is_opaque(here):
            return layers[: count + 1], True
    return layers, False


def is_whiteout(status: os.stat_result) -> bool:
    """An overlay's mark for a deleted name: a character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_opaque(folder: str) -> bool:
    try:
        return os.getxattr(folder, _OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False
