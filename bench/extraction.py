"""How long extraction takes, as JSON: against the library's own block parse, and for doubling sizes.

REWINDBOX_TEST_DATA=... python bench/extraction.py
The ratio is of real answers, each the best of five runs; it is null where there is no data.
"""

import gzip
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from markdown_it import MarkdownIt

from rewindbox.extraction import blocks

_LIBRARY = MarkdownIt("commonmark")
_GROWING = {
    "fences": "Run this:\n\n```python\nprint(1)\n```\n\n",
    "prose": "Some *words* of [prose](a), and some more.\n\n- one\n- two\n\n",
    "quotes that end at once": "> # a\nb\n",
    "lists in lists": "- a\n  - b\n    - c\n",
}


def _library(text: str) -> None:
    _LIBRARY.block.parse(text, _LIBRARY, {}, [])


def _seconds(run: Callable[[str], object], text: str, *, times: int) -> float:
    durations = []
    for _ in range(times):
        started = time.perf_counter()
        run(text)
        durations.append(time.perf_counter() - started)
    return min(durations)


def _answers() -> list[str]:
    path = Path(os.environ.get("REWINDBOX_TEST_DATA", ""), "llm-wildbench/with_fence.jsonl.gz")
    if not path.exists():
        print("no real answers: set REWINDBOX_TEST_DATA", file=sys.stderr)
        return []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["response"] for line in lines]


def _ratios() -> dict[str, float | int | None]:
    answers = _answers()
    pairs = [(_seconds(blocks, text, times=5), _seconds(_library, text, times=5)) for text in answers]
    ours = [mine for mine, _ in pairs]
    ratios = sorted(mine / theirs for mine, theirs in pairs)
    return {
        "answers": len(answers),
        "ratio_median": round(statistics.median(ratios), 3) if ratios else None,
        "ratio_p99": round(ratios[len(ratios) * 99 // 100], 3) if ratios else None,
        "median_us": round(statistics.median(ours) * 1e6, 1) if ratios else None,
    }


def _growth() -> dict[str, dict[str, float]]:
    """Milliseconds by number of characters."""
    return {
        name: {
            str(chars): round(_seconds(blocks, piece * (chars // len(piece)) + "```", times=3) * 1e3, 2)
            for chars in (2**13, 2**14, 2**15, 2**16, 2**17, 2**18)
        }
        for name, piece in _GROWING.items()
    }


if __name__ == "__main__":
    print(json.dumps({**_ratios(), "ms_by_chars": _growth()}, indent=2))
