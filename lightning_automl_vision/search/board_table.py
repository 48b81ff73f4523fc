"""The rows of a leaderboard as text: a table that fits the terminal, and CSV."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from lightning_automl_vision.search.board_rows import COMPLETE, FAILED, FIELDS, PRUNED, RUNNING, WAITING, Row
from lightning_automl_vision.tables import table

_GAP = 2
# Columns that can be done without go where what was tried would have less room than this.
_ROOM = 30
_NARROWEST = 8
_LONGEST_NAME = 10
# Which columns are left out, the first of these first: of a sweep that is over, and of one that goes on.
_SPARE = ("memory", "epochs", "seconds", "planned")
_SPARE_LIVE = ("memory", "p", "interval", "planned")
# Who is shown where there is no room for all.
_FIRST = [RUNNING, COMPLETE, FAILED, PRUNED, WAITING]


def table_lines(
    rows: Sequence[Row],
    *,
    metric: str,
    width: int,
    winner: int | None = None,
    all_rows: Sequence[Row] = (),
    live: bool = False,
) -> list[str]:
    """No line is wider than the terminal; keys are named as briefly as ``all_rows`` allow."""
    brief, usual = brief_names(all_rows or rows), common_of(all_rows or rows)
    columns = _columns(rows, metric, winner)
    if "planned" in columns and not live:
        columns = {name: [*cells, _total(name, rows)] for name, cells in columns.items()}
    last = ["", *(described(row, brief, usual) for row in rows)]
    last += [""] * (len(columns["place"]) - len(last))
    wanted = min(max(map(cells_of, last)), _ROOM)
    for spare in _SPARE_LIVE if live else _SPARE:
        if _width(columns) + wanted > width:
            columns.pop(spare, None)
    room = max(width - _width(columns), _NARROWEST)
    header, *texts = [[*cells, cut(text, room)] for *cells, text in zip(*columns.values(), last, strict=True)]
    return [cut(line, width) for line in table(header, texts).splitlines()]


def _columns(rows: Sequence[Row], metric: str, winner: int | None) -> dict[str, list[str]]:
    """By their names, with their headers; what was planned where something was."""
    value = metric if len(metric) <= _LONGEST_NAME else "value"
    columns = {
        "place": ["", *(_place(row, winner) for row in rows)],
        "trial": ["trial", *(str(row.number) for row in rows)],
        "state": ["state", *(row.state for row in rows)],
        "value": [value, *map(_value, rows)],
        "interval": ["95 % interval", *map(_interval, rows)],
        "p": ["p", *("" if row.p_value is None else f"{row.p_value:.3f}" for row in rows)],
        "epochs": ["epochs", *map(_epochs, rows)],
        "planned": ["planned", *(_whole(row.planned_seconds) for row in rows)],
        "seconds": ["seconds", *(_whole(row.seconds) for row in rows)],
        "memory": ["memory", *map(_memory, rows)],
    }
    if all(row.planned_seconds is None for row in rows):
        del columns["planned"]
    return columns


def _total(name: str, rows: Sequence[Row]) -> str:
    match name:
        case "trial":
            return "total"
        case "planned":
            return _whole(sum(row.planned_seconds or 0 for row in rows))
        case "seconds":
            return _whole(sum(row.seconds or 0 for row in rows))
    return ""


def chosen(rows: Sequence[Row], most: int, keep: int | None = None) -> tuple[list[Row], str]:
    """At most so many lines, in their order, and what to say of the others; the trial of number ``keep`` stays."""
    if len(rows) <= most:
        return [*rows], ""
    places = sorted(
        range(len(rows)),
        key=lambda place: (rows[place].number != keep, _FIRST.index(rows[place].state), place),
    )[: max(most - 1, 0)]
    left = Counter(row.state for place, row in enumerate(rows) if place not in {*places})
    states = ", ".join(f"{left[state]} {state}" for state in _FIRST if left[state])
    return [rows[place] for place in sorted(places)], f"… and {left.total()} more: {states}"


def described(row: Row, brief: Mapping[str, str], common: Collection[str] = ()) -> str:
    """What was tried, without what all have in ``common``, and what came of it; why it failed comes first."""
    tried = " ".join(_brief(text, brief) for text in row.overrides if text not in common) or (
        "the defaults" if row.is_default else ""
    )
    said = " ".join(row.reason.split())
    if row.state == FAILED:
        return f"{said} ({tried})" if tried else said
    return f"{tried} ({said})" if said and tried else said or tried


def common_of(rows: Sequence[Row]) -> frozenset[str]:
    """What every trial has that tried anything, where they differ in something else."""
    tried = [frozenset(row.overrides) for row in rows if row.overrides]
    shared = frozenset.intersection(*tried) if tried else frozenset()
    return shared if any(one - shared for one in tried) else frozenset()


def brief_names(rows: Sequence[Row]) -> dict[str, str]:
    """The last part of each key, where no other key ends in the same."""
    keys = {text.partition("=")[0] for row in rows for text in row.overrides}
    ends = Counter(re.split(r"[./]", key)[-1] for key in keys)
    return {key: end for key in keys if ends[end := re.split(r"[./]", key)[-1].lstrip("+")] == 1}


def cells_of(text: str) -> int:
    """How wide a terminal shows it."""
    return sum(_cell_width(letter) for letter in text)


def cut(text: str, width: int) -> str:
    """With an ellipsis for what has no room."""
    if cells_of(text) <= width:
        return text
    kept, used = "", 0
    for letter in text:
        used += _cell_width(letter)
        if used > width - 1:
            break
        kept += letter
    return f"{kept.rstrip()}…" if width > 0 else ""


def as_csv(rows: Sequence[Row]) -> str:
    """The fields of a row, its interval as ``low`` and ``high``."""
    text = io.StringIO()
    writer = csv.writer(text)
    before, after = FIELDS[: FIELDS.index("interval")], FIELDS[FIELDS.index("interval") + 1 :]
    writer.writerow([*before, "low", "high", *after])
    for row in rows:
        values = row.as_dict()
        values["overrides"] = " ".join(row.overrides)
        interval = row.interval or ("", "")
        writer.writerow([*(values[name] for name in before), *interval, *(values[name] for name in after)])
    return text.getvalue()


def _place(row: Row, winner: int | None) -> str:
    mark = ">" if row.number == winner else " "
    return "" if row.rank is None else f"{mark}{row.rank}{'=' if row.tied else ''}"


def _value(row: Row) -> str:
    if row.value is None:
        return "undefined" if row.state in (COMPLETE, PRUNED) else ""
    return "undefined" if row.value != row.value else f"{row.value:.4f}"


def _interval(row: Row) -> str:
    return row.missing if row.interval is None else f"{row.interval[0]:.3f} to {row.interval[1]:.3f}"


def _epochs(row: Row) -> str:
    if row.epochs is None:
        return ""
    return f"{row.epochs}/{row.number_of_epochs}" if row.number_of_epochs is not None else str(row.epochs)


def _whole(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.0f}"


def _memory(row: Row) -> str:
    held = max(row.memory or 0, row.device_memory or 0)
    if not held:
        return ""
    return f"{held / 1e9:.1f} GB" if held >= 1e9 else f"{held / 1e6:.0f} MB"


def _brief(text: str, brief: Mapping[str, str]) -> str:
    """A number with four digits, a text without quotes."""
    key, _, value = text.partition("=")
    if re.fullmatch(r"-?\d+\.\d+(e[+-]?\d+)?|-?\d+e[+-]?\d+", value):
        value = f"{float(value):.4g}"
    elif re.fullmatch(r"'[^'\\]*'", value):
        value = value[1:-1]
    return " ".join(f"{brief.get(key, key)}={value}".split())


def _cell_width(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _width(cells: Mapping[str, Sequence[str]]) -> int:
    return sum(max(map(cells_of, column)) + _GAP for column in cells.values())
