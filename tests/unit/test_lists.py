"""What the kernel keeps for code in lists, read in /proc of this process, which takes what is counted."""

import ctypes
import fcntl
import mmap
import os
import select
import struct

import pytest

from rewindbox.backends.namespace import lists

MANY = 500


@pytest.fixture
def proc():
    """A descriptor of /proc."""
    folder = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    yield folder
    os.close(folder)


def found(proc, ancestors=1):
    """The lists of this process."""
    return lists.of(proc, [os.getpid()], ancestors)


def test_each_lock_counts(proc, tmp_path):
    """So many more locks on a file are so much more memory, at least what a kernel takes for one."""
    with open(tmp_path / "locked", "w") as file:
        before = found(proc).size_bytes
        for place in range(MANY):
            fcntl.fcntl(file, fcntl.F_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 2 * place, 1, 0))
        assert found(proc).size_bytes - before >= MANY * 224


def test_each_descriptor_that_is_waited_for_counts(proc):
    """One that many epolls wait for counts in each."""
    end = os.eventfd(0)
    waiting = [select.epoll() for _ in range(50)]
    before = found(proc).size_bytes
    for one in waiting:
        one.register(end, select.EPOLLIN)
    assert found(proc).size_bytes - before >= 50 * 200
    for one in waiting:
        one.close()
    os.close(end)


@pytest.mark.parametrize("ancestors", [1, 60])
def test_each_mapping_counts(proc, ancestors):
    """A range that is cut into many counts as many; and the more processes it can come from, the more it takes."""
    libc = ctypes.CDLL(None)
    with mmap.mmap(-1, 2 * MANY * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as whole:
        hold = ctypes.c_char.from_buffer(whole)
        before, start = found(proc, ancestors).size_bytes, ctypes.addressof(hold)
        for page in range(0, 2 * MANY, 2):
            assert libc.mprotect(ctypes.c_void_p(start + page * mmap.PAGESIZE), mmap.PAGESIZE, mmap.PROT_READ) == 0
        assert found(proc, ancestors).size_bytes - before >= (2 * MANY - 2) * (300 + 64 * ancestors)
        del hold


def test_memory_that_only_a_mapping_holds_is_told(proc, tmp_path):
    """Shared memory that is mapped is told by its inode; a file with a name in a folder is not memory."""
    before = found(proc).memory
    file = os.memfd_create("part")
    os.ftruncate(file, mmap.PAGESIZE)
    (tmp_path / "named").write_bytes(b"x")
    with mmap.mmap(file, mmap.PAGESIZE), mmap.mmap(-1, mmap.PAGESIZE):
        with open(tmp_path / "named", "rb") as named, mmap.mmap(named.fileno(), 1, prot=mmap.PROT_READ):
            told = found(proc).memory - before
        assert len(told) == 2 and os.fstat(file).st_ino in told
    assert found(proc).memory == before
    os.close(file)


def test_filters_count_by_what_they_can_hold():
    """Ours is free; few can be long, many are short; what a kernel does not tell of is nothing."""
    told = [lists.filters_bytes(b"Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t%d\n" % n) for n in (1, 2, 9, 3618, 6500)]
    assert told[0] == 0 and told[1] >= 4096 * 48 and told[2] >= 30_000 * 48
    assert told[3] >= 3617 * 8192 and told[4] >= 6499 * 8192
    assert lists.filters_bytes(b"Name:\tx\n") == lists.filters_bytes(b"") == 0


def test_no_more_is_read_than_matters(proc):
    """Where there is more than any ordinary program has, the reading ends; a process that has ended has nothing."""
    with pytest.raises(lists.TooLong):
        lists.of(proc, [os.getpid()] * 10_000, 1)
    assert lists.of(proc, [2**22 + 1], 1).size_bytes == 0
