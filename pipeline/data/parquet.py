"""Rows of Parquet files as samples."""

from __future__ import annotations

import functools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pipeline.data import arrow_values, files, labelling, patterns
from pipeline.data.pictures import Pictures
from pipeline.data.row_groups import RowGroups
from pipeline.data.source import Record, register
from pipeline.errors import PlanError

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from torch import Tensor

    from pipeline.data.patterns import Found

SUFFIXES = (".parquet", ".pq")

_N_OPENED = 8
"""Files whose ends are read at once: each is a few requests to an object store."""


class _Footer(NamedTuple):
    """What a file says without its images."""

    schema: pa.Schema
    sizes: tuple[int, ...]
    """Rows of each row group."""
    beside: dict[str, list[Any]]
    """Labels and ids, by column."""


@register("parquet")
@dataclass(frozen=True)
class Parquet(Pictures):
    """Rows of Parquet files: encoded images, or lists and tensors of numbers.

    Labels, ids and the files' own tables of contents are read when a run is planned. Images are
    read by row groups, a slice at a time, and only the columns that are needed.
    """

    path: str
    """A file, a folder or a pattern such as ``train-*.parquet``, relative to the run file, or a
    URL."""
    input_column: str = "image"
    """Column of images, bytes of a file or ``{bytes, path}`` of Hugging Face; or of numbers: lists,
    lists of lists, tensors."""
    label_column: str | None = None
    """Column of the class, as its index or, with `classes`, its name; empty where unknown."""
    id_column: str | None = None
    """Column of what samples are called; the file's name and the row if there is none."""
    mask_column: str | None = None
    """Column of masks, as images or numbers."""
    classes: tuple[str, ...] | None = None
    """Names of the classes, by index; those that Hugging Face wrote into the file are found."""
    shape: tuple[int, ...] | None = None
    """Of numbers, where a list is flat: [channels, height, width]."""

    def __post_init__(self) -> None:
        """Refuse what cannot be divided by, or named."""
        super().__post_init__()
        labelling.check_names(self.classes)

    def rooted(self, base: Path) -> Self:
        """Return the source with its files below `base`."""
        return replace(self, path=files.rooted(base, self.path))

    def records(self) -> list[Record]:
        """Return the rows in order, of the files by name.

        Raises
        ------
        PlanError
            If there are no files or rows, or a column is missing or of another kind.
        """
        found: list[Record] = []
        for file, footer in self._footers:
            labels = self._labels(file, footer)
            names = None if self.id_column is None else footer.beside[self.id_column]
            places = (
                f"{file.name}#{group}/{row}"
                for group, size in enumerate(footer.sizes)
                for row in range(size)
            )
            for row, place in enumerate(places):
                found.append(
                    Record(
                        len(found),
                        _own_name(file, row)
                        if names is None or names[row] is None
                        else str(names[row]),
                        place,
                        -1 if labels is None else labels[row],
                        place if self.mask_column else None,
                        digest=file.digest,
                    )
                )
        if not found:
            raise PlanError(
                f"the {len(self._footers)} files of {self.path!r} have no rows",
                fix="correct data.path",
                page="no-samples",
            )
        return found

    def load(self, record: Record) -> Tensor:
        """Return one row's image, or numbers, as the model takes it."""
        return self.input_of(self._value(record.source, self.input_column))

    def load_mask(self, record: Record) -> Tensor | None:
        """Return one row's mask, resized and cropped as its image."""
        if record.mask is None or self.mask_column is None:
            return None
        return self.mask_of(self._value(record.mask, self.mask_column))

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Those that the run file gives, or the first file."""
        if self.classes or self.label_column is None:
            return self.classes
        return _named_classes(self._footers[0][1].schema, self.label_column)

    def _value(self, source: str, column: str) -> Any:
        name, _, place = source.rpartition("#")
        group, row = map(int, place.split("/"))
        rows, position = self._rows.row(files.joined(self._root, name), group, row)
        shape = self.shape if column == self.input_column else None
        return arrow_values.value_at(rows.column(column), position, shape)

    def _labels(self, file: Found, footer: _Footer) -> list[int] | None:
        if self.label_column is None:
            return None
        classes = self.classes or _named_classes(footer.schema, self.label_column)
        return labelling.indices(
            footer.beside[self.label_column], classes, f"{file.path!r}, {self.label_column}"
        )

    @functools.cached_property
    def _root(self) -> str:
        return patterns.root_of(self.path, SUFFIXES)

    @functools.cached_property
    def _rows(self) -> RowGroups:
        return RowGroups([name for name in (self.input_column, self.mask_column) if name])

    @functools.cached_property
    def _footers(self) -> list[tuple[Found, _Footer]]:
        found = patterns.matching(self.path, SUFFIXES)
        with ThreadPoolExecutor(min(_N_OPENED, len(found))) as pool:
            return list(zip(found, pool.map(self._footer, found), strict=True))

    def _footer(self, file: Found) -> _Footer:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with files.open_file(file.path) as opened:
                parquet = pq.ParquetFile(opened)
                self._check(file, parquet.schema_arrow)
                about = parquet.metadata
                sizes = tuple(about.row_group(at).num_rows for at in range(about.num_row_groups))
                names = [name for name in (self.label_column, self.id_column) if name]
                read = parquet.read(columns=list(dict.fromkeys(names))) if names else {}
                beside = {name: read[name].to_pylist() for name in names}
                return _Footer(parquet.schema_arrow, sizes, beside)
        except (pa.ArrowException, OSError) as error:
            raise PlanError(
                f"cannot read {file.path!r} as Parquet: {error}",
                fix="write the file anew, or leave it out of data.path",
                page="unreadable-data-file",
            ) from error

    def _check(self, file: Found, schema: pa.Schema) -> None:
        asked = {
            "input_column": self.input_column,
            "label_column": self.label_column,
            "id_column": self.id_column,
            "mask_column": self.mask_column,
        }
        for field, name in asked.items():
            if name is not None and name not in schema.names:
                raise PlanError(
                    f"{file.path!r} has the columns {', '.join(schema.names)}, and no {name!r}",
                    fix=f"name one of them with data.{field}",
                    page="missing-column",
                )
        for name in filter(None, (self.input_column, self.mask_column)):
            kind = schema.field(name).type
            if not (arrow_values.is_encoded(kind) or arrow_values.is_numeric(kind)):
                text = "; texts are for `source: text`" if arrow_values.is_text(kind) else ""
                raise PlanError(
                    f"column {name!r} of {file.path!r} holds {kind}, expected bytes of images, or "
                    "lists or tensors of numbers",
                    fix=f"name another column: {', '.join(schema.names)}{text}",
                    page="missing-column",
                )


def _own_name(file: Found, row: int) -> str:
    return f"{file.name.rpartition('.')[0]}/{row:06d}"


def _named_classes(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """Return the names that the library datasets writes into the files that it makes."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(map(str, about["info"]["features"][column]["names"]))
    except (KeyError, TypeError, ValueError):
        return None
