"""Opens paths in folders that hostile code writes, so that none leads out: by openat2, or where there is none on foot.

A container's filter may refuse openat2, and a kernel before 5.6 does not have it. Then a path is walked, from the
descriptor of a folder to that of the next: nothing is opened through a link, a link is read and its text walked
instead, and `..` stops at the root. Whatever is renamed meanwhile: what lies above a folder that we have reached lies
in the same file system, whose top is the root. Which of the two it is, is tried once, by doing.

On foot a magic link (only /proc has them) leads where its text says, in the root as everything else.
"""

import errno
import os
import stat
from functools import cache

from rewindbox.backends.namespace import kernel

IN_ROOT = kernel.RESOLVE_IN_ROOT | kernel.RESOLVE_NO_MAGICLINKS
"""Links are followed; absolute ones begin at the root that is given."""
SAME_MOUNT = kernel.RESOLVE_NO_XDEV
"""Nothing of another mount than the root's: EXDEV."""
NO_LINKS = kernel.RESOLVE_NO_SYMLINKS
"""A link anywhere on the way: ELOOP."""

_LINKS_MAX = 40
_PATH_MAX = 4096
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_in(root: int, path: str, flags: int, mode: int = 0, how: int = IN_ROOT) -> int:
    """Open `path` below the folder `root`; `flags` and `mode` as for open(2). Raises OSError as the kernel does."""
    if _has_openat2():
        return kernel.openat2(root, path, flags, mode, how)
    walk = _Walk(root, how)
    try:
        return walk.open(path, flags, mode)
    finally:
        walk.close()


@cache
def _has_openat2() -> bool:
    try:
        os.close(kernel.openat2(-100, "/", os.O_PATH, 0, kernel.RESOLVE_NO_SYMLINKS))
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS):
            raise
        return False
    return True


class _Walk:
    """Where we are on the way down from a root."""

    def __init__(self, root: int, how: int) -> None:
        self._root, self._how = root, how
        self._here = os.dup(root)
        self._mount = _mount_of(root) if how & SAME_MOUNT else b""

    def close(self) -> None:
        os.close(self._here)

    def open(self, path: str, flags: int, mode: int) -> int:
        """See `open_in`."""
        if len(os.fsencode(path)) >= _PATH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        links, left = 0, self._begin(path)
        while True:
            name = left.pop()
            if name == ".." and self._is_at_root():
                name = "."
            target = None if flags & os.O_NOFOLLOW and not left else self._link(name)
            if target is not None:
                links += 1
                if links > _LINKS_MAX or self._how & NO_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                left += self._begin(target)
            elif left:
                self._stand_on(self._checked(name, _FOLDER, 0))
            else:
                return self._checked(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode)

    def _begin(self, path: str) -> list[str]:
        """The names of a path, the last one first; an absolute one begins at the root."""
        if path.startswith("/"):
            self._stand_on(os.dup(self._root))
        names = [name for name in path.split("/") if name]
        return [*([] if names and not path.endswith("/") else ["."]), *reversed(names)]

    def _stand_on(self, folder: int) -> None:
        self._here, before = folder, self._here
        os.close(before)

    def _is_at_root(self) -> bool:
        return os.path.samestat(os.fstat(self._here), os.fstat(self._root))

    def _link(self, name: str) -> str | None:
        """The text of a link; None: it is none, or not there."""
        try:
            return os.readlink(name, dir_fd=self._here)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise
            return None

    def _checked(self, name: str, flags: int, mode: int) -> int:
        """Open a name where we are: no link, even if it became one just now, and in the mount where it must be."""
        found = os.open(name, flags, mode, dir_fd=self._here)
        wrong = 0
        if stat.S_ISLNK(os.fstat(found).st_mode):  # O_PATH opens a link itself
            wrong = errno.ELOOP
        elif self._mount and _mount_of(found) != self._mount:
            wrong = errno.EXDEV
        if wrong:
            os.close(found)
            raise OSError(wrong, os.strerror(wrong))
        return found


def _mount_of(descriptor: int) -> bytes:
    """The number of the mount that a descriptor was opened in: device numbers do not tell the files of an overlay."""
    with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
        return next(line for line in file if line.startswith(b"mnt_id:"))
