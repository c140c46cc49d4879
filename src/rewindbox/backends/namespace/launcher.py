"""The launcher: one small process with an empty environment, from which every supervisor is forked.

It has none of its parent's memory and, before it reads its first request, none of its privileges: started
by root, it takes the unprivileged uid that owns the store. From there on root and an ordinary user are one.
"""

import contextlib
import gc
import os
import resource
import select
import signal
import socket
import sys

from rewindbox.backends.namespace import ground, kernel, machine, replies, rootfs, supervisor
from rewindbox.backends.namespace.groups import Groups

_BURY_MS = 2
"""A process closes what it has open a moment before it leaves its control groups."""


def main() -> None:
    """Serve requests for vms on the descriptor that the second argument names, until it is closed.

    The working directory is the folder of the vms. The third argument is "1" if a machine is to be kept ready
    after each one that was asked for; the first is made before anybody asks.
    """
    link = socket.socket(fileno=int(sys.argv[2]))
    link.set_inheritable(False)
    claimed = ground.claim(os.stat("."))
    _drop_privileges()
    os.umask(0o022)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kernel.adopt_orphans()
    skeleton = _skeleton()
    _bound_ourselves()
    gc.collect()
    gc.freeze()
    Launcher(link, skeleton, claimed).serve(keep_spare=sys.argv[3] == "1")
    os._exit(0)


class Launcher:
    """Forks supervisors, and removes their control groups when they are gone."""

    def __init__(self, link: socket.socket, skeleton: str, claimed: ground.Ground) -> None:
        self._link, self._skeleton, self._ground = link, skeleton, claimed
        self._lives: dict[int, int] = {}
        """The end of a pipe whose other one a supervisor has -> the number of its groups."""
        self._emptying: set[int] = set()
        self._last = 0
        self._poll = select.poll()
        self._poll.register(link, select.POLLIN)

    def serve(self, *, keep_spare: bool) -> None:
        """Until nobody can ask any more."""
        spare: socket.socket | None = self._spare()
        while self._is_asked():
            message, descriptors, _, _ = socket.recv_fds(self._link, replies.MESSAGE_BYTES, 2, socket.MSG_CMSG_CLOEXEC)
            if len(descriptors) != 2:
                break
            spare = spare or self._spare()
            with contextlib.suppress(OSError):  # it ended: whoever asked sees the end of the answering socket
                socket.send_fds(spare, [message], descriptors)
            spare.close()
            for number in descriptors:
                os.close(number)
            spare = self._spare() if keep_spare else None
        if spare is not None:
            spare.close()
        self._ground.close({*self._lives.values(), *self._emptying})

    def _is_asked(self) -> bool:
        """Wait for a request, or for the end of the link; bury meanwhile."""
        while True:
            ready = [descriptor for descriptor, _ in self._poll.poll(_BURY_MS if self._emptying else None)]
            for descriptor in ready:
                if descriptor in self._lives:
                    self._poll.unregister(descriptor)
                    os.close(descriptor)
                    self._emptying.add(self._lives.pop(descriptor))
            self._emptying = {number for number in self._emptying if not self._ground.remove(number)}
            if self._link.fileno() in ready:
                return True

    def _spare(self) -> socket.socket:
        """A machine that waits for its order on the socket returned."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._last += 1
        home = self._ground.with_groups(self._last)
        life, living = os.pipe2(os.O_CLOEXEC)
        if os.fork() == 0:
            self._link.close()
            ours.close()
            for descriptor in (life, *self._lives):
                os.close(descriptor)
            _become_supervisor(theirs, self._skeleton, home.open(self._last))
        theirs.close()
        os.close(living)
        if home.version:
            self._lives[life] = self._last
            self._poll.register(life, 0)
        else:
            os.close(life)
        return ours


def _drop_privileges() -> None:
    owner = os.stat(".")
    if os.getuid() == 0:
        if owner.st_uid == 0:
            sys.exit("the folder of the vms belongs to root")
        os.setgroups([])
        os.setresgid(owner.st_gid, owner.st_gid, owner.st_gid)
        os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
    if 0 in (*os.getresuid(), *os.getresgid()):
        sys.exit("refusing to run as root")


def _bound_ourselves() -> None:
    """Limits that no execution changes, inherited by all: no core files, little locked memory, few queues.

    And for ourselves as many descriptors as may be. Nobody sends one while his user has more on their way than he may
    open, and code is our user. What it may open is set when it starts.
    """
    kernel.set_limit(0, resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    for kind, value in (
        (resource.RLIMIT_CORE, _core_bytes()),
        (resource.RLIMIT_MEMLOCK, 64 << 10),
        (resource.RLIMIT_RTPRIO, 0),
        (resource.RLIMIT_MSGQUEUE, 800 << 10),
    ):
        kernel.set_limit(0, kind, value)


def _core_bytes() -> int:
    """The limit of core dumps, so that there is none; 0 is what everybody expects, and not enough everywhere."""
    return kernel.NO_DUMP_BYTES if kernel.core_pattern().startswith(b"|") else 0


def _skeleton() -> str:
    """The folder with what all vms have below their own files; made anew when the host has changed."""
    name = f"base-{rootfs.fingerprint()}"
    if not os.path.isdir(name):
        making = f".making-{os.getpid()}-{os.urandom(4).hex()}"
        os.mkdir(making)
        rootfs.build(making)
        with contextlib.suppress(OSError):  # another launcher was faster
            os.rename(making, name)
    return name


def _become_supervisor(orders: socket.socket, skeleton: str, home: Groups) -> None:
    """Two forks: the first leaves the host's namespaces, its child is the first process of a new one."""
    try:
        refused = _leave_host()
        if refused is None and os.fork() != 0:
            os._exit(0)
        supervisor.serve(orders, refused or skeleton, home)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _leave_host() -> machine.StepFailed | None:
    try:
        machine.leave_host()
    except machine.StepFailed as failure:
        return failure
    return None
