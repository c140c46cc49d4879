"""What a vm is, read on the host: ids, privileges, descriptors, namespaces, mounts, devices, environments."""
# ruff: noqa: E501  programs that are run inside stand here as they are

import fcntl
import os
import re
from pathlib import Path

import anyio
import pytest

from conftest import eventually, members, namespace, out, remove, run, status_of, survivors
from rewindbox import backends

pytestmark = pytest.mark.anyio
NOTHING = "0000000000000000"
DEVICES = {"fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"}
MOUNTS = {"/", "/usr", "/proc", "/dev", "/run", "/run/code", "/dev/shm", "/dev/pts"}
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
    made = backends.load(backend_name, str(tmp_path / "vms"))
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
                targets = [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")]
                assert str(tmp_path / "secret") not in targets, status_of(pid)
                pid = int(status_of(pid)["PPid"])
    finally:
        await made.close()
        for number in (*held, secret):
            os.close(number)
        remove(tmp_path / "vms")


async def test_environments(backend_name, anyio_backend, tmp_path, monkeypatch):
    """No process of the vm, nor between it and us, was given our environment."""
    monkeypatch.setenv("CANARY", SECRET)
    made = backends.load(backend_name, str(tmp_path / "vms"))
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
    made = backends.load(backend_name, str(tmp_path / "vms"))
    vms = [await made.create(f"vm_{number}") for number in range(3)]
    inside = [await namespace(vm) for vm in vms]
    above = {int(status_of(pid)["PPid"]) for name in inside for pid in members(name)} - {1, os.getpid()}
    await made.close()
    await eventually(lambda: not any(members(name) for name in inside), "the vms are gone")
    await eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in above), "their supervisors are gone")
    remove(tmp_path / "vms")
