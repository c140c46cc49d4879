"""Attempts to be more than the code is: other ids, capabilities, other programs' rights, files that are not its own."""
# ruff: noqa: E501  programs that are run inside stand here as they are

from rewindbox.attacks.attack import Attack, shell

_NO_ROOT = "root of the host has no number inside, so the kernel ignores the bit whatever the mount says"

PRIVILEGE = (
    Attack(
        id="become-root",
        tries="take another id",
        code="""
calls = {"uid": lambda: os.setuid(0), "gid": lambda: os.setgid(0), "res": lambda: os.setresuid(0, 0, 0),
    "groups": lambda: os.setgroups([0, 1]), "fs": lambda: 1 if libc.setfsuid(0) * 0 + libc.setfsuid(0) == 0 else int("no")}
all_must_raise(**{n: lambda f=f: f() or 1 for n, f in calls.items()})""",
        held_by=("capabilities",),
    ),
    Attack(
        id="set-uid-programs",
        tries="gain an id or a capability from a set-uid program",
        code="""
for path in (p for p in os.listdir("/usr/bin") if os.stat("/usr/bin/" + p, follow_symlinks=False).st_mode & 0o6000):
    pid = os.posix_spawn("/usr/bin/" + path, [path, "--help"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, n, "/dev/null", 2, 0) for n in (0, 1, 2)])
    try:
        status = dict(l.split(":", 1) for l in open(f"/proc/{pid}/status"))
        if status["Uid"].split() != ["1000"] * 4 or int(status["CapPrm"], 16): say("BROKE", path, status["Uid"])
    except OSError: pass
    os.waitpid(pid, 0)
say("HELD")""",
        unshown=_NO_ROOT,
    ),
    Attack(
        id="set-uid-copy",
        tries="give a copy of a program to root, or make it set-uid",
        code="""
import shutil, subprocess
shutil.copy("/usr/bin/id", "own")
try: os.chown("own", 0, 0)
except OSError: os.chmod("own", 0o6755)
else: say("BROKE", "given away")
ids = [subprocess.run(["./own", kind], capture_output=True, text=True).stdout.strip() for kind in ("-u", "-g")]
say("HELD") if ids == ["1000", "1000"] else say("BROKE", ids)""",
        held_by=("capabilities",),
    ),
    Attack(
        id="ask-for-root",
        tries="become root by the usual programs, which know no password",
        code=shell(
            '[ "$(timeout 0.2 su -c "id -u" </dev/null || sudo -n id -u || pkexec id -u || doas -n id -u)" = 0 ] 2>/dev/null'
        ),
        language="bash",
        unshown=_NO_ROOT,
    ),
    Attack(
        id="capabilities-of-a-file",
        tries="give a program capabilities",
        code="""
import shutil
shutil.copy("/usr/bin/sleep", "own")
value = struct.pack("<IIIII", 0x02000001, 0xFFFFFFFF, 0, 0xFFFFFFFF, 0)
try:
    all_must_raise(set=lambda: os.setxattr("own", "security.capability", value) or 1)
finally:
    os.unlink("own")""",
        held_by=("capabilities",),
    ),
    Attack(
        id="trusted-attributes",
        tries="set attributes that file systems trust",
        code='open("f", "w").close()\nall_must_raise(set=lambda: os.setxattr("f", "trusted.overlay.opaque", b"y") or 1)',
        outside="root",
    ),
    Attack(
        id="raise-capabilities",
        tries="raise capabilities, also ambient ones",
        code="""
def raised(option, *arguments):
    if libc.prctl(option, *arguments) < 0: raise OSError(ctypes.get_errno())
    return True
def capset():
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    if libc.capset(header, ctypes.create_string_buffer(struct.pack("6I", *[0xFFFFFFFF] * 6))) < 0: raise OSError(1)
    return True
all_must_raise(ambient=lambda: raised(47, 2, 21, 0, 0), capset=capset, securebits=lambda: raised(28, 1 << 4 | 1, 0, 0, 0), keep=lambda: raised(24, 21, 0, 0, 0))""",
        held_by=("capabilities",),
    ),
    Attack(
        id="capabilities-by-exec",
        tries="gain capabilities by starting a program",
        code="""
import subprocess
told = subprocess.run(["grep", "^Cap", "/proc/self/status"], capture_output=True, text=True).stdout
held = [line for line in told.splitlines() if int(line.split()[1], 16)]
say("BROKE", held) if held or not told else say("HELD")""",
        held_by=("capabilities",),
    ),
    Attack(
        id="new-privileges",
        tries="take no_new_privs or the filter off",
        code="""
off = libc.prctl(38, 0, 0, 0, 0)
status = open("/proc/self/status").read()
say("HELD") if off < 0 and "NoNewPrivs:\\t1" in status and "Seccomp:\\t2" in status else say("BROKE", status)""",
        held_by=("no_new_privs",),
    ),
    Attack(
        id="usr-by-its-mount",
        tries="change programs of the host: their mount must refuse it before their owner does",
        code="""
target, folder, answers = "/usr/bin/env", "/usr/bin", {}
attempts = dict(create=lambda: os.open(folder + "/.owned", os.O_CREAT | os.O_WRONLY),
    mode=lambda: os.chmod(target, 0o755), rename=lambda: os.rename(target, target), mkdir=lambda: os.mkdir(folder + "/.owned"),
    unlink=lambda: os.unlink(folder + "/.not-there"), deep=lambda: os.mkdir("/usr/share/.owned"), local=lambda: os.mkdir("/usr/local/.owned"))
for name, attempt in attempts.items():
    try: attempt(); answers[name] = 0
    except OSError as e: answers[name] = e.errno
say("HELD") if set(answers.values()) == {errno.EROFS} else say("BROKE", answers)""",
        held_by=("read-only /usr",),
    ),
    Attack(
        id="times-of-devices",
        tries="change the times of the host's devices, by which vms could speak to each other",
        code='all_must_raise(**{n: lambda n=n: os.utime("/dev/" + n) or 1 for n in ("null", "zero", "full", "random", "urandom", "tty")})',
        held_by=("read-only devices",),
    ),
    Attack(
        id="programs-of-the-host",
        tries="change a program of the host in any way",
        code="""
target, folder = "/usr/bin/env", "/usr/bin"
if not INSIDE: say("HELD", "not outside of a vm")
all_must_raise(
    write=lambda: os.open(target, os.O_WRONLY), create=lambda: os.open(folder + "/owned", os.O_CREAT | os.O_WRONLY),
    mode=lambda: os.chmod(target, 0o777) or 1, owner=lambda: os.chown(target, 1000, 1000) or 1, time=lambda: os.utime(target) or 1,
    rename=lambda: os.rename(target, folder + "/owned") or 1, unlink=lambda: os.unlink(target) or 1, link=lambda: os.link(target, folder + "/owned") or 1,
    xattr=lambda: os.setxattr(target, "user.x", b"") or 1, truncate=lambda: os.truncate(target, 0) or 1, mkdir=lambda: os.mkdir(folder + "/owned") or 1,
    running=lambda: os.open("/proc/self/exe", os.O_WRONLY), held=lambda: os.open("/proc/1/exe", os.O_WRONLY),
    proc=lambda: os.open("/proc/self/root" + target, os.O_WRONLY))""",
        unshown="where it succeeds it changes the host; usr-by-its-mount shows the same without",
    ),
    Attack(
        id="the-code-that-runs",
        tries="change its own code after it was decided on",
        code="""
name = globals().get("__file__") or "/run/code/.session/notebook.py"
all_must_raise(write=lambda: os.open(name, os.O_WRONLY), unlink=lambda: os.unlink(name) or 1, rename=lambda: os.rename(name, name + "x") or 1,
    mode=lambda: os.chmod(name, 0o777) or 1, create=lambda: os.open("/run/code/x", os.O_CREAT | os.O_WRONLY))""",
        held_by=("read-only code",),
    ),
    Attack(
        id="writable-mounts",
        tries="write to a mount that is not the vm's own",
        code="""
found = []
for line in open("/proc/self/mountinfo"):
    place = line.split()[4]
    try:
        if os.path.isdir(place):
            os.close(os.open(place + "/.x", os.O_CREAT | os.O_WRONLY)); os.unlink(place + "/.x"); found.append(place)
    except OSError: pass
extra = set(found) - {"/", "/run", "/dev/shm"}
say("BROKE", extra) if extra else say("HELD", found)""",
        held_by=("read-only code",),
    ),
)
