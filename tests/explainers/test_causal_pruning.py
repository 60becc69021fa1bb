"""Networks of which a graph is kept, against weights that are set to zero by hand."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from explainers.causal.graphs import Links, graphs_of
from explainers.causal.pruning import Edges, edges_of, pruned, random_edges
from explainers.causal.structure import Structure, structure_of
from explainers.network import Network
from tests.explainers.zoo import small, small_network

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

TOLERANCE = 1e-11
"""Float64; norms are folded into weights, and sums are in another order."""

GRAPH = {
    "fc": {"causes": [1, 3], "negative_causes": [0], "effects": [2]},
    "conv2#1": {"causes": [0, 2], "effects": [1, 3]},
    "conv2": {"causes": [], "effects": [0, 2], "tested": [True] * 6},
    "conv1": {"causes": [], "effects": [0, 2]},
}
Keeps = Literal["graph", "complement"]


def edges(signs: Any = "positive") -> dict[str, Edges]:
    structure = structure_of(small_network())
    return edges_of(structure, graphs_of({2: GRAPH})[2], signs)


def by_hand(keep: Mapping[str, Tensor]) -> Tensor:
    """The small network with weights of their own for both uses of `conv2`, where flags say so."""
    model, inputs = small()
    with torch.no_grad():
        weights = {
            name: (model.fc if name == "fc" else model.conv2).weight * flags
            for name, flags in keep.items()
        }
        hidden = model.bn1(model.conv1(inputs)).relu()
        branch = functional.conv2d(hidden, weights["conv2"], model.conv2.bias, padding=1)
        hidden = (model.bn2(branch) + hidden).relu()
        hidden = functional.conv2d(hidden, weights["conv2#1"], model.conv2.bias, padding=1).relu()
        return functional.linear(model.pool(hidden).flatten(1), weights["fc"], model.fc.bias)


def flags(*, signs: str = "positive") -> dict[str, Tensor]:
    """Which weights the graph links; a neuron behind the flatten is sixteen features."""
    keep = {"fc": torch.zeros(5, 96), "conv2#1": torch.zeros(6, 6, 1, 1)}
    for channel in (1, 3) if signs == "positive" else (0, 1, 3):
        keep["fc"][2, 16 * channel : 16 * (channel + 1)] = 1
    for effect in (1, 3):
        keep["conv2#1"][effect, [0, 2]] = 1
    return {**keep, "conv2": torch.zeros(6, 6, 1, 1)}


@pytest.mark.parametrize("keeps", ["graph", "complement"])
@pytest.mark.parametrize("signs", ["positive", "both"])
def test_only_linked_weights_are_kept_or_dropped(keeps: Keeps, signs: str) -> None:
    network = small_network()
    made = pruned(network, structure_of(network), edges(signs), keeps=keeps)
    keep = flags(signs=signs)
    if keeps == "complement":
        keep = {name: 1 - each for name, each in keep.items()}
    found = made(small()[1])
    torch.testing.assert_close(found, by_hand(keep), rtol=0.0, atol=TOLERANCE)


def test_weights_of_other_outputs_can_be_kept_and_leave_the_logit_alone() -> None:
    network, inputs = small_network(), small()[1]
    structure = structure_of(network)
    kept = pruned(network, structure, edges(), other_outputs="kept")(inputs)
    zeroed = pruned(network, structure, edges())(inputs)
    keep = flags()
    keep["fc"][[0, 1, 3, 4]] = 1
    torch.testing.assert_close(kept, by_hand(keep), rtol=0.0, atol=TOLERANCE)
    torch.testing.assert_close(kept[:, 2], zeroed[:, 2], rtol=0.0, atol=TOLERANCE)
    assert bool((zeroed[:, [0, 1, 3, 4]] == zeroed[:1, [0, 1, 3, 4]]).all())


def test_all_edges_are_the_network_itself_which_stays_as_it_was() -> None:
    network, inputs = small_network(), small()[1]
    before = network(inputs)
    structure = structure_of(network)
    whole = {
        name: Edges(torch.ones_like(each.causes), torch.ones_like(each.effects))
        for name, each in edges().items()
    }
    pruned(network, structure, edges())(inputs)
    assert pruned(network, structure, whole)(inputs).equal(before)
    assert network(inputs).equal(before)


def test_random_graphs_are_as_wide_and_follow_the_structure() -> None:
    structure = structure_of(small_network())
    given = {**edges(), "conv2": Edges(torch.arange(6) < 3, torch.arange(6) < 2)}
    seen = set()
    for seed in range(8):
        drawn = random_edges(structure, given, 2, seed)
        again = random_edges(structure, given, 2, seed)
        for name, each in drawn.items():
            assert int(each.causes.sum()) == int(given[name].causes.sum())
            assert each.causes.equal(again[name].causes)
        assert drawn["fc"].effects.nonzero().flatten().tolist() == [2]
        # what the last layer's causes are made of is what the convolution makes
        assert drawn["conv2#1"].effects.equal(drawn["fc"].causes)
        # by way of the sum, the other use makes what this one reads
        assert drawn["conv2"].effects.equal(drawn["conv2#1"].causes)
        seen.add(tuple(drawn["fc"].causes.tolist()))
    assert len(seen) > 4
    others = [random_edges(structure, given, label, 0)["fc"].causes for label in range(5)]
    assert len({tuple(each.tolist()) for each in others}) > 1


def test_layers_that_were_not_tested_are_no_part_of_the_graph() -> None:
    assert set(edges()) == {"fc", "conv2#1", "conv2"}


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({"conv7": {"causes": [0], "effects": [0]}}, "conv7"),
        ({"fc": {"causes": [6], "effects": [0]}}, "unit 6 in layer 'fc', which has 6"),
        ({"fc": {"causes": [0], "effects": [5]}}, "unit 5 in layer 'fc', which has 5"),
    ],
)
def test_graphs_of_other_networks_are_refused(graph: Any, message: str) -> None:
    structure = structure_of(small_network())
    with pytest.raises(ValueError, match=message):
        edges_of(structure, graphs_of({0: graph})[0])


def test_an_unknown_choice_of_causes_is_refused() -> None:
    with pytest.raises(ValueError, match="'positive' or 'both'"):
        edges("negative")


FAMILIES = ["densenet121", "mobilenet_v3_small", "resnext50_32x4d", "shufflenet_v2_x0_5", "vgg11"]


@pytest.mark.slow
def test_a_pruned_residual_network_is_the_one_with_edited_weights() -> None:
    check_edits("resnet18")


@pytest.mark.long
@pytest.mark.parametrize("name", FAMILIES)
def test_pruned_networks_of_more_families_are_those_with_edited_weights(name: str) -> None:
    """Concatenation, gates, groups, depthwise convolutions, shuffles, units behind a flatten."""
    check_edits(name)


def check_edits(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = models.get_model(name, weights=None).double().eval()
    inputs = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    network = Network(model, inputs)
    structure = structure_of(network)
    chosen = grown(structure)
    found = pruned(network, structure, chosen)(inputs)
    with torch.no_grad():
        expected = edited(model, structure, chosen)(inputs)
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0.0, atol=TOLERANCE * scale)


def grown(structure: Structure) -> dict[str, Edges]:
    """A graph with half of each layer's neurons."""
    widths = {
        name: Links(
            torch.arange(0, structure.layer(name).n_neurons, 2),
            torch.tensor([], dtype=torch.int64),
            torch.tensor([], dtype=torch.int64),
            structure.layer(name).n_neurons,
        )
        for level in structure.levels
        for name in level
    }
    return random_edges(structure, edges_of(structure, widths), 1, 0)


def edited(model: nn.Module, structure: Structure, chosen: Mapping[str, Edges]) -> nn.Module:
    """The user's module with weights set to zero, output by output."""
    changed = copy.deepcopy(model)
    for name, each in chosen.items():
        layer = structure.layer(name)
        weight: Tensor = changed.get_submodule(name).weight.data  # type: ignore[assignment]
        width = weight.shape[1]
        for output in range(layer.n_outputs):
            first = output // (layer.n_outputs // layer.groups) * width
            neurons = layer.neuron_of[first : first + width]
            is_linked = each.effects[output] & each.causes[neurons.clamp(min=0)]
            weight[output, ~(is_linked | (neurons < 0))] = 0.0
    return changed
