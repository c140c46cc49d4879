"""Programs that want all there is: one entry each, run inside by `test_exhaustion.py`, with a limit that they pass.

`ended` says how that run ends. A program that is to end by itself (`exit`) finds that the kernel gives it no more.
Python of which a live session can run each, too; what must be a process of its own says so.
"""
# ruff: noqa: E501  programs that are run inside stand here as they are

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """One program, and the limit that ends it."""

    id: str
    wants: str
    code: str
    limits: dict[str, float]
    ended: tuple[str, ...]
    language: str = "python"
    in_session: bool = True
    more: dict[str, float] = field(default_factory=dict)
    """Limits under which the same program ends by itself; empty: it never would, or does anyway."""


_SMALL = {"memory_mib": 150, "wall_s": 50}
_LARGE = {"memory_mib": 2000, "wall_s": 50}

MEMORY = (
    Greedy(
        id="heap",
        wants="memory of its own",
        code="parts = []\nfor _ in range(400): parts.append(bytearray(b'x' * (1 << 20)))",
        limits=_SMALL,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="heap-of-children",
        wants="memory of many processes, each of which takes little",
        code="""
import os, time
for _ in range(20):
    if os.fork() == 0:
        part = bytearray(b'x' * (20 << 20)); time.sleep(1000)
time.sleep(1000)""",
        limits=_SMALL,
        ended=("memory",),
    ),
    Greedy(
        id="one-giant",
        wants="ten gigabytes at once",
        code="x = bytearray(10 ** 10)\nfor n in range(0, len(x), 4096): x[n] = 1",
        limits=_SMALL,
        ended=("memory",),
    ),
    Greedy(
        id="shared-anonymous",
        wants="memory that is shared with children",
        code="import mmap\nm = mmap.mmap(-1, 400 << 20)\nfor n in range(0, len(m), 4096): m[n] = 1",
        limits=_SMALL,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="dev-shm",
        wants="memory in /dev/shm",
        code="import time\nf = open('/dev/shm/f', 'wb', 0)\nfor _ in range(200): f.write(b'x' * (1 << 20))\ntime.sleep(2)",
        limits=_SMALL,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="dev-shm-without-end",
        wants="more of /dev/shm and /run than there is",
        code="""
import errno
for place in ("/dev/shm", "/run"):
    try:
        with open(place + "/f", "wb", 0) as f:
            for _ in range(2000): f.write(b"x" * (1 << 20))
        raise SystemExit("no end")
    except OSError as error: assert error.errno == errno.ENOSPC, error
n = 0
try:
    while True: open(f"/dev/shm/n{n}", "x").close(); n += 1
except OSError as error: assert error.errno in (errno.ENOSPC, errno.ENOMEM) and n < 70_000, n""",
        limits=_LARGE,
        ended=("exit",),
    ),
    Greedy(
        id="memory-files",
        wants="memory in files without a name",
        code="import os, time\nfor _ in range(4):\n    f = os.memfd_create('x')\n    for _ in range(100): os.write(f, b'x' * (1 << 20))\ntime.sleep(2)",
        limits=_SMALL,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="memory-files-passed-on",
        wants="memory in files that lie in a socket, where no process has them open",
        code="""
import os, socket, time
a, b = socket.socketpair()
for _ in range(40):
    f = os.memfd_create("x")
    for _ in range(10): os.write(f, b"x" * (1 << 20))
    socket.send_fds(a, [b"x"], [f]); os.close(f)
time.sleep(2)""",
        limits=_SMALL,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="segments",
        wants="System V segments that are mapped nowhere",
        code="""
import ctypes, time
libc = ctypes.CDLL(None); libc.shmat.restype = ctypes.c_void_p
for _ in range(40):
    i = libc.shmget(0, 10 << 20, 0o1600); p = libc.shmat(i, None, 0); ctypes.memset(ctypes.c_void_p(p), 1, 10 << 20); libc.shmdt(ctypes.c_void_p(p))
time.sleep(2)""",
        limits=_SMALL,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="messages",
        wants="memory in System V messages",
        code="""
import ctypes, time
libc = ctypes.CDLL(None, use_errno=True); block = ctypes.create_string_buffer(8 + 8192); block[0] = b"\\1"
sent = 0
for _ in range(25_000):
    queue = libc.msgget(0, 0o1600)
    if queue < 0: break
    while libc.msgsnd(queue, block, 8192, 0o4000) == 0: sent += 8192
time.sleep(2)""",
        limits=_SMALL,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="page-tables",
        wants="page tables, by touching a page here and there of memory that is all zero",
        code="""
import ctypes, mmap
m = mmap.mmap(-1, 200 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, prot=mmap.PROT_READ)
m.madvise(15)
total = sum(m[n] for n in range(0, len(m), 2 << 20))""",
        limits=_SMALL,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="socket-buffers",
        wants="memory in what was written to sockets and nobody reads",
        code="""
import os, socket, time
for _ in range(4):
    if os.fork() == 0: break
pairs = [socket.socketpair() for _ in range(60)]
for pair in pairs:
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20); end.setblocking(False)
        try:
            while True: end.send(b"x" * 32768)
        except BlockingIOError: pass
time.sleep(3)""",
        limits=_SMALL,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="pipe-buffers",
        wants="memory in pipes that are made large",
        code="""
import fcntl, os
total, pipes = 0, []
for _ in range(450):
    r, w = os.pipe(); os.set_blocking(w, False); pipes.append((r, w))
    try: fcntl.fcntl(w, 1031, 1 << 20)
    except OSError: pass
    try:
        while True: total += os.write(w, b"x" * 65536)
    except BlockingIOError: pass
assert total < 100 << 20, total""",
        limits=_LARGE,
        ended=("exit",),
    ),
    Greedy(
        id="message-queues",
        wants="memory in POSIX message queues",
        code="""
import ctypes, errno
librt = ctypes.CDLL("librt.so.1", use_errno=True); made = 0
while librt.mq_open(b"/q%d" % made, 0o102, 0o600, None) >= 0: made += 1
assert made < 100 and ctypes.get_errno() in (errno.EMFILE, errno.ENOSPC, errno.ENOMEM, errno.EACCES), (made, ctypes.get_errno())""",
        limits=_LARGE,
        ended=("exit",),
    ),
)

PROCESSES = (
    Greedy(
        id="fork-bomb",
        wants="as many processes as there can be",
        code="bomb() { bomb | bomb & }\nbomb\necho full\nsleep 1000",
        language="bash",
        limits={"processes": 60, "wall_s": 2},
        ended=("timeout",),
        in_session=False,
    ),
    Greedy(
        id="fork-bomb-that-never-waits",
        wants="the same without a shell",
        code="import os, time\nn = 0\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(0.01)",
        limits={"processes": 60, "wall_s": 2},
        ended=("timeout",),
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
import sys
assert n < (70 if sys.argv[0].startswith('/run/code') else 300), n  # a session has room for checkpoints, too
print("full", flush=True); time.sleep(1000)""",
        limits={"processes": 60, "wall_s": 3},
        ended=("timeout",),
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
import sys
assert n < (70 if sys.argv[0].startswith('/run/code') else 300), n  # a session has room for checkpoints, too
print("full", flush=True); time.sleep(1000)""",
        limits={"processes": 60, "wall_s": 3},
        ended=("timeout",),
    ),
)

DISK = (
    Greedy(
        id="disk-flood",
        wants="the whole disk",
        code="f = open('flood', 'wb', 0)\nwhile True: f.write(b'x' * (1 << 20))",
        limits={"disk_mib": 100, "wall_s": 50},
        ended=("killed",),
    ),
    Greedy(
        id="disk-flood-without-a-name",
        wants="the disk, in a file that was deleted at once",
        code="import os\nf = open('/tmp/flood', 'wb', 0); os.unlink('/tmp/flood')\nn = 0\nwhile n < 300: f.write(b'x' * (1 << 20)); n += 1",
        limits={"file_mib": 100, "wall_s": 50},
        ended=("exit", "signal"),
    ),
    Greedy(
        id="many-files",
        wants="every inode",
        code="import os\nn = 0\nwhile True: os.mknod(f'/tmp/{n}'); n += 1",
        limits={"inodes": 3000, "wall_s": 50},
        ended=("killed",),
    ),
    Greedy(
        id="one-big-file",
        wants="a file beyond the largest",
        code="import errno, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nf = open('big', 'wb', 0)\ntry:\n    for _ in range(100): f.write(b'x' * (1 << 20))\nexcept OSError as error: assert error.errno == errno.EFBIG\nassert f.tell() == 20 << 20\ntry: f.truncate(1 << 30)\nexcept OSError as error: assert error.errno == errno.EFBIG\nelse: raise SystemExit('truncated')",
        limits={"file_mib": 20, "wall_s": 50},
        ended=("exit",),
    ),
    Greedy(
        id="sparse",
        wants="nothing, in a file that looks as if it took all",
        code="open('sparse', 'wb').truncate(1 << 40)\nassert __import__('os').stat('sparse').st_blocks == 0",
        limits={"file_mib": 1 << 21, "disk_mib": 10, "wall_s": 50},
        ended=("exit",),
    ),
)

OUTPUT = (
    Greedy(
        id="output-flood",
        wants="all memory of whoever reads its output",
        code="exec yes",
        language="bash",
        limits={"output_bytes": 100_000, "wall_s": 50},
        ended=("output",),
        in_session=False,
    ),
    Greedy(
        id="flood-on-both",
        wants="the same on both streams at once, from two processes",
        code="import os\nif os.fork() == 0:\n    while True: os.write(2, b'e' * 65536)\nwhile True: os.write(1, b'o' * 65536)",
        limits={"output_bytes": 100_000, "wall_s": 50},
        ended=("output",),
    ),
    Greedy(
        id="one-line-of-a-gigabyte",
        wants="a reader that waits for the end of a line",
        code="import os\nfor _ in range(1 << 14): os.write(1, b'x' * 65536)",
        limits={"output_bytes": 1_000_000, "wall_s": 50},
        ended=("output",),
    ),
    Greedy(
        id="no-text",
        wants="a reader that fails on NUL, on bytes that are no text, and on half a character at the cut",
        code="import os\nos.write(1, b'\\0\\xff\\xfe' + '\\u20ac'.encode() * 40_000)",
        limits={"output_bytes": 100_000, "wall_s": 50},
        ended=("output",),
    ),
    Greedy(
        id="output-held-open",
        wants="a caller who waits for the end of the output",
        code="import os, subprocess\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)\nprint('done')",
        limits={"wall_s": 50},
        ended=("exit",),
    ),
)

TIME = (
    Greedy(
        id="spin",
        wants="all of a CPU",
        code="while True: pass",
        limits={"cpu_s": 0.5, "wall_s": 50},
        ended=("timeout",),
    ),
    Greedy(
        id="spin-in-children",
        wants="CPU of children that share the time between them",
        code="import os\nfor _ in range(3): os.fork()\nwhile True: pass",
        limits={"cpu_s": 1, "wall_s": 50},
        ended=("timeout",),
    ),
    Greedy(
        id="sleep",
        wants="never to end",
        code="import time\ntime.sleep(10**6)",
        limits={"wall_s": 1},
        ended=("timeout",),
    ),
    Greedy(
        id="reads-for-ever",
        wants="input that never comes",
        code="import sys\nassert sys.stdin.read() == ''",
        limits={"wall_s": 50},
        ended=("exit",),
    ),
    Greedy(
        id="stops-itself",
        wants="to be waited for, stopped",
        code="import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        limits={"wall_s": 1},
        ended=("timeout",),
    ),
    Greedy(
        id="ignores-signals",
        wants="not to be told to end",
        code="import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: signal.pause()",
        limits={"wall_s": 1},
        ended=("timeout",),
    ),
    Greedy(
        id="pattern-without-end",
        wants="CPU by a pattern that backtracks",
        code="import re\nre.match('(a*)*b', 'a' * 64)",
        limits={"wall_s": 1.5},
        ended=("timeout",),
    ),
)

TABLES = (
    Greedy(
        id="descriptors",
        wants="every descriptor",
        code="""
import errno, os
held = []
try:
    while True: held.append(os.open("/dev/null", 0))
except OSError as error: assert error.errno == errno.EMFILE, error
assert len(held) < 100, len(held)""",
        limits={"open_files": 100, "wall_s": 50},
        ended=("exit",),
        in_session=False,
    ),
    Greedy(
        id="parked-descriptors",
        wants="descriptors beyond its limit, parked in sockets",
        code="""
import errno, os, socket
a, b = socket.socketpair(); parked = 0
a.setblocking(False)
try:
    while parked < 100_000:
        socket.send_fds(a, [b"x"], [0] * 50); parked += 50
except OSError as error: assert error.errno in (errno.ETOOMANYREFS, errno.EAGAIN), error
assert parked < 20_000, parked""",
        limits={"open_files": 100, "wall_s": 50},
        ended=("exit",),
        in_session=False,
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
    ),
    Greedy(
        id="epoll",
        wants="every place where descriptors are waited for",
        code="""
import errno, select
held = []
try:
    while True: held.append(select.epoll())
except OSError as error: assert error.errno == errno.EMFILE, error
assert len(held) < 1100""",
        limits={"wall_s": 50},
        ended=("exit",),
    ),
    Greedy(
        id="terminals",
        wants="every pseudo terminal",
        code="""
import os, pty
held = []
try:
    while len(held) < 5000: held += pty.openpty()
except OSError: pass
assert len(held) < 1100, len(held)""",
        limits={"wall_s": 50},
        ended=("exit",),
    ),
    Greedy(
        id="ports",
        wants="every port",
        code="""
import socket
held = []
try:
    while len(held) < 5000:
        s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen(); held.append(s)
except OSError: pass
assert len(held) < 1100, len(held)""",
        limits={"wall_s": 50},
        ended=("exit",),
    ),
)

COMPILERS = (
    Greedy(
        id="rust-macros",
        wants="a compiler that never ends",
        code="macro_rules! m { ($($x:tt)*) => { m!($($x)* $($x)*) } }\nfn main() { m!(a b c d e f g h); }",
        language="rust",
        limits={"memory_mib": 400, "wall_s": 6, "cpu_s": 30},
        ended=("memory", "timeout", "exit", "signal"),
        in_session=False,
    ),
    Greedy(
        id="includes-without-end",
        wants="a compiler that reads without end",
        code="command -v gcc > /dev/null || exit 0\necho '#include \"/dev/zero\"' > a.c\nexec gcc -c a.c",
        language="bash",
        limits={"memory_mib": 300, "wall_s": 6, "cpu_s": 30},
        ended=("memory", "timeout", "exit"),
        in_session=False,
    ),
    Greedy(
        id="an-object-of-gigabytes",
        wants="the disk, by a compiler",
        code="command -v gcc > /dev/null || exit 0\necho 'int a[1 << 29] = {1};' > a.c\nexec gcc -c a.c",
        language="bash",
        limits={"memory_mib": 1000, "file_mib": 50, "wall_s": 20, "cpu_s": 30},
        ended=("exit", "signal", "memory", "timeout"),
        in_session=False,
    ),
)

GREEDY = (*MEMORY, *PROCESSES, *DISK, *OUTPUT, *TIME, *TABLES, *COMPILERS)
