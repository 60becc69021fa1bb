"""Samples that activate each concept most."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from explainers import register
from explainers.base import Cost
from explainers.composites.composed import Composed
from explainers.maximization.scan import Maximization
from explainers.maximization.scored import Scored

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from torch import Tensor

    from explainers.base import Samples
    from explainers.concepts.kinds import Concepts
    from explainers.concepts.scores import Scores
    from explainers.maximization.scan import Found, Reader
    from explainers.network import Network
    from explainers.trace import Trace


@register("activation_maximization")
@dataclass(frozen=True)
class ActivationMaximization(Composed, Maximization):
    """Samples that activate each concept most (ActMax, Achtibat et al. 2023, arXiv:2206.03208).

    What is scored is the layer's value, before the activation that follows and with a norm folded
    in. Lists of a class are of the samples with its label, whether or not the network has such an
    output; samples without one are in the others.
    The forward pass ends at the last layer that is asked for. The composite and its rules are for
    the heat maps of references alone; without references nothing is done with them.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.resolved

    @property
    def cost(self) -> Cost:
        """A forward pass."""
        return Cost(forward=1)

    def reader(self, network: Network) -> Reader:
        """Return what scores the activations of batches."""
        return partial(_scores, self.layers_at(network))


def _scores(
    layers_at: Mapping[str, Mapping[str, Concepts]], trace: Trace, samples: Samples
) -> Found:
    found: dict[str, Scores] = {}

    def seen(name: str, value: Tensor) -> None:
        for layer, concepts in layers_at[name].items():
            found[layer] = concepts.scores(value)

    _show(trace, layers_at.keys(), seen)
    return {"": Scored(samples.index, samples.label, found)}


def _show(trace: Trace, names: Collection[str], seen: Callable[[str, Tensor], None]) -> None:
    """Show the values of operators: those that the trace has, or as they are computed."""
    try:
        values = trace.once("values", _not_there)
    except LookupError:
        trace.network.show(trace.network.structure.filled(tuple(trace.parts.values())), names, seen)
    else:
        for name in names:
            seen(name, values[name])


def _not_there() -> Mapping[str, Tensor]:
    raise LookupError("nobody has asked for the values of this batch")
