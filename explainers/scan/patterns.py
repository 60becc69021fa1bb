"""Patterns of layers: the direction of the input along which a layer's output varies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch

from explainers import register
from explainers.base import Cost, Scan
from explainers.operators import Activation, Convolution, Linear, MaxPool, Reshape
from explainers.registry import suggest
from explainers.rules.pattern import outward
from explainers.rules.rectified import rectifies

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.base import Result, Samples, State
    from explainers.network import Network
    from explainers.operators import Operator
    from explainers.trace import Trace

    Weighted = Convolution | Linear

PatternType = Literal["relu", "linear", "relu.positive", "relu.negative"]
Regime = Literal["all", "positive", "negative"]

STATE_BYTES = 4 << 30
"""Largest state; every shard stores one and the reduction holds two."""


@register("patterns")
@dataclass(frozen=True)
class Patterns(Scan):
    """Patterns of all convolutions and matrix products (Kindermans et al. 2018, arXiv:1705.05598).

    For an output ``y = w^T x + b`` the pattern is ``a = cov(x, y) / (w^T cov(x, y))``, which is the
    regression of ``x`` on ``y``: ``a y`` is the part of the input that ``y`` can tell. Where ``y``
    goes into a ReLU alone, it is that of the positive regime, ``a+ = c+ / (w^T c+)`` with
    ``c+ = E+[x y] - E+[x] E[y]``, ``E+`` over ``y > 0`` and ``E`` over all; that of the negative
    regime has ``c- = E-[x y] - E-[x] E[y]`` with ``E-`` over ``y <= 0``. All positions of a
    convolution are pooled, zeros around its input among them. The result has, by layer, a tensor
    shaped like the weight, ``(out, in / groups, *kernel)`` for transposed convolutions too; zero
    where an output never varies.

    A state holds, for each ``<layer>/``: ``count`` of positions; ``mean`` of y ``(out,)``; over
    the regime, ``sum`` of x and ``scatter``, of ``x (y - mean)``, shaped like the weight (``sum``
    for a whole group where the regime is everything); and their products with w. Sums are of
    positions in the network's precision, of batches in float64.
    """

    pattern_type: PatternType = "relu"
    """`relu` takes the positive regime before ReLUs and the first formula elsewhere, as the paper;
    `linear` takes the first formula everywhere, `relu.positive` and `relu.negative` that of their
    regime, as iNNvestigate."""

    def __post_init__(self) -> None:
        if self.pattern_type not in get_args(PatternType):
            raise ValueError(
                f"got pattern_type {self.pattern_type!r}; "
                f"{suggest(str(self.pattern_type), get_args(PatternType))}"
            )

    @property
    def cost(self) -> Cost:
        """A forward, and two products of values per layer that each cost as much."""
        return Cost(forward=3)

    def check(self, network: Network) -> None:
        """Refuse a network that is not a program, has no weights, or too many."""
        layers = _layers(network)
        if not layers:
            why = network.reason or "it has neither convolutions nor matrix products with weights"
            raise NotImplementedError(f"patterns cannot be fitted for this network: {why}")
        size = sum(16 * op.weight.numel() for op in layers)
        if size > STATE_BYTES:
            raise ValueError(
                f"patterns of this network take {size / 2**30:.1f} GiB per shard, more than "
                f"{STATE_BYTES / 2**30:.0f} GiB; use a network with fewer weights"
            )

    def init(self) -> State:
        """Return the state of no samples, which has no layers."""
        return {}

    def update(self, state: State, trace: Trace, samples: Samples) -> State:
        """Return the state with one batch added."""
        if not trace.n_rows:
            return state
        batch: State = {}
        for op in _layers(trace.network):
            x, y = trace.values[op.inputs[0]], trace.values[op.name]
            moments = _moments(op, x, y, self._regime(op, trace.network))
            batch |= {f"{op.name}/{name}": values for name, values in moments.items()}
        return self.merge(state, batch)

    def merge(self, left: State, right: State) -> State:
        """Return the moments of both parts; a layer that one lacks is the other's."""
        merged = left | right
        for layer in _names(left) & _names(right):
            both = _merged(_of(left, layer), _of(right, layer))
            merged |= {f"{layer}/{name}": values for name, values in both.items()}
        return merged

    def finalise(self, state: State) -> Result:
        """Return the pattern of every layer, in float64."""
        patterns: Result = {}
        for layer in dict.fromkeys(key.rpartition("/")[0] for key in state):
            moments = _of(state, layer)
            variation = _column(moments["weighted_scatter"], moments["scatter"])
            has_any = variation != 0
            found = moments["scatter"] / torch.where(has_any, variation, 1.0)
            patterns[layer] = torch.where(has_any, found, 0.0)
        return patterns

    def _regime(self, op: Operator, network: Network) -> Regime:
        if self.pattern_type == "relu":
            return "positive" if _is_gated(op, network) else "all"
        regimes: dict[str, Regime] = {"relu.positive": "positive", "relu.negative": "negative"}
        return regimes.get(self.pattern_type, "all")


def _layers(network: Network) -> list[Weighted]:
    return [
        op
        for op in network.operators[1:]
        if isinstance(op, Convolution | Linear) and op.name in network.dependent
    ]


def _is_gated(op: Operator, network: Network) -> bool:
    """Whether a value goes into rectifiers alone, directly or behind max-pools and reshapes."""
    users = [user for user in network.operators if op.name in user.inputs]
    return bool(users) and all(
        rectifies(user)
        if isinstance(user, Activation)
        else isinstance(user, MaxPool | Reshape) and _is_gated(user, network)
        for user in users
    )


def _moments(op: Weighted, x: Tensor, y: Tensor, regime: Regime) -> State:
    """Return the state of one layer and batch."""
    axis = 1 if isinstance(op, Convolution) else -1
    others = [each for each in range(y.ndim) if each != axis % y.ndim]
    mean = y.mean(others, dtype=torch.float64)
    rounded = mean.to(y.dtype)
    shape = [-1 if each == axis % y.ndim else 1 for each in range(y.ndim)]
    centred = y - rounded.view(shape)
    if regime != "all":
        inside = (y > 0 if regime == "positive" else y <= 0).to(y.dtype)
        total = _correlated(op, x, inside)
        scatter = _correlated(op, x, centred.mul_(inside))
    else:
        total = _summed(op, x, y)
        scatter = _correlated(op, x, centred)
    total, scatter = total.double(), scatter.double()
    scatter += _column(rounded.double() - mean, scatter) * _spread(total, len(scatter))
    weight = outward(op, op.weight).double()
    return {
        "count": torch.tensor(y.numel() // len(mean)),
        "mean": mean,
        "sum": total,
        "scatter": scatter,
        "weighted_sum": (weight * _spread(total, len(weight))).flatten(1).sum(1),
        "weighted_scatter": (weight * scatter).flatten(1).sum(1),
    }


def _correlated(op: Weighted, x: Tensor, y: Tensor) -> Tensor:
    """Return sums over positions of input times output, ``(out, in / groups, ...)``.

    It is the gradient of the operator in its weight, with ``y`` in place of what comes back: no
    patches are laid out.
    """
    if isinstance(op, Linear):
        return y.flatten(0, -2).T @ x.flatten(0, -2)
    n_outputs = y.shape[1]
    channels = (
        (len(op.weight), n_outputs // op.groups)
        if op.transposed
        else (n_outputs, op.weight.shape[1])
    )
    return outward(op, op.weight_gradient(y, x, channels))


def _summed(op: Weighted, x: Tensor, y: Tensor) -> Tensor:
    """Return sums of the input over all positions, ``(groups, in / groups, ...)``."""
    if isinstance(op, Linear):
        return x.flatten(0, -2).sum(0, keepdim=True)
    ones = y.new_ones(1, op.groups, *y.shape[2:])
    return _correlated(op, x.sum(0, keepdim=True), ones)


def _merged(left: State, right: State) -> State:
    count = left["count"] + right["count"]
    mean = left["mean"] + (right["mean"] - left["mean"]) * (right["count"].double() / count)
    merged: State = {"count": count, "mean": mean}
    for prefix in ("", "weighted_"):
        total, scatter = f"{prefix}sum", f"{prefix}scatter"
        merged[total] = left[total] + right[total]
        merged[scatter] = _around(left, mean, prefix) + _around(right, mean, prefix)
    return merged


def _around(moments: State, mean: Tensor, prefix: str) -> Tensor:
    """Return the scatter around another mean of y."""
    scatter, total = moments[f"{prefix}scatter"], moments[f"{prefix}sum"]
    shift = _column(moments["mean"] - mean, scatter)
    return torch.addcmul(scatter, shift, _spread(total, len(scatter)))


def _spread(total: Tensor, n_outputs: int) -> Tensor:
    """Return a sum for each output, given one for each group of them, or for each."""
    repeats = n_outputs // len(total)
    return total if repeats == 1 else total.repeat_interleave(repeats, 0)


def _column(per_output: Tensor, like: Tensor) -> Tensor:
    return per_output.view(-1, *[1] * (like.ndim - 1))


def _names(state: State) -> set[str]:
    return {key.rpartition("/")[0] for key in state}


def _of(state: State, layer: str) -> State:
    prefix = f"{layer}/"
    return {key[len(prefix) :]: values for key, values in state.items() if key.startswith(prefix)}
