"""What the concepts of a layer are, how much of each there is, and relevance of some alone."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from explainers.composites import find
from explainers.concepts.kinds import Concepts, resolve, select
from explainers.concepts.kinds.reducing import reduced
from explainers.network import Network
from explainers.operators import Attention, MatrixProduct
from explainers.rules.walking import Course
from tests.explainers import test_lrp_attention as attention
from tests.explainers.zoo import small, small_network

if TYPE_CHECKING:
    from pathlib import Path

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
"""Of sums of some dozen terms of size one in double precision."""


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def of_layer(spec: Any, network: Network, layer: str, inputs: Tensor) -> tuple[Concepts, Tensor]:
    """Concepts, and the value that they are in."""
    concepts = resolve(spec, network, layer)
    return concepts, network.run(inputs)[concepts.operator]


def alone(concepts: Concepts, relevance: Tensor, value: Tensor, batch: int, concept: int) -> Tensor:
    chosen = torch.zeros(batch, concepts.n, dtype=torch.bool)
    chosen[:, concept] = True
    return concepts.masked(relevance, value, chosen)


def check_parts(concepts: Concepts, value: Tensor, expected: Tensor) -> None:
    """Compare with values ``(batch, n, *positions)``, in everything that concepts can do."""
    batch = len(expected)
    assert tuple(expected.shape[1:]) == (concepts.n, *concepts.shape)
    found = concepts.scores(value)
    flat = expected.reshape(batch, concepts.n, -1)
    torch.testing.assert_close(found.total, flat.sum(2), **CLOSE)
    assert found.position.dtype == torch.int64
    for b, k in itertools.product(range(batch), range(concepts.n)):
        place = int(np.argmax(flat[b, k].numpy()))  # the first of equal ones
        assert found.position[b, k] == place
        assert found.peak[b, k] == flat[b, k, place]
    parts = [alone(concepts, value, value, batch, k) for k in range(concepts.n)]
    assert all(part.shape == value.shape for part in parts)
    assert torch.equal(sum(parts, torch.zeros_like(value)), value)
    assert not concepts.rest(value, value).any()
    totals = torch.stack([concepts.scores(part).total for part in parts])  # (n, batch, n)
    own = torch.eye(concepts.n, dtype=totals.dtype)[:, None] * found.total.T[..., None]
    torch.testing.assert_close(totals, own, **CLOSE)
    concept = torch.arange(batch) % concepts.n
    position = found.position[torch.arange(batch), concept]
    neurons = concepts.at_positions(value, value, concept, position)
    assert neurons.shape == value.shape
    assert int(neurons.count_nonzero()) <= batch
    peak = found.peak[torch.arange(batch), concept]
    assert torch.equal(concepts.scores(neurons).total[torch.arange(batch), concept], peak)


@pytest.mark.parametrize("layer", ["conv1", "conv2#1", "pool", "fc"])
def test_channels_are_feature_maps_and_units(layer: str) -> None:
    concepts, value = of_layer("channels", small_network(), layer, small()[1])
    assert concepts.layer == concepts.operator == layer
    check_parts(concepts, value, value)


@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (1, 5, 7, 7), (2, 1, 6, 6), (3, 4, 9), (2, 4)])
@pytest.mark.parametrize("is_channels_last", [False, True])
def test_the_first_of_equal_values_is_the_place_in_any_memory_layout(
    shape: tuple[int, ...], is_channels_last: bool
) -> None:
    amounts = drawn(*shape).mul(2).round()
    amounts[0, 0] = 0
    if is_channels_last:
        amounts = amounts.movedim(1, -1).contiguous().movedim(-1, 1)
    flat = amounts.reshape(*shape[:2], -1).numpy()
    found = reduced(amounts, 1)
    np.testing.assert_array_equal(found.position, flat.argmax(2))
    np.testing.assert_array_equal(found.peak, flat.max(2))
    np.testing.assert_allclose(found.total, flat.sum(2), **CLOSE)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_nan_makes_its_concept_nan_and_no_other(layout: torch.memory_format) -> None:
    amounts = drawn(2, 3, 4, 4)
    amounts[0, 1, 2, 2] = math.nan
    amounts[0, 1, 3, 3] = math.inf
    amounts[1, 2] = -math.inf
    found = reduced(amounts.contiguous(memory_format=layout), 1)
    for scores in (found.total, found.peak):
        assert scores.isnan().nonzero().tolist() == [[0, 1]]
    assert found.position[1, 2] == 0


def test_neurons_of_a_row_are_joined_and_rows_without_any_are_zero() -> None:
    concepts, value = of_layer("channels", small_network(), "conv1", small()[1])
    rows, channel, place = torch.tensor([[0, 0, 2], [1, 4, 4], [9, 63, 0]])
    found = concepts.at_positions(value, value, channel, place, rows)
    expected = torch.zeros_like(value)
    for row, c, p in zip(rows, channel, place, strict=True):
        expected[row, c, p // 8, p % 8] = value[row, c, p // 8, p % 8]
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("form", "mixing"),
    [
        ("fused", "scaled_dot_product_attention#0"),
        pytest.param("written out", "matmul#1", marks=pytest.mark.slow),
    ],
)
def test_heads_are_found_from_the_attention_and_its_projection(form: str, mixing: str) -> None:
    _, network, inputs = attention.tokens(form)
    kind = {"fused": Attention, "written out": MatrixProduct}[form]
    for name in ("blocks.0.out", f"blocks.0.{mixing}"):
        concepts, value = of_layer("heads", network, name, inputs)
        assert isinstance(network.operator(concepts.operator), kind)
        assert (concepts.layer, concepts.n, concepts.shape) == (name, 2, (6, 4))
        check_parts(concepts, value, value)


def test_tokens_have_features_and_queries_those_of_all_heads() -> None:
    _, network, inputs = attention.tokens("fused")
    concepts, value = of_layer("tokens", network, "blocks.0.up", inputs)
    check_parts(concepts, value, value)
    concepts, value = of_layer("channels", network, "blocks.0.up", inputs)
    check_parts(concepts, value, value.mT)
    name = "blocks.0.scaled_dot_product_attention#0"
    concepts, value = of_layer("tokens", network, name, inputs)
    check_parts(concepts, value, value.movedim(2, 1))
    concepts, value = of_layer("channels", network, name, inputs)
    check_parts(concepts, value, value.movedim(3, 1))


@pytest.mark.slow
def test_rows_may_lie_behind_the_sequence_or_share_its_axis() -> None:
    network = attention._encoder()
    inputs, name = drawn(3, 5, 8), "layer.self_attn"
    joined = f"{name}.linear#1"
    concepts, value = of_layer("tokens", network, name, inputs)
    assert value.shape == (5, 3, 8)
    check_parts(concepts, value, value.movedim(1, 0))
    concepts, value = of_layer("tokens", network, joined, inputs)
    assert value.shape == (15, 8)
    check_parts(concepts, value, value.view(5, 3, 8).movedim(1, 0))
    concepts, value = of_layer("channels", network, joined, inputs)
    check_parts(concepts, value, value.view(5, 3, 8).permute(1, 2, 0))
    concepts, value = of_layer("heads", network, name, inputs)
    check_parts(concepts, value, value)


def by_definition(rows: Tensor, relevance: Tensor, value: Tensor) -> Tensor:
    """Relevance of each direction at one place, channel by channel, ``(directions, channels)``."""
    inverse = np.linalg.pinv(rows.T.numpy())
    context = [float(r / h) if h else 0.0 for r, h in zip(relevance, value, strict=True)]
    found = torch.zeros(rows.shape, dtype=torch.float64)
    for k, row in enumerate(rows):
        along = sum(float(v) * c for v, c in zip(row, context, strict=True))
        for i, held in enumerate(value):
            # what a channel at zero has stays in it
            found[k, i] = inverse[k, i] * (held * along if held else row[i] * relevance[i])
    return found


@pytest.mark.parametrize("n", [3, 6, 8])
@pytest.mark.parametrize("layer", ["conv1", "fc"])
def test_directions_share_relevance_as_defined(layer: str, n: int) -> None:
    network, inputs = small_network(), small()[1]
    value = network.run(inputs)[layer]
    value[0, 1] = 0
    relevance, n_channels = drawn(*value.shape, seed=1), value.shape[1]
    rows = drawn(n, n_channels, seed=2)
    concepts = resolve({"directions": rows}, network, layer)
    flat = [x.reshape(len(x), n_channels, -1) for x in (relevance, value)]
    parts = torch.stack([alone(concepts, relevance, value, 4, k) for k in range(n)])
    by_place = parts.reshape(n, 4, n_channels, -1)
    for b, p in ((0, 0), (1, flat[0].shape[2] - 1)):
        expected = by_definition(rows, flat[0][b, :, p], flat[1][b, :, p])
        torch.testing.assert_close(by_place[:, b, :, p], expected, rtol=1e-8, atol=1e-8)
    scores = concepts.scores(relevance, value)
    torch.testing.assert_close(scores.total, by_place.sum((2, 3)).T, **CLOSE)
    torch.testing.assert_close(scores.peak, by_place.sum(2).amax(2).T, **CLOSE)
    torch.testing.assert_close(parts.sum(0) + concepts.rest(relevance, value), relevance, **CLOSE)
    each, concept = torch.arange(4), torch.arange(4) % n
    position = scores.position[each, concept]
    neurons = concepts.at_positions(relevance, value, concept, position)
    found = neurons.flatten(1).sum(1)
    torch.testing.assert_close(found, scores.peak[each, concept], **CLOSE)
    coordinates = torch.from_numpy(np.linalg.pinv(rows.T.numpy())) @ flat[1]
    torch.testing.assert_close(concepts.scores(value).total, coordinates.sum(2), **CLOSE)
    if n >= n_channels:
        rest = concepts.rest(relevance, value)
        torch.testing.assert_close(rest, torch.zeros_like(rest), rtol=0, atol=1e-8)


def test_a_unit_vector_is_its_channel() -> None:
    network, inputs = small_network(), small()[1]
    channels, value = of_layer("channels", network, "conv2", inputs)
    value[0, 4] = 0  # to which some rules give relevance
    relevance = drawn(*value.shape, seed=1)
    unit = torch.eye(channels.n, dtype=torch.float64)[[4]] * 3
    concepts = resolve({"directions": unit.tolist()}, network, "conv2")
    found, expected = concepts.scores(relevance, value), channels.scores(relevance, value)
    torch.testing.assert_close(found.total, expected.total[:, [4]], **CLOSE)
    torch.testing.assert_close(found.peak, expected.peak[:, [4]], **CLOSE)
    assert torch.equal(found.position, expected.position[:, [4]])
    part = alone(concepts, relevance, value, 4, 0)
    torch.testing.assert_close(part, alone(channels, relevance, value, 4, 4), **CLOSE)


@pytest.mark.parametrize(
    "spec", ["channels", "heads", "tokens", {"directions": drawn(8, 8, seed=7)}], ids=str
)
def test_maps_of_concepts_sum_to_the_map_of_all(spec: Any) -> None:
    _, network, inputs = attention.tokens("fused")
    concepts, _ = of_layer(spec, network, "blocks.0.out", inputs)
    values = network.run(inputs)
    value = values[concepts.operator]
    course = Course(network, find("epsilon_plus").choose(network), ends=["input"])

    def carried(relevance: Tensor) -> Tensor:
        kept: dict[str, Tensor] = {}
        course.carry(values, {concepts.operator: relevance}, ["input"], kept)
        return kept["input"]

    relevance = drawn(*value.shape, seed=3)
    maps = [carried(alone(concepts, relevance, value, len(inputs), k)) for k in range(concepts.n)]
    # a rule may divide by values of 1e-5
    torch.testing.assert_close(sum(maps), carried(relevance), rtol=1e-7, atol=1e-7)


def test_directions_can_be_a_file(tmp_path: Path) -> None:
    rows = drawn(2, 6)
    np.save(tmp_path / "rows.npy", rows.numpy())
    found: Any = resolve({"directions": str(tmp_path / "rows.npy")}, small_network(), "conv1")
    assert torch.equal(found.directions, rows)


def test_files_that_hold_no_directions_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("rows")
    (tmp_path / "empty.npy").touch()
    for name in ("text.npy", "empty.npy", "missing.npy"):
        with pytest.raises(ValueError, match=rf"{name}' for layer 'conv1', expected a .npy file"):
            resolve({"directions": str(tmp_path / name)}, small_network(), "conv1")


def test_names_of_one_value_are_selected_once() -> None:
    found = select(["bn*", "conv*"], {}, small_network())
    assert list(found) == ["conv1", "conv2", "conv2#1"]
    assert list(select("bn*", {}, small_network())) == ["bn1", "bn2"]
    norms = select("bn*", {}, small_network()).values()
    assert [one.operator for one in norms] == ["conv1", "conv2"]


def test_a_name_with_concepts_goes_before_others_and_a_value_may_have_several_kinds() -> None:
    found = select(["conv1", "bn1"], {"bn1": "tokens"}, small_network())
    assert {name: one.n for name, one in found.items()} == {"bn1": 64}
    found = select(["conv1", "bn1"], {"bn1": "tokens", "conv1": "channels"}, small_network())
    assert {name: one.n for name, one in found.items()} == {"conv1": 6, "bn1": 64}
    found = select(["conv1", "bn1"], {"*1": {"directions": drawn(2, 6)}}, small_network())
    assert {name: one.n for name, one in found.items()} == {"conv1": 2}


def test_the_first_pattern_that_fits_a_layer_decides() -> None:
    specs = {"fc": "channels", "conv2": {"directions": drawn(2, 6)}, "*": "tokens"}
    found = select(["conv1", "conv2", "fc"], specs, small_network())
    assert [one.n for one in found.values()] == [64, 2, 5]


def test_concepts_of_no_layer_are_refused() -> None:
    with pytest.raises(LookupError, match="'fc', which is none of the layers asked for: conv1"):
        select(["conv1"], {"fc": "channels"}, small_network())
    with pytest.raises(LookupError, match="did you mean 'conv1'"):
        select(["cnv1"], {}, small_network())


@pytest.mark.parametrize(
    ("spec", "layer", "error", "message"),
    [
        ("channel", "fc", LookupError, "did you mean 'channels'"),
        (3, "fc", TypeError, "expected the name of a kind"),
        ({"channels": 3}, "fc", TypeError, "take no parameter, got 3"),
        ("directions", "fc", TypeError, r"\{directions: ...\}"),
        ({"directions": [["a"]]}, "fc", TypeError, "expected a matrix"),
        ({"directions": [[1.0, 2.0]]}, "fc", ValueError, r"expected \(directions, 5\)"),
        ({"directions": [[0.0] * 5]}, "fc", ValueError, "zero or not finite"),
        ("heads", "fc", ValueError, "no attention.*the network has none"),
        ("tokens", "fc", ValueError, "no tokens"),
    ],
)
def test_what_makes_no_concepts_is_refused(
    spec: Any, layer: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        resolve(spec, small_network(), layer)


class Attending(nn.Module):
    """Attention of torch that gives its weights too, and so is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed, _ = self.heads(x, x, x)
        return self.head(mixed[:, 0])


@pytest.mark.slow
def test_heads_that_share_an_axis_with_the_batch() -> None:
    network = Network(Attending().double().eval(), drawn(2, 5, 8))
    concepts, value = of_layer("heads", network, "heads", drawn(3, 5, 8))
    assert value.shape == (6, 5, 4)
    check_parts(concepts, value, value.view(3, 2, 5, 4))


@pytest.mark.slow
def test_heads_and_tokens_of_vision_transformers() -> None:
    timm = pytest.importorskip("timm")
    torchvision = pytest.importorskip("torchvision")
    of_timm = timm.models.vision_transformer.VisionTransformer
    cases: list[tuple[nn.Module, str, tuple[int, ...]]] = [
        (
            torchvision.models.VisionTransformer(16, 8, 1, 2, 8, 16, num_classes=3),
            "encoder.layers.encoder_layer_0.self_attention",
            (3, 2, 5, 4),
        ),
        (
            of_timm(img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2, num_classes=3),
            "blocks.0.attn",
            (3, 2, 5, 4),
        ),
    ]
    for model, layer, shape in cases:
        inputs = drawn(3, 3, 16, 16)
        network = Network(model.double().eval(), inputs)
        concepts, value = of_layer("heads", network, layer, inputs)
        assert value.shape == shape
        check_parts(concepts, value, value)
        concepts, value = of_layer("tokens", network, layer, inputs)
        check_parts(concepts, value, value)


@pytest.mark.slow
def test_heads_of_windows_are_heads_and_not_windows() -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.SwinTransformer([4, 4], 8, [2], [2], [4, 4], num_classes=3)
    inputs = drawn(3, 3, 32, 32)
    network = Network(model.double().eval(), inputs)
    for layer in ("features.1.0.attn", "features.1.1.attn"):
        concepts, value = of_layer("heads", network, layer, inputs)
        assert value.shape == (12, 2, 16, 4)
        check_parts(concepts, value, value.view(3, 4, 2, 16, 4).movedim(2, 1))
        concepts, value = of_layer("tokens", network, layer, inputs)
        check_parts(concepts, value, value.flatten(1, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_of_half_precision_do_not_overflow(dtype: torch.dtype) -> None:
    # 2 * 40000 is no number of float16; the amounts themselves are exact in both
    amounts = torch.tensor([[[[2.0, 1.0]], [[39936.0, 39936.0]]]], dtype=dtype)
    for layout in (torch.contiguous_format, torch.channels_last):
        found = reduced(amounts.contiguous(memory_format=layout), 1)
        assert found.total.tolist() == [[3.0, 79872.0]]
        assert found.peak.tolist() == [[2.0, 39936.0]]
        assert found.position.tolist() == [[0, 0]]
        assert found.total.dtype == found.peak.dtype == torch.float32
