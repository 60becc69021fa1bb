"""Small networks in two forms that compute the same: of modules, and of functions.

Weights are seeded, batch norms have statistics as if trained, everything is float64.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional
from torchvision.models import resnet18

from explainers import Network

if TYPE_CHECKING:
    from torch import Tensor
    from torchvision.models import ResNet


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return the model in float64 and evaluation mode, with batch norms as if trained."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            bound = 1.5 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
            parameter.uniform_(-bound, bound, generator=generator)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0.0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
    return model


def pictures(n: int, size: int, channels: int = 3, seed: int = 1) -> Tensor:
    """Return smooth inputs with edges, of about unit variance, as normalised photographs have."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, channels, 6, 6, generator=generator, dtype=torch.float64)
    smooth = functional.interpolate(coarse, size, mode="bicubic")
    smooth[:, :, size // 3 : size // 2, size // 4 : size // 2] += 1.5
    return smooth + 0.05 * torch.randn(smooth.shape, generator=generator, dtype=torch.float64)


class SmallModules(nn.Module):
    """Convolutions, both pools and two matrix products; biases everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.AvgPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(12 * 3 * 3, 20)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.flatten(self.pool2(self.relu2(self.conv2(x))))
        return self.fc2(self.relu3(self.fc1(x)))


class SmallFunctions(SmallModules):
    """`SmallModules` with functions for everything that has no weights."""

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.avg_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc2(self.fc1(torch.flatten(x, 1)).relu())


def _block(channels: tuple[int, ...]) -> list[nn.Module]:
    modules: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(channels):
        conv = nn.Conv2d(n_in, n_out, 3, padding=1)
        modules += [conv, nn.BatchNorm2d(n_out), nn.ReLU(inplace=False)]
    return [*modules, nn.MaxPool2d(2)]


class VGGModules(nn.Module):
    """VGG with batch norms, narrow."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [(3, 8), (8, 16), (16, 16, 16)]
        self.features = nn.Sequential(*(module for block in blocks for module in _block(block)))
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(
            nn.Linear(64, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class VGGFunctions(VGGModules):
    """`VGGModules` with functions, batch norms included."""

    def forward(self, x: Tensor) -> Tensor:
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                x = functional.conv2d(x, module.weight, module.bias, padding=1)
            elif isinstance(module, nn.BatchNorm2d):
                x = functional.relu(_normalised(x, module))
            elif isinstance(module, nn.MaxPool2d):
                x = functional.max_pool2d(x, 2)
        x = functional.adaptive_avg_pool2d(x, (2, 2)).reshape(len(x), -1)
        first, last = self.classifier[0], self.classifier[3]
        hidden = functional.relu(functional.linear(x, first.weight, first.bias))
        return functional.linear(hidden, last.weight, last.bias)


def resnet() -> ResNet:
    """Return torchvision's ResNet18 with ten classes."""
    return resnet18(num_classes=10)


class ResNetFunctions(nn.Module):
    """torchvision's ResNet18 with functions, residuals by ``+``."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = resnet()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.inner
        x = functional.relu(_normalised(inner.conv1(x), inner.bn1))
        x = functional.max_pool2d(x, 3, 2, 1)
        for stage in (inner.layer1, inner.layer2, inner.layer3, inner.layer4):
            for block in stage:
                kept = x
                if block.downsample is not None:
                    kept = _normalised(block.downsample[0](x), block.downsample[1])
                x = functional.relu(_normalised(block.conv1(x), block.bn1))
                x = functional.relu(_normalised(block.conv2(x), block.bn2) + kept)
        return inner.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def _normalised(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    return functional.batch_norm(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
    )


TWINS: dict[str, tuple[type[nn.Module] | object, type[nn.Module], int]] = {
    "cnn": (SmallModules, SmallFunctions, 28),
    "vgg": (VGGModules, VGGFunctions, 32),
    "resnet18": (resnet, ResNetFunctions, 64),
}
"""Both forms of each network, and the size of its pictures."""


def twin(name: str, form: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """Return a network, in the form ``modules`` or ``functions``, and three pictures for it."""
    of_modules, of_functions, size = TWINS[name]
    make = of_modules if form == "modules" else of_functions
    return seeded(make(), seed), pictures(3, size)  # type: ignore[operator]


@functools.cache
def network_twin(name: str, form: str) -> tuple[Network, Tensor]:
    """Return a network read once for all tests, which must not change it, and three pictures."""
    model, inputs = twin(name, form)
    return Network(model, inputs), inputs
