"""Figures -> a table on a terminal, plain lines in a pipe, a Markdown table between two markers of a page."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

PAGE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "docs", "measurements.md")
BEGIN, END = "<!-- figures: written by `python -m bench --write-docs` -->", "<!-- end of figures -->"
COLUMNS = ("work", "median", "p90", "ratio", "to", "at most", "")
_COLOURS = {"PASS": "green", "over": "bold red", "missing": "yellow"}


def lines(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The cells of each row of the table, as text."""
    return [_cells(row) for row in rows]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    unit = "" if row["unit"] == "times" else f" {row['unit']}"
    limit = "" if row["at_most"] is None else f"{row['at_most']:g}" + ("" if row["over"] else unit)
    return (
        str(row["work"]),
        _number(row["median"], unit),
        _number(row["p90"], unit),
        _number(row["ratio"], ""),
        str(row["over"] or "") if row["ratio"] is not None else "",
        limit,
        str(row["verdict"] or ""),
    )


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.2f}{unit}"


def progress(done: int, total: int, what: str) -> None:
    """How far it is, on one line of a terminal; when all is done the line is gone, and a table takes its place."""
    if sys.stderr.isatty():
        end = "\r\033[K" if done == total else ""
        print(f"\r{done} of {total} {what} {end}", end="", file=sys.stderr, flush=True)


def finish(found: Mapping[str, Any], path: str | None) -> int:
    """Write the figures where they are wanted; returns the exit code: 1 when something is not well."""
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=2)
    return 0 if found["is_well"] else 1


def show(report: Mapping[str, Any]) -> None:
    """Print it: a table on a terminal, columns of plain text elsewhere."""
    for name, value in report["header"].items():
        print(f"{name}: {value}")
    print()
    if sys.stdout.isatty():
        _show_table(report["rows"])
    else:
        for cells in columns([COLUMNS, *lines(report["rows"])]):
            print(cells)
    for row in report["rows"]:
        if row["missing"]:
            print(f"\nnot measured: {row['name']}: {row['missing']}")


def _show_table(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if number in (1, 2, 3, 5) else "left")
    for cells in lines(rows):
        colour = _COLOURS.get(cells[-1])
        table.add_row(*cells[:-1], f"[{colour}]{cells[-1]}[/]" if colour else cells[-1])
    Console().print(table)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text in which the cells of a column stand below each other."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def markdown(report: Mapping[str, Any]) -> str:
    """The header and the table as Markdown."""
    facts = "; ".join(f"{name}: {value}" for name, value in report["header"].items())
    rows = [f"| {' | '.join(cells)} |" for cells in lines(report["rows"])]
    missing = [f"Not measured: {row['name']}: {row['missing']}." for row in report["rows"] if row["missing"]]
    head = [f"| {' | '.join(COLUMNS)} |", "|---|--:|--:|--:|---|--:|---|"]
    return "\n".join([f"{facts}.", "", *head, *rows, *(["", *missing] if missing else [])])


def write_page(report: Mapping[str, Any], path: str = PAGE) -> None:
    """Put the table between the markers of the page. Raises ValueError: the page has no such markers."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{os.path.basename(path)} has no markers {BEGIN} and {END}")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{head}{BEGIN}\n\n{markdown(report)}\n\n{END}{tail}")
