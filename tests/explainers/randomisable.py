"""A small network whose layers are made random, read once for all tests of a process."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from explainers import Network


class Scale(nn.Module):
    """Has parameters, and no way to initialise them."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.linspace(0.5, 1.5, 6))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.factor


class Small(nn.Module):
    """Registered in another order than used, with a norm that folds and a layer that is unused."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 4)
        self.unused = nn.Linear(4, 4)
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.scale = Scale()
        self.hidden = nn.Linear(50, 6)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = torch.relu(self.norm(self.conv(inputs))).flatten(1)
        hidden: Tensor = self.head(torch.relu(self.scale(self.hidden(maps))))
        return hidden


ORDER = ("head", "scale", "hidden", "norm", "conv")
"""Layers of `Small`, from the output."""


@functools.lru_cache(maxsize=1)
def small_model() -> Small:
    """Return the model in float64, its norm as if trained."""
    torch.manual_seed(0)
    model = Small().double()
    norm: Any = model.norm
    norm.running_mean.uniform_(-0.5, 0.5)
    norm.running_var.uniform_(0.5, 2.0)
    return model.eval()


@functools.lru_cache(maxsize=1)
def small_network() -> Network:
    """Return the model as a program."""
    return Network(small_model(), pictures())


def pictures(n: int = 5) -> Tensor:
    """Return inputs of the model."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 2, 5, 5, generator=generator, dtype=torch.float64)
