"""The quickstart's network with its weights, for run files that lie elsewhere."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import TYPE_CHECKING

from safetensors.torch import load_file

from configs.quickstart.lenet import LeNet

if TYPE_CHECKING:
    from torch import nn


def load() -> nn.Module:
    """Return the trained network: digits ``(batch, 1, 28, 28)`` to ten logits."""
    model = LeNet()
    with as_file(files("configs") / "quickstart" / "lenet.safetensors") as path:
        model.load_state_dict(load_file(path))
    return model.eval()
