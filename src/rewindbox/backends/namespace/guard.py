"""Keeps what a session goes back to out of reach: no signal comes to the template and the frozen checkpoints.

All processes of a vm have one user id, so code may signal any of them, and say on which processors and after whom it
runs, which would be so for all that is forked from it. While a vm has sessions, the system calls for that are put to us
(seccomp_unotify(2)): 50 to 80 us each. One that aims at a protected process is refused; `kill(-1)` is carried out here,
for all but the protected ones; everything else the kernel does itself.

The kernel acts on our word a moment after we gave it. So nobody is asked while a process is born that is to be
protected (`births`); a pid that was free then and is a checkpoint's now could still be hit. Then that
checkpoint is gone, which its handle tells, and another one is taken.
"""

import contextlib
import errno
import fcntl
import os
import platform
import select
import signal
import struct
import threading

from rewindbox.backends.namespace import kernel
from rewindbox.backends.namespace.processes import processes, signal_each, status
from rewindbox.backends.namespace.seccomp import asked_calls

_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, _SEND
_REQUEST_BYTES = 80
_CONTINUE = 1
_GROUP_CALLS, _PIDFD_CALL = ("kill",), "pidfd_send_signal"
_OWNER_CALL = "fcntl"
"""F_SETOWN: a file may signal who asks. Not a group: a checkpoint may come to it, and the file would remember."""
_WHOSE = {"setpriority": 2, "ioprio_set": 3}
"""Calls whose first argument says what the second one is; so much stands for all processes of a user."""


class Guard:
    """Answers these calls, in a thread of its own, as long as anybody lives who may make them."""

    def __init__(self, proc: int) -> None:
        """`proc`: the vm's /proc."""
        self.protected: set[int] = set()
        """Pids, as the vm numbers them."""
        self.births = threading.Lock()
        """Held while a process is born that is to be protected."""
        self._proc = proc
        self._names = asked_calls(platform.machine())
        self._poll = select.poll()
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll.register(self._woken, select.POLLIN)
        threading.Thread(target=self._run, daemon=True).start()

    def watch(self, listener: int) -> None:
        """Answer what comes on this descriptor, until nobody is left who could ask."""
        self._poll.register(listener, select.POLLIN)
        os.write(self._wake, b"!")

    def _run(self) -> None:
        while True:
            for descriptor, event in self._poll.poll():
                if descriptor == self._woken:
                    os.read(descriptor, 64)
                elif event & select.POLLIN:
                    with contextlib.suppress(OSError):  # who asked is gone
                        self._answer(descriptor)
                else:
                    self._poll.unregister(descriptor)
                    os.close(descriptor)

    def _answer(self, listener: int) -> None:
        request = bytearray(_REQUEST_BYTES)
        fcntl.ioctl(listener, _RECEIVE, request)
        ask_id, caller = struct.unpack_from("QI", request)
        (number,) = struct.unpack_from("i", request, 16)
        arguments = [_signed(value) for value in struct.unpack_from("6Q", request, 32)]
        with self.births:
            try:
                error, flags = self._decide(self._names[number], caller, arguments)
            except Exception:  # whatever we did not think of is refused, and the next one is answered
                error, flags = errno.EPERM, 0
        fcntl.ioctl(listener, _SEND, struct.pack("QqiI", ask_id, 0, -error, flags))

    def _decide(self, name: str, caller: int, arguments: list[int]) -> tuple[int, int]:
        """An error number or 0, and whether the kernel is to do it itself."""
        if name == _PIDFD_CALL:
            return self._by_handle(caller, arguments[0], arguments[1]), 0
        if name == _OWNER_CALL:
            return (0, _CONTINUE) if arguments[2] in (0, _inner_pid(caller)) else (errno.EPERM, 0)
        if arguments[0] == _WHOSE.get(name):
            return errno.EPERM, 0
        targets = arguments[:2] if name in ("tgkill", "rt_tgsigqueueinfo", *_WHOSE) else arguments[:1]
        if name in _GROUP_CALLS and targets[0] == -1:
            return self._everybody(caller, arguments[1]), 0
        if any(abs(target) in self.protected for target in targets):
            return errno.EPERM, 0
        return 0, _CONTINUE

    def _everybody(self, caller: int, number: int) -> int:
        """As kill(-1): all that can be seen but ourselves and pid 1; here also not the protected."""
        if not 0 <= number <= signal.NSIG:
            return errno.EINVAL
        spared = {*self.protected, _inner_pid(caller)}
        others = [pid for pid in processes(self._proc) if pid not in spared]
        signal_each(self._proc, others, number)
        return 0 if others else errno.ESRCH

    def _by_handle(self, caller: int, handle: int, number: int) -> int:
        """The caller's handle may become another one at any moment: what is looked at, and used, is our copy."""
        try:
            process = os.pidfd_open(_status(caller, "Tgid"))
            try:
                copy = kernel.copy_descriptor(process, handle)
            finally:
                os.close(process)
            try:
                return self._signal_copy(copy, number)
            finally:
                os.close(copy)
        except OSError as failure:
            return failure.errno or errno.EBADF

    def _signal_copy(self, copy: int, number: int) -> int:
        with open(f"/proc/self/fdinfo/{copy}", "rb") as file:
            pids = next((line.split()[1:] for line in file if line.startswith(b"NSpid:")), [])
        if not pids or int(pids[-1]) in {-1, 0, 1, *self.protected}:
            return errno.EPERM
        signal.pidfd_send_signal(copy, number)
        return 0


def _signed(value: int) -> int:
    """Pids and signal numbers are ints to the kernel: the low 32 bits, with a sign."""
    low: int = struct.unpack("i", struct.pack("I", value & 0xFFFFFFFF))[0]
    return low


def _inner_pid(caller: int) -> int:
    """The pid in the vm of the process that has this thread (as we number it)."""
    return _status(_status(caller, "Tgid"), "NSpid")


def _status(pid: int, name: str) -> int:
    """The last number of a line of /proc/PID/status."""
    return next(int(values[-1]) for found, values in status(pid) if found == name)
