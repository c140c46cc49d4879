"""Paths that are walked name by name lead where the kernel's own openat2 leads, and fail as it fails."""

import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import scaled
from rewindbox.backends.namespace import kernel, paths

NAMES = (
    *("folder", "file", "up", "top", "loop", "loop2", "chain", "dangling", "deep", "inner", "missing", "out", "self"),
    *("..", ".", "", "proc", "n" * 256, "\udcff"),
)
HOW = {
    "followed": paths.IN_ROOT,
    "one mount": paths.IN_ROOT | paths.SAME_MOUNT,
    "no links": paths.IN_ROOT | paths.NO_LINKS,
}
FLAGS = {
    "look": os.O_PATH | os.O_DIRECTORY,
    "read": os.O_RDONLY | os.O_NONBLOCK,
    "list": os.O_RDONLY | os.O_DIRECTORY,
    "write": os.O_WRONLY | os.O_NONBLOCK,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with links of every kind, beside a secret."""
    top = tmp_path_factory.mktemp("paths")
    (top / "secret").write_text("out")
    inside = top / "root"
    (inside / "folder/deep/inner").mkdir(parents=True)
    for name in ("file", "folder/file", "folder/deep/file", "folder/\udcff"):
        (inside / name).write_text(name.encode(errors="replace").decode())
    for name, target in {
        "up": "..", "top": "/", "loop": "loop2", "loop2": "loop", "chain": "up/folder/up/deep", "dangling": "missing/x",
        "folder/up": "../..", "folder/top": "/folder", "folder/deep/out": "../../../secret", "out": "/../secret",
        "folder/self": ".", "folder/deep/inner/chain": "/folder/self/deep/../file", "deep": "folder/deep/",
    }.items():  # fmt: skip
        (inside / name).symlink_to(target)
    descriptor = os.open(inside, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def result(opening) -> tuple[object, ...]:
    """What was opened, or which error it was."""
    try:
        found = opening()
    except OSError as error:
        return ("error", error.errno)
    try:
        status = os.fstat(found)
        return (status.st_dev, status.st_ino, status.st_mode)
    finally:
        os.close(found)


def on_foot(root: int, path: str, flags: int, mode: int, how: int) -> int:
    walk = paths._Walk(root, how)
    try:
        return walk.open(path, flags, mode)
    finally:
        walk.close()


@settings(max_examples=scaled(1500), deadline=None)
@given(
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=9),
    absolute=st.booleans(),
    how=st.sampled_from(sorted(HOW)),
    flags=st.sampled_from(sorted(FLAGS)),
)
def test_as_the_kernel(root, names, absolute, how, flags):
    """Whatever names a path has, in whatever order, both open the same thing or fail alike."""
    path = ("/" if absolute else "") + "/".join(names)
    if not path:
        return
    expected = result(lambda: kernel.openat2(root, path, FLAGS[flags], 0, HOW[how]))
    assert result(lambda: on_foot(root, path, FLAGS[flags], 0, HOW[how])) == expected


@pytest.mark.parametrize("path", ["usr", "proc/self", "proc/self/status", "proc/../proc/self/cwd", "dev/null"])
def test_other_mounts(path):
    """What is in another mount is refused as the kernel refuses it, where that is asked for."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    how = HOW["one mount"]
    try:
        expected = result(lambda: kernel.openat2(root, path, os.O_RDONLY, 0, how))
        assert result(lambda: on_foot(root, path, os.O_RDONLY, 0, how)) == expected
        if path.startswith("proc"):
            assert expected[0] == "error"
    finally:
        os.close(root)


@pytest.mark.parametrize("path", ["/" * 5000, "x/" * 2048, "folder/" + "../folder/" * 400 + "file"])
def test_long_paths(root, path):
    """Long paths are walked to their end or refused, with a bounded number of descriptors."""
    before = len(os.listdir("/proc/self/fd"))
    expected = result(lambda: kernel.openat2(root, path, os.O_PATH, 0, paths.IN_ROOT))
    assert result(lambda: on_foot(root, path, os.O_PATH, 0, paths.IN_ROOT)) == expected
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_new_file(root):
    """A file that is made is made in the root, also where its name climbs or a link leads up."""
    for path in ("/../../new", "up/up/new", "top/folder/up/../new"):
        os.close(on_foot(root, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, paths.IN_ROOT))
        os.unlink("new", dir_fd=root)


def test_links_that_come_and_go(tmp_path):
    """While a folder is swapped for a link that leads out, and moved up and down, nothing outside is ever opened."""
    (tmp_path / "secret").write_text("out")
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "root/a/b/secret").write_text("in")
    root = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            for old, new in (("a/b", "moved"), ("moved", "a/b")):
                os.rename(old, new, src_dir_fd=root, dst_dir_fd=root)
            os.rename("a", "aside", src_dir_fd=root, dst_dir_fd=root)
            os.symlink("../..", "a", dir_fd=root)
            os.unlink("a", dir_fd=root)
            os.rename("aside", "a", src_dir_fd=root, dst_dir_fd=root)

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    try:
        for _ in range(scaled(3000)):
            for path in ("a/b/secret", "a/b/../../secret", "a/b/../../../secret", "a/secret"):
                try:
                    with open(on_foot(root, path, os.O_RDONLY, 0, paths.IN_ROOT)) as file:
                        seen.add(file.read())
                except OSError:
                    seen.add("none")
    finally:
        over.set()
        thread.join()
        os.close(root)
    assert seen == {"in", "none"}


def test_chosen_by_doing():
    """A kernel that has openat2 is found to have it."""
    assert paths._has_openat2()
