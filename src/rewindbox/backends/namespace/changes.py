"""What has become of a vm's files since a state: the tree that they are now, beside the one that the state shows.

Layers that both have in common show the same in both. So a folder is looked into only where one of the other layers
has it, or one of the trees alone: what that costs follows from what was changed, not from what there is. Code may be
changing the tree meanwhile, and is hostile: nothing is opened through a link or in another mount, and all is bounded.
"""

import contextlib
import os
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rewindbox.backends.namespace import files, likeness, paths, trees

TOLD_MAX = 10_000
_SEEN_MAX = 200_000
"""Entries of both trees together; a hundred MiB while they are looked at."""
_TEXT_MAX = 4 << 20
"""Characters of all paths that are told."""
_READ_MAX = 1 << 20
_READ_ALL_MAX = 256 << 20
"""A file up to so many bytes whose size and times are the same is read, too: code can set a time. And of all files."""
_OWN = paths.NO_LINKS | paths.SAME_MOUNT
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY

Entry = os.stat_result | None


class _Enough(Exception):
    """A bound is reached."""


@dataclass(slots=True)
class Comparison:
    """Of the tree below `now` with the one below `then`, both descriptors of folders."""

    now: int
    then: int
    apart: Sequence[str]
    """The layers that only one of the trees has."""
    besides: Collection[str]
    """Names at the top that are mounts, and no files of the vm."""
    found: list[tuple[str, str, str, int]] = field(default_factory=list)
    _seen: int = 0
    _text: int = 0
    _read: int = 0

    def run(self) -> dict[str, Any]:
        """What has become of which path; at most so much."""
        is_complete = True
        waiting: list[tuple[str, Entry, Entry]] = [("", os.fstat(self.now), os.fstat(self.then))]
        try:
            while waiting:
                path, now, then = waiting.pop()
                waiting += reversed(list(self._folder(path, now, then)))
        except _Enough:
            is_complete = False
        return {"files": sorted(self.found), "is_complete": is_complete}

    def _folder(self, path: str, now: Entry, then: Entry) -> Iterator[tuple[str, Entry, Entry]]:
        """Compare the entries of a folder; yields those to be looked into."""
        here, there = self._entries(self.now, path, now), self._entries(self.then, path, then)
        for name in sorted(here.keys() | there.keys()):
            inner = os.path.join(path, name)
            if not path and name in self.besides:
                continue
            before, after = there.get(name), here.get(name)
            if before and after and not self._may_differ(inner):
                continue
            self._compare(inner, after, before)
            if _is_folder(before) or _is_folder(after):
                yield inner, after, before

    def _entries(self, root: int, path: str, status: Entry) -> dict[str, os.stat_result]:
        if not _is_folder(status):
            return {}
        if len(os.fsencode(path)) > trees.PATH_MAX:
            raise _Enough
        found: dict[str, os.stat_result] = {}
        with contextlib.suppress(OSError):  # it is gone meanwhile, or another thing
            folder = paths.open_in(root, path or ".", _FOLDER, 0, _OWN)
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        self._seen += 1
                        if self._seen > _SEEN_MAX:
                            raise _Enough
                        with contextlib.suppress(FileNotFoundError):
                            found[entry.name] = entry.stat(follow_symlinks=False)
            finally:
                os.close(folder)
        return found

    def _may_differ(self, path: str) -> bool:
        return any(os.path.lexists(f"{layer}/{path}") for layer in self.apart)

    def _compare(self, path: str, now: Entry, then: Entry) -> None:
        if now is None or then is None:
            self._tell(path, "created" if then is None else "deleted", now or then)
        elif self._is_changed(path, now, then):
            self._tell(path, "modified", now)

    def _tell(self, path: str, change: str, status: Entry) -> None:
        assert status is not None
        self._text += len(path)
        if len(self.found) >= TOLD_MAX or self._text > _TEXT_MAX:
            raise _Enough
        kind = files.kind_of(status)
        self.found.append((f"/{path}", change, kind, status.st_size if kind == "file" else 0))

    def _is_changed(self, path: str, now: os.stat_result, then: os.stat_result) -> bool:
        if now.st_mode != then.st_mode:
            return True
        is_file = stat.S_ISREG(now.st_mode)
        if is_file and (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns):
            return True
        try:
            return self._content(self.now, path, now) != self._content(self.then, path, then)
        except OSError:  # of one that somebody is just changing
            return True

    def _content(self, root: int, path: str, status: os.stat_result) -> tuple[Any, ...]:
        """What an entry is besides its size and times."""
        above, name = os.path.split(path)
        folder = paths.open_in(root, above or ".", _FOLDER, 0, _OWN)
        try:
            here = f"/proc/self/fd/{folder}/{name}"
            if stat.S_ISLNK(status.st_mode):
                return os.readlink(here), likeness.attributes_of(here)
            is_read = stat.S_ISREG(status.st_mode) and status.st_size <= _READ_MAX
            return self._data(folder, name) if is_read else b"", likeness.attributes_of(here)
        finally:
            os.close(folder)

    def _data(self, folder: int, name: str) -> bytes:
        file = paths.open_in(folder, name, _FILE, 0, _OWN)
        try:
            data = os.read(file, _READ_MAX + 1) if stat.S_ISREG(os.fstat(file).st_mode) else b""
        finally:
            os.close(file)
        self._read += len(data)
        if self._read > _READ_ALL_MAX:
            raise _Enough
        return data


def _is_folder(status: Entry) -> bool:
    return status is not None and stat.S_ISDIR(status.st_mode)
