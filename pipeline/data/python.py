"""A data set that a function of the user's makes."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from pipeline import user_code
from pipeline.data import samples
from pipeline.data.source import Record, Source, register
from pipeline.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pipeline.inputs import Inputs


@register("python")
@dataclass(frozen=True)
class Python(Source):
    """Whatever a function returns that has a length and items.

    Items are ``(input, label)`` or mappings with `input` and perhaps `label`, `id` and `mask`
    (height, width). Integers of 32 or 64 bits are tokens; several inputs are a mapping by the
    names of the model's arguments. An attribute `targets` or `labels` saves reading every item for
    its label, `ids` names the samples, `classes` the classes, and `lengths` says how many tokens
    each sample has, where they differ.
    """

    function: str
    """``file.py:function``, relative to the run file, or ``package.module:function``."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Its keyword arguments."""
    masks: bool = False
    """Whether items have masks."""
    base: str = "."
    """Folder that the file is relative to; the run file's."""

    def rooted(self, base: Path) -> Self:
        """Return the source with its file below `base`."""
        return replace(self, base=str(base / self.base))

    def records(self) -> list[Record]:
        """Return the items in order."""
        labels = samples.labels_of(self._dataset)
        ids = getattr(self._dataset, "ids", None)
        if ids is None or len(ids) != len(labels):
            ids = [f"{index:06d}" for index in range(len(labels))]
        lengths = getattr(self._dataset, "lengths", None)
        if lengths is not None and len(lengths) != len(labels):
            raise PlanError(
                f"{self.function!r} gave {len(lengths)} lengths for {len(labels)} items",
                fix="give one length for each item, or no attribute lengths",
                page="your-code",
            )
        return [
            Record(
                index,
                str(ids[index]),
                str(index),
                label,
                str(index) if self.masks else None,
                None if lengths is None else int(lengths[index]),
            )
            for index, label in enumerate(labels)
        ]

    def load(self, record: Record) -> Inputs:
        """Return the input of one item."""
        return samples.input_of(self._dataset[int(record.source)])

    def load_mask(self, record: Record) -> Tensor | None:
        """Return the mask of one item."""
        if record.mask is None:
            return None
        return torch.as_tensor(self._dataset[int(record.source)]["mask"]) > 0

    def display(self, inputs: Tensor) -> Tensor:
        """Return inputs as they are if they lie in [0, 1], else each one stretched to it."""
        flat = inputs.flatten(-3) if inputs.ndim >= 3 else inputs
        low, high = flat.amin(-1, keepdim=True), flat.amax(-1, keepdim=True)
        if low.min() >= 0 and high.max() <= 1:
            return inputs
        return ((flat - low) / (high - low).clamp_min(1e-12)).reshape(inputs.shape)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The data set's `classes`, if they are names and not, say, their number."""
        names = getattr(self._dataset, "classes", None)
        return tuple(str(name) for name in names) if isinstance(names, Iterable) else None

    def code_files(self) -> tuple[Path, ...]:
        """Return the file, if it is one."""
        path = user_code.file_of(self.function, Path(self.base))
        return () if path is None else (path,)

    @functools.cached_property
    def _dataset(self) -> Any:
        function = user_code.find(self.function, Path(self.base))
        try:
            dataset = function(**self.params)
        except Exception as error:
            raise PlanError(
                f"{self.function!r} failed: {type(error).__name__}: {error}",
                fix="see data.function and data.params in the run file",
                page="your-code",
            ) from error
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise PlanError(
                f"{self.function!r} gave {type(dataset).__name__}, expected a data set with a "
                "length and items",
                fix="return a list, or a map-style torch data set",
                page="your-code",
            )
        return dataset
