"""Conditional relevance against a slow propagation through autograd, written for this test."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from explainers import Network, Trace
from explainers.composites import Assignment, Composite, find
from explainers.concepts import conditional as module
from explainers.concepts.conditional import conditional
from explainers.concepts.conditions import Condition
from explainers.concepts.legs import legs
from explainers.operators import Input, Linear
from explainers.targets import Target
from tests.explainers.twins import seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from explainers.concepts.recording import Conditional
    from explainers.rules.table import Choose

pytestmark = pytest.mark.slow

# The same float64 sums in another order, divided by denominators that are rarely small.
TOLERANCE = {"rtol": 1e-8, "atol": 1e-10}
EPSILON = 1e-6
PREDICTED = Target.parse(None)


class Propagated(torch.autograd.Function):
    """A layer whose backward pass hands on relevance: by all, or by positive, contributions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Module, rule: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer, ctx.rule = layer, rule
        return layer(x)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None, None]:
        (x,), layer = ctx.saved_tensors, ctx.layer
        if ctx.rule == "epsilon" or isinstance(layer, nn.Linear):
            return contributed(layer, x, relevance, layer.weight, layer.bias), None, None
        # of signed inputs, the negative ones contribute by negative weights
        parts = torch.cat([x.clamp(min=0), x.clamp(max=0)], 1)
        weight = torch.cat([layer.weight.clamp(min=0), layer.weight.clamp(max=0)], 1)
        found = contributed(layer, parts, relevance, weight, layer.bias.clamp(min=0))
        return found[:, : x.shape[1]] + found[:, x.shape[1] :], None, None


def contributed(
    layer: nn.Module, x: Tensor, relevance: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        if isinstance(layer, nn.Linear):
            z = functional.linear(x, weight, bias)
        else:
            z = functional.conv2d(x, weight, bias, padding=layer.padding)
        (back,) = torch.autograd.grad(
            z, x, relevance / (z + EPSILON * torch.copysign(z * 0 + 1, z))
        )
    return x.detach() * back


class Passed(torch.autograd.Function):
    """An activation that hands on what arrives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return functional.relu(x)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Tensor:
        return relevance


class Added(torch.autograd.Function):
    """A sum that shares by its terms, and the stabiliser by their amounts."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(first, second)
        return first + second

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor]:
        first, second = ctx.saved_tensors
        z = first + second
        epsilon = EPSILON * torch.where(z < 0, -1.0, 1.0)
        share = relevance / (z + epsilon)
        weight = (first.abs() / (first.abs() + second.abs())).nan_to_num(0.5)
        return (first + epsilon * weight) * share, (second + epsilon * (1 - weight)) * share


class Branched(nn.Module):
    """Branches side by side, a module that is used twice, a residual sum, ReLUs without modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(4, 3, 1)
        self.again = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.first(x))
        hidden = functional.relu(self.left(hidden) + self.right(hidden))
        inner = functional.relu(self.again(hidden))
        hidden = functional.relu(self.again(inner)) + hidden
        return self.head(functional.max_pool2d(hidden, 2).flatten(1))

    def taped(self, x: Tensor, rule: str) -> dict[str, Tensor]:
        """Return named values of a forward pass that is differentiated to relevance."""

        def through(layer: nn.Module, x: Tensor) -> Tensor:
            found: Tensor = Propagated.apply(x, layer, rule)
            return found

        tape = {"first": through(self.first, x)}
        hidden = Passed.apply(tape["first"])
        tape["left"], tape["right"] = through(self.left, hidden), through(self.right, hidden)
        hidden = Passed.apply(Added.apply(tape["left"], tape["right"]))
        tape["again"] = through(self.again, hidden)
        tape["again#1"] = through(self.again, Passed.apply(tape["again"]))
        hidden = Added.apply(Passed.apply(tape["again#1"]), hidden)
        tape["head"] = through(self.head, functional.max_pool2d(hidden, 2).flatten(1))
        return tape


@functools.cache
def branched() -> tuple[Branched, Network, Tensor]:
    inputs = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    model = seeded(Branched())
    assert isinstance(model, Branched)
    return model, Network(model, inputs), inputs


RULES = {
    "epsilon": Composite((Assignment("epsilon", ("type:Convolution", "type:Linear")),)),
    "z_plus": find("epsilon_plus"),
}


def choice(rule: str = "z_plus") -> Choose:
    return RULES[rule].with_defaults(epsilon=EPSILON).choose(branched()[1])


def found_by(
    conditions: Sequence[Mapping[str, Any]], rule: str = "z_plus", **how: Any
) -> Conditional:
    _, network, inputs = branched()
    return conditional(Trace(network, inputs), PREDICTED, conditions, choice(rule), **how)


def mask_of(chosen: Any, value: Tensor) -> Tensor:
    """Return ones where relevance is kept, of one sample, shaped as the value."""
    mask = torch.zeros_like(value)
    if chosen == "all":
        return mask + 1
    if isinstance(chosen, dict):
        for channel, positions in chosen.items():
            mask.flatten(2)[:, channel, positions] = 1
        return mask
    mask[:, chosen] = 1
    return mask


def slowly(
    x: Tensor,
    condition: Mapping[str, Any],
    stages: Sequence[Sequence[str]] | None,
    rule: str,
    start: str | None = None,
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Return the map of one sample, and relevances of named layers before and after masks.

    With stages, relevance is carried from one to the next alone; without, masks are hooks.
    """
    x = x[None].clone().requires_grad_()
    tape = branched()[0].taped(x, rule)
    before, after = dict[str, Tensor](), dict[str, Tensor]()

    def masked(name: str, relevance: Tensor) -> Tensor:
        before[name] = relevance
        after[name] = relevance * mask_of(condition[name], tape[name].detach())
        return after[name]

    origin = "head" if start is None else start
    value = tape[origin].detach()
    classes = condition.get("y", [int(value.argmax())])
    relevance = value * mask_of(classes, value) if start is None else value
    named = [name for name in condition if name != "y"]
    if stages is None:
        for name in named:
            if name != origin:
                tape[name].register_hook(functools.partial(masked, name))
        relevance = masked(origin, relevance) if origin in named else relevance
        (found,) = torch.autograd.grad(tape[origin], x, relevance)
        return found[0], before, after
    tensors, relevances = [tape[origin]], [relevance]
    for stage in stages:
        if stage == [origin]:
            relevances = [masked(origin, relevance)]
            continue
        ends = [tape[name] for name in stage]
        arrived = torch.autograd.grad(tensors, ends, relevances, retain_graph=True)
        tensors = ends
        relevances = [masked(name, part) for name, part in zip(stage, arrived, strict=True)]
    (found,) = torch.autograd.grad(tensors, x, relevances)
    return found[0], before, after


Stages = list[list[str]]
CASES: dict[str, tuple[dict[str, Any], Stages]] = {
    "nothing": ({}, []),
    "channel": ({"again": [1]}, [["again"]]),
    "union": ({"first": [0, 2, 3]}, [["first"]]),
    "and": ({"first": [1, 2], "again#1": [0, 2], "y": [3]}, [["again#1"], ["first"]]),
    "reused": ({"again": [0, 2], "again#1": [1, 2]}, [["again#1"], ["again"]]),
    "none": ({"left": [], "y": [0, 2]}, [["left"]]),
    "side_by_side": ({"left": [0, 1], "right": [2]}, [["left", "right"]]),
    "one_of_two": (
        {"left": [0, 1], "right": [], "again": "all"},
        [["again"], ["left", "right"]],
    ),
    "neurons": (
        {"again#1": {0: [3, 5], 2: [15]}, "first": {1: [0, 6, 7]}},
        [["again#1"], ["first"]],
    ),
    "output": ({"head": [2], "first": [0], "y": [1, 2]}, [["head"], ["first"]]),
}


@pytest.mark.parametrize("exclude_parallel", [True, False], ids=["excluded", "included"])
@pytest.mark.parametrize("rule", [pytest.param("epsilon", marks=pytest.mark.slow), "z_plus"])
def test_maps_are_those_of_a_slow_propagation(rule: str, exclude_parallel: bool) -> None:
    _, _, inputs = branched()
    conditions = [condition for condition, _ in CASES.values()]
    # layer sets differ, so that rows are explained in groups: the order has to be the caller's
    named = ["first", "left", "right", "again", "again#1"]
    found = found_by(conditions, rule, exclude_parallel=exclude_parallel, record=named)
    for column, (condition, stages) in enumerate(CASES.values()):
        for row, x in enumerate(inputs):
            expected, before, after = slowly(
                x, condition, stages if exclude_parallel else None, rule
            )
            torch.testing.assert_close(found.heatmaps[row, column], expected, **TOLERANCE)
            for layer in before.keys() & {*named}:
                arrived = found.relevances_before[layer][row, column]
                left = found.relevances_after[layer][row, column]
                torch.testing.assert_close(arrived, before[layer][0], **TOLERANCE)
                torch.testing.assert_close(left, after[layer][0], **TOLERANCE)


@pytest.mark.parametrize("exclude_parallel", [True, False], ids=["excluded", "included"])
def test_relevance_may_start_at_a_layer_with_its_activation(exclude_parallel: bool) -> None:
    _, _, inputs = branched()
    cases: list[tuple[dict[str, Any], Stages]] = [
        ({}, []),
        ({"again#1": [1]}, [["again#1"]]),
        ({"again#1": {2: [6]}, "first": [3]}, [["again#1"], ["first"]]),
    ]
    conditions = [condition for condition, _ in cases]
    found = found_by(conditions, start="again#1", exclude_parallel=exclude_parallel)
    for column, (condition, stages) in enumerate(cases):
        for row, x in enumerate(inputs):
            way = stages if exclude_parallel else None
            expected, _, _ = slowly(x, condition, way, "z_plus", "again#1")
            torch.testing.assert_close(found.heatmaps[row, column], expected, **TOLERANCE)


def test_initial_relevance_is_what_is_given() -> None:
    _, network, inputs = branched()
    value = Trace(network, inputs).layer("again#1")
    plain = found_by([{"first": [1]}], start="again#1").heatmaps
    given: list[tuple[Any, Tensor]] = [
        (value, plain),
        (lambda value: 3 * value, 3 * plain),
        (value[0], found_by([{"first": [1]}], start="again#1", initial=value[:1]).heatmaps),
    ]
    for initial, expected in given:
        found = found_by([{"first": [1]}], start="again#1", initial=initial).heatmaps
        torch.testing.assert_close(found, expected, **TOLERANCE)
    ones = found_by([{}], start="again#1", initial=1, record=["again#1"])
    assert torch.equal(ones.relevances_before["again#1"][:, 0], torch.ones_like(value))
    logits = Trace(network, inputs).output
    halves = found_by([{"y": 1}], initial=logits / 2).heatmaps
    torch.testing.assert_close(2 * halves, found_by([{"y": 1}]).heatmaps, **TOLERANCE)


@pytest.mark.parametrize(("layer", "n"), [("first", 4), ("again", 3), ("right", 3), ("head", 4)])
def test_maps_of_all_concepts_sum_to_that_of_the_layer(layer: str, n: int) -> None:
    y = [0, 1, 2, 3]  # what an output that is explained gets is not a matter of concepts
    parts = found_by([{layer: concept, "y": y} for concept in range(n)]).heatmaps.sum(1)
    whole = found_by([{layer: "all", "y": y}, {layer: [*range(n)], "y": y}]).heatmaps
    torch.testing.assert_close(parts, whole[:, 0], **TOLERANCE)
    assert torch.equal(whole[:, 0], whole[:, 1])


def test_directions_that_are_axes_are_channels_and_complete_ones_sum_to_all() -> None:
    basis = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double())[
        0
    ]
    conditions = [{"again": [0]}, {"again": [1]}, {"again": [2]}, {"again": [0, 2]}]
    axes = found_by(conditions, concepts={"again": {"directions": torch.eye(3)}}).heatmaps
    torch.testing.assert_close(axes, found_by(conditions).heatmaps, **TOLERANCE)
    turned = found_by(conditions, concepts={"again": {"directions": basis}}).heatmaps
    whole = found_by([{"again": "all"}]).heatmaps[:, 0]
    torch.testing.assert_close(turned[:, :3].sum(1), whole, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(turned[:, 0] + turned[:, 2], turned[:, 3], **TOLERANCE)


def test_many_pairs_are_each_as_if_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    _, network, inputs = branched()
    conditions: list[dict[str, Any]] = [
        {"again": [1]},
        {"first": {0: 2}},
        {"y": 2},
        {"again": "all"},
    ]
    whole = found_by(conditions, score=["left"], record=["left"])
    monkeypatch.setattr(module, "rows_at_once", lambda inputs: 2)
    pieces = found_by(conditions, score=["left"], record=["left"])
    for row in range(3):
        for column, condition in enumerate(conditions):
            trace = Trace(network, inputs[row : row + 1])
            alone = conditional(
                trace, PREDICTED, [condition], choice(), score=["left"], record=["left"]
            )
            for many in (whole, pieces):
                for name in ("relevances_before", "relevances_after"):
                    found, expected = getattr(many, name)["left"], getattr(alone, name)["left"]
                    torch.testing.assert_close(found[row, column], expected[0, 0], **TOLERANCE)
                found, expected = many.scores["left"].total, alone.scores["left"].total
                torch.testing.assert_close(found[row, column], expected[0, 0], **TOLERANCE)
                maps = many.heatmaps[row, column], alone.heatmaps[0, 0]
                torch.testing.assert_close(*maps, rtol=1e-6, atol=1e-10)


def test_numbers_may_be_those_of_numpy_and_torch() -> None:
    best = np.argsort(np.array([3.0, 1.0, 2.0]))[:2]
    expected = Condition.parse({"again": [1, 2], "y": 2})
    for given in (best, list(best), torch.from_numpy(best), [torch.tensor(1), 2]):
        assert Condition.parse({"again": given, "y": np.int64(2)}) == expected
    neuron = Condition.parse({"again": {1: [2]}})
    assert Condition.parse({"again": {np.int64(1): np.array([2])}}) == neuron
    for given in (np.array([1.0]), torch.tensor([True]), np.array([[1]])):
        with pytest.raises(TypeError, match="conditions on layer 'again': got"):
            Condition.parse({"again": given})


def test_conditions_can_be_paired_with_samples() -> None:
    conditions: list[dict[str, Any]] = [{"again": [1]}, {"first": [2], "y": 0}, {}]
    each = found_by(conditions, record=["again"])
    paired = found_by(conditions, pairing="zip", record=["again"])
    rows = torch.arange(3)
    torch.testing.assert_close(paired.heatmaps, each.heatmaps[rows, rows], **TOLERANCE)
    before = each.relevances_before["again"][rows, rows]
    torch.testing.assert_close(paired.relevances_before["again"], before, **TOLERANCE)
    with pytest.raises(ValueError, match="2 conditions for 3 samples"):
        found_by(conditions[:2], pairing="zip")


def test_what_is_recorded_goes_by_its_name() -> None:
    _, network, inputs = branched()
    found = found_by([{"again": [1]}], record=["again", "right", "first"], score=["again"])
    before, after = found.relevances_before["again"], found.relevances_after["again"]
    assert torch.equal(found.activations["again"], Trace(network, inputs).layer("again"))
    assert torch.equal(after[:, 0, 1], before[:, 0, 1])
    assert not after[:, 0, [0, 2]].any()
    assert before[:, 0, [0, 2]].any()
    torch.testing.assert_close(found.scores["again"].total, before.sum((-1, -2)), **TOLERANCE)
    assert torch.equal(found.prediction, Trace(network, inputs).output)
    untouched = found.relevances_before["first"], found.relevances_after["first"]
    assert torch.equal(*untouched)


class Issue(nn.Module):
    """The hand-computed case: two layers side by side, joined."""

    def __init__(self) -> None:
        super().__init__()
        weights = {
            "layer1": [[1.0, 2.0], [0.0, 1.0]],
            "layer2": [[2.0, 3.0], [0.0, 0.0]],
            "layer3": [[1.0, 4.0, 5.0, 0.0]],
        }
        for name, rows in weights.items():
            layer = nn.Linear(len(rows[0]), len(rows), bias=False)
            layer.weight.data = torch.tensor(rows)
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer3(torch.cat([self.layer1(x), self.layer2(x)], 1))


def test_the_hand_computed_case() -> None:
    inputs = torch.tensor([[-1.0, 1.0]]).double()
    network = Network(Issue().double(), inputs)
    choose = RULES["epsilon"].with_defaults(epsilon=1e-12).choose(network)
    ask: Callable[..., Conditional] = functools.partial(
        conditional, Trace(network, inputs), Target.parse(0), choose=choose
    )
    found = ask([{}, {"layer1": [0], "layer2": []}], record=["layer1", "layer2"])
    exact = {"rtol": 0, "atol": 1e-10, "check_dtype": False}
    torch.testing.assert_close(found.heatmaps[0], torch.tensor([[-11, 21], [-1, 2]]), **exact)
    for layer, expected in {"layer1": [1, 4], "layer2": [5, 0]}.items():
        relevance = found.relevances_before[layer][0, 0]
        torch.testing.assert_close(relevance, torch.tensor(expected), **exact)
    found = ask([{"layer2": [0], "layer1": [0]}, {"layer1": [0]}], exclude_parallel=False)
    torch.testing.assert_close(found.heatmaps[0], torch.tensor([[-11, 17], [-11, 17]]), **exact)
    found = ask([{"layer2": [0], "layer1": [0]}, {"layer1": [0]}])
    torch.testing.assert_close(found.heatmaps[0], torch.tensor([[-11, 17], [-1, 2]]), **exact)


@pytest.mark.parametrize(
    ("conditions", "how", "error", "message"),
    [
        ([{"agian": [1]}], {}, LookupError, "conditions: unknown layer 'agian'"),
        ([{"again": [3]}], {}, ValueError, "concept 3 of layer 'again', which has 3 concepts"),
        ([{"again": {1: 16}}], {}, ValueError, r"16 positions \(4 x 4"),
        ([{"again": [-1]}], {}, ValueError, "counted from zero"),
        ([{"again": 0.5}], {}, TypeError, "conditions on layer 'again': got 0.5"),
        ([{"again": "al"}], {}, TypeError, "got 'al'"),
        ([{"y": 4}], {}, ValueError, "conditions on 'y': target class 4"),
        ([{"y": "best"}], {}, ValueError, "conditions on 'y': unknown target"),
        ([{"y": {"layer": "again", "unit": 1}}], {}, ValueError, "start_layer"),
        ([{7: [1]}], {}, TypeError, "names of layers"),
        ([[1]], {}, TypeError, "a mapping from layers"),
        ([{"y": 1}], {"start": "again"}, ValueError, "leave out y"),
        ([{"head": [1]}], {"start": "again"}, ValueError, "does not depend on it"),
        ([{}], {"start": "again", "initial": torch.ones(5)}, ValueError, r"of shape \(5,\)"),
        ([{}], {"start": "again", "initial": "ones"}, TypeError, "expected a number"),
        ([{}], {"start": "again", "initial": float("nan")}, ValueError, "not finite"),
        ([{"again": 1}], {"concepts": {"left": "channels"}}, LookupError, "none of the layers"),
        ([{}], {"pairing": "all"}, ValueError, "'each' or 'zip'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    conditions: Any, how: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        found_by(conditions, **how)


def test_a_layer_beside_a_chain_has_a_way_of_its_own() -> None:
    # x -> a -> b -> c -> out and a -> d -> out: d lies beside b and c, and leads to a as they do
    drawn = {"x": (), "a": ("x",), "b": ("a",), "c": ("b",), "d": ("a",), "out": ("c", "d", "x")}
    made: dict[str, Any] = {
        name: Linear(name=name, module_path="", inputs=inputs, weight=torch.ones(1, 1), bias=None)
        for name, inputs in drawn.items()
    }
    made["x"] = Input(name="x", module_path="", inputs=(), shape=(1,))
    network: Any = SimpleNamespace(operators=tuple(made.values()))
    found = [(leg.sources, set(leg.ends)) for leg in legs(network, "out", {"a", "b", "c", "d"})]
    assert found[0] == (("out",), {"c", "d"})
    assert found[-1] == (("a",), {"x"})
    assert {(("c",), "b"), (("d",), "a"), (("b",), "a")} == {
        (sources, *ends) for sources, ends in found[1:-1]
    }
    assert [sources for sources, _ in found].index(("c",)) < [
        sources for sources, _ in found
    ].index(("b",))
    beside = [(leg.sources, leg.ends) for leg in legs(network, "out", {"b", "d"})]
    assert {*beside[0][1]} == {"b", "d"}
    assert [{*sources} for sources, _ in beside[1:]] == [{"b", "d"}]
    assert beside[1][1] == ("x",)
