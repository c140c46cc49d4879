"""Programs that want the memory of who reads their output, and every entry of the tables of the kernel."""
# ruff: noqa: E501  programs that are run inside stand here as they are

from exhaustion.greedy import FULL, Greedy

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
        id="watches",
        wants="every watch of files that its user may have",
        code="""
import ctypes, os
libc = ctypes.CDLL(None); handle = libc.inotify_init1(0); n = 0
os.makedirs("w", exist_ok=True)
for n in range(5000):
    os.makedirs(f"w/{n}", exist_ok=True)
    if libc.inotify_add_watch(handle, b"w/%d" % n, 0xFFF) < 0: break
made = []
while (h := libc.inotify_init1(0)) >= 0 and len(made) < 2000: made.append(h)
assert len(made) < 1100""",
        limits={"wall_s": 50},
        ended=("exit",),
        unshown="the bound is a setting of the host for each user; no limit of ours raises it",
    ),
    Greedy(
        id="timers",
        wants="every timer",
        code="""
import ctypes
libc = ctypes.CDLL(None); one = ctypes.c_void_p(); n = 0
import platform
number = {"x86_64": 222, "aarch64": 107}[platform.machine()]
block = ctypes.create_string_buffer(64); block[8] = 0; block[12] = 1
ids = ctypes.c_int()
while n < 2_000_000 and libc.syscall(number, 1, block, ctypes.byref(ids)) == 0: n += 1
assert n < 2_000_000, n""",
        limits={"wall_s": 50, "memory_mib": 1000},
        ended=("exit",),
        unshown="the bound is the host's for each user, inherited; no limit of ours raises it",
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
        wants="every pseudo terminal",
        code="""
import os, pty, time
held = []
try:
    while len(held) < 5000: held += pty.openpty()
except OSError: pass
print("full", flush=True); time.sleep(1000)""",
        limits={"wall_s": 50},
        ended=FULL,
        more={"open_files": 2000, "wall_s": 50},
        past=("descriptors", 1024),
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
