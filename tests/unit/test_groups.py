"""Control groups: where they can be made, decided from what /proc says and from a tree of files made here."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rewindbox.backends.namespace import ground as grounds
from rewindbox.backends.namespace.ground import Ground
from rewindbox.backends.namespace.groups import Group, Nowhere

HYBRID = "4:memory:/box/a\n8:pids:/\n2:cpuacct,cpu:/x\n1:name=systemd:/y\n0::/z\n"
V1 = """30 25 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw
33 30 0:29 / /sys/fs/cgroup/memory rw shared:12 - cgroup cgroup rw,memory
34 30 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
35 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
"""
V2 = "29 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
CONTAINED = "900 890 0:29 /docker/abc /sys/fs/cgroup/memory ro master:12 - cgroup cgroup rw,memory\n"


@pytest.mark.parametrize(
    ("own", "mounts", "expected"),
    [
        (
            HYBRID,
            V1,
            {
                "memory": "/sys/fs/cgroup/memory/box/a",
                "pids": "/sys/fs/cgroup/pids",
                "cpu": "/sys/fs/cgroup/cpu,cpuacct/x",
                "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/x",
                "": "/sys/fs/cgroup/unified/z",
            },
        ),
        ("0::/user.slice/run-1.scope\n", V2, {"": "/sys/fs/cgroup/user.slice/run-1.scope"}),
        ("0::/user.slice/run-1.scope/rewindbox-caller\n", V2, {"": "/sys/fs/cgroup/user.slice/run-1.scope"}),
        ("0::/rewindbox-caller\n", V2, {"": "/sys/fs/cgroup"}),
        ("0::/\n", V2, {"": "/sys/fs/cgroup"}),
        ("5:memory:/docker/abc\n", CONTAINED, {"memory": "/sys/fs/cgroup/memory"}),
        ("5:memory:/docker/abc/in\n", CONTAINED, {"memory": "/sys/fs/cgroup/memory/in"}),
        ("5:memory:/docker/abcdef\n", CONTAINED, {}),
        ("0::/\n", "22 1 8:1 / / rw - ext4 /dev/vda rw\n", {}),
        ("", V1, {}),
    ],
    ids=[
        "hybrid",
        "v2",
        "v2-caller",
        "v2-root-caller",
        "v2-root",
        "container",
        "below-container",
        "other-container",
        "not-mounted",
        "no-groups",
    ],
)
def test_our_own_folders(own, mounts, expected):
    """Each controller's folder is that of the group we are in, as this mount shows it."""
    assert grounds.own_folders(own, mounts) == expected


def delegated(folder: Path, controllers: str = "cpu memory pids") -> Path:
    """A group as version 2 shows one, as far as plain files can."""
    folder.mkdir()
    (folder / "cgroup.controllers").write_text(controllers + "\n")
    return folder


@pytest.mark.parametrize(
    ("controllers", "said"),
    [("cpu memory pids", b"+memory +pids+cpu"), ("memory pids", b"+memory +pids"), ("cpuset memory", b"+memory")],
)
def test_a_delegated_group_is_divided(tmp_path, controllers, said):
    """What it counts by is handed down to our own folder below, weight by itself, since a host may refuse that alone.

    Files that are not the kernel's follow us no further than that.
    """
    own = delegated(tmp_path / "scope", controllers)
    os.mkfifo(own / "cgroup.subtree_control")
    heard = os.open(own / "cgroup.subtree_control", os.O_RDWR)
    with pytest.raises(FileNotFoundError):  # the kernel would have put its files into the new folder
        grounds.claim_below({"": str(own)}, os.getuid(), os.getgid())
    assert os.read(heard, 100) == said
    os.close(heard)
    base = own / f"rewindbox-{os.getpid()}"
    assert base.is_dir()


@pytest.mark.parametrize(
    ("own", "why_not"),
    [
        ({}, "no control groups"),
        ({"": "cpu pids"}, "cannot limit memory"),
        ({"": None}, "delegated"),
    ],
    ids=["none", "without-memory", "not-ours"],
)
def test_no_ground(tmp_path, own, why_not):
    """Where there can be no groups it is said why, and nothing is made."""
    if own.get(""):
        own = {"": str(delegated(tmp_path / "scope", own[""]))}
    elif own:
        own = {"": str(tmp_path / "gone")}
    found = grounds.claim_below(own, os.getuid(), os.getgid())
    assert (found.version, found.folders) == (0, {})
    assert why_not in found.why_not
    assert not list(tmp_path.rglob("rewindbox-*"))


def test_version_1_is_for_root(tmp_path):
    """An ordinary user gets none of version 1; root gets a folder in each hierarchy, given to the vms' own id."""
    own = {name: str(tmp_path / name) for name in ("memory", "pids")}
    for folder in own.values():
        os.mkdir(folder)
    found = grounds.claim_below({**own, "": str(tmp_path)}, 4711, 4712)
    if os.getuid():
        assert found.version == 0 and "root" in found.why_not
        assert not list(tmp_path.rglob("rewindbox-*"))
    else:
        assert found.version == 1
        for folder in found.folders.values():
            assert (os.stat(folder).st_uid, os.stat(folder).st_gid) == (4711, 4712)


@pytest.mark.skipif(os.getuid() != 0, reason="groups of version 1 are for root")
def test_controllers_that_are_mounted_together(tmp_path):
    """They have one folder, which counts by both."""
    own = {"memory": str(tmp_path / "memory"), "cpu": str(tmp_path / "both"), "cpuacct": str(tmp_path / "both")}
    for folder in set(own.values()):
        os.mkdir(folder)
    folders = grounds.claim_below(own, 4711, 4712).folders
    assert folders["cpu"] == folders["cpuacct"] and set(folders) == set(own)


@pytest.mark.skipif(os.getuid() != 0, reason="groups of version 1 are for root")
@pytest.mark.parametrize("refusing", ["cpu", "pids"])
def test_without_weight_there_is_ground(tmp_path, refusing):
    """A hierarchy that only weighs and refuses a folder is done without; one that limits is not."""
    own = {name: str(tmp_path / name) for name in grounds.CONTROLLERS}
    for name in set(own) - {refusing}:
        os.mkdir(own[name])
    if refusing == "cpu":
        assert set(grounds.claim_below(own, 4711, 4712).folders) == {"memory", "pids", "cpuacct"}
    else:
        with pytest.raises(FileNotFoundError):
            grounds.claim_below(own, 4711, 4712)


def test_who_may_not_be_weighed_is_limited(tmp_path):
    """A group that lets nobody in where it only weighs holds its limits, and does not say that it weighs."""
    folders = {}
    for name in grounds.CONTROLLERS:
        (tmp_path / name).mkdir()
        folders[name] = os.open(tmp_path / name, os.O_RDONLY | os.O_DIRECTORY)
    for name in (_USED[1], "memory.oom_control", "memory.memsw.limit_in_bytes", "tasks"):
        (tmp_path / "memory" / name).touch()
    (tmp_path / "pids" / "tasks").touch()
    (tmp_path / "cpuacct" / _TIME[1]).write_text("0\n")
    group = Group(1, folders)
    assert group.holds() and group.counts("pids") and not group.counts("cpu")


def test_groups_of_a_vm_come_and_go(tmp_path):
    """A vm has one group for jobs and one for sessions in each hierarchy; when nothing is in them they go."""
    for name in ("memory", "pids"):
        (tmp_path / name).mkdir()
    ground = Ground(1, {name: str(tmp_path / name) for name in ("memory", "pids")})
    assert ground.with_groups(7) is ground
    made = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*"))
    assert made == ["memory/7-jobs", "memory/7-sessions", "pids/7-jobs", "pids/7-sessions"]
    (tmp_path / "memory/7-jobs/somebody").touch()
    assert not ground.remove(7)
    (tmp_path / "memory/7-jobs/somebody").unlink()
    assert ground.remove(7) and ground.remove(7)
    assert not list(tmp_path.glob("*/*"))


def test_no_groups_no_ground(tmp_path):
    """A vm whose groups cannot be made is nowhere, and says why; its halves are taken away."""
    (tmp_path / "memory").mkdir()
    ground = Ground(1, {"memory": str(tmp_path / "memory"), "pids": str(tmp_path / "gone")})
    found = ground.with_groups(1)
    assert found.version == 0 and "cannot be made" in found.why_not
    assert not list(tmp_path.glob("*/*"))
    assert not found.open(1).jobs.holds()


_USED = {1: "memory.usage_in_bytes", 2: "memory.current"}
_TIME = {1: "cpuacct.usage", 2: "cpu.stat"}


def a_group(folder: Path, version: int, *names: str) -> Group:
    for name in (_USED[version], _TIME[version], *names):
        (folder / name).write_text("")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    return Group(version, {"memory": descriptor, "pids": descriptor, "cpuacct": descriptor})


def test_limits_of_version_2(tmp_path):
    """Memory without swap, and exactly so many processes; all are ended together only where that was asked for."""
    group = a_group(tmp_path, 2, "memory.max", "memory.swap.max", "memory.oom.group", "memory.events", "pids.max")
    group.restrict(64 << 20, 10)
    written = {path.name: path.read_text() for path in tmp_path.iterdir() if path.name not in (_USED[2], _TIME[2])}
    assert written == {
        "memory.max": str(64 << 20),
        "memory.swap.max": "0",
        "memory.oom.group": "0",
        "memory.events": "",
        "pids.max": "10",
    }
    assert group.holds() and group.counts("pids")
    jobs = Group(2, group._folders, ends_together=True)
    jobs.restrict(64 << 20, 10)
    assert (tmp_path / "memory.oom.group").read_text() == "1"


def test_a_process_enters_in_version_2(tmp_path):
    """Its pid is written to the group; in version 1 nothing is, since it was born there."""
    group = a_group(tmp_path, 2, "memory.swap.max", "memory.events", "cgroup.procs")
    group.enter(4711)
    assert (tmp_path / "cgroup.procs").read_text() == "4711"
    (tmp_path / "old").mkdir()
    old = a_group(tmp_path / "old", 1, "memory.memsw.limit_in_bytes", "memory.oom_control", "cgroup.procs", "tasks")
    old.enter(4711)
    assert (tmp_path / "old" / "cgroup.procs").read_text() == (tmp_path / "old" / "tasks").read_text() == ""


@pytest.mark.parametrize(
    ("version", "name", "text", "kills"),
    [
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 1\noom_kill 3\n", 3),
        (2, "memory.events", "low 0\nhigh 0\nmax 9\noom 4\noom_kill 2\noom_group_kill 1\n", 2),
        (2, "memory.events", "low 0\nhigh 0\n", 0),
    ],
    ids=["v1", "v2", "an-old-kernel"],
)
def test_kills_are_counted(tmp_path, version, name, text, kills):
    """How many the kernel has ended for want of memory is read from where this version says it."""
    group = a_group(tmp_path, version, name, "memory.swap.max", "memory.memsw.limit_in_bytes")
    (tmp_path / name).write_text(text)
    assert group.kills() == kills


def test_what_is_used_is_read_anew(tmp_path):
    """Each time it is what the kernel says then."""
    group = a_group(tmp_path, 2, "memory.swap.max", "memory.events")
    for used in (4096, 12288):
        (tmp_path / "memory.current").write_text(f"{used}\n")
        assert group.used_bytes() == used


@pytest.mark.parametrize(
    ("version", "text"), [(1, "1500000000\n"), (2, "usage_usec 1500000\nuser_usec 9\nsystem_usec 1\n")]
)
def test_time_is_counted(tmp_path, version, text):
    """What the kernel says in nanoseconds or microseconds is told in seconds; where nobody counts it is none."""
    swap = (
        ("memory.swap.max", "memory.events") if version == 2 else ("memory.memsw.limit_in_bytes", "memory.oom_control")
    )
    group = a_group(tmp_path, version, *swap)
    (tmp_path / _TIME[version]).write_text(text)
    assert group.cpu_s() == 1.5
    assert Nowhere("because").cpu_s() == 0.0


def test_what_is_refused_is_not_believed(tmp_path):
    """A limit that could not be set is an error, and is tried again the next time."""
    group = a_group(tmp_path, 2, "memory.swap.max", "memory.events")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            group.restrict(1 << 20, 1)


def test_nowhere_refuses_nothing():
    """Without a group nothing is limited by one, and it does not say that it is."""
    nowhere = Nowhere("because")
    nowhere.restrict(1, 1)
    nowhere.enter(os.getpid())
    assert (nowhere.holds(), nowhere.counts("pids"), nowhere.kills(), nowhere.used_bytes()) == (False, False, 0, 0)


def test_leftovers_are_swept(tmp_path):
    """What launchers that are no more have left goes, if nobody is in it; nothing else is touched."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (f"rewindbox-{ended.pid}/1-jobs", f"rewindbox-{os.getpid()}/1-jobs", "rewindbox-caller", "user.slice"):
        (tmp_path / name).mkdir(parents=True)
    grounds.sweep({"memory": str(tmp_path)})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [f"rewindbox-{os.getpid()}", "rewindbox-caller", "user.slice"]
    )
    assert stat.S_ISDIR((tmp_path / f"rewindbox-{os.getpid()}" / "1-jobs").stat().st_mode)


def test_leftovers_with_somebody_inside_stay(tmp_path):
    """A group that is not empty cannot be removed, and nobody in it is ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    inside = tmp_path / f"rewindbox-{ended.pid}" / "1-jobs"
    inside.mkdir(parents=True)
    (inside / "somebody").touch()
    grounds.sweep({"memory": str(tmp_path)})
    assert (inside / "somebody").exists()


def test_who_called_us_is_known():
    """From the first caller down to the process that asks, also over a shell between; a sibling is none of them."""
    code = "from rewindbox.backends.namespace import ground; import os; print(*ground.ancestors(), os.getpid())"
    shell = subprocess.Popen(
        ["sh", "-c", 'sleep 1000 & "$0" -c "$1"; kill $!', sys.executable, code], stdout=subprocess.PIPE, text=True
    )
    told, _ = shell.communicate()
    *above, ours, shells, asks, itself = map(int, told.split())
    assert (ours, shells, asks) == (os.getpid(), shell.pid, itself)
    assert [*above, ours] == grounds.ancestors()


def test_what_root_may_write_is_not_therefore_delegated(tmp_path):
    """A user's own group is delegated to that user; root's are not without systemd's mark."""
    assert grounds.is_delegated(str(tmp_path)) == (os.getuid() != 0)
    assert not grounds.is_delegated(str(tmp_path / "gone"))
