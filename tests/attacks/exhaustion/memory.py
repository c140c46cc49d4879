"""Programs that want memory, in all the places where the kernel keeps some."""
# ruff: noqa: E501  programs that are run inside stand here as they are

from exhaustion.greedy import Greedy

_SMALL = {"memory_mib": 150, "wall_s": 50}
_LARGE = {"memory_mib": 2000, "wall_s": 50}
_SMALLEST = {"memory_mib": 40, "wall_s": 50}

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
        more=_LARGE,
        past=("resident bytes", 150 << 20),
    ),
    Greedy(
        id="beside-what-was-given-back",
        wants="memory of many processes, each of which shares more that was given back",
        code="""
import mmap, os, time
back = mmap.mmap(-1, 100 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for n in range(0, len(back), 4096): back[n] = 1
back.madvise(mmap.MADV_FREE)
for _ in range(10):
    if os.fork() == 0:
        part = bytearray(b'x' * (20 << 20)); time.sleep(1000)
time.sleep(1000)""",
        limits=_SMALL,
        ended=("memory",),
        more=_LARGE,
        past=("resident bytes", 150 << 20),
    ),
    Greedy(
        id="one-giant",
        wants="ten gigabytes at once",
        code="x = bytearray(10 ** 10)\nfor n in range(0, len(x), 4096): x[n] = 1",
        limits=_SMALL,
        ended=("memory",),
        more={"memory_mib": 600, "wall_s": 50},
        past=("resident bytes", 150 << 20),
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
        more=_LARGE,
        lifted='machine._VOLATILE_MEMORY = machine._VOLATILE_MEMORY.replace("256m", "600m")',
        past=("bytes in a file", 256 << 20),
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
        id="semaphores",
        wants="System V semaphores, which take memory where no process has any",
        code="""
import ctypes, time
libc = ctypes.CDLL(None)
for _ in range(25_000): assert libc.semget(0, 255, 0o1600) >= 0
time.sleep(3)""",
        limits=_SMALL,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="semaphores-to-undo",
        wants="what each process has for each set of semaphores, to be undone when it ends",
        code="""
import ctypes, os, struct, time
libc, one = ctypes.CDLL(None), ctypes.create_string_buffer(struct.pack("HhH", 0, 1, 0x1000))
sets, there = [libc.semget(0, 255, 0o1600) for _ in range(3000)], [os.pipe() for _ in range(60)]
for _, end in there:
    if os.fork() == 0:
        for each in sets: libc.semop(each, one, 1)
        os.write(end, b"!"); time.sleep(1000)
for end, _ in there: os.read(end, 1)""",
        limits=_SMALL,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="events-of-files",
        wants="what watchers of files are told and do not read",
        code="""
import ctypes, os, time
libc = ctypes.CDLL(None); os.mkdir("w")
for _ in range(25):
    assert libc.inotify_add_watch(libc.inotify_init1(0), b"w", 0x300) >= 0
for n in range(8000):
    os.close(os.open("w/" + "a" * 250, os.O_CREAT | os.O_WRONLY)); os.unlink("w/" + "a" * 250)
time.sleep(1)""",
        limits=_SMALLEST,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="empty-files",
        wants="empty files in memory, of which no block is used",
        code="""
import os, time
for n in range(65_000): os.mknod(f"/dev/shm/{n}")
time.sleep(1)""",
        limits=_SMALLEST,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="what-closed-sockets-sent",
        wants="memory in what was sent by sockets that are closed, and nobody reads",
        code="""
import socket, time
held, block = [], b"x" * 65536
for _ in range(400):
    sender, reader = socket.socketpair(); held.append(reader)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20); sender.setblocking(False)
    try:
        while True: sender.send(block)
    except BlockingIOError: sender.close()
time.sleep(1)""",
        limits=_SMALL,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="pages-in-pipes",
        wants="huge pages of a file that is no more, of which pipes hold a byte each",
        code="""
import os, time
file, block, pipes = os.open("big", os.O_RDWR | os.O_CREAT), bytes(2 << 20), []
for n in range(200):
    os.write(file, block)
    if n % 16 == 0: pipes.append(os.pipe())
    os.splice(file, pipes[-1][1], 1, offset_src=n << 21)
os.unlink("big"); os.ftruncate(file, 0); time.sleep(1)""",
        limits=_SMALL,
        ended=("memory", "exit"),  # where this kernel's files have no huge pages it is little
        more=_LARGE,
    ),
    Greedy(
        id="access-lists",
        wants="memory in access lists of empty files in memory, which no block of them shows",
        code="""
import os, struct, time
entry = struct.Struct("<HHI").pack
users = [entry(2, 7, 1000)] * 8000
value = struct.pack("<I", 2) + b"".join([entry(1, 7, 0xFFFFFFFF), *users, *(entry(kind, 7, 0xFFFFFFFF) for kind in (4, 16, 32))])
for n in range(4000):
    open(f"/dev/shm/{n}", "w").close(); os.setxattr(f"/dev/shm/{n}", "system.posix_acl_access", value)
time.sleep(3)""",
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
        id="datagrams",
        wants="memory in datagrams on the loopback that nobody reads",
        code="""
import socket, time
held, sender = [], socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(800):
    end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); end.bind(("127.0.0.1", 0)); held.append(end)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    for _ in range(30): sender.sendto(b"x" * 14000, end.getsockname())
time.sleep(1)""",
        limits=_SMALL,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="streams",
        wants="memory in connections on the loopback that nobody reads",
        code="""
import socket, time
held, listener = [], socket.create_server(("127.0.0.1", 0), backlog=100)
for _ in range(200):
    ends = [socket.create_connection(listener.getsockname()), listener.accept()[0]]; held += ends
    ends[0].setblocking(False); ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    try:
        while True: ends[0].send(b"x" * 65536)
    except BlockingIOError: pass
time.sleep(1)""",
        limits=_SMALL,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="behind-mappings",
        wants="memory that is shared with nobody, thrown out of the process and kept by its mappings",
        code="""
import mmap, time
parts = []
for _ in range(10):
    part = mmap.mmap(-1, 20 << 20); parts.append(part)
    for n in range(0, len(part), 4096): part[n] = 1
    part.madvise(mmap.MADV_DONTNEED)
time.sleep(1)""",
        limits=_SMALL,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="locks",
        wants="locks on files, of which nobody else bounds the number",
        code="""
import fcntl, os, struct, time
for n in range(900):
    f = os.open(f"/tmp/lock{n}", os.O_CREAT | os.O_RDWR)
    for place in range(500): fcntl.fcntl(f, fcntl.F_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 2 * place, 1, 0))
time.sleep(1)""",
        limits=_SMALLEST,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="mappings",
        wants="mappings, of which the kernel writes down each, in many processes",
        code="""
import ctypes, os, time
libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p
start = libc.mmap(None, ctypes.c_long(60_000 * 4096), 0, 0x4022, -1, ctypes.c_long(0))
for n in range(0, 60_000, 2): libc.mprotect(ctypes.c_void_p(start + n * 4096), 4096, 1)
for _ in range(4):
    if os.fork() == 0: time.sleep(1000)
time.sleep(1)""",
        limits=_SMALLEST,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="epoll-watches",
        wants="descriptors to wait for, each of them many times",
        code="""
import os, select, time
os.fork()
ends, waiting = [os.eventfd(0) for _ in range(500)], [select.epoll() for _ in range(300)]
for one in waiting:
    for end in ends: one.register(end, select.EPOLLIN)
time.sleep(1)""",
        limits=_SMALLEST,
        ended=("memory",),
        more=_LARGE,
    ),
    Greedy(
        id="filters",
        wants="filters of system calls, in many processes",
        code="""
import ctypes, os, struct, time
libc = ctypes.CDLL(None)
allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000)); one = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(allow)))
for _ in range(4):
    if os.fork() == 0:
        while libc.prctl(22, 2, one) == 0: pass
        time.sleep(1000)
time.sleep(3)""",
        limits=_SMALLEST,
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
        unshown="the bound is the kernel's, for all pipes of a user; no limit of ours raises it",
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
        unshown="the bound is the launcher's for good, and they are files that Landlock refuses",
    ),
)
