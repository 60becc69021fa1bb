"""What is kept of conditional relevance, row by row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from explainers.concepts.kinds.form import form_of
from explainers.concepts.scores import FIELDS, Scores

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from explainers.concepts.kinds import Concepts
    from explainers.network import Network
    from explainers.rules.repeated import Repeated
    from explainers.trace import Trace


@dataclass(frozen=True)
class Conditional:
    """What conditions leave of relevance; ``*rows`` is ``(batch, conditions)``, or ``(batch,)``.

    Recorded relevances are of what arrives by ways that count; they are sums over the ways that
    were asked for, and zero where nothing arrives.
    """

    heatmaps: Tensor
    """Relevance of the input, ``(*rows, ...)``."""
    prediction: Tensor
    """Logits, ``(batch, classes)``."""
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    """Recorded layer to its value, ``(batch, ...)``."""
    relevances_before: Mapping[str, Tensor] = field(default_factory=dict)
    """Recorded layer to the relevance that arrives there, before conditions on it are applied,
    ``(*rows, ...)``."""
    relevances_after: Mapping[str, Tensor] = field(default_factory=dict)
    """Recorded layer to what goes on from there, ``(*rows, ...)``."""
    scores: Mapping[str, Scores] = field(default_factory=dict)
    """Scored layer to the scores of its concepts, of what arrives: ``(*rows, concepts)`` each."""


@dataclass(frozen=True)
class Records:
    """Which layers are looked at on the way."""

    network: Network
    layers: Collection[str]
    """Whose relevances are kept."""
    scored: Mapping[str, Concepts]
    """Whose concepts' scores are kept."""

    @property
    def recorded(self) -> dict[str, str]:
        """Recorded layers to their operators."""
        return {layer: self.network.operator(layer).name for layer in self.layers}

    @property
    def operators(self) -> set[str]:
        """All whose outputs' relevance is looked at."""
        source = self.network.operators[0].name
        return {source, *self.recorded.values(), *(one.operator for one in self.scored.values())}


class Found:
    """Results of all rows, filled piece by piece.

    Parameters
    ----------
    trace
        Of the batch.
    shape
        Of the rows: samples and conditions.
    records
        What is kept beside the maps.
    """

    def __init__(self, trace: Trace, shape: tuple[int, ...], records: Records) -> None:
        self._trace = trace
        self._shape = shape
        self._n_rows = torch.Size(shape).numel()
        self._records = records
        self._forms = {
            layer: form_of(trace.network, operator, layer)
            for layer, operator in records.recorded.items()
        }
        self._held: dict[tuple[str, str], Tensor] = {}

    def enter(
        self,
        piece: Tensor,
        values: Repeated,
        arrived: Mapping[str, Tensor],
        left: Mapping[str, Tensor],
    ) -> None:
        """Enter what some rows have: what arrived at operators, and what of it was left there."""
        source = self._trace.network.operators[0].name
        self._put(("map", ""), piece, arrived.get(source), self._trace.inputs)
        for layer, operator in self._records.recorded.items():
            samples = self._forms[layer].samples
            like = samples(self._trace.values[operator])
            for kind, given in (
                ("before", arrived.get(operator)),
                ("after", left.get(operator, arrived.get(operator))),
            ):
                self._put((kind, layer), piece, None if given is None else samples(given), like)
        for layer, concepts in self._records.scored.items():
            relevance, value = arrived.get(concepts.operator), values[concepts.operator]
            scores = concepts.scores(
                torch.zeros_like(value) if relevance is None else relevance, value
            )
            for name, part in vars(scores).items():
                self._put((name, layer), piece, part, part)

    def _put(self, key: tuple[str, str], piece: Tensor, given: Tensor | None, like: Tensor) -> None:
        if given is not None and len(piece) == self._n_rows:
            self._held[key] = given.contiguous()
            return
        if key not in self._held:
            self._held[key] = like.new_zeros(self._n_rows, *like.shape[1:])
        if given is not None:
            self._held[key][piece.to(like.device)] = given

    def result(self) -> Conditional:
        """Return all."""
        layers, scored, values = self._records.layers, self._records.scored, self._trace.values
        activations = {
            layer: self._forms[layer].samples(values[operator])
            for layer, operator in self._records.recorded.items()
        }
        parts = [self._of(name, scored) for name in FIELDS]
        return Conditional(
            self._of("map", [""])[""],
            self._trace.output,
            activations,
            self._of("before", layers),
            self._of("after", layers),
            {layer: Scores(*(part[layer] for part in parts)) for layer in scored},
        )

    def _of(self, kind: str, layers: Collection[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for layer in layers:
            held = self._held[kind, layer]
            found[layer] = held.reshape(*self._shape, *held.shape[1:])
        return found
