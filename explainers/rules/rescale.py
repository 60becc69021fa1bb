"""Rule table ``rescale``: DeepLIFT's multipliers, slopes between a reference and the sample.

The Rescale rule (Shrikumar et al. 2017, arXiv:1704.02685) in the form of a modified gradient
(Ancona et al. 2018, arXiv:1711.06104). What is carried back is the multiplier ``m`` of each value,
by which its difference to the reference enters that of the target. Every rule here keeps
``sum(m_out * (y - y_ref)) == sum(m_in * (x - x_ref))`` for each sample, so the differences of the
input, times their multipliers, sum to the difference of the target: exactly, through products,
norms and attention too, which the papers do not treat. There the operator is taken apart into
linear maps, products and functions of one value; a product's difference is shared evenly, as the
mean over the two orders in which the factors can change.

A rule is given a `Contrast` beside the values. Recurrence, and what has no class of its own, is
refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch

from explainers.operators import (
    Activation,
    Add,
    Affine,
    Attention,
    AveragePool,
    Concat,
    Convolution,
    Elementwise,
    Embedding,
    Linear,
    LinearMap,
    MatrixProduct,
    MaxPool,
    Multiply,
    Normalise,
    Operator,
    Pad,
    Reshape,
    Selection,
    Softmax,
)
from explainers.rules.gradient import gradient
from explainers.rules.table import RuleTable, Shares, describe

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.rules.table import Relevances, Rule, Values

MaxPoolRule = Literal["rescale", "gradient"]

aten = torch.ops.aten

_INSTEAD = "integrated_gradients or expected_gradients, which sum to the same difference"


@dataclass(frozen=True)
class Contrast:
    """What a rule of differences knows beside the values of the sample."""

    reference: Values
    """Operator name to its value at the reference, of one row or as many as the batch has."""
    dependent: frozenset[str]
    """Names of the operators that depend on the input."""
    eps: float
    """Values no further apart have the function's slope halfway in place of the one between."""


class DifferenceTable(RuleTable):
    """A table that looks at what functions of several values depend on."""

    def check(self, network: Network, name: str = "default") -> None:
        """Refuse what is not a program, and operators on the way back that have no rule."""
        super().check(network, name)
        for op in network.operators:
            if isinstance(op, Elementwise):
                _changing(op, network.dependent)


rescale = DifferenceTable("rescale", _INSTEAD)


@dataclass(frozen=True)
class Rescaling:
    """Which rule an operator gets, bound to the reference."""

    contrast: Contrast
    """What all rules are given."""
    maxpool: MaxPoolRule = "rescale"
    """Rule of max-pools."""

    def __call__(self, op: Operator) -> Rule:
        """Return the rule of an operator."""
        name = self.maxpool if isinstance(op, MaxPool) else "default"
        return partial(rescale.find(op, name), contrast=self.contrast)


@rescale.rule(Convolution, Linear, Affine, Add, Embedding)
@rescale.rule(AveragePool, Concat, LinearMap, Pad, Reshape)
@rescale.rule(MaxPool, name="gradient")
def unchanged(
    op: Operator, relevance: Tensor, values: Values, *, contrast: Contrast
) -> Relevances | Shares:
    """Take the gradient: the slope of what is linear; of a max-pool, DeepExplain's choice."""
    found: Relevances | Shares = gradient.find(op)(op, relevance, values)
    return found


@rescale.rule(Multiply, MatrixProduct)
def at_the_midpoint(
    op: Operator, relevance: Tensor, values: Values, *, contrast: Contrast
) -> Relevances | Shares:
    """Take the gradient halfway: ``ab - a'b' = (a - a') (b + b')/2 + (a + a')/2 (b - b')``."""
    middle = {name: _middle(values[name], contrast.reference[name]) for name in op.inputs}
    found: Relevances | Shares = gradient.find(op)(op, relevance, middle)
    return found


@rescale.rule(Activation)
def secant(
    op: Activation, relevance: Tensor, values: Values, *, contrast: Contrast
) -> Relevances | Shares:
    """Multiply by ``(f(x) - f(x')) / (x - x')``, by ``f'((x + x') / 2)`` where they are close.

    The ReLU's slope is ``max(x, x') / |x - x'|``, cut to [0, 1], however close they are: it has no
    difference of nearly equal values that a threshold would have to keep from rounding.
    """
    (name,) = op.inputs
    value, other = values[name], contrast.reference[name]
    if op.kind == "relu":
        step = torch.sub(value, other).abs_().clamp_(min=torch.finfo(value.dtype).tiny)
        return (torch.maximum(value, other).div_(step).clamp_(0, 1).mul_(relevance),)
    step = value - other
    slope = torch.sub(values[op.name], contrast.reference[op.name]).div_(step)
    between = _middle(value, other)
    local = _local(op, relevance, {name: between, op.name: op.run(between)})[name]
    return (torch.where(step.abs_() <= contrast.eps, local, slope.mul_(relevance)),)


@rescale.rule(Elementwise)
def averaged_secant(
    op: Elementwise, relevance: Tensor, values: Values, *, contrast: Contrast
) -> Relevances:
    """Change one value at a time, averaged over the orders: one secant, or two halves for two.

    ``2 d_a = f(a, b) - f(a', b) + f(a, b') - f(a', b')``, which is Shapley's value of ``a``.
    """
    given = {name: values[name] for name in op.inputs}
    other = {name: contrast.reference[name] for name in _changing(op, contrast.dependent)}
    middle = {name: _middle(values[name], reference) for name, reference in other.items()}
    local = _local(op, relevance, given | middle)
    parts: dict[str, Tensor | None] = {}
    for name, reference in other.items():
        rest = {key: value for key, value in other.items() if key != name}
        change = _difference(_run(op, given), _run(op, given | {name: reference}))
        if rest:
            change = (change + _difference(_run(op, given | rest), _run(op, given | other))) / 2
        step = values[name] - reference
        slope = (change / step * relevance).sum_to_size(step.shape)
        parts[name] = torch.where(step.abs() <= contrast.eps, local[name], slope)
    # a value that is read twice has changed in both places at once
    return tuple(parts.pop(name, None) for name in op.inputs)


@rescale.rule(MaxPool, name="rescale")
@rescale.rule(MaxPool)
def of_the_larger(
    op: MaxPool, relevance: Tensor, values: Values, *, contrast: Contrast
) -> Relevances:
    """Give a window's difference to where the larger of both maxima is: Captum's choice.

    ``(y - y') / (x - x')`` there, in [0, 1], nothing elsewhere; 1 where both are the same. Windows
    that overlap add up (Captum keeps one of them). There is nothing to round, so ``eps`` is unused.
    """
    value, other = values[op.inputs[0]], contrast.reference[op.inputs[0]]
    most, most_before = values[op.name], contrast.reference[op.name]
    place, place_before = op.switches(values), op.switches(contrast.reference)
    # sums and products, because a choice by `where` takes four times as long on a CPU
    chosen = torch.sub(place, place_before).mul_(most >= most_before).add_(place_before)
    step = _taken(value, chosen).sub_(_taken(other, chosen)).abs_()
    smallest = torch.finfo(value.dtype).tiny
    slope = torch.sub(most, most_before).abs_().clamp_(min=smallest)
    slope = slope.div_(step.clamp_(min=smallest)).mul_(relevance)
    if len(op.size) == 2 and not op.is_adaptive:
        shape = (op.size, op.stride, op.padding, op.dilation, op.ceil_mode)
        return (aten.max_pool2d_with_indices_backward(slope, value, *shape, chosen),)
    back = torch.zeros_like(value.flatten(2))
    back.scatter_add_(2, chosen.flatten(2), slope.flatten(2))
    return (back.view_as(value),)


def _taken(value: Tensor, places: Tensor) -> Tensor:
    """Return the values at flat positions in the axes behind the channels, laid out as they."""
    value = value.expand(len(places), *value.shape[1:])
    if value.ndim != 4 or places.is_contiguous():
        return value.flatten(2).gather(2, places.flatten(2)).view_as(places)
    batch, channels, height, width = places.shape
    rows, wanted = (part.permute(0, 2, 3, 1).flatten(1, 2) for part in (value, places))
    found = rows.gather(1, wanted).view(batch, height, width, channels)
    return found.permute(0, 3, 1, 2)


@rescale.rule(Normalise)
def of_normalised(
    op: Normalise, relevance: Tensor, values: Values, *, contrast: Contrast
) -> Relevances:
    """Take a norm as centring, then a product of the centred value and a factor ``s``.

    ``s = v ** -1/2``, ``v = mean(c ** 2) + eps``; ``s - s' = -(s s')**2 / (s + s') * (v - v')``.
    """
    value, other = values[op.inputs[0]], contrast.reference[op.inputs[0]]
    weighted = relevance
    if op.weight is not None:
        axes = (-1, *[1] * (value.ndim - 2)) if op.kind == "group" else op.weight.shape
        weighted = weighted * op.weight.view(axes)
    weighted = _together(op, weighted)
    centred, factor = _normalising(op, _together(op, value))
    centred_before, factor_before = _normalising(op, _together(op, other))
    middle = _middle(centred, centred_before)
    slope = -((factor * factor_before) ** 2) / (factor + factor_before)
    through_factor = slope * 2 * (weighted * middle).mean(-1, keepdim=True)
    found = weighted * _middle(factor, factor_before) + through_factor * middle
    if op.kind != "rms":
        found = found - found.mean(-1, keepdim=True)
    return (found.reshape(value.shape),)


def _together(op: Normalise, value: Tensor) -> Tensor:
    """Return the value with what is normalised together on its last axis."""
    if op.kind == "group":
        return value.reshape(len(value), op.shape[0], -1)
    return value.flatten(-len(op.shape))


def _normalising(op: Normalise, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centred values and the factor that norms them, over the last axis."""
    default = torch.finfo(value.dtype).eps if op.kind == "rms" else 1e-5
    eps = default if op.eps is None else op.eps
    centred = value if op.kind == "rms" else value - value.mean(-1, keepdim=True)
    return centred, (centred.square().mean(-1, keepdim=True) + eps).rsqrt()


@rescale.rule(Softmax)
def of_softmax(op: Softmax, relevance: Tensor, values: Values, *, contrast: Contrast) -> Relevances:
    """Take the softmax as ``exp(x - log sum exp x)``; see `through_softmax`."""
    value, other = values[op.inputs[0]], contrast.reference[op.inputs[0]]
    return (through_softmax(relevance, value, other, op.dim, is_log=op.is_log),)


def through_softmax(
    relevance: Tensor, value: Tensor, other: Tensor, dim: int, *, is_log: bool = False
) -> Tensor:
    """Return the multipliers of logits from those of probabilities, or of their logarithms.

    With ``L`` the logarithmic mean, ``p - p' = L(p, p') (log p - log p')`` and, with the sums
    ``S`` of ``e^x``, ``log S - log S' = sum(L(e^x, e^x') / L(S, S') * (x - x'))``. Nothing
    overflows or cancels: every mean is of numbers up to one.
    """
    total, total_before = (logits.logsumexp(dim, keepdim=True) for logits in (value, other))
    if not is_log:
        relevance = relevance * _logarithmic_mean(value - total, other - total_before)
    largest = torch.maximum(total, total_before)
    share = _logarithmic_mean(value - largest, other - largest)
    share = share / _logarithmic_mean(total - largest, total_before - largest)
    return relevance - share * relevance.sum(dim, keepdim=True)


def _logarithmic_mean(first: Tensor, second: Tensor) -> Tensor:
    """Return ``(e^a - e^b) / (a - b)``, ``e^a`` where both are equal, for logarithms a and b."""
    distance = _difference(first, second).abs()
    ratio = torch.where(distance > 0, -torch.expm1(-distance) / distance, 1)
    return torch.maximum(first, second).exp() * ratio


@rescale.rule(Attention)
def of_attention(
    op: Attention, relevance: Tensor, values: Values, *, contrast: Contrast
) -> Relevances:
    """Take attention as product, softmax and product: `at_the_midpoint`, `through_softmax`."""
    query, key, value = _heads(op, values)
    before = _heads(op, contrast.reference)
    logits, logits_before = _logits(op, values), _logits(op, contrast.reference)
    weights = _middle(logits.softmax(-1), logits_before.softmax(-1))
    of_value = weights.mT @ relevance
    of_weights = relevance @ _middle(value, before[2]).mT
    of_logits = through_softmax(of_weights, logits, logits_before, -1)
    scale = _scale(op, query)
    of_query = of_logits @ _middle(key, before[1]) * scale
    of_key = of_logits.mT @ _middle(query, before[0]) * scale
    parts: list[Tensor | None] = [
        _grouped(part, values[name].shape)
        for part, name in zip((of_query, of_key, of_value), op.inputs, strict=False)
    ]
    for name in op.inputs[3:]:
        is_added = values[name].is_floating_point() and name in contrast.dependent
        parts.append(of_logits.sum_to_size(values[name].shape) if is_added else None)
    return tuple(parts)


def _heads(op: Attention, values: Values) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (values[name] for name in op.inputs[:3])
    if op.enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = (heads.repeat_interleave(times, -3) for heads in (key, value))
    return query, key, value


def _grouped(part: Tensor, shape: torch.Size) -> Tensor:
    """Sum over the heads that shared a key, and over what was broadcast."""
    if len(shape) > 2 and shape[-3] not in (1, part.shape[-3]):
        part = part.reshape(*part.shape[:-3], shape[-3], -1, *part.shape[-2:]).sum(-3)
    return part.sum_to_size(shape)


def _logits(op: Attention, values: Values) -> Tensor:
    query, key, _ = _heads(op, values)
    logits = query @ key.mT * _scale(op, query)
    if op.is_causal:
        later = torch.ones_like(logits, dtype=torch.bool).triu(1)
        logits = logits.masked_fill(later, -torch.inf)
    for name in op.inputs[3:]:
        mask = values[name]
        is_choice = mask.dtype == torch.bool
        logits = logits.masked_fill(~mask, -torch.inf) if is_choice else logits + mask
    return logits


def _scale(op: Attention, query: Tensor) -> float:
    return float(query.shape[-1] ** -0.5 if op.scale is None else op.scale)


def _local(op: Operator, relevance: Tensor, values: Values) -> dict[str, Tensor]:
    """Return the gradients of an operator's inputs, summed where it reads one twice."""
    found = gradient.find(op)(op, relevance, values)
    parts = found.relevances if isinstance(found, Shares) else found
    total: dict[str, Tensor] = {}
    for name, part in zip(op.inputs, parts, strict=True):
        if part is not None:
            total[name] = total[name] + part if name in total else part
    return total


def _middle(value: Tensor, other: Tensor) -> Tensor:
    return torch.add(value, other).div_(2)


def _difference(first: Tensor, second: Tensor) -> Tensor:
    """Return the difference; none between equal infinities, as masks make them."""
    return torch.where(first == second, 0, first - second)


def _run(op: Operator, values: Values) -> Tensor:
    return op.run(*(values[name] for name in op.inputs))


def _changing(op: Elementwise, dependent: frozenset[str]) -> tuple[str, ...]:
    """Return the inputs that depend on the network's input, each once.

    Raises
    ------
    NotImplementedError
        If there are more than two, or one of them chooses between the others.
    """
    names = tuple(dict.fromkeys(name for name in op.inputs if name in op.sources & dependent))
    choosers = (
        [op.inputs[position] for position in op.choosers] if isinstance(op, Selection) else []
    )
    if len(names) > 2 or not dependent.isdisjoint(choosers):
        raise NotImplementedError(
            f"rule table 'rescale' has no rule for the operator {describe(op)} (node {op.name!r} "
            f"in {op.module_path or 'the network itself'!r}) of {len(names)} values that depend "
            f"on the input, or of a condition that does; use {_INSTEAD}"
        )
    return names
