"""The network and the digits of the original experiment on MNIST.

Digits are MNIST's own files, as torchvision reads them, below the folder `root` (relative to
this file): ``MNIST/raw/t10k-images-idx3-ubyte`` and its three siblings. Pixels run from 0 to 255,
and each image's mean is taken from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from configs.augmentation import augmented
from configs.rde_network import ConvNet

if TYPE_CHECKING:
    from torch import Tensor


def load() -> nn.Module:
    """Return the network; its weights are read by the run file's `model.weights`."""
    return ConvNet(n_channels=1, size=28, n_outputs=10)


class Digits:
    """Every `step`-th digit, sorted by class."""

    classes = tuple("0123456789")

    def __init__(self, root: str, is_train: bool, step: int, is_augmented: bool) -> None:
        from torchvision.datasets import MNIST

        files = MNIST(Path(__file__).parent / root, train=is_train)
        order = torch.sort(files.targets, stable=True).indices[::step]
        self.pixels, self.targets = files.data[order], files.targets[order].tolist()
        self.ids = [f"mnist/{index:05d}" for index in order.tolist()]
        self.is_augmented = is_augmented

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return a digit as the network takes it, ``(1, 28, 28)``, and its class."""
        image = self.pixels[index][None].float()
        if self.is_augmented:
            image = augmented(image, index, rotation=5, shift=0.05, shear=0.05, zoom=0.05)
        return image - image.mean(), self.targets[index]


def explained(root: str = ".", step: int = 200) -> Digits:
    """Return every 200th of the 10,000 test digits: 50, five of a class or so."""
    return Digits(root, is_train=False, step=step, is_augmented=False)


def training(root: str = ".", step: int = 1) -> Digits:
    """Return the training digits, each changed at random as in training."""
    return Digits(root, is_train=True, step=step, is_augmented=True)
