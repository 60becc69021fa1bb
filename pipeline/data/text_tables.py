"""Columns of tables that hold text: Parquet, JSON lines, tab- and comma-separated values."""

from __future__ import annotations

import csv
import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa

from pipeline.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO

_DELIMITERS = {".tsv": "\t", ".csv": ","}
_LINES = (".jsonl", ".ndjson")
_PARQUET = (".parquet", ".pq")
SUFFIXES = (*_PARQUET, *_LINES, *_DELIMITERS)
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def read_columns(path: str, names: Sequence[str]) -> dict[str, list[Any]]:
    """Return columns of a table, each a list with a value for every row.

    The first line of tab- and comma-separated values names the columns, and all values are text.
    Quotes mean something in ``.csv`` files only: in ``.tsv`` files a tab or the end of a line ends
    a value, whatever it is made of. Rows of JSON lines need not have all columns: what is missing
    is None.

    Parameters
    ----------
    path
        A local path or any fsspec URL; compressed if it ends so (``.gz``, ``.bz2``, ``.xz``).
    names
        The columns that are wanted; others are not read if the format allows it.

    Raises
    ------
    PlanError
        If the file is missing, broken, of another kind, or lacks a column.
    """
    suffix = _suffix(path)
    try:
        with fsspec.open(path, "rb", compression="infer") as file:
            if suffix in _PARQUET:
                return _of_parquet(path, file, names)
            if suffix in _LINES:
                return _of_lines(path, file, names)
            return _of_separated(path, file, names, _DELIMITERS[suffix])
    except FileNotFoundError as error:
        raise PlanError(
            f"there is no file {path!r}",
            fix="correct data.path; it is relative to the run file",
            page="no-such-data",
        ) from error
    except PlanError:
        # also a ValueError, which its reasons are
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise PlanError(
            f"cannot read the table {path!r}: {error}",
            fix="mend the file; an ending such as .tsv has to say what it is",
            page="unreadable-data-file",
        ) from error


def _suffix(path: str) -> str:
    """Return the ending that tells the format."""
    name = PurePosixPath(path.replace("\\", "/"))
    if name.suffix.lower() in COMPRESSED:
        name = name.with_suffix("")
    suffix = name.suffix.lower()
    if suffix not in SUFFIXES:
        raise PlanError(
            f"got a table {path!r}, expected a name that ends in {', '.join(SUFFIXES)}",
            fix="rename the file by what it holds, or correct data.path",
        )
    return suffix


def _of_parquet(path: str, file: IO[bytes], names: Sequence[str]) -> dict[str, list[Any]]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file)
    _check(path, names, table.schema_arrow.names)
    columns = table.read(columns=list(names))
    return {name: columns[name].to_pylist() for name in names}


def _of_separated(
    path: str, file: IO[bytes], names: Sequence[str], delimiter: str
) -> dict[str, list[Any]]:
    from pyarrow import csv as arrow

    quote: Any = '"' if delimiter == "," else False
    content = file.read()
    head = content.partition(b"\n")[0].decode("utf-8-sig").rstrip("\r")
    present = next(csv.reader([head]), []) if quote else head.split(delimiter)
    _check(path, names, present)
    table = arrow.read_csv(
        pa.BufferReader(content),
        parse_options=arrow.ParseOptions(
            delimiter=delimiter,
            quote_char=quote,
            newlines_in_values=bool(quote),
            # a row of one column has no other way to say that it is empty
            ignore_empty_lines=len(present) > 1,
        ),
        convert_options=arrow.ConvertOptions(
            include_columns=list(names), column_types=dict.fromkeys(names, pa.string())
        ),
    )
    return {name: table[name].to_pylist() for name in names}


def _of_lines(path: str, file: IO[bytes], names: Sequence[str]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in names}
    present: dict[str, None] = {}
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} holds {type(row).__name__}, expected an object")
        present.update(dict.fromkeys(row))
        for name in names:
            columns[name].append(row.get(name))
    _check(path, names, list(present))
    return columns


def _check(path: str, names: Sequence[str], present: Sequence[str]) -> None:
    missing = [name for name in names if name not in present]
    if missing:
        raise PlanError(
            f"the table {path!r} has the columns {list(present)!r}, and no {missing[0]!r}",
            fix="name its columns with data.text_column, label_column, id_column and where",
            page="missing-column",
        )
    twice = [name for name in names if list(present).count(name) > 1]
    if twice:
        raise PlanError(
            f"the table {path!r} has several columns {twice[0]!r}",
            fix="give each column a name of its own",
        )
