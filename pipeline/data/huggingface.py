"""Data sets of the library datasets: folders on disk, or names of the hub."""

from __future__ import annotations

import contextlib
import functools
import os
import posixpath
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from pipeline.data import arrow_values, digests, files, labelling
from pipeline.data.pictures import Pictures
from pipeline.data.pretrained_tokens import PretrainedTokens
from pipeline.data.source import Record, register
from pipeline.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from pipeline.inputs import Inputs

_SAVED = ("dataset_dict.json", "state.json")
"""What ``save_to_disk`` writes into a folder of splits, and of one split."""


@register("huggingface")
@dataclass(frozen=True)
class HuggingFace(Pictures):
    """A data set of the library ``datasets``: images, texts or arrays of numbers.

    What a column holds decides how it is read. Nothing is downloaded unless `download` is true, and
    no code of a data set is run; the extra ``[huggingface]``.
    """

    path: str
    """A folder, as `save_to_disk` wrote it or of files that the library knows, relative to the run
    file; or else a name of the hub."""
    config: str | None = None
    """Which of several data sets of that name."""
    split: str | None = None
    """Such as `test`; may be left out where there is one alone."""
    revision: str | None = None
    """Of the hub's: a branch, or better a commit, which nobody changes."""
    download: bool = False
    """Whether the hub is asked for what its cache on disk lacks."""
    input_column: str | None = None
    """Column of images, texts or arrays; the only column of images if not given, or of texts."""
    label_column: str | None = None
    """Column of the class; the only column with names of classes if not given."""
    id_column: str | None = None
    """Column of what samples are called; rows are numbered if there is none."""
    mask_column: str | None = None
    """Column of masks, as images or numbers."""
    classes: tuple[str, ...] | None = None
    """Names of the classes, by index; the data set's if not given."""
    tokenizer: str | None = None
    """Of texts: a folder, relative to the run file, or a name of the hub, as transformers'
    AutoTokenizer takes it. The model gets what it makes by argument name."""
    max_length: int | None = None
    """Tokens of a text that are taken at most, special ones included."""

    def __post_init__(self) -> None:
        """Refuse what cannot be divided by, named or cut."""
        super().__post_init__()
        labelling.check_names(self.classes)
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"got max_length {self.max_length}, expected at least 1")

    def rooted(self, base: Path) -> Self:
        """Return the source with folders below `base`; what is none there is a name of the hub."""
        tokenizer = None if self.tokenizer is None else _local_or_name(base, self.tokenizer)
        return replace(self, path=_local_or_name(base, self.path), tokenizer=tokenizer)

    def records(self) -> list[Record]:
        """Return the rows in order; texts with their number of tokens.

        Raises
        ------
        PlanError
            If the data set, its split, a column or the tokenizer is not there, or does not fit.
        """
        rows = self._dataset
        labels, names = self._labels(), self._names()
        texts = rows[self._input][:] if self._is_text else None
        digest = self._digest
        tokens = self._tokens if texts is not None else None
        return [
            Record(
                row,
                names[row],
                str(row),
                labels[row],
                str(row) if self.mask_column else None,
                None if tokens is None or texts is None else tokens.length(texts[row]),
                digest,
            )
            for row in range(len(rows))
        ]

    def load(self, record: Record) -> Inputs:
        """Return one row's image, numbers or tokens, as the model takes it."""
        if self._is_text:
            return self._tokens.inputs(self._text(record))
        return self.input_of(self._value(self._input, int(record.source)))

    def load_mask(self, record: Record) -> Tensor | None:
        """Return one row's mask, resized and cropped as its image."""
        if record.mask is None or self.mask_column is None:
            return None
        return self.mask_of(self._value(self.mask_column, int(record.mask)))

    def tokens(self, record: Record) -> tuple[str, ...] | None:
        """Return the words of a text."""
        return self._tokens.words(self._text(record)) if self._is_text else None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Those that the run file gives, or the data set."""
        if self.classes or self._label is None:
            return self.classes
        names = getattr(self._dataset.features[self._label], "names", None)
        return None if names is None else tuple(map(str, names))

    def code_files(self) -> tuple[Path, ...]:
        """Return the files of the tokenizer, which decide what is read."""
        return () if self.tokenizer is None else self._tokens.files()

    @functools.cached_property
    def _tokens(self) -> PretrainedTokens:
        if self.tokenizer is None:
            raise PlanError(
                f"column {self._input!r} holds texts, and there is no tokenizer for them",
                fix="name the model's with data.tokenizer, or another column with "
                "data.input_column",
                page="tokenizer",
            )
        return PretrainedTokens(self.tokenizer, self.max_length, self.download)

    def _text(self, record: Record) -> str | None:
        text: str | None = self._dataset[int(record.source)][self._input]
        return text

    def _value(self, column: str, row: int) -> Any:
        values = self._arrow[row : row + 1][column].chunk(0)
        one = values[0].as_py() if arrow_values.is_encoded(values.type) else None
        if isinstance(one, dict) and one["bytes"] is None and one.get("path"):
            # folders of images are not copied: their rows say where the files are
            return files.read(one["path"])
        return arrow_values.value_at(values, 0)

    def _labels(self) -> list[int]:
        if self._label is None:
            return [-1] * len(self._dataset)
        values = self._dataset[self._label][:]
        return labelling.indices(values, self.class_names, f"{self.path!r}, {self._label}")

    def _names(self) -> list[str]:
        self._check("id_column", self.id_column)
        if self.id_column is None:
            return [f"{row:06d}" for row in range(len(self._dataset))]
        names = self._dataset[self.id_column][:]
        return [f"{row:06d}" if name is None else str(name) for row, name in enumerate(names)]

    @property
    def _digest(self) -> str:
        """Of the tables, and of what they were made of.

        The library's fingerprint counts where it is kept beside the tables. That of a folder of
        other files is made of their places and times, which are others on each machine.
        """
        rows = self._dataset
        tables = [table["filename"] for table in rows.cache_files]
        found = [files.File(posixpath.basename(each), os.path.getsize(each)) for each in tables]
        made = str(rows._fingerprint) if self._is_saved else str(rows.info.download_size)
        return digests.of_listing(found, made)

    @functools.cached_property
    def _input(self) -> str:
        self._check("input_column", self.input_column)
        self._check("mask_column", self.mask_column)
        if self.input_column is not None:
            name = self.input_column
        else:
            beside = (self.label_column, self.id_column, self.mask_column)
            is_kind = arrow_values.is_encoded if self.tokenizer is None else arrow_values.is_text
            some = [name for name in self._kinds if is_kind(self._kinds[name])]
            some = [name for name in some if name not in beside]
            if len(some) != 1:
                wanted = "images" if self.tokenizer is None else "texts"
                raise self._lacks(f"{len(some)} columns of {wanted}", "input_column")
            name = some[0]
        kind = self._kinds[name]
        tests = (arrow_values.is_encoded, arrow_values.is_numeric, arrow_values.is_text)
        if not any(test(kind) for test in tests):
            raise self._lacks(f"in column {name!r} {kind}, which is no input", "input_column")
        return name

    @functools.cached_property
    def _label(self) -> str | None:
        self._check("label_column", self.label_column)
        if self.label_column is not None:
            return self.label_column
        features = self._dataset.features
        named = [name for name in features if getattr(features[name], "names", None)]
        return named[0] if len(named) == 1 else None

    @property
    def _is_text(self) -> bool:
        return arrow_values.is_text(self._kinds[self._input])

    @functools.cached_property
    def _kinds(self) -> dict[str, Any]:
        schema = self._dataset.features.arrow_schema
        return {name: schema.field(name).type for name in schema.names}

    def _check(self, field: str, name: str | None) -> None:
        if name is not None and name not in self._kinds:
            raise self._lacks(f"no column {name!r}", field)

    def _lacks(self, what: str, field: str) -> PlanError:
        columns = ", ".join(f"{name} ({kind})" for name, kind in self._kinds.items())
        return PlanError(
            f"the data set {self.path!r} has {what}; its columns are {columns}",
            fix=f"name one of them with data.{field}",
            page="missing-column",
        )

    @functools.cached_property
    def _arrow(self) -> Any:
        names = [self._input, *([self.mask_column] if self.mask_column else [])]
        return self._dataset.select_columns(list(dict.fromkeys(names))).with_format("arrow")

    @functools.cached_property
    def _dataset(self) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise PlanError(
                "`source: huggingface` needs the package datasets, which is not installed",
                fix="pip install 'xpipe-xai[huggingface]'",
                page="missing-extra",
            ) from error
        loaded = self._loaded(datasets)
        if isinstance(loaded, datasets.IterableDataset | datasets.IterableDatasetDict):
            raise PlanError(
                f"the data set {self.path!r} streams, and samples are read in any order",
                fix="save it with save_to_disk, or name its files with `source: parquet` or "
                "`source: webdataset`, which read remote ones a part at a time",
            )
        if not isinstance(loaded, datasets.DatasetDict):
            return self._alone(loaded)
        split = next(iter(loaded)) if len(loaded) == 1 and self.split is None else self.split
        if split not in loaded:
            raise PlanError(
                f"the data set {self.path!r} has the splits {', '.join(loaded)}, got {split!r}",
                fix="name one of them with data.split; data.limit and data.sample take a part",
                page="missing-column",
            )
        return loaded[split]

    def _alone(self, loaded: Any) -> Any:
        """Return a split that was saved by itself, if it can be the one that is asked for."""
        known = {str(loaded.split), posixpath.basename(self.path.rstrip("/"))}
        if self.split is None or self.split in known:
            return loaded
        said = "does not say which" if loaded.split is None else f"is {str(loaded.split)!r}"
        raise PlanError(
            f"the folder {self.path!r} holds one split, and {said}; got {self.split!r}",
            fix="leave data.split out, or name another folder with data.path",
            page="missing-column",
        )

    @functools.cached_property
    def _is_saved(self) -> bool:
        return any(files.is_file(files.joined(self.path, name)) for name in _SAVED)

    def _check_saved(self) -> None:
        for name in ("config", "revision"):
            if getattr(self, name) is not None:
                raise PlanError(
                    f"the folder {self.path!r} was saved, and has no {name} to choose; got "
                    f"{getattr(self, name)!r}",
                    fix=f"leave data.{name} out, or name another folder with data.path",
                )

    def _loaded(self, datasets: Any) -> Any:
        if self._is_saved:
            self._check_saved()
        try:
            with _quiet(datasets, may_download=self.download):
                if self._is_saved:
                    return datasets.load_from_disk(self.path)
                return datasets.load_dataset(self.path, self.config, revision=self.revision)
        except Exception as error:
            # the library raises whatever its parts, the files and the network do
            where = "" if self.download else "; nothing is downloaded without `download: true`"
            raise PlanError(
                f"cannot load the data set {self.path!r}: {str(error).partition(chr(10))[0]}",
                fix=f"correct data.path, data.config or data.revision{where}",
                page="missing-download",
            ) from error


@contextlib.contextmanager
def _quiet(datasets: Any, *, may_download: bool) -> Iterator[None]:
    """Keep the library from drawing bars and, unless it may, from asking the network."""
    from huggingface_hub import constants

    places: tuple[Any, ...] = (datasets.config, constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    had_bars = not datasets.utils.are_progress_bars_disabled()
    datasets.utils.disable_progress_bars()
    try:
        for place in places:
            # what the user's environment forbids stays forbidden
            place.HF_HUB_OFFLINE = place.HF_HUB_OFFLINE or not may_download
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value
        if had_bars:
            datasets.utils.enable_progress_bars()


def _local_or_name(base: Path, path: str) -> str:
    """Return a path below a folder if there is one, or if it can be nothing else."""
    if files.is_url(path):
        return path
    is_path = path.startswith((".", "/")) or path.count("/") > 1 or (base / path).exists()
    return str(base / path) if is_path else path
