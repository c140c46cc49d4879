"""Programs that want the memory of who reads their output, and every entry of the tables of the kernel."""
# ruff: noqa: E501  programs that are run inside stand here as they are

from exhaustion.greedy import FULL, Greedy

_UNBOUND = "machine._OF_THE_USER = {}"

OUTPUT = (
    Greedy(
        id="output-flood",
        wants="all memory of whoever reads its output",
        code="exec yes",
        language="bash",
        limits={"output_bytes": 100_000, "wall_s": 50},
        ended=("output",),
        in_session=False,
        more={"wall_s": 50},
        past=("bytes of output", 100_000),
    ),
    Greedy(
        id="flood-on-both",
        wants="the same on both streams at once, from two processes",
        code="import os\nif os.fork() == 0:\n    while True: os.write(2, b'e' * 65536)\nwhile True: os.write(1, b'o' * 65536)",
        limits={"output_bytes": 100_000, "wall_s": 50},
        ended=("output",),
        more={"wall_s": 50},
        past=("bytes of output", 200_000),
    ),
    Greedy(
        id="one-line-of-a-gigabyte",
        wants="a reader that waits for the end of a line",
        code="import os\nfor _ in range(1 << 14): os.write(1, b'x' * 65536)",
        limits={"output_bytes": 1_000_000, "wall_s": 50},
        ended=("output",),
        more={"wall_s": 50},
        past=("bytes of output", 1_000_000),
    ),
    Greedy(
        id="no-text",
        wants="a reader that fails on NUL, on bytes that are no text, and on half a character at the cut",
        code="import os\nos.write(1, b'\\0\\xff\\xfe' + '\\u20ac'.encode() * 40_000)",
        limits={"output_bytes": 100_000, "wall_s": 50},
        ended=("output",),
        more={"wall_s": 50},
    ),
    Greedy(
        id="output-held-open",
        wants="a caller who waits for the end of the output",
        code="import os, subprocess\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)\nprint('done')",
        limits={"wall_s": 50},
        ended=("exit",),
        unshown="no limit ends what a program leaves running, and that it is ended cannot be taken away",
    ),
)

TABLES = (
    Greedy(
        id="descriptors",
        wants="every descriptor",
        code="""
import errno, os, time
held = []
try:
    while True: held.append(os.open("/dev/null", 0))
except OSError as error: assert error.errno == errno.EMFILE, error
print("full", flush=True); time.sleep(1000)""",
        limits={"open_files": 100, "wall_s": 50},
        ended=FULL,
        in_session=False,
        more={"open_files": 500, "wall_s": 50},
        past=("descriptors", 100),
    ),
    Greedy(
        id="parked-descriptors",
        wants="descriptors beyond its limit, parked in sockets",
        code="""
import errno, os, socket, time
a, b = socket.socketpair(); parked = 0
a.setblocking(False)
try:
    while parked < 100_000:
        socket.send_fds(a, [b"x"], [0] * 50); parked += 50
except OSError as error: assert error.errno in (errno.ETOOMANYREFS, errno.EAGAIN), error
print("full", flush=True); time.sleep(1000)""",
        limits={"open_files": 100, "wall_s": 50},
        ended=FULL,
        in_session=False,
        more={"open_files": 1000, "wall_s": 50},
        past=("descriptors in sockets", 400),
    ),
    Greedy(
        id="watchers",
        wants="every watcher of files that its user may have",
        code="""
import ctypes, errno, time
libc = ctypes.CDLL(None, use_errno=True); made = 0
while made < 5000 and libc.inotify_init1(0) >= 0: made += 1
assert ctypes.get_errno() == errno.EMFILE
print("full", flush=True); time.sleep(1000)""",
        limits={"wall_s": 50},
        ended=FULL,
        more={"wall_s": 50},
        lifted=_UNBOUND,
        past=("watchers of files", 32),
    ),
    Greedy(
        id="watches",
        wants="every watch of files that its user may have",
        code="""
import ctypes, errno, os, time
libc = ctypes.CDLL(None, use_errno=True); handle = libc.inotify_init1(0); made = 0
os.makedirs("w", exist_ok=True)
for made in range(17_000):
    os.makedirs(f"w/{made}", exist_ok=True)
    if libc.inotify_add_watch(handle, b"w/%d" % made, 0xFFF) < 0: break
assert ctypes.get_errno() in (0, errno.ENOSPC)
print("full", flush=True); time.sleep(1000)""",
        limits={"wall_s": 50},
        ended=FULL,
        more={"wall_s": 50},
        lifted=_UNBOUND,
        past=("watches of files", 16384),
    ),
    Greedy(
        id="timers",
        wants="every timer that its user may have, so that nobody else's program has any",
        code="""
import ctypes, errno, time
libc = ctypes.CDLL(None, use_errno=True); one = ctypes.c_void_p(); made = 0
while made < 2_000_000 and libc.timer_create(1, None, ctypes.byref(one)) == 0: made += 1
assert ctypes.get_errno() == errno.EAGAIN
print("full", flush=True); time.sleep(1000)""",
        limits={"wall_s": 50},
        ended=FULL,
        more={"wall_s": 50},
        lifted="import rewindbox.backends.namespace.spawner as spawner; spawner._PENDING_MAX = 5000",
        past=("timers", 4096),
    ),
    Greedy(
        id="epoll",
        wants="every place where descriptors are waited for",
        code="""
import errno, select, time
held = []
try:
    while True: held.append(select.epoll())
except OSError as error: assert error.errno == errno.EMFILE, error
print("full", flush=True); time.sleep(1000)""",
        limits={"wall_s": 50},
        ended=FULL,
        more={"open_files": 2000, "wall_s": 50},
        past=("descriptors", 1024),
    ),
    Greedy(
        id="terminals",
        wants="every pseudo terminal that the host has",
        code="""
import errno, os, time
held = []
try:
    while len(held) < 900: held.append(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
except OSError as error: assert error.errno == errno.ENOSPC, error
print("full", flush=True); time.sleep(1000)""",
        limits={"wall_s": 50},
        ended=FULL,
        more={"wall_s": 50},
        lifted="machine._TERMINALS_MAX = 100",
        past=("terminals", 64),
    ),
    Greedy(
        id="ports",
        wants="every port",
        code="""
import socket, time
held = []
try:
    while len(held) < 5000:
        s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(); held.append(s)
except OSError: pass
print("full", flush=True); time.sleep(1000)""",
        limits={"wall_s": 50},
        ended=FULL,
        more={"open_files": 2000, "wall_s": 50},
        past=("descriptors", 1024),
    ),
)
