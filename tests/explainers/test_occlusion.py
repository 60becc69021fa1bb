"""Occlusion against Captum, a slow loop over windows, and DeepExplain's examples."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any

import captum.attr
import pytest
import torch
from torch import nn

import explainers
from explainers import Network
from explainers.attribution.occlusion import Occlusion
from explainers.regions.boxes import Intervals
from tests.explainers.twins import SmallModules, network_twin, pictures, seeded, twin

if TYPE_CHECKING:
    from torch import Tensor

pytestmark = pytest.mark.slow

# The same differences of the same outputs; only the order of sums differs, in float64.
TOLERANCE = {"rtol": 0, "atol": 1e-10}


class TwoInputs(nn.Module):
    """The example of DeepExplain's tests: ReLU(ReLU(x1 - 1) - ReLU(x2))."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.relu(x[:, :1] - 1) - torch.relu(x[:, 1:]))


@functools.cache
def small(channels: int = 2, height: int = 7, width: int = 6) -> tuple[Network, Tensor]:
    """Return a small convolutional network and two inputs for it."""
    head = nn.Linear(4 * height * width, 3)
    conv = nn.Conv2d(channels, 4, 3, padding=1)
    model = seeded(nn.Sequential(conv, nn.Tanh(), nn.Flatten(), head))
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64)
    return Network(model, inputs), inputs


def captums(network: Network, inputs: Tensor, target: Tensor, **params: Any) -> Tensor:
    """Return Captum's map; in double precision, where its own division is in single."""
    occlusion = captum.attr.Occlusion(network)
    rounded = occlusion.attribute(inputs, target=target, **params)
    occlusion.use_weights = False
    total = occlusion.attribute(inputs, target=target, **params)
    weights = (total / rounded.double()).round()
    exact = total / weights
    # Captum rounds sum and quotient to float32: half a unit in the last place each.
    torch.testing.assert_close(rounded.double(), exact, rtol=2e-7, atol=0)
    return exact


@pytest.mark.parametrize(
    ("window", "stride", "baseline"),
    [
        ([2, 3, 3], [1, 2, 2], 0.0),
        ([2, 3, 2], [1, 1, 1], "tensor"),
        ([1, 3, 4], [1, 3, 3], -0.7),
        ([2, 4, 4], [2, 4, 4], "batch"),
        ([2, 7, 6], [1, 1, 1], 0.3),
    ],
)
def test_maps_are_captums(window: list[int], stride: list[int], baseline: Any) -> None:
    network, inputs = small()
    if baseline == "tensor":
        baseline = inputs[:1] * 0.5 + 1
    elif baseline == "batch":
        baseline = inputs.flip(0) * 0.5
    found = explainers.explain(
        network, "occlusion", inputs, window=window, stride=stride, baseline=baseline
    )
    expected = captums(
        network,
        inputs,
        network(inputs).argmax(1),
        sliding_window_shapes=tuple(window),
        strides=tuple(stride),
        baselines=baseline,
        perturbations_per_eval=3,
    )
    torch.testing.assert_close(found, expected, **TOLERANCE)


def places(size: int, window: int, stride: int, *, is_clipped: bool) -> list[slice]:
    """Return the places of a window, walking along an axis."""
    found, start = [], 0
    while start + window <= size:
        found.append(slice(start, start + window))
        start += stride
    if is_clipped and found[-1].stop < size and start < size:
        found.append(slice(start, size))
    return found


def by_loop(
    network: Network,
    inputs: Tensor,
    windows: tuple[int, ...],
    strides: tuple[int, ...],
    convention: str,
    space: str = "logit",
) -> Tensor:
    """Return the map by the definition, one window after the other, at baseline 0."""
    space_of = (lambda y: y.softmax(1)) if space == "probability" else (lambda y: y)
    classes = network(inputs).argmax(1, keepdim=True)
    heat, weight = torch.zeros_like(inputs), torch.zeros_like(inputs)
    axes = [
        places(size, window, stride, is_clipped=convention == "captum")
        for size, window, stride in zip(inputs.shape[1:], windows, strides, strict=True)
    ]
    for box in itertools.product(*axes):
        covered = inputs.clone()
        covered[:, *box] = 0
        lost = space_of(network(inputs)) - space_of(network(covered))
        delta = lost.gather(1, classes).view(-1, *[1] * (inputs.ndim - 1))
        heat[:, *box] += delta
        n_values = covered[0, *box].numel()
        weight[:, *box] += n_values if convention == "deepexplain" else 1
    return torch.where(weight > 0, heat / weight.clamp(min=1), 0.0)


@pytest.mark.parametrize("convention", ["captum", "deepexplain"])
@pytest.mark.parametrize(
    ("params", "windows", "strides"),
    [
        ({"window": 3, "stride": 2}, (2, 3, 3), (1, 2, 2)),
        ({"window": [2, 3]}, (2, 2, 3), (1, 2, 3)),
        ({"window": 1, "stride": 1, "channels": "apart"}, (1, 1, 1), (1, 1, 1)),
        ({"window": [None, 3], "stride": [1, 3]}, (2, 7, 3), (1, 1, 3)),
        ({"window": 4, "stride": 3, "output": "probability"}, (2, 4, 4), (1, 3, 3)),
    ],
)
@pytest.mark.filterwarnings("ignore:no window covers")
def test_maps_are_those_of_a_slow_loop(
    convention: str, params: dict[str, Any], windows: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    network, inputs = small()
    found = explainers.explain(network, "occlusion", inputs, convention=convention, **params)
    space = params.get("output", "logit")
    expected = by_loop(network, inputs, windows, strides, convention, space)
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_deep_explains_example() -> None:
    x = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    network = Network(TwoInputs(), x)

    def occluded(**params: Any) -> list[list[float]]:
        found: Tensor = explainers.explain(
            network, "occlusion", x, target=0, preset="deepexplain", **params
        )
        return found.tolist()

    assert occluded() == [[1.0, -1.0]]
    assert occluded(window=2) == [[0.5, 0.5]]
    with pytest.warns(UserWarning, match="no window covers 1 of the 2 values"):
        assert occluded(stride=2) == [[1.0, 0.0]]


def test_a_window_that_covers_all_takes_the_baselines_output() -> None:
    network, inputs = small()
    found = explainers.explain(network, "occlusion", inputs, window=[7, 6])
    classes = network(inputs).argmax(1, keepdim=True)
    lost = network(inputs) - network(torch.zeros_like(inputs))
    expected = lost.gather(1, classes)[..., None, None].expand_as(inputs)
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_uncovered_values_are_told_counted_and_zero() -> None:
    network, inputs = small()
    explainer = Occlusion(window=2, stride=3, convention="deepexplain")
    # rows 0-1 and 3-4 of 7, columns 0-1 and 3-4 of 6: 16 of 42 places, both channels
    (note,) = explainer.notes(network)
    assert note.startswith("no window covers 52 of the 84 values")
    bound = explainers.get("occlusion")(network, window=2, stride=3, convention="deepexplain")
    with pytest.warns(UserWarning, match="no window covers 52"):
        found = bound.explain(inputs)
    assert found.arrays["uncovered"].tolist() == [52, 52]
    assert (found.relevance == 0).sum() == 2 * 52
    assert found.relevance.isfinite().all()
    assert Occlusion(window=2, stride=2).notes(network) == ()


def test_the_cost_is_a_forward_for_each_window() -> None:
    network, inputs = small()
    assert math.isnan(Occlusion().cost.forward)
    explainer = Occlusion(window=3, stride=2)
    assert explainer.cost_on(network).forward == 1 + 3 * 3
    found = explainers.get("occlusion")(network, window=3, stride=2).explain(inputs)
    assert found.arrays["n_evaluations"].tolist() == [10, 10]


def test_the_default_window_is_a_fourteenth_of_a_picture() -> None:
    network, inputs = network_twin("cnn", "modules")
    assert inputs.shape[2:] == (28, 28)
    (_, rows, _) = Occlusion().boxes(network).axes
    assert rows == Intervals.sliding(28, 2, 2, is_clipped=True)
    assert len(rows) == 14


def test_results_do_not_depend_on_the_batch() -> None:
    network, _ = small()
    generator = torch.Generator().manual_seed(6)
    inputs = torch.randn(5, 2, 7, 6, generator=generator, dtype=torch.float64)
    whole = explainers.explain(network, "occlusion", inputs, window=3, stride=2)
    parts = [
        explainers.explain(network, "occlusion", part, window=3, stride=2)
        for part in inputs.split(2)
    ]
    torch.testing.assert_close(whole, torch.cat(parts), **TOLERANCE)


def test_windows_on_a_layer_cover_its_value() -> None:
    network, inputs = network_twin("cnn", "modules")
    found = explainers.explain(network, "occlusion", inputs[:1], layer="relu2", window=2)
    model = twin("cnn", "modules")[0]
    assert isinstance(model, SmallModules)
    relu = model.relu2
    values: list[Tensor] = []
    with relu.register_forward_hook(lambda _m, _i, out: values.append(out)):
        full = model(inputs[:1])
        model(torch.zeros_like(inputs[:1]))
    assert found.shape == values[0].shape
    best = int(full.argmax())

    def cover(_module: object, _inputs: object, out: Tensor) -> Tensor:
        # the baseline of a layer is its value at the baseline of the inputs
        out = out.clone()
        out[:, :, 2:4, 0:2] = values[1][:, :, 2:4, 0:2]
        return out

    with torch.no_grad(), relu.register_forward_hook(cover):
        lost = full[0, best] - model(inputs[:1])[0, best]
    expected = lost.expand(values[0].shape[1], 2, 2)
    torch.testing.assert_close(found[0, :, 2:4, 0:2], expected, **TOLERANCE)


class OfTokens(nn.Module):
    """Scores a sequence of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.conv = nn.Conv1d(4, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = torch.tanh(self.conv(self.embedding(tokens).mT))
        return self.head(hidden.amax(-1))


def test_windows_of_tokens_slide_along_the_sequence() -> None:
    model = seeded(OfTokens())
    tokens = torch.randint(0, 11, (2, 7), generator=torch.Generator().manual_seed(0))
    network = Network(model, tokens)
    found = explainers.explain(network, "occlusion", tokens, target=1, window=2, baseline=3)
    assert found.shape == tokens.shape
    for place in range(0, 7, 2):
        covered = tokens.clone()
        covered[:, place : place + 2] = 3
        with torch.no_grad():
            lost = (model(tokens) - model(covered))[:, 1]
        window = found[:, place : place + 2]
        torch.testing.assert_close(window, lost[:, None].expand_as(window), **TOLERANCE)
    bound = explainers.get("occlusion")(network, window=2, stride=3)
    (note,) = Occlusion(window=2, stride=3).notes(network)
    # the third and the sixth
    assert note.startswith("no window covers 2 of the 7 values")
    with pytest.warns(UserWarning, match="no window covers 2 of the 7 values"):
        assert bound.explain(tokens).arrays["uncovered"].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"window": 8}, r"window of \(2, 8, 8\) on inputs of \(2, 7, 6\), expected one that fits"),
        ({"window": [1, 2, 3, 4]}, "expected a number or 2 or 3 of them"),
        ({"window": 0}, "got window=0, expected at least 1"),
        ({"window": 2, "stride": [1]}, r"got stride=\[1\] for inputs"),
        ({"baseline": [1.0, 2.0, 3.0]}, "baseline has shape"),
        ({"convention": "sum"}, "got convention=.sum., expected one of captum, deepexplain"),
        ({"channels": "apartt"}, "got channels=.apartt., expected one of together, apart"),
    ],
)
def test_windows_that_do_not_fit_are_refused(params: dict[str, Any], match: str) -> None:
    network, _ = small()
    with pytest.raises(ValueError, match=match):
        explainers.get("occlusion")(network, **params)


def test_several_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    pair = (pictures(1, 4)[:, 0, 0], pictures(1, 4)[:, 1, 0])
    with pytest.raises(NotImplementedError, match="windows slide over one input"):
        explainers.explain(Two(), "occlusion", pair)
