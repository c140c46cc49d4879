"""Folders written by hostile code: seen, copied and deleted without following anything.

Everything goes by descriptors of folders, never by a path that the code could have changed into a link,
and holds a bounded number of them. The caller makes sure that nobody writes meanwhile; but a process that is stopped
ends the call that it is in, and what that renames may come as a surprise.
"""

import contextlib
import errno
import itertools
import os
import secrets
import stat
from collections.abc import Iterator

from rewindbox.backends.namespace import attributes

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK_BYTES = 1 << 20
_CHANGED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.EINVAL, errno.ENODATA, errno.ENXIO)
"""What is said of a name that has become another thing."""
PATH_MAX = 3000
"""Bytes of a path that all of us take: the kernel takes 4095, with whatever it begins at."""

Signature = dict[str, tuple[int, int, int, int]]
"""Path -> inode, change time, size and mode: what tells an unchanged file."""


class TooBig(Exception):
    """A tree has more entries or bytes than the caller wants to copy."""


class Uncopied(OSError):
    """A copy would not be what is there: an attribute is refused to it, or somebody has changed something meanwhile."""


def signature(root: str, max_files: int, max_bytes: int) -> Signature:
    """Every entry below `root`, in an order in which parents come first. Raises TooBig beyond a bound, and Uncopied."""
    with _noticing():
        return _seen(root, max_files, max_bytes)


@contextlib.contextmanager
def _noticing() -> Iterator[None]:
    """What is said of a name that has become another thing is Uncopied."""
    try:
        yield
    except OSError as error:
        if error.errno not in _CHANGED:
            raise
        raise Uncopied(error.errno, "it has been changed meanwhile", error.filename) from error


def _seen(root: str, max_files: int, max_bytes: int) -> Signature:
    top = os.lstat(root)
    found: Signature = {"": _identity(top)}
    size, waiting = 0, [""]
    while waiting:
        folder = waiting.pop()
        place = _opened(os.path.join(root, folder), found[folder], top.st_dev)
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    path = os.path.join(folder, entry.name)
                    found[path] = _identity(status)
                    size += status.st_blocks * 512
                    if len(found) > max_files or size > max_bytes or len(os.fsencode(path)) > PATH_MAX:
                        raise TooBig
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append(path)
        finally:
            os.close(place)
    return found


def _opened(path: str, identity: tuple[int, ...], device: int) -> int:
    """The folder that was seen there; raises Uncopied where it is another one now, as behind a link."""
    folder = os.open(path, _FOLDER)
    status = os.fstat(folder)
    if status.st_ino != identity[0] or status.st_dev != device:
        os.close(folder)
        raise Uncopied(errno.ESTALE, "it is another folder now", path)
    return folder


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    """Of an overlay's mark for a deleted name that it is one: many are one file, which each new name changes."""
    if stat.S_ISCHR(status.st_mode):
        return 0, 0, 0, status.st_mode
    return status.st_ino, status.st_ctime_ns, status.st_size, status.st_mode


def copy(source: str, target: str, found: Signature, previous: str | None = None, same: Signature | None = None) -> int:
    """Copy the entries `found` below `source` to the new folder `target`; returns the bytes written.

    Raises Uncopied.

    A regular file whose identity is unchanged since `same` was read is hard-linked from `previous`, the
    copy made then: frozen copies may share inodes with each other, never with a tree that still changes.
    """
    os.mkdir(target, 0o700)
    with _noticing():
        return _copy_all(source, target, found, previous, same or {})


def _copy_all(source: str, target: str, found: Signature, previous: str | None, same: Signature) -> int:
    written, links, linker, device = 0, dict[int, str](), Linker(), os.lstat(source).st_dev
    folders = ["", *(path for path, identity in found.items() if path and stat.S_ISDIR(identity[3]))]
    for folder in folders[1:]:
        os.mkdir(os.path.join(target, folder), 0o700)
    for folder, paths in _by_folder(found):
        place = _opened(os.path.join(source, folder), found[folder], device)
        try:
            for path in paths:
                there, identity = os.path.join(target, path), found[path]
                if identity[0] in links:
                    written += linker.link(links[identity[0]], there)
                elif not stat.S_ISREG(identity[3]):
                    here = f"/proc/self/fd/{place}/{os.path.basename(path)}"
                    if _identity(os.lstat(here)) != identity:
                        raise Uncopied(errno.ESTALE, "it is another one now", path)
                    _copy_special(here, there, linker)
                    if identity[0]:
                        links[identity[0]] = there
                elif previous and same.get(path) == identity:
                    written += linker.link(os.path.join(previous, path), there)
                else:
                    written += _copy_file(os.path.basename(path), there, place)
                    links[identity[0]] = there
        finally:
            os.close(place)
    for folder in reversed(folders):
        place = _opened(os.path.join(source, folder), found[folder], device)
        try:
            copy_attributes(place, os.path.join(target, folder))
        finally:
            os.close(place)
    return written


def _by_folder(found: Signature) -> Iterator[tuple[str, Iterator[str]]]:
    """Folder -> paths of what is in it but folders, in their order."""
    return itertools.groupby((p for p, identity in found.items() if not stat.S_ISDIR(identity[3])), os.path.dirname)


class Linker:
    """Gives files further names. Where the disk allows one no more, it is copied and the copy named instead."""

    def __init__(self) -> None:
        self._copies: dict[int, str] = {}

    def link(self, source: str, target: str) -> int:
        """Returns the bytes written."""
        inode = os.lstat(source).st_ino
        try:
            os.link(self._copies.get(inode, source), target, follow_symlinks=False)
            return 0
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
        self._copies[inode] = target
        if stat.S_ISREG(os.lstat(source).st_mode):
            return _copy_file(source, target)
        _copy_special(source, target, None)
        return 0


def _copy_file(source: str, target: str, folder: int | None = None) -> int:
    """Contents with their holes, then attributes; `source` is in `folder`."""
    read = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        status = os.fstat(read)
        if not stat.S_ISREG(status.st_mode):
            raise Uncopied(errno.ESTALE, "it is no file any more", source)
        write = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            written = _copy_data(read, write, status.st_size)
        finally:
            os.close(write)
        copy_attributes(read, target)
    finally:
        os.close(read)
    return written


def _copy_data(read: int, write: int, size: int) -> int:
    written = at = 0
    os.ftruncate(write, size)
    while at < size:
        try:
            at = os.lseek(read, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                break
            raise
        end = os.lseek(read, at, os.SEEK_HOLE)
        os.lseek(read, at, os.SEEK_SET)
        os.lseek(write, at, os.SEEK_SET)
        while at < end:
            data = os.read(read, min(_CHUNK_BYTES, end - at))
            if not data:
                return written
            written += _write_all(write, data)
            at += len(data)
    return written


def _write_all(write: int, data: bytes) -> int:
    view = memoryview(data)
    while view:
        view = view[os.write(write, view) :]
    return len(data)


def _copy_special(source: str, target: str, linker: Linker | None) -> None:
    """A link, a pipe, a socket, or an overlay's mark for a deleted name (character device 0:0)."""
    status = os.lstat(source)
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source), target)
        _copy_extended(source, target)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
    elif stat.S_ISCHR(status.st_mode) and linker is not None:
        linker.link(source, target)
    else:
        os.mknod(target, status.st_mode)
        copy_attributes(source, target)


def copy_attributes(source: str | int, target: str, *, folding: bool = False) -> None:
    """Extended attributes, mode and times; the owner is the same user by construction."""
    _copy_extended(source, target, folding=folding)
    status = os.fstat(source) if isinstance(source, int) else os.lstat(source)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_extended(source: str | int, target: str, *, folding: bool = False) -> None:
    """What attributes.py says. Raises Uncopied: there is one that no copy has, or is refused to it, or too many."""
    follow = isinstance(source, int)  # a descriptor is what it is
    for name in _attributes(source, follow):
        what = attributes.fate(name)
        if what == "made anew" or (folding and attributes.is_overlays_own(name)):
            continue
        if what == "refused":
            raise Uncopied(errno.ENOTSUP, f"no copy has its attribute {name}", target)
        value = os.getxattr(source, name, follow_symlinks=follow)
        try:
            os.setxattr(target, name, value, follow_symlinks=False)
        except PermissionError as error:
            if not _has(target, name, value):  # a label may be given to a file when it is made
                raise Uncopied(error.errno, f"its attribute {name} cannot be copied", target) from error


def _attributes(source: str | int, follow: bool) -> list[str]:
    try:
        return os.listxattr(source, follow_symlinks=follow)
    except OSError as error:
        if error.errno != errno.E2BIG:
            raise
        raise Uncopied(error.errno, "its attributes are more than the kernel can list", str(source)) from error


def _has(path: str, name: str, value: bytes) -> bool:
    try:
        return os.getxattr(path, name, follow_symlinks=False) == value
    except OSError:
        return False


def delete(path: str) -> None:
    """Delete a tree, however deep, with three descriptors. Missing: nothing happens.

    Every folder is moved up to the top before it is emptied, so that no path grows.
    """
    try:
        is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_folder:
        os.unlink(path)
        return
    top = _open_writable(path, None)
    try:
        _empty(top)
    finally:
        os.close(top)
    os.rmdir(path)


def empty(path: str) -> None:
    """Delete everything below a folder."""
    top = _open_writable(path, None)
    try:
        _empty(top)
    finally:
        os.close(top)


def _empty(top: int) -> None:
    prefix = f".{secrets.token_hex(8)}-"
    count = itertools.count()
    waiting = _unlink_files(top)
    while waiting:
        name = waiting.pop()
        folder = _open_writable(name, top)
        try:
            for child in _unlink_files(folder):
                moved = f"{prefix}{next(count)}"
                os.close(_open_writable(child, folder))  # moving a folder writes to it
                os.rename(child, moved, src_dir_fd=folder, dst_dir_fd=top)
                waiting.append(moved)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=top)


def _unlink_files(folder: int) -> list[str]:
    """Unlink everything in a folder but its folders, whose names are returned."""
    folders = []
    for name in os.listdir(folder):
        if stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
            folders.append(name)
        else:
            os.unlink(name, dir_fd=folder)
    return folders


def _open_writable(name: str, parent: int | None) -> int:
    """A folder, whatever its mode was. Never through a link: chmod(2) by name would change what it leads to."""
    place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{place}", 0o700)
        return os.open(".", _FOLDER, dir_fd=place)
    finally:
        os.close(place)
