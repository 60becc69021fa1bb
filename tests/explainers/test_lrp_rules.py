"""Each rule against the same rule written out over the layer's dense matrix, from the papers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch

from explainers.operators import Add, AveragePool, Convolution, Linear
from explainers.rules.lrp import Stabiliser, conserving, lrp, stabilised, weights
from explainers.rules.table import Shares

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-6
# Sums of a few hundred float64 terms of order one, divided by denominators that are rarely small.
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}

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
    """Return a layer, an input with exact zeros (more in the last row), and a signed relevance."""
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
    x[:-1][x[:-1].abs() < 0.1] = 0
    x[-1][x[-1].abs() < 1] = 0
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


@dataclass
class Term:
    """Relevance times a factor, shared by contributions."""

    contributions: Tensor
    """(outputs, inputs)"""
    bias: Tensor
    """(outputs,)"""
    factor: float = 1.0
    counts: Tensor | None = None
    """Which outputs have the term, (outputs,); all if None."""


def epsilon(m: Tensor, x: Tensor, b: Tensor) -> list[Term]:
    return [Term(m * x, b)]


def z_plus(m: Tensor, x: Tensor, b: Tensor) -> list[Term]:
    return [Term((m * x).clamp(min=0), b.clamp(min=0))]


def gamma(m: Tensor, x: Tensor, b: Tensor, g: float = 0.25) -> list[Term]:
    c = m * x
    z = c.sum(1) + b
    above = Term(c + g * c.clamp(min=0), b + g * b.clamp(min=0), counts=z > 0)
    below = Term(c + g * c.clamp(max=0), b + g * b.clamp(max=0), counts=z < 0)
    return [above, below]


def large_gamma(m: Tensor, x: Tensor, b: Tensor) -> list[Term]:
    return gamma(m, x, b, 3.0)


def alpha_beta(m: Tensor, x: Tensor, b: Tensor, alpha: float = 2.0) -> list[Term]:
    c = m * x
    above = Term(c.clamp(min=0), b.clamp(min=0), alpha)
    below = Term(c.clamp(max=0), b.clamp(max=0), 1 - alpha)
    return [above, below] if alpha != 1 else [above]


def alpha_1(m: Tensor, x: Tensor, b: Tensor) -> list[Term]:
    return alpha_beta(m, x, b, 1.0)


LOW, HIGH = -4.0, 5.0


def z_box(m: Tensor, x: Tensor, b: Tensor) -> list[Term]:
    rest = b - b.clamp(min=0) - b.clamp(max=0)
    return [Term(m * x - m.clamp(min=0) * LOW - m.clamp(max=0) * HIGH, rest)]


def w_square(m: Tensor, x: Tensor, b: Tensor) -> list[Term]:
    return [Term(m**2, b**2)]


def flat(m: Tensor, x: Tensor, b: Tensor) -> list[Term]:
    return [Term((m != 0).double(), torch.zeros_like(b))]


RULES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "epsilon": (epsilon, "epsilon", {}),
    "z_plus": (z_plus, "z_plus", {}),
    "gamma": (gamma, "gamma", {}),
    "large_gamma": (large_gamma, "gamma", {"gamma": 3.0}),
    "alpha_beta": (alpha_beta, "alpha_beta", {}),
    "alpha_1": (alpha_1, "alpha_beta", {"alpha": 1.0, "beta": 0.0}),
    "z_box": (z_box, "z_box", {"low": LOW, "high": HIGH}),
    "w_square": (w_square, "w_square", {}),
    "flat": (flat, "flat", {}),
}


def slow(
    rule: Any, op: Convolution | Linear, x: Tensor, relevance: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Share each output's relevance in proportion to its contributions, one row at a time."""
    dense, bias = matrix(op, x, op.weight), bias_per_output(op, x)
    rows, kept = [], []
    for row, arriving in zip(x.flatten(1), relevance.flatten(1), strict=True):
        shared = torch.zeros_like(row)
        amounts = {"bias": 0.0, "stabiliser": 0.0, "lost": float(arriving.sum())}
        for term in rule(dense, row, bias):
            arrives = term.factor * arriving
            if term.counts is not None:
                arrives = arrives * term.counts
            z = term.contributions.sum(1) + term.bias
            is_empty = (term.contributions == 0).all(1) & (term.bias == 0)
            share = arrives / stab(z)
            shared += (term.contributions * share[:, None]).sum(0)
            amounts["bias"] += float((share * term.bias).sum())
            amounts["stabiliser"] += float((share * (stab(z) - z))[~is_empty].sum())
            amounts["lost"] -= float(arrives[~is_empty].sum())
        rows.append(shared)
        kept.append(amounts)
    names = ("bias", "stabiliser", "lost")
    totals = {
        name: torch.tensor([one[name] for one in kept], dtype=torch.float64) for name in names
    }
    return torch.stack(rows).view_as(x), totals


def found_by(rule: str, op: Any, relevance: Tensor, x: Tensor, **parameters: Any) -> Shares:
    values = {"x": x, "op": op.run(x)}
    tensors = [op.weight, op.bias, relevance, *values.values()]
    before = [None if tensor is None else tensor.clone() for tensor in tensors]
    found = lrp.find(op, rule)(op, relevance, values, **parameters)
    for tensor, copy in zip(tensors, before, strict=True):
        assert tensor is None or torch.equal(tensor, copy), "a rule changed what it was given"
    assert isinstance(found, Shares)
    return found


def assert_equal(found: Shares, expected: tuple[Tensor, dict[str, Tensor]]) -> None:
    (part,) = found.relevances
    torch.testing.assert_close(part, expected[0], **TOLERANCE)
    for keeper, amount in expected[1].items():
        kept = found.absorbed.get(keeper, torch.zeros_like(amount))  # type: ignore[call-overload]
        torch.testing.assert_close(kept, amount, **TOLERANCE)


def assert_closes(found: Shares, relevance: Tensor) -> None:
    """Assert that what arrived was handed on, or is accounted for."""
    (part,) = found.relevances
    assert part is not None
    total = part.flatten(1).sum(1) + sum(found.absorbed.values())
    # Empty outputs hand 1 / 1e-6 of their relevance to contributions of zero: nothing to cancel.
    torch.testing.assert_close(total, relevance.flatten(1).sum(1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_shares_and_accounts_as_its_definition_written_out(rule: str, layer: str) -> None:
    definition, name, parameters = RULES[rule]
    for has_bias, seed in ((True, 0), (False, 1)):
        op, x, relevance = make(layer, has_bias, seed)
        found = found_by(name, op, relevance, x, **parameters)
        assert_equal(found, slow(definition, op, x, relevance))
        assert_closes(found, relevance)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rule", ["z_plus", "gamma", "alpha_beta"])
def test_what_is_known_not_to_be_negative_changes_the_cost_alone(rule: str, layer: str) -> None:
    for has_bias in (True, False):
        op, x, relevance = make(layer, has_bias, 0)
        x = x.clamp(min=0)
        found = found_by(f"{rule}.nonnegative", op, relevance, x)
        expected = found_by(rule, op, relevance, x)
        assert_equal(found, (expected.relevances[0], dict(expected.absorbed)))  # type: ignore[arg-type]
        assert_closes(found, relevance)


@pytest.mark.parametrize("layer", ["grouped", "transposed", "linear_of_tokens"])
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "flat"])
def test_zero_params_leave_the_bias_out(rule: str, layer: str) -> None:
    definition, name, parameters = RULES[rule]
    op, x, relevance = make(layer, True, 0)
    found = found_by(name, op, relevance, x, zero_params="bias", **parameters)
    assert not bool(found.absorbed.get("bias", torch.zeros(1)).any())
    assert_closes(found, relevance)
    if "gamma" in rule:  # its sign is that of the output with its bias
        return
    without, _, _ = make(layer, False, 0)
    assert_equal(found, slow(definition, without, x, relevance))
    nothing = found_by(name, op, relevance, x, zero_params=("weight", "bias"), **parameters)
    assert not bool(nothing.relevances[0].any())  # type: ignore[union-attr]
    assert_closes(nothing, relevance)


@pytest.mark.parametrize("rule", ["gamma", "gamma.nonnegative"])
def test_gamma_loses_what_reaches_an_output_of_exactly_zero(rule: str) -> None:
    weight = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    op = Linear(name="op", module_path="", inputs=("x",), weight=weight, bias=None)
    x = torch.ones(1, 2, dtype=torch.float64)
    relevance = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    found = found_by(rule, op, relevance, x)
    assert float(found.absorbed["lost"]) == 3.0
    assert_closes(found, relevance)
    assert not lrp.conserves(op, rule)


def test_alpha_beta_hands_on_more_than_arrives_where_nothing_is_negative() -> None:
    op = Linear(
        name="op", module_path="", inputs=("x",), weight=torch.ones(1, 2).double(), bias=None
    )
    x = torch.ones(1, 2, dtype=torch.float64)
    relevance = torch.ones(1, 1, dtype=torch.float64)
    found = found_by("alpha_beta", op, relevance, x)
    torch.testing.assert_close(found.relevances[0], x, rtol=1e-6, atol=0)
    assert float(found.absorbed["lost"]) == -1.0
    assert_closes(found, relevance)
    assert not lrp.conserves(op, "alpha_beta")
    assert lrp.conserves(op, "z_plus")


@pytest.mark.parametrize(
    ("rule", "parameters", "error", "message"),
    [
        ("alpha_beta", {"alpha": 2.0, "beta": 0.5}, ValueError, r"expected alpha - beta = 1"),
        ("alpha_beta", {"alpha": 0.5, "beta": -0.5}, ValueError, r"beta=-0.5, expected"),
        ("gamma", {"gamma": -1.0}, ValueError, r"got gamma=-1.0, expected"),
        ("z_box", {"low": 1.0, "high": 0.0}, ValueError, r"expected low <= high"),
        ("z_box", {"low": "a", "high": 0.0}, TypeError, r"got low='a', expected a number"),
        ("epsilon", {"epsilon": -1e-6}, ValueError, r"got epsilon=-1e-06, expected"),
        ("z_plus", {"zero_params": "biases"}, ValueError, r"expected names out of: weight, bias"),
        ("flat", {"stabiliser": {"eps": 1.0}}, TypeError, r"a stabiliser with 'eps', expected"),
    ],
)
def test_values_without_a_meaning_are_refused_before_any_input_is_seen(
    rule: str, parameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        lrp.check_values(rule, parameters)


def test_bounds_are_numbers_or_numbers_of_channels_and_margins_stay_zero() -> None:
    op, x, relevance = make("uneven", True, 0)
    by_number = found_by("z_box", op, relevance, x, low=-4.0, high=5.0)
    by_channel = found_by("bounded", op, relevance, x, low=(-4.0,) * 3, high=(5.0,) * 3)
    by_input = found_by("z_box", op, relevance, x, low=torch.full_like(x, -4.0), high=5.0)
    for found in (by_channel, by_input):
        torch.testing.assert_close(found.relevances[0], by_number.relevances[0], **TOLERANCE)
    with pytest.raises(ValueError, match=r"bound of shape \(2,\).*one for each channel"):
        found_by("z_box", op, relevance, x, low=(0.0, 1.0), high=5.0)


def test_the_stabiliser_has_the_sign_of_its_argument_and_zero_counts_as_positive() -> None:
    z = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    expected = torch.tensor([-2.5, 0.5, 3.5], dtype=torch.float64)
    assert torch.equal(stabilised(z, 0.5), expected)
    clipped = torch.tensor([-2.0, 2.5, 3.0], dtype=torch.float64)
    assert torch.equal(Stabiliser(2.5, clip=True)(z), clipped.clamp(min=-2.5).where(z > -2, -2.5))


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "z_box"])
@pytest.mark.parametrize(
    "stabiliser",
    [0.0, {"epsilon": 0.3, "clip": True}, {"epsilon": 0.2, "norm_scale": True}],
)
def test_every_stabiliser_is_accounted_for_and_zero_shares_nothing_at_zero(
    rule: str, stabiliser: Any
) -> None:
    _, name, parameters = RULES[rule]
    given = {"epsilon" if rule == "epsilon" else "stabiliser": stabiliser}
    for layer in ("padded", "linear"):
        op, x, relevance = make(layer, False, 0)
        x[0] = 0
        found = found_by(name, op, relevance, x, **given, **parameters)
        assert bool(torch.isfinite(found.relevances[0]).all())  # type: ignore[arg-type]
        assert_closes(found, relevance)
        if stabiliser == 0.0:
            # what keeps nothing keeps rounding: sums of a hundred terms of order one
            assert float(found.absorbed["stabiliser"].abs().max()) <= 1e-11


def test_signed_parts_of_a_weight_are_made_once() -> None:
    op, _, _ = make("plain", True, 0)
    without_bias = weights.without(op, "bias")
    assert without_bias is weights.without(op, ("bias",))
    for part in (weights.positive_weight, weights.negative_weight, weights.absolute_weight):
        assert part(op) is part(op) is part(without_bias)
    assert torch.equal(weights.positive_weight(op) + weights.negative_weight(op), op.weight)


def test_a_sum_shares_in_proportion_and_conserves_even_where_terms_cancel() -> None:
    first = torch.tensor([[3.0, 1.0, 0.0, -2.0]], dtype=torch.float64)
    second = torch.tensor([[1.0, -1.0, 0.0, 1.0]], dtype=torch.float64)
    relevance = torch.tensor([[8.0, 2.0, 4.0, 1.0]], dtype=torch.float64)
    op = Add(name="op", module_path="", inputs=("a", "b"))
    values = {"a": first, "b": second, "op": first + second}
    left, right = conserving.norm_of_sum(op, relevance, values).relevances
    assert left is not None
    assert right is not None
    # 1 / 1e-6 of the cancelled pair costs six of float64's sixteen digits.
    torch.testing.assert_close(left + right, relevance, rtol=0, atol=1e-9)
    torch.testing.assert_close(left[0, 0], torch.tensor(6.0).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(left[0, 2], torch.tensor(2.0).double(), rtol=1e-12, atol=0)
    torch.testing.assert_close(left[0, 3], torch.tensor(2.0).double(), rtol=1e-5, atol=0)


def test_a_term_that_is_zero_gets_exactly_zero() -> None:
    where: dict[str, Any] = {"name": "op", "module_path": ""}
    x = torch.tensor([[[[0.0, 1.7e-6], [-0.3, 0.0]]]], dtype=torch.float64)
    other = torch.tensor([[[[0.9, 0.0], [0.0, -1e-7]]]], dtype=torch.float64)
    relevance = torch.tensor([[[[0.7, 1.1], [-2.3, 0.1]]]], dtype=torch.float64)
    add = Add(inputs=("x", "y"), **where)
    for stabiliser in (1e-6, 0.0, {"clip": True}):
        values = {"x": x, "y": other, "op": x + other}
        left, right = conserving.norm_of_sum(add, relevance, values, stabiliser).relevances
        assert left is not None
        assert right is not None
        for term, found in ((x, left), (other, right)):
            assert not found[term == 0].any()
            expected = relevance[term != 0]
            torch.testing.assert_close(found[term != 0], expected, rtol=1e-12, atol=0)
    mean = AveragePool(
        inputs=("x",), form="window", size=(1, 2), stride=(1, 2), padding=(0, 0), **where
    )
    z = mean.run(x)
    (part,) = conserving.norm_of_mean(mean, relevance[..., :1], {"x": x, "op": z})
    assert part is not None
    assert not part[x == 0].any()
    torch.testing.assert_close(part[x != 0], relevance[..., 0].flatten(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("stabiliser", [0.0, {"clip": True}, {"norm_scale": True}])
def test_sums_and_means_of_zero_conserve_with_any_stabiliser(stabiliser: Any) -> None:
    x = torch.tensor([[[[2.0, -2.0], [0.0, 0.0]]], [[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64)
    where = {"name": "op", "module_path": ""}
    add = Add(inputs=("x", "y"), **where)
    relevance = torch.tensor([3.0, 5.0], dtype=torch.float64).view(2, 1, 1, 1)
    values = {"x": x, "y": -x, "op": torch.zeros_like(x)}
    shares = conserving.norm_of_sum(add, relevance.expand_as(x), values, stabiliser)
    total = sum(part.sum((1, 2, 3)) for part in shares.relevances if part is not None)
    # with a stabiliser of 1e-6, terms of order one lose six of float64's sixteen digits
    torch.testing.assert_close(total, 4 * relevance.flatten(), rtol=0, atol=1e-9)
    mean = AveragePool(inputs=("x",), form="mean", dims=(2, 3), keepdim=True, **where)
    (part,) = conserving.norm_of_mean(mean, relevance, {"x": x, "op": mean.run(x)}, stabiliser)
    assert part is not None
    torch.testing.assert_close(part.sum((1, 2, 3)), relevance.flatten(), rtol=0, atol=1e-9)


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
    (found,) = conserving.norm_of_mean(op, relevance, {"x": x, "op": z})
    assert found is not None
    torch.testing.assert_close(found.sum(), relevance.sum(), rtol=0, atol=1e-10)
    basis = torch.eye(x[0].numel(), dtype=torch.float64).view(-1, *x.shape[1:])
    jacobian = op.run(basis).flatten(1).T  # (outputs, inputs)
    expected = (x.flatten(1) * ((relevance / stab(z)).flatten(1) @ jacobian)).view_as(x)
    # The equal share of what the stabiliser would absorb: 1e-6 / z of the relevance.
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
