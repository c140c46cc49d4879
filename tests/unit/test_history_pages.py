"""Pages of the history: bounded in bytes, and one after the other they have everything once."""

from datetime import timedelta
from itertools import count

import pytest
from histories import T0, box_of, ended, finish, history_of, whole
from histories import begin as begin_any

from rewindbox import query
from rewindbox.errors import InvalidArgument, UnknownExecution

QUESTIONS = {
    "one condition": {},
    "several conditions": {"agent_id": "me", "language": "bash"},
    "a text": {"text": "needle"},
}
store, history, vm_id = pytest.fixture(whole), pytest.fixture(history_of), pytest.fixture(box_of)


def begin(store, vm_id, second, agent_id="me"):
    told = {"agent_id": agent_id, "language": "bash", "code": "needle", "started_at": T0 + timedelta(seconds=second)}
    return begin_any(store, vm_id, **told)


def end(store, start, output=b"", displays=()):
    return finish(store, ended(start, stdout_bytes=output, displays=displays)).id


def walked(history, between, **asked):
    """The ids of every page, one page after the other; `between` is called after each."""
    page = history.query(**asked)
    found = [[entry.id for entry in page.entries]]
    while page.next is not None:
        between()
        page = history.query(**asked, older_than=page.next)
        found.append([entry.id for entry in page.entries])
    return found


def nothing_is_listed(_):
    """As where nothing can be written."""
    yield from ()
    return False


@pytest.mark.parametrize("way", ["each is read", "the index is asked", "the facts are read"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_everything_comes_once(store, history, vm_id, monkeypatch, question, way):
    """Whatever ends between two pages, those that had ended come once each, newest first, also of one moment."""
    monkeypatch.setattr(query, "FEW", 0 if way == "the index is asked" else query.FEW)
    monkeypatch.setattr("rewindbox.listing._BUCKET", 3)
    if way == "the facts are read":
        monkeypatch.setattr("rewindbox.listing.bring_up", nothing_is_listed)
    made = [end(store, begin(store, vm_id, second)) for second in (0, 1, 1, 1, 2, 3, 3, 4, 5, 5)]
    late = [begin(store, vm_id, second) for second in (1, 3, 5, 6)]
    seconds, later = count(7), []

    def more():
        later.append(end(store, begin(store, vm_id, next(seconds))))
        if late:
            later.append(end(store, late.pop()))

    pages = walked(history, more, limit=3, **QUESTIONS[question])
    found = [name for page in pages for name in page]
    assert [name for name in found if name in made] == made[::-1]
    assert len(found) == len(set(found)) and {len(page) for page in pages[:-1]} == {3}
    assert history.query(older_than=made[0], **QUESTIONS[question]).entries == []
    assert history.query(older_than=made[4], limit=1).total == len(made) + len(later)


def test_a_page_ends_where_it_is_full(store, history, vm_id):
    """Code, output and displays of a page are no more than asked for, but for one execution that alone is more."""
    shown = {"kind": "result", "data": {"text/plain": "x" * 100}, "metadata": {}}
    sizes = [{"output": b"x" * 94}, {"output": b"x" * 394}, {"displays": (shown,)}, {}, {}]
    made = [end(store, begin(store, vm_id, second), **size) for second, size in enumerate(sizes)][::-1]
    assert walked(history, lambda: None, max_bytes=200) == [made[:3], [made[3]], [made[4]]]
    assert walked(history, lambda: None, max_bytes=0) == [[name] for name in made]
    assert walked(history, lambda: None, max_bytes=10_000) == [made]
    page = history.query(max_bytes=200, limit=2)
    assert (page.next, page.total) == (made[1], 5)
    assert history.query(limit=0).next is None


def test_rows_can_come_without_output(store, history, vm_id):
    """Then nothing else of them is missing, and they are as small as that."""
    end(store, begin(store, vm_id, 0), output=b"x" * 1000)
    (full,), (bare,) = (history.query(output=output).entries for output in (True, False))
    assert (bare.stdout, bare.output_dropped, bare.size_bytes) == ("", False, len("needle"))
    assert {**bare.as_dict(), "stdout": full.stdout} == full.as_dict()


def test_what_a_page_cannot_follow(store, history, vm_id):
    """An execution that is none, or another agent's, and a negative number say so."""
    mine, other = (end(store, begin(store, vm_id, 0, agent_id)) for agent_id in ("me", "other"))
    for asked in ({"older_than": "ex_" + "a" * 26}, {"older_than": ""}, {"older_than": other, "agent_id": "me"}):
        with pytest.raises(UnknownExecution):
            history.query(**asked)
    with pytest.raises(InvalidArgument):
        history.query(max_bytes=-1)
    assert [entry.id for entry in history.query(older_than=other).entries] == [mine]
