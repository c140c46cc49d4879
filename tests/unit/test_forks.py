"""Who is to fork: what is believed, and that others are looked at meanwhile."""

import os
import signal
import subprocess
import sys

import pytest

from rewindbox.backends.namespace.forks import Lost, Process, born, pair


def test_others_are_looked_at_while_somebody_is_to_fork():
    """As long as there is no child; who is ended for what was seen forks no more."""
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    ours, theirs = pair()
    process = Process(theirs, os.pidfd_open(parent.pid), parent.pid, 0)
    looks = []

    def look() -> float:
        looks.append(len(looks))
        if len(looks) == 3:
            process.signal(signal.SIGKILL)
        return 0.001

    try:
        with pytest.raises(Lost, match="does not fork"):
            born(ours, process, look)
        assert looks == [0, 1, 2]
    finally:
        process.signal(signal.SIGKILL)
        parent.wait()
        process.close()
