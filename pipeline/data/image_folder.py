"""A folder of image files, with classes by subfolder or table, and masks by name."""

from __future__ import annotations

import csv
import functools
import io
import posixpath
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import torch

from pipeline.data import decoding, digests, files, normalisation
from pipeline.data.source import Record, Source, register
from pipeline.errors import PlanError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

_LABELS = "labels.csv"
_NO_LABELS = "none"
_NAME = "name"
_COLUMNS = ("index", "label")
"""Where class indices are, unless the column is named."""


@register("image_folder")
@dataclass(frozen=True)
class ImageFolder(Source):
    """Image files: class subfolders, a table of labels, or a flat folder without labels.

    Pixels are decoded, resized, cropped, scaled to [0, 1] and normalised. Orientation tags of
    cameras are not followed, as in the evaluation of ImageNet models.
    """

    path: str
    """The folder, relative to the run file, or a URL such as s3://bucket/images."""
    resize: int | tuple[int, int] | None = None
    """Length of the shorter side, or [height, width]."""
    crop: int | tuple[int, int] | None = None
    """Size cut out of the centre, or [height, width]."""
    interpolation: decoding.Interpolation = "bilinear"
    """Of resizing; masks take the nearest pixel."""
    mode: decoding.Mode = "rgb"
    """Channels."""
    mean: tuple[float, ...] = (0.0,)
    """Subtracted, per channel or one for all."""
    std: tuple[float, ...] = (1.0,)
    """Divided by, per channel or one for all."""
    labels: str | None = None
    """Table with columns `file`, `index` or `label` (class index) and perhaps `name`, relative to
    the folder; labels.csv is found by itself, and left alone if this is `none`."""
    label_column: str | None = None
    """Column of the class index, if it has another name."""
    name_column: str | None = None
    """Column of the class name, if it is not `name`."""
    masks: str | None = None
    """Folder with a mask of the same name for each image; relative to the run file, or a URL."""

    decode_threads: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Refuse what cannot be divided by, cut out or found."""
        normalisation.check(self.mean, self.std)
        decoding.check_sizes(resize=self.resize, crop=self.crop)
        if self.labels == _NO_LABELS and self.label_column is not None:
            raise ValueError(f"got label_column {self.label_column!r}, but labels are {_NO_LABELS}")

    def rooted(self, base: Path) -> Self:
        """Return the source with its folders below `base`."""
        masks = None if self.masks is None else files.rooted(base, self.masks)
        return replace(self, path=files.rooted(base, self.path), masks=masks)

    def records(self) -> list[Record]:
        """Return the images, sorted by path, or as the table lists them.

        Raises
        ------
        PlanError
            If the folder or the table is missing, or holds no images.
        """
        if not self._listed and not files.is_folder(self.path):
            raise PlanError(
                f"there is no folder {self.path!r}",
                fix="correct data.path; it is relative to the run file",
                page="no-such-data",
            )
        labelled = self._labelled()
        if not labelled:
            raise PlanError(
                f"the folder {self.path!r} holds no images",
                fix=f"expected files ending in {', '.join(sorted(decoding.SUFFIXES))}",
                page="no-samples",
            )
        masks = self._masks()
        return [
            Record(index, name, name, label, masks.get(_stem(name)), digest=self._digest(name))
            for index, (name, label) in enumerate(labelled)
        ]

    def load(self, record: Record) -> Tensor:
        """Return one image as the model takes it."""
        content = self.content(record)
        digests.check_content(record, content, files.joined(self.path, record.source))
        pixels = decoding.decode(content, self.mode)
        image = decoding.fit(pixels, self.resize, self.crop, self.interpolation)
        return normalisation.normalise(image.to(torch.float32) / 255, self.mean, self.std)

    def content(self, record: Record) -> bytes:
        """Return the file of one image."""
        return files.read(files.joined(self.path, record.source))

    @property
    def is_remote(self) -> bool:
        """Whether the folder is in an object store."""
        return files.is_url(self.path)

    def load_mask(self, record: Record) -> Tensor | None:
        """Return the mask, resized and cropped as its image."""
        if record.mask is None or self.masks is None:
            return None
        mask = decoding.decode_mask(files.read(files.joined(self.masks, record.mask)))
        return decoding.fit(mask[None].to(torch.uint8), self.resize, self.crop, "nearest")[0] > 0

    def display(self, inputs: Tensor) -> Tensor:
        """Return images in [0, 1]."""
        return normalisation.restore(inputs, self.mean, self.std)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the subfolders, or the column `name` of the table."""
        table = self._table()
        if table is not None:
            return _names(*self._rows(table), self.name_column or _NAME)
        return tuple(self._subfolders()) or None

    def _labelled(self) -> list[tuple[str, int]]:
        table = self._table()
        if table is not None:
            rows, column = self._rows(table)
            return [(row["file"], self._index(row, column, table)) for row in rows]
        images, subfolders = self._images, self._subfolders()
        flat = [name for name in images if "/" not in name]
        if flat and subfolders:
            raise PlanError(
                f"the folder {self.path!r} holds images ({flat[0]!r}, ...) and folders of images "
                f"({subfolders[0]!r}, ...)",
                fix="keep one of them, or say which image has which label in labels.csv",
            )
        if not subfolders:
            return [(name, -1) for name in flat]
        label = {name: index for index, name in enumerate(subfolders)}
        # by class first: `a-b/` comes before `a/` in the order of names
        return sorted(((name, label[name.partition("/")[0]]) for name in images), key=_by_class)

    @functools.cached_property
    def _listed(self) -> dict[str, files.File]:
        """All files by name, sorted: one listing, in which sizes and tags are, too."""
        return {file.name: file for file in files.listing(self.path, is_deep=True)}

    @functools.cached_property
    def _images(self) -> list[str]:
        masks = None if self.masks is None else files.below(self.path, self.masks)
        return [
            name
            for name in self._listed
            if _is_image(name)
            and not _is_hidden(name)
            and not (masks and name.startswith(f"{masks}/"))
        ]

    def _subfolders(self) -> list[str]:
        return sorted({name.partition("/")[0] for name in self._images if "/" in name})

    def _digest(self, name: str) -> str | None:
        # a table may name files elsewhere, and write `./` before names
        file = self._listed.get(posixpath.normpath(name))
        return None if file is None else digests.of_file(file)

    def _table(self) -> str | None:
        if self.labels == _NO_LABELS:
            return None
        table = files.joined(self.path, self.labels or _LABELS)
        is_there = files.is_file(table)
        if any((self.labels, self.label_column, self.name_column)) and not is_there:
            raise PlanError(
                f"there is no table of labels {table!r}",
                fix="correct data.labels; it is relative to the folder of images",
                page="no-such-data",
            )
        return table if is_there else None

    def _rows(self, table: str) -> tuple[list[dict[str, str]], str]:
        """Return the rows of the table, and the column of class indices."""
        text = io.StringIO(files.read(table).decode("utf-8"), newline="")
        reader = csv.DictReader(text)
        rows, columns = list(reader), list(reader.fieldnames or ())
        sought = _COLUMNS if self.label_column is None else (self.label_column,)
        column = next((name for name in sought if name in columns), None)
        if not rows or column is None or "file" not in columns:
            expected = " or ".join(map(repr, sought))
            raise PlanError(
                f"the table {table!r} has {len(rows)} rows with columns {columns!r}, expected "
                f"'file' and {expected}",
                fix="name the column of class indices with data.label_column" + self._switch,
                page="missing-column",
            )
        if self.name_column not in (None, *columns):
            raise PlanError(
                f"the table {table!r} has columns {columns!r}, and no {self.name_column!r}",
                fix="correct data.name_column",
                page="missing-column",
            )
        return rows, column

    def _index(self, row: dict[str, str], column: str, table: str) -> int:
        text = (row[column] or "").strip()
        try:
            return int(text) if text else -1
        except ValueError as error:
            raise PlanError(
                f"{table!r}: {row['file']!r} has {column} {text!r}, expected a whole number",
                fix="write class indices, leave them empty, or name their column with "
                f"data.label_column{self._switch}",
                page="labels",
            ) from error

    @property
    def _switch(self) -> str:
        """How to do without a table that nobody asked for."""
        return "" if self.labels else f"; `data: {{labels: {_NO_LABELS}}}` leaves the table alone"

    def _masks(self) -> dict[str, str]:
        """Return the mask files by path without suffix."""
        if self.masks is None:
            return {}
        found = files.listing(self.masks, is_deep=True)
        if not found and not files.is_folder(self.masks):
            raise PlanError(
                f"there is no folder of masks {self.masks!r}",
                fix="correct data.masks; it is relative to the run file",
                page="no-such-data",
            )
        return {_stem(file.name): file.name for file in found if _is_image(file.name)}


def _is_image(name: str) -> bool:
    return posixpath.splitext(name)[1].lower() in decoding.SUFFIXES


def _is_hidden(name: str) -> bool:
    """Whether a file or folder of a name is one that systems and editors leave behind."""
    return any(part.startswith(".") for part in name.split("/"))


def _stem(name: str) -> str:
    """Return a name without its suffix, with its folders."""
    return posixpath.splitext(name)[0]


def _by_class(labelled: tuple[str, int]) -> tuple[int, str]:
    name, label = labelled
    return label, name


def _names(rows: list[dict[str, str]], column: str, name: str) -> tuple[str, ...] | None:
    named = {int(row[column]): row[name] for row in rows if row.get(name) and row[column]}
    if not named:
        return None
    return tuple(named.get(index, str(index)) for index in range(max(named) + 1))
