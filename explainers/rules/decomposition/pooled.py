"""Convolutions behind which maxima are taken: the bias is shared where these are, and only there.

What a max-pool takes is known from the plain values, and a share and a clipping function are of
each value alone; so they can wait until the values that no maximum is at are gone. Nothing else
changes: every number is computed as it would be before.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from explainers.operators import Activation, Convolution, MaxPool, Operator
from explainers.rules.decomposition.linear import before_norm, folded
from explainers.rules.decomposition.parts import Parts
from explainers.rules.decomposition.pooling import taken
from explainers.rules.decomposition.relu import is_clipping
from explainers.rules.decomposition.sharing import share
from explainers.rules.decomposition.table import decomposition

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.rules.decomposition.streams import Streams

_OPERATORS: WeakKeyDictionary[Network, tuple[Operator, ...]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False, kw_only=True)
class Pooled(Operator):
    """A convolution, clipping functions and a max-pool in one; it has the name of the last."""

    convolution: Convolution
    clips: tuple[Activation, ...]
    pool: MaxPool

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the value of the pool."""
        value = self.convolution.run(*inputs)
        for clip in self.clips:
            value = clip.run(value)
        return self.pool.run(value)


def pooled(network: Network) -> tuple[Operator, ...]:
    """Return the operators, with one for each convolution whose values only a max-pool reads."""
    if network not in _OPERATORS:
        n_users = Counter(name for op in network.operators for name in op.inputs)
        n_users[network.output_name] += 1
        made = {op.name: op for op in network.operators}
        for op in network.operators:
            joined = _joined(op, made, n_users) if isinstance(op, MaxPool) else None
            if joined is not None:
                made[op.name] = joined
                for one in (joined.convolution, *joined.clips):
                    del made[one.name]
        _OPERATORS[network] = tuple(made.values())
    return _OPERATORS[network]


def _joined(pool: MaxPool, operators: dict[str, Operator], n_users: Counter[str]) -> Pooled | None:
    clips: list[Activation] = []
    name = pool.inputs[0]
    while n_users[name] == 1:
        op = operators[name]
        if isinstance(op, Convolution):
            return Pooled(
                name=pool.name,
                module_path=pool.module_path,
                inputs=op.inputs,
                convolution=op,
                clips=tuple(reversed(clips)),
                pool=pool,
            )
        if not isinstance(op, Activation) or not is_clipping(op):
            return None
        clips.append(op)
        name = op.inputs[0]
    return None


@decomposition.rule(Pooled)
def taken_first(op: Pooled, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Map the relevant part, take it where the maxima are, share the bias there, clip it."""
    (value,) = inputs
    convolution = op.convolution
    places = op.pool.switches(streams.values)
    relevant = convolution.linear(value.of_rows, convolution.weight)
    relevant = taken(op.pool, relevant, places, streams)
    if convolution.bias is not None:
        layer = folded(streams.network).get(convolution.name)
        relevant = share(streams, op.name, relevant, *before_norm(convolution, layer, relevant))
    for clip in op.clips:
        relevant = clip.run(relevant)
    return Parts(relevant)
