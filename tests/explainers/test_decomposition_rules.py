"""Two-part rule, choices and refusals of the table ``decomposition``, operator by operator."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from explainers.operators import (
    Activation,
    Attention,
    Elementwise,
    Extreme,
    MatrixProduct,
    Multiply,
    Normalise,
    Quotient,
    Selection,
    Slot,
    Softmax,
    Unary,
)
from explainers.reading.program import Layout
from explainers.rules.decomposition import Parts, Streams, decomposition
from explainers.rules.decomposition.defined import check_defined

if TYPE_CHECKING:
    from collections.abc import Callable

    from explainers.operators import Operator

aten = torch.ops.aten
# a few operations on doubles of about one
TOLERANCE = {"rtol": 0, "atol": 1e-12}
SHAPE = (3, 4)


class Given:
    """One sample of a value and what of it is relevant in rows: some, all, nothing."""

    def __init__(
        self, seed: int, shape: tuple[int, ...] = SHAPE, value: Tensor | None = None
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(1, *shape, generator=generator, dtype=torch.float64)
        self.value = drawn if value is None else value
        share = torch.rand(3, *shape, generator=generator, dtype=torch.float64)
        # parts may be larger than the value, and of other sign
        self.relevant = (3 * share - 1) * self.value
        self.relevant[1], self.relevant[2] = self.value[0], 0
        self.irrelevant = self.value - self.relevant


def behind(op: Operator, *given: Given | Tensor, strict: bool) -> tuple[Tensor, Tensor]:
    """Both parts behind an operator; tensors are constants."""
    sources = [SimpleNamespace(name=name, batch_outer=1) for name in op.inputs]
    values = {
        name: one.value if isinstance(one, Given) else one
        for name, one in zip(op.inputs, given, strict=True)
    }
    values[op.name] = op.run(*(values[name] for name in op.inputs))
    constants = {
        name for name, one in zip(op.inputs, given, strict=True) if isinstance(one, Tensor)
    }
    network: Any = SimpleNamespace(
        operators=(*sources, op),
        output_name="",
        device=torch.device("cpu"),
        dependent=frozenset((*op.inputs, op.name)) - constants,
        layout=lambda name: None if name in constants else Layout(0, 1, (), torch.float64),
    )
    rows = torch.zeros(3, dtype=torch.int64)
    streams = Streams(network, values, rows, is_strict=strict)
    parts = tuple(
        # with one stream the whole sample has a row of its own behind the others
        Parts(
            *((one.relevant, one.irrelevant) if strict else (torch.cat((one.relevant, one.value)),))
        )
        if isinstance(one, Given)
        else Parts(None)
        for one in given
    )
    for name, one in zip(op.inputs, parts, strict=True):
        streams.enter(name, one)
    made = decomposition.find(op)(op, parts, streams)
    if strict:
        assert made.irrelevant is not None
        whole = made.relevant + made.irrelevant
        torch.testing.assert_close(whole, values[op.name].expand_as(whole), **TOLERANCE)
        return made.relevant, made.irrelevant
    assert made.irrelevant is None
    relevant = made.relevant[:3]
    rest = values[op.name] - relevant if relevant.is_floating_point() else relevant
    return relevant, rest


def in_turn(function: Callable[..., Tensor], *given: Given, bias: Tensor | float = 0.0) -> Tensor:
    """The relevant share of two players, each with everything it has, written out row by row."""
    rows = []
    for row in range(3):
        ours = [one.relevant[row : row + 1] for one in given]
        theirs = [one.irrelevant[row : row + 1] for one in given]
        nothing = function(*(torch.zeros_like(one) for one in ours))
        both = function(*(one.value for one in given))
        alone, other = function(*ours), function(*theirs)
        first = (alone - nothing + both - other) / 2
        second = (other - nothing + both - alone) / 2
        least = 1e-20
        share = (first.abs() + least) / (first.abs() + second.abs() + 2 * least)
        rows.append(first + (nothing + bias) * share)
    return torch.cat(rows)


def header(*inputs: str) -> dict[str, Any]:
    return {"name": "op", "module_path": "", "inputs": inputs}


def call(kind: type[Any], function: Any, *arguments: Any, **fields: Any) -> Any:
    slots = [one for one in arguments if isinstance(one, Slot)]
    names = header(*"abc"[: len(slots)])
    return kind(**names, function=function, arguments=arguments, **fields)


both_forms = pytest.mark.parametrize("strict", [False, True])


@both_forms
@pytest.mark.parametrize("kind", ["layer", "rms", "group"])
def test_norms_take_both_parts_in_turn_and_share_their_bias(kind: Any, strict: bool) -> None:
    given = Given(0, (4, 3))
    width = 4 if kind == "group" else 3
    weight, bias = torch.linspace(0.5, 2, width).double(), torch.linspace(-1, 1, width).double()
    shape = (2,) if kind == "group" else (3,)
    own = None if kind == "rms" else bias
    op = Normalise(**header("a"), kind=kind, shape=shape, weight=weight, bias=own, eps=1e-5)
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "layer": lambda x: functional.layer_norm(x, (3,), weight),
        "rms": lambda x: functional.rms_norm(x, (3,), weight, 1e-5),
        "group": lambda x: functional.group_norm(x, 2, weight),
    }
    along = bias[:, None] if kind == "group" else bias
    expected = in_turn(functions[kind], given, bias=0.0 if own is None else along)
    found, _ = behind(op, given, strict=strict)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@both_forms
@pytest.mark.parametrize("kind", ["gelu", "silu", "sigmoid", "tanh", "softplus", "hardsigmoid"])
def test_smooth_functions_take_both_parts_in_turn(kind: str, strict: bool) -> None:
    given = Given(1)
    op = Activation(**header("a"), kind=kind)
    found, irrelevant = behind(op, given, strict=strict)
    torch.testing.assert_close(found, in_turn(getattr(functional, kind), given), **TOLERANCE)
    # all of it, and nothing; what the function is at zero is a bias
    torch.testing.assert_close(found[1], op.run(given.value)[0], **TOLERANCE)
    torch.testing.assert_close(found[2], torch.zeros(SHAPE).double(), **TOLERANCE)
    torch.testing.assert_close(irrelevant[2], op.run(given.value)[0], **TOLERANCE)


@both_forms
def test_bounds_that_leave_out_zero_are_biases(strict: bool) -> None:
    given = Given(2)
    op = Activation(**header("a"), kind="clamp", parameters=(0.2, 1.0))
    found, _ = behind(op, given, strict=strict)
    torch.testing.assert_close(found, in_turn(lambda x: x.clamp(0.2, 1.0), given), **TOLERANCE)


@both_forms
def test_clips_take_the_relevant_part_first(strict: bool) -> None:
    given, slopes = Given(3), torch.tensor([0.1, 0.2, 0.3]).double()
    rectifier = call(Unary, aten.prelu.default, Slot(0), slopes)
    for op in (
        Activation(**header("a"), kind="hardtanh", parameters=(-0.5, 0.7)),
        Activation(**header("a"), kind="leaky_relu", parameters=(0.1,)),
        rectifier,
    ):
        found, _ = behind(op, given, strict=strict)
        torch.testing.assert_close(found, op.run(given.relevant), **TOLERANCE)


@both_forms
def test_products_share_what_two_values_make_together(strict: bool) -> None:
    left, right = Given(4), Given(5)
    op = Multiply(**header("a", "b"))
    found, _ = behind(op, left, right, strict=strict)
    torch.testing.assert_close(found, in_turn(torch.mul, left, right), **TOLERANCE)
    squared, _ = behind(Multiply(**header("a", "a")), left, left, strict=strict)
    torch.testing.assert_close(squared, in_turn(torch.square, left), **TOLERANCE)
    turned = Given(6, (4, 2))
    found, _ = behind(MatrixProduct(**header("a", "b")), left, turned, strict=strict)
    torch.testing.assert_close(found, in_turn(torch.matmul, left, turned), **TOLERANCE)


@both_forms
def test_what_is_certain_scales_both_parts(strict: bool) -> None:
    given, fixed = Given(7), torch.full((4,), 2.5).double()
    for op in (Multiply(**header("a", "b")), call(Quotient, aten.div.Tensor, Slot(0), Slot(1))):
        found, _ = behind(op, given, fixed, strict=strict)
        torch.testing.assert_close(found, op.run(given.relevant, fixed), **TOLERANCE)


@both_forms
def test_softmax_shares_equal_probabilities_and_gives_none_to_what_is_masked(strict: bool) -> None:
    given = Given(8)
    op = Softmax(**header("a"), dim=-1)
    found, _ = behind(op, given, strict=strict)
    torch.testing.assert_close(found, in_turn(lambda x: x.softmax(-1), given), **TOLERANCE)
    value = given.value.clone()
    value[..., 2] = -torch.inf
    masked = Given(8, value=value)
    masked.relevant = torch.where(value.isinf(), -torch.inf, given.relevant)
    masked.irrelevant = torch.where(value.isinf(), -torch.inf, given.irrelevant)
    found, _ = behind(op, masked, strict=strict)

    def without(x: Tensor) -> Tensor:
        return x[..., [0, 1, 3]].softmax(-1)

    expected = in_turn(without, given)
    torch.testing.assert_close(found[..., [0, 1, 3]], expected, **TOLERANCE)
    assert not found[..., 2].any()


@both_forms
def test_attention_takes_query_key_and_value_in_turn_together(strict: bool) -> None:
    given = [Given(seed, (2, 5, 4)) for seed in (9, 10, 11)]
    op = Attention(**header("a", "b", "c"), is_causal=True)
    found, _ = behind(op, *given, strict=strict)
    torch.testing.assert_close(found, in_turn(op.run, *given), **TOLERANCE)


@both_forms
def test_choices_come_from_where_the_whole_values_are_chosen(strict: bool) -> None:
    left, right = Given(12), Given(13)
    op = call(Selection, aten.maximum.default, Slot(0), Slot(1))
    found, _ = behind(op, left, right, strict=strict)
    chosen = left.value >= right.value
    expected = torch.where(chosen, left.relevant, right.relevant)
    torch.testing.assert_close(found, expected, **TOLERANCE)
    condition = torch.tensor([True, False, True, False]).expand(1, 3, 4)
    op = call(Selection, aten.where.self, Slot(0), Slot(1), Slot(2), choosers=(0,))
    found, _ = behind(op, condition, left, right, strict=strict)
    expected = torch.where(condition, left.relevant, right.relevant)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@both_forms
def test_something_fixed_that_is_chosen_is_shared_by_what_it_stands_for(strict: bool) -> None:
    given, mask = Given(14), torch.tensor([True, False, False, True]).expand(1, 3, 4)
    op = call(Selection, aten.masked_fill.Scalar, Slot(0), Slot(1), 3.0, choosers=(1,))
    found, _ = behind(op, given, mask, strict=strict)
    share = given.relevant.abs() / (given.relevant.abs() + given.irrelevant.abs())
    expected = torch.where(mask, 3.0 * share, given.relevant)
    torch.testing.assert_close(found, expected, **TOLERANCE)


EXTREMES = (
    (aten.amax.default, (Slot(0), [1, 2], True), None),
    (aten.amin.default, (Slot(0), [-1], False), None),
    (aten.max.dim, (Slot(0), 1, False), 0),
    (aten.topk.default, (Slot(0), 2, -1, True, True), 0),
    (aten.sort.default, (Slot(0), 1, True), 0),
    (aten.median.dim, (Slot(0), -1, True), 0),
    (aten.kthvalue.default, (Slot(0), 3, -1, False), 0),
)


@both_forms
@pytest.mark.parametrize(("function", "arguments", "item"), EXTREMES)
def test_extremes_come_from_their_places(
    function: Any, arguments: tuple[Any, ...], item: int | None, strict: bool
) -> None:
    given = Given(15)
    op = call(Extreme, function, *arguments, item=item)
    whole = op.run(given.value)
    # no two values are the same, so that each says where it was
    places = (whole.reshape(-1, 1) == given.value.reshape(1, -1)).nonzero()[:, 1]
    expected = given.relevant.flatten(1)[:, places].view(3, *whole.shape[1:])
    found, _ = behind(op, given, strict=strict)
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_of_equal_values_the_first_is_taken() -> None:
    given = Given(16, (4,), torch.tensor([[1.0, 2.0, 2.0, 0.0]]).double())
    found, _ = behind(call(Extreme, aten.amax.default, Slot(0), [-1], False), given, strict=True)
    torch.testing.assert_close(found, given.relevant[:, 1], **TOLERANCE)


@both_forms
def test_conditions_are_what_the_whole_values_make_them(strict: bool) -> None:
    given = Given(17)
    found, _ = behind(call(Elementwise, aten.gt.Scalar, Slot(0), 0.0), given, strict=False)
    assert torch.equal(found, (given.value > 0).expand(3, *SHAPE))
    op = call(Elementwise, aten.hypot.default, Slot(0), Slot(1))
    other = Given(18)
    found, _ = behind(op, given, other, strict=strict)
    torch.testing.assert_close(found, in_turn(torch.hypot, given, other), **TOLERANCE)


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (call(Quotient, aten.div.Tensor, Slot(0), Slot(1)), "divides by a value"),
        (call(Unary, aten.sqrt.default, Slot(0)), "not defined at every number"),
        (call(Unary, aten.pow.Tensor_Scalar, Slot(0), -1), "not defined at every number"),
        (call(Unary, aten.sign.default, Slot(0)), "jumps at zero"),
        (call(Elementwise, aten.addcdiv.default, Slot(0), Slot(1), Slot(2)), "not known"),
        (call(Selection, aten.where.Scalar, Slot(0), 1.0, 0.0), "between constants"),
        (call(Extreme, aten.topk.default, Slot(0), 2, -1, True, False), "in no order"),
    ],
)
def test_what_is_not_defined_for_parts_is_refused(op: Operator, reason: str) -> None:
    network: Any = SimpleNamespace(layout=lambda name: None)
    with pytest.raises(NotImplementedError, match=f"'decomposition' has no rule.*{reason}"):
        check_defined(op, network, {"a", "b"})


def test_functions_that_are_defined_everywhere_are_not_refused() -> None:
    network: Any = SimpleNamespace(layout=lambda name: None)
    for function, further in ((aten.exp.default, ()), (aten.pow.Tensor_Scalar, (3,))):
        check_defined(call(Unary, function, Slot(0), *further), network, {"a"})
    check_defined(Activation(**header("a"), kind="mish"), network, {"a"})
