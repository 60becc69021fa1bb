"""What the command line prints: results go to stdout, everything else to stderr."""

import json
import os
import sys
import traceback as traceback_module
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

PIPE_WIDTH = 240
"""Columns of a table that nobody sees on a screen: wide enough that no path is cut."""


def line(text: str) -> None:
    """Print one line of a result."""
    print(text)


def note(text: str) -> None:
    """Print one line about what is going on."""
    print(text, file=sys.stderr, flush=True)


def error(what: str, fix: str = "", page: str = "") -> None:
    """Print an error, what to do about it, and where the page about it lies."""
    note(f"error: {what}")
    if fix:
        note(f"  to fix: {fix}")
    see(page)


def see(page: str) -> None:
    """Print where a page of ``docs/errors`` lies; nothing if it is not on this machine."""
    from pipeline.error_pages import link

    place = link(page) if page else None
    if place is not None:
        note(f"  see: {_clickable(place)}")


def given_up(quarantined: Iterable[tuple[str, int]]) -> None:
    """Print which shards of which passes were given up."""
    lost = list(quarantined)
    for pass_name, shard in lost:
        note(f"shard {shard} of pass {pass_name} was given up; xpipe logs has the reason")
    if lost:
        see("quarantined-shard")


def _clickable(place: Path) -> str:
    """Return a path that terminals open on a click (OSC 8); the bare path where nobody can."""
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return str(place)
    return f"\x1b]8;;{place.as_uri()}\x1b\\{place}\x1b]8;;\x1b\\"


def traceback() -> None:
    """Print the traceback of the exception that is being handled."""
    traceback_module.print_exc(file=sys.stderr)


def as_json(value: Any) -> None:
    """Print a value as JSON; paths become strings, tuples and sets lists."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False))


def json_line(value: Any) -> None:
    """Print a value as one line of JSON."""
    print(json.dumps(plain(value), ensure_ascii=False), flush=True)


def plain(value: Any) -> Any:
    """Return the value in JSON's types; NaN and infinity, which JSON lacks, become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(entry) for entry in value)
    if isinstance(value, float):
        return value if value - value == 0 else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "item"):
        return plain(value.item())
    return str(value)


def table(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, right: Sequence[str] = ()
) -> None:
    """Print rows below their column names; columns in `right` are aligned to the right."""
    for text in table_lines(rows, columns, right=right):
        line(text)


def table_lines(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, right: Sequence[str] = ()
) -> list[str]:
    """Return what `table` prints."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(_cell(row.get(column))) for column in columns))
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = Console(file=sys.stdout, width=width, highlight=False)
    with console.capture() as printed:
        console.print(grid)
    return [row_text.rstrip() for row_text in printed.get().splitlines()]


def fields(values: Mapping[str, Any]) -> None:
    """Print names and values, one pair a line, values aligned."""
    width = max((len(name) for name in values), default=0)
    for name, value in values.items():
        line(f"{name:<{width}}  {_cell(value)}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(entry)}" for key, entry in value.items()) or "-"
    if isinstance(value, set | frozenset):
        value = sorted(value)
    if isinstance(value, list | tuple):
        return ", ".join(_cell(entry) for entry in value) or "-"
    return str(value)
