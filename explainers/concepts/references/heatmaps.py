"""Heat maps of concepts, and of single neurons of them, for rows of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from explainers.inputs.sources import is_one_tensor
from explainers.rules.repeated import Repeated
from explainers.rules.walking import Course
from explainers.sampling.chunks import pieces, rows_at_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from explainers.concepts.kinds import Concepts
    from explainers.concepts.references.listed import Entries
    from explainers.network import Network
    from explainers.rules.table import Choose
    from explainers.trace import Trace


@dataclass(frozen=True)
class Heatmaps:
    """Of a layer's concepts and neurons: what of the input an activation is made of.

    Relevance starts at the layer, with the activation of one concept (Achtibat et al. 2023,
    doi:10.1038/s42256-023-00711-8), or of one neuron of it, and is handed back by the rules of a
    composite. Nothing of the output is looked at.
    """

    network: Network
    choose: Choose
    concepts: Concepts

    def of(self, trace: Trace, entries: Entries) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield heat maps of the concepts, and of the neurons, of some references at a time.

        Of images summed over channels, ``(references, height, width)``; else shaped as the input.
        Where concepts have one place each, both are the same tensor.
        """
        # twice as many rows as a forward pass has: a walk keeps less, and where many channels are
        # on small maps, the time goes into reading weights, once for all rows
        for piece in pieces(len(entries.row), rows_at_once(trace.inputs)):
            found = self._of(trace, entries, piece)
            yield found[0], found[-1]

    @torch.no_grad()
    def _of(self, trace: Trace, entries: Entries, piece: slice) -> tuple[Tensor, ...]:
        # a row for the concept and one for the neuron, unless the concept is the neuron
        n_kinds = 2 if self.concepts.shape else 1
        values = Repeated.of(trace, entries.row[piece].repeat(n_kinds))
        start = self._start(values, entries.concept[piece], entries.position[piece])
        return self._walked(values, start).chunk(n_kinds)

    def _start(self, values: Repeated, concept: Tensor, position: Tensor) -> Tensor:
        """Return what starts: of rows for concepts and, where those have positions, for neurons."""
        value = values[self.concepts.operator]
        concept, position = concept.to(value.device), position.to(value.device)
        chosen = functional.one_hot(concept, self.concepts.n).bool()
        if not self.concepts.shape:
            return self.concepts.masked(value, value, chosen)
        whole = self.concepts.masked(value, value, torch.cat([chosen, torch.zeros_like(chosen)]))
        rows = torch.arange(len(concept), 2 * len(concept), device=value.device)
        return whole + self.concepts.at_positions(value, value, concept, position, rows)

    def _walked(self, values: Repeated, start: Tensor) -> Tensor:
        source = self.network.operators[0].name
        course = Course(self.network, self.choose, ends=[source], release=values.release)
        kept: dict[str, Tensor] = {}
        course.carry(values, {self.concepts.operator: start}, {source}, kept)
        found = kept[source] if source in kept else torch.zeros_like(values[source])
        return found.sum(1) if found.ndim == _IMAGE_AXES else found


_IMAGE_AXES = 4


def check(network: Network) -> None:
    """Refuse networks of whose inputs there are no heat maps.

    Raises
    ------
    NotImplementedError
        If there are several inputs, or tokens.
    """
    if not is_one_tensor(network):
        raise NotImplementedError(
            "heat maps of references are made of one input of floating-point numbers, and this "
            f"network has {', '.join(network.structure.names) or 'tokens'}; set references: 0"
        )
