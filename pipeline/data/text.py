"""Texts of a table, as tokens."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch

from pipeline.data import text_tables
from pipeline.data.source import Record, Source, register
from pipeline.data.tokenizing import AnyTokenizer, below, local
from pipeline.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from pipeline.data.tokenizing import Tokens


class _Size(NamedTuple):
    n_tokens: int | None
    """None of a text that fails."""
    n_unknown: int


@register("text")
@dataclass(frozen=True)
class Text(Source):
    """Texts of a table as token numbers, int64 ``(tokens,)``, each as long as it is.

    The table is a Parquet file, JSON lines, or tab- or comma-separated values with a line of
    column names. A text without tokens is a failed sample, and the others go on.
    """

    path: str
    """The table, relative to the run file: .parquet, .jsonl, .tsv (in which quotes mean nothing) or
    .csv, or a URL of one; compressed if the name goes on with .gz, .bz2 or .xz."""
    tokenizer: AnyTokenizer
    """How texts become numbers: ``{vocabulary: words.txt}`` takes words and a list of them,
    ``{file: tokenizer.json}`` or ``{name: ...}`` a tokenizer of Hugging Face."""
    text_column: str = "text"
    """Column of the text."""
    label_column: str | None = None
    """Column of the class, as its index or, with `classes`, its name; empty where unknown."""
    id_column: str | None = None
    """Column of what samples are called; rows are numbered if there is none."""
    classes: tuple[str, ...] | None = None
    """Names of the classes, by index."""
    where: Mapping[str, str | int | bool] = field(default_factory=dict)
    """Columns and the values that rows must have in them to be taken: ``{split: test}``."""
    max_length: int | None = None
    """Tokens of a text that are taken at most, the first ones."""

    def __post_init__(self) -> None:
        """Refuse lengths and names that cannot be meant."""
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"got max_length {self.max_length}, expected at least 1")
        if len(set(self.classes or ())) < len(self.classes or ()):
            raise ValueError(f"classes: got {self.classes!r}, expected every name once")
        if self.classes and any(_index_in(name) is not None for name in self.classes):
            raise ValueError(
                f"classes: got {self.classes!r}, expected names that are no numbers: labels that "
                "are numbers are indices"
            )

    def rooted(self, base: Path) -> Self:
        """Return the source with its table and its tokenizer below `base`."""
        return replace(self, path=below(base, self.path), tokenizer=self.tokenizer.rooted(base))

    def records(self) -> list[Record]:
        """Return the rows that are taken, in order, each with its number of tokens.

        Raises
        ------
        PlanError
            If the table or the tokenizer cannot be read, or a label is no class.
        """
        labels = self._table.get(self.label_column or "")
        return [
            Record(
                index,
                name,
                str(row),
                label=-1 if labels is None else self._label(labels[row], row),
                length=self._sizes[row].n_tokens,
            )
            for index, (row, name) in enumerate(self._names().items())
        ]

    def notes(self) -> tuple[str, ...]:
        """Return how many tokens the vocabulary lacks, and what the tokenizer says.

        Raises
        ------
        PlanError
            If it lacks all of them: it is another model's.
        """
        n_tokens = sum(size.n_tokens or 0 for size in self._sizes.values())
        n_unknown = sum(size.n_unknown for size in self._sizes.values())
        said = self.tokenizer.notes()
        if not n_unknown:
            return said
        if n_unknown == n_tokens:
            raise PlanError(
                f"all {n_tokens} tokens of the texts are unknown to the vocabulary"
                + "".join(f"; {each}" for each in said),
                fix="take the vocabulary that the model was trained with",
                page="tokenizer",
            )
        share = 100 * n_unknown / n_tokens
        return (f"{share:.2g} % of the {n_tokens} tokens are unknown to the vocabulary", *said)

    def load(self, record: Record) -> Tensor:
        """Return the numbers of one text's tokens, ``(tokens,)``."""
        return torch.tensor(self._tokens(int(record.source)).ids, dtype=torch.int64)

    def tokens(self, record: Record) -> tuple[str, ...] | None:
        """Return the words of one text; between ``<`` and ``>`` those that the model cannot know.

        Raises
        ------
        ValueError, TypeError
            If the text is empty, or none.
        """
        return self._tokens(int(record.source)).words

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Those that the run file gives."""
        return self.classes

    def code_files(self) -> tuple[Path, ...]:
        """Return the files of the table and the tokenizer, which decide what is read."""
        return (*local(self.path), *self.tokenizer.files())

    @functools.cached_property
    def _table(self) -> dict[str, list[Any]]:
        asked = (self.text_column, self.label_column, self.id_column, *self.where)
        names = [name for name in asked if name is not None]
        return text_tables.read_columns(self.path, list(dict.fromkeys(names)))

    @property
    def _n_rows(self) -> int:
        return len(self._table[self.text_column])

    def _is_taken(self, row: int) -> bool:
        pairs = ((self._table[name][row], wanted) for name, wanted in self.where.items())
        # a column of whole numbers with gaps holds 1.0
        return all(value == wanted or str(value) == str(wanted) for value, wanted in pairs)

    @functools.cached_property
    def _sizes(self) -> dict[int, _Size]:
        """The rows that are taken."""
        rows = [row for row in range(self._n_rows) if self._is_taken(row)]
        if not rows:
            raise PlanError(
                f"none of {self._n_rows} rows of {self.path!r} is taken",
                fix=f"correct data.where, {dict(self.where)!r}" if self.where else "fill the table",
                page="no-samples",
            )
        return {row: self._size(row) for row in rows}

    def _names(self) -> dict[int, str]:
        """Return what the rows that are taken are called."""
        if self.id_column is None:
            return {row: f"{row:06d}" for row in self._sizes}
        names = {row: str(self._table[self.id_column][row]) for row in self._sizes}
        found = Counter(names.values())
        if len(found) < len(names):
            (name, n), *_ = found.most_common(1)
            raise PlanError(
                f"column {self.id_column!r} of {self.path!r} has {name!r} in {n} rows",
                fix="name a column that has each value once with data.id_column, or leave it out",
                page="duplicate-ids",
            )
        return names

    def _tokens(self, row: int) -> Tokens:
        text = self._table[self.text_column][row]
        if not isinstance(text, str | None):
            raise TypeError(
                f"got {type(text).__name__} in column {self.text_column!r}, expected text"
            )
        found = self.tokenizer(text, self.max_length) if text and text.strip() else None
        if found is None or not found.ids:
            raise ValueError(f"row {row} has no text that makes a token")
        return found

    def _size(self, row: int) -> _Size:
        try:
            found = self._tokens(row)
            return _Size(len(found.ids), found.n_unknown)
        except PlanError:
            # also a ValueError: of the tokenizer, not of this text
            raise
        except (TypeError, ValueError):
            # it gets its status when it is explained
            return _Size(None, 0)

    def _label(self, value: Any, row: int) -> int:
        text = "" if value is None or value != value else str(value).strip()
        if self.classes is not None and text in self.classes:
            return self.classes.index(text)
        index = _index_in(value) if text else -1
        if index is None:
            names = "" if self.classes is None else f" or one of {', '.join(self.classes)}"
            raise PlanError(
                f"{self.path!r}: row {row} has {self.label_column} {value!r}, expected a whole "
                f"number{names}",
                fix="write class indices, name the classes in order with data.classes, or leave "
                "out data.label_column",
                page="labels",
            )
        return index


def _index_in(value: Any) -> int | None:
    """Return the whole number that a label is, or says."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else None
