"""Which vm an agent gets: tables, and what holds whatever happens."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import scaled
from rewindbox.choosing import Choice, Member, Upkeep, choose, choose_named, upkeep
from rewindbox.config import PoolSettings, Settings

NOW = 10_000.0
POOL = Settings(vm_pool_size=2, pool=PoolSettings(min=1, max=3, per_agent=2, age_s=1000.0, idle_s=100.0))


def member(vm_id, state, agent_id=None, since_s=NOW - 10, made_s=NOW - 20):
    return Member(vm_id=vm_id, state=state, agent_id=agent_id, since_s=since_s, made_s=made_s)


READY, READY_2 = member("r1", "ready"), member("r2", "ready", since_s=NOW - 5)
ANN, BOB = member("a1", "resting", "ann"), member("b1", "resting", "bob")
ANN_LATER = member("a2", "resting", "ann", since_s=NOW - 5)
ANN_OLD = member("a3", "resting", "ann", made_s=NOW - 1000)
HELD = [member(f"h{number}", "leased", f"agent{number}") for number in range(3)]


@pytest.mark.parametrize(
    ("members", "own", "expected"),
    [
        pytest.param([], None, Choice(vm_id=None), id="an empty pool makes one"),
        pytest.param([READY, READY_2], None, Choice(vm_id="r1"), id="the one that is ready longest"),
        pytest.param([ANN, READY], None, Choice(vm_id="a1"), id="its own before a ready one"),
        pytest.param([ANN, ANN_LATER], None, Choice(vm_id="a2"), id="the one it used last"),
        pytest.param([ANN_OLD, READY], None, Choice(vm_id="r1"), id="not one that is too old"),
        pytest.param([BOB, READY], None, Choice(vm_id="r1"), id="never another agent's"),
        pytest.param([BOB], None, Choice(vm_id=None), id="a new one rather than another agent's"),
        pytest.param([READY], "a9", Choice(vm_id="a9"), id="its own, stopped one before a ready one"),
        pytest.param([*HELD[:2], READY], "a9", Choice(vm_id="a9", evicted="r1"), id="a ready one goes for it"),
        pytest.param([*HELD[:2], BOB], None, Choice(vm_id=None, evicted="b1"), id="who rests goes for who works"),
        pytest.param([BOB, READY, HELD[0]], "a9", Choice(vm_id="a9", evicted="r1"), id="a ready one goes first"),
        pytest.param(HELD, None, None, id="a full pool waits"),
        pytest.param([*HELD[:2], replace(BOB, is_busy=True)], None, None, id="what is busy is not stopped"),
        pytest.param(HELD, "a9", None, id="also for its own"),
        pytest.param([*HELD[:2], member("x", "starting")], None, None, id="what is coming takes up room"),
        pytest.param([*HELD[:2], member("x", "leaving")], None, None, id="what is leaving, too"),
        pytest.param([member(n, "leased", "ann") for n in "xy"], None, None, id="an agent has its share"),
        pytest.param([member("x", "leased", "ann"), READY], None, Choice(vm_id="r1"), id="two at once are two vms"),
    ],
)
def test_what_an_agent_gets(members, own, expected):
    """Its own, else a ready one, else a new one; room is made by what nobody uses."""
    assert choose(members, "ann", own, POOL, NOW) == expected


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        pytest.param([], Choice(vm_id="a1"), id="it is started"),
        pytest.param([ANN], Choice(vm_id="a1"), id="it rests"),
        pytest.param([member("a1", "leased", "bob")], Choice(vm_id="a1"), id="it is shared"),
        pytest.param([member("a1", "leaving", "ann")], None, id="it is being stopped"),
        pytest.param(HELD, None, id="no room"),
        pytest.param([*HELD[:2], BOB], Choice(vm_id="a1", evicted="b1"), id="room is made"),
        pytest.param([member(n, "leased", "ann") for n in "xy"], None, id="an agent has its share"),
    ],
)
def test_who_names_a_vm_gets_that(members, expected):
    """None but the named one, shared where somebody has it."""
    assert choose_named(members, "ann", "a1", POOL) == expected


@pytest.mark.parametrize(
    ("members", "asked_s", "expected"),
    [
        pytest.param([], NOW, Upkeep(start=2), id="as many as configured"),
        pytest.param([], NOW - 100, Upkeep(start=1), id="the least where nobody asks"),
        pytest.param([READY], NOW, Upkeep(start=1), id="one is missing"),
        pytest.param([READY, member("x", "starting")], NOW, Upkeep(), id="one is coming"),
        pytest.param([READY, READY_2], NOW - 100, Upkeep(stop=("r1",)), id="one too many, the oldest goes"),
        pytest.param([ANN, BOB], NOW, Upkeep(start=1), id="no more than there is room for"),
        pytest.param(HELD, NOW, Upkeep(), id="full"),
        pytest.param([member("x", "resting", "ann", since_s=NOW - 100)], NOW, Upkeep(start=2, stop=("x",)), id="idle"),
        pytest.param([member("x", "ready", made_s=NOW - 1000)], NOW, Upkeep(start=2, stop=("x",)), id="too old"),
        pytest.param([member("x", "leased", "ann", made_s=0, since_s=0)], NOW, Upkeep(start=2), id="never a used one"),
    ],
)
def test_what_is_started_and_stopped(members, asked_s, expected):
    """So many are ready, what is old or idle goes, and a vm in use is let alone."""
    assert upkeep(members, POOL, NOW, asked_s) == expected


def test_a_pool_of_none_makes_nothing_ready():
    """`vm_pool_size` 0: vms are made when they are asked for."""
    assert upkeep([], replace(POOL, vm_pool_size=0), NOW, NOW) == Upkeep()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from("abc")),
        st.tuples(st.just("give back"), st.integers(0, 5)),
        st.tuples(st.just("upkeep"), st.floats(0, 400)),
    ),
    max_size=40,
)


@settings(max_examples=scaled(60), deadline=None)
@given(steps=STEPS, size=st.integers(0, 5), most=st.integers(1, 5), per_agent=st.integers(1, 3))
def test_bounds_hold_whatever_happens(steps, size, most, per_agent):
    """Never more than `max` run, no agent holds more than its share, and no vm ever changes its agent."""
    pool = replace(POOL, vm_pool_size=size, pool=replace(POOL.pool, max=most, per_agent=per_agent))
    members: dict[str, Member] = {}
    owners: dict[str, str] = {}
    now_s, asked_s, last = NOW, NOW, 0
    for what, value in steps:
        now_s += 1
        if what == "ask":
            asked_s = now_s
            stopped = [vm_id for vm_id, owner in owners.items() if owner == value and vm_id not in members]
            choice = choose(list(members.values()), value, next(iter(stopped), None), pool, now_s)
            if choice is None:
                held = sum(m.state == "leased" and m.agent_id == value for m in members.values())
                assert held >= per_agent or all(m.state == "leased" for m in members.values()), members
                continue
            if choice.evicted is not None:
                assert members.pop(choice.evicted).state in ("ready", "resting")
            last += 1
            vm_id = choice.vm_id or f"new{last}"
            taken = members.setdefault(vm_id, member(vm_id, "ready", since_s=now_s, made_s=now_s))
            assert taken.state in ("ready", "resting")
            assert owners.setdefault(vm_id, value) == value
            taken.state, taken.agent_id, taken.since_s = "leased", value, now_s
        elif what == "give back":
            for held in [m for m in members.values() if m.state == "leased"][value : value + 1]:
                held.state, held.since_s = "resting", now_s
        else:
            now_s += value
            plan = upkeep(list(members.values()), pool, now_s, asked_s)
            for vm_id in plan.stop:
                assert members.pop(vm_id).state in ("ready", "resting")
            for _ in range(plan.start):
                last += 1
                members[f"new{last}"] = member(f"new{last}", "ready", since_s=now_s, made_s=now_s)
            assert sum(m.state == "ready" for m in members.values()) <= size
        assert len(members) <= most
        for agent in "abc":
            assert sum(m.state == "leased" and m.agent_id == agent for m in members.values()) <= per_agent
