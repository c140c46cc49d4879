"""What a vm is, read on the host: ids, privileges, descriptors, namespaces, mounts, devices, environments."""
# ruff: noqa: E501  programs that are run inside stand here as they are

import dataclasses
import fcntl
import json
import os
import re
import struct
from pathlib import Path

import anyio
import posture
import pytest
from posture import MOUNTS

import skeletons
from conftest import eventually, job, members, namespace, open_files, out, remove, run, status_of, survivors
from rewindbox import backends
from rewindbox.backends.namespace import seccomp

pytestmark = pytest.mark.anyio
NOTHING = "0000000000000000"
DEVICES = {"fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"}
SECRET = "canary-8a41"


async def watched(vm, code: str, look, language: str = "bash"):
    """What `look` says of the host's pids of a running job's processes; then the job is ended."""
    inside = await namespace(vm)
    started, results = anyio.Event(), []
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: run(vm, code, language, on_output=lambda *_: started.set()))
        await started.wait()
        for pid in survivors(inside):
            results.append(look(pid))
        await vm.cancel()
    assert results
    return results


@pytest.mark.parametrize(
    "code",
    [
        "echo x; exec sleep 1000",
        "cp /usr/bin/sleep own; chmod 6755 own; echo x; exec ./own 1000",
        "python3 -c 'import os, time; os.fork(); os.setsid() if os.getpid() % 2 else 0; print(1, flush=True); time.sleep(1000)'",
    ],
    ids=["plain", "set-uid-copy", "children"],
)
async def test_privileges(vm, code):
    """No process of a job is root for the kernel, has a capability, could gain one, or goes without the filter."""
    expected = {os.getuid()} if os.getuid() else None
    for status in await watched(vm, code, status_of):
        ids = {int(number) for kind in ("Uid", "Gid") for number in status[kind].split()}
        assert 0 not in ids and (expected is None or ids <= {os.getuid(), os.getgid()})
        assert os.getuid() or min(ids) > 100_000
        assert {status[f"Cap{name}"] for name in ("Eff", "Prm", "Bnd", "Amb", "Inh")} == {NOTHING}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert not os.getuid() or status["Groups"] in ("", " ".join(map(str, os.getgroups())))
        assert os.getuid() or status["Groups"] == ""


async def test_nothing_of_a_vm_is_root(vm):
    """Neither pid 1 nor what supervises the vm from outside is root for the kernel."""
    inside = await namespace(vm)
    for pid in members(inside):
        while pid != os.getpid() and pid > 1:
            status = status_of(pid)
            if status["Name"].startswith("python") or status["Name"] == "sleep":
                assert os.getuid() == int(status["Uid"].split()[0]) or int(status["Uid"].split()[0]) > 100_000
            pid = int(status["PPid"])


async def test_namespaces(vm):
    """A job shares no namespace with the host that could matter."""
    own = {name: os.readlink(f"/proc/self/ns/{name}") for name in ("user", "mnt", "pid", "net", "ipc", "uts")}

    def look(pid):
        return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in own}

    for found in await watched(vm, "echo x; exec sleep 1000", look):
        assert [name for name in own if found[name] == own[name]] == []


async def test_descriptors(backend_name, anyio_backend, tmp_path):
    """A job has the descriptors 0, 1 and 2, whatever inheritable ones the caller holds; so has its pid 1."""
    secret = os.open(tmp_path / "secret", os.O_RDWR | os.O_CREAT)
    held = [fcntl.fcntl(secret, fcntl.F_DUPFD, number) for number in (10, 251)]  # free ones: others are not ours
    assert all(os.get_inheritable(number) for number in held)
    made = backends.load(backend_name, str(skeletons.lend(tmp_path / "vms")))
    try:
        vm = await made.create("vm_descriptors")

        def look(pid):
            return {number: os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}

        for found in await watched(vm, "import time; print('x'); time.sleep(1000)", look, "python"):
            assert sorted(found) == ["0", "1", "2"]
            assert found["0"] == "/dev/null"
            assert all(re.fullmatch(r"pipe:\[\d+\]", found[number]) for number in "12")
        told = await out(vm, "import os; print(sorted(os.listdir('/proc/self/fd')))", "python")
        assert told == "['0', '1', '2', '3']\n"  # 3 is the listing itself
        for pid in members(await namespace(vm)):
            assert str(tmp_path / "secret") not in look(pid).values()
            while pid > 1 and pid != os.getpid():
                assert str(tmp_path / "secret") not in open_files(pid), status_of(pid)
                pid = int(status_of(pid)["PPid"])
    finally:
        await made.close()
        for number in (*held, secret):
            os.close(number)
        remove(tmp_path / "vms")


async def test_environments(backend_name, anyio_backend, tmp_path, monkeypatch):
    """No process of the vm, nor between it and us, was given our environment."""
    monkeypatch.setenv("CANARY", SECRET)
    made = backends.load(backend_name, str(skeletons.lend(tmp_path / "vms")))
    try:
        vm = await made.create("vm_environments")
        seen = 0
        for pid in members(await namespace(vm)):
            while pid > 1 and pid != os.getpid():
                try:
                    environment = Path(f"/proc/{pid}/environ").read_bytes()
                except PermissionError:
                    break  # not even ours to read
                assert SECRET.encode() not in environment
                seen += 1
                pid = int(status_of(pid)["PPid"])
        assert SECRET not in await out(vm, "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'")
        assert seen or os.getuid()
    finally:
        await made.close()
        remove(tmp_path / "vms")


async def test_devices(vm):
    """/dev has what is on the list, and nothing else."""

    def look(pid):
        return {
            name: os.stat(f"/proc/{pid}/root/dev/{name}", follow_symlinks=False).st_rdev
            for name in os.listdir(f"/proc/{pid}/root/dev")
        }

    try:
        (found,) = await watched(vm, "echo x; exec sleep 1000", look)
    except PermissionError:
        names = await out(vm, "ls -A /dev")
        assert set(names.split()) == DEVICES
        return
    assert set(found) == DEVICES
    numbers = {
        name: os.makedev(1, minor)
        for name, minor in (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9))
    }
    assert {name: found[name] for name in numbers} == numbers
    assert found["tty"] == os.makedev(5, 0)


async def test_mounts(vm):
    """The mounts are those on the list, none allows set-uid programs, and none names a folder of the host."""

    def look(pid):
        return Path(f"/proc/{pid}/mountinfo").read_text()

    for text in await watched(vm, "echo x; exec sleep 1000", look):
        lines = [line.split() for line in text.splitlines()]
        places = {line[4] for line in lines}
        extra = {place for place in places - MOUNTS if not place.startswith(("/proc/", "/dev/", "/usr/"))}
        assert extra == set() and places >= MOUNTS
        options = {line[4]: set(line[5].split(",")) for line in lines}
        assert [place for place in MOUNTS if "nosuid" not in options[place]] == []
        assert {"ro", "nodev"} <= options["/usr"] and "ro" in options["/run/code"] and "ro" in options["/dev"]
        assert {"nodev", "noexec"} <= options["/proc"] and "ro" in options["/proc/sys"]
        assert "a-long-name-" not in text


async def test_what_the_host_is_called(vm):
    """Nothing inside tells the host's name, machine id, boot id, kernel command line, users or folders."""
    told = await out(vm, "hostname; cat /etc/hostname /etc/hosts /etc/passwd /etc/group /etc/resolv.conf /proc/sys/kernel/random/boot_id "
        "/proc/cmdline /proc/self/mountinfo /proc/mounts /proc/self/cgroup; ls -R /etc /home /root /var /opt /srv /mnt 2>/dev/null; env; set")  # fmt: skip
    secrets = {os.uname().nodename, "a-long-name-", "pytest", str(Path.home())} - {"localhost", "/", "/root"}
    for path in ("/etc/machine-id", "/proc/sys/kernel/random/boot_id", "/proc/cmdline"):
        if os.path.exists(path):
            secrets.add(Path(path).read_text().strip())
    assert [secret for secret in secrets if len(secret) > 5 and secret in told] == []


async def test_two_vms_are_apart(backend, vm):
    """Two vms of one store see nothing of each other: files, processes, shared memory, network, keys."""
    other = await backend.create(f"{vm.id}_other")
    try:
        started = anyio.Event()
        code = """
import socket, time, os
open("/tmp/mine", "w").write("x"); open("/dev/shm/mine", "w").write("x"); open("/run/mine", "w").write("x")
server = socket.create_server(("0.0.0.0", 4711))
name = socket.socket(socket.AF_UNIX); name.bind("\\0mine"); name.listen()
import ctypes; ctypes.CDLL(None).shmget(4711, 4096, 0o1666)
print("x", flush=True); time.sleep(1000)"""
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: run(vm, code, "python", on_output=lambda *_: started.set()))
            await started.wait()
            look = """
import ctypes, os, socket
found = [p for p in ("/tmp/mine", "/dev/shm/mine", "/run/mine") if os.path.exists(p)]
for family, address in ((socket.AF_INET, ("127.0.0.1", 4711)), (socket.AF_UNIX, "\\0mine")):
    try: socket.socket(family).connect(address); found.append(address)
    except OSError: pass
if ctypes.CDLL(None).shmget(4711, 0, 0) >= 0: found.append("shm")
found += [p for p in os.listdir("/proc") if p.isdigit() and p not in ("1", str(os.getpid()))]
print(found)"""
            assert await out(other, look, "python") == "[]\n"
            await vm.cancel()
    finally:
        await backend.destroy(other.id)


async def test_ends_with_its_holder(backend_name, anyio_backend, tmp_path):
    """Closing a backend ends every process of every vm of it, the host's side included."""
    made = backends.load(backend_name, str(skeletons.lend(tmp_path / "vms")))
    vms = [await made.create(f"vm_{number}") for number in range(3)]
    inside = [await namespace(vm) for vm in vms]
    above = {int(status_of(pid)["PPid"]) for name in inside for pid in members(name)} - {1, os.getpid()}
    await made.close()
    await eventually(lambda: not any(members(name) for name in inside), "the vms are gone")
    await eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in above), "their supervisors are gone")
    remove(tmp_path / "vms")


# From here on everything is counted, and held to the table in posture.py: what grows, fails.

REACH = """
import json, os, stat
def entries(top):
    for folder, folders, files in os.walk(top, onerror=lambda error: None):
        if folder == "/proc":
            folders[:] = [name for name in folders if not name.isdigit()]
        elif folder.startswith("/usr/"):
            folders[:] = []  # one mount, whose flags are looked at
        yield from (os.path.join(folder, name) for name in [*folders, *files])
def is_reachable(path, found):
    if stat.S_ISLNK(found.st_mode):
        return False
    mine = found.st_uid == os.getuid() and not os.statvfs(path).f_flag & os.ST_RDONLY
    return mine or os.access(path, os.W_OK)
def readable(folder):
    for name in os.listdir(folder):
        try:
            file = os.open(f"{folder}/{name}", os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            if os.read(file, 100):
                yield name
        except OSError:
            pass
        finally:
            os.close(file)
def sockets():
    for name in ("tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6", "unix", "packet"):
        try:
            with open("/proc/self/net/" + name) as file:
                yield from (f"{name} {line.strip()}" for line in file.readlines()[1:])
        except FileNotFoundError:
            pass
def up():
    import fcntl, socket, struct
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for _, name in socket.if_nameindex():
            flags = fcntl.ioctl(control, 0x8913, struct.pack("16sh14x", name.encode(), 0))
            if struct.unpack("16sh14x", flags)[1] & 1:
                yield name
before = sorted(sockets())
root, found = os.stat("/").st_dev, {}
for path in entries("/"):
    try:
        found[path] = os.lstat(path)
    except OSError:
        pass
reach = {
    "sockets": before,
    "interfaces": [name.strip().partition(":")[0] for name in open("/proc/net/dev").readlines()[2:]],
    "up": sorted(up()),
    "writable": sorted(p for p, s in found.items() if s.st_dev != root and is_reachable(p, s) and not p.startswith("/proc/")),
    "writable of /proc": sorted(p for p, s in found.items() if p.startswith("/proc/") and is_reachable(p, s)
                                and not (stat.S_ISCHR(s.st_mode) and s.st_rdev == os.makedev(1, 3))),
    "own": sorted(e.name for e in os.scandir("/") if e.stat().st_dev == root and os.access(e.path, os.W_OK) and e.is_dir(follow_symlinks=False)),
    "devices": sorted(p for p, s in found.items() if (stat.S_ISCHR(s.st_mode) or stat.S_ISBLK(s.st_mode))
                      and not p.startswith("/proc/") and not p[len("/dev/pts/"):].isdigit()),
    "proc": sorted(readable("/proc")),
    "folders": sorted(n for n in os.listdir("/proc") if os.path.isdir(f"/proc/{n}") and not n.isdigit()),
    "self": sorted(readable("/proc/self")),
    "environment": sorted(os.environ),
    "usr": os.statvfs("/usr").f_flag & (os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV),
}
"""


def look_at(reach: dict, sockets: int) -> None:
    """Fail with the names of what is in reach and not in the table, or with more sockets than so many."""
    beyond = {
        "writable": set(reach["writable"]) ^ posture.WRITABLE,
        "writable of /proc": set(reach["writable of /proc"]),
        "own": set(reach["own"]) ^ posture.OWN_FILES,
        "devices": set(reach["devices"]) ^ {f"/dev/{name}" for name in posture.DEVICE_NODES},
        "proc": set(reach["proc"]) - posture.PROC_READABLE,
        "folders": set(reach["folders"]) - posture.PROC_FOLDERS - {"self", "thread-self"},
        "self": set(reach["self"]) - posture.SELF_READABLE,
        "environment": set(reach["environment"]) ^ posture.VARIABLES,
        "sockets": set(reach["sockets"][sockets:]),
        "interfaces": set(reach["interfaces"]) - posture.INTERFACES,
        "up": set(reach["up"]) ^ posture.UP,
    }
    assert {name: sorted(found) for name, found in beyond.items() if found} == {}
    assert reach["usr"] == os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV
    assert len(reach["proc"]) > 10 and len(reach["self"]) > 20  # it did look


async def test_reach_of_an_execution(vm):
    """What code can write, read below /proc, open as a device, has as environment and finds in its network is listed."""
    look_at(json.loads(await out(vm, REACH + "print(json.dumps(reach))", "python")), posture.SOCKETS["execution"])


def in_main(code: str):
    """A job of the session called main."""
    return dataclasses.replace(job(code, "python"), session="main")


async def in_session(vm, code: str) -> str:
    """What code writes in the vm's session."""
    told = await vm.execute(in_main(code))
    assert (told.ended, told.exit_code) == ("exit", 0), told.stderr.decode()
    return told.stdout.decode()


async def test_hidden_folders_are_no_hiding_place(vm):
    """What lies over a folder of /proc cannot be opened for writing by its owner, who is the code."""
    told = await out(
        vm, "for f in acpi pressure bus; do chmod 700 /proc/$f; touch /proc/$f/x; done 2>&1; ls -A /proc/bus"
    )
    assert told.count("Read-only file system") >= 4 and told.endswith("Read-only file system\n")


async def test_reach_of_a_session(vm):
    """The same in a live session."""
    await vm.begin_session(in_main(""))
    look_at(json.loads(await in_session(vm, REACH + "print(json.dumps(reach))")), posture.SOCKETS["session"])


def counted(pid: int) -> dict[str, int]:
    """A process in numbers, read on the host."""
    return {
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(status_of(pid)["Threads"]),
        "variables": len([pair for pair in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if pair]),
    }


def expected(role: str) -> dict[str, int]:
    return {
        "descriptors": posture.DESCRIPTORS[role],
        "threads": posture.THREADS[role],
        "variables": len(posture.VARIABLES) + (role != "execution"),  # its home, held back until all is loaded
    }


async def test_counts_of_an_execution(vm):
    """A fresh execution is one process with so many descriptors, threads and variables, beside pid 1."""
    (found,) = await watched(vm, "import time; print('x'); time.sleep(1000)", counted, "python")
    assert found == expected("execution")
    assert [status_of(pid)["Threads"] for pid in members(await namespace(vm))] == ["1"]


async def test_counts_of_a_session(vm):
    """Template, head and checkpoint: who they are, and so many descriptors, threads and variables each."""
    inside = await namespace(vm)
    await vm.begin_session(in_main(""))
    await in_session(vm, "x = 1")
    await vm.take_point()

    def family() -> dict[int, dict[str, str]]:
        return {pid: status_of(pid) for pid in survivors(inside)}

    await eventually(lambda: any(s.get("State", "").startswith("T") for s in family().values()), "a checkpoint waits")
    parents = {pid: int(status["PPid"]) for pid, status in family().items()}
    (template,) = (pid for pid, parent in parents.items() if parent not in parents)
    (head,) = (pid for pid, parent in parents.items() if parent == template)
    checkpoints = [pid for pid, parent in parents.items() if parent == head]
    assert checkpoints and len(parents) == 2 + len(checkpoints)
    for role, pids in (("template", [template]), ("head", [head]), ("checkpoint", checkpoints)):
        for pid in pids:
            status = status_of(pid)
            assert {status[f"Cap{name}"] for name in ("Eff", "Prm", "Bnd", "Amb", "Inh")} == {NOTHING}
            assert (status["NoNewPrivs"], status["Seccomp"], status["Threads"]) == ("1", "2", "1")
            assert status.get("Seccomp_filters", "1") == "1"
            try:
                assert counted(pid) == expected(role)
            except PermissionError:  # undumpable: not ours to look into, and not the code's, who is the same user
                assert os.getuid() and role != "head"


def verdicts(program: bytes, number: int, arch: int) -> set[int]:
    """Everything that the filter may say to a call, whatever its arguments."""
    code = list(struct.iter_unpack("HBBI", program))
    said, ahead = set(), [(0, number)]
    while ahead:
        at, known = ahead.pop()
        opcode, yes, no, constant = code[at]
        if opcode == 0x06:
            said.add(constant)
        elif opcode == 0x20:
            ahead.append((at + 1, {0: number, 4: arch}.get(constant)))
        elif opcode == 0x05:
            ahead.append((at + 1 + constant, known))
        elif opcode in (0x15, 0x35):
            holds = None if known is None else known == constant if opcode == 0x15 else known >= constant
            ahead += [(at + 1 + yes, known)] * (holds is not False) + [(at + 1 + no, known)] * (holds is not True)
        else:
            assert opcode == 0x54, hex(opcode)
            ahead.append((at + 1, None if known is None else known & constant))
    return said


ALLOW, ASK, REFUSE, ABSENT = 0x7FFF0000, 0x7FC00000, 0x50001, 0x50026


@pytest.mark.parametrize(("machine", "arch"), [("x86_64", 0xC000003E), ("aarch64", 0xC00000B7)])
def test_system_calls(machine, arch):
    """So many calls are allowed, allowed by argument, refused and absent: every number up to 4096 is asked about."""
    counts, asked = dict.fromkeys(("allowed", "allowed by argument", "refused", "absent"), 0), 0
    for number in range(4096):
        said = verdicts(seccomp.program(machine), number, arch)
        if said == {ALLOW}:
            counts["allowed"] += 1
        elif ALLOW in said:
            counts["allowed by argument"] += 1
        else:
            assert said <= {REFUSE, ABSENT} and len(said) == 1, (number, said)
            counts["refused"] += said == {REFUSE}
        in_a_session = verdicts(seccomp.program(machine, guarded=True), number, arch)
        assert in_a_session in (said, {ASK} if said == {ALLOW} else {ASK, *said}), number
        asked += ASK in in_a_session
    unused = {number for first, below in seccomp._UNUSED[machine == "aarch64"] for number in range(first, below)}
    known = set(range(seccomp._LAST_KNOWN + 1)) - unused
    counts["absent"] = sum(verdicts(seccomp.program(machine), number, arch) == {ABSENT} for number in known)
    assert counts == posture.CALLS[machine]
    assert asked == posture.ASKED
