"""Attacks on what a live session goes back to, and on those who hold it."""
# ruff: noqa: E501  programs that are run inside stand here as they are

from rewindbox.attacks.attack import Attack

_OUR_READING = "what could be taken away is how the supervisor reads, which is the supervisor"

SESSIONS = (
    Attack(
        id="signal-what-it-goes-back-to",
        tries="reach the frozen checkpoints and the template with a signal, by every call that sends one",
        code="""
found = []
def sent(name, *arguments):
    if call(name, *arguments)[0] >= 0: found.append((name, arguments[0]))
SIGNALS = {"kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424)}
number = {n: v[platform.machine() == "aarch64"] for n, v in SIGNALS.items()}
information = ctypes.create_string_buffer(struct.pack("iii", 0, 0, -1) + bytes(116))
for pid in range(2, 200):
    if pid == os.getpid(): continue
    sent(number["kill"], pid, 0)
    sent(number["tkill"], pid, 0)
    sent(number["tgkill"], pid, pid, 0)
    sent(number["rt_sigqueueinfo"], pid, 0, information)
    sent(number["rt_tgsigqueueinfo"], pid, pid, 0, information)
    try: sent(number["pidfd_send_signal"], os.pidfd_open(pid), 0, 0, 0)
    except OSError: pass
say("BROKE", found[:20]) if found else say("HELD")""",
        held_by=("guard",),
        in_execution=False,
    ),
    Attack(
        id="files-that-signal-what-it-goes-back-to",
        tries="have a file signal the frozen checkpoints and the template, or a group that they are in",
        code="""
end, _ = os.pipe()
fcntl.fcntl(end, 8, os.getpid())
found = []
for pid in {*range(2, 200), -1} - {os.getpid()}:
    for owner in (pid, -pid):
        try: fcntl.fcntl(end, 8, owner); found.append(owner)
        except OSError: pass
say("BROKE", found[:20]) if found else say("HELD")""",
        held_by=("guard",),
        in_execution=False,
    ),
    Attack(
        id="signals-by-handles-of-the-supervisor",
        tries="be taken for the supervisor by its own name, so that its handles of processes are used",
        code="""
number = 424  # pidfd_send_signal
libc.prctl(15, b"\\rTgid:\\t1")
own = {int(n) for n in os.listdir("/proc/self/fd")}
answers = {n: call(number, n, 0, 0, 0) for n in range(3, 400) if n not in own}
found = [n for n, answer in answers.items() if answer != (-1, errno.EBADF)]
say("BROKE", found) if found else say("HELD", len(answers))""",
        held_by=("lines of /proc",),
        in_execution=False,
    ),
    Attack(
        id="priority-of-a-checkpoint",
        tries="have what it goes back to run last of all, or on one processor, for good",
        code="""
SETS = {"sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274), "setpriority": (141, 140), "ioprio_set": (251, 30)}
number = {n: v[platform.machine() == "aarch64"] for n, v in SETS.items()}
processors, parameter, attributes = (ctypes.create_string_buffer(b, len(b)) for b in (b"\\xff" * 128, bytes(4), struct.pack("IIQiIQQQ", 48, 5, 0, 0, 0, 0, 0, 0)))
found = []
def put(name, *arguments):
    if call(number[name], *arguments)[0] >= 0: found.append((name, arguments[:2]))
for pid in range(2, 200):
    if pid == os.getpid(): continue
    put("sched_setaffinity", pid, 128, processors)
    put("sched_setscheduler", pid, 5, parameter)
    put("sched_setparam", pid, parameter)
    put("sched_setattr", pid, attributes, 0)
    for kind in (0, 1): put("setpriority", kind, pid, 1), put("ioprio_set", kind + 1, pid, 3 << 13)
for uid in (0, os.getuid()): put("setpriority", 2, uid, 1), put("ioprio_set", 3, uid, 3 << 13)
say("BROKE", found[:20]) if found else say("HELD")""",
        held_by=("guard",),
        in_execution=False,
    ),
    Attack(
        id="memory-of-a-checkpoint",
        tries="open the memory, the files and the sockets of what it goes back to",
        code="""
names = ("mem", "maps", "environ", "fd", "exe", "cwd", "root", "ns/pid", "status", "cmdline", "task")
def look(pid, name):
    path = f"/proc/{pid}/{name}"
    return os.readlink(path) if name in ("exe", "cwd", "root", "ns/pid") else os.listdir(path) if name in ("fd", "task") else os.close(os.open(path, os.O_RDONLY)) or 1
all_must_raise(**{f"{p}/{n}": lambda p=p, n=n: look(p, n) for p in range(2, 200) if p != os.getpid() for n in names})""",
        held_by=("undumpable checkpoints",),
        in_execution=False,
    ),
    Attack(
        id="limits-of-a-checkpoint",
        tries="have a limit of processor time end what it goes back to",
        code="all_must_raise(**{str(p): lambda p=p: resource.prlimit(p, resource.RLIMIT_CPU) for p in range(2, 200) if p != os.getpid()})",
        held_by=("seccomp",),
        in_execution=False,
    ),
    Attack(
        id="words-on-the-control-socket",
        tries="say things on the sockets of the supervisor, with descriptors by the hundred",
        code="""
spoken = 0
junk = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]
for number in range(900, 1024):
    for message in (b"ready", b"0 0 0", b"", b"x" * 60000, b'{"op": "end"}'):
        try:
            s = socket.socket(fileno=os.dup(number)); s.setblocking(False)
            socket.send_fds(s, [message], junk); spoken += 1
        except OSError: pass
for number in junk: os.close(number)
say("HELD", spoken)""",
        unshown=_OUR_READING,
        in_execution=False,
        is_ended=True,
    ),
    Attack(
        id="answers-on-the-control-socket",
        tries="take the supervisor's orders away, and close, block and share its sockets",
        code="""
taken = 0
for number in range(900, 1024):
    try:
        s = socket.socket(fileno=os.dup(number)); s.setblocking(False); s.shutdown(socket.SHUT_RDWR); taken += 1
    except OSError: pass
os.closerange(900, 1024)
say("HELD", taken)""",
        unshown=_OUR_READING,
        in_execution=False,
        is_ended=True,
    ),
    Attack(
        id="a-second-head",
        tries="answer in place of the session, from a child with the session's sockets",
        code="""
def again():
    pid = os.fork()
    if pid == 0:
        os.setsid()
        for number in range(900, 1024):
            try: socket.socket(fileno=os.dup(number)).send(b"ready")
            except OSError: pass
        time.sleep(1000)
    return pid
children = [again() for _ in range(4)]
say("HELD", len(children))""",
        unshown=_OUR_READING,
        in_execution=False,
        is_ended=True,
    ),
    Attack(
        id="shed-the-mark-of-a-session",
        tries="change the limit by which it is known whose a process is, so that no execution's limits and end are its",
        code="""
lower, found = ctypes.create_string_buffer(struct.pack("QQ", 5, 5)), {}
high = ctypes.c_uint64(12 | 1 << 32)
attempts = {"prlimit64": (0, 12, lower, 0), "setrlimit": (12, lower), "prlimit64 ": (0, high, lower, 0), "setrlimit ": (high, lower)}
for name, arguments in attempts.items(): found[name] = call(name.strip(), *arguments)
libc.mmap.restype = ctypes.c_void_p
place = libc.mmap(ctypes.c_void_p(1 << 32), ctypes.c_size_t(4096), 3, 0x100022, -1, ctypes.c_long(0))
if place == 1 << 32:
    ctypes.memmove(place, lower, 16)
    found["pointer"] = call("prlimit64", 0, 12, ctypes.c_void_p(place), 0)
say("HELD" if all(r == (-1, errno.EPERM) for r in found.values()) else "BROKE", found)""",
        held_by=("seccomp",),
    ),
    Attack(
        id="what-sessions-are-made-of",
        tries="change the programs that the next session starts from",
        code="""
names = [f"/run/code/.session/{n}" for n in ("head.py", "notebook.py", "template")] + ["/run/code/.gate"]
all_must_raise(**{n: lambda n=n: os.open(n, os.O_WRONLY | os.O_NONBLOCK) for n in names}, rename=lambda: os.rename("/run/code/.session", "/run/code/.old") or 1,
    more=lambda: os.open("/run/code/.session/socket.py", os.O_CREAT | os.O_WRONLY))""",
        held_by=("read-only code",),
        in_execution=False,
    ),
)
