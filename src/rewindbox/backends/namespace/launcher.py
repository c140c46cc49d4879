"""The launcher: one small process with an empty environment, from which every supervisor is forked.

It has none of its parent's memory and, before it reads its first request, none of its privileges: started
by root, it takes the unprivileged uid that owns the store. From there on root and an ordinary user are one.
"""

import contextlib
import gc
import os
import resource
import signal
import socket
import sys

from rewindbox.backends.namespace import kernel, machine, replies, rootfs, supervisor


def main() -> None:
    """Serve requests for vms on the descriptor that the second argument names, until it is closed.

    The working directory is the folder of the vms. The third argument is "1" if a machine is to be kept ready
    after each one that was asked for; the first is made before anybody asks.
    """
    link = socket.socket(fileno=int(sys.argv[2]))
    link.set_inheritable(False)
    _drop_privileges()
    os.umask(0o022)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kernel.adopt_orphans()
    skeleton = _skeleton()
    _bound_ourselves()
    gc.collect()
    gc.freeze()
    spare: socket.socket | None = _spare(link, skeleton)
    while True:
        message, descriptors, _, _ = socket.recv_fds(link, replies.MESSAGE_BYTES, 2, socket.MSG_CMSG_CLOEXEC)
        if len(descriptors) != 2:
            os._exit(0)
        spare = spare or _spare(link, skeleton)
        with contextlib.suppress(OSError):  # it ended: whoever asked sees the end of the answering socket
            socket.send_fds(spare, [message], descriptors)
        spare.close()
        for number in descriptors:
            os.close(number)
        spare = _spare(link, skeleton) if sys.argv[3] == "1" else None


def _spare(link: socket.socket, skeleton: str) -> socket.socket:
    """A machine that waits for its order on the socket returned."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        link.close()
        ours.close()
        _become_supervisor(theirs, skeleton)
    theirs.close()
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
    """Limits that no execution changes, inherited by all: no core files, little locked memory, few queues."""
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 64 << 10),
        (resource.RLIMIT_RTPRIO, 0),
        (resource.RLIMIT_MSGQUEUE, 800 << 10),
    ):
        kernel.set_limit(0, kind, value)


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


def _become_supervisor(orders: socket.socket, skeleton: str) -> None:
    """Two forks: the first leaves the host's namespaces, its child is the first process of a new one."""
    try:
        refused = _leave_host()
        if refused is None and os.fork() != 0:
            os._exit(0)
        supervisor.serve(orders, refused or skeleton)
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
