"""Programs started as plainly as can be: the interpreter that ratios are to, and bubblewrap beside it.

Started by posix_spawn with a minimal environment and /dev/null; timed until `waitpid` has its status.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping

from bench.runner import Case, Missing, Row
from rewindbox import backends

BARE = "bare python"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
_ANYBODY = 65534
"""As whom root also starts what does less for root: bubblewrap, and the kernel's limit of processes."""


def python() -> str:
    """The very interpreter that a vm runs, links followed."""
    with tempfile.TemporaryDirectory() as folder:
        found = backends.load("namespace", folder).programs()["python"]
    if found is None:
        raise Missing("no python3 below /usr: install it (`apt-get install python3`)")
    return os.path.realpath(found)


def as_anybody() -> list[str]:
    """What root puts before a program's words to start it as an ordinary user; nothing for others."""
    return ["setpriv", f"--reuid={_ANYBODY}", f"--regid={_ANYBODY}", "--clear-groups", "--"] if os.getuid() == 0 else []


def spawn(words: list[str]) -> float:
    """Run a program to its end; seconds. Raises Missing: it did not succeed."""
    streams = [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in range(3)]
    started = time.perf_counter()
    pid = os.posix_spawn(words[0], words, ENVIRONMENT, file_actions=streams)
    _, status = os.waitpid(pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise Missing(f"{os.path.basename(words[0])} ends with exit code {os.waitstatus_to_exitcode(status)} here")
    return seconds


class Program(Case):
    """A program and its arguments."""

    def __init__(self, row: Row, words: list[str], remedy: str = "install it") -> None:
        self.rows = (row,)
        self._words, self._remedy = words, remedy

    def open(self) -> None:
        for word in self._words[:1]:
            found = shutil.which(word)
            if found is None:
                raise Missing(f"no {word}: {self._remedy}")
            self._words = [found, *self._words[1:]]
        spawn(self._words)

    def sample(self) -> Mapping[str, float]:
        return {self.rows[0].name: spawn(self._words)}


def programs() -> list[Case]:
    """The bare interpreter and what stands beside it."""
    interpreter = [python(), "-c", "pass"]
    cases: list[Case] = [
        Program(Row(name=BARE, work="bare: `python -c pass`, the vm's own binary"), interpreter),
        Program(Row(name="bare true", work="bare: `/bin/true`", over=BARE), ["/bin/true"]),
        Program(Row(name="bare bash", work="bare: `bash -c 'exec /bin/true'`", over=BARE), _BASH),
        _bubblewrap("bubblewrap", "bubblewrap: `python -c pass`", [], interpreter),
    ]
    if os.getuid() == 0:
        other = as_anybody()
        words = "bare: the same by way of setpriv, as an ordinary user"
        cases.append(Program(Row(name="bare setpriv", work=words, over=BARE), [*other, *interpreter]))
        words = "bubblewrap by way of setpriv, as an ordinary user"
        cases.append(_bubblewrap("bubblewrap setpriv", words, other, interpreter))
    return cases


_BASH = ["/bin/bash", "-c", "exec /bin/true"]


def _bubblewrap(name: str, work: str, before: list[str], command: list[str]) -> Case:
    remedy = "install it (`apt-get install bubblewrap`)"
    if shutil.which("bwrap") is None:  # behind setpriv it would fail without saying so
        return Program(Row(name=name, work=work, over=BARE), ["bwrap"], remedy)
    own = f"{shutil.which('bwrap')} --unshare-all --die-with-parent --new-session --clearenv --ro-bind /usr /usr"
    links = [word for folder in ("bin", "lib", "lib64") for word in ("--symlink", f"usr/{folder}", f"/{folder}")]
    fresh = "--proc /proc --dev /dev --tmpfs /tmp --setenv PATH /usr/bin:/bin --setenv LANG C.UTF-8 --"
    return Program(
        Row(name=name, work=work, over=BARE), [*before, *own.split(), *links, *fresh.split(), *command], remedy
    )
