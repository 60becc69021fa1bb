"""The published rules of contextual decomposition, module after module, slowly and written out.

A `Pair` goes through a model in place of a tensor. Whatever function a module calls on it is
answered by the rule of Singh, Murdoch and Yu 2019 (arXiv:1806.05337, section 3.1 and its program)
for that function, which carries both parts by themselves; batch norms are not folded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Pair:
    """A value in a relevant and an irrelevant part."""

    def __init__(self, relevant: Tensor, irrelevant: Tensor) -> None:
        self.relevant, self.irrelevant = relevant, irrelevant

    @property
    def total(self) -> Tensor:
        """The value."""
        return self.relevant + self.irrelevant

    @property
    def shape(self) -> torch.Size:
        return self.relevant.shape

    @property
    def ndim(self) -> int:
        return self.relevant.ndim

    def dim(self) -> int:
        return self.relevant.ndim

    def size(self) -> torch.Size:
        return self.relevant.shape

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Pair:
        return Pair(self.relevant.flatten(start_dim), self.irrelevant.flatten(start_dim))

    def __add__(self, other: Pair) -> Pair:
        return Pair(self.relevant + other.relevant, self.irrelevant + other.irrelevant)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: object, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Pair:
        rule = RULES[function.__name__.strip("_")]
        return rule(*args, **(kwargs or {}))


def decomposed(model: nn.Module, sample: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Both parts of the outputs, of one sample and one mask, ``(classes,)`` each."""
    with torch.no_grad():
        found = model(Pair((mask * sample)[None], ((1 - mask) * sample)[None]))
    return found.relevant[0], found.irrelevant[0]


def with_bias(
    relevant: Tensor, irrelevant: Tensor, bias: Tensor | None, at: tuple[int, ...]
) -> Pair:
    """Share a bias in proportion to magnitudes."""
    if bias is None:
        return Pair(relevant, irrelevant)
    bias = bias.view(at)
    ours, theirs = relevant.abs() + 1e-20, irrelevant.abs() + 1e-20
    both = ours + theirs
    return Pair(relevant + ours / both * bias, irrelevant + theirs / both * bias)


def conv2d(value: Pair, weight: Tensor, bias: Tensor | None = None, *shape: Any) -> Pair:
    """Map both parts without the bias, which they share."""
    parts = [
        functional.conv2d(part, weight, None, *shape) for part in (value.relevant, value.irrelevant)
    ]
    return with_bias(parts[0], parts[1], bias, (1, -1, 1, 1))


def linear(value: Pair, weight: Tensor, bias: Tensor | None = None) -> Pair:
    """Map both parts without the bias, which they share."""
    return with_bias(value.relevant @ weight.T, value.irrelevant @ weight.T, bias, (1, -1))


def batch_norm(
    value: Pair,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Pair:
    """Scale both parts and share what the norm makes of zero; the irrelevant part is the rest."""
    scale = weight / (running_var + eps).sqrt()
    constant = (bias - running_mean * scale).view(1, -1, 1, 1)
    scale = scale.view(1, -1, 1, 1)
    relevant, irrelevant = value.relevant * scale, value.irrelevant * scale
    total = value.total * scale + constant
    share = relevant.abs() / (relevant.abs() + irrelevant.abs())
    relevant = relevant + torch.nan_to_num(share) * constant
    return Pair(relevant, total - relevant)


def clip(function: Callable[..., Tensor]) -> Callable[..., Pair]:
    """Let the relevant part go first."""

    def rule(value: Pair, inplace: bool = False, **bounds: float) -> Pair:
        relevant = function(value.relevant, **bounds)
        return Pair(relevant, function(value.total, **bounds) - relevant)

    return rule


def max_pool2d(
    value: Pair, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, **_: Any
) -> Pair:
    """Take both parts from where the sum is largest."""
    _, places = functional.max_pool2d(
        value.total, kernel_size, stride, padding, dilation, _.get("ceil_mode", False), True
    )
    parts = [
        part.flatten(2).gather(2, places.flatten(2)).view(places.shape)
        for part in (value.relevant, value.irrelevant)
    ]
    return Pair(*parts)


def each(function: Callable[..., Tensor]) -> Callable[..., Pair]:
    """Answer what is linear and has no constant: each part by itself."""

    def rule(value: Pair, /, *arguments: Any, **options: Any) -> Pair:
        return Pair(
            function(value.relevant, *arguments, **options),
            function(value.irrelevant, *arguments, **options),
        )

    return rule


def cat(values: Sequence[Pair], dim: int = 0) -> Pair:
    """Join both parts."""
    relevant = torch.cat([value.relevant for value in values], dim)
    return Pair(relevant, torch.cat([value.irrelevant for value in values], dim))


RULES: dict[str, Callable[..., Pair]] = {
    "conv2d": conv2d,
    "linear": linear,
    "batch_norm": batch_norm,
    "relu": clip(functional.relu),
    "hardtanh": clip(functional.hardtanh),
    "relu6": clip(functional.relu6),
    "max_pool2d": max_pool2d,
    "avg_pool2d": each(functional.avg_pool2d),
    "adaptive_avg_pool2d": each(functional.adaptive_avg_pool2d),
    "dropout": each(lambda value, *_, **__: value),
    "dropout2d": each(lambda value, *_, **__: value),
    "pad": each(functional.pad),
    "flatten": each(torch.flatten),
    "cat": cat,
}
"""By the names of torch's functions."""
