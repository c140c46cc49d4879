"""The system calls that the standard library does not have."""

import os
import subprocess
import sys

import pytest

from rewindbox.backends.namespace import kernel

RENAME = "import os\nwhile True: os.rename('one', 'two'); os.rename('two', 'one')"
PATH = "/".join(["top", ".."] * 20)


@pytest.fixture
def renamed(tmp_path):
    """A folder of the host in which another process renames without pause."""
    (tmp_path / "one").write_text("")
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", RENAME], cwd=tmp_path) as process:
        while not (tmp_path / "two").exists():
            assert process.poll() is None
        yield tmp_path
        process.kill()


def test_open_while_others_rename(renamed):
    """A path with `..` in it opens, whatever is renamed elsewhere at the same moment."""
    os.mkdir(renamed / "top")
    folder = os.open(renamed, os.O_PATH | os.O_DIRECTORY)
    try:
        for _ in range(5000):
            found = kernel.openat2(folder, PATH, os.O_PATH, 0, kernel.RESOLVE_IN_ROOT)
            assert os.path.samestat(os.fstat(found), os.fstat(folder))
            os.close(found)
    finally:
        os.close(folder)
