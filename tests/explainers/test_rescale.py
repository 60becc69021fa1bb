"""Rule table `rescale`, operator by operator: complete, and the gradient where nothing changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from explainers.operators import (
    Activation,
    Attention,
    Elementwise,
    Generic,
    MatrixProduct,
    MaxPool,
    Multiply,
    Normalise,
    Operator,
    Quotient,
    Recurrent,
    Selection,
    Slot,
    Softmax,
    Unary,
)
from explainers.rules.gradient import gradient
from explainers.rules.rescale import Contrast, Rescaling, rescale

aten = torch.ops.aten
F64 = torch.float64


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def made(kind: type[Any], n_inputs: int = 1, /, **fields: Any) -> Any:
    inputs = tuple("abcd"[:n_inputs])
    return kind(name="y", module_path="", inputs=inputs, **fields)


def call(kind: type[Any], function: Any, n_inputs: int = 1, *more: Any, **fields: Any) -> Any:
    arguments = (*(Slot(position) for position in range(n_inputs)), *more)
    return made(kind, n_inputs, function=function, arguments=arguments, **fields)


def normalise(kind: str, shape: tuple[int, ...], size: int, *, is_plain: bool = False) -> Any:
    weight, bias = drawn(size, seed=7), drawn(size, seed=8)
    if is_plain:
        weight = bias = None
    return made(Normalise, kind=kind, shape=shape, weight=weight, bias=bias, eps=1e-3)


LONG = {"stride": (2,), "padding": (1,), "dilation": (1,)}
WIDE = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1)}
DEEP = {"stride": (1,) * 3, "padding": (0,) * 3, "dilation": (1,) * 3}
KEPT = torch.tensor([True, False, True, True, True])
QUERY = (2, 3, 4, 5)

CASES: dict[str, tuple[Any, list[tuple[int, ...] | Tensor]]] = {
    **{
        kind: (made(Activation, kind=kind), [(3, 7)])
        for kind in ("relu", "sigmoid", "silu", "gelu", "hardswish", "softplus", "mish")
    },
    "relu6": (made(Activation, kind="hardtanh", parameters=(0.0, 0.5)), [(3, 7)]),
    "leaky relu": (made(Activation, kind="leaky_relu", parameters=(0.1,)), [(3, 7)]),
    "pool 1d": (made(MaxPool, size=(3,), **LONG), [(3, 2, 9)]),
    "pool 2d": (made(MaxPool, size=(3, 3), **WIDE), [(3, 2, 7, 7)]),
    "pool 3d": (made(MaxPool, size=(2, 2, 2), **DEEP), [(3, 2, 4, 4, 4)]),
    "pool to size": (made(MaxPool, size=(3, 3), is_adaptive=True), [(3, 2, 7, 7)]),
    "product": (made(Multiply, 2), [(3, 4, 5), (3, 4, 1)]),
    "square": (Multiply(name="y", module_path="", inputs=("a", "a")), [(3, 4)]),
    "matrix product": (made(MatrixProduct, 2), [(3, 2, 4, 5), (3, 2, 5, 6)]),
    "softmax": (made(Softmax, dim=-1), [(3, 4, 6)]),
    "softmax of channels": (made(Softmax, dim=1), [(3, 4, 6)]),
    "log softmax": (made(Softmax, dim=-1, is_log=True), [(3, 6)]),
    "layer norm": (normalise("layer", (5,), 5), [(3, 4, 5)]),
    "layer norm of two axes": (normalise("layer", (4, 5), 5, is_plain=True), [(3, 4, 5)]),
    "group norm": (normalise("group", (2,), 4), [(3, 4, 5, 5)]),
    "rms norm": (normalise("rms", (5,), 5), [(3, 4, 5)]),
    "attention": (made(Attention, 3), [QUERY, (2, 3, 6, 5), (2, 3, 6, 7)]),
    "causal attention": (made(Attention, 3, is_causal=True, scale=0.3), [QUERY] * 3),
    "masked attention": (
        made(Attention, 4),
        [QUERY, (2, 3, 5, 5), (2, 3, 5, 5), KEPT.expand(4, 5)],
    ),
    "biased attention": (made(Attention, 4), [QUERY, (2, 3, 5, 5), (2, 3, 5, 5), (2, 1, 4, 5)]),
    "grouped attention": (
        made(Attention, 3, enable_gqa=True),
        [(2, 4, 3, 5), (2, 2, 6, 5), (2, 2, 6, 5)],
    ),
    "exp": (call(Unary, aten.exp.default), [(3, 4)]),
    "cube": (call(Unary, aten.pow.Tensor_Scalar, 1, 3), [(3, 4)]),
    "quotient": (call(Quotient, aten.div.Tensor, 2), [(3, 4, 5), (3, 1, 5)]),
    "maximum": (call(Selection, aten.maximum.default, 2), [(3, 4), (3, 4)]),
    "choice": (
        call(Selection, aten.where.self, 3, choosers=(0,)),
        [torch.tensor([True, False, True, False]), (3, 4), (3, 4)],
    ),
    "mask of minus infinity": (
        call(Selection, aten.masked_fill.Scalar, 2, -torch.inf, choosers=(1,)),
        [(3, 5), ~KEPT],
    ),
}
POSITIVE = {"quotient": 3.0}
"""Added to values, so that nothing is divided by nearly zero."""


def values_of(op: Operator, shapes: list[Any], seed: int, name: str) -> dict[str, Tensor]:
    """Values of one row and the rest of the inputs; fixed ones are the same for all seeds."""
    found = {
        key: shape if isinstance(shape, Tensor) else drawn(*shape, seed=seed + position)
        for position, (key, shape) in enumerate(zip(dict.fromkeys(op.inputs), shapes, strict=True))
    }
    if name in POSITIVE:
        found = {key: value * 0.5 + POSITIVE[name] for key, value in found.items()}
    return found | {"y": op.run(*(found[key] for key in op.inputs))}


def changing(shapes: list[Any]) -> frozenset[str]:
    letters = zip("abcd", shapes, strict=False)
    return frozenset(letter for letter, shape in letters if not isinstance(shape, Tensor))


def multipliers(
    op: Operator, relevance: Tensor, values: Any, reference: Any, dependent: frozenset[str]
) -> dict[str, Tensor]:
    rule = Rescaling(Contrast(reference, dependent, 1e-10))(op)
    found: dict[str, Tensor] = {}
    for name, part in zip(op.inputs, rule(op, relevance, values), strict=True):  # type: ignore[arg-type]
        if part is not None and name in dependent:
            assert part.shape == values[name].shape
            found[name] = found[name] + part if name in found else part
    return found


def inner(left: Tensor, right: Tensor) -> Tensor:
    # what a mask has made infinite is the same at the reference: no difference
    return torch.where(left == 0, 0, left * right).flatten(1).sum(1)


def difference(left: Tensor, right: Tensor) -> Tensor:
    return torch.where(left == right, 0, left - right)


@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_the_difference_of_the_output_is_handed_on_whole(name: str, is_shared: bool) -> None:
    op, shapes = CASES[name]
    values, reference = values_of(op, shapes, 10, name), values_of(op, shapes, 20, name)
    dependent = changing(shapes)
    if is_shared:
        reference = {
            key: value[:1] if key in dependent else value for key, value in reference.items()
        }
        reference["y"] = op.run(*(reference[key] for key in op.inputs))
    relevance = drawn(*values["y"].shape, seed=3)
    found = multipliers(op, relevance, values, reference, dependent)
    assert found.keys() == dependent
    expected = inner(difference(values["y"], reference["y"]), relevance)
    total = sum(inner(values[key] - reference[key], part) for key, part in found.items())
    # sums of some hundred products of about one
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_multipliers_are_the_gradient_where_nothing_changes(name: str) -> None:
    op, shapes = CASES[name]
    values, dependent = values_of(op, shapes, 10, name), changing(shapes)
    relevance = drawn(*values["y"].shape, seed=3)
    expected: dict[str, Tensor] = {}
    for key, part in zip(op.inputs, gradient.find(op)(op, relevance, values), strict=True):
        if key in dependent:
            expected[key] = expected[key] + part if key in expected else part
    found = multipliers(op, relevance, values, values, dependent)
    for key, part in expected.items():
        torch.testing.assert_close(found[key], part, rtol=1e-12, atol=1e-12)


def slowly(function: Any, slope: Any, value: float, before: float, eps: float) -> float:
    """The Rescale rule as it is written, for one number."""
    if abs(value - before) > eps:
        return float((function(value) - function(before)) / (value - before))
    return float(slope((value + before) / 2))


@pytest.mark.parametrize("eps", [1e-10, 1e-5])
def test_an_activation_has_the_secant_or_the_slope_halfway(eps: float) -> None:
    op = made(Activation, kind="sigmoid")
    value = torch.tensor([[1.0, 0.3, -2.0, 0.7, 0.7]], dtype=F64)
    before = torch.tensor([[1.0 - 1e-6, 0.3, 2.5, 0.7 + 1e-7, -0.7]], dtype=F64)
    function = lambda number: torch.sigmoid(torch.tensor(number, dtype=F64))  # noqa: E731
    slope = lambda number: function(number) * (1 - function(number))  # noqa: E731
    pairs = zip(value[0].tolist(), before[0].tolist(), strict=True)
    expected = [slowly(function, slope, *pair, eps) for pair in pairs]
    rule = Rescaling(Contrast({"a": before, "y": op.run(before)}, frozenset("a"), eps))(op)
    (found,) = rule(op, torch.ones_like(value), {"a": value, "y": op.run(value)})  # type: ignore[misc]
    torch.testing.assert_close(found, torch.tensor([expected], dtype=F64), rtol=1e-14, atol=0)


def test_a_relu_has_its_secant() -> None:
    op = made(Activation, kind="relu")
    value = torch.tensor([[2.0, -1.0, 1.0, -1.0, 0.0, 3.0, -3.0, 1e-200]], dtype=F64)
    before = torch.tensor([[1.0, -2.0, -3.0, 1.0, 0.0, 3.0, -3.0, 0.0]], dtype=F64)
    rule = Rescaling(Contrast({"a": before}, frozenset("a"), 1e-10))(op)
    (found,) = rule(op, torch.ones_like(value), {"a": value})  # type: ignore[misc]
    expected = torch.tensor([[1, 0, 0.25, 0.5, 0, 1, 0, 1]], dtype=F64)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_max_pool_gives_to_the_larger_maximum() -> None:
    op = made(MaxPool, size=(2,), stride=(2,), padding=(0,), dilation=(1,))
    value = torch.tensor([[[5.0, 1.0, 2.0, 0.0, 1.0, 4.0]]], dtype=F64)
    before = torch.tensor([[[1.0, 3.0, 1.0, 8.0, 1.0, 4.0]]], dtype=F64)
    values, reference = ({"a": each, "y": op.run(each)} for each in (value, before))
    found = multipliers(op, torch.ones(1, 1, 3, dtype=F64), values, reference, frozenset("a"))["a"]
    # 5 - 3 over 5 - 1 at the first; 2 - 8 over 0 - 8 at the fourth; nothing changes in the third
    expected = torch.tensor([[[0.5, 0, 0, 0.75, 0, 1]]], dtype=F64)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_logits_far_apart_stay_finite(dtype: torch.dtype) -> None:
    op = made(Softmax, dim=-1)
    value = torch.tensor([[800.0, -800.0, 0.0, 3.0]], dtype=dtype)
    before = torch.tensor([[-700.0, 900.0, 0.0, 3.0]], dtype=dtype)
    values, reference = ({"a": each, "y": op.run(each)} for each in (value, before))
    relevance = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=dtype)
    found = multipliers(op, relevance, values, reference, frozenset("a"))["a"]
    assert bool(found.isfinite().all())
    # one and two change places: 1 * 1 - 1 * 2, to the type's rounding of multipliers times 1,500
    assert float((found * (value - before)).sum()) == pytest.approx(-1, abs=2e-2)


def test_what_has_no_rule_is_refused_with_what_would_work() -> None:
    sequence = {"weights": (), "has_biases": False, "n_layers": 1, "bidirectional": False}
    recurrent = made(Recurrent, 2, kind="lstm", batch_first=True, item=0, **sequence)
    for op in (recurrent, call(Generic, aten.linalg_inv.default)):
        with pytest.raises(NotImplementedError, match=r"'rescale' has no rule.*integrated_grad"):
            rescale.find(op)
    # or an unknown operator would get a gradient in silence
    assert not rescale.names(Operator)


@pytest.mark.parametrize(
    "op",
    [
        call(Selection, aten.where.self, 3, choosers=(0,)),
        call(Elementwise, aten.addcdiv.default, 3),
    ],
)
def test_a_choice_by_the_input_and_functions_of_three_values_are_refused(op: Any) -> None:
    values = {name: drawn(2, 3) for name in (*op.inputs, "y")}
    rule = Rescaling(Contrast(values, frozenset("abc"), 1e-10))(op)
    with pytest.raises(NotImplementedError, match=r"of 3 values that depend.*integrated_gradients"):
        rule(op, drawn(2, 3), values)
