"""The network of the original experiments on MNIST and an8Flower."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class ConvNet(nn.Module):
    """Three convolutions with average pools and two dense layers.

    Values are flattened with their channels last, so that the weights of a Keras network go in
    as they are but for the order of their axes: ``(3, 2, 0, 1)`` of a convolution, ``(1, 0)`` of a
    dense layer.

    Parameters
    ----------
    n_channels, size
        Of the images, which are squares.
    n_outputs
        Number of classes.
    """

    def __init__(self, n_channels: int, size: int, n_outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_channels, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.conv3 = nn.Conv2d(64, 64, 5, padding=2)
        self.pool = nn.AvgPool2d(2)
        self.dense1 = nn.Linear((size // 8) ** 2 * 64, 1024)
        self.dense2 = nn.Linear(1024, n_outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images ``(batch, channels, size, size)``."""
        for convolution in (self.conv1, self.conv2, self.conv3):
            images = self.pool(torch.relu(convolution(images)))
        flat = images.permute(0, 2, 3, 1).flatten(1)
        logits: Tensor = self.dense2(torch.relu(self.dense1(flat)))
        return logits
