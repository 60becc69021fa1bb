"""A small network, its samples and a slow walk from one input to another, for tests of curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from explainers import Samples, Target
from explainers.sampling.randomness import RandomRows
from pipeline.metrics import Case, Metric

N, CHANNELS, SIDE, CLASSES = 3, 2, 5, 3
INDEX = torch.tensor([4, 0, 17])
TARGET = Target.parse("predicted")


@dataclass
class Rows(RandomRows):
    """What metrics ask of a trace, of a network that nobody has read."""

    model: nn.Module
    inputs: Tensor
    samples: Samples | None = None
    seed: int = 7
    namespace: str = "curve"

    def __post_init__(self) -> None:
        self.asked: list[int] = []
        self.output = self.network(self.inputs)

    def network(self, inputs: Tensor) -> Tensor:
        self.asked.append(len(inputs))
        with torch.no_grad():
            return self.model(inputs)

    def cotangent(self, target: Target) -> Tensor:
        return target.weights(self.output, self.samples)

    @property
    def n_rows(self) -> int:
        return len(self.inputs)

    @property
    def numbers(self) -> tuple[torch.dtype, torch.device]:
        return self.inputs.dtype, self.inputs.device


def network(channels: int = CHANNELS, side: int = SIDE) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 3, 2), nn.Tanh(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(3 * (side - 1) ** 2, CLASSES)).double()


def batch(channels: int = CHANNELS, side: int = SIDE, n: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs, relevance = (
        torch.randn(n, channels, side, side, generator=generator, dtype=torch.float64)
        for _ in range(2)
    )
    return inputs * 2, relevance


def trace(inputs: Tensor, rows: Any = slice(None), model: nn.Module | None = None) -> Rows:
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    index = INDEX if len(inputs) == N else torch.arange(len(inputs))
    model = network(*inputs.shape[1:3]) if model is None else model
    return Rows(model, inputs[rows], Samples(index[rows], labels[rows]))


def measure(metric: Metric, of: Rows, relevance: Tensor) -> dict[str, Tensor]:
    return metric.score(metric.prepare(Case(of, TARGET)), relevance)


def absent(image: Tensor, baseline: str | float) -> Tensor:
    """Return the baseline of one image, channel by channel."""
    blank = torch.empty_like(image)
    for channel, values in enumerate(image.numpy()):
        reduce = {"black": np.min, "white": np.max, "mean": np.mean}
        blank[channel] = float(reduce[baseline](values)) if isinstance(baseline, str) else baseline
    return blank


def explained(model: nn.Module, image: Tensor, label: int, space: str = "probability") -> float:
    with torch.no_grad():
        output = model(image[None])[0]
    return float(output[label] if space == "logit" else output.softmax(0)[label])


def walk(
    model: nn.Module,
    before: Tensor,
    after: Tensor,
    groups: list[list[tuple[int, int]]],
    label: int,
    space: str = "probability",
) -> list[float]:
    """Return what is explained while groups of pixels change over, one group after the other."""
    current = before.clone()
    curve = [explained(model, current, label, space)]
    for group in groups:
        for row, column in group:
            current[:, row, column] = after[:, row, column]
        curve.append(explained(model, current, label, space))
    return curve


def label_of(of: Rows, row: int) -> int:
    return int(of.output[row].argmax())


def ordered(
    groups: list[list[tuple[int, int]]],
    heat: Tensor,
    *,
    descending: bool,
    by_mean: bool = False,
) -> list[list[tuple[int, int]]]:
    """Return groups of pixels by the relevance of all their channels, ties by position."""

    def relevance(group: list[tuple[int, int]]) -> float:
        total = sum(float(value) for y, x in group for value in heat[:, y, x])
        total = total / len(group) if by_mean else total
        return -total if descending else total

    return sorted(groups, key=relevance)


def pixels(height: int = SIDE, width: int = SIDE) -> list[list[tuple[int, int]]]:
    return [[(y, x)] for y in range(height) for x in range(width)]


def in_steps(groups: list[list[tuple[int, int]]], counts: list[int]) -> list[list[tuple[int, int]]]:
    """Return groups joined so that after each step as many as `counts` says have changed."""
    return [
        [place for group in groups[start:stop] for place in group]
        for start, stop in zip([0, *counts], counts, strict=False)
    ]
