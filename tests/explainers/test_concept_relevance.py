"""The method `concept_relevance`: against zennit and lrp, and what it keeps beside its maps."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import pytest
import torch
import zennit.attribution
import zennit.canonizers
import zennit.composites
from torch import Tensor, nn

import explainers
from explainers import Network
from explainers.explaining import form
from tests.explainers.transformers import Tokens
from tests.explainers.twins import pictures, seeded
from tests.explainers.zoo import small, small_network

# Networks are read, with all that the first reading in a process takes.
pytestmark = pytest.mark.slow

# The same float64 sums in another order; relevance is about 0.1.
TOLERANCE = {"rtol": 1e-7, "atol": 1e-9}


class Plain(nn.Module):
    """Convolutions, max-pools and matrix products, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()
        self.pool, self.conv2, self.relu2 = nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.ReLU()
        self.flatten, self.fc1, self.relu3 = nn.Flatten(), nn.Linear(4, 7), nn.ReLU()
        self.fc2 = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.pool(self.relu1(self.conv1(x))))
        return self.fc2(self.relu3(self.fc1(self.flatten(self.relu2(x)))))


@functools.cache
def plain() -> tuple[nn.Module, Network, Tensor]:
    model = seeded(Plain())
    return model, Network(model, pictures(2, 6)), pictures(2, 6)


def found_by(conditions: Any, **parameters: Any) -> explainers.Explained:
    _, network, inputs = plain()
    bound = explainers.get("concept_relevance")(network, conditions=conditions, **parameters)
    return bound.explain(inputs, 1)


def by_zennit(channels: dict[str, list[int]]) -> Tensor:
    """Return the map of class 1 by zennit's hooks, with gradients at layers' outputs masked."""
    model, inputs = copy.deepcopy(plain()[0]), plain()[2].clone().requires_grad_()
    hooked = zennit.composites.EpsilonPlusFlat()
    with hooked.context(model) as modified:

        def masking(kept: list[int], _module: nn.Module, _inputs: Any, output: Tensor) -> None:
            mask = torch.zeros_like(output)
            mask[:, kept] = 1
            output.register_hook(lambda relevance: relevance * mask)

        handles = [
            modified.get_submodule(name).register_forward_hook(functools.partial(masking, kept))
            for name, kept in channels.items()
        ]
        output = modified(inputs)
        start = torch.zeros_like(output)
        start[:, 1] = output.detach()[:, 1]
        (found,) = torch.autograd.grad(output, inputs, start)
        for handle in handles:
            handle.remove()
    return found


CONDITIONS: list[dict[str, Any]] = [
    {},
    {"conv2": [1, 2]},
    {"conv2": [0], "conv1": [1, 3, 4], "fc1": [0, 2, 5, 6]},
]


def test_maps_are_those_of_zennit_with_masked_gradients() -> None:
    found = found_by(CONDITIONS, composite="epsilon_plus_flat").relevance
    for column, condition in enumerate(CONDITIONS):
        torch.testing.assert_close(found[:, column], by_zennit(condition), **TOLERANCE)


def test_without_conditions_it_is_lrp() -> None:
    _, network, inputs = plain()
    expected = explainers.explain(network, "lrp", inputs, 1)
    assert torch.equal(explainers.explain(network, "concept_relevance", inputs, 1), expected)
    assert torch.equal(
        found_by([{"y": 1}], composite="epsilon_plus_flat").relevance[:, 0], expected
    )


def test_one_condition_has_a_map_and_a_list_of_them_a_dimension() -> None:
    _, network, _ = plain()
    one, several = found_by({"conv2": 1}), found_by([{"conv2": 1}])
    assert torch.equal(one.relevance, several.relevance[:, 0])
    for conditions, lead in (({"conv2": 1}, {}), ([{"conv2": 1}] * 2, {"condition": 2})):
        explainer = explainers.build("concept_relevance", conditions=conditions)
        dims, shape = form(explainer, network)[""]
        assert dims == (*lead, "channel", "height", "width")
        assert shape == (*lead.values(), 3, 6, 6)


def test_what_is_ranked_is_the_relevance_that_arrives() -> None:
    conditions = [{"conv2": [1, 2]}, {}]
    found = found_by(conditions, ranking=("conv1", "conv2"), n_ranked=4, record="conv*")
    rows = found.tables["ranking"]
    assert len(rows) == 2 * 2 * 2 * 4
    for row, condition, layer in {(r["row"], r["condition"], r["layer"]) for r in rows}:
        relevance = found.arrays[f"{layer}.relevance_before"][row, condition].sum((1, 2))
        listed = [
            each
            for each in rows
            if (each["row"], each["condition"], each["layer"]) == (row, condition, layer)
        ]
        assert [each["rank"] for each in listed] == [0, 1, 2, 3]
        expected, order = relevance.sort(descending=True, stable=True)
        assert [each["concept"] for each in listed] == order[:4].tolist()
        total = float(relevance.abs().sum())
        for each, amount in zip(listed, expected.tolist(), strict=False):
            assert each["relevance"] == pytest.approx(amount, rel=1e-9, abs=1e-12)
            assert each["share"] == pytest.approx(amount / (total + 1e-10), rel=1e-9, abs=1e-12)
    left = found.arrays["conv2.relevance_after"][:, 0]
    assert not left[:, [0, 3]].any()
    assert found.arrays["conv2.activation"].shape == (2, 4, 1, 1)


def test_a_concept_can_be_decomposed_beside_its_map() -> None:
    rows = found_by({"conv2": 1}, composition={"layer": "conv2", "concept": 1, "width": [2]}).tables
    assert {(each["layer"], each["concept"]) for each in rows["composition"]} == {("conv2", 1)}
    assert {each["lower_layer"] for each in rows["composition"]} == {"conv1"}


def test_heads_and_tokens_sum_to_what_passes_them() -> None:
    inputs = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2)).double()
    network = Network(seeded(Tokens()), inputs)
    layers = {"blocks.0.out": ("heads", 2), "embed": ("tokens", 5), "blocks.0.up": ("channels", 16)}
    for layer, (kind, n) in layers.items():
        bound = explainers.get("concept_relevance")(
            network,
            conditions=[*({layer: concept} for concept in range(n)), {layer: "all"}],
            concepts={layer: kind, "*": "channels"},  # the first counts
        )
        found = bound.explain(inputs, 2).relevance
        torch.testing.assert_close(found[:, :n].sum(1), found[:, n], **TOLERANCE)
        if layer == "embed":
            # nothing goes around the embedding
            expected = explainers.explain(network, "lrp", inputs, 2)
            torch.testing.assert_close(found[:, n], expected, **TOLERANCE)


def test_what_is_ranked_has_the_concepts_that_are_given() -> None:
    _, inputs = small()
    bind = functools.partial(explainers.get("concept_relevance"), small_network())
    tokens = {"bn1": "tokens"}  # another name of conv1, which by itself would go before it
    for conditions, concepts in (({}, tokens), ({"bn1": [0]}, tokens), ({}, {"b*1": "tokens"})):
        found = bind(
            conditions=conditions, ranking=["conv1", "bn1", "fc"], concepts=concepts, n_ranked=99
        ).explain(inputs, 2)
        listed = [row["layer"] for row in found.tables["ranking"] if row["row"] == 0]
        assert {name: listed.count(name) for name in listed} == {"bn1": 64, "fc": 5}
    with pytest.raises(LookupError, match="'fc', which is none of the layers that conditions"):
        bind(ranking="conv1", concepts={"fc": "channels"}).explain(inputs, 2)


def test_what_is_decomposed_has_the_concepts_that_are_given() -> None:
    composition = {"layer": "conv2", "layers": "conv1", "width": [99]}
    found = found_by({}, concepts={"conv1": "tokens"}, composition=composition)
    of_tokens = found.tables["composition"]
    assert max(row["lower_concept"] for row in of_tokens) > 5
    own = {**composition, "concepts": {"conv1": "channels"}}
    found = found_by({}, concepts={"conv1": "tokens"}, composition=own)
    assert max(row["lower_concept"] for row in found.tables["composition"]) < 6


def test_that_nothing_is_below_what_is_decomposed_is_noted() -> None:
    network = plain()[1]
    for layer, is_lowest in (("conv1", True), ("conv2", False)):
        explainer = explainers.build("concept_relevance", composition={"layer": layer})
        assert any("nothing is found" in note for note in explainer.notes(network)) == is_lowest


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden, self.fc = nn.Embedding(9, 4), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc(self.hidden(self.embedding(tokens)).relu().mean(1))


def test_tokens_have_a_number_for_each_condition_and_layers_can_be_cut() -> None:
    tokens = torch.tensor([[1, 2, 3], [4, 0, 1]])
    network = Network(seeded(Bag()), tokens)
    bind = functools.partial(explainers.get("concept_relevance"), network)
    found = bind(conditions=[{"hidden": [0, 2]}, {"hidden": [1, 3, 4]}, {}]).attribute(tokens, 0)
    assert found.shape == (2, 3, 3)
    torch.testing.assert_close(found[:, 0] + found[:, 1], found[:, 2], **TOLERANCE)
    lrp = explainers.explain(network, "lrp", tokens, 0)
    torch.testing.assert_close(found[:, 2], lrp, **TOLERANCE)
    of_layer = bind(conditions={"hidden": [1]}, layer="embedding").attribute(tokens, 0)
    assert of_layer.shape == (2, 3, 4)
    of_unit = bind(conditions={"hidden": 1}).attribute(tokens, {"layer": "hidden", "unit": 1})
    other = bind(conditions={"hidden": 0}).attribute(tokens, {"layer": "hidden", "unit": 1})
    assert of_unit.any()
    assert not other.any()


def test_labels_and_predictions_can_be_explained_side_by_side() -> None:
    _, network, inputs = plain()
    bound = explainers.get("concept_relevance")(
        network, conditions=[{"y": "label"}, {"y": "predicted"}, {"y": [0, 2]}, {"y": 0}, {"y": 2}]
    )
    found = bound.attribute(inputs, labels=torch.tensor([2, 0]))
    logits = network(inputs)
    rows = torch.arange(2)
    assert torch.equal(found[:, 0], found[rows, torch.tensor([4, 3])])
    predicted = explainers.explain(network, "lrp", inputs, logits.argmax(1))
    torch.testing.assert_close(found[:, 1], predicted, **TOLERANCE)
    torch.testing.assert_close(found[:, 3] + found[:, 4], found[:, 2], **TOLERANCE)


def test_the_model_is_left_as_it_is() -> None:
    model = seeded(Bag()).train()
    before = copy.deepcopy(model.state_dict())
    tokens = torch.tensor([[1, 2, 3]])
    bound = explainers.get("concept_relevance")(model, conditions={"hidden": 9})
    with pytest.raises(ValueError, match="concept 9"):
        bound.attribute(tokens)
    explainers.explain(model, "concept_relevance", tokens, conditions={"hidden": 1})
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"conditions": 3}, TypeError, "a list of such mappings"),
        ({"conditions": []}, ValueError, "no conditions"),
        ({"conditions": {"y": 1}, "start_layer": "conv2"}, ValueError, "y in a condition"),
        ({"initial": "much"}, TypeError, "initial='much'"),
        ({"n_ranked": 0}, ValueError, "n_ranked=0"),
        ({"conditions": {"conv2": [4]}}, ValueError, "which has 4 concepts; choose from 0 to 3"),
        ({"conditions": {"conv3": [1]}}, LookupError, "conditions: unknown layer 'conv3'"),
        ({"record": "conv3"}, LookupError, "record: .*conv3"),
        ({"ranking": "bogus"}, LookupError, "ranking: .*bogus"),
        ({"concepts": {"bogus": "heads"}}, LookupError, "concepts: .*bogus"),
        ({"concepts": ["heads"]}, TypeError, "expected a mapping from layers to kinds"),
        ({"exclude_parallel": "no"}, TypeError, "exclude_parallel='no', expected true or false"),
        ({"start_layer": "conv1", "conditions": {"fc1": 1}}, ValueError, "does not depend on it"),
        ({"composition": {"layer": "conv2", "concept": 8}}, ValueError, "conv2"),
        ({"composition": "conv2"}, TypeError, "composition='conv2', expected a mapping"),
        ({"composition": {}}, TypeError, "a mapping that names a layer"),
        ({"composition": {"layer": 3}}, TypeError, "layer=3, expected the name"),
        ({"composition": {"layer": "conv2", "widht": [4]}}, TypeError, "did you mean 'width'"),
        ({"composition": {"layer": "conv2", "width": 4}}, TypeError, r"width=4, .*\[4, 2\]"),
        ({"composition": {"layer": "conv2", "width": "4,2"}}, TypeError, r"'4,2', .*\[4, 2\]"),
        ({"composition": {"layer": "conv2", "concept": 1.5}}, TypeError, "a whole number"),
        ({"composition": {"layer": "conv2", "concept": "a"}}, TypeError, "a whole number"),
        ({"composition": {"layer": "conv2", "layers": [1]}}, TypeError, "expected names"),
        ({"composition": {"layer": "conv2", "abs_norm": "no"}}, TypeError, "true or false"),
        ({"composition": {"layer": "conv2", "concepts": ["heads"]}}, TypeError, "a mapping from"),
    ],
)
def test_what_cannot_be_is_refused_before_any_sample(
    parameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        explainers.build("concept_relevance", **parameters).check(plain()[1])


def test_parameters_go_to_workers() -> None:
    explainer = explainers.build("concept_relevance", conditions=[{"conv2": {"1": [0]}}, {"y": 2}])
    assert pickle.loads(pickle.dumps(explainer)) == explainer
