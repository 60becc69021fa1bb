"""References against one concept of one sample at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

import explainers
from explainers import Network
from explainers.base import Samples
from explainers.composites import find
from explainers.concepts.conditional import conditional
from explainers.concepts.crops import crops
from explainers.concepts.kinds import resolve
from explainers.concepts.quality import quality
from explainers.concepts.receptive_field import receptive_field
from explainers.concepts.references.averaging import averaged
from explainers.concepts.references.heatmaps import check
from explainers.rules.walking import Course
from explainers.targets import Target
from explainers.trace import Trace

if TYPE_CHECKING:
    from explainers.concepts.references import References

pytestmark = pytest.mark.slow

N_SAMPLES, N_REFERENCES = 7, 2
LAYERS = ("first", "second", "third", "head.1")


class Net(nn.Module):
    """A residual, a pool, and two linear layers."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_channels, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 4, 3, stride=2)
        self.third = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits."""
        hidden = self.second(self.first(inputs).relu())
        hidden = (self.third(hidden.relu()) + hidden).relu()
        return self.head(nn.functional.max_pool2d(hidden, 2))


def samples_of(n_channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N_SAMPLES, n_channels, 11, 11, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network(Net(3).double(), samples_of(3)[:2])


def loader(inputs: Tensor, size: int = 3) -> list[tuple[Tensor, Tensor]]:
    labels = torch.arange(len(inputs)) % 3
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def scanned(network: Network, inputs: Tensor, **params: object) -> dict:
    return explainers.scan(
        network,
        params.pop("method", "relevance_maximization"),
        loader(inputs),
        **{"layers": LAYERS, "k": 4, "per_class": False, "references": N_REFERENCES, **params},
    )


def alone(
    network: Network, row: Tensor, layer: str, concept: int, position: int | None, spec: object
) -> Tensor:
    """Return the heat map of one concept, or of one neuron of it, of one sample."""
    trace = Trace(network, row[None])
    concepts = resolve(spec, network, layer)
    value = trace.values[concepts.operator]
    if position is None:
        chosen = torch.arange(concepts.n)[None] == concept
        start = concepts.masked(value, value, chosen)
    else:
        place = torch.tensor([concept]), torch.tensor([position])
        start = concepts.at_positions(value, value, *place)
    source = network.operators[0].name
    choose, kept = find("epsilon_plus_flat").choose(network), dict[str, Tensor]()
    course = Course(network, choose, ends=[source])
    course.carry(trace.values, {concepts.operator: start}, [source], kept)
    return kept[source][0]


def assert_are_those_alone(
    network: Network, inputs: Tensor, result: dict, layer: str, spec: object = "channels"
) -> None:
    held, is_image = result[layer]["references"], inputs.ndim == 4
    lists = result[layer]["sum_normed"]
    assert torch.equal(held["sample"], lists["sample"][:N_REFERENCES].long())
    assert torch.equal(held["position"], lists["position"][:N_REFERENCES].long())
    for rank, concept in torch.ones(held["sample"].shape).nonzero().tolist():
        row = inputs[held["sample"][rank, concept]]
        position = int(held["position"][rank, concept])
        whole = alone(network, row, layer, concept, None, spec)
        neuron = alone(network, row, layer, concept, position, spec)
        if is_image:
            whole, neuron = whole.sum(0), neuron.sum(0)
        scale = whole.abs().max()
        # sums of a few hundred products in float64; the scale is kept in float32, 2^-24 off
        torch.testing.assert_close(held["scale"][rank, concept].double(), scale, rtol=1e-6, atol=0)
        # float16 has 11 bits: half of the last is 2^-11 of values up to one
        found = held["heatmap"][rank, concept].double()
        torch.testing.assert_close(found, whole / scale.clamp(min=1e-300), rtol=0, atol=2**-11)
        assert float(found.abs().max()) in (0.0, 1.0)
        if is_image:
            assert held["crop"][rank, concept].tolist() == crops(neuron).tolist()


def test_heat_maps_are_those_of_one_concept_at_a_time(network: Network) -> None:
    inputs = samples_of(3)
    result = scanned(network, inputs)
    for layer in LAYERS:
        assert_are_those_alone(network, inputs, result, layer)
        held = result[layer]["references"]
        fields = receptive_field(network, layer)[held["position"]]
        assert torch.equal(held["receptive_field"], fields)


def test_heat_maps_are_conditional_on_a_concept_from_its_layer_on(network: Network) -> None:
    inputs = samples_of(3)
    held = scanned(network, inputs)["second"]["references"]
    choose = find("epsilon_plus_flat").choose(network)
    trace = Trace(network, inputs[held["sample"][0]])
    conditions = [{"second": channel} for channel in range(4)]
    maps = conditional(
        trace, Target.parse(None), conditions, choose, start="second", pairing="zip"
    ).heatmaps.sum(1)
    scale = maps.abs().amax((1, 2), keepdim=True)
    torch.testing.assert_close(held["heatmap"][0].double(), maps / scale, rtol=0, atol=2**-11)


def test_concepts_are_scored_by_what_the_last_layer_is_given(network: Network) -> None:
    inputs = samples_of(3)
    result = scanned(network, inputs)["third"]
    embeddings = Trace(network, inputs).layer("head.2").float()
    vectors = embeddings[result["references"]["sample"].T]
    expected = quality(vectors, torch.ones(vectors.shape[:2], dtype=torch.bool))
    assert result["quality"].keys() == expected.keys()
    for name, score in expected.items():
        torch.testing.assert_close(result["quality"][name], score)


def folded(network: Network, references: References, order: list[int], cuts: list[int]) -> dict:
    """Return what batches come to, in some order and divided into shards."""
    inputs = samples_of(3)
    batches = [
        (Trace(network, inputs[start : start + 3]), Samples(index, torch.zeros_like(index)))
        for start in (0, 3, 6)
        for index in [torch.arange(start, min(start + 3, N_SAMPLES))]
    ]
    shards = [[batches[i] for i in order[a:b]] for a, b in zip([0, *cuts], [*cuts, 3], strict=True)]
    state = references.init()
    for shard in shards:
        state = references.merge(state, references.fold(shard))
    groups = references.groups(state)
    return explainers.base.united(
        references.finalise({name: state[name] for name in group}) for group in groups
    )


def flat(result: dict, prefix: str = "") -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in result.items():
        path = f"{prefix}/{name}"
        found |= flat(value, path) if isinstance(value, dict) else {path: value}
    return found


def references_of_lists(network: Network) -> References:
    scan = explainers.catalogue.build(
        "relevance_maximization", layers=LAYERS, k=4, references=N_REFERENCES
    )
    lists = scan.rounds({})
    state = scan.fold(
        (Trace(network, x, samples=s), s)
        for start, (x, y) in zip((0, 3, 6), loader(samples_of(3)), strict=True)
        for s in [Samples(torch.arange(start, start + len(x)), y)]
    )
    return scan.rounds({lists.name: scan.finalise(state)})


def test_the_cut_into_shards_and_their_order_change_no_bit(network: Network) -> None:
    found = references_of_lists(network)
    assert found.is_large
    assert torch.equal(found.samples, found.samples.unique())
    whole = flat(folded(network, found.scan, [0, 1, 2], []))
    for order, cuts in (([0, 1, 2], [1, 2]), ([2, 0, 1], [2]), ([1, 2, 0], [0, 1, 1])):
        other = flat(folded(network, found.scan, order, cuts))
        assert other.keys() == whole.keys()
        assert all(torch.equal(other[name], whole[name]) for name in whole)


@pytest.mark.parametrize("longest", [5, 3, 11])
def test_heat_maps_are_averaged_down(network: Network, longest: int) -> None:
    inputs = samples_of(3)
    whole, small = (
        scanned(network, inputs, layers="second", heatmap_size=size)["second"]["references"]
        for size in (None, longest)
    )
    assert small["heatmap"].shape == (*whole["heatmap"].shape[:2], longest, longest)
    assert torch.equal(small["crop"], whole["crop"])
    maps, fewer = (
        held["heatmap"].double() * held["scale"][..., None, None] for held in (whole, small)
    )
    # half of the last of float16's 11 bits for each of the 121 places
    tolerance = 121 * float(whole["scale"].max()) * 2**-11
    sums = fewer.sum((-2, -1)) * (11 / longest) ** 2
    torch.testing.assert_close(sums, maps.sum((-2, -1)), rtol=0, atol=tolerance)


def test_smaller_heat_maps_are_planned_for(network: Network) -> None:
    build = explainers.catalogue.build
    whole, small = (
        build(
            "activation_maximization", layers="third", references=2, heatmap_size=size
        ).stored_bytes(network, N_SAMPLES, 1)
        for size in (None, 5)
    )
    n_maps, bytes_of_pixel = 4 * 2, 2
    saved = n_maps * bytes_of_pixel * (11 * 11 - 5 * 5)
    assert whole["states"] - small["states"] == whole["results"] - small["results"] == saved


def test_each_place_is_the_mean_over_the_area_that_it_covers() -> None:
    heatmaps = torch.arange(24.0, dtype=torch.float64).view(1, 4, 6)
    halves = heatmaps.view(1, 2, 2, 3, 2).mean((2, 4))
    torch.testing.assert_close(averaged(heatmaps, 3), halves)
    row = torch.tensor([[[3.0, 6.0, 9.0]]], dtype=torch.float64)
    # the middle one is half in either
    torch.testing.assert_close(averaged(row, 2), torch.tensor([[[4.0, 8.0]]]).double())
    assert averaged(heatmaps, 6) is heatmaps
    assert averaged(heatmaps, None) is heatmaps


def test_a_trial_draws_one_concept_of_each_layer(network: Network) -> None:
    found = references_of_lists(network).scan
    brief = found.briefer()
    for layer, listed in brief.listed.items():
        assert listed.sample.shape == found.listed[layer].sample.shape
        assert (listed.sample >= 0).any(0).sum() == 1
    state = brief.fold(
        [(Trace(network, samples_of(3)), Samples(torch.arange(N_SAMPLES), torch.zeros(7)))]
    )
    assert {len(state[f"{layer}/references/sample"]) for layer in LAYERS} == {N_REFERENCES}
    assert brief.finalise(state).keys() == set(LAYERS)


def test_a_sample_that_failed_is_absent(network: Network) -> None:
    references = references_of_lists(network).scan
    index = torch.tensor([0, 1])
    samples = Samples(index, torch.zeros_like(index))
    state = references.fold([(Trace(network, samples_of(3)[:2]), samples)])
    held = references.finalise(state)["third"]["references"]
    is_there = held["sample"] >= 0
    assert is_there.any()
    assert set(held["sample"][is_there].tolist()) <= {0, 1}
    assert held["scale"][~is_there].isnan().all()
    assert (held["crop"][~is_there] == -1).all()
    assert (held["heatmap"][~is_there] == 0).all()


def test_inputs_of_one_channel_and_several_targets() -> None:
    torch.manual_seed(2)
    inputs = samples_of(1)
    small = Network(Net(1).double(), inputs[:2])
    result = scanned(small, inputs, layers="second", target=["label", "predicted"])
    assert result.keys() == {"label", "predicted"}
    for lists in result.values():
        assert_are_those_alone(small, inputs, lists, "second")


def test_what_activates_most_has_heat_maps_too(network: Network) -> None:
    inputs = samples_of(3)
    vectors = torch.randn(2, 4, generator=torch.Generator().manual_seed(3))
    specs = {"second": {"directions": vectors.tolist()}, "third": "tokens"}
    layers = ["second", "third"]
    result = scanned(
        network, inputs, method="activation_maximization", layers=layers, concepts=specs
    )
    for layer in layers:
        assert_are_those_alone(network, inputs, result, layer, specs[layer])
    held = result["third"]["references"]
    # a token is the same place for all its features
    fields = receptive_field(network, "third")
    assert torch.equal(held["receptive_field"], fields.expand(N_REFERENCES, -1, -1))
    assert "first" not in result


def test_heat_maps_of_activations_are_by_the_composite_that_is_asked_for(network: Network) -> None:
    method, inputs = "activation_maximization", samples_of(3)
    flat, signed = (
        scanned(network, inputs, method=method, layers="first", **params)["first"]["references"]
        for params in ({}, {"rules": {"first": "epsilon"}})
    )
    assert torch.equal(flat["sample"], signed["sample"])
    assert not torch.equal(flat["heatmap"], signed["heatmap"])
    with pytest.raises(LookupError, match="frist"):
        scanned(network, inputs, method=method, layers="first", rules={"frist": "epsilon"})
    scan = explainers.catalogue.build(method, layers="first", rules={"frist": "epsilon"})
    scan.check(network)  # nothing is done with rules


def test_what_is_no_image_keeps_its_shape_and_has_no_crop() -> None:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    inputs = torch.randn(N_SAMPLES, 6, dtype=torch.float64)
    small = Network(model, inputs[:2])
    result = scanned(small, inputs, layers="0")
    assert_are_those_alone(small, inputs, result, "0")
    held = result["0"]["references"]
    assert held["heatmap"].shape == (N_REFERENCES, 4, 6)
    assert held.keys() == {"sample", "position", "heatmap", "scale"}


def test_networks_of_several_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return first + second

    two = Network(Two(), (torch.rand(2, 3), torch.rand(2, 3)))
    with pytest.raises(NotImplementedError, match="references: 0"):
        check(two)


def test_heads_and_tokens_of_a_transformer() -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(5)
    model = models.VisionTransformer(32, 8, 2, 2, 8, 16, num_classes=3).double()
    nn.init.normal_(model.heads.head.weight)
    inputs = torch.randn(N_SAMPLES, 3, 32, 32, dtype=torch.float64)
    vision = Network(model, inputs[:2])
    last = "encoder.layers.encoder_layer_1"
    specs = {f"{last}.self_attention": "heads", f"{last}.mlp": "tokens", f"{last}.ln_2": "channels"}
    result = scanned(vision, inputs, layers=[*specs, "conv_proj"], concepts=specs)
    for layer, spec in specs.items():
        assert_are_those_alone(vision, inputs, result, layer, spec)
        # behind an attention, everything is seen
        assert (
            result[layer]["references"]["receptive_field"] == torch.tensor([0, 0, 32, 32])
        ).all()
    patches = result["conv_proj"]["references"]["receptive_field"]
    assert (patches[..., 2:] - patches[..., :2] == 8).all()
