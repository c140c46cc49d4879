"""MIME bundles as they come out of a vm: what the code says of itself, however much of it."""

import json
import tracemalloc

import pytest

from rewindbox.backends.namespace.output import DISPLAYS_BYTES, Output

HEAD, TAIL = b'{"kind": "display", "metadata": {}, "data": {"application/json": [', b"]}}\n"


def displays(written: bytes):
    """What is made of so many bytes."""
    output = Output(1, None, lambda: None, displays=True)
    output.kept[None] = bytearray(written)
    return output.displays()


def bundle(**data: object) -> bytes:
    return json.dumps({"kind": "display", "data": data, "metadata": {}}).encode() + b"\n"


def test_what_is_none_is_left_out():
    """Bundles come in their order, also big ones; lines that are none do not."""
    table = {"application/json": [[1, {"a": "x, [y], {z}"}]] * 20_000}
    page = {"text/html": '<a b="c,[{\\">' * 400_000}
    written = bundle(**table) + b'\n[1, 2]\nnull\n{"kind": 1}\n' + b"[" * 9000 + b"\n\xff\n" + bundle(**page)
    assert [one["data"] for one in displays(written)] == [table, page]


GREEDY = {
    "lists": HEAD + b"[]," * (10 << 20) + b"0" + TAIL,
    "dicts": HEAD + b'{"":0},' * (4 << 20) + b"0" + TAIL,
    "nested": HEAD + b",".join([b"[" * 400 + b"]" * 400] * 40_000) + TAIL,
    "lines": b"ab\n" * (10 << 20),
    "empty lines": b"\n" * (31 << 20),
    "many bundles": bundle(**{"application/json": [0] * 20_000}) * 400,
    "quotes": HEAD + b'"\\"' * (10 << 20) + TAIL,
}
"""Up to 32 MiB of which would be made 24 times as much."""


@pytest.mark.parametrize("written", GREEDY.values(), ids=list(GREEDY))
def test_bundles_take_little_more_than_was_written(written):
    """Whatever is written, what is made of it takes three times as much at the most."""
    assert len(written) < DISPLAYS_BYTES
    tracemalloc.start()
    try:
        displays(written)
        assert tracemalloc.get_traced_memory()[1] < 3 * DISPLAYS_BYTES + len(written)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "line",
    [
        HEAD + b"NaN" + TAIL,
        HEAD + b"-Infinity" + TAIL,
        HEAD + b"1e999" + TAIL,
        HEAD + b"[" * 70 + b"]" * 70 + TAIL,
        HEAD + b'{"a":' * 900 + b"1" + b"}" * 900 + TAIL,
    ],
    ids=["nan", "infinity", "too large", "deep lists", "deep dicts"],
)
def test_what_cannot_be_remembered_or_sent_is_left_out(line):
    """Numbers that JSON has not, and what is deeper than who sends it can go; the bundle after it comes."""
    table = {"application/json": [[[[1.5e300, -2, "NaN"]]]]}
    assert [one["data"] for one in displays(line + bundle(**table))] == [table]
