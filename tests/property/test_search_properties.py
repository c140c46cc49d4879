"""Searching: whatever is asked, however it is found, the answer is that of looking at everything."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conftest import scaled
from rewindbox import listing, query
from rewindbox.execution import Execution
from rewindbox.history import History
from rewindbox.registry import Registry
from rewindbox.store import Store

T0 = datetime(2026, 1, 1, tzinfo=UTC)
SYNTAX = ['"', "'", "*", "(", ")", "^", "-", ":", "+", "{", "}", "%", "_", "\\", " ", "\n", "\0"]
LETTERS = [
    *"aAbBkKisSß",
    "ẞ",
    "ſ",
    "\u212a",
    "İ",
    "ı",
    "Å",
    "σ",
    "ς",
    "Σ",
    "ﬃ",
    "\u0301",
    "\ufffd",
    "\ufffe",
    "\uffff",
    "😀",
]
TEXTS = st.text(st.sampled_from([*SYNTAX, *LETTERS]) | st.characters(codec="utf-8"), max_size=12)
OUTPUTS = TEXTS.map(str.encode) | st.binary(max_size=12)
WORDS = st.sampled_from(
    ["AND", "OR", "NOT", "NEAR", "NEAR(a b, 2)", "code:", 'a" OR "b', "stdout : x", "*", "--", "';"]
)
NEEDLES = TEXTS | WORDS | st.text(max_size=90)

WAYS = {"each is read": (10**9, 0), "the index is gone through": (0, 10**9), "the index is asked": (0, 0)}
"""Name -> `FEW` and `MANY`."""


@contextmanager
def searching(way: str, bucket: int = 1024) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        few, many = WAYS[way]
        patch.setattr(query, "FEW", few)
        patch.setattr(query, "MANY", many)
        patch.setattr(listing, "_BUCKET", bucket)
        patch.setattr(listing, "_MIXED", 2)
        patch.setattr(listing, "_AT_ONCE", 7)
        yield


def add(store: Store, vm_id: str, **told: Any) -> Execution:
    begun = {"agent_id": "me", "language": "bash", "code": "true", "started_at": T0, "session": None, **told}
    end = {name: begun.pop(name) for name in ("exit_code", "stdout_bytes", "stderr_bytes") if name in begun}
    with store.transaction() as tx:
        start = History(store).begin(tx, vm_id=vm_id, **begun)
        execution = Execution(
            id=start.id, vm_id=vm_id, **begun, **{"exit_code": 0, "stdout_bytes": b"", "stderr_bytes": b"", **end},
            ended="exit", truncated=False, wall_s=0.5, cpu_s=0.5, memory_peak_bytes=1, error=None, before=None,
            after=None,
        )  # fmt: skip
        History(store).finish(tx, execution, start)
    return execution


def new_store() -> tuple[Store, str]:
    store = Store(None)
    with store.transaction() as tx:
        return store, Registry(store).create(tx, "box", vm_type="host", backend="namespace", agent_id="me").id


def plain(text: str) -> str:
    """As texts are compared, said in another way than by the code."""
    return "".join("\ufffd" if character == "\0" else character.casefold() for character in text)


def has(execution: Execution, needle: str) -> bool:
    texts = (execution.code, *(() if execution.output_dropped else (execution.stdout, execution.stderr)))
    return any(plain(needle) in plain(text) for text in texts)


def told(store: Store, **asked: Any) -> tuple[list[str], int]:
    page = History(store).query(**asked)
    assert page.note is None
    return [entry.id for entry in page.entries], page.total


@given(
    texts=st.lists(st.tuples(TEXTS, OUTPUTS, OUTPUTS), min_size=1, max_size=6),
    needle=NEEDLES,
    part=st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 11), st.integers(1, 12)),
    kept=st.integers(0, 6),
    way=st.sampled_from(sorted(WAYS)),
)
@example(texts=[("STRASSE", b"", b"")], needle="straße", part=(0, 0, 0, 9), kept=1, way="the index is asked")
@example(texts=[("a\0bcd", b"\xff\xfe\xfd", b"")], needle="a\0b", part=(0, 1, 0, 3), kept=1, way="the index is asked")
@example(texts=[("x", b"", b"")], needle="\ud800ab", part=(0, 0, 0, 9), kept=1, way="the index is asked")
@settings(max_examples=scaled(60), deadline=None)
def test_found_is_what_has_it(texts, needle, part, kept, way):
    """Any string is accepted, and found are exactly those with it in code, stdout or stderr, in whatever case."""
    store, vm_id = new_store()
    chosen = texts[part[0] % len(texts)][part[1]]
    text = chosen.decode("utf-8", "replace") if isinstance(chosen, bytes) else chosen
    needles = [needle, text[part[2] :][: part[3]].swapcase()]
    with searching(way):
        made: list[Execution] = []
        for code, out, err in texts:
            made.append(add(store, vm_id, code=code, stdout_bytes=out, stderr_bytes=err))
            for one in needles if len(made) == 2 else ():  # what is indexed is then added to
                assert told(store, text=one) == _expected(made, one)
        with store.transaction() as tx:
            History(store).trim(tx, vm_id, kept)
        made = [History(store).get(execution.id) for execution in made]
        for one in needles:
            assert told(store, text=one) == _expected(made, one)
            ids, total = _expected(made, one)
            assert told(store, text=one, limit=2, offset=1) == (ids[1:3], total)
            assert told(store, text=one, limit=0) == ([], total)
    assert store.verify() == query.problems(store) == []
    store.close()


def _expected(made: list[Execution], needle: str) -> tuple[list[str], int]:
    found = [execution.id for execution in reversed(made) if has(execution, needle)]
    return found, len(found)


ASKED = st.fixed_dictionaries(
    {"limit": st.none() | st.integers(0, 5), "offset": st.integers(0, 12)},
    optional={
        "agent_id": st.sampled_from(["me", "you", "nobody"]),
        "session": st.sampled_from(["s", "t"]),
        "language": st.sampled_from(["bash", "python"]),
        "failures_only": st.booleans(),
        "ended": st.sampled_from(["exit", "signal"]),
        "since": st.integers(-1, 12).map(lambda n: T0 + timedelta(seconds=n)),
        "until": st.integers(-1, 12).map(lambda n: T0 + timedelta(seconds=n)),
        "text": st.sampled_from(["", "echo", "1", "o 1"]),
    },
)
ENDED = st.fixed_dictionaries(
    {
        "agent_id": st.sampled_from(["me", "you"]),
        "session": st.sampled_from([None, "s", "t"]),
        "language": st.sampled_from(["bash", "python"]),
        "exit_code": st.sampled_from([0, 0, 1]),
        "started_at": st.integers(0, 11).map(lambda n: T0 + timedelta(seconds=n)),
        "code": st.sampled_from(["echo 1", "ECHO 2", "true"]),
    }
)
SEVERAL = st.fixed_dictionaries(
    {
        "limit": st.integers(0, 5),
        "offset": st.integers(0, 12),
        "language": st.just("bash"),
        "failures_only": st.booleans(),
    },
    optional={
        "agent_id": st.just("me"),
        "ended": st.just("exit"),
        "since": st.integers(0, 4).map(lambda n: T0 + timedelta(seconds=n)),
        "until": st.integers(7, 11).map(lambda n: T0 + timedelta(seconds=n)),
    },
)


@given(
    lots=st.lists(st.tuples(st.lists(ENDED, max_size=12), ASKED), min_size=1, max_size=5),
    way=st.sampled_from(sorted(WAYS)),
    bucket=st.integers(1, 4),
)
@settings(max_examples=scaled(60), deadline=None)
def test_page_and_total(lots, way, bucket):
    """Whatever ended since the last question, in whatever order of time, page and total are those of all of it."""
    _look_after_each(lots, way, bucket)


@given(
    lots=st.lists(st.tuples(st.lists(ENDED, min_size=4, max_size=12), SEVERAL), min_size=2, max_size=4),
    in_a_vm=st.booleans(),
)
@settings(max_examples=scaled(60), deadline=None)
def test_several_conditions(lots, in_a_vm):
    """The same where what is asked for has several conditions, which are counted together."""
    _look_after_each(lots, "the index is asked", 1, in_a_vm=in_a_vm)


def _look_after_each(lots, way, bucket, *, in_a_vm=False):
    store, vm_id = new_store()
    made: list[Execution] = []
    with searching(way, bucket):
        for ended, conditions in lots:
            asked = {**conditions, "vm_id": vm_id} if in_a_vm else conditions
            made += [add(store, vm_id, **one) for one in ended]
            matching = [(x.started_at, number, x.id) for number, x in enumerate(made) if _matches(x, asked)]
            ids = [name for *_, name in sorted(matching, reverse=True)]
            assert told(store, **asked) == (ids[asked["offset"] :][: asked["limit"]], len(ids))
            with store.transaction():  # nothing can be taken in now
                assert told(store, **asked) == (ids[asked["offset"] :][: asked["limit"]], len(ids))
    assert store.verify() == query.problems(store) == []
    store.close()


def _matches(execution: Execution, asked: dict[str, Any]) -> bool:
    same = all(getattr(execution, name) == asked[name] for name in _NAMES if name in asked)
    return (
        same
        and not (asked.get("failures_only") and execution.success)
        and asked.get("since", execution.started_at) <= execution.started_at <= asked.get("until", execution.started_at)
        and has(execution, asked.get("text", ""))
    )


_NAMES = ("agent_id", "session", "language", "ended")
