"""Boxes read off the program against what turns NaN where a pixel does, and against gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from explainers import Network
from explainers.concepts.receptive_field import boxes_of, receptive_field
from explainers.units import channel_axis

SIZE = (13, 10)


class Block(nn.Module):
    """Two convolutions beside a projection with a stride, as in a ResNet."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_in, n_out, 3, stride=2, padding=1)
        self.second = nn.Conv2d(n_out, n_out, 3, padding=2, dilation=2, groups=2)
        self.side = nn.Conv2d(n_in, n_out, 1, stride=2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the sum of both ways."""
        return (self.second(self.first(inputs).relu()) + self.side(inputs)).relu()


class Windows(nn.Module):
    """Every kind of window, joined values, a gate, and tokens at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, (3, 2), padding=(0, 1))
        self.pool = nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)
        self.mean = nn.AvgPool2d((1, 2), (1, 2), ceil_mode=True)
        self.block = Block(4, 4)
        self.wide = nn.ConvTranspose2d(4, 4, 2, stride=3, padding=1, dilation=2)
        self.parts = nn.AdaptiveAvgPool2d((4, 3))
        self.gate = nn.Conv2d(4, 4, 1)
        self.tokens = nn.Linear(8, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(72, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits."""
        padded = nn.functional.pad(self.stem(inputs), (1, 0, 2, 1), mode="replicate")
        pooled = self.mean(self.pool(padded)).roll(1, 3)
        wide = self.parts(self.wide(self.block(pooled)))
        near = self.parts(pooled[:, :, 1:])
        joined = torch.cat([wide, near], 1).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.tokens(joined)).flatten(1))


def dependence(network: Network, layer: str) -> Tensor:
    """Return whether places turn NaN with a pixel, ``(height, width, *shape)``."""
    height, width = network.input_shape[1:]
    inputs = torch.ones(height * width, *network.input_shape, dtype=network.dtype)
    pixels = torch.arange(height * width)
    inputs.flatten(2)[pixels, :, pixels] = torch.nan
    value = network.run(inputs)[network.operator(layer).name]
    return value.isnan().unflatten(0, (height, width))


def bounds(is_read: Tensor) -> list[int]:
    """Return top, left, bottom, right of what is true, ``(height, width)``; zeros for nothing."""
    rows, columns = is_read.nonzero().unbind(1)
    if not len(rows):
        return [0, 0, 0, 0]
    return [int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1]


def wrong(network: Network, layer: str) -> list[tuple[str, int]]:
    """Return the positions of a layer whose box is not exactly what any channel depends on."""
    fields, is_read = receptive_field(network, layer), dependence(network, layer)
    is_read = is_read.any(channel_axis(network, layer) + 2).reshape(*SIZE, -1)
    return [
        (layer, position)
        for position, box in enumerate(fields.tolist())
        if box != bounds(is_read[:, :, position])
    ]


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network(Windows().double(), torch.rand(2, 2, *SIZE, dtype=torch.float64))


@pytest.mark.slow
def test_boxes_are_what_turns_nan_with_a_pixel(network: Network) -> None:
    found = [name for layer in network.layers for name in wrong(network, layer)]
    assert network.layers
    assert not found


def test_positions_are_those_of_a_channel(network: Network) -> None:
    fields = receptive_field(network, "stem")
    assert fields.shape == (11 * 11, 4)
    assert fields.dtype == torch.int64
    # three rows from the fifth, two columns of which the first is padding
    assert fields[4 * 11].tolist() == [4, 0, 7, 1]
    assert receptive_field(network, "tokens").shape == (12, 4)
    assert receptive_field(network, "head").tolist() == [[0, 0, *SIZE]]


class Enlarged(nn.Module):
    """Values that are repeated, and such that are interpolated."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, stride=2, padding=1)
        self.mode = mode
        self.second = nn.Conv2d(2, 1, 3, padding=1)
        self.head = nn.LazyLinear(2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits."""
        enlarged = nn.functional.interpolate(self.first(inputs), scale_factor=2, mode=self.mode)
        return self.head(self.second(enlarged).flatten(1))


@pytest.mark.parametrize(
    "mode",
    [
        *(
            pytest.param(mode, marks=pytest.mark.slow)
            for mode in ("nearest", "bilinear", "bicubic")
        ),
    ],
)
def test_enlarged_values_read_their_neighbours(mode: str) -> None:
    inputs = torch.rand(1, 1, *SIZE, dtype=torch.float64)
    model = Enlarged(mode).double()
    model(inputs)
    network = Network(model, inputs)
    assert not wrong(network, "second")
    assert receptive_field(network, "second")[0].tolist() != [0, 0, *SIZE]


def test_gradients_of_a_neuron_touch_the_edges_of_its_box(network: Network) -> None:
    torch.manual_seed(1)
    model = Windows().double()
    # means over the windows of the maxima, so that all that is read has a gradient
    model.pool = nn.AvgPool2d(3, 2, padding=1, ceil_mode=True)
    for parameter in model.parameters():
        parameter.data.abs_().add_(0.1)
    values: list[Tensor] = []
    model.wide.register_forward_hook(lambda _module, _inputs, value: values.append(value))
    inputs = torch.rand(1, 2, *SIZE, dtype=torch.float64, requires_grad=True)
    model(inputs)
    boxes = boxes_of(network, "wide")
    for place in [(0, 0, 0), (1, 3, 3), (2, 5, 2), (3, 7, 1)]:
        (gradient,) = torch.autograd.grad(values[0][0][place], inputs, retain_graph=True)
        assert boxes[place].tolist() == bounds((gradient[0] != 0).any(0))


@pytest.mark.slow
def test_a_signal_has_starts_and_stops() -> None:
    layers = nn.Sequential(nn.Conv1d(1, 2, 3, stride=2), nn.Flatten(), nn.Linear(8, 2))
    network = Network(layers.double(), torch.rand(2, 1, 9, dtype=torch.float64))
    assert receptive_field(network, "0").tolist() == [[0, 3], [2, 5], [4, 7], [6, 9]]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("resnet18", marks=pytest.mark.slow),
        *(pytest.param(name, marks=pytest.mark.long) for name in ("convnext_tiny", "vit_b_16")),
        pytest.param("mobilenet_v3_small", marks=pytest.mark.long),
    ],
)
def test_boxes_hold_the_gradients_of_models(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    size = 224 if name == "vit_b_16" else 64
    model = models.get_model(name, weights=None).eval()
    inputs = torch.rand(1, 3, size, size)
    network = Network(model, inputs)
    kinds = network.match("type:Convolution")
    values: dict[str, Tensor] = {}
    for layer in kinds:
        path = layer.partition("#")[0]
        model.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, value, name=layer: values.__setitem__(name, value)
        )
    inputs.requires_grad_(True)
    model(inputs)
    for layer, value in list(values.items())[:: max(1, len(values) // 8)]:
        fields = receptive_field(network, layer)
        neurons = value[0, 0].flatten()
        for position in (0, len(neurons) // 2):
            (gradient,) = torch.autograd.grad(neurons[position], inputs, retain_graph=True)
            rows, columns = (gradient[0] != 0).any(0).nonzero().unbind(1)
            top, left, bottom, right = fields[position].tolist()
            if len(rows):
                assert top <= rows.min()
                assert rows.max() < bottom
                assert left <= columns.min()
                assert columns.max() < right
