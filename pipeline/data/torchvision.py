"""The data sets of torchvision, where they are on disk already."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import torch

from pipeline.data import decoding, normalisation, samples
from pipeline.data.source import Record, Source, register
from pipeline.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


@register("torchvision")
@dataclass(frozen=True)
class Torchvision(Source):
    """A class of ``torchvision.datasets``; nothing is downloaded."""

    dataset: str
    """Name of the class, for example CIFAR10."""
    root: str = "."
    """Folder of its files, relative to the run file."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Further keyword arguments, for example {train: false}."""
    resize: int | tuple[int, int] | None = None
    """Length of the shorter side, or [height, width]."""
    crop: int | tuple[int, int] | None = None
    """Size cut out of the centre, or [height, width]."""
    interpolation: decoding.Interpolation = "bilinear"
    """Of resizing."""
    mean: tuple[float, ...] = (0.0,)
    """Subtracted from pixels in [0, 1], per channel or one for all."""
    std: tuple[float, ...] = (1.0,)
    """Divided by, per channel or one for all."""

    def __post_init__(self) -> None:
        """Refuse what cannot be divided by or cut out."""
        normalisation.check(self.mean, self.std)
        decoding.check_sizes(resize=self.resize, crop=self.crop)

    def rooted(self, base: Path) -> Self:
        """Return the source with its files below `base`."""
        return replace(self, root=str(base / self.root))

    def records(self) -> list[Record]:
        """Return the items in order."""
        prefix = self.dataset.lower()
        return [
            Record(index, f"{prefix}/{index:06d}", str(index), label)
            for index, label in enumerate(samples.labels_of(self._dataset))
        ]

    def load(self, record: Record) -> Tensor:
        """Return one image as the model takes it."""
        given = samples.input_of(self._dataset[int(record.source)])
        if isinstance(given, dict):
            raise TypeError(f"got the inputs {list(given)!r}, expected an image")
        image = decoding.fit(given.to(torch.float32), self.resize, self.crop, self.interpolation)
        return normalisation.normalise(image, self.mean, self.std)

    def display(self, inputs: Tensor) -> Tensor:
        """Return images in [0, 1]."""
        return normalisation.restore(inputs, self.mean, self.std)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The data set's `classes`."""
        names = getattr(self._dataset, "classes", None)
        return None if names is None else tuple(str(name) for name in names)

    @functools.cached_property
    def _dataset(self) -> Any:
        from torchvision import datasets

        from explainers.registry import suggest

        if self.dataset not in datasets.__all__:
            raise PlanError(
                f"torchvision has no data set {self.dataset!r}",
                fix=suggest(self.dataset, datasets.__all__),
                page="unknown-name",
            )
        cls = getattr(datasets, self.dataset)
        # FakeData alone has no folder
        has_root = "root" in inspect.signature(cls).parameters
        try:
            return cls(**({"root": self.root} if has_root else {}), **self.params)
        except (RuntimeError, OSError, TypeError, ValueError) as error:
            raise PlanError(
                f"torchvision.datasets.{self.dataset} failed: {error}",
                fix="put its files under data.root (nothing is downloaded) and see data.params",
            ) from error
