"""What things look like: executions, vms, snapshots, settings; as tables on a terminal, as plain lines in a pipe.

Texts in, texts out; the streams are `terminal.py`'s. The plain form is stable: one thing a line, fields
separated by tabs, full ids, no colour. rich is imported where a table is really drawn, and nowhere else.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rewindbox.execution import Execution, rfc3339
from rewindbox.policy import Support
from rewindbox.terminal import Stream, one_line, visible

if TYPE_CHECKING:
    from rich.table import Table

    from rewindbox.points import Rebuilt, Snapshot
    from rewindbox.preview import Preview
    from rewindbox.registry import VmRecord

_ENDED = {"timeout": "timeout", "output": "output limit", "memory": "memory limit", "killed": "killed"}
_AGO = ((86_400 * 2, 86_400, "d"), (3_600 * 2, 3_600, "h"), (60 * 2, 60, "min"))
_NAME = 16
"""Characters of a name in a table."""
_BEFORE = 24
"""Characters of a line shown before what was searched for."""
_PATH = 4096
_CHANGED = {"created": "green", "modified": "yellow", "deleted": "red"}
_NARROW = 80
"""Columns below which a table says less."""

Row = Sequence[tuple[str, str]]
"""Cells: a text and a style, which may be empty."""


def outcome(execution: Execution) -> str:
    """How it ended, in two words."""
    if execution.ended == "exit":
        return f"exit {execution.exit_code}"
    if execution.ended == "signal":
        return f"signal {execution.exit_code - 128}"
    return _ENDED[execution.ended]


def marked(execution: Execution) -> tuple[str, str]:
    """Its outcome with a mark, and the style of it."""
    return (f"✓ {outcome(execution)}", "green") if execution.success else (f"✗ {outcome(execution)}", "red")


def seconds(length_s: float) -> str:
    """A length of time with as many digits as matter."""
    return f"{length_s:.2f} s" if length_s < 10 else f"{length_s:.0f} s"


def ago(when: datetime, now: datetime) -> str:
    """How long ago, in one unit."""
    past_s = (now - when).total_seconds()
    for from_s, unit_s, name in _AGO:
        if past_s >= from_s:
            return f"{past_s // unit_s:.0f} {name} ago"
    return f"{max(past_s, 0):.0f} s ago"


def short(name: str) -> str:
    """An id as short as people compare them: its kind and eight characters, which commands accept."""
    kind, _, rest = name.partition("_")
    return f"{kind}_{rest[:8]}" if rest else name


def gist(execution: Execution) -> str:
    """The line of its output that says most: why it failed, or what it said first."""
    if execution.success:
        lines = execution.stdout.splitlines()
    else:
        lines = [execution.error or "", *reversed(execution.stderr.splitlines()), *execution.stdout.splitlines()]
    return next((one_line(line, 500) for line in lines if line.strip()), "")


def displays(execution: Execution) -> list[str]:
    """What it showed, as text: the value of its last expression, tables; of a picture, that there is one."""
    found = []
    for shown in execution.displays:
        data = shown["data"]
        text = data.get("text/plain") or next(iter(data), "")
        pictures = [
            f"{kind}, {len(content) * 3 // 4} bytes"
            for kind, content in data.items()
            if kind.startswith("image/") and isinstance(content, str)
        ]
        found.append(f"{text}{f'  [{pictures[0]}: see --json]' if pictures else ''}\n")
    return found


def first_line(code: str) -> str:
    """The first line of a piece of code that is not blank."""
    return next((one_line(line, 500) for line in code.splitlines() if line.strip()), "")


def found_line(execution: Execution, text: str) -> str:
    """The line of code or output that has the text, or the first line of it, from shortly before that."""
    from rewindbox.texts import fold  # noqa: PLC0415  an execution does without

    needle = next((fold(part) for part in text.splitlines() if part.strip()), "")
    for part in (execution.code, execution.stdout, execution.stderr) if needle else ():
        if needle in fold(part):
            found = next((line for line in part.splitlines() if needle in fold(line)), "")
            before = fold(found).find(needle) - _BEFORE
            return one_line(found if before <= 0 else f"…{found[before:]}", 500)
    return first_line(execution.code)


def rebuilt(entry: "Rebuilt") -> str:
    """A session that was made anew, in lines."""
    how = "\n".join(f"  {text}" for text in entry.differences)
    ran = f"session {entry.session} is rebuilt from {entry.executions} executions"
    return f"{ran}, with differences:\n{how}\n" if how else f"{ran}; all came out as before\n"


def history(
    stream: Stream,
    entries: Sequence[Execution],
    names: Mapping[str, str],
    live: Collection[str] = (),
    text: str | None = None,
) -> str:
    """Executions, newest first; marked where going back to after it brings back variables, too.

    `text`: what was searched for; on a terminal the line that has it is shown instead of the first of the code.
    """
    if not stream.is_terminal:
        return lines(
            (
                entry.id,
                rfc3339(entry.started_at),
                names.get(entry.vm_id, entry.vm_id),
                entry.language,
                outcome(entry),
                f"{entry.wall_s:.3f}",
                first_line(entry.code),
            )
            for entry in entries
        )
    now = datetime.now(UTC)
    rows: list[Row] = [
        (
            (f"{short(entry.id)}{' ●' if entry.after in live else ''}", "bold"),
            (one_line(names.get(entry.vm_id, short(entry.vm_id)), _NAME), ""),
            (f"{entry.language}{f' {entry.session}' if entry.session else ''}", ""),
            marked(entry),
            (ago(entry.started_at, now), "dim"),
            (found_line(entry, text) if text else first_line(entry.code), "dim"),
        )
        for entry in entries
    ]
    columns: tuple[str, ...] = ("execution", "vm", "language", "outcome", "when", "found" if text else "code")
    if stream.width < _NARROW:
        rows, columns = [(*row[:2], *row[3:]) for row in rows], (*columns[:2], *columns[3:])
    return table(stream, columns, rows)


def vms(
    stream: Stream,
    records: Sequence["VmRecord"],
    holders: Mapping[str, int | str],
    sessions: Mapping[str, Sequence[str]],
) -> str:
    """Vms, oldest first."""
    if not stream.is_terminal:
        return lines(
            (
                record.id,
                record.name,
                rfc3339(record.created_at),
                rfc3339(record.last_activity) if record.last_activity else "-",
                str(holders.get(record.id, "-")),
                ",".join(sessions.get(record.id, ())) or "-",
            )
            for record in records
        )
    now = datetime.now(UTC)
    rows = [
        (
            (one_line(record.name, _NAME), "bold"),
            (short(record.id), ""),
            (one_line(record.agent_id, _NAME), ""),
            (ago(record.created_at, now), "dim"),
            (ago(record.last_activity, now) if record.last_activity else "never", "dim"),
            (_holder(holders.get(record.id)), ""),
            (one_line(", ".join(sessions.get(record.id, ())), 2 * _NAME), "cyan"),
        )
        for record in records
    ]
    return table(stream, ("vm", "id", "agent", "made", "used", "in use by", "live sessions"), rows)


def pool(stream: Stream, rows: Sequence[Mapping[str, Any]]) -> str:
    """The vms of the pool, those that are nobody's first."""
    names = ("id", "state", "agent_id", "executions", "in_use_by", "created_at")
    if not stream.is_terminal:
        return lines([str(row[name]) if row[name] is not None else "-" for name in names] for row in rows)
    now = datetime.now(UTC)
    cells = [
        (
            (short(row["id"]), "bold"),
            (row["state"], ""),
            (one_line(row["agent_id"] or "nobody", _NAME), ""),
            (str(row["executions"] or 0), ""),
            (_holder(row["in_use_by"]), ""),
            (ago(datetime.fromisoformat(row["created_at"]), now) if row["created_at"] else "", "dim"),
        )
        for row in rows
    ]
    return table(stream, ("vm", "state", "agent", "executions", "held by", "made"), cells)


def _holder(holder: int | str | None) -> str:
    return (
        "no one" if holder is None else f"process {holder}" if isinstance(holder, int) else one_line(holder, 2 * _NAME)
    )


def snapshots(stream: Stream, found: Sequence["Snapshot"], live: Collection[str] = ()) -> str:
    """The snapshots of a vm, oldest first; marked where going back brings back variables, too."""
    if not stream.is_terminal:
        return lines(
            (
                entry.id,
                rfc3339(entry.created_at),
                entry.kind,
                entry.name or "-",
                entry.point_id,
                entry.execution_id or "-",
            )
            for entry in found
        )
    now = datetime.now(UTC)
    rows = [
        (
            (f"{short(entry.id)}{' ●' if entry.point_id in live else ''}", "bold"),
            (one_line(entry.name or "", _NAME), ""),
            (entry.kind, ""),
            (ago(entry.created_at, now), "dim"),
            (short(entry.execution_id) if entry.execution_id else "", "dim"),
        )
        for entry in found
    ]
    return table(stream, ("snapshot", "name", "kind", "when", "execution"), rows)


def preview(stream: Stream, seen: "Preview", vm_name: str) -> str:
    """What a rollback would do: in a pipe a line for each execution and each file."""
    files = seen.files or ()
    if not stream.is_terminal:
        executions = [("undone", name) for name in seen.undone] + [("redone", name) for name in seen.redone]
        told = [(file.change, one_line(file.path, _PATH)) for file in files]
        return lines([*executions, *told, *([] if seen.is_complete else [("incomplete", "")])])
    facts = {
        "undone": ", ".join(map(short, seen.undone)) or "no execution",
        "redone": ", ".join(map(short, seen.redone)) or None,
        "variables": "would go back, too" if seen.live else None,
        "files": None if files else "as they are now",
    }
    rows = [
        (
            (file.change, _CHANGED[file.change]),
            (f"{file.size_bytes:,}" if file.kind == "file" else file.kind, ""),
            (one_line(file.path, _PATH), ""),
        )
        for file in files
    ]
    return (
        heading(stream, f"vm {vm_name} would be as it was at {short(seen.to_point)}")
        + pairs(stream, facts)
        + (table(stream, ("since then", "bytes", "file"), rows) if rows else "")
        + ("" if seen.is_complete else "More has changed than is looked at: this is a part of it.\n")
    )


def execution(stream: Stream, entry: Execution, vm_name: str) -> str:
    """Everything about an execution, but for its output."""
    facts = {
        "execution": entry.id,
        "vm": f"{vm_name} ({entry.vm_id})",
        "agent": entry.agent_id,
        "language": entry.language,
        "session": entry.session,
        "outcome": outcome(entry) if entry.ended == "exit" else f"{outcome(entry)}, exit code {entry.exit_code}",
        "error": entry.error,
        "started": rfc3339(entry.started_at),
        "took": f"{entry.wall_s:.3f} s, of which CPU {entry.cpu_s:.3f} s",
        "memory": f"{entry.memory_peak_bytes / 2**20:.1f} MiB at most",
        "before": entry.before,
        "after": entry.after,
        "undone": f"rolled back to {entry.rolled_back_to}" if entry.rolled_back_to else None,
    }
    code = entry.code if entry.code.endswith("\n") else entry.code + "\n"
    shown = visible(code) if stream.is_terminal else code
    return pairs(stream, facts) + heading(stream, "code") + shown


def heading(stream: Stream, text: str) -> str:
    """A line above a part of a page."""
    return stream.styled(f"--- {text}", "cyan") + "\n"


def pairs(stream: Stream, facts: Mapping[str, str | None]) -> str:
    """Names and values, a line each; None: left out."""
    width = max(map(len, facts))
    return "".join(
        f"{stream.styled(name.ljust(width), 'dim')}  {one_line(value)}\n"
        for name, value in facts.items()
        if value is not None
    )


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Nested settings as `history.enabled` and JSON values."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{key}.")
        else:
            found[above + key] = json.dumps(value)
    return found


def languages(stream: Stream, found: Sequence[Support]) -> str:
    """One line each; a missing program is shown by how to get it, in parentheses."""
    rows = []
    for entry in found:
        row = entry.language
        missing = f"(apt install {row.package})" if row.package else f"(no {row.program})"
        rows.append(
            (row.name, "allowed" if entry.allowed else "not allowed", entry.program or missing, " ".join(row.aliases))
        )
    if not stream.is_terminal:
        return lines(rows)
    styles = ("bold", "", "", "dim")
    styled = [tuple(zip(row, styles, strict=True)) for row in rows]
    text = table(stream, ("language", "may run", "program", "also called"), styled, wrap=True)
    return text + "To allow one: add it to `allowed_languages` in the configuration file.\n"


def lines(rows: Iterable[Sequence[str]]) -> str:
    """The plain form: fields separated by tabs."""
    return "".join("\t".join(one_line(field) for field in row) + "\n" for row in rows)


def table(stream: Stream, columns: Sequence[str], rows: Sequence[Row], *, wrap: bool = False) -> str:
    """A table no wider than the terminal; what does not fit of the last column is cut off, or wrapped."""
    import io  # noqa: PLC0415  rich and what it needs are loaded for a terminal only

    from rich.console import Console  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    drawn, room = _empty_table(stream, columns, wrap), _room(stream, columns, rows)
    for row in rows:
        texts = [visible(text) for text, _ in row]
        texts[-1] = texts[-1] if wrap else one_line(texts[-1], room)
        styles = [style if stream.has_color else "" for _, style in row]
        drawn.add_row(*(Text(text, style=style) for text, style in zip(texts, styles, strict=True)))
    page = io.StringIO()
    console = Console(
        file=page,
        width=stream.width,
        force_terminal=stream.has_color,
        color_system="standard" if stream.has_color else None,
        legacy_windows=False,
    )
    console.print(drawn)
    return "".join(f"{line.rstrip()}\n" for line in page.getvalue().splitlines())


def _empty_table(stream: Stream, columns: Sequence[str], wrap: bool) -> "Table":
    from rich import box  # noqa: PLC0415  as above
    from rich.table import Table  # noqa: PLC0415

    drawn = Table(
        box=box.SIMPLE_HEAD if stream.is_unicode else None,
        padding=(0, 1 if stream.is_unicode else 2, 0, 0),  # the box adds one
        show_edge=False,
        pad_edge=False,
        expand=False,
        header_style="bold" if stream.has_color else "",
    )
    for name in columns[:-1]:
        drawn.add_column(name, no_wrap=True, overflow="ellipsis")
    drawn.add_column(columns[-1], no_wrap=not wrap, overflow="fold" if wrap else "ellipsis")
    return drawn


def _room(stream: Stream, columns: Sequence[str], rows: Sequence[Row]) -> int:
    """What the other columns leave to the last one, with two spaces between columns."""
    cells = [columns, *([text for text, _ in row] for row in rows)]
    return max(8, stream.width - sum(max(map(len, column)) + 2 for column in list(zip(*cells, strict=True))[:-1]))
