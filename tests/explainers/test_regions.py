"""Pieces of values against whole values, operator by operator and for networks."""

from __future__ import annotations

import copy
import functools
import itertools
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from explainers import Network, Target, Trace
from explainers.operators import (
    Activation,
    Add,
    Affine,
    AveragePool,
    Concat,
    Convolution,
    MaxPool,
    Multiply,
    Pad,
)
from explainers.perturbing.fills import Drawn, Fixed
from explainers.perturbing.valuation import Valuation
from explainers.regions import Boxes, evaluate, values_without
from explainers.regions.boxes import Intervals
from explainers.regions.draft import draft
from explainers.regions.evaluate import Filled
from explainers.regions.local import Local, Surroundings, local
from explainers.regions.parts import parted, planned
from explainers.regions.plan import operator
from explainers.regions.reach import Reach, Window, hull
from tests.explainers.twins import seeded

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.operators import Operator

pytestmark = pytest.mark.slow

# What is recomputed is the same sum of the same numbers, perhaps in another order, in float64.
TOLERANCE = {"rtol": 0, "atol": 1e-10}
NAMES = {"name": "op", "module_path": "", "inputs": ("x",)}


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def convolution(
    size: int, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1, **more: Any
) -> Convolution:
    return Convolution(
        weight=noise(4, 2 // groups, size, size + 1, seed=1),
        bias=noise(4, seed=2),
        stride=(stride, stride),
        padding=(padding, padding + 1),
        dilation=(dilation, dilation),
        groups=groups,
        transposed=False,
        output_padding=(0, 0),
        **NAMES,
        **more,
    )


def averages(size: int, stride: int, padding: int = 0, **more: Any) -> AveragePool:
    sizes = {"size": (size, size), "stride": (stride, stride), "padding": (padding, padding)}
    return AveragePool(form="window", **sizes, **NAMES, **more)


def maxima(
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    **more: Any,
) -> MaxPool:
    return MaxPool(size=size, stride=stride, padding=padding, dilation=dilation, **NAMES, **more)


OPERATORS: dict[str, Operator] = {
    "same": convolution(3, padding=1),
    "valid": convolution(2),
    "stem": convolution(5, stride=2, padding=3),
    "point": convolution(1),
    "skipping": convolution(1, stride=3),
    "dilated": convolution(3, padding=2, dilation=2),
    "depthwise": convolution(3, stride=2, padding=1, groups=2),
    "uneven": convolution(2, padding=0, margins=(0, 2, 1, 0)),
    "max": maxima((3, 3), (2, 2), (1, 1)),
    "max, ceil": maxima((3, 2), (2, 2), ceil_mode=True),
    "max, dilated": maxima((2, 2), (1, 2), (0, 1), (2, 2)),
    "max, apart": maxima((2, 2), (3, 3)),
    "mean": averages(2, 2),
    "mean, padded": averages(3, 2, 1),
    "mean, ceil": averages(3, 2, 1, ceil_mode=True),
    "mean, of what is there": averages(3, 1, 1, count_include_pad=False),
    "mean, ceil, of what is there": averages(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "mean, divisor": averages(3, 2, 1, divisor=5),
    "adaptive": AveragePool(form="adaptive", size=(3, 5), **NAMES),
    "adaptive max": MaxPool(size=(9, 2), is_adaptive=True, **NAMES),
    "relu": Activation(kind="relu", **NAMES),
    "affine": Affine(scale=noise(2, 1, 1), shift=noise(1, 2, 1, 1, seed=3), **NAMES),
    "zeros around": Pad(padding=(1, 0, 2, 3), mode="constant", value=0.0, **NAMES),
    "constant around": Pad(padding=(2, 1), mode="constant", value=-0.5, **NAMES),
}


def read(values: Tensor, starts: tuple[int, ...], sizes: tuple[int, ...], fill: float) -> Tensor:
    """Return a piece of ``(rows, channels, height, width)``, with `fill` outside."""
    wide = functional.pad(values, (20, 20, 20, 20), value=fill)
    rows, columns = (
        slice(20 + start, 20 + start + size) for start, size in zip(starts, sizes, strict=True)
    )
    return wide[:, :, rows, columns]


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(("window", "stride"), [(3, 3), (2, 1), (4, 5)])
def test_pieces_are_those_of_the_whole_value(name: str, window: int, stride: int) -> None:
    op = OPERATORS[name]
    values, other = noise(1, 2, 9, 10), noise(1, 2, 9, 10, seed=5)
    axes = [Intervals.sliding(size, window, stride, is_clipped=True) for size in (9, 10)]
    before = op.run(values)
    reaches = tuple(map(Reach.of, axes))
    around = Surroundings((reaches,), (values.shape[1:],), (None,), tuple(before.shape[1:]))
    made = local(op, around)
    assert made is not None
    (piece,) = made.reads
    assert piece is not None
    for which in itertools.product(*(range(len(axis)) for axis in axes)):
        filled = values.clone()
        box = tuple(
            slice(axis.starts[one], axis.stops[one]) for axis, one in zip(axes, which, strict=True)
        )
        filled[:, :, *box] = other[:, :, *box]
        after = op.run(filled)
        starts = tuple(start[one] for start, one in zip(piece.starts, which, strict=True))
        found = made.run(
            [read(filled, starts, piece.sizes, piece.fill)],
            tuple(torch.tensor([one]) for one in which),
        )
        region = tuple(
            slice(reach.starts[one], reach.starts[one] + reach.size)
            for reach, one in zip(made.region, which, strict=True)
        )
        torch.testing.assert_close(found, after[:, :, *region], **TOLERANCE)
        after[:, :, *region] = before[:, :, *region]
        assert torch.equal(after, before)


@pytest.mark.parametrize(
    "op",
    [
        Affine(scale=noise(9, 10), shift=None, **NAMES),
        AveragePool(form="mean", dims=(2, 3), **NAMES),
        AveragePool(form="adaptive", size=(2, 5), **NAMES),
        Concat(dim=2, name="op", module_path="", inputs=("x",)),
        Pad(padding=(1, 1, 1, 1), mode="reflect", value=0.0, **NAMES),
        Pad(padding=(-1, 0), mode="constant", value=0.0, **NAMES),
    ],
)
def test_what_differs_from_place_to_place_takes_the_whole_value(op: Operator) -> None:
    reaches = (Reach((0, 4), 4, 9), Reach((0, 4), 4, 10))
    shape = tuple(op.run(noise(1, 2, 9, 10)).shape[1:])
    assert local(op, Surroundings((reaches,), ((2, 9, 10),), (None,), shape)) is None


def test_reaches_are_equally_long_and_stay_inside() -> None:
    reach = Reach((0, 4, 8), 2, 10)
    through = Window(3, stride=1, before=1).reached(reach, 10)
    # 0-2, 3-6 and 7-9: as long as the longest, moved inside
    assert through == Reach((0, 3, 6), 4, 10)
    assert Window(3, stride=1, before=1).read(through) == ((-1, 2, 5), 6)
    assert hull([reach, through]) == Reach((0, 3, 6), 4, 10)
    assert Window(10).reached(reach, 1).is_whole


class Everything(nn.Module):
    """A stem, a residual block with a projection, parallel branches, and a norm before a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 5, 2, 2), nn.BatchNorm2d(4), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.first, self.second = nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, padding="same")
        self.shortcut = nn.Conv2d(4, 6, 1, 2)
        self.left, self.right = nn.Conv2d(6, 3, 1), nn.Conv2d(6, 3, 3, padding=2, dilation=2)
        self.norm = nn.BatchNorm2d(12)
        self.mean = nn.AvgPool2d(2, 1, 1, count_include_pad=False)
        self.depthwise = nn.Conv2d(12, 12, 3, groups=12, bias=False)
        self.gate, self.head = nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        x = torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))
        x = torch.cat([self.left(x), x, self.right(x) * 2], 1)
        x = self.mean(torch.relu(self.norm(x)))
        x = self.depthwise(functional.pad(x, (1, 0, 0, 2)))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[..., None, None]
        return self.head(torch.tanh(x).mean((2, 3)))


@functools.cache
def everything() -> tuple[Network, Tensor]:
    inputs = noise(2, 2, 61, 57)
    return Network(seeded(Everything()), inputs), inputs


def boxes_of(shape: tuple[int, ...], window: int, stride: int) -> Boxes:
    channels = Intervals.whole(shape[0])
    sliding = [Intervals.sliding(size, window, stride, is_clipped=True) for size in shape[1:]]
    return Boxes((channels, *sliding))


def filled(network: Network, inputs: Tensor, boxes: Boxes, fill: Any = None) -> Filled:
    trace = Trace(network, inputs)
    fill = fill or Fixed(0.3 * torch.ones_like(inputs))
    return Filled(Valuation(trace, Target()), boxes, fill, torch.arange(len(boxes)))


@pytest.mark.parametrize(("window", "stride"), [(5, 19), (3, 27), (11, 25)])
def test_wherever_the_whole_begins_values_are_the_same(window: int, stride: int) -> None:
    network, inputs = everything()
    boxes = boxes_of((2, 61, 57), window, stride)
    these = filled(network, inputs, boxes)
    made = draft(network, boxes)
    assert made is not None
    expected = these.values(None)
    last = max(n for n, step in enumerate(made.steps) if isinstance(step, Local))
    assert operator(made.steps[last]).name == "depthwise"
    for n_steps in range(0, last + 4, 3):
        torch.testing.assert_close(these.values(made.plan(n_steps)), expected, **TOLERANCE)


def test_boxes_of_some_channels_and_other_sizes() -> None:
    network, inputs = everything()
    axes = (
        Intervals(2, (0, 1), (1, 2)),
        Intervals(61, (0, 3, 50), (9, 10, 61)),
        Intervals(57, (0, 56), (5, 57)),
    )
    these = filled(network, inputs, Boxes(axes), Fixed(inputs.flip(0)))
    made = draft(network, Boxes(axes))
    assert made is not None
    torch.testing.assert_close(these.values(made.cheapest()), these.values(None), **TOLERANCE)


def test_what_is_drawn_is_filled_in() -> None:
    network, inputs = everything()
    trace, boxes = Trace(network, inputs), boxes_of((2, 61, 57), 9, 16)
    made = draft(network, boxes)
    assert made is not None
    these = filled(network, inputs, boxes, Drawn(noise(5, 2, 61, 57, seed=8), trace))
    torch.testing.assert_close(these.values(made.cheapest()), these.values(None), **TOLERANCE)


@pytest.mark.parametrize("layer", ["pool", "stem.2"])
def test_boxes_on_a_layer_leave_what_passes_by(layer: str) -> None:
    """Behind the pool, the shortcut and the block begin with the same value."""
    network, inputs = everything()
    part = Trace(network, inputs).starting_at(layer)
    boxes = boxes_of(part.network.input_shape, 3, 4)
    valuation = Valuation(part, Target())
    these = Filled(valuation, boxes, Fixed(part.baseline(None)), torch.arange(len(boxes)))
    made = draft(part.network, boxes)
    assert made is not None
    torch.testing.assert_close(these.values(made.cheapest()), these.values(None), **TOLERANCE)


class Sequence(nn.Module):
    """Convolutions over one axis, of which one passes by the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(2, 5, 5, padding=2), nn.Conv1d(5, 5, 3, 2)
        self.skip, self.head = nn.Conv1d(2, 5, 3, 2), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        return self.head(functional.gelu(self.second(hidden) + self.skip(x)).amax(-1))


@functools.cache
def sequence() -> tuple[Network, Tensor]:
    inputs = noise(3, 2, 50)
    return Network(seeded(Sequence()), inputs), inputs


@pytest.mark.parametrize("layer", [None, "first"])
def test_boxes_on_sequences(layer: str | None) -> None:
    trace = Trace(*sequence())
    part = trace if layer is None else trace.starting_at(layer)
    boxes = boxes_of(part.network.input_shape, 4, 3)
    these = Filled(
        Valuation(part, Target()), boxes, Fixed(part.baseline(None)), torch.arange(len(boxes))
    )
    made = draft(part.network, boxes)
    assert made is not None
    expected = these.values(None)
    for n_steps in range(5):
        torch.testing.assert_close(these.values(made.plan(n_steps)), expected, **TOLERANCE)


def test_pairs_of_values_are_aligned() -> None:
    """Add, multiply and join what is reached at different places, or not at all."""
    left = (Reach((0, 4), 3, 9), Reach((2, 5), 2, 9))
    right = (Reach((2, 5), 3, 9), Reach((2, 4), 4, 9))
    shapes = ((3, 9, 9), (3, 9, 9))
    for op in (
        Add(name="op", module_path="", inputs=("x", "y")),
        Multiply(name="op", module_path="", inputs=("x", "y")),
    ):
        made = local(op, Surroundings((left, right), shapes, (None, None), (3, 9, 9)))
        assert made is not None
        assert made.region == (Reach((0, 4), 5, 9), Reach((2, 4), 4, 9))
        alone = local(op, Surroundings((left, None), shapes, (None, None), (3, 9, 9)))
        assert alone is not None
        assert alone.region == left
    joined = Concat(dim=-3, name="op", module_path="", inputs=("x", "y"))
    made = local(joined, Surroundings((left, right), shapes, (None, None), (6, 9, 9)))
    assert made is not None
    assert made.region == (Reach((0, 4), 5, 9), Reach((2, 4), 4, 9))


def test_small_boxes_pay_and_large_ones_do_not() -> None:
    network, _ = everything()
    small, large = boxes_of((2, 61, 57), 3, 20), boxes_of((2, 61, 57), 50, 5)
    parts = planned(network, small)
    assert parts
    assert all(part.plan.cost < 0.9 for part in parts)
    assert planned(network, small) is parts
    assert planned(network, large) == ()
    assert planned(network, boxes_of((2, 61, 57), 57, 57)) == ()


@pytest.mark.parametrize("width", [0, 1, 2])
def test_parts_at_borders_reach_less_and_are_all(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, inputs = everything()
    boxes = boxes_of((2, 61, 57), 5, 12)
    parts = parted(network, boxes, width)
    assert len(parts) == (1 if width == 0 else 9)
    positions = torch.cat([part.positions for part in parts])
    assert torch.equal(positions.sort().values, torch.arange(len(boxes)))
    corner, whole = parts[0], parted(network, boxes, 0)[0]
    assert (corner.plan.cost < whole.plan.cost) == (width > 0)
    monkeypatch.setattr(evaluate, "planned", lambda _network, _boxes: parts)
    these = filled(network, inputs, boxes)
    found = values_without(these.valuation, boxes, these.fill)
    torch.testing.assert_close(found, these.values(None), **TOLERANCE)


def test_plans_go_with_their_network() -> None:
    network = copy.copy(everything()[0])
    planned(network, boxes_of((2, 61, 57), 3, 20))
    gone = weakref.ref(network)
    del network
    assert gone() is None


def test_chunks_do_not_change_values(monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs = everything()
    boxes = boxes_of((2, 61, 57), 5, 13)
    expected = filled(network, inputs, boxes).values(None)
    valuation = Valuation(Trace(network, inputs), Target())
    for limit in (1, 7, 1000):
        monkeypatch.setattr(Filled, "limit", lambda _self, _plan, limit=limit: limit)
        found = values_without(valuation, boxes, Fixed(0.3 * torch.ones_like(inputs)))
        torch.testing.assert_close(found, expected, **TOLERANCE)
