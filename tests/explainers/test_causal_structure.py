"""Neurons, units and levels of small networks, against hand-made answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from explainers.causal.interventions.planned import refusals
from explainers.causal.outline import check_tested
from explainers.causal.structure import structure_of
from explainers.causal.structure.pairs import members_of
from explainers.causal.structure.table import Setting, channels
from explainers.causal.structure.units import (
    NOTHING,
    Register,
    Units,
    agreed,
    concatenated,
    joined,
    settled,
    shared_over,
    standing,
)
from explainers.network import Network
from explainers.operators import (
    Attention,
    AveragePool,
    Convolution,
    Generic,
    Linear,
    MatrixProduct,
    Multiply,
    Pad,
    Recurrent,
    Softmax,
)
from explainers.operators.base import Slot
from explainers.scan.causal_graph import CausalGraph
from tests.explainers.perturbed_units import assert_structure_is_what_moves


class Branching(nn.Module):
    """A norm, a skip, a join with groups, a depthwise convolution, a shuffle and a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.side = nn.Conv2d(4, 4, 1)
        self.join = nn.Conv2d(8, 4, 1, groups=2)
        self.depthwise = nn.Conv2d(4, 8, 3, padding=1, groups=4)
        self.head = nn.Linear(8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu_(self.norm(self.stem(x)))
        x = x + self.side(x)
        x = self.join(torch.cat((x, x), 1))
        x = functional.channel_shuffle(self.depthwise(x), 2)
        return self.head(functional.max_pool2d(x, 2).flatten(1))


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network(Branching().double(), torch.randn(2, 1, 4, 4, dtype=torch.float64))


def test_neurons_are_what_a_layer_reads(network: Network) -> None:
    structure = structure_of(network)
    names = [layer.name for layer in structure.layers]
    assert names == ["stem", "side", "join", "head"]
    assert [layer.n_neurons for layer in structure.layers] == [0, 4, 4, 4]
    assert [layer.n_outputs for layer in structure.layers] == [4, 4, 4, 5]
    assert [layer.groups for layer in structure.layers] == [1, 1, 2, 1]
    assert [layer.is_root for layer in structure.layers] == [True, False, False, False]
    assert structure.layer("head").kind == "linear"
    assert structure.layer("side").kind == "convolution"


def test_features_of_the_same_units_are_one_neuron(network: Network) -> None:
    structure = structure_of(network)
    # the two halves of the join are the same channels
    assert structure.layer("join").neuron_of.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    # depthwise: 0 0 1 1 2 2 3 3, shuffled 0 2 0 2 1 3 1 3, four places each; 2 comes second
    of_channel = torch.tensor([0, 1, 0, 1, 2, 3, 2, 3])
    head = structure.layer("head")
    assert torch.equal(head.neuron_of, of_channel.repeat_interleave(4))
    assert head.sources.neuron.tolist() == [0, 1, 2, 3]
    assert head.sources.channel.tolist() == [0, 2, 1, 3]
    assert {structure.layers[at].name for at in head.sources.layer.tolist()} == {"join"}


def test_levels_are_counted_from_the_outputs(network: Network) -> None:
    structure = structure_of(network)
    assert structure.levels == (("head",), ("join",), ("side",))
    assert [layer.level for layer in structure.layers] == [3, 2, 1, 0]


def test_selected_neurons_become_effects_of_all_branches(network: Network) -> None:
    structure = structure_of(network)
    starts = structure.starts(torch.tensor([3, 1, 3]))
    assert list(starts) == ["head"]
    assert starts["head"].nonzero().tolist() == [[0, 3], [1, 1], [2, 3]]
    selected = torch.tensor([[False, True, False, False], [False] * 4])
    passed = structure.passed_on("side", selected)
    assert {name: found.nonzero().tolist() for name, found in passed.items()} == {"stem": [[0, 1]]}
    passed = structure.passed_on("join", selected)
    assert {name: found.nonzero().tolist() for name, found in passed.items()} == {
        "stem": [[0, 1]],
        "side": [[0, 1]],
    }
    assert passed["side"].shape == (2, 4)


def test_structure_is_what_moves(network: Network) -> None:
    inputs = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    assert_structure_is_what_moves(network, inputs, 4)


def test_structure_is_derived_once_and_keeps_what_was_folded(network: Network) -> None:
    structure = structure_of(network)
    assert structure_of(network) is structure
    stem = structure.layer("stem")
    assert stem.unfolded is not None
    assert stem.norm is not None
    assert structure.layer("side").norm is None


def test_what_does_not_fit_is_refused(network: Network) -> None:
    structure = structure_of(network)
    with pytest.raises(LookupError, match="unknown weighted layer 'heat'"):
        structure.layer("heat")
    with pytest.raises(ValueError, match=r"has 4 neurons, expected selected as \(classes, 4\)"):
        structure.passed_on("head", torch.ones(1, 3, dtype=torch.bool))


class Mixing(nn.Module):
    """Channels of frames become places, which a convolution reads as if of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.below = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 8, 1)
        self.reader, self.head = nn.Conv2d(2, 3, 1), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.below(self.stem(x.flatten(0, 1)))
        found = self.reader(functional.pixel_shuffle(frames, 2)).mean((2, 3))
        return self.head(found.view(x.shape[0], -1, 3).mean(1))


def test_layers_behind_what_is_not_known_have_a_structure() -> None:
    network = Network(Mixing(), torch.randn(2, 2, 1, 3, 3))
    structure = structure_of(network)
    assert structure.levels == (("head",), ("reader",), ("below",))
    head, reader = structure.layer("head"), structure.layer("reader")
    assert head.refusal is None
    assert head.sources.channel.tolist() == [0, 1, 2]
    assert "Reshape(aten.pixel_shuffle.default) ('pixel_shuffle#0')" in (reader.refusal or "")
    assert set(reader.sources.channel.tolist()) == set(range(8))
    with pytest.raises(NotImplementedError, match="channels were mixed"):
        structure.passed_on("reader", torch.ones(1, 1, dtype=torch.bool))
    check_tested(network, ["head"])
    assert "samples share an axis with places" in refusals(network, structure.layers)["below"]
    with pytest.raises(NotImplementedError, match=r"layer 'below' \(and 1 more\).*=\['head'\]"):
        check_tested(network, ["head", "reader", "below"])
    notes = CausalGraph(layers=("head", "stem")).notes(network)
    assert any("layers names stem" in note for note in notes)


# rules by themselves: reading a network takes a quarter of a second


def _behind(op: Any, *units: Units | None, shape: tuple[int, ...], setting: Setting) -> Units:
    setting.shapes[op.name] = shape  # type: ignore[index]  # a dict here
    found: Units = channels.find(op)(op, units, setting)
    return found


def _setting(**shapes: tuple[int, ...]) -> Setting:
    return Setting(dict(shapes))


def _sets(units: Units, register: Register) -> list[list[int]]:
    """Channels that stand at each place, in order of places."""
    rows = units.table[units.index.flatten()]
    group, unit = register.resolved(
        torch.arange(len(rows))[:, None].expand_as(rows).flatten(), rows.flatten()
    )
    return [unit[group == position].tolist() for position in range(len(rows))]


def _operator(kind: Any, *inputs: str, **fields: Any) -> Any:
    return kind(name="y", module_path="part", inputs=inputs, **fields)


def test_a_head_is_a_unit_that_stands_for_its_queries_keys_and_values() -> None:
    setting = _setting()
    shape = (2, 2, 3, 4)  # batch, heads, places, features
    parts = []
    for _ in "qkv":
        units = setting.register.enter(8)
        laid = standing(units, -1, (2, 3, 8)).index.reshape(2, 3, 2, 4).transpose(1, 2)
        parts.append(Units(laid, units[:, None]))
    found = _behind(_operator(Attention, "q", "k", "v"), *parts, shape=shape, setting=setting)
    sets = _sets(Units(found.index[0, :, 0, 0], found.table), setting.register)
    assert sets == [
        [*range(4), *range(8, 12), *range(16, 20)],
        [*range(4, 8), *range(12, 16), *range(20, 24)],
    ]
    assert int((found.index == found.index[:1, :, :1, :1]).sum()) == found.index.numel()


def test_heads_by_matrix_products_stand_for_the_same() -> None:
    setting = _setting()
    query, key, value = (
        standing(setting.register.enter(2), 0, (2, 3, 3)) for _ in range(3)
    )  # heads, places, features: one unit each
    weights = _behind(
        _operator(MatrixProduct, "q", "k"), query, key, shape=(2, 3, 3), setting=setting
    )
    weights = _behind(_operator(Softmax, "x", dim=-1), weights, shape=(2, 3, 3), setting=setting)
    found = _behind(
        _operator(MatrixProduct, "w", "v"), weights, value, shape=(2, 3, 3), setting=setting
    )
    sets = _sets(Units(found.index[:, 0, 0], found.table), setting.register)
    assert sets == [[0, 2, 4], [1, 3, 5]]


def test_a_softmax_over_channels_stands_for_all() -> None:
    setting = _setting()
    units = standing(setting.register.enter(3), 1, (2, 3, 2))
    found = _behind(_operator(Softmax, "x", dim=1), units, shape=(2, 3, 2), setting=setting)
    assert _sets(Units(found.index[0, :, 0], found.table), setting.register) == [[0, 1, 2]] * 3


def _function(name: str, *arguments: Any) -> Any:
    function = getattr(torch.ops.aten, name).default
    return _operator(Generic, "x", function=function, arguments=(Slot(0), *arguments))


def test_halves_of_a_gated_unit_are_joined_and_instance_norms_pass_on() -> None:
    setting = _setting()
    units = standing(setting.register.enter(4), 1, (2, 4, 3))
    found = _behind(_function("glu", 1), units, shape=(2, 2, 3), setting=setting)
    assert _sets(Units(found.index[0, :, 0], found.table), setting.register) == [[0, 2], [1, 3]]
    assert _behind(_function("instance_norm"), units, shape=(2, 4, 3), setting=setting) is units


def test_a_norm_by_neighbouring_channels_is_of_its_own_channel() -> None:
    setting = _setting()
    units = standing(setting.register.enter(4), 2, (2, 1, 4, 3))
    window: dict[str, Any] = {"form": "window", "size": (3, 1), "stride": (1, 1)}
    pool = _operator(AveragePool, "x", padding=(1, 0), **window)
    found = _behind(pool, units, shape=(2, 1, 4, 3), setting=setting)
    of_window = [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3]]
    assert _sets(Units(found.index[0, 0, :, 0], found.table), setting.register) == of_window
    normed = joined(units, found, (2, 1, 4, 3), setting.register)
    assert normed is not None
    sets = _sets(Units(normed.index[0, 0, :, 0], normed.table), setting.register)
    assert sets == [[0], [1], [2], [3]]


def test_a_convolution_over_channels_stands_for_those_of_its_window() -> None:
    setting = _setting()
    units = standing(setting.register.enter(4), 2, (2, 1, 4))
    op = _convolution(1, 1)
    op = replace(op, weight=torch.zeros(1, 1, 2), stride=(1,), padding=(2,), dilation=(2,))
    found = _behind(op, units, shape=(2, 1, 6), setting=setting)
    of_window = [[0], [1], [0, 2], [1, 3], [2], [3]]
    assert _sets(Units(found.index[0, 0], found.table), setting.register) == of_window
    assert not setting.entries


def test_a_recurrence_is_refused_by_name() -> None:
    fields: dict[str, Any] = {"kind": "gru", "weights": (), "has_biases": True, "n_layers": 1}
    fields |= {"bidirectional": False, "batch_first": True, "item": 0}
    op = Recurrent(name="y", module_path="part", inputs=("x",), **fields)
    with pytest.raises(NotImplementedError, match=r"'channels' has no rule .* Recurrent\(gru\)"):
        channels.find(op)


def test_a_value_scaled_by_a_statistic_of_its_channels_stays_its_own() -> None:
    setting = _setting()
    shape = (2, 3, 2)
    units = standing(setting.register.enter(3), 1, shape)
    other = standing(setting.register.enter(1), 1, (2, 1, 2))
    norm = shared_over((units,), (1,), setting.register, is_statistic=True)
    scaled = joined(units, norm, shape, setting.register)
    gated = joined(other, norm, (2, 1, 2), setting.register)
    assert scaled is not None
    assert gated is not None
    assert _sets(Units(scaled.index[0, :, 0], scaled.table), setting.register) == [[0], [1], [2]]
    assert _sets(Units(gated.index[0, :, 0], gated.table), setting.register) == [[0, 1, 2, 3]]


def test_space_to_depth_groups_channels() -> None:
    units = standing(torch.arange(2), 1, (2, 2, 4, 4))
    moved = settled(Units(functional.pixel_unshuffle(units.index, 2), units.table))
    setting = _setting()
    op = _convolution(8, 3)
    _behind(op, moved, shape=(2, 3, 2, 2), setting=setting)
    assert setting.entries[0].features.flatten().tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def _convolution(n_inputs: int, n_outputs: int, groups: int = 1) -> Any:
    weight = torch.zeros(n_outputs, n_inputs // groups, 1, 1)
    options: dict[str, Any] = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
    return _operator(
        Convolution,
        "x",
        weight=weight,
        bias=None,
        groups=groups,
        transposed=False,
        output_padding=(0, 0),
        **options,
    )


def test_depthwise_channels_read_in_turn() -> None:
    setting = _setting()
    units = standing(torch.arange(3), 1, (2, 3, 2, 2))
    found = _behind(_convolution(3, 6, 3), units, shape=(2, 6, 2, 2), setting=setting)
    assert found.table[found.index[0, :, 0, 0], 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert not setting.entries


def test_where_there_is_nothing_places_agree_with_any() -> None:
    setting = _setting()
    tokens = standing(torch.arange(4), -1, (2, 3, 4))
    with_class = concatenated([None, tokens], [(2, 1, 4), (2, 3, 4)], 1)
    op = _operator(Linear, "x", weight=torch.zeros(2, 4), bias=None)
    _behind(op, with_class, shape=(2, 4, 2), setting=setting)
    assert setting.entries[0].features.max(1).values.tolist() == [0, 1, 2, 3]
    padded = _behind(
        _operator(Pad, "x", padding=(0, 0, 1, 0), mode="constant", value=0.0),
        tokens,
        shape=(2, 4, 4),
        setting=setting,
    )
    assert padded.table[padded.index[0, 0], 0].tolist() == [NOTHING] * 4


def test_places_that_differ_do_not_agree() -> None:
    places = standing(torch.arange(3), 1, (2, 3, 4))
    assert agreed(places, (1,)) is None
    assert agreed(places, (0, 2)) is not None
    both = Units(torch.arange(12).reshape(3, 4), torch.arange(12)[:, None])
    op = _operator(Linear, "x", weight=torch.zeros(2, 4), bias=None)
    with pytest.raises(NotImplementedError, match="different channels at different places"):
        _behind(op, both, shape=(3, 2), setting=_setting())


def test_gates_join_the_units_of_both() -> None:
    setting = _setting()
    value = standing(torch.arange(3), 1, (2, 3, 4))
    gate = standing(torch.arange(3, 6), 1, (2, 3, 1))
    op = _operator(Multiply, "x", "g")
    found = _behind(op, value, gate, shape=(2, 3, 4), setting=setting)
    assert _sets(Units(found.index[0, :, 0], found.table), setting.register) == [
        [0, 3],
        [1, 4],
        [2, 5],
    ]


def test_what_is_joined_with_itself_again_stays_as_it_is() -> None:
    setting = _setting()
    value = standing(setting.register.enter(3), 1, (2, 3, 4))
    other = standing(setting.register.enter(3), 1, (2, 3, 4))
    found: Units | None = joined(value, other, (2, 3, 4), setting.register)
    for _ in range(12):  # residual blocks of depthwise convolutions or pools
        assert found is not None
        branch = Units(found.index.clone(), found.table)
        found = joined(found, branch, (2, 3, 4), setting.register)
    assert found is not None
    assert found.table.shape == (3, 2)
    assert _sets(Units(found.index[0, :, 0], found.table), setting.register) == [
        [0, 3],
        [1, 4],
        [2, 5],
    ]


def test_places_agree_where_some_lack_a_summand() -> None:
    early, late = (standing(torch.arange(3) + start, 1, (2, 3, 4)) for start in (0, 3))
    for inner, outer in ((early, late), (late, early)):
        table = functional.pad(inner.table, (0, 0, 0, 1), value=NOTHING)
        padded = Units(inner.index.clone().index_fill_(2, torch.tensor([0]), 3), table)
        both = joined(outer, padded, (2, 3, 4), Register())
        assert both is not None
        found = agreed(both, (2,))
        assert found is not None
        rows = found.table[found.index[0, :, 0]]
        assert rows.sort(1).values.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_members_are_found_in_order() -> None:
    position, entry = members_of(torch.tensor([0, 0, 2, 5]), torch.tensor([5, 1, 0, 0]))
    assert position.tolist() == [0, 2, 2, 3, 3]
    assert entry.tolist() == [3, 0, 1, 0, 1]


def test_a_linear_map_over_the_places_of_channels_is_no_layer() -> None:
    setting = _setting()
    places = standing(torch.arange(3), 1, (2, 3, 4))
    op = _operator(Linear, "x", weight=torch.zeros(5, 4), bias=None)
    found = _behind(op, places, shape=(2, 3, 5), setting=setting)
    assert found.table[found.index[0], 0].tolist() == [[channel] * 5 for channel in range(3)]
    assert not setting.entries
