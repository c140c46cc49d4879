"""Folders written by hostile code: measured, copied, folded and deleted, whatever is in them."""

import errno
import json
import multiprocessing
import os
import shutil
import socket
import stat
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import scaled
from rewindbox.backends.namespace import folds, kernel, occupied, trees

ALL = (1 << 31, 1 << 62)


def describe(root, *, inodes=True):
    """Every entry below `root`: kind, mode, time, attributes, content, and which names are one file."""
    first, found, waiting = {}, {}, [""]
    while waiting:
        path = waiting.pop()
        here = os.path.join(root, path)
        status = os.lstat(here)
        entry = [stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)]
        if not stat.S_ISDIR(status.st_mode) or path:
            entry.append(status.st_mtime_ns)
        entry += [
            (n, os.getxattr(here, n, follow_symlinks=False).hex())
            for n in sorted(os.listxattr(here, follow_symlinks=False))
            if n.startswith("user.")
        ]
        if stat.S_ISREG(status.st_mode):
            entry += [status.st_size, first.setdefault(status.st_ino, path) if inodes else None]
            with open(here, "rb") as file:
                entry.append(file.read().hex() if status.st_size < 10_000 else file.read(100).hex())
        elif stat.S_ISLNK(status.st_mode):
            entry.append(os.readlink(here))
        elif stat.S_ISDIR(status.st_mode):
            names = sorted(os.listdir(here))
            entry.append(names)
            waiting += [os.path.join(path, name) for name in names]
        found[path] = entry
    return found


def make_specimens(root):
    """One of every kind that a tree can have."""
    for folder in ("dir/inner", "empty", "closed"):
        os.makedirs(f"{root}/{folder}")
    for name in ("file", "dir/inner/leaf", "closed/in", "shut", "n" * 255):
        with open(f"{root}/{name}", "w") as file:
            file.write(name[:10])
    with open(os.fsencode(f"{root}/") + b"\xff\n", "w"):
        pass
    with open(f"{root}/sparse", "wb") as file:
        file.write(b"a" * 4096)
        file.seek(30 << 20)
        file.write(b"b" * 4096)
        file.truncate(60 << 20)
    os.symlink("/nowhere", f"{root}/link")
    os.link(f"{root}/file", f"{root}/hard")
    os.link(f"{root}/file", f"{root}/dir/hard")
    os.mkfifo(f"{root}/pipe", 0o620)
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(root)  # its address is short
        server.bind("socket")
    os.setxattr(f"{root}/file", "user.mark", b"\0x")
    os.setxattr(f"{root}/dir", "user.mark", b"d")
    for name, mode in (("file", 0o4750), ("dir", 0o3777), ("shut", 0), ("closed/in", 0), ("closed", 0)):
        os.chmod(f"{root}/{name}", mode)
    for name in ("file", "dir/inner", "pipe", "link"):
        os.utime(f"{root}/{name}", ns=(1_111_111_111_123_456_789, 1_222_222_222_987_654_321), follow_symlinks=False)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder whose content is gone after the test, however odd."""
    monkeypatch.chdir(tmp_path)
    folder = tempfile.mkdtemp(dir=tmp_path)
    yield folder
    os.chdir("/")
    trees.delete(folder)
    assert not os.path.exists(folder)


# In a user namespace of their own, as the supervisor is, with every capability over the tree.


def _enter() -> None:
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(kernel.NEWUSER | kernel.NEWNS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {uid} 1"), ("gid_map", f"1000 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)


@pytest.fixture(scope="module")
def inside():
    """Calls a function of this module in a process that may mount overlays."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _enter) as pool:
        try:
            pool.submit(os.getpid).result()
        except BrokenProcessPool:
            pytest.skip("this host allows no user namespace")
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


class View:
    """An overlay of layers, mounted while it is used."""

    def __init__(self, layers, upper):
        self.layers, self.upper = layers, upper

    def __enter__(self):
        for name in ("work", "seen"):
            os.makedirs(name, exist_ok=True)
        self.work = tempfile.mkdtemp(dir="work")
        os.makedirs(self.upper, exist_ok=True)
        os.chmod(self.upper, 0o755)
        lower = ":".join([*reversed(self.layers), "skeleton"])
        kernel.mount(
            "v", "seen", "overlay", 0, f"lowerdir={lower},upperdir={self.upper},workdir={self.work},userxattr,volatile"
        )
        return "seen"

    def __exit__(self, *_):
        kernel.umount("seen")


def _copied(root):
    make_specimens(f"{root}/source")
    os.chdir(root)
    before = describe("source")
    written = trees.copy("source", "target", trees.signature("source", *ALL))
    blocks = {name: os.stat(f"{name}/sparse").st_blocks for name in ("source", "target")}
    return before, describe("source"), describe("target"), written, blocks


def test_a_copy_is_the_same(place, inside):
    """A copy has everything, holes and hard links included; the source is not changed."""
    os.mkdir(f"{place}/source")
    before, after, copied, written, blocks = inside(_copied, place)
    assert before == after == copied
    assert blocks["target"] <= blocks["source"]
    assert written < 100_000


def test_a_second_copy_shares_what_is_unchanged(place):
    """A file that did not change since the last copy is the same inode in the next; one that did is not."""
    os.mkdir("source")
    for name in "abc":
        with open(f"source/{name}", "w") as file:
            file.write(name * 1000)
    os.link("source/c", "source/d")
    first = trees.signature("source", *ALL)
    assert trees.copy("source", "one", first) == 3000
    with open("source/b", "w") as file:
        file.write("B" * 1000)
    os.rename("source/a", "source/e")
    second = trees.signature("source", *ALL)
    assert trees.copy("source", "two", second, "one", first) == 2000
    assert describe("source") == describe("two")
    assert os.stat("one/c").st_ino == os.stat("two/c").st_ino == os.stat("two/d").st_ino
    assert len({os.stat(f"{folder}/c").st_ino for folder in ("source", "one")}) == 2


def test_a_file_that_can_have_no_more_links(place):
    """A copy does not fail when the disk allows a file no further name."""
    os.mkdir("source")
    with open("source/f", "w") as file:
        file.write("x")
    found = trees.signature("source", *ALL)
    trees.copy("source", "one", found)
    try:
        for number in range(70_000):
            os.link("one/f", f"{number}")
    except OSError as error:
        assert error.errno == errno.EMLINK
    else:
        pytest.skip("this file system allows more than 70,000 links")
    trees.copy("source", "two", found, "one", found)
    assert describe("two") == describe("source")


@pytest.mark.parametrize(
    "change", ["content", "size", "mode", "time", "attribute", "name", "kind", "new", "gone", "link"]
)
def test_signatures_tell(place, change):
    """Every change of a tree changes its signature."""
    os.makedirs("source/dir")
    for name in ("f", "dir/g"):
        with open(f"source/{name}", "w") as file:
            file.write("x")
    before = trees.signature("source", *ALL)
    assert trees.signature("source", *ALL) == before
    {
        "content": lambda: os.pwrite(os.open("source/f", os.O_WRONLY), b"y", 0),
        "size": lambda: os.truncate("source/f", 2),
        "mode": lambda: os.chmod("source/f", 0o600),
        "time": lambda: os.utime("source/f", (1, 1)),
        "attribute": lambda: os.setxattr("source/f", "user.x", b"y"),
        "name": lambda: os.rename("source/f", "source/F"),
        "kind": lambda: (os.unlink("source/f"), os.mkdir("source/f")),
        "new": lambda: os.mkdir("source/dir/new"),
        "gone": lambda: os.unlink("source/dir/g"),
        "link": lambda: os.link("source/f", "source/dir/h"),
    }[change]()
    assert trees.signature("source", *ALL) != before


UNDER_WAY = {
    "folder-for-link": lambda: (os.rename("source/dir", "old"), os.symlink("../host", "source/dir")),
    "deep-folder-for-link": lambda: (os.rename("source/dir/dir", "old"), os.symlink("../../host", "source/dir/dir")),
    "file-for-link": lambda: (os.unlink("source/dir/f"), os.symlink("../../host/f", "source/dir/f")),
    "file-for-pipe": lambda: (os.unlink("source/dir/f"), os.mkfifo("source/dir/f")),
    "file-for-folder": lambda: (os.unlink("source/dir/f"), os.mkdir("source/dir/f")),
    "link-for-file": lambda: (os.unlink("source/dir/l"), os.link("source/dir/f", "source/dir/l")),
    "empty-folder-for-link": lambda: (os.rmdir("source/empty"), os.symlink("../host", "source/empty")),
    "gone": lambda: os.unlink("source/dir/f"),
}


@pytest.mark.parametrize("change", UNDER_WAY)
def test_what_changes_under_way_is_not_copied(place, change):
    """A name that became another thing since the tree was looked at: no copy, and nothing of what it leads to."""
    os.makedirs("source/dir/dir")
    os.mkdir("source/empty")
    os.mkdir("host")
    for name in ("source/dir/f", "source/dir/dir/f", "host/f"):
        with open(name, "w") as file:
            file.write("the host's own" if name == "host/f" else "inside")
    os.symlink("f", "source/dir/l")
    found = trees.signature("source", *ALL)
    trees.copy("source", "before", found)
    UNDER_WAY[change]()
    with pytest.raises(trees.Uncopied):
        trees.copy("source", "target", found)
    copied = [os.path.join(folder, name) for folder, _, names in os.walk("target") for name in names]
    assert "the host's own" not in [Path(name).read_text() for name in copied if not os.path.islink(name)]
    assert os.listdir("host") == ["f"]


def test_a_link_in_the_place_of_a_folder_to_delete(place):
    """What is to be emptied is not opened through a link that it became, and what the link leads to keeps its mode."""
    os.mkdir("host", 0o755)
    os.symlink("host", "link")
    with pytest.raises(OSError, match="link"):
        trees.empty("link")
    assert stat.S_IMODE(os.stat("host").st_mode) == 0o755


def test_signatures_are_bounded(place):
    """Measuring stops at a number of entries, of bytes, and at a depth that no path can name."""
    os.mkdir("source")
    for number in range(20):
        with open(f"source/{number}", "wb") as file:
            file.write(b"x" * 8192)
    assert len(trees.signature("source", 21, 1 << 20)) == 21
    for bounds in ((20, 1 << 20), (100, 100_000)):
        with pytest.raises(trees.TooBig):
            trees.signature("source", *bounds)
    for name, letters in (("deep", "x" * 100), ("wide", "\U0001d4b3" * 63)):  # 17 of these are 1088 characters long
        make_deep(name, 20 if name == "wide" else 100, letters)
        with pytest.raises(trees.TooBig):
            trees.signature(name, *ALL)


def test_names_of_one_thing_stay_so(place):
    """A pipe, a socket, a link and a file that have two names are one thing in the copy, too."""
    os.mkdir("source")
    os.mkfifo("source/pipe")
    os.symlink("nowhere", "source/link")
    os.mknod("source/socket", stat.S_IFSOCK | 0o600)
    open("source/file", "w").close()
    for name in os.listdir("source"):
        os.link(f"source/{name}", f"source/{name} too", follow_symlinks=False)
    trees.copy("source", "target", trees.signature("source", *ALL))
    names = os.listdir("target")
    assert len(names) == 8 and {os.lstat(f"target/{name}").st_nlink for name in names} == {2}
    assert len({os.lstat(f"target/{name}").st_ino for name in names}) == 4


def test_more_attributes_than_can_be_listed():
    """A file system that takes more of them than the kernel lists (as memory's) has no copy of such a file."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        os.mkdir(f"{folder}/source")
        open(f"{folder}/source/f", "w").close()
        try:
            for number in range(300):
                os.setxattr(f"{folder}/source/f", f"user.{number:0250}", b"")
        except OSError as error:
            pytest.skip(f"memory's file system here takes no attributes, or not so many: {error.strerror}")
        found = trees.signature(f"{folder}/source", *ALL)
        with pytest.raises(trees.Uncopied, match="more than the kernel can list"):
            trees.copy(f"{folder}/source", f"{folder}/target", found)


def make_deep(root, depth, name="d"):
    """Folders in folders, deeper than a path can say."""
    os.mkdir(root)
    folder = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=folder)
        inner = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)


def test_usage(place):
    """What a tree occupies is counted once for all names of a file, by blocks."""
    os.makedirs("source/dir")
    with open("source/f", "wb") as file:
        file.write(b"x" * 100_000)
        os.fsync(file.fileno())
    os.link("source/f", "source/dir/g")
    with open("source/sparse", "wb") as file:
        file.truncate(1 << 40)
    found = occupied.usage("source")
    assert found.files == 4
    assert 100_000 <= found.size_bytes <= 130_000
    os.link("source/f", "name-of-another-tree")
    assert occupied.usage("source") == found
    assert occupied.usage("missing") == occupied.Usage()


def test_usage_does_not_follow_links(place):
    """A link to elsewhere counts as itself."""
    os.mkdir("source")
    os.symlink("/usr", "source/usr")
    assert occupied.usage("source").files == 1


def test_usage_of_a_deep_tree(place):
    """What lies deeper than a path can say is not lost from the count, and measuring it ends."""
    make_deep("deep", 300, "x" * 100)
    assert occupied.usage("deep").files == 301


def test_delete_deep(place):
    """A tree of five thousand folders in folders is deleted with the usual number of descriptors."""
    make_deep("deep", 5000)
    make_deep("wide", 400, "y" * 255)
    trees.delete("deep")
    trees.delete("wide")
    assert os.listdir(".") == [os.path.basename(place)]


def test_delete_many(place):
    """Twenty thousand files and folders are deleted."""
    for number in range(200):
        os.makedirs(f"many/{number}/inner")
        for name in range(100):
            os.mknod(f"many/{number}/inner/{name}")
    trees.delete("many")
    assert not os.path.exists("many")


def test_delete_closed(place):
    """Closed folders, in closed folders, are deleted."""
    os.makedirs("a/b/c/d")
    os.mknod("a/b/c/f")
    for path in ("a/b/c/f", "a/b/c/d", "a/b/c", "a/b", "a"):
        os.chmod(path, 0)
    trees.delete("a")
    assert not os.path.lexists("a")


def test_delete_follows_nothing(place):
    """Links are deleted, not what they lead to; also where the tree itself is one."""
    os.makedirs("kept/inner")
    os.mknod("kept/file")
    os.makedirs("tree/inner")
    for path in ("tree/link", "tree/inner/link", "link"):
        os.symlink(os.path.abspath("kept"), path)
    os.link("kept/file", "tree/hard")
    trees.delete("tree")
    trees.delete("link")
    trees.delete("missing")
    assert sorted(os.listdir("kept")) == ["file", "inner"]
    assert stat.S_IMODE(os.stat("kept").st_mode) != 0o700


def test_empty(place):
    """Emptying keeps the folder itself."""
    os.makedirs("a/b/c")
    trees.empty("a")
    assert os.listdir("a") == []


# Folding, compared with what the kernel shows.

NAMES = st.sampled_from(["a", "b", "old", "old/x", "old/deep", "old/deep/y", "a/b", "a/b/c", "old/new", "old/deep/z"])
STEPS = st.one_of(
    st.tuples(st.just("write"), NAMES, st.integers(0, 9)),
    st.tuples(st.just("mkdir"), NAMES),
    st.tuples(st.just("remove"), NAMES),
    st.tuples(st.just("replace"), NAMES),
    st.tuples(st.just("link"), NAMES, NAMES),
    st.tuples(st.just("symlink"), NAMES),
    st.tuples(st.just("chmod"), NAMES, st.sampled_from([0o700, 0o755, 0o4711, 0o1777])),
    st.tuples(st.just("mark"), NAMES),
    st.tuples(st.just("rename"), NAMES, NAMES),
)


def apply(root, step):
    """One step of a program; what is impossible does nothing."""
    kind, path, *rest = step
    here = f"{root}/{path}"
    try:
        if kind == "write":
            with open(here, "w") as file:
                file.write(str(rest[0]))
        elif kind == "mkdir":
            os.mkdir(here)
        elif kind in ("remove", "replace"):
            shutil.rmtree(here) if os.path.isdir(here) and not os.path.islink(here) else os.unlink(here)
            if kind == "replace":
                os.mkdir(here)
                with open(f"{here}/y", "w") as file:
                    file.write("replaced")
        elif kind == "link":
            os.link(here, f"{root}/{rest[0]}", follow_symlinks=False)
        elif kind == "symlink":
            os.symlink("old/x", here)
        elif kind == "chmod":
            os.chmod(here, rest[0], follow_symlinks=False) if not os.path.islink(here) else None
        elif kind == "mark":
            os.setxattr(here, "user.overlay.opaque", b"y")
            os.setxattr(here, "user.mark", b"m")
        elif kind == "rename":
            os.rename(here, f"{root}/{rest[0]}")
    except OSError:
        pass


def _fold_and_compare(root, lives, again):
    """What an overlay shows of the layers that these lives leave, and what it shows of them folded."""
    os.chdir(root)
    for folder in ("skeleton/old/deep",):
        os.makedirs(folder)
    for name in ("old/x", "old/deep/y"):
        with open(f"skeleton/{name}", "w") as file:
            file.write("skeleton")
    layers, results = [], []
    for number, steps in enumerate([*lives, None, *again, None]):
        if steps is None:
            with View(layers, f"look{number}") as seen:
                before = describe(seen, inodes=False)
            folds.fold(layers, "skeleton", f"f{number}")
            layers = [f"f{number}"]
            with View(layers, f"again{number}") as seen:
                results.append((before, describe(seen, inodes=False), marks(f"f{number}")))
            continue
        with View(layers, f"u{number}") as seen:
            for step in steps:
                apply(seen, step)
        layers.append(f"u{number}")
    os.chdir("/")
    return results


def marks(layer):
    """Marks of a layer that hide nothing of the skeleton."""
    useless = []
    for folder, _, names in os.walk(layer):
        for name in names:
            below = os.path.join("skeleton", os.path.relpath(os.path.join(folder, name), layer))
            if folds.is_whiteout(os.lstat(os.path.join(folder, name))) and not os.path.lexists(below):
                useless.append(name)
    return useless


@settings(max_examples=scaled(60), deadline=None, database=None)
@given(
    st.lists(st.lists(STEPS, max_size=12), min_size=1, max_size=6), st.lists(st.lists(STEPS, max_size=6), max_size=2)
)
def test_a_fold_shows_what_its_layers_showed(inside, lives, again):
    """Whatever programs did, life after life, the fold of their layers shows it; folding a fold, too."""
    root = tempfile.mkdtemp()
    try:
        for before, after, useless in inside(_fold_and_compare, root, lives, again):
            assert json.dumps(after, sort_keys=True) == json.dumps(before, sort_keys=True)
            assert useless == []
    finally:
        trees.delete(root)


def test_a_fold_of_specimens(place, inside):
    """Every kind of file is in the fold as it was in its layer, without a copy of it."""
    written = inside(_fold_specimens, place)
    before, after, same = written
    assert before == after
    assert same


def _fold_specimens(root):
    os.chdir(root)
    for folder in ("skeleton", "u1", "u2"):
        os.mkdir(folder)
    make_specimens(f"{root}/u1")
    os.chdir(root)
    with View(["u1"], "look") as seen:
        before = describe(seen)
    folds.fold(["u1", "u2"], "skeleton", "f1")
    with View(["f1"], "look2") as seen:
        after = describe(seen)
    return before, after, os.stat("f1/sparse").st_ino == os.stat("u1/sparse").st_ino
