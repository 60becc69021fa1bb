"""Interventions from cached values against weights that are edited by hand."""

from __future__ import annotations

from functools import lru_cache
from itertools import cycle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from explainers.causal.interventions import Interventions, Outcome, outcomes, passing, tail
from explainers.causal.structure import Structure, WeightedLayer, structure_of
from explainers.network import Network
from explainers.trace import Trace
from tests.explainers.edited_weights import edited, effects_of
from tests.explainers.zoo import randomise

EXACT = 1e-12
"""Float64, logits and weights of size one, some ten layers of at most thousand terms."""


class Convolutions(nn.Module):
    """What image networks are made of, with every operation in place that can be."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(True))
        self.grouped = nn.Conv2d(6, 8, 3, padding="same", groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.shrink = nn.Conv2d(16, 8, 1, bias=False)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.branch = nn.Conv2d(8, 3, (2, 3), dilation=(1, 2), padding=(1, 2))
        self.up = nn.ConvTranspose2d(11, 4, 3, 2, 1, 1)
        self.last = nn.Conv2d(4, 3, 3, 2)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(3 * 12, 7), nn.ReLU(True), nn.Linear(7, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = functional.relu_(self.norm(self.grouped(x)))
        y = self.shrink(functional.hardswish(self.depthwise(x)))
        gate = self.excite(functional.relu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        y = y * gate
        y += x
        joined = torch.cat((y, self.branch(y)[:, :, :-1]), 1)
        up = functional.relu_(self.up(functional.relu_(joined)))
        up = functional.max_pool2d(up, 2, 1)
        return self.head(functional.relu_(self.last(up)))


class Tokens(nn.Module):
    """Attention with the sequence first, channels last, a convolution over time."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv1d(3, 8, 2, 2)
        self.attention = nn.MultiheadAttention(8, 2)
        self.norm, self.scale = nn.LayerNorm(8), nn.Parameter(torch.rand(8) + 0.5)
        self.wide, self.narrow = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(2, 0, 1)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.scale * self.narrow(functional.gelu(self.wide(self.norm(x))))
        return self.head(x.mean(0))


SHAPES = {Convolutions: (2, 9, 7), Tokens: (3, 8)}


@lru_cache(maxsize=2)
def setting(kind: type[nn.Module]) -> tuple[nn.Module, Trace, Structure]:
    torch.manual_seed(0)
    model = kind()
    randomise(model)
    if isinstance(model, Convolutions):
        with torch.no_grad():
            model.last.weight[:, 2] = 0.0
            model.up.weight[:, 3], model.up.bias[3] = 0.0, -1.0
    model = model.double().eval()
    inputs = torch.randn(3, *SHAPES[kind], dtype=torch.float64)
    network = Network(model, inputs)
    return model, Trace(network, inputs), structure_of(network)


def layers_of(kind: type[nn.Module]) -> list[WeightedLayer]:
    return [one for one in setting(kind)[2].layers if not one.is_root]


def interventions(kind: type[nn.Module], layer: WeightedLayer) -> tuple[Interventions, Trace]:
    trace = setting(kind)[1]
    return Interventions(trace.network, layer), trace


@pytest.mark.parametrize("kind", [Convolutions, pytest.param(Tokens, marks=pytest.mark.slow)])
def test_every_neuron_of_every_layer_is_as_edited_weights_have_it(kind: type[nn.Module]) -> None:
    model, trace, structure = setting(kind)
    classes = torch.tensor([1, 0, 2])
    for layer, u in zip(layers_of(kind), cycle((0.0, 0.07)), strict=False):
        effects = effects_of(layer, 3)
        found = Interventions(trace.network, layer).all(trace, effects, classes, u)
        wanted = edited(model, layer, trace.inputs, effects, u)  # (neurons, rows, outputs)
        logit = wanted.gather(2, classes.expand(len(wanted), 3)[:, :, None])[:, :, 0].T
        torch.testing.assert_close(found.logit, logit, atol=EXACT, rtol=0, msg=layer.name)
        new, old = wanted.log_softmax(2), trace.output.log_softmax(1)
        divergence = (new.exp() * (new - old)).sum(2).T
        torch.testing.assert_close(found.divergence, divergence, atol=EXACT, rtol=0)
    assert len(structure.layers) > 5


def test_pairs_are_those_of_all_in_any_order_and_in_small_stacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for layer in layers_of(Convolutions):
        made, trace = interventions(Convolutions, layer)
        effects, classes = effects_of(layer, 3), torch.tensor([1, 0, 2])
        every = made.all(trace, effects, classes)
        order = torch.randperm(3 * layer.n_neurons)
        rows, neurons = order // layer.n_neurons, order % layer.n_neurons
        with monkeypatch.context() as patch:
            patch.setattr(tail, "MOST_PAIRS", 2)
            found = made.pairs(trace, rows, neurons, effects, classes)
        same = {"atol": EXACT, "rtol": 0}
        torch.testing.assert_close(found.logit, every.logit[rows, neurons], **same)
        torch.testing.assert_close(found.divergence, every.divergence[rows, neurons], **same)


def test_all_channels_computed_anew_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = setting(Convolutions)[2].layer("shrink")
    made, trace = interventions(Convolutions, layer)
    effects, classes = effects_of(layer, 3), torch.tensor([1, 0, 2])
    sparse = made.all(trace, effects, classes).logit
    monkeypatch.setattr(passing, "SPARSE", 0.0)
    whole = made.all(trace, effects, classes).logit
    torch.testing.assert_close(whole, sparse, atol=EXACT, rtol=0)


def test_cached_values_stay_as_they_are() -> None:
    trace = setting(Convolutions)[1]
    before = {name: value.clone() for name, value in trace.values.items()}
    for layer in layers_of(Convolutions):
        made = Interventions(trace.network, layer)
        made.all(trace, effects_of(layer, 3), torch.zeros(3, dtype=torch.int64))
    assert all(torch.equal(value, trace.values[name]) for name, value in before.items())


def test_one_effect_of_each_pair_and_a_level_of_each_pair() -> None:
    for name in ("grouped", "squeeze", "up"):
        layer = setting(Convolutions)[2].layer(name)
        made, trace = interventions(Convolutions, layer)
        rows, neurons = torch.tensor([2, 0, 0, 1]), torch.tensor([1, 0, 1, 1])
        effects, u = torch.tensor([2, 0, 3, 2]), torch.tensor([0.0, 0.1, -0.2, 0.3]).double()
        found = made.logits(trace, rows, neurons, effects, u)
        for pair in range(4):
            alone = torch.zeros(3, layer.n_outputs, dtype=torch.bool)
            alone[rows[pair], effects[pair]] = True
            one = slice(pair, pair + 1)
            wanted = made.logits(trace, rows[one], neurons[one], alone, float(u[pair]))
            torch.testing.assert_close(found[one], wanted, atol=EXACT, rtol=0)


def changes(found: Outcome, trace: Trace, classes: Tensor) -> Tensor:
    reference = trace.output.gather(1, classes[:, None])
    assert torch.equal(found.logit == reference, found.divergence == 0)
    return found.logit != reference


def test_what_changes_nothing_is_the_reference_to_the_bit() -> None:
    classes = torch.tensor([1, 0, 2])
    layer = setting(Convolutions)[2].layer("grouped")
    made, trace = interventions(Convolutions, layer)
    effects = torch.zeros(3, layer.n_outputs, dtype=torch.bool)
    assert not changes(made.all(trace, effects, classes), trace, classes).any()
    effects[1:, :4] = True  # of the first group, which reads three of six channels
    is_changed = changes(made.all(trace, effects, classes), trace, classes)
    is_dead = (trace.values[layer.operator.inputs[0]] == 0).all(dim=(2, 3))
    assert not is_changed[0].any()
    assert not is_changed[:, 3:].any()
    assert torch.equal(is_changed[1:, :3], ~is_dead[1:, :3])


def test_a_dead_neuron_or_a_weight_that_is_u_already_changes_nothing() -> None:
    classes = torch.tensor([1, 0, 2])
    layer = setting(Convolutions)[2].layer("last")
    made, trace = interventions(Convolutions, layer)
    effects = torch.ones(3, layer.n_outputs, dtype=torch.bool)
    hard = changes(made.all(trace, effects, classes), trace, classes)
    soft = changes(made.all(trace, effects, classes, 0.01), trace, classes)
    assert hard.any(0).tolist() == [True, True, False, False]
    assert soft.any(0).tolist() == [True, True, True, False]


def test_a_certain_class_has_a_finite_divergence() -> None:
    reference = torch.tensor([[900.0, 1.0, -1.0]], dtype=torch.float64)
    changed, columns = torch.tensor([[0.0]], dtype=torch.float64), torch.tensor([0])
    own = torch.tensor([0])
    found = outcomes.of_columns(changed, columns, reference, own, own)
    whole = torch.tensor([[0.0, 1.0, -1.0]], dtype=torch.float64)
    wanted = outcomes.of_logits(whole, reference, own)
    assert found.divergence > 500
    torch.testing.assert_close(found.divergence, wanted.divergence, rtol=1e-12, atol=0)
    assert found.logit == 0


def test_what_does_not_fit_is_refused() -> None:
    layer = setting(Convolutions)[2].layer("shrink")
    made, trace = interventions(Convolutions, layer)
    rows = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="expected one of each for every pair"):
        made.logits(trace, rows, rows[:1], effects_of(layer, 3))
    with pytest.raises(ValueError, match=r"expected bool of \(3, 8\)"):
        made.logits(trace, rows, rows, effects_of(layer, 2))
    other = trace.starting_at("shrink")
    with pytest.raises(ValueError, match="trace of another network"):
        made.logits(other, rows, rows, effects_of(layer, 3))
