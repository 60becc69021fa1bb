"""Each rule against the same rule written out over the layer's dense matrix, from the papers."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch

from explainers.operators import Add, AveragePool, Convolution, Linear
from explainers.rules import lrp as rules

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

EPSILON = 1e-6
# Sums of a few hundred float64 terms of order one, divided by denominators that are rarely small.
TOLERANCE = {"rtol": 1e-9, "atol": 1e-10}

LAYERS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "plain": ({"weight": (4, 3, 3, 3)}, (3, 5, 6)),
    "padded": ({"weight": (4, 3, 3, 3), "padding": (1, 1)}, (3, 5, 6)),
    "strided": ({"weight": (4, 2, 3, 3), "stride": (2, 2), "padding": (1, 1)}, (2, 7, 6)),
    "dilated": ({"weight": (2, 2, 3, 3), "dilation": (2, 2), "padding": (2, 2)}, (2, 6, 6)),
    "grouped": ({"weight": (4, 2, 3, 3), "groups": 2, "padding": (1, 1)}, (4, 5, 5)),
    "depthwise": ({"weight": (3, 1, 3, 3), "groups": 3, "padding": (1, 0)}, (3, 5, 5)),
    "transposed": (
        {"weight": (3, 2, 3, 3), "transposed": True, "stride": (2, 2), "output_padding": (1, 1)},
        (3, 4, 4),
    ),
    "transposed_grouped": ({"weight": (4, 2, 2, 2), "transposed": True, "groups": 2}, (4, 4, 3)),
    "uneven": ({"weight": (4, 3, 3, 2), "margins": (0, 1, 1, 2)}, (3, 5, 6)),
    "uneven_strided": (
        {"weight": (4, 1, 3, 3), "groups": 2, "stride": (2, 2), "margins": (1, 2)},
        (2, 5, 6),
    ),
    "one_axis": ({"weight": (4, 3, 3), "padding": (1,)}, (3, 9)),
    "three_axes": ({"weight": (2, 2, 2, 2, 2)}, (2, 3, 4, 3)),
    "linear": ({"weight": (5, 7)}, (7,)),
    "linear_of_tokens": ({"weight": (5, 7)}, (3, 7)),
}


def make(layer: str, has_bias: bool, seed: int) -> tuple[Convolution | Linear, Tensor, Tensor]:
    """Return a layer, an input with some exact zeros, and a signed relevance of the output."""
    generator = torch.Generator().manual_seed(seed)
    fields, shape = LAYERS[layer]
    fields = dict(fields)
    weight = torch.randn(fields.pop("weight"), generator=generator, dtype=torch.float64)
    where = {"name": "op", "module_path": "op", "inputs": ("x",)}
    op: Convolution | Linear
    if layer.startswith("linear"):
        n_outputs = weight.shape[0]
        bias = torch.randn(n_outputs, generator=generator, dtype=torch.float64)
        op = Linear(weight=weight, bias=bias if has_bias else None, **where)
    else:
        transposed, groups = fields.get("transposed", False), fields.get("groups", 1)
        n_outputs = weight.shape[1] * groups if transposed else weight.shape[0]
        bias = torch.randn(n_outputs, generator=generator, dtype=torch.float64)
        n_axes = weight.ndim - 2
        given = {
            "stride": (1,) * n_axes,
            "padding": (0,) * n_axes,
            "dilation": (1,) * n_axes,
            "output_padding": (0,) * n_axes,
            "groups": 1,
            "transposed": False,
        } | fields
        op = Convolution(weight=weight, bias=bias if has_bias else None, **given, **where)
    x = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    x[x.abs() < 0.1] = 0
    relevance = torch.randn(op.run(x).shape, generator=generator, dtype=torch.float64)
    return op, x, relevance


def matrix(op: Convolution | Linear, x: Tensor, weight: Tensor) -> Tensor:
    """Return the layer without its bias as a matrix, (outputs, inputs)."""
    basis = torch.eye(x[0].numel(), dtype=torch.float64).view(-1, *x.shape[1:])
    return op.linear(basis, weight).flatten(1).T


def bias_per_output(op: Convolution | Linear, x: Tensor) -> Tensor:
    nothing = torch.zeros_like(x[:1])
    return op.linear(nothing, op.weight, op.bias).flatten()


def stab(z: Tensor) -> Tensor:
    return z + EPSILON * torch.where(z >= 0, 1.0, -1.0).double()


def slow(
    op: Convolution | Linear,
    x: Tensor,
    relevance: Tensor,
    contributions: Callable[[Tensor, Tensor], Tensor],
    bias: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    """Share each output's relevance in proportion to its contributions, one row at a time."""
    dense = matrix(op, x, op.weight if weight is None else weight)
    rows = []
    for row, arriving in zip(x.flatten(1), relevance.flatten(1), strict=True):
        parts = contributions(dense, row)  # (outputs, inputs)
        z = parts.sum(1) + bias
        rows.append((parts / stab(z)[:, None] * arriving[:, None]).sum(0))
    return torch.stack(rows).view_as(x)


CASES = list(itertools.product(LAYERS, [True, False], [0, 1]))


@pytest.mark.parametrize(("layer", "has_bias", "seed"), CASES)
def test_epsilon_shares_by_contribution_with_the_bias_in_the_denominator(
    layer: str, has_bias: bool, seed: int
) -> None:
    op, x, relevance = make(layer, has_bias, seed)
    (found,) = rules.linear.epsilon(op, relevance, {"x": x, "op": op.run(x)})
    expected = slow(op, x, relevance, lambda m, row: m * row, bias_per_output(op, x))
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize(("layer", "has_bias", "seed"), CASES)
def test_z_plus_shares_by_positive_contribution_with_the_positive_bias_once(
    layer: str, has_bias: bool, seed: int
) -> None:
    op, x, relevance = make(layer, has_bias, seed)
    (found,) = rules.linear.z_plus(op, relevance, {"x": x})
    bias = bias_per_output(op, x).clamp(min=0)
    expected = slow(op, x, relevance, lambda m, row: (m * row).clamp(min=0), bias)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize(("layer", "has_bias", "seed"), CASES)
def test_z_plus_of_nonnegative_inputs_needs_the_positive_weights_alone(
    layer: str, has_bias: bool, seed: int
) -> None:
    op, x, relevance = make(layer, has_bias, seed)
    values = {"x": x.clamp(min=0)}
    (found,) = rules.linear.z_plus_of_nonnegative(op, relevance, values)
    (expected,) = rules.linear.z_plus(op, relevance, values)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize(("layer", "has_bias", "seed"), CASES)
def test_flat_shares_equally_among_what_a_window_sees(
    layer: str, has_bias: bool, seed: int
) -> None:
    op, x, relevance = make(layer, has_bias, seed)
    rule = rules.flat.flat_linear if isinstance(op, Linear) else rules.flat.flat_convolution
    (found,) = rule(op, relevance, {"x": x})  # type: ignore[arg-type]
    nothing = torch.zeros((), dtype=torch.float64)
    ones = torch.ones_like(op.weight)
    expected = slow(op, x, relevance, lambda m, row: m, nothing, ones)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("name", ["epsilon", "z_plus", "flat"])
def test_rules_leave_relevance_weights_and_values_untouched(name: str) -> None:
    op, x, relevance = make("padded", True, 0)
    tensors = [op.weight, op.bias, x, relevance, op.run(x)]
    before = [tensor.clone() for tensor in tensors if tensor is not None]
    rules.lrp.find(op, name)(op, relevance, {"x": x, "op": tensors[-1]})
    for tensor, copy in zip(tensors, before, strict=True):
        assert torch.equal(tensor, copy)  # type: ignore[arg-type]


def test_the_stabiliser_has_the_sign_of_its_argument_and_zero_counts_as_positive() -> None:
    z = torch.tensor([-2.0, -0.0, 0.0, 3.0], dtype=torch.float64)
    expected = torch.tensor([-2.5, 0.5, 0.5, 3.5], dtype=torch.float64)
    assert torch.equal(rules.stabilised(z, 0.5), expected)


def test_signed_parts_of_a_weight_are_made_once() -> None:
    op, _, _ = make("plain", True, 0)
    assert rules.linear.positive_weight(op) is rules.linear.positive_weight(op)
    assert torch.equal(
        rules.linear.positive_weight(op) + rules.linear.negative_weight(op), op.weight
    )


def test_a_sum_shares_in_proportion_and_conserves_even_where_terms_cancel() -> None:
    first = torch.tensor([[3.0, 1.0, 0.0, -2.0]], dtype=torch.float64)
    second = torch.tensor([[1.0, -1.0, 0.0, 1.0]], dtype=torch.float64)
    relevance = torch.tensor([[8.0, 2.0, 4.0, 1.0]], dtype=torch.float64)
    op = Add(name="op", module_path="", inputs=("a", "b"))
    values = {"a": first, "b": second, "op": first + second}
    left, right = rules.conserving.norm_of_sum(op, relevance, values)
    assert left is not None
    assert right is not None
    # 1 / 1e-6 of the cancelled pair costs six of float64's sixteen digits.
    torch.testing.assert_close(left + right, relevance, rtol=0, atol=1e-9)
    torch.testing.assert_close(left[0, 0], torch.tensor(6.0).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(left[0, 2], torch.tensor(2.0).double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(left[0, 3], torch.tensor(2.0).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "fields",
    [
        {"form": "mean", "dims": (2, 3)},
        {"form": "mean", "dims": (-1, -2), "keepdim": True},
        {"form": "adaptive", "size": (1, 1)},
        {"form": "adaptive", "size": (2, 3)},
        {"form": "window", "size": (2, 2), "stride": (2, 2), "padding": (0, 0)},
        {"form": "window", "size": (3, 3), "stride": (2, 2), "padding": (1, 1)},
        {
            "form": "window",
            "size": (3, 3),
            "stride": (2, 2),
            "padding": (1, 1),
            "count_include_pad": False,
        },
        {"form": "window", "size": (3, 3), "stride": (2, 2), "padding": (0, 0), "ceil_mode": True},
    ],
)
def test_a_mean_shares_in_proportion_and_conserves(fields: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    op = AveragePool(name="op", module_path="", inputs=("x",), **fields)
    x = torch.randn(2, 3, 6, 6, generator=generator, dtype=torch.float64)
    z = op.run(x)
    relevance = torch.randn(z.shape, generator=generator, dtype=torch.float64)
    (found,) = rules.conserving.norm_of_mean(op, relevance, {"x": x, "op": z})
    assert found is not None
    torch.testing.assert_close(found.sum(), relevance.sum(), rtol=0, atol=1e-10)
    basis = torch.eye(x[0].numel(), dtype=torch.float64).view(-1, *x.shape[1:])
    jacobian = op.run(basis).flatten(1).T  # (outputs, inputs)
    expected = (x.flatten(1) * ((relevance / stab(z)).flatten(1) @ jacobian)).view_as(x)
    # The equal share of what the stabiliser would absorb: 1e-6 / z of the relevance.
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
