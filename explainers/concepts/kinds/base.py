"""What every kind of concepts offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.concepts.scores import Scores


@dataclass(frozen=True, eq=False, kw_only=True)
class Concepts(ABC):
    """The concepts of one layer.

    Values and relevances are those of `operator`, shaped as a run of the network has them; for a
    conditional relevance they are masked there, and concepts are numbered from 0 to ``n - 1``.
    """

    needs_value: ClassVar[bool] = False
    """Whether scores of relevance depend on the value too; if not, it need not be there."""

    layer: str
    """As it was asked for."""
    operator: str
    """Name of the operator whose value holds them. For heads it is the attention, which may lie
    before the layer."""
    n: int
    """How many there are."""
    shape: tuple[int, ...]
    """Of the positions of one concept in one sample; ``()`` where it is a single value."""

    @abstractmethod
    def scores(self, amounts: Tensor, value: Tensor | None = None) -> Scores:
        """Return sum, maximum and its position for every concept of every sample.

        Parameters
        ----------
        amounts
            The operator's value, or relevance of it.
        value
            None where `amounts` are the value itself; for relevance, the value that it is of.

        Returns
        -------
        Scores
            ``(batch, n)`` each. What is not a number makes sum and maximum of its concept NaN.
        """

    @abstractmethod
    def masked(self, relevance: Tensor, value: Tensor, chosen: Tensor) -> Tensor:
        """Return the relevance of the chosen concepts alone, shaped as the value.

        Parameters
        ----------
        relevance, value
            Of the operator.
        chosen
            Boolean, ``(batch, n)``.
        """

    @abstractmethod
    def at_positions(
        self,
        relevance: Tensor,
        value: Tensor,
        concept: Tensor,
        position: Tensor,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Return the relevance of single neurons alone, shaped as the value.

        Parameters
        ----------
        relevance, value
            Of the operator.
        concept, position
            Of each neuron, ``(neurons,)``; the position is a flat row-major index in `shape`.
        rows
            Which row of the batch each neuron belongs to; by default there is one for each, in
            order. A row without any becomes zero; a row may have several, each once.
        """

    @abstractmethod
    def rest(self, relevance: Tensor, value: Tensor) -> Tensor:
        """Return the relevance that belongs to no concept, shaped as the value."""
