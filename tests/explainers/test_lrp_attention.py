"""LRP of attention, norms and products: against their definitions and a detached network."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import explainers
from explainers import Network, Trace
from explainers.composites import Assignment, Composite
from explainers.operators import (
    Attention,
    Linear,
    MatrixProduct,
    Multiply,
    Normalise,
    Quotient,
    Recurrent,
    Selection,
    Slot,
    Softmax,
    Unary,
)
from explainers.rules.gates import signals
from explainers.rules.lrp import lrp
from explainers.rules.table import Shares
from explainers.targets import Target
from tests.explainers.transformers import Accounting, Tokens
from tests.explainers.twins import seeded
from tests.explainers.zoo import relative_error

EPSILON = Composite((Assignment("epsilon", ("type:Convolution", "type:Linear")),))
WHERE = {"name": "op", "module_path": "op"}
# Sums of tens of float64 terms, divided by denominators that are rarely small.
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stab(z: Tensor) -> Tensor:
    return z + 1e-6 * torch.where(z >= 0, 1.0, -1.0).double()


def found_by(op: Any, relevance: Tensor, rule: str = "default", **inputs: Tensor) -> Shares:
    values = {**inputs, "op": op.run(*inputs.values())}
    found = lrp.find(op, rule)(op, relevance, values)
    return found if isinstance(found, Shares) else Shares(found)


def assert_closes(found: Shares, relevance: Tensor) -> None:
    handed_on = sum(part.flatten(1).sum(1) for part in found.relevances if part is not None)
    torch.testing.assert_close(
        handed_on + sum(found.absorbed.values()), relevance.flatten(1).sum(1), rtol=0, atol=1e-9
    )


MASK = torch.tensor([[True, True, False, True], [False] * 4, [True] * 4, [False, True, True, True]])
MASKED = {
    "plain": ({}, ()),
    "causal": ({"is_causal": True}, ()),
    "scaled": ({"scale": 0.7}, ()),
    "chosen": ({}, (MASK,)),
    "biased": ({}, (normal(3, 1, 4, 4, seed=9),)),
    "grouped": ({"enable_gqa": True}, ()),
}


@pytest.mark.parametrize("case", MASKED)
def test_attention_shares_among_values_by_contribution(case: str) -> None:
    fields, mask = MASKED[case]
    op = Attention(inputs=("q", "k", "v", "m")[: 3 + len(mask)], **WHERE, **fields)
    n_heads = 1 if case == "grouped" else 2
    query, key, value = normal(3, 2, 4, 5), normal(3, n_heads, 4, 5), normal(3, n_heads, 4, 6)
    given = dict(zip("qkvm", (query, key, value, *mask), strict=False))
    relevance = normal(3, 2, 4, 6, seed=1)
    found = found_by(op, relevance, **given)
    # Attention of one-hot values gives the weights.
    eye = torch.eye(4, dtype=torch.float64).expand(3, n_heads, 4, 4)
    weights = op.run(query, key, eye, *mask)
    torch.testing.assert_close(op.weights(*given.values()), weights, rtol=1e-12, atol=1e-12)
    expected = torch.zeros_like(value)
    z = op.run(*given.values())
    for head in range(2):
        for place in range(4):
            parts = weights[:, head, place, :, None] * value[:, head % n_heads]
            share = relevance[:, head, place] / stab(z[:, head, place])
            expected[:, head % n_heads] += parts * share[:, None]
    assert found.relevances[2] is not None
    torch.testing.assert_close(found.relevances[2], expected, **TOLERANCE)
    assert all(part is None for place, part in enumerate(found.relevances) if place != 2)
    assert_closes(found, relevance)


NORMS = {
    "layer": ("layer", (6,), (3, 4, 6), 6),
    "layer of two axes": ("layer", (4, 6), (3, 4, 6), (4, 6)),
    "group": ("group", (2,), (3, 4, 2, 3), 4),
    "rms": ("rms", (6,), (3, 4, 6), 6),
}


@pytest.mark.parametrize("is_affine", [True, False])
@pytest.mark.parametrize("case", NORMS)
def test_a_norm_shares_as_the_linear_map_that_it_is_with_its_normaliser_held_fixed(
    case: str, is_affine: bool
) -> None:
    kind, shape, size, weights = NORMS[case]
    weight = normal(*(weights if isinstance(weights, tuple) else (weights,)), seed=1)
    bias = None if kind == "rms" or not is_affine else weight.cos()
    weight = weight if is_affine else None
    op: Any = Normalise(
        inputs=("x",), **WHERE, kind=kind, shape=shape, weight=weight, bias=bias, eps=0.01
    )
    x, relevance = normal(*size, seed=2), normal(*size, seed=3)
    found = found_by(op, relevance, x=x)

    def held_fixed(value: Tensor) -> Tensor:
        groups = value.reshape(len(x), -1, value[0].numel() // (1 if len(shape) == 2 else 4))
        if kind == "group":
            groups = value.reshape(len(x), 2, -1)
        fixed = groups.detach()
        centred = groups if kind == "rms" else groups - groups.mean(-1, keepdim=True)
        power = fixed.square() if kind == "rms" else (fixed - fixed.mean(-1, keepdim=True)) ** 2
        normed = (centred * (power.mean(-1, keepdim=True) + 0.01).rsqrt()).reshape(size)
        column = (-1, 1, 1) if kind == "group" else (weight.shape if weight is not None else ())
        normed = normed if weight is None else normed * weight.reshape(column)
        return normed if bias is None else normed + bias.reshape(column)

    torch.testing.assert_close(op.run(x), held_fixed(x), **TOLERANCE)
    leaf = x.clone().requires_grad_()
    z = held_fixed(leaf)
    (slope,) = torch.autograd.grad(z, leaf, relevance / stab(z.detach()))
    torch.testing.assert_close(found.relevances[0], x * slope, **TOLERANCE)
    assert_closes(found, relevance)
    (passed,) = found_by(op, relevance, "pass", x=x).relevances
    assert torch.equal(passed, relevance)  # type: ignore[arg-type]


def test_a_product_of_two_signals_gives_half_to_each() -> None:
    op = Multiply(inputs=("a", "b"), **WHERE)
    relevance = normal(2, 3, 4)
    found = found_by(op, relevance, a=normal(2, 3, 4, seed=1), b=normal(2, 3, 1, seed=2))
    torch.testing.assert_close(found.relevances[0], relevance / 2)
    torch.testing.assert_close(found.relevances[1], relevance.sum(2, keepdim=True) / 2)


@pytest.mark.parametrize("rule", ["default", "default.signal_0", "default.signal_1"])
def test_a_matrix_product_shares_by_contribution(rule: str) -> None:
    op = MatrixProduct(inputs=("a", "b"), **WHERE)
    a, b, relevance = normal(2, 3, 4), normal(2, 4, 5, seed=1), normal(2, 3, 5, seed=2)
    found = found_by(op, relevance, rule, a=a, b=b)
    # (batch, row, inner, column)
    parts = a[..., None] * b[:, None] * (relevance / stab(a @ b))[:, :, None]
    parts = parts / 2 if rule == "default" else parts
    for place, expected in enumerate([parts.sum(3), parts.sum(1)]):
        if rule in ("default", f"default.signal_{place}"):
            torch.testing.assert_close(found.relevances[place], expected, **TOLERANCE)
        else:
            assert found.relevances[place] is None
    assert_closes(found, relevance)


def test_a_softmax_that_is_no_gate_and_functions_of_one_value_pass() -> None:
    x = normal(2, 3)
    exponential = Unary(
        inputs=("x",), **WHERE, function=torch.ops.aten.exp.default, arguments=(Slot(0),)
    )
    for op in (Softmax(inputs=("x",), **WHERE, dim=1), exponential):
        (found,) = found_by(op, x.cos(), x=x).relevances
        assert found is not None
        assert torch.equal(found, x.cos())


class Mixed(nn.Module):
    """Operators without a class of their own, between linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(17, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        image = hidden.view(-1, 2, 2, 3)
        larger = functional.interpolate(image, size=(3, 5), mode="bilinear")
        chosen = torch.where(hidden > 0, hidden, 0.1 * hidden).masked_fill(hidden > 1, 0.5)
        parts = [
            larger.amax(1).flatten(1).topk(4, 1).values,
            image.sum(1).flatten(1),
            torch.maximum(chosen[:, :3], hidden[:, 3:6]) / (1 + hidden[:, 3:6].square()),
            chosen[:, 8:] * torch.rsqrt(hidden[:, :4].square() + 1),
        ]
        return self.last(torch.cat(parts, 1))


def test_what_has_no_class_of_its_own_is_accounted_for() -> None:
    network = Network(seeded(Mixed()), normal(2, 6))
    inputs = normal(5, 6, seed=4)
    trace = Trace(network, inputs)
    checked = Accounting(network, EPSILON.choose(network), len(inputs))
    walked = trace.walk(checked, Target(), key="lrp", start=trace.cotangent(Target()))
    assert checked.worst[0] <= 1e-12, checked.worst
    assert {Selection, Quotient, Multiply} < checked.kinds
    total = walked.relevance.sum(1) + sum(walked.absorbed.values())
    torch.testing.assert_close(total, torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-9)


def test_gates_are_known_before_any_input_is_seen() -> None:
    def function(x: Tensor) -> Tensor:
        gated = torch.sigmoid(x) * x.sin()
        mixed = x.unsqueeze(1) @ x[:, :, None].softmax(1).expand(-1, -1, 2)
        normed = gated * gated.square().mean(1, keepdim=True).rsqrt()
        return torch.cat([normed * x.cos(), mixed[:, 0] * 1.0], 1)

    network = Network(function, normal(2, 3))
    assert signals(network) == {"mul#0": 1, "matmul#0": 0, "mul#1": 0}


@functools.cache
def tokens(form: str) -> tuple[Tokens, Network, Tensor]:
    torch.manual_seed(0)
    model: Any = seeded(Tokens()).set(form=form)
    inputs = normal(3, 5, 3, seed=5)
    return model, Network(model, inputs), inputs


@pytest.mark.slow
def test_a_transformer_gets_the_gradient_of_the_detached_network_times_its_input() -> None:
    model, network, inputs = tokens("fused")
    trace = Trace(network, inputs)
    tiny = EPSILON.with_defaults(epsilon=1e-14, stabiliser=1e-14)
    start = trace.cotangent(Target()) * trace.output
    walked = trace.walk(tiny.choose(network), Target(), key="lrp", start=start)
    leaf = inputs.clone().requires_grad_()
    selected = (model.set(is_detached=True)(leaf) * trace.cotangent(Target())).sum()
    (slope,) = torch.autograd.grad(selected, leaf)
    model.set(is_detached=False)
    # LRP divides by values that are as small as 1e-5 and multiplies with them again
    assert relative_error(walked.relevance, slope * inputs) <= 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("form", ["fused", "written out"])
def test_a_transformers_relevance_is_accounted_for(form: str) -> None:
    _, network, inputs = tokens(form)
    kinds = {type(op) for op in network.operators}
    assert (Attention in kinds) == (form == "fused")
    assert (MatrixProduct in kinds) == (form == "written out")
    trace = Trace(network, inputs)
    checked = Accounting(network, EPSILON.choose(network), len(inputs))
    start = trace.cotangent(Target()) * trace.output
    walked = trace.walk(checked, Target(), key="lrp", start=start)
    assert checked.worst[0] <= 1e-10, checked.worst
    total = walked.relevance.sum((1, 2)) + sum(walked.absorbed.values())
    torch.testing.assert_close(total, trace.selected(Target()), rtol=1e-8, atol=1e-8)
    # the class token, a constant, gets relevance and keeps it as a bias does
    assert bool((walked.absorbed["bias"].abs() > 1e-6).all())


@pytest.mark.slow
def test_attention_written_out_gets_what_fused_attention_gets() -> None:
    maps = [
        explainers.explain(tokens(form)[1], "lrp", tokens(form)[2], composite=EPSILON)
        for form in ("fused", "written out")
    ]
    assert relative_error(maps[1], maps[0]) <= 1e-9


class Encoder(nn.Module):
    """torch's own encoder layer, with sequences first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu")
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.transpose(0, 1)).mean(0))


@pytest.mark.slow
@pytest.mark.parametrize("n_rows", [3, 5, 10])
def test_each_sample_has_its_own_account_where_sequences_come_first(n_rows: int) -> None:
    network = _encoder()
    linear = {op.batch_axis for op in network.operators if isinstance(op, Linear | Normalise)}
    assert linear == {0, 1}
    inputs = normal(n_rows, 5, 8, seed=6)
    trace = Trace(network, inputs)
    start = trace.cotangent(Target(0)) * trace.output
    walked = trace.walk(EPSILON.choose(network), Target(0), key="lrp", start=start)
    for keeper in ("bias", "stabiliser", "lost"):
        assert walked.absorbed[keeper].shape == (n_rows,)
    total = walked.relevance.sum((1, 2)) + sum(walked.absorbed.values())
    torch.testing.assert_close(total, trace.selected(Target(0)), rtol=1e-8, atol=1e-8)


@functools.cache
def _encoder() -> Network:
    return Network(seeded(Encoder()), normal(2, 5, 8))


def test_recurrence_is_refused_with_methods_that_would_work() -> None:
    weights = {"weights": (), "has_biases": False, "n_layers": 1, "bidirectional": False}
    op = Recurrent(inputs=("x",), **WHERE, kind="lstm", **weights, batch_first=True, item=0)
    with pytest.raises(NotImplementedError, match=r"'lrp'.*Recurrent\(lstm\).*'op'") as raised:
        lrp.find(op)
    known = {entry["name"]: entry["requires"] for entry in explainers.available()}
    named = str(raised.value).partition("alone (")[2].partition(")")[0].split(", ")
    assert len(named) > 3
    for name in named:
        assert set(known[name]) <= {"gradient"}
