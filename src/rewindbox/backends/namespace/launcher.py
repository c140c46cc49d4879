"""The launcher: one small process with an empty environment, from which every supervisor is forked.

It has none of its parent's memory and, before it reads its first request, none of its privileges: started
by root, it takes the unprivileged uid that owns the store. From there on root and an ordinary user are one.
"""

import contextlib
import gc
import json
import os
import signal
import socket
import sys
from typing import Any

from rewindbox.backends.namespace import kernel, machine, rootfs, supervisor


def main() -> None:
    """Serve `create` requests on the descriptor that the second argument names, until it is closed.

    The working directory is the folder of the vms.
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
    while True:
        message, descriptors, _, _ = socket.recv_fds(
            link, supervisor.MESSAGE_BYTES, supervisor.DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC
        )
        if not message or len(descriptors) != 2:
            os._exit(0)
        request = json.loads(message)
        request["skeleton"] = f"../{skeleton}"
        if os.fork() == 0:
            link.close()
            _become_supervisor(request, *(socket.socket(fileno=number) for number in descriptors))
        for number in descriptors:
            os.close(number)


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
    """Limits that no execution changes, inherited by all: no core files, little locked memory, no queues."""
    import resource  # noqa: PLC0415  not needed anywhere else here

    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 64 << 10),
        (resource.RLIMIT_RTPRIO, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


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


def _become_supervisor(request: dict[str, Any], link: socket.socket, answer: socket.socket) -> None:
    """Two forks: the first leaves the host's namespaces, its child is the first process of a new one."""
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(request["vm"], 0o700)
        os.chdir(request["vm"])
        machine.leave_host()
        if os.fork() != 0:
            os._exit(0)
        supervisor.serve(link, answer, request)
    except machine.StepFailed as failure:
        reply = {"error": "step", "text": str(failure), "step": failure.step, "errno": failure.cause.errno}
        answer.send(json.dumps(reply).encode())
    except OSError as error:
        answer.send(json.dumps({"error": "os", "text": str(error), "errno": error.errno}).encode())
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


if not kernel.supported_machine():
    sys.exit("this machine's system calls are not in our tables: x86-64 and aarch64 are")
