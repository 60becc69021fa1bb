"""One small network of every family that torchvision classifies with, and a few that it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import timm
import torch
import torchvision
from torch import Tensor, nn

from tests.explainers.zoo import randomise

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGE = (3, 64, 64)


class Pooled(nn.Module):
    """A trunk, the mean over all positions, and a head."""

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk, self.head = trunk, nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x).flatten(2).mean(2))


def small_vit() -> nn.Module:
    """ViT with two layers of width 24 and patches of 16 pixels."""
    return torchvision.models.VisionTransformer(64, 16, 2, 3, 24, 48, num_classes=5)


def small_swin(version: int = 1) -> nn.Module:
    """Swin with windows of four places, shifted in every second block."""
    from torchvision.models import swin_transformer as parts

    is_first = version == 1
    return torchvision.models.SwinTransformer(
        patch_size=[4, 4],
        embed_dim=12,
        depths=[2, 2],
        num_heads=[2, 3],
        window_size=[4, 4],
        num_classes=5,
        stochastic_depth_prob=0.1,
        block=parts.SwinTransformerBlock if is_first else parts.SwinTransformerBlockV2,
        downsample_layer=parts.PatchMerging if is_first else parts.PatchMergingV2,
    )


def small_maxvit() -> nn.Module:
    """MaxViT with two stages and windows of four places."""
    return torchvision.models.MaxVit((64, 64), 8, 4, [8, 16], [1, 1], 8, 0.2, num_classes=5)


def encoder() -> nn.Module:
    """torch's encoder layers between an embedding and a mean over places."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.Sequential(nn.Linear(6, 16), nn.TransformerEncoder(layer, 2), nn.Flatten(), _head(80))


def convolutions_1d() -> nn.Module:
    """Convolutions over one axis, strided and dilated."""
    return Pooled(
        nn.Sequential(
            nn.Conv1d(4, 8, 5, 2, 2),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(8, 6, 3, dilation=2),
            nn.ELU(),
        ),
        6,
    )


def convolutions_3d() -> nn.Module:
    """Convolutions over three axes, grouped, with a group norm."""
    return Pooled(
        nn.Sequential(
            nn.Conv3d(2, 8, 3, padding=1),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
            nn.MaxPool3d(2),
            nn.Conv3d(8, 6, 3, groups=2),
            nn.LeakyReLU(),
            nn.AvgPool3d(2),
        ),
        6,
    )


def transposed() -> nn.Module:
    """An encoder and a decoder of transposed convolutions and interpolation."""
    return Pooled(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 6, 4, 2, 1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.ConvTranspose2d(6, 4, 3, groups=2, padding=1),
            nn.ReLU(),
        ),
        4,
    )


def _head(width: int) -> nn.Module:
    return nn.Linear(width, 5)


SMALL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "small_vit": (small_vit, IMAGE),
    "small_swin": (small_swin, IMAGE),
    "small_swin_v2": (lambda: small_swin(2), IMAGE),
    "small_maxvit": (small_maxvit, IMAGE),
    "encoder": (encoder, (5, 6)),
    "conv1d": (convolutions_1d, (4, 32)),
    "conv3d": (convolutions_3d, (2, 8, 8, 8)),
    "transposed": (transposed, (3, 8, 8)),
}
"""Read in a second or two, but for the transformers with windows."""

LARGE = (
    *("alexnet", "vgg11_bn", "resnet18", "resnext50_32x4d", "wide_resnet50_2", "densenet121"),
    *("inception_v3", "googlenet", "squeezenet1_0", "mobilenet_v2", "mobilenet_v3_small"),
    *("mnasnet0_5", "shufflenet_v2_x0_5", "regnet_x_400mf", "regnet_y_400mf", "efficientnet_b0"),
    *("efficientnet_v2_s", "convnext_tiny", "vit_b_16", "swin_t", "swin_v2_t", "maxvit_t"),
    "efficientnet_lite0",
)
"""By torchvision's names, and timm's EfficientNet-Lite."""

_SIDES = {"vit_b_16": 224, "maxvit_t": 224, "inception_v3": 96}


def family(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network with random weights, in float64 and eval mode, and two inputs."""
    torch.manual_seed(0)
    make, shape = SMALL.get(name) or (lambda: _large(name), (3, *(_SIDES.get(name, 64),) * 2))
    model = make()
    randomise(model)
    return model.double().eval(), torch.randn(2, *shape, dtype=torch.float64)


def _large(name: str) -> nn.Module:
    if name == "efficientnet_lite0":
        return timm.create_model("tf_efficientnet_lite0", pretrained=False)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if options:
        options["aux_logits"] = False
    return torchvision.models.get_model(name, weights=None, **options)
