"""CPU time of processes that come and go, against a model that knows what each has used."""

from hypothesis import given
from hypothesis import strategies as st

from rewindbox.backends.namespace.processor import Spent

STEPS = st.lists(st.tuples(st.sampled_from(["works", "ends", "vanishes", "starts"]), st.integers(0, 3)), max_size=40)


@given(STEPS)
def test_nothing_that_was_seen_is_forgotten(steps):
    """Whoever a parent waits for and whoever vanishes: after two looks the sum is what all have used by then."""
    spent, own, waited, used, started = Spent(), {(2, b"0"): 0}, 0, 0, 0
    for step, which in steps:
        who = list(own)[which % len(own)] if own else None
        if step == "starts" or who is None:
            started += 1
            own[(3 + started % 3, b"%d" % started)] = 0  # numbers are given away again
        elif step == "works":
            own[who] += which
            used += which
        elif step == "ends":
            waited += own.pop(who)
        else:
            own.pop(who)
        shown = {(1, b"0"): (0, waited)} | {who: (ticks, 0) for who, ticks in own.items()}
        spent.ticks(shown, 0)
        assert spent.ticks(shown, 0) == used


def test_who_was_reaped_by_us_counts_once():
    """A process that the supervisor waited for is not added to what is lost."""
    spent = Spent()
    assert spent.ticks({(2, b"0"): (5, 1), (3, b"0"): (4, 0)}, 0) == 10
    assert spent.ticks({(3, b"0"): (4, 0)}, 7) == 11
    assert spent.ticks({}, 7) == 7
    assert spent.ticks({}, 7) == 11


def test_who_ends_during_a_look_counts_once():
    """A parent that was looked at before its child ended shows it at the next look only."""
    spent, parent, child = Spent(), (2, b"0"), (3, b"0")
    assert spent.ticks({parent: (1, 0), child: (40, 0)}, 0) == 41
    assert spent.ticks({parent: (1, 0)}, 0) == 1
    assert spent.ticks({parent: (1, 40)}, 0) == 41
    assert spent.ticks({parent: (1, 40)}, 0) == 41
