"""JSON in parts is the same JSON, and output as text is the same text, however long."""

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewindbox.execution import Execution, decoded
from rewindbox.server import bodies, encoding

PIECE = 64 << 10
ODD = b"\xff\xc3\xa4\xf0\x9f\x98\x80\xed\xa0\x80\xf0\x9f\x00x"


def execution(**written):
    """One that has ended, and wrote that."""
    return Execution(
        id="ex_a", vm_id="vm_a", agent_id="me", language="bash", code="true", ended="exit", exit_code=0,
        truncated=False, started_at=datetime(2026, 1, 1, tzinfo=UTC), wall_s=1.0, cpu_s=1.0, memory_peak_bytes=1,
        error=None, before=None, after=None, **written,
    )  # fmt: skip


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.text())
def test_a_value_in_parts_is_the_value(value, text):
    """Whatever it is, and with a text of any length in it."""
    for told in (value, {"entries": [{"stdout": text * 9000, "displays": [value]}], "total": 1}, text * 9000):
        assert json.loads(b"".join(encoding.encoded(told))) == told


def test_long_is_in_parts():
    """What is long is in parts of about one size; the end comes last; deep is no trouble; NaN is no JSON."""
    parts = list(encoding.encoded({"stdout": "\U0001f600" * (1 << 20), "code": "x" * (1 << 20)}, "\n"))
    assert len(parts) > 10 and max(map(len, parts)) < 2 << 20 and parts[-1].endswith(b"}\n")
    deep = json.loads("[" * 500 + "]" * 500)
    assert json.loads(b"".join(encoding.encoded(deep))) == deep
    with pytest.raises(ValueError, match="JSON"):
        list(encoding.encoded({"x": float("nan")}))


@pytest.mark.parametrize("shift", range(len(ODD)))
def test_text_in_pieces_is_the_text(shift):
    """Characters, and what is none, on the border between two pieces, and cut at the end."""
    for tail in (ODD, ODD[:6], "\u00e4\u20ac\U0001f600".encode(), b""):
        written = b"x" * (PIECE - shift) + ODD + b"y" * (PIECE - len(ODD)) + tail
        assert decoded(written, "replace") == written.decode("utf-8", "replace")
        text, exact = bodies.told(written)
        assert (text, exact is None) == (written.decode("utf-8", "replace"), False)
        assert base64.b64decode(exact) == written
        done = execution(stdout_bytes=written, stderr_bytes=b"good" * PIECE)
        body = json.loads(b"".join(encoding.encoded(bodies.execution_body(done))))
        assert (body["stdout"], body["stdout_base64"]) == (text, exact)
        assert (body["stderr"], body["stderr_base64"]) == ("good" * PIECE, None)
        assert set(body) == set(bodies.ExecutionBody.model_fields)
    good = b"x" * (PIECE - shift) + "\u00e4\u20ac\U0001f600".encode() * 4
    assert bodies.told(good) == (good.decode(), None)
    with pytest.raises(UnicodeDecodeError):
        decoded(good[:-1])
