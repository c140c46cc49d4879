"""Memory that lies with the kernel, as far as numbers of the whole host tell of it."""

from hypothesis import given
from hypothesis import strategies as st

from rewindbox.backends.namespace.parked import Growth

SIZES = st.integers(0, 1 << 40)


def test_what_others_give_back_hides_nothing():
    """Growth counts from the lowest that was seen, whatever else of the host shrinks; of all lines together."""
    growth = Growth({b"Shmem:": 1000, b"PageTables:": 50})
    assert growth.bytes_until({b"Shmem:": 1000, b"PageTables:": 50}) == 0
    assert growth.bytes_until({b"Shmem:": 400, b"PageTables:": 60}) == 10
    assert growth.bytes_until({b"Shmem:": 900, b"PageTables:": 60}) == 510
    assert growth.bytes_until({b"Shmem:": 300, b"PageTables:": 50}) == 0


@given(st.lists(SIZES, min_size=1), SIZES)
def test_it_is_never_less_than_since_the_beginning(sizes, last):
    """However a line goes up and down, what it has grown by at the end is seen."""
    growth = Growth({b"Shmem:": sizes[0]})
    for size in sizes:
        growth.bytes_until({b"Shmem:": size})
    assert growth.bytes_until({b"Shmem:": last}) == last - min(*sizes, last, last)
