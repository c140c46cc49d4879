"""What an attack is: a program that tries one thing, and what shows that it could succeed.

It ends by saying HELD or BROKE and then keeps still, so that the host can look at it while it lives. An attack
whose failure proves something must succeed somewhere: `held_by` names the defences that stop it, and our tests run
the same code in a vm without them. So no attack may do harm where it succeeds: it opens and does not write, mounts
in its own namespace, asks and does not take.
"""

from dataclasses import dataclass
from typing import Literal

Outside = Literal["plain", "root"]
WORD = ("word of the filter",)
"""See `Attack.held_by`."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attempt. Exactly one of `held_by`, `outside` and `unshown` says how it is shown to be one."""

    id: str
    tries: str
    code: str
    held_by: tuple[str, ...] = ()
    """Defences, as tests/attacks/defences.py names them. Each may hold alone; without all of them it breaks through.

    Where success would do harm, or this kernel has no such thing: `WORD`. The filter says another word then, and that
    it comes back shows that the filter refused, before any code of the kernel for it."""
    outside: Outside | None = None
    """No defence can be taken away safely: the same code breaks through as a program of the host; `root`: of root."""
    unshown: str = ""
    """Why there is no harmless way to show that it could succeed."""
    language: str = "python"
    in_session: bool = True
    in_execution: bool = True
    is_ended: bool = False
    """What it does may end it before its last word, which is as good."""


def source(attack: Attack, *, in_session: bool = False) -> str:
    """The program as it is given to a vm; what is between @ is still to be filled in (`Host.fill_in`)."""
    if attack.language == "python":
        return PRELUDE + attack.code
    script = f"{attack.code}\nexec sleep 1000"
    return f"import subprocess; subprocess.run(['bash', '-c', {script!r}])" if in_session else script


def shell(test: str) -> str:
    """A bash program that breaks through where `test` succeeds."""
    return f"if {test}; then echo BROKE; else echo HELD; fi"


PRELUDE = r"""
import ctypes, errno, fcntl, os, platform, resource, signal, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
NUMBERS = @NUMBERS@
INSIDE = os.environ.get("USER") == "agent" and os.path.isdir("/run/code")
def call(name, *arguments):
    ctypes.set_errno(0)
    number = name if isinstance(name, int) else NUMBERS[name]
    known = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return libc.syscall(ctypes.c_long(number), *known), ctypes.get_errno()
def say(verdict, *why):
    print(verdict, *why, flush=True)
    while INSIDE: time.sleep(1000)
    os._exit(0)
def must_fail(name, *arguments):
    result, number = call(name, *arguments)
    say("BROKE", name, result) if result >= 0 else say("HELD", name, errno.errorcode[number])
def must_not_arrive(name, *arguments):
    '''Any answer but that of the filter is one of the kernel's own code.'''
    if name not in NUMBERS: say("HELD", name, "is not of this machine")
    result, number = call(name, *arguments)
    refused = result < 0 and number in (errno.EPERM, errno.ENOSYS)
    say("HELD" if refused else "BROKE", name, result, errno.errorcode.get(number))
def must_be_refused(name, *arguments, by):
    '''The filter says so, as a kernel without it may, too.'''
    result, number = call(name, *arguments)
    say("HELD" if result < 0 and number == by else "BROKE", name, result, errno.errorcode.get(number, number))
def all_must_raise(**attempts):
    done = []
    for name, attempt in attempts.items():
        try:
            done.append((name, attempt()))
        except (OSError, ValueError):
            pass
    say("BROKE", done) if done else say("HELD")
def child():
    pid = os.fork()
    if pid == 0:
        time.sleep(1000)
        os._exit(0)
    return pid
def roots():
    '''Whatever could lead to a root: mounts, links of /proc, open folders.'''
    mounts = sorted({line.split()[4].rstrip("/") for line in open("/proc/self/mountinfo")})
    links = ["/proc/1/root", "/proc/self/root", "/proc/thread-self/root", "/proc/1/cwd", "/.."]
    return links + [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")] + mounts
"""
