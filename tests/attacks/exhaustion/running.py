"""Programs that want processes, time and the processor, and not to be ended."""
# ruff: noqa: E501  programs that are run inside stand here as they are

from exhaustion.greedy import FULL, Greedy

PROCESSES = (
    Greedy(
        id="fork-bomb",
        wants="as many processes as there can be",
        code="bomb() { bomb | bomb & }\nbomb\necho full\nsleep 1000",
        language="bash",
        limits={"processes": 60, "wall_s": 2},
        ended=("timeout",),
        in_session=False,
        more={"processes": 300, "wall_s": 50},
        past=("threads", 70),
    ),
    Greedy(
        id="fork-bomb-that-never-waits",
        wants="the same without a shell",
        code="import os, time\nn = 0\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(0.01)",
        limits={"processes": 60, "wall_s": 2},
        ended=("timeout",),
        more={"processes": 300, "wall_s": 50},
        past=("threads", 70),
    ),
    Greedy(
        id="threads",
        wants="as many threads as there can be",
        code="""
import threading, time
n = 0
try:
    while n < 5000: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start(); n += 1
except RuntimeError: pass
print("full", flush=True); time.sleep(1000)""",
        limits={"processes": 60, "wall_s": 50},
        ended=FULL,
        more={"processes": 300, "wall_s": 50},
        past=("threads", 70),
    ),
    Greedy(
        id="zombies",
        wants="as many entries of ended processes as there can be",
        code="""
import os, time
n = 0
try:
    while n < 5000:
        if os.fork() == 0: os._exit(0)
        n += 1
except OSError: pass
print("full", flush=True); time.sleep(1000)""",
        limits={"processes": 60, "wall_s": 50},
        ended=FULL,
        more={"processes": 300, "wall_s": 50},
        past=("threads", 70),
    ),
    Greedy(
        id="threads-beyond-its-own-limit",
        wants="threads where the code has raised its own limit as far as it can",
        code="""
import resource, threading, time
resource.setrlimit(resource.RLIMIT_NPROC, (resource.getrlimit(resource.RLIMIT_NPROC)[1],) * 2)
n = 0
try:
    while n < 5000: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start(); n += 1
except RuntimeError: pass
print("full", flush=True); time.sleep(1000)""",
        limits={"processes": 60, "wall_s": 50},
        ended=FULL,
        ended_in_session=("killed",),
        more={"processes": 300, "wall_s": 50},
        past=("threads", 70),
    ),
)

_BURN = """
import os, signal, time
def burn(seconds):
    while time.process_time() < seconds: pass
    os._exit(0)
"""

_BURNERS = {
    "spin-one-after-the-other": (
        "children that have ended and were waited for",
        "for _ in range(15): os.waitpid(os.fork() or burn(0.1), 0)",
    ),
    "spin-unwaited": (
        "children that the kernel reaps",
        """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(8):
    child = os.fork() or burn(0.25)
    try: os.waitpid(child, 0)
    except ChildProcessError: pass""",
    ),
    "spin-in-orphans": (
        "grandchildren whose parents have ended",
        """
for _ in range(8):
    end, theirs = os.pipe()
    child = os.fork()
    if not child: os.fork() and os._exit(0); burn(0.25)
    os.close(theirs); os.waitpid(child, 0); os.read(end, 1); os.close(end)""",
    ),
}

TIME = (
    Greedy(
        id="spin",
        wants="all of a CPU",
        code="while True: pass",
        limits={"cpu_s": 0.5, "wall_s": 50},
        ended=("timeout",),
        more={"cpu_s": 50, "wall_s": 50},
        past=("seconds of CPU", 0.5),
    ),
    Greedy(
        id="spin-in-children",
        wants="CPU of children that share the time between them",
        code="import os\nfor _ in range(3): os.fork()\nwhile True: pass",
        limits={"cpu_s": 1, "wall_s": 50},
        ended=("timeout",),
        more={"cpu_s": 50, "wall_s": 50},
        past=("seconds of CPU", 1),
    ),
    *(
        Greedy(
            id=name,
            wants=f"CPU of {whose}",
            code=f"{_BURN}{code}",
            limits={"cpu_s": 0.5, "wall_s": 50},
            ended=("timeout",),
            more={"cpu_s": 50, "wall_s": 50},
        )
        for name, (whose, code) in _BURNERS.items()
    ),
    Greedy(
        id="sleep",
        wants="never to end",
        code="import time\ntime.sleep(10**6)",
        limits={"wall_s": 1},
        ended=("timeout",),
        more={"wall_s": 50},
        past=("seconds", 1),
    ),
    Greedy(
        id="reads-for-ever",
        wants="input that never comes",
        code="import sys\nassert sys.stdin.read() == ''",
        limits={"wall_s": 50},
        ended=("exit",),
        unshown="it is no limit that ends it: its input is at its end",
    ),
    Greedy(
        id="stops-itself",
        wants="to be waited for, stopped",
        code="import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        limits={"wall_s": 1},
        ended=("timeout",),
        more={"wall_s": 50},
        past=("seconds", 1),
    ),
    Greedy(
        id="ignores-signals",
        wants="not to be told to end",
        code="import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: signal.pause()",
        limits={"wall_s": 1},
        ended=("timeout",),
        more={"wall_s": 50},
        past=("seconds", 1),
    ),
    Greedy(
        id="pattern-without-end",
        wants="CPU by a pattern that backtracks",
        code="import re\nre.match('(a*)*b', 'a' * 64)",
        limits={"wall_s": 1.5},
        ended=("timeout",),
        more={"wall_s": 50},
        past=("seconds", 1.5),
    ),
)
