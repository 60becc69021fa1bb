"""Slow re-implementations of relevance and activation maximization, for tests of both scans.

Relevance is a gradient in which convolutions, linear maps, sums and activations have a backward
pass of their own (the composite epsilon-plus of zennit); lists are sorted sample by sample.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SCORES = ("sum_normed", "sum", "max_normed", "max")
STABILISER = 1e-9
"""Of all rules: what it keeps, or shares out, is below the tolerances."""


class Contribution(torch.autograd.Function):
    """``run(x)``, whose relevance goes to ``x * d terms / dx``, over the stabilised terms."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, run: Callable[[Tensor], Tensor], terms: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.terms = terms
        return run(x)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            z = ctx.terms(leaf)
            signs = torch.where(z < 0, -1.0, 1.0)
            (back,) = torch.autograd.grad(z, leaf, relevance / (z + STABILISER * signs))
        return back * x, None, None


class Passing(torch.autograd.Function):
    """A ReLU that hands relevance on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.relu()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Tensor:  # type: ignore[override]
        return relevance


class Watched:
    """Applies layers by the rules, and remembers the values and relevances of convolutions."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}
        self.relevances: dict[str, Tensor] = {}

    def convolution(
        self, name: str, x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None
    ) -> Tensor:
        """A convolution with the norm behind it merged, by the rule z+."""
        weight, bias = conv.weight, conv.bias
        if norm is not None:
            factor = norm.weight / (norm.running_var + norm.eps).sqrt()
            weight = weight * factor[:, None, None, None]
            bias = norm.bias + factor * ((0 if bias is None else bias) - norm.running_mean)
        shape = (conv.stride, conv.padding)

        def terms(x: Tensor) -> Tensor:
            above = functional.conv2d(
                x.clamp(min=0), weight.clamp(min=0), bias.clamp(min=0), *shape
            )
            return above + functional.conv2d(x.clamp(max=0), weight.clamp(max=0), None, *shape)

        value = Contribution.apply(x, lambda x: functional.conv2d(x, weight, bias, *shape), terms)
        self.values[name] = value.detach()
        if value.requires_grad:
            value.register_hook(lambda relevance: self.relevances.update({name: relevance}))
        return value

    @staticmethod
    def linear(x: Tensor, layer: nn.Linear) -> Tensor:
        """A linear map by the rule epsilon."""
        return Contribution.apply(x, layer, layer)

    @staticmethod
    def total(*parts: Tensor) -> Tensor:
        """A sum by the rule norm."""

        def added(x: Tensor) -> Tensor:
            return x.sum(0)

        return Contribution.apply(torch.stack(parts), added, added)


def small_by_rules(model: Any, inputs: Tensor) -> tuple[Tensor, Watched]:
    """The output of the small network of the zoo, and what was seen on the way."""
    seen = Watched()
    hidden = Passing.apply(seen.convolution("conv1", inputs, model.conv1, model.bn1))
    branch = seen.convolution("conv2", hidden, model.conv2, model.bn2)
    hidden = Passing.apply(seen.total(branch, hidden))
    hidden = Passing.apply(seen.convolution("conv2#1", hidden, model.conv2))
    return seen.linear(model.pool(hidden).flatten(1), model.fc), seen


def relevances(
    run: Callable[[Tensor], tuple[Tensor, Watched]], inputs: Tensor, classes: Tensor
) -> dict[str, Tensor]:
    """Relevance at each convolution of the logits of classes."""
    output, seen = run(inputs.clone().requires_grad_())
    start = torch.zeros_like(output).scatter_(1, classes[:, None], 1.0) * output.detach()
    output.backward(start)
    return seen.relevances


def by_score(amounts: Tensor) -> dict[str, Tensor]:
    """Score to values, ``(batch, channel)``, of relevances or values."""
    flat = amounts.flatten(2)
    found = {"sum": flat.sum(2), "max": flat.amax(2)}
    for name, score in list(found.items()):
        found[f"{name}_normed"] = score / (score.abs().sum(1, keepdim=True) + 1e-10)
    return found


def assert_lists(
    found: Mapping[str, Any], amounts: Tensor, rows: list[int], k: int, tolerance: float = 1e-5
) -> None:
    """Assert that lists are those of some rows, ids but for ties."""
    for score, value in by_score(amounts).items():
        length = min(k, len(rows))
        expected = value[rows].sort(0, descending=True).values[:length]
        lists = {name: entry[:length] for name, entry in found[score].items()}
        scale = expected.abs().amax()
        relative = 0 if score.endswith("normed") else 1e-4
        bound = {"rtol": relative, "atol": float(tolerance * scale)}
        torch.testing.assert_close(lists["value"].double(), expected, **bound)
        # whoever stands at a rank scores what the one there has to score: the same, or a tie
        own = value.gather(0, lists["sample"])
        torch.testing.assert_close(own, expected, **bound)
        assert set(lists["sample"].flatten().tolist()) <= set(rows)
        # at the position there is the greatest value, or one as great
        channels = torch.arange(value.shape[1]).expand_as(lists["sample"])
        there = amounts.flatten(2)[lists["sample"], channels, lists["position"]]
        peak = amounts.flatten(2).amax(2).gather(0, lists["sample"])
        torch.testing.assert_close(there, peak, rtol=relative, atol=tolerance * float(peak.max()))
        for channel in lists["sample"].T.tolist():
            assert len(set(channel)) == length
        for entry in found[score].values():
            rest = entry[length:]
            assert bool((rest.isnan() if rest.is_floating_point() else rest == -1).all())


def rows_of(classes: Tensor) -> dict[int, list[int]]:
    """Class to its samples."""
    found: dict[int, list[int]] = defaultdict(list)
    for row, each in enumerate(classes.tolist()):
        found[each].append(row)
    return dict(found)
