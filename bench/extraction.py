"""How long extraction takes: against the library's own block parse of real answers, and for growing texts."""

import gc
import gzip
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from markdown_it import MarkdownIt

from bench.runner import Case, Missing, Row
from rewindbox.extraction import blocks

ANSWERS = "llm-wildbench/with_fence.jsonl.gz"
_CHUNK = 25
"""Answers of one sample; each sample has others."""
_SMALL, _BIG = 2**14, 2**18
_LIBRARY = MarkdownIt("commonmark")
_GROWING = {
    "fences": "Run this:\n\n```python\nprint(1)\n```\n\n",
    "prose": "Some *words* of [prose](a), and some more.\n\n- one\n- two\n\n",
    "quotes that end at once": "> # a\nb\n",
    "lists in lists": "- a\n  - b\n    - c\n",
}


def answers_path() -> Path | None:
    """The file of real answers, or None."""
    folder = os.environ.get("REWINDBOX_TEST_DATA")
    path = Path(folder or "", ANSWERS)
    return path if folder and path.is_file() else None


def answers(path: Path) -> list[tuple[str, str]]:
    """(id, text) of every real answer."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [(answer["id"], answer["response"]) for answer in map(json.loads, lines)]


class RealAnswers(Case):
    """Real answers, ours and the library's in turn; the library's parse finds blocks and no more."""

    rows = (
        Row(name="library parse", work=f"markdown-it-py's block parse of {_CHUNK} real answers"),
        Row(name="extraction", work="extraction of the same", over="library parse", at_most=2.0),
    )

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._next = 0

    def open(self) -> None:
        path = answers_path()
        if path is None:
            raise Missing(f"no real answers: set REWINDBOX_TEST_DATA to a folder with {ANSWERS}")
        self._texts = [text for _, text in answers(path)]

    def sample(self) -> Mapping[str, float]:
        chosen = [self._texts[(self._next + i * 997) % len(self._texts)] for i in range(_CHUNK)]
        self._next += 1
        runs: dict[str, Callable[[str], object]] = {"extraction": blocks, "library parse": _library}
        order = list(runs) if self._next % 2 else list(reversed(runs))
        return {name: sum(_seconds(runs[name], text) for text in chosen) for name in order}


class Growth(Case):
    """The worst of several shapes of text: time by character for the big one, over that for the small one.

    Without the interpreter's garbage collector, as `timeit` does: it visits all that is alive again and again, and
    adds 0.4 to 0.6 to this figure for every parser that keeps its tokens.
    """

    rows = (
        Row(
            name="extraction growth",
            work=f"extraction, time by character at {_BIG // 1024} Ki against {_SMALL // 1024} Ki characters, worst",
            at_most=1.5,
            unit="times",
        ),
    )
    is_sampled_once = True

    def sample(self) -> Mapping[str, float]:
        gc.collect()
        gc.disable()
        try:
            return {"extraction growth": max(map(_growth, _GROWING.values()))}
        finally:
            gc.enable()


def _growth(piece: str) -> float:
    small, big = (piece * (chars // len(piece)) + "```" for chars in (_SMALL, _BIG))
    small_s = min(_seconds(blocks, small) for _ in range(20))
    return min(_seconds(blocks, big) for _ in range(3)) / small_s * len(small) / len(big)


def _library(text: str) -> None:
    _LIBRARY.block.parse(text, _LIBRARY, {}, [])


def _seconds(run: Callable[[str], object], text: str) -> float:
    started = time.perf_counter()
    run(text)
    return time.perf_counter() - started
