"""Each ATen function becomes the operator it should be, computes the same, and differentiates."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from explainers.network import Network
from explainers.operators import (
    Activation,
    Add,
    Affine,
    Attention,
    AveragePool,
    Concat,
    Convolution,
    Elementwise,
    Extreme,
    Generic,
    Linear,
    LinearMap,
    MatrixProduct,
    MaxPool,
    Multiply,
    Normalise,
    Operator,
    Pad,
    Quotient,
    Reshape,
    Selection,
    Softmax,
    Unary,
)
from explainers.trace import Trace
from tests.explainers.zoo import Weighted, gradient_by_autograd, relative_error

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGE = (4, 6, 6)
SEQUENCE = (6, 8)


class Case(nn.Module):
    """A function between two curved maps, so that its gradient depends on its values."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        output = self.function(torch.tanh(inputs)).flatten(1)
        return output.sin() + output


class Cases(nn.Module):
    """All cases of one input shape next to each other: exporting each alone takes a minute."""

    def __init__(self, functions: dict[str, Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.cases = nn.ModuleDict({name: Case(function) for name, function in functions.items()})

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([case(inputs) for case in self.cases.values()], 1)


def _fixed(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


K1, K2, K3 = _fixed(6, 4, 3), _fixed(6, 2, 3, 3), _fixed(5, 4, 2, 3, 3)
T2 = _fixed(4, 3, 3, 3)
CHANNELS = _fixed(4, 1, 1)
TABLE, MATRIX, BIAS = _fixed(6, 8), _fixed(8, 5), _fixed(8)
LARGE = _fixed(1, 4, 6, 6)
INDEX = torch.tensor([3, 0, 0, 2])

CASES = [
    ("conv1d", (4, 9), lambda x: functional.conv1d(x, K1, BIAS[:6], 2, 1), Convolution),
    ("grouped", IMAGE, lambda x: functional.conv2d(x, K2, None, 1, 1, 2, 2), Convolution),
    ("conv3d", (4, 4, 5, 5), lambda x: functional.conv3d(x, K3), Convolution),
    (
        "same even",
        IMAGE,
        lambda x: functional.conv2d(x, K3[:, :, 0, :2], padding="same"),
        Convolution,
    ),
    ("transposed", IMAGE, lambda x: functional.conv_transpose2d(x, T2, None, 2, 1, 1), Convolution),
    ("linear", SEQUENCE, lambda x: functional.linear(x, MATRIX.mT, BIAS[:5]), Linear),
    ("addmm", (8,), lambda x: torch.addmm(BIAS[:5], x, MATRIX), Linear),
    ("matmul fixed", SEQUENCE, lambda x: x @ MATRIX, Linear),
    ("fixed matmul", SEQUENCE, lambda x: TABLE.mT @ x, MatrixProduct),
    ("matmul", SEQUENCE, lambda x: x @ x.mT, MatrixProduct),
    ("matmul broadcast", IMAGE, lambda x: x @ x[:, :1].mT, MatrixProduct),
    ("relu", IMAGE, lambda x: functional.relu(x), Activation),
    ("relu6", IMAGE, lambda x: functional.relu6(x * 9), Activation),
    ("clamp below", IMAGE, lambda x: x.clamp(min=-0.3), Activation),
    ("clamp", IMAGE, lambda x: x.clamp(-0.3, 0.4), Activation),
    ("clamp above", IMAGE, lambda x: x.clamp_max(0.2), Activation),
    ("clamp computed", IMAGE, lambda x: x.clamp(min=x.cos() / 4), Elementwise),
    ("sigmoid", IMAGE, torch.sigmoid, Activation),
    ("silu", IMAGE, functional.silu, Activation),
    ("gelu", IMAGE, functional.gelu, Activation),
    ("gelu tanh", IMAGE, lambda x: functional.gelu(x, approximate="tanh"), Activation),
    ("hardswish", IMAGE, lambda x: functional.hardswish(x * 5), Activation),
    ("hardsigmoid", IMAGE, lambda x: functional.hardsigmoid(x * 5), Activation),
    ("leaky", IMAGE, lambda x: functional.leaky_relu(x, 0.2), Activation),
    ("elu", IMAGE, lambda x: functional.elu(x, 0.7), Activation),
    ("softplus", IMAGE, functional.softplus, Activation),
    ("mish", IMAGE, functional.mish, Activation),
    ("max pool", IMAGE, lambda x: functional.max_pool2d(x, 3, 2, 1), MaxPool),
    ("max pool ceil", IMAGE, lambda x: functional.max_pool2d(x, 4, 3, ceil_mode=True), MaxPool),
    ("max pool 1d", (4, 9), lambda x: functional.max_pool1d(x, 2), MaxPool),
    ("max pool 3d", (4, 4, 4, 4), lambda x: functional.max_pool3d(x, 2), MaxPool),
    ("adaptive max", IMAGE, lambda x: functional.adaptive_max_pool2d(x, (2, 3)), MaxPool),
    ("avg pool", IMAGE, lambda x: functional.avg_pool2d(x, 3, 2, 1), AveragePool),
    (
        "avg pool padless",
        IMAGE,
        lambda x: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        AveragePool,
    ),
    ("avg pool 1d", (4, 9), lambda x: functional.avg_pool1d(x, 3), AveragePool),
    ("adaptive avg", IMAGE, lambda x: functional.adaptive_avg_pool2d(x, (4, 5)), AveragePool),
    ("global avg", IMAGE, lambda x: functional.adaptive_avg_pool2d(x, 1), AveragePool),
    ("adaptive avg 1d", (4, 9), lambda x: functional.adaptive_avg_pool1d(x, 4), AveragePool),
    ("mean", IMAGE, lambda x: x.mean((2, 3)), AveragePool),
    ("mean keep", IMAGE, lambda x: x - x.mean((1, -1), keepdim=True), AveragePool),
    ("scale", IMAGE, lambda x: x * CHANNELS, Affine),
    ("shift", IMAGE, lambda x: LARGE - x, Affine),
    ("number", IMAGE, lambda x: (3 - x / 7) * 2 + 1, Affine),
    ("negative", IMAGE, lambda x: -x, Affine),
    ("enlarged sum", (8,), lambda x: x[:, None] + TABLE, Affine),
    ("sum", IMAGE, lambda x: x + x.cos(), Add),
    ("weighted", IMAGE, lambda x: torch.add(x, x.cos(), alpha=0.3), Add),
    ("difference", IMAGE, lambda x: x - x.cos(), Add),
    ("broadcast sum", IMAGE, lambda x: x + x[:, :1, :, :1], Add),
    ("product", IMAGE, lambda x: x * x.cos(), Multiply),
    ("gate", IMAGE, lambda x: x * x.mean((2, 3), keepdim=True), Multiply),
    ("enlarged product", (8,), lambda x: x[:, None] * TABLE, Affine),
    (
        "concat",
        IMAGE,
        lambda x: torch.cat([x, x.cos(), LARGE.expand(len(x), -1, -1, -1)], 1),
        Concat,
    ),
    ("stack", SEQUENCE, lambda x: torch.stack([x, x.cos()], 2), Concat),
    ("pad", IMAGE, lambda x: functional.pad(x, (1, 2, 0, 1), value=0.5), Pad),
    ("reflect", IMAGE, lambda x: functional.pad(x, (1, 2, 1, 1), mode="reflect"), Pad),
    ("layer norm", SEQUENCE, lambda x: functional.layer_norm(x, (8,), BIAS, BIAS), Normalise),
    ("group norm", IMAGE, lambda x: functional.group_norm(x, 2, BIAS[:4], BIAS[4:]), Normalise),
    ("rms norm", SEQUENCE, lambda x: functional.rms_norm(x, (8,), BIAS), None),
    ("softmax", SEQUENCE, lambda x: x.softmax(1), Softmax),
    ("log softmax", SEQUENCE, lambda x: x.log_softmax(-1), Softmax),
    (
        "attention",
        (2, 6, 4),
        lambda x: functional.scaled_dot_product_attention(x, x.cos(), x.sin()),
        Attention,
    ),
    ("flatten", IMAGE, lambda x: x.flatten(2), Reshape),
    ("view", IMAGE, lambda x: x.view(x.shape[0] * 2, 2, 36).reshape(x.shape[0], -1), Reshape),
    ("permute", IMAGE, lambda x: x.permute(0, 2, 3, 1), Reshape),
    ("slice", IMAGE, lambda x: x[:, 1:, ::2, -1], Reshape),
    ("split", IMAGE, lambda x: x.split([1, 3], 1)[1] * x.chunk(4, 1)[0], Reshape),
    ("expand", IMAGE, lambda x: x[:, :1].expand(-1, 3, -1, -1), Reshape),
    (
        "token",
        SEQUENCE,
        lambda x: torch.cat([TABLE[None, :1].expand(len(x), -1, -1), x], 1),
        Concat,
    ),
    ("roll", IMAGE, lambda x: x.roll((1, -2), (2, 3)), Reshape),
    ("flip", IMAGE, lambda x: x.flip(3), Reshape),
    ("index", IMAGE, lambda x: x[:, INDEX], Reshape),
    ("shuffle", IMAGE, lambda x: functional.pixel_shuffle(x, 2), Reshape),
    ("nearest", IMAGE, lambda x: functional.interpolate(x, scale_factor=2), None),
    ("bilinear", IMAGE, lambda x: functional.interpolate(x, size=9, mode="bilinear"), LinearMap),
    ("exponential", IMAGE, torch.exp, Unary),
    ("where", IMAGE, lambda x: torch.where(x > 0, x, x.exp()), Selection),
    ("maximum", IMAGE, lambda x: torch.maximum(x, x.cos()), Selection),
    ("quotient", IMAGE, lambda x: x / (2 + x.cos()), Quotient),
    ("power", IMAGE, lambda x: (x + 2) ** 1.5, Unary),
    ("masked", IMAGE, lambda x: x.masked_fill(x > 0.3, 0.1), Selection),
    ("product added", IMAGE, lambda x: torch.addcmul(x, x.cos(), x, value=0.3), Multiply),
    ("scaled added", IMAGE, lambda x: torch.addcmul(LARGE, x, LARGE, value=0.3), Affine),
    ("total", IMAGE, lambda x: x.sum((1, 2)), LinearMap),
    ("running total", SEQUENCE, lambda x: x.cumsum(1), LinearMap),
    ("patches", IMAGE, lambda x: functional.unfold(x, 3, padding=1), LinearMap),
    ("windows", SEQUENCE, lambda x: x.unfold(1, 3, 2), Reshape),
    ("adaptive max 1d", (4, 9), lambda x: functional.adaptive_max_pool1d(x, 4), MaxPool),
    ("largest", IMAGE, lambda x: x.amax(1), Extreme),
    ("top two", IMAGE, lambda x: x.flatten(1).topk(5).values, Extreme),
    ("norm", SEQUENCE, lambda x: functional.normalize(x, dim=1), None),
    ("einsum", SEQUENCE, lambda x: torch.einsum("bij,bkj->bik", x, x.cos()), MatrixProduct),
]


@functools.cache
def traced(shape: tuple[int, ...]) -> tuple[Cases, Trace]:
    """All cases of one shape, and their trace."""
    inputs = _fixed(3, *shape, seed=5)
    model = Cases({name: function for name, wanted, function, _ in CASES if wanted == shape})
    network = Network(model, inputs[:2])
    assert network.is_program, network.reason
    return model, Trace(network, inputs)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    ("name", "shape", "kind"), [(name, shape, kind) for name, shape, _, kind in CASES]
)
def test_the_operator_computes_and_differentiates_as_the_function_does(
    name: str, shape: tuple[int, ...], kind: type[Operator] | None
) -> None:
    model, trace = traced(shape)
    owned = [op for op in trace.network.operators if op.module_path == f"cases.{name}"]
    if kind is not None:
        assert kind in {type(op) for op in owned}
    case = model.cases[name]
    expected = case(trace.inputs)
    found = trace.values[trace.network.operator(f"cases.{name}").name]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = _fixed(*expected.shape, seed=7)
    before = sum(case(trace.inputs).shape[1] for case in _before(model, name))
    spread = torch.zeros_like(trace.output)
    spread[:, before : before + expected.shape[1]] = weights
    gradient = trace.gradient(Weighted(spread))
    assert relative_error(gradient, gradient_by_autograd(case, trace.inputs, weights)) <= 1e-12


def _before(model: Cases, name: str) -> list[nn.Module]:
    names = list(model.cases)
    return [model.cases[other] for other in names[: names.index(name)]]


def test_a_token_repeated_for_each_row_does_not_depend_on_the_input() -> None:
    network = traced(SEQUENCE)[1].network
    (token,) = [op for op in network.operators if op.name == "cases.token.expand#0"]
    assert isinstance(token, Generic)
    assert token.name not in network.dependent


def test_constants_are_computed_once() -> None:
    network = Network(Case(lambda x: x @ (TABLE.softmax(1) * 3).mT), _fixed(2, *SEQUENCE))
    assert not [op for op in network.operators if isinstance(op, Softmax)]


def test_what_leaves_values_as_they_are_is_dropped() -> None:
    def function(inputs: Tensor) -> Tensor:
        hidden = functional.dropout(inputs.clone(), training=False).contiguous()
        return hidden[:, :].expand(len(inputs), -1).view(len(inputs), -1).to(torch.float64)

    network = Network(Case(function), _fixed(2, 5))
    assert [type(op).__name__ for op in network.operators] == [
        "Input",
        "Activation",
        "Unary",
        "Add",
    ]
