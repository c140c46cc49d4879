"""Attempts to learn what is the host's or somebody else's."""
# ruff: noqa: E501  programs that are run inside stand here as they are

from rewindbox.attacks.attack import Attack

SECRETS = (
    Attack(
        id="environment-of-the-host",
        tries="find a secret in any environment or command line",
        code="""
found = [n for n, v in os.environ.items() if "@SECRET@"[::-1] in v]
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline"):
        try:
            if "@SECRET@"[::-1].encode() in open(f"/proc/{pid}/{name}", "rb").read(): found.append((pid, name))
        except OSError: pass
say("BROKE", found) if found else say("HELD")""",
        held_by=("own environment",),
    ),
    Attack(
        id="files-of-the-host",
        tries="read a file of the host by its name, by every root it can name",
        code="""
def read(root):
    with open(root + "@CANARY@") as file: return len(file.read())
all_must_raise(**{r or "plain": lambda r=r: read(r) for r in roots()})""",
        held_by=("own root",),
    ),
    Attack(
        id="descriptors-of-the-host",
        tries="find a descriptor that it was not given",
        code="""
own = {"0", "1", "2"}
def target(name):
    try: return os.readlink("/proc/self/fd/" + name)
    except OSError: return None  # the listing's own
others = {n: t for n in os.listdir("/proc/self/fd") if n not in own and int(n) < 900 and (t := target(n)) not in (None, "/dev/null")}
say("BROKE", others) if others else say("HELD")""",
        held_by=("closed descriptors",),
    ),
    Attack(
        id="folders-that-are-open",
        tries="leave the root by a folder that somebody had open",
        code="""
def read(number):
    opened = os.open(".." + "/.." * 40 + "@CANARY@", os.O_RDONLY, dir_fd=int(number))
    return len(os.read(opened, 100))
all_must_raise(**{n: lambda n=n: read(n) for n in os.listdir("/proc/self/fd")})""",
        held_by=("closed descriptors",),
    ),
    Attack(
        id="processes-of-the-host",
        tries="see a process that is not of this execution",
        code="""
others = [pid for pid in filter(str.isdigit, os.listdir("/proc")) if int(pid) != os.getpid()]
say("BROKE", others) if others else say("HELD")""",
        held_by=("own /proc",),
    ),
    Attack(
        id="guess-a-process",
        tries="find a process that is not listed",
        code="""
others = [pid for pid in range(1, 400) if pid != os.getpid() and os.path.exists(f"/proc/{pid}/status")]
say("BROKE", others) if others else say("HELD")""",
        held_by=("hidepid",),
    ),
    Attack(
        id="hidden-kernel-files",
        tries="read what the kernel tells of the host",
        code="""
names = ("cmdline", "config.gz", "interrupts", "iomem", "ioports", "kallsyms", "kcore", "key-users", "keys", "kmsg", "modules", "sched_debug", "slabinfo", "timer_list", "vmallocinfo", "sys/kernel/random/boot_id")
def peek(name):
    with open("/proc/" + name, "rb") as f: data = f.read(64)
    if not data: raise OSError
    return data
all_must_raise(**{n: lambda n=n: peek(n) for n in names})""",
        held_by=("masks of /proc",),
    ),
    Attack(
        id="accounts-of-the-host",
        tries="find the host's users, keys and machine id",
        code="""
places = ("/etc/shadow", "/etc/machine-id", "/etc/ssh", "/root/.ssh", "/root/.bashrc", "/var/lib/dbus/machine-id", "/etc/sudoers", "/home/" + "@USER@", "/var/log/wtmp", "/etc/fstab")
all_must_raise(**{p: lambda p=p: os.stat(p) for p in places})""",
        held_by=("made-up /etc",),
    ),
    Attack(
        id="keys-of-the-user",
        tries="find credentials of whoever started the vm, below any root",
        code="""
names = (".ssh", ".aws", ".config/gcloud", ".kube", ".docker", ".gitconfig", ".netrc", ".bash_history", ".python_history", ".cache", ".bashrc", ".profile", ".local")
homes = ["@HOME@", "/root", "/home/" + "@USER@", "@OTHER@"]
found = [p for r in roots() for h in homes if not (r + h).endswith("/home/agent") for n in names if os.path.lexists(p := f"{r}{h}/{n}")]
say("BROKE", found[:10]) if found else say("HELD")""",
        held_by=("own root",),
    ),
    Attack(
        id="hardware",
        tries="find the host's hardware",
        code='all_must_raise(**{r or "plain": lambda r=r: os.listdir(r + "/sys/class") for r in roots()}, pci=lambda: open("/proc/bus/pci/devices").read(1) or int("empty"), dmi=lambda: os.listdir("/sys/class/dmi"))',
        held_by=("own root",),
    ),
    Attack(
        id="name-of-the-host",
        tries="learn what the host is called",
        code="""
places = {p: open(p).read() for p in ("/etc/hostname", "/etc/hosts", "/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname")}
places["uname"] = os.uname().nodename
found = [p for p, text in places.items() if "@NODE@"[::-1] in text]
say("BROKE", found) if found else say("HELD")""",
        held_by=("own host name",),
    ),
    Attack(
        id="memory-with-a-key-of-the-host",
        tries="find shared memory of the host",
        code="""
segment = libc.shmget(@KEY@, 0, 0)
listed = [line for line in open("/proc/sysvipc/shm").read().splitlines()[1:] if line.split()[0] == "@KEY@"]
say("BROKE", segment, listed) if segment >= 0 or listed else say("HELD")""",
        held_by=("ipc namespace",),
    ),
)
