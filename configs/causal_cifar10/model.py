"""LeNet for 32 x 32 pictures in colour: two convolutions, three linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class LeNet(nn.Module):
    """Convolutional network for three-channel 32 x 32 pictures (LeCun et al. 1998).

    ReLU and max pooling in place of the original's tanh and trainable subsampling.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, kernel_size=5)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()
        self.flatten = nn.Flatten()
        self.linear1 = nn.Linear(16 * 5 * 5, 120)
        self.linear2 = nn.Linear(120, 84)
        self.linear3 = nn.Linear(84, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the ten logits of each picture, ``(batch, 10)``."""
        features = self.pool(self.relu(self.conv1(images)))  # (batch, 6, 14, 14)
        features = self.pool(self.relu(self.conv2(features)))  # (batch, 16, 5, 5)
        hidden = self.relu(self.linear1(self.flatten(features)))
        logits: Tensor = self.linear3(self.relu(self.linear2(hidden)))
        return logits


def load() -> LeNet:
    """Return the model without weights; the run file's ``weights`` names those."""
    return LeNet()
