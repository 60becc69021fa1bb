"""A small LeNet for 28 x 28 digits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class SmallLeNet(nn.Module):
    """Two convolutions and two linear layers for one-channel 28 x 28 images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, kernel_size=5)
        self.conv2 = nn.Conv2d(8, 16, kernel_size=5)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()
        self.flatten = nn.Flatten()
        self.linear1 = nn.Linear(16 * 4 * 4, 32)
        self.linear2 = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the ten logits of each image, ``(batch, 10)``."""
        features = self.pool(self.relu(self.conv1(images)))  # (batch, 8, 12, 12)
        features = self.pool(self.relu(self.conv2(features)))  # (batch, 16, 4, 4)
        hidden = self.relu(self.linear1(self.flatten(features)))
        logits: Tensor = self.linear2(hidden)
        return logits


def load() -> SmallLeNet:
    """Return the model without weights; the run file's ``weights`` names those."""
    return SmallLeNet()
