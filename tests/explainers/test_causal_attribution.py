"""Maps from causal graphs, against loops over children and parents."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import explainers
from explainers.causal.graphs import graphs_of
from explainers.causal.maps import Parents, forward_maps, literal_maps
from explainers.causal.structure import structure_of
from explainers.network import Network
from explainers.operators import Convolution
from tests.explainers.zoo import small, small_network

if TYPE_CHECKING:
    from collections.abc import Sequence

close = functools.partial(torch.testing.assert_close, rtol=0.0, atol=1e-12)
"""Float64; maps are shares of one, added in another order."""

CLASSES = torch.tensor([0, 1, 2, 0])

GRAPH: dict[Any, Any] = {
    0: {"fc": ([1, 3], [0]), "conv2#1": ([0, 2, 3], [1, 3]), "conv2": ([1, 4], [0, 2])},
    1: {"fc": ([2], [1]), "conv2#1": ([1], [2]), "conv2": ([], [1])},
    2: {"fc": ([4], [2]), "conv2#1": ([], [4]), "conv2": ([], [])},
}
"""Of the small network, whose second convolution is used twice: behind a norm its first value is
added to what it reads, and the second use reads the sum."""


def graph() -> dict[Any, Any]:
    """The graph in the form of the scan's result in the library."""
    return {
        label: {
            name: {
                "causes": torch.tensor(causes, dtype=torch.int64),
                "negative_causes": torch.tensor([], dtype=torch.int64),
                "effects": torch.tensor(effects),
            }
            for name, (causes, effects) in layers.items()
        }
        for label, layers in GRAPH.items()
    } | {"samples": {}}


def stored() -> dict[str, Any]:
    """The same as a store has it: classes alike, arrays padded."""

    def padded(values: Sequence[int]) -> np.ndarray:
        return np.array([*values, *[-1] * (3 - len(values))])

    classes = {
        label: {
            name: {"causes": padded(c), "negative_causes": padded([]), "effects": padded(e)}
            for name, (c, e) in layers.items()
        }
        for label, layers in GRAPH.items()
    }
    return {"classes": classes, "samples": {"seen": np.zeros(3)}}


def explained(target: Any = CLASSES, **parameters: Any) -> explainers.Explained:
    given = {"graph": graph(), "keep_children": True, **parameters}
    method = explainers.get("causal_attribution")(small_network(), **given)
    found: explainers.Explained = method.explain(small()[1], target)
    return found


@functools.cache
def values() -> dict[str, tuple[Tensor, Tensor]]:
    """What the convolutions below give, summed up, and what the layer reads, by layer."""
    model, inputs = small()
    with torch.no_grad():
        first = model.conv1(inputs)
        hidden = model.bn1(first).relu()
        second = model.conv2(hidden)
        return {
            "conv2": (first, hidden),
            "conv2#1": (first + second, (model.bn2(second) + hidden).relu()),
        }


def softmax(values: np.ndarray) -> np.ndarray:
    shares = np.exp(values - values.max())
    normalised: np.ndarray = shares / shares.sum()
    return normalised


def published(values: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    """One child's map: full convolutions with every parent, a softmax each, and their mean."""
    pairs = zip(values, kernels, strict=True)
    found: np.ndarray = np.mean([softmax(convolved(*pair)) for pair in pairs], axis=0)
    return found


def convolved(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Polynomials multiply as this: every value moves a copy of the kernel to its place."""
    (height, width), (rows, columns) = values.shape, kernel.shape
    found = np.zeros((height + rows - 1, width + columns - 1))
    for row in range(rows):
        for column in range(columns):
            found[row : row + height, column : column + width] += kernel[row, column] * values
    return found


@pytest.mark.parametrize("layer", ["conv2", "conv2#1"])
def test_compat_maps_are_those_of_the_paper(layer: str) -> None:
    weight = small()[0].conv2.weight.detach().numpy()
    below = values()[layer][0].numpy()
    arrays = explained(variant="compat", layer=layer).arrays
    for row, label in enumerate(CLASSES.tolist()):
        causes, effects = GRAPH[label][layer]
        for place, child in enumerate(effects if causes else []):
            expected = published(below[row, causes], weight[child, causes])
            close(arrays["children"][row, place], torch.from_numpy(expected))


@pytest.mark.parametrize("layer", ["conv2", "conv2#1"])
def test_forward_maps_are_shares_of_what_the_layer_adds_up(layer: str) -> None:
    weight, reads = small()[0].conv2.weight.detach(), values()[layer][1]
    arrays = explained(variant="forward", layer=layer).arrays
    for row, label in enumerate(CLASSES.tolist()):
        causes, effects = GRAPH[label][layer]
        for place, child in enumerate(effects if causes else []):
            pairs = [(reads[row, [cause]], weight[[child]][:, [cause]]) for cause in causes]
            responses = [functional.conv2d(*pair, padding=1) for pair in pairs]
            shares = [each.flatten().softmax(0).view(8, 8) for each in responses]
            close(arrays["children"][row, place], torch.stack(shares).mean(0))


@pytest.mark.parametrize("variant", ["compat", "forward"])
def test_the_map_is_the_sum_of_the_children_enlarged_to_the_input(variant: str) -> None:
    found = explained(variant=variant)
    total = found.arrays["children"].nan_to_num(0.0).sum(1, keepdim=True)
    enlarged = functional.interpolate(total, (8, 8), mode="bilinear")[:, 0]
    close(found.relevance, enlarged)
    assert found.arrays["n_children"].tolist() == [2, 1, 0, 2]


def test_classes_without_causes_have_zeros_and_no_children() -> None:
    found = explained(target=2)
    assert not found.relevance.any()
    assert found.arrays["children"].isnan().all()
    assert (found.arrays["child_index"] == -1).all()
    assert found.arrays["child_index"].shape == (4, 2)


def test_rows_are_explained_by_their_own_class_whatever_else_is_in_the_batch() -> None:
    network, inputs = small_network(), small()[1]
    whole = explained()
    bound = explainers.get("causal_attribution")(network, graph=graph(), keep_children=True)
    for row, label in enumerate(CLASSES.tolist()):
        alone = bound.explain(inputs[row : row + 1], label)
        close(alone.relevance[0], whole.relevance[row])
        assert alone.arrays["child_index"].equal(whole.arrays["child_index"][row : row + 1])


def test_a_stored_graph_gives_the_same_maps() -> None:
    network, inputs = small_network(), small()[1]
    bound = explainers.get("causal_attribution")(network, graph=stored())
    close(bound.attribute(inputs, CLASSES), explained().relevance)


def test_children_are_left_out_where_they_are_not_kept() -> None:
    found = explained(keep_children=False)
    assert set(found.arrays) == {"n_children"}
    assert found.arrays["n_children"].equal(explained().arrays["n_children"])
    assert found.relevance.equal(explained().relevance)


def test_links_of_both_forms_of_a_result_are_the_same() -> None:
    for found in (graphs_of(graph()), graphs_of(stored()), graphs_of(graphs_of(graph()))):
        read = {
            label: {
                name: (links.causes.tolist(), links.effects.tolist())
                for name, links in layers.items()
            }
            for label, layers in found.items()
        }
        assert read == GRAPH
        assert found[0]["conv2#1"].n_tested == 3
        assert found[2]["conv2#1"].n_tested == 0


@pytest.mark.parametrize("result", [{}, {"samples": {}}, {0: {"conv2": {"causes": [1]}}}, "graph"])
def test_what_is_no_graph_is_refused(result: Any) -> None:
    with pytest.raises(ValueError, match="causal_graph"):
        graphs_of(result)


LEFT_OUT = {0: {"fc": {"effects": [0], "tested": [True]}, "conv2": {"effects": [0]}}}
"""Of a scan that goes no further than the last layer."""


@pytest.mark.parametrize(
    ("parameters", "target", "message"),
    [
        ({"layer": "conv1"}, 0, "not of the input alone"),
        ({"layer": "fc"}, 0, "expected a convolution"),
        ({"layer": "conv3"}, 0, "conv2"),
        ({"variant": "backward"}, 0, "'forward' or 'compat'"),
        ({"graph": None}, 0, "got no graph"),
        ({}, torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0]), "graphs are of classes"),
        ({}, {"layer": "conv2", "unit": 0}, "not a unit of a layer"),
        ({"layer": "conv2", "graph": LEFT_OUT}, 0, "does not test 'conv2'"),
        ({"graph": {0: {"conv9": {"effects": [1], "causes": [0]}}}}, 0, "another network"),
    ],
)
def test_what_has_no_map_is_refused(parameters: Any, target: Any, message: str) -> None:
    network, inputs = small_network(), small()[1]
    with pytest.raises(ValueError, match=message):
        explainers.explain(
            network, "causal_attribution", inputs, target, **{"graph": graph(), **parameters}
        )


@pytest.mark.parametrize("graph", [None, {0: {"fc": {"effects": [], "tested": []}}}, GRAPH])
def test_plans_are_the_same_whatever_a_trial_found(graph: Any) -> None:
    network = small_network()
    method: Any = explainers.methods.get("causal_attribution")
    # 8 x 8 values below a kernel of 3 x 3: 10 x 10 places
    assert method(graph=graph).notes(network) == ("maps are made in conv2#1, of 10 x 10 places",)
    assert method(graph=graph).stored_bytes(network) == 0
    # of children, six at most, the number too
    assert method(graph=graph, keep_children=True).stored_bytes(network) == 6 * (8 + 4 * 100)


def test_a_scan_that_does_not_test_the_layer_is_refused() -> None:
    network = small_network()
    method: Any = explainers.methods.get("causal_attribution")
    scan: Any = explainers.methods.get("causal_graph")
    method().check_scans({"graph": scan(layers=("conv2#1",))}, network)
    method(layer="conv2").check_scans({"graph": scan()}, network)
    with pytest.raises(ValueError, match="does not test 'conv2'"):
        method(layer="conv2").check_scans({"graph": scan(layers=("conv2#1",))}, network)


def convolution(groups: int, transposed: bool = False) -> Convolution:
    """A grouped convolution of eight channels, six or so out; no program needed."""
    network = small_network()
    op = network.operator("conv2")
    assert isinstance(op, Convolution)
    shape = (8, 6 // groups, 3, 3) if transposed else (6, 8 // groups, 3, 3)
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    return replace(
        op,
        weight=weight,
        bias=None,
        groups=groups,
        transposed=transposed,
        stride=(2, 1),
        margins=(1, 0, 0, 2),
    )


@pytest.mark.parametrize(("groups", "transposed"), [(2, False), (1, True), (2, True)])
def test_only_parents_of_the_childs_group_count(groups: int, transposed: bool) -> None:
    op = convolution(groups, transposed)
    generator = torch.Generator().manual_seed(4)
    features, children = torch.tensor([0, 2, 5]), torch.tensor([1, 2, 4])
    values = torch.randn(2, 3, 7, 7, generator=generator, dtype=torch.float64)
    found = forward_maps(op, Parents(values, features), children)
    for child in children.tolist():
        expected = []
        for place, feature in enumerate(features.tolist()):
            alone = values.new_zeros(2, 8, 7, 7)
            alone[:, feature] = values[:, place]
            if groups == 1 or feature // 4 == child // 3:
                response = op.linear(alone, op.weight)[:, child]
                expected.append(response.flatten(1).softmax(1).view_as(response))
        wanted = torch.stack(expected).mean(0)
        close(found[:, children.tolist().index(child)], wanted)


def test_a_child_without_parents_in_its_group_has_no_map() -> None:
    values = torch.ones(1, 1, 7, 7, dtype=torch.float64)
    parents = Parents(values, torch.tensor([0]))
    found = forward_maps(convolution(2), parents, torch.tensor([0, 5]))
    assert float(found[0, 0].sum()) == pytest.approx(1.0)
    assert not found[0, 1].any()


def test_parents_of_several_sizes_weigh_alike() -> None:
    generator = torch.Generator().manual_seed(5)
    sizes = {7: [0, 1], 3: [2, 3, 6]}
    parts = [
        Parents(
            torch.randn(1, len(some), size, size, generator=generator, dtype=torch.float64),
            torch.tensor(some),
        )
        for size, some in sizes.items()
    ]
    found = literal_maps(convolution(1), parts, torch.tensor([2]), (9, 9))
    one, other = (literal_maps(convolution(1), [each], torch.tensor([2]), (9, 9)) for each in parts)
    close(found, 0.4 * one + 0.6 * other)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = explained().relevance
    monkeypatch.setattr("explainers.causal.maps.CPU_ELEMENTS", 300)
    close(explained().relevance, whole)


FAMILIES = ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "densenet121"]


@pytest.mark.long
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("variant", ["compat", "forward"])
def test_every_convolution_of_networks_for_photographs_has_maps(name: str, variant: str) -> None:
    check_photographs(name, variant)


def check_photographs(name: str, variant: str) -> None:
    network, inputs = photographs(name)
    structure = structure_of(network)
    layers = [each for each in structure.layers if each.kind == "convolution" and not each.is_root]
    links = {
        each.name: {"causes": torch.arange(each.n_neurons)[::9], "effects": torch.arange(3)}
        for each in layers
    }
    for layer in layers[::3]:
        found = explainers.get("causal_attribution")(
            network, graph={1: links}, layer=layer.name, variant=variant, keep_children=True
        ).explain(inputs, 1)
        assert found.relevance.shape == (2, 32, 32)
        sums = found.arrays["children"].flatten(2).sum(2)
        if variant == "compat" and name == "densenet121":
            continue  # interpolation between the centres of cells does not keep sums
        # float32
        torch.testing.assert_close(sums, torch.ones_like(sums))


@functools.cache
def photographs(name: str) -> tuple[Network, Tensor]:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    inputs = torch.randn(2, 3, 32, 32)
    return Network(models.get_model(name, weights=None).eval(), inputs), inputs
