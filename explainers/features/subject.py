"""What is divided into features: the value of a layer, or each input that is explained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.cut import Cut, begun
from explainers.inputs.sources import is_one_tensor, sources, start_points

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.inputs.packing import Packing
    from explainers.inputs.points import Point
    from explainers.inputs.sources import Source
    from explainers.inputs.tokens import Lookup
    from explainers.network import Network


@dataclass(frozen=True, eq=False)
class Subject:
    """One input, or a layer's value."""

    name: str
    shape: tuple[int, ...]
    """Of one sample; of tokens, of the tokens themselves."""
    values: dict[str, tuple[int, ...]]
    """Names and shapes of what stands for it in the packed inputs."""
    lookups: tuple[Lookup, ...] = ()
    """Of tokens: what makes each of the values."""

    def tokens(self) -> dict[str, Tensor]:
        """Return which token each looked-up row is of, ``(1, ...)``, by the names of the values."""
        every = torch.arange(math.prod(self.shape)).view(1, *self.shape)
        return {
            lookup.embedding.name: lookup.indices(every).long()
            for lookup in self.lookups
            if lookup.embedding.name in self.values
        }

    def by_value(self) -> tuple[Subject, ...]:
        """Return what stands for it, each by itself."""
        return tuple(Subject(name, shape, {name: shape}) for name, shape in self.values.items())


def network_of(network: Network, layer: str | None) -> Network:
    """Return a network whose input is one floating-point tensor: of a layer, or of its inputs.

    Tokens are replaced by what is looked up for them, and several inputs packed.
    """
    if isinstance(network, Cut) and network.is_begun:
        return network
    if layer is not None:
        return begun(network, (layer,))
    return network if is_one_tensor(network) else begun(network, start_points(network))


def subjects(network: Network, layer: str | None) -> tuple[Subject, ...]:
    """Return what a network's one input consists of.

    Parameters
    ----------
    network
        As `network_of` returns it.
    layer
        That is explained; None for the inputs.
    """
    points = _points(network)
    if not points:
        shape = tuple(network.input_shape)
        name = network.root.structure.names[0]
        return (Subject(name, shape, {name: shape}),)
    if layer is not None:
        return tuple(_plain(point, point.layer) for point in points)
    found: list[Subject] = []
    left = {point.layer: point for point in points}
    for source in sources(network.root):
        own = [left.pop(name) for name in source.points if name in left]
        if own:
            found.append(_of_source(source, own, network.root))
    return (*found, *(_plain(point, point.layer) for point in left.values()))


def packing_of(network: Network) -> Packing | None:
    """Return how the values of several subjects are packed; None where there is one value."""
    while isinstance(network, Cut):
        if network.points:
            return network.packing if len(network.points) > 1 else None
        network = network.parent
    return None


def _points(network: Network) -> tuple[Point, ...]:
    while isinstance(network, Cut):
        if network.points:
            return network.points
        network = network.parent
    return ()


def _of_source(source: Source, points: list[Point], root: Network) -> Subject:
    if not source.lookups:
        return _plain(points[0], source.part)
    values = {point.name: point.shape for point in points}
    return Subject(source.part, root.input_shapes[source.part], values, source.lookups)


def _plain(point: Point, name: str) -> Subject:
    return Subject(name, point.shape, {point.name: point.shape})
