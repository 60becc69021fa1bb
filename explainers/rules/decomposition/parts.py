"""The two parts of a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Parts:
    """What is relevant and what is irrelevant in a value; both sum to it."""

    relevant: Tensor | None
    """Laid out as the program lays out the value of a batch of as many rows. None: the value does
    not depend on what is split, and is a constant."""
    irrelevant: Tensor | None = None
    """Laid out like `relevant`; None where one stream is carried, and of a constant."""

    @property
    def is_split(self) -> bool:
        """Whether there are parts."""
        return self.relevant is not None

    @property
    def of_rows(self) -> Tensor:
        """The relevant part of a value that is split, as that of an operator's one input always is.

        Raises
        ------
        ValueError
            If there is none.
        """
        if self.relevant is None:
            raise ValueError("got a constant, expected a value that is split in parts")
        return self.relevant


CONSTANT = Parts(None)
