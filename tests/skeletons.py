"""What all vms have below their own files goes from the stores of one test to those of the next.

It is 900 files. Making and deleting them for each took half of the time of all tests: ext4 looks at every inode that
was deleted in the last seconds before it takes another one. Who gets them has a store that was opened before.
"""

import os
import tempfile
from pathlib import Path

from rewindbox.backends.namespace import trees

_MOST = 4
_kept: list[Path] = []
"""Folders of vms with nothing else in them, whose owner is whom the vms run as."""


def lend(vms: Path) -> Path:
    """A folder for vms. Where it is not there yet, and a store that is gone has left one, it is made of that."""
    if _kept and not vms.exists():
        vms.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.rename(_kept.pop(), vms)
    return vms


def take_back(folder: Path) -> None:
    """Keep what lies in a store, or in a folder of vms, that is about to be deleted."""
    for skeleton in (*folder.glob("base-*"), *folder.glob("vms/base-*")):
        owner = skeleton.parent.stat()
        if len(_kept) < _MOST and owner.st_uid:
            place = tempfile.mkdtemp(prefix="kept-by-tests-")
            os.rename(skeleton, Path(place, skeleton.name))
            os.chown(place, owner.st_uid, owner.st_gid)
            _kept.append(Path(place))


def forget() -> None:
    """The tests are over."""
    while _kept:
        trees.delete(str(_kept.pop()))
