"""Values of a network that become the input of a part of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from explainers.inputs.opaque import tokens_of
from explainers.inputs.sources import sources

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from explainers.inputs.tokens import Lookup
    from explainers.network import Network
    from explainers.operators import Operator

UNFOLDED = ":unfolded"


@dataclass(frozen=True)
class Point:
    """A value that becomes input."""

    layer: str
    """What it is called in the whole: a layer, or an input."""
    name: str
    """Of the operator that holds it in the part."""
    shape: tuple[int, ...]
    """Of one sample."""
    dtype: torch.dtype
    norm: Operator | None
    """Makes of it, in the part, what the operator of the whole gives: a norm folded into that."""
    lookup: Lookup | None = None
    """Of tokens of an opaque network: what makes numbers of them."""

    @classmethod
    def of_opaque(cls, network: Network, name: str) -> Point:
        """Return an input of a network that is no program."""
        example = network._example[network.structure.names.index(name)]
        shape = tuple(example.shape[1:])
        own = [lookup for each in sources(network) if each.part == name for lookup in each.lookups]
        if not own:
            return cls(name, name, shape, example.dtype, None)
        return cls(name, name, (*shape, 1), own[0].embedding.weight.dtype, None, own[0])

    @property
    def operator(self) -> str:
        """Name of the whole's operator that gives it, or takes it in."""
        return self.name if self.norm is None else self.name.removesuffix(UNFOLDED)

    def value(self, network: Network, values: Mapping[str, Tensor]) -> Tensor:
        """Return it, given the values of the network that it is a value of."""
        if self.lookup is not None:
            return self.lookup.embedding.run(values[self.layer])
        if self.layer in network.layers:
            return network.value(self.layer, values)
        return values[self.layer]

    def taken(self, value: Tensor) -> Tensor:
        """Return an opaque network's input, given the value of the point."""
        return value if self.lookup is None else tokens_of(value)
