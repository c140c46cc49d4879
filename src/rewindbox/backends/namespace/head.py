"""The inside of Python sessions: a template forks heads, a head runs blocks, and its children are checkpoints.

Runs in the vm, by the vm's own python, together with notebook.py; nothing else of ours is there. Nobody trusts
it: what it says is a claim of the code that it runs about itself.

A process here waits on its control socket for one message at a time: a letter, and what belongs to it.

    template    H + [control]                            fork a head that listens on `control`
    head        R name, code + [stdout, stderr, displays, result, word]
                                                         wait for the event `word`; if it is 1, run the code. Then
                                                         say on `result` its exit code, the number of python
                                                         threads besides the first, and 1 if `mmap` is loaded,
                                                         else 0
                C + [control]                            fork a checkpoint that listens on `control`
                D                                        enter the working directory again
    checkpoint  H + [control]                            fork a head that is what the checkpoint is
    all         (end of file)                            end

Code too long for a message comes in a memory file, the last descriptor. Who was forked says `ready` on its
socket; the kernel adds who that is.

The code may replace builtins and whatever is in a module. Ours are private: this file is executed with a copy of
the builtins, is no module that anybody can import, and takes from other modules what it needs when it is loaded.
"""

import ctypes
import gc
import sys
from _socket import AF_UNIX, CMSG_SPACE, MSG_CMSG_CLOEXEC
from _socket import socket as Socket
from collections.abc import Callable
from fcntl import F_DUPFD_CLOEXEC, F_GETFL, fcntl
from os import (
    O_ACCMODE,
    O_PATH,
    O_RDONLY,
    O_RDWR,
    SEEK_CUR,
    SEEK_SET,
    WNOHANG,
    _exit,
    chdir,
    close,
    dup2,
    environ,
    fork,
    fstat,
    getcwd,
    getpid,
    listdir,
    lseek,
    read,
    setsid,
    waitpid,
    write,
)
from os import open as open_
from signal import pause
from stat import S_ISFIFO, S_ISREG, S_ISSOCK
from sys import _current_frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # loaded, it is half a MiB in every fork

_MESSAGE_BYTES = 128 * 1024
_DESCRIPTORS_MAX = 8
_OURS = 900
"""From here on descriptors are ours, out of the way of programs that count on low ones."""
_PR_SET_DUMPABLE = 4
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25
_BIG_BYTES, _BIG_PAGES = 16 << 20, 8192
_UNIX, _NETWORK = 10, 11
"""Kinds of sockets, beside 0 and 1, the reading and the writing end of a pipe."""
_FALLEN = 0
"""Exit code of a process that the code forked and that came to the end of the block."""


class Process:
    """This process, and how it becomes another one."""

    def __init__(self, run: Callable[[str, str, Callable[[bytes], None]], int]) -> None:
        """`run`: see notebook.py. The control socket is standard input."""
        self.run = run
        self.modules = sys.modules
        libc = ctypes.CDLL(None)
        self.prctl, self.madvise = libc.prctl, libc.madvise
        self.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        self.checkpoints: list[int] = []
        self.huge: dict[int, int] = {}
        self.null = _high(open_("/dev/null", O_RDWR))
        self.nowhere = _high(open_("/", O_PATH))
        self.control = Socket(fileno=_high(0))
        dup2(self.null, 0)
        self.folder = environ.get("HOME", "/")

    def be_template(self) -> None:
        """Returns in each head, never in the template."""
        self.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        while True:
            _, descriptors = self.next_message()
            _reap()
            if self.fork_process(descriptors[0]):
                self.become_head()
                return

    def be_head(self) -> None:
        """Never returns."""
        while True:
            message, descriptors = self.next_message()
            order = message[:1]
            try:
                if order == b"R":
                    self.run_block(message, descriptors)
                elif order == b"C":
                    self.fork_checkpoint(descriptors[0])
                elif order == b"D":
                    self.enter_folder()
            except OSError:  # the code has closed what is ours
                _wait_for_the_end()

    def run_block(self, message: bytes, descriptors: list[int]) -> None:
        name, _, code = message[1:].partition(b"\n")
        if len(descriptors) > 5:
            code = _read_all(descriptors.pop())
        for number in (1, 2):
            dup2(descriptors[number - 1], number)
            close(descriptors[number - 1])
        displays, result, word = (_high(number) for number in descriptors[2:])
        pid, status = getpid(), 0
        try:
            if _may_go(word):
                status = self.run(
                    code.decode("utf-8", "surrogateescape"), name.decode(), lambda line: _write(displays, line)
                )
        except BaseException:  # raised by the code's handler of a signal, at the very last moment
            status = 1
        if getpid() != pid:
            _exit(_FALLEN)
        for number in (0, 1, 2):
            dup2(self.null, number)
        close(displays)
        self.folder = _folder()
        _write(result, b"%d %d %d" % (status, len(_current_frames()) - 1, "mmap" in self.modules))
        close(result)

    def fork_checkpoint(self, control: int) -> None:
        """The child is never readable by others: it is born undumpable, and that is asked of its parent."""
        self.use_huge_pages()
        self.checkpoints = [pid for pid in self.checkpoints if _still_lives(pid)]
        self.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        is_child = False
        try:
            is_child = self.fork_process(control)
        except Exception:  # too many processes; whoever waits for the child sees the end of its socket
            close(control)
        if is_child:
            self.wait_as_checkpoint()
            self.become_head()
        else:
            self.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
            self.warm()

    def use_huge_pages(self) -> None:
        """What is big goes into huge pages, once: to fork it, and to give it up, then costs a tenth.

        0.25 ms for each MiB, while nobody waits. (glibc would do it by itself, but looks for that into /sys.)
        """
        if not _is_big():
            return
        found = dict(_big_mappings())
        for start, end in found.items():
            new = max(start, self.huge.get(start, 0))  # what was done is now shared with a checkpoint
            for advice in (_MADV_HUGEPAGE, _MADV_COLLAPSE):
                self.madvise(new, end - new, advice)
        self.huge = found

    def warm(self) -> None:
        """Write once to the memory that every block writes to, of which a fork makes copies: now nobody waits."""
        self.run("", "", _ignore)

    def fork_process(self, control: int) -> bool:
        """True in the child, whose control socket is `control`. `random` goes on in both as if nothing were."""
        restore = _random_kept(self.modules.get("random"))
        if pid := fork():
            self.checkpoints.append(pid)
            close(control)
            return False
        self.checkpoints = []
        restore()
        setsid()
        self.control.close()
        self.control = Socket(fileno=_high(control))
        return True

    def wait_as_checkpoint(self) -> None:
        """Returns in each head forked from here; never in the checkpoint."""
        offsets = self.let_go_of_others()
        chdir("/")
        collects = gc.isenabled()
        gc.disable()
        self.say_ready()
        while True:
            _, descriptors = self.next_message()
            _reap()
            if self.fork_process(descriptors[0]):
                break
        if collects:
            gc.enable()
        for number, offset in offsets:
            lseek(number, offset, SEEK_SET)

    def let_go_of_others(self) -> list[tuple[int, int]]:
        """Give up what ties us to other processes: they would wait for us to close it. Returns files' offsets.

        Pipes and sockets stay where both ends are ours (an event loop wakes itself by such a pair). The number
        of what was given up stays taken: whoever believes to own it gets EBADF, not another file.
        """
        offsets, ends = [], {}
        for number in [int(name) for name in listdir("/proc/self/fd")]:
            try:
                status = fstat(number)
            except OSError:  # the folder's own
                continue
            if S_ISREG(status.st_mode):
                offsets.append((number, lseek(number, 0, SEEK_CUR)))
            elif number < _OURS and S_ISFIFO(status.st_mode):
                ends[number] = (status.st_ino, fcntl(number, F_GETFL) & O_ACCMODE)
            elif number < _OURS and S_ISSOCK(status.st_mode):
                ends[number] = (status.st_ino, _UNIX if _is_unix(number) else _NETWORK)
        known = set(ends.values())
        for number, (inode, kind) in ends.items():
            # The two ends of a pipe have one inode number, those of a socketpair two that follow each other.
            partners = {(inode - 1, kind), (inode + 1, kind)} if kind == _UNIX else {(inode, 1 - kind)}
            if not partners & known:
                dup2(self.nowhere, number)
        return offsets

    def become_head(self) -> None:
        self.enter_folder()
        self.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        self.say_ready()

    def enter_folder(self) -> None:
        """Where the vm stands on other files, an open folder is one of the old ones."""
        try:
            chdir(self.folder)
        except OSError:
            chdir("/")

    def say_ready(self) -> None:
        self.control.send(b"ready")

    def next_message(self) -> tuple[bytes, list[int]]:
        """Wait for it. What a signal's handler raises meanwhile is the code's affair."""
        while True:
            try:
                message, ancillary, _, _ = self.control.recvmsg(
                    _MESSAGE_BYTES, CMSG_SPACE(4 * _DESCRIPTORS_MAX), MSG_CMSG_CLOEXEC
                )
                break
            except BlockingIOError:  # the code has found our socket
                self.control.setblocking(True)
            except OSError:
                _wait_for_the_end()
            except BaseException:  # noqa: S112  raised by the code's handler of a signal
                continue
        if not message:
            _exit(0)
        data = b"".join(part for _, _, part in ancillary)
        return message, [int.from_bytes(data[at : at + 4], sys.byteorder) for at in range(0, len(data), 4)]


def _may_go(word: int) -> bool:
    """Wait until it is said. What a signal's handler raises meanwhile is the code's affair."""
    while True:
        try:
            said = read(word, 8)
            close(word)
            return int.from_bytes(said, sys.byteorder) == 1
        except OSError:  # the code has closed what is ours
            _wait_for_the_end()
        except BaseException:  # noqa: S112  raised by the code's handler of a signal
            continue


def _wait_for_the_end() -> None:
    """Whoever waits for an answer sees that there will be none, and ends us."""
    while True:
        pause()


def _high(number: int) -> "Any":
    """The same open file at a number out of the way."""
    high = fcntl(number, F_DUPFD_CLOEXEC, _OURS)
    close(number)
    return high


def _is_unix(number: int) -> bool:
    found = Socket(fileno=number)
    try:
        return found.family == AF_UNIX
    finally:
        found.detach()


def _folder() -> str:
    try:
        return getcwd()
    except OSError:  # it was deleted
        return "/"


def _read_all(number: int) -> bytes:
    parts = []
    while data := read(number, 1 << 20):
        parts.append(data)
    close(number)
    return b"".join(parts)


def _write(number: int, data: bytes) -> None:
    """To whom may be gone, or may have been closed by the code."""
    try:
        while data:
            data = data[write(number, data) :]
    except OSError:
        pass


def _still_lives(pid: int) -> bool:
    """A checkpoint that was given up is ours to wait for; the code may have done so."""
    try:
        return waitpid(pid, WNOHANG) == (0, 0)
    except OSError:
        return False


def _is_big() -> bool:
    """Whether more than 32 MiB are in memory."""
    return int(_content("/proc/self/statm").split()[1]) > _BIG_PAGES


def _big_mappings() -> list[tuple[int, int]]:
    """Start and end of big private memory without a file."""
    found = []
    for line in _content("/proc/self/maps").splitlines():
        words = line.split()
        start, end = (int(word, 16) for word in words[0].split(b"-"))
        if end - start >= _BIG_BYTES and words[1] == b"rw-p" and words[4] == b"0":
            found.append((start, end))
    return found


def _content(path: str) -> bytes:
    return _read_all(open_(path, O_RDONLY))


def _ignore(_: bytes) -> None:
    pass


def _random_kept(module: "Any") -> Callable[[], None]:
    """What puts back the numbers to come, which a fork makes new. A module of the code may have that name."""
    try:
        setstate, state = module.setstate, module.getstate()
    except Exception:
        return _nothing
    return lambda: setstate(state)


def _nothing() -> None:
    pass


def _reap() -> None:
    """Heads that ended: until now their exit codes could be read."""
    try:
        while waitpid(-1, WNOHANG)[0]:
            pass
    except OSError:
        pass
