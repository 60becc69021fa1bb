"""Relevance maximization against a slow re-implementation, and what must not matter."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
import zennit.composites
from torch import Tensor, nn
from zennit.torchvision import ResNetCanonizer

import explainers
from explainers import Trace
from explainers.base import Samples
from explainers.catalogue import build
from explainers.concepts.scores import Scores
from explainers.maximization.scan import Maximization
from explainers.maximization.scored import Scored
from tests.explainers.maxima import (
    SCORES,
    STABILISER,
    Contribution,
    Passing,
    Watched,
    assert_lists,
    relevances,
    rows_of,
    small_by_rules,
)
from tests.explainers.zoo import randomise, small, small_network, torchvision_model

if TYPE_CHECKING:
    from explainers.base import Scan, State

N = 13
LAYERS = ("conv1", "conv2", "conv2#1")
EXACT: dict[str, Any] = {
    "composite": "epsilon_plus",
    "epsilon": STABILISER,
    "stabiliser": STABILISER,
    "layers": LAYERS,
}


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(N, 3, 8, 8, dtype=torch.float64, generator=generator)
    return inputs, torch.randint(0, 4, (N,), generator=generator)


def batches(inputs: Tensor, labels: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(torch.split(inputs, size), torch.split(labels, size), strict=True))


def folded(scan: Scan, inputs: Tensor, labels: Tensor, cuts: list[int]) -> State:
    """The state of parts that are folded apart, whose ends are given; batches are of two."""
    state = scan.init()
    for start, end in zip([0, *cuts], [*cuts, len(inputs)], strict=True):
        index = torch.arange(start, end)
        traced = []
        for rows in torch.split(index, 2):
            samples = Samples(rows, labels[rows])
            traced.append((Trace(small_network(), inputs[rows], samples=samples), samples))
        state = scan.merge(scan.fold(traced), state)
    return state


@pytest.mark.slow
def test_lists_are_those_of_the_definition_for_several_targets() -> None:
    # the last batch has one sample, and the second use of conv2 has no norm
    inputs, labels = images()
    found = explainers.scan(
        small_network(),
        "relevance_maximization",
        batches(inputs, labels, 6),
        k=5,
        target=["label", "predicted", "runner_up", 3],
        **EXACT,
    )
    model = small()[0]
    best = model(inputs).topk(2, dim=1).indices
    classes = {
        "label": labels,
        "predicted": best[:, 0],
        "runner_up": best[:, 1],
        "3": torch.full_like(labels, 3),
    }
    assert found.keys() == classes.keys()
    for target, of in classes.items():
        expected = relevances(partial(small_by_rules, model), inputs, of)
        for layer in LAYERS:
            lists = found[target][layer]
            assert lists.keys() == {*SCORES, "per_class"}
            assert_lists(lists, expected[layer], list(range(N)), 5)
            groups = rows_of(of)
            assert lists["per_class"].keys() == groups.keys()
            for each, rows in list(groups.items())[:2]:
                assert_lists(lists["per_class"][each], expected[layer], rows, 5)


class Forked(nn.Module):
    """Branches that are joined, dead channels, a mean over places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.left = nn.Conv2d(6, 4, 1)
        self.right = nn.Conv2d(6, 5, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.last = nn.Conv2d(9, 7, 3, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = torch.cat([self.left(x), self.norm(self.right(x))], 1).relu()
        return self.fc(self.pool(self.last(x).relu()).flatten(1))


def forked_by_rules(model: Forked, inputs: Tensor) -> tuple[Tensor, Watched]:
    seen = Watched()
    x = Passing.apply(seen.convolution("stem", inputs, model.stem))
    left = seen.convolution("left", x, model.left)
    right = seen.convolution("right", x, model.right, model.norm)
    x = Passing.apply(torch.cat([left, right], 1))
    x = Passing.apply(seen.convolution("last", x, model.last))
    pooled = Contribution.apply(x, model.pool, model.pool)
    return seen.linear(pooled.flatten(1), model.fc), seen


@pytest.mark.slow
def test_lists_behind_branches_and_of_dead_channels() -> None:
    torch.manual_seed(0)
    model = Forked()
    randomise(model)
    model = model.double().eval()
    inputs, labels = images()
    with torch.no_grad():
        model.stem.bias[1] = -100.0
        model.left.weight[2] = 0.0
        model.left.bias[2] = -1.0
    layers = ["stem", "left", "right", "last"]
    found = explainers.scan(
        model,
        "relevance_maximization",
        batches(inputs, labels, 4),
        k=N + 2,
        **{**EXACT, "layers": layers},
    )
    expected = relevances(partial(forked_by_rules, model), inputs, labels)
    for layer in layers:
        assert_lists(found[layer], expected[layer], list(range(N)), N + 2)
    # where all are the same, the order is that of the samples
    assert found["stem"]["max"]["sample"][:, 1].tolist() == list(range(N))
    assert not found["stem"]["sum_normed"]["value"][:, 1].any()


@pytest.mark.slow
@pytest.mark.parametrize(("stabiliser", "tolerance"), [(STABILISER, 1e-5), (1e-6, 1e-4)])
def test_lists_of_a_resnet_are_those_of_zennit(stabiliser: float, tolerance: float) -> None:
    # of the greatest; with the default stabiliser zennit's sums keep what ours share, which is as
    # much as terms where they cancel to 1e-6 of what they are
    model, _ = torchvision_model("resnet18")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # zennit applies it again when it has merged a norm
            module.eps = 0.0
    inputs = torch.randn(6, 3, 48, 48, dtype=torch.float64)
    labels = torch.arange(6)
    found = explainers.scan(
        model,
        "relevance_maximization",
        batches(inputs, labels, 4),
        k=4,
        layers="type:Convolution",
        composite="epsilon_plus",
        epsilon=stabiliser,
        stabiliser=stabiliser,
    )
    expected = by_zennit(copy.deepcopy(model), inputs, labels, stabiliser)
    assert found.keys() == expected.keys()
    for layer, relevance in expected.items():
        assert_lists(found[layer], relevance, list(range(6)), 4, tolerance)


def by_zennit(
    model: nn.Module, inputs: Tensor, labels: Tensor, stabiliser: float
) -> dict[str, Tensor]:
    """Relevance at each convolution's output, by hooks."""
    relevances: dict[str, Tensor] = {}
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False

    def watch(name: str, module: nn.Module, given: Any, output: Tensor) -> None:
        output.register_hook(lambda relevance: relevances.update({name: relevance.clone()}))

    canonizers = [ResNetCanonizer()]
    composite = zennit.composites.EpsilonPlus(stabiliser, stabiliser, canonizers=canonizers)
    with composite.context(model) as changed:
        for name, module in changed.named_modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(partial(watch, name))
        output = changed(inputs.requires_grad_())
        output.backward(
            torch.zeros_like(output).scatter_(1, labels[:, None], 1.0) * output.detach()
        )
    return relevances


@pytest.mark.slow
def test_a_dead_channel_before_a_sum_has_no_relevance_at_all() -> None:
    # with the default stabilisers, of which nothing may get there
    model = copy.deepcopy(small()[0])
    with torch.no_grad():
        model.bn1.weight[1] = 0.0
        model.bn1.bias[1] = -1.0
    inputs, labels = images()
    found = explainers.scan(
        model, "relevance_maximization", [(inputs, labels)], layers="conv1", k=N, per_class=False
    )["conv1"]
    for score in SCORES:
        assert not found[score]["value"][:, 1].any()
        assert found[score]["sample"][:, 1].tolist() == list(range(N))


def test_bits_do_not_depend_on_cuts_or_order() -> None:
    inputs, labels = images()
    scan = build("relevance_maximization", layers=("type:Convolution",), k=3)
    whole = folded(scan, inputs, labels, [])
    for cuts in ([2, 4], [6, 12]):
        parts = folded(scan, inputs, labels, cuts)
        assert parts.keys() == whole.keys()
        for name, entry in whole.items():
            assert torch.equal(entry.nan_to_num(7.0), parts[name].nan_to_num(7.0)), name


def test_samples_that_are_not_finite_are_in_no_list_and_kept_as_nan() -> None:
    inputs, labels = images()
    inputs[4, 0, 0, 0] = torch.nan
    inputs[9, 2, 3, 3] = torch.inf
    scan = build("relevance_maximization", layers="conv1", k=N, keep="scores", target="predicted")
    samples = Samples(torch.arange(N), labels)
    trace = Trace(small_network(), inputs, samples=samples)
    lists = scan.finalise(scan.fold([(trace, samples)]))["conv1"]
    for score in SCORES:
        listed = lists[score]["sample"]
        assert set(listed.flatten().tolist()) - {-1} == set(range(N)) - {4, 9}
    kept = scan.records(trace, samples)
    assert kept.keys() == {"conv1/total", "conv1/peak", "conv1/position"}
    assert kept["conv1/total"].isnan().any(1).nonzero()[:, 0].tolist() == [4, 9]
    assert kept["conv1/position"].dtype == torch.int32


class Joined(nn.Module):
    """Two inputs, one of which goes through what has no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.run = nn.LSTM(3, 4, batch_first=True)
        self.other = nn.Linear(2, 4)
        self.inner = nn.Linear(4, 5)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        joined = self.run(x)[0][:, -1] + self.other(y)
        return self.fc(self.inner(joined.relu()).relu())


@pytest.mark.slow
def test_what_lies_before_the_lowest_layer_may_be_anything() -> None:
    torch.manual_seed(0)
    model = Joined().double()
    inputs = torch.randn(4, 6, 3).double(), torch.randn(4, 2).double()
    network = explainers.Network(model, inputs)
    scan = build("relevance_maximization", layers="inner", k=4, per_class=False, target=1)
    scan.check(network)
    samples = Samples(torch.arange(4), torch.zeros(4, dtype=torch.int64))
    state = scan.fold([(Trace(network, inputs, samples=samples), samples)])
    lists = scan.finalise(state)["inner"]["sum"]
    value = model.inner((model.run(inputs[0])[0][:, -1] + model.other(inputs[1])).relu()).relu()
    z = model.fc(value)[:, 1:2]
    expected = value * model.fc.weight[1] * z / (z + 1e-6 * z.sign())
    best = expected.sort(dim=0, descending=True).values
    # lists are in single precision
    torch.testing.assert_close(lists["value"].double(), best, rtol=1e-6, atol=1e-9)
    with pytest.raises(NotImplementedError, match="Recurrent"):
        build("lrp").check(network)
    network = explainers.Network(torch.add, (inputs[1], inputs[1]))
    with pytest.raises(NotImplementedError, match=r"inputs input\.0, input\.1"):
        build("lrp").check(network)


def test_samples_whose_finite_scores_add_up_to_more_than_a_number_holds_are_listed() -> None:
    peak = torch.full((2, 5), 60000.0, dtype=torch.float16)
    position = torch.zeros(2, 5, dtype=torch.int64)
    index = torch.arange(2)
    scored = Scored(index, index, {"layer": Scores(peak, peak, position)})
    scan = build("relevance_maximization", layers="layer", k=2, per_class=False)
    assert isinstance(scan, Maximization)
    lists = scan.finalise(scan._listed([{"": scored}]))["layer"]
    assert (lists["max"]["sample"] == index[:, None]).all()


def test_no_layer_below_the_lowest_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, labels = images()
    walked: list[str] = []
    convolution = type(small_network().operator("conv1"))
    transpose = convolution.transpose

    def seen(self: Any, *given: Any) -> Tensor:
        walked.append(self.name)
        return transpose(self, *given)

    monkeypatch.setattr(convolution, "transpose", seen)
    explainers.scan(small_network(), "relevance_maximization", [(inputs, labels)], layers="conv2")
    assert walked == [small_network().operator("conv2#1").name]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"layers": "conv1", "target": "lable"}, "did you mean 'label'"),
        ({"layers": "conv1", "target": ["label", "label"]}, "each once"),
        ({"layers": ()}, "type:Convolution"),
        ({"layers": "conv1", "k": 0}, "at least 1"),
        ({"layers": "conv1", "keep": "all"}, "keep"),
        ({"layers": "conv1", "composite": "epsilon_minus"}, "epsilon_plus"),
    ],
)
def test_what_makes_no_sense_is_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, LookupError), match=message):
        build("relevance_maximization", **parameters)


def test_samples_without_a_label_are_refused_with_a_way_out() -> None:
    inputs, _ = images()
    with pytest.raises(ValueError, match="set target: predicted"):
        explainers.scan(small_network(), "relevance_maximization", [inputs], layers="conv1")


def test_layers_that_are_not_there_and_lists_that_are_too_long_are_refused() -> None:
    with pytest.raises(LookupError, match="conv3"):
        build("relevance_maximization", layers="conv3").check(small_network())
    scan = build("relevance_maximization", layers="conv1", k=10**7)
    with pytest.raises(ValueError, match="smaller per_class"):
        scan.check(small_network())
