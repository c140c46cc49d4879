"""Memory that lies with the kernel, as far as it tells of it."""

import contextlib
import multiprocessing
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewindbox.backends.namespace import kernel, parked
from rewindbox.backends.namespace.growth import PINNED, Growth, host_bytes

SIZES = st.integers(0, 1 << 40)


def test_what_others_give_back_hides_nothing():
    """Growth counts from the lowest that was seen, whatever else of the host shrinks; of each line by itself."""
    growth = Growth()
    assert growth.until({b"Shmem:": 1000, b"PageTables:": 50}) == {b"Shmem:": 0, b"PageTables:": 0}
    assert growth.until({b"Shmem:": 400, b"PageTables:": 60}) == {b"Shmem:": 0, b"PageTables:": 10}
    assert growth.until({b"Shmem:": 900, b"PageTables:": 60}) == {b"Shmem:": 500, b"PageTables:": 10}
    assert growth.until({b"Shmem:": 300, b"PageTables:": 50}) == {b"Shmem:": 0, b"PageTables:": 0}


@given(st.lists(SIZES, min_size=1), SIZES)
def test_it_is_never_less_than_since_the_beginning(sizes, last):
    """However a line goes up and down, what it has grown by at the end is seen."""
    growth = Growth()
    for size in sizes:
        growth.until({b"Shmem:": size})
    assert growth.until({b"Shmem:": last})[b"Shmem:"] == last - min(*sizes, last, last)


@given(st.lists(st.tuples(SIZES, SIZES), min_size=1))
def test_what_was_theirs_stays_theirs(times):
    """Of times at which nobody looked nothing is added, of those before nothing is forgotten."""
    growth, expected = Growth(), 0
    for before, after in times:
        growth.go_on({b"Shmem:": before})
        expected = max(expected + after - before, 0)
        assert growth.until({b"Shmem:": after})[b"Shmem:"] == expected
    growth.become({b"Shmem:": 7})
    assert growth.until({b"Shmem:": 0})[b"Shmem:"] == 7


@given(st.lists(SIZES, min_size=1))
def test_a_line_of_theirs_alone_begins_once(sizes):
    """However often one begins to look, such a line counts from its lowest: ups and downs do not add up."""
    growth = Growth(b"pinned")
    for size in sizes:
        growth.go_on({b"pinned": size})
        growth.until({b"pinned": size})
    assert growth.known[b"pinned"] == sizes[-1] - min(sizes)


def _pinned_bytes() -> int:
    return host_bytes(PINNED)[PINNED]


@pytest.mark.alone
def test_pages_that_pipes_hold_of_no_file_are_seen(tmp_path):
    """What is cut off a file and still lies in pipes counts until they are closed."""
    before, pages, page = _pinned_bytes(), 5000, os.sysconf("SC_PAGE_SIZE")
    with contextlib.ExitStack() as held, open(tmp_path / "file", "w+b", buffering=0) as file:
        file.write(bytes(pages * page))
        for first in range(0, pages, 16):
            reader, writer = os.pipe()
            held.callback(os.close, reader)
            held.callback(os.close, writer)
            for number in range(first, min(first + 16, pages)):
                os.splice(file.fileno(), writer, 1, offset_src=number * page)
        os.ftruncate(file.fileno(), 0)
        assert _pinned_bytes() - before > pages * page // 2
    assert _pinned_bytes() - before < pages * page // 2


KINDS = {"stream": socket.SOCK_STREAM, "packets": socket.SOCK_SEQPACKET, "datagrams": socket.SOCK_DGRAM}
_SENT = 20 * 50_000


def _close_what_has_sent(kind: int) -> None:
    """In a network of our own, where nobody else has sockets."""
    kernel.unshare(kernel.NEWUSER | kernel.NEWNET)
    readers = []
    for _ in range(20):
        sender, reader = socket.socketpair(socket.AF_UNIX, kind)
        readers.append(reader)
        sender.send(bytes(50_000))
        sender.close()
    streams, datagrams = parked.most_left_behind_bytes()
    assert (streams >= _SENT, datagrams >= _SENT) == (kind == socket.SOCK_STREAM, kind == socket.SOCK_DGRAM)
    assert kind == socket.SOCK_DGRAM or parked.sockets_bytes() >= _SENT
    for reader in readers:
        reader.close()
    assert parked.most_left_behind_bytes() == (0, 0)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_closed_sockets_have_sent_is_seen(kind):
    """Data that nobody has read counts after its sender was closed, which no list has any more."""
    child = multiprocessing.get_context("fork").Process(target=_close_what_has_sent, args=(kind,))
    child.start()
    child.join()
    assert child.exitcode == 0


def _pair(family: int, kind: int) -> tuple[socket.socket, socket.socket]:
    """A socket, and one that reads what is sent there."""
    if family == socket.AF_UNIX:
        return socket.socketpair(family, kind)
    address = "127.0.0.1" if family == socket.AF_INET else "::1"
    sender, reader = socket.socket(family, kind), socket.socket(family, kind)
    reader.bind((address, 0))
    if kind == socket.SOCK_STREAM:
        reader.listen()
    sender.connect(reader.getsockname())
    return sender, reader


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["stream", "datagrams"])
@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6], ids=["unix", "ipv4", "ipv6"])
def test_what_nobody_has_read_counts(family, kind):
    """What was sent and lies there is counted, before anybody accepts the connection, too; and not many times."""
    if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
        pytest.skip("this host has no IPv6")
    sender, reader = _pair(family, kind)
    with sender, reader:
        before = parked.sockets_bytes()
        for _ in range(20):
            sender.send(bytes(4000))
        assert 80_000 <= parked.sockets_bytes() - before < 4_000_000
    assert parked.most_in_sockets_bytes() > 0
