"""`python -m bench`: what Rewindbox costs, against a bare interpreter and beside other sandboxes, in one run.

Exit code 0 whatever the figures; with --strict 1 when one is over its target. 2: it could not be asked that way.
"""

import argparse
import json
import os
import sys
import tempfile
from typing import Any

from bench import bare, deadline, defences, extraction, host, memory, peers, report, runner, service, sessions, work
from rewindbox import Rewindbox

LAST = os.path.join(os.path.dirname(__file__), "results.json")
"""Where a run leaves its figures for --write-docs, when --json does not say."""


def main(words: list[str] | None = None) -> int:
    """Measure, print, write JSON; or write the page from the last JSON."""
    given = _parser().parse_args(words)
    if given.write_docs:
        return _write_docs(given.json or LAST)
    found = run(given)
    report.show(found)
    _write_json(found, given.json)
    return int(given.strict and any(row["verdict"] == "over" for row in found["rows"]))


def run(given: argparse.Namespace) -> Any:
    """Measure what was asked for; the report as JSON has it."""
    few = min(20, -(-given.samples // 5))  # of what takes five seconds each
    header = {**host.header(), "beside": host.version_of("bwrap"), "samples": f"{given.samples} of each"}
    with tempfile.TemporaryDirectory(prefix="rewindbox-bench-") as store, Rewindbox(store) as box:
        cases = [
            *bare.programs(),
            peers.sandlock(given.sandlock),
            *work.cases(box, store, given.big_mib),
            defences.Defences(box, store),
            *sessions.cases(box, given.session_mb),
            service.OverHttp(box),
            peers.ipykernel(given.ipykernel),
            peers.eryx(given.eryx),
            memory.IdleVms(box, min(50, max(given.samples, 2))),
            memory.Checkpoints(box, min(4, given.samples)),
            deadline.Bare(few),
            deadline.Deadline(box, few),
            deadline.Deadline(box, few, session="main"),
            deadline.Recovery(box, -(-few // 4)),
            extraction.RealAnswers(),
            extraction.Growth(),
        ]
        found = runner.measure(runner.needed(cases, given.only or []), given.samples)
    return {"header": header, "rows": [measured.as_dict() for measured in found]}


def _write_json(found: Any, path: str | None) -> None:
    try:
        with open(path or LAST, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=2)
            file.write("\n")
    except PermissionError:
        if path is not None:
            raise
        print("\nthe project's folder is not yours: give --json FILE to keep the figures", file=sys.stderr)


def _write_docs(path: str) -> int:
    try:
        with open(path, encoding="utf-8") as file:
            report.write_page(json.load(file))
    except (OSError, ValueError) as error:
        print(f"no figures written: {error}; run `python -m bench` first", file=sys.stderr)
        return 2
    print("docs/measurements.md has the figures of the last run")
    return 0


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("give 1 or more")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--samples", type=_count, default=100, metavar="N", help="of each case (default: 100)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there (default: bench/results.json)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a figure is over its target")
    parser.add_argument("--only", action="append", metavar="WORD", help="rows with this word in their name, and bare")
    parser.add_argument("--big-mib", type=_count, default=1024, metavar="N", help="held by the big vm (default: 1024)")
    parser.add_argument(
        "--session-mb", type=_count, default=200, metavar="N", help="held by big sessions (default: 200)"
    )
    for peer in ("sandlock", "ipykernel", "eryx"):
        parser.add_argument(f"--{peer}", metavar="PYTHON", help=f"an interpreter that has {peer} (default: this one)")
    parser.add_argument("--write-docs", action="store_true", help="measure nothing; put the last JSON into the page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
