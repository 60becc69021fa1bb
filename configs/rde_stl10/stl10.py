"""The network and the pictures of the original experiment on STL-10.

Pictures are STL-10's own files in the folder `root` (relative to this file): ``test_X.bin`` and
``test_y.bin``, ``train_X.bin`` and ``train_y.bin``, and ``class_names.txt``. They are enlarged from
96 to 224 pixels by taking the nearest, and come as VGG16 was trained in Caffe: blue, green, red,
from 0 to 255, minus the means of ImageNet.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from configs.augmentation import augmented

if TYPE_CHECKING:
    from torch import Tensor

SIZE = 224
MEANS = (103.939, 116.779, 123.68)
"""Of blue, green and red."""


class Vgg16(nn.Module):
    """VGG16 with average pools in place of max-pools, and ten outputs.

    Values are flattened with their channels last, so that the weights of a Keras network go in
    as they are but for the order of their axes: ``(3, 2, 0, 1)`` of a convolution, ``(1, 0)`` of a
    dense layer.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        n_inputs = 3
        for n_channels, n_layers in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(n_layers):
                layers += [nn.Conv2d(n_inputs, n_channels, 3, padding=1), nn.ReLU()]
                n_inputs = n_channels
            layers.append(nn.AvgPool2d(2))
        self.features = nn.Sequential(*layers)
        self.dense1 = nn.Linear(7 * 7 * 512, 4096)
        self.dense2 = nn.Linear(4096, 4096)
        self.dense3 = nn.Linear(4096, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images ``(batch, 3, 224, 224)``."""
        flat = self.features(images).permute(0, 2, 3, 1).flatten(1)
        logits: Tensor = self.dense3(torch.relu(self.dense2(torch.relu(self.dense1(flat)))))
        return logits


def load() -> nn.Module:
    """Return the network; its weights are read by the run file's `model.weights`."""
    return Vgg16()


class Pictures:
    """Every `step`-th picture, sorted by class."""

    def __init__(self, root: str, split: str, step: int, is_augmented: bool) -> None:
        folder = Path(__file__).parent / root
        # classes are numbered from 1, and columns come before rows
        labels = np.fromfile(folder / f"{split}_y.bin", dtype=np.uint8).astype(int) - 1
        pixels = np.memmap(folder / f"{split}_X.bin", dtype=np.uint8, mode="r")
        order = np.argsort(labels, kind="stable")[::step]
        self.pixels = pixels.reshape(-1, 3, 96, 96)[order].swapaxes(2, 3)
        self.targets = labels[order].tolist()
        self.classes = tuple((folder / "class_names.txt").read_text().split())
        self.ids = [f"stl10/{split}/{index:04d}" for index in order.tolist()]
        self.is_augmented = is_augmented

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return a picture as the network takes it, ``(3, 224, 224)``, and its class."""
        pixels = torch.from_numpy(self.pixels[index].copy()).float()
        image = functional.interpolate(pixels[None], size=(SIZE, SIZE), mode="nearest")[0]
        if self.is_augmented:
            image = augmented(
                image, index, rotation=20, shift=0.2, shear=0.2, zoom=0.2, is_flipped=True
            )
        return image.flip(0) - torch.tensor(MEANS)[:, None, None], self.targets[index]


def explained(root: str = ".", step: int = 160) -> Pictures:
    """Return every 160th of the 8,000 test pictures: 50, five of each class."""
    return Pictures(root, "test", step, is_augmented=False)


def training(root: str = ".", step: int = 1) -> Pictures:
    """Return the training pictures, each changed at random as in training."""
    return Pictures(root, "train", step, is_augmented=True)
