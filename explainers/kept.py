"""The values that a trace keeps; others are computed again for whoever asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from explainers.cut import Cut
from explainers.operators import (
    Activation,
    Add,
    Affine,
    AveragePool,
    Concat,
    Convolution,
    Linear,
    MaxPool,
    Multiply,
    Operator,
    Pad,
    Reshape,
)

if TYPE_CHECKING:
    from explainers.network import Network
    from explainers.trace import Trace


class Kept(Mapping[str, Tensor]):
    """The value of every operator, by operator name.

    Parameters
    ----------
    network
        Whose values they are.
    kept
        Some of them, such that the others follow; what is asked for is added.
    """

    def __init__(self, network: Network, kept: dict[str, Tensor]) -> None:
        self.kept = kept
        self._output_name = network.output_name
        self._passing = network.passing
        self._operators = {op.name: op for op in network.operators}
        pools = (op for op in network.operators if isinstance(op, MaxPool))
        self._pools = {op.switches_name: op for op in pools if op.switches_name in kept}

    def __getitem__(self, name: str) -> Tensor:
        """Return a value, which is computed if need be."""
        if name not in self.kept:
            with torch.no_grad(), self._passing.context():
                self.kept[name] = self._computed(name)
        return self.kept[name]

    def _computed(self, name: str) -> Tensor:
        pool = self._pools.get(name)
        if pool is not None:
            return pool.with_indices(self[pool.inputs[0]])[1]
        op = self._operators[name]
        return op.run(*(self[source] for source in op.inputs))

    def release(self, name: str) -> None:
        """Drop a value and the positions of its maxima, unless it is given or the output."""
        op = self._operators[name]
        if op.inputs and name != self._output_name:
            self.kept.pop(name, None)
        if isinstance(op, MaxPool):
            self.kept.pop(op.switches_name, None)

    def __contains__(self, name: object) -> bool:
        """Return whether there is such a value, kept or not."""
        return name in self._operators or name in self._pools

    def __iter__(self) -> Iterator[str]:
        """Return the names, those of the positions of maxima last."""
        return iter([*self._operators, *self._pools])

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._operators) + len(self._pools)


def computed(trace: Trace) -> Kept:
    """Return the values of a trace: of a part of a network, as the whole has them.

    Raises
    ------
    NotImplementedError
        If the network is not a program.
    """
    network, parts = trace.network, tuple(trace.parts.values())
    unread = unread_by_gradients(network) if trace.for_gradients else frozenset()
    if isinstance(network, Cut) and trace.parent is not None:
        with torch.no_grad():
            found = network.completed(parts, trace.parent.values.kept, unread)
    else:
        inputs = network.structure.filled(parts)
        found = network.run(inputs, carried=trace.carried or None, unread=unread)
    return Kept(network, found)


_unread: WeakKeyDictionary[Network, frozenset[str]] = WeakKeyDictionary()


def unread_by_gradients(network: Network) -> frozenset[str]:
    """Return the operators whose values no rule of the table ``gradient`` looks at.

    These are what goes into a ReLU, which has its slope from what comes out, or into a norm that
    stands alone: with norms folded, half of what a ResNet computes.
    """
    if network not in _unread:
        read = {name for op in network.operators for name in _read(op)}
        candidates = {op.name for op in network.operators if op.inputs} - read
        _unread[network] = frozenset(candidates - {network.output_name})
    return _unread[network]


def _read(op: Operator) -> tuple[str, ...]:
    if isinstance(op, Activation) and op.kind == "relu":
        return (op.name,)
    if isinstance(op, Affine):
        return ()
    return op.inputs if isinstance(op, _READING_INPUTS_ALONE) else (*op.inputs, op.name)


_READING_INPUTS_ALONE = (
    Add | AveragePool | Concat | Convolution | Linear | MaxPool | Multiply | Pad | Reshape
)
