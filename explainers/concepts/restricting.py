"""What conditions leave of the relevance of one operator's output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from explainers.concepts.conditions import Chosen, Condition
    from explainers.concepts.kinds import Concepts
    from explainers.network import Network
    from explainers.rules.table import Values


@dataclass(frozen=True, eq=False)
class Restriction:
    """What each of many conditions chooses of one layer's concepts."""

    concepts: Concepts
    applies: Tensor
    """Whether a condition says anything of the layer, ``(conditions,)``, on the host."""
    whole: Tensor
    """Concepts that are kept with all their positions, ``(conditions, n)``, on the host."""
    n_neurons: Tensor
    """Of each condition, ``(conditions,)``, on the host."""
    neurons: Tensor
    """Concept and position, ``(neurons, 2)``; those of a condition together, in their order."""

    @classmethod
    def of(cls, concepts: Concepts, chosen: Sequence[Chosen | None]) -> Restriction:
        """Return the restriction of conditions; None where one does not name the layer."""
        applies = [one is not None and not one.is_everything for one in chosen]
        whole = torch.zeros(len(chosen), concepts.n, dtype=torch.bool)
        places = [
            (row, concept)
            for row, one in enumerate(chosen)
            if one is not None
            for concept in one.concepts
        ]
        if places:
            whole[tuple(torch.tensor(places).T)] = True
        neurons = [() if one is None else one.neurons for one in chosen]
        flat = [pair for pairs in neurons for pair in pairs]
        return cls(
            concepts,
            torch.tensor(applies),
            whole,
            torch.tensor([len(pairs) for pairs in neurons]),
            torch.tensor(flat, dtype=torch.int64).reshape(-1, 2),
        )

    def masked(
        self, network: Network, relevance: Tensor, values: Values, conditions: Tensor
    ) -> Tensor:
        """Return what is left of the relevance of rows.

        Parameters
        ----------
        network
            Whose operator it is.
        relevance, values
            Of the rows.
        conditions
            Which condition each row has, ``(rows,)``, on the host.
        """
        applies = self.applies[conditions]
        if not bool(applies.any()):
            return relevance
        value = values[self.concepts.operator]
        whole = self.whole[conditions]
        kept = None
        if bool(whole.any()) or not len(self.neurons):
            kept = self.concepts.masked(relevance, value, whole.to(relevance.device))
        rows, chosen = self._neurons(conditions)
        if len(rows) or kept is None:
            places = chosen.to(relevance.device)
            single = self.concepts.at_positions(
                relevance, value, places[:, 0], places[:, 1], rows.to(relevance.device)
            )
            kept = single if kept is None else kept + single
        if bool(applies.all()):
            return kept
        return torch.where(_along_rows(network, self, applies, relevance), kept, relevance)

    def _neurons(self, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the row of each neuron, and the neurons, of the rows with these conditions."""
        counts = self.n_neurons[conditions]
        rows = torch.arange(len(conditions)).repeat_interleave(counts)
        firsts = self.n_neurons.cumsum(0) - self.n_neurons
        within = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
        return rows, self.neurons[firsts[conditions][rows] + within]


def restrictions(
    conditions: Sequence[Condition], concepts: Mapping[str, Concepts]
) -> dict[str, list[Restriction]]:
    """Return what conditions leave, by operator; several layers may have the same one."""
    found: dict[str, list[Restriction]] = {}
    for layer, held in concepts.items():
        chosen = [condition.layers.get(layer) for condition in conditions]
        found.setdefault(held.operator, []).append(Restriction.of(held, chosen))
    return found


def _along_rows(
    network: Network, restriction: Restriction, of_rows: Tensor, relevance: Tensor
) -> Tensor:
    """Return what is said of rows such that it broadcasts against an operator's value."""
    operator = restriction.concepts.operator
    outer = next(op.batch_outer for op in network.operators if op.name == operator)
    layout = network.layout(operator)
    axis = 0 if layout is None else layout.axis
    places = relevance.shape[axis] // (outer * len(of_rows))
    spread = of_rows.repeat_interleave(places).repeat(outer)
    shape = [1] * relevance.ndim
    shape[axis] = -1
    return spread.to(relevance.device).view(shape)
