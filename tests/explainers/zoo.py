"""Networks for tests: small seeded ones in float64, and torchvision's with random weights."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from explainers.network import Network

if TYPE_CHECKING:
    from collections.abc import Callable

    from explainers.trace import Trace


def torchvision_model(name: str) -> tuple[nn.Module, Tensor]:
    """A network of torchvision with random weights and norms, in float64, and three images."""
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if options:
        options["aux_logits"] = False
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, **options)
    randomise(model)
    sides = {"vit_b_16": 224, "inception_v3": 96}
    side = sides.get(name, 64)
    return model.double().eval(), torch.randn(3, 3, side, side, dtype=torch.float64)


def randomise(model: nn.Module) -> None:
    """Give norms statistics and weights that matter, and heads that start at zero some values."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)


def gradient_by_autograd(model: nn.Module, inputs: Tensor, weights: Tensor) -> Tensor:
    """The gradient that the walk has to find."""
    leaf = inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf), leaf, weights)
    return gradient


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected magnitude."""
    return float((found - expected).abs().max() / expected.abs().max())


def hooked(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Output of every call of every module, the second call of one as ``path#1``."""
    seen: dict[str, Tensor] = {}

    def hook_of(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, received: object, output: object) -> None:
            name = path
            while name in seen:
                name = f"{path}#{int(name.partition('#')[2] or 0) + 1}"
            if isinstance(output, Tensor):
                seen[name] = output.detach().clone()

        return hook

    handles = [
        module.register_forward_hook(hook_of(path))
        for path, module in model.named_modules()
        if path
    ]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return seen


def disagreeing(network: Network, expected: dict[str, Tensor], inputs: Tensor) -> list[str]:
    """Modules whose layer is missing or has another value."""
    values = network.run(inputs)
    wrong = []
    for path, output in expected.items():
        if path not in network.layers:
            wrong.append(f"{path} is missing")
            continue
        value = network.value(path, values)
        if value.shape != output.shape or not torch.allclose(value, output, rtol=1e-9, atol=1e-9):
            wrong.append(path)
    return wrong


class Weighted:
    """A target with given weights; stands in where only the walk is tested."""

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights

    def weights(self, output: Tensor, samples: object) -> Tensor:
        return self._weights


def weights_of(trace: Trace) -> Tensor:
    """Seeded weights of the outputs, one row per sample."""
    generator = torch.Generator().manual_seed(3)
    shape = tuple(trace.output.shape)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(trace.output)


class Small(nn.Module):
    """Residual, reused modules, in-place operators, functional activations, a fork, a softmax."""

    def __init__(self, *, has_softmax: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(6 * 16, 5)
        self.has_softmax = has_softmax

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.relu(self.bn1(self.conv1(inputs)))
        branch = self.bn2(self.conv2(hidden))
        branch += hidden
        hidden = functional.relu(branch)
        hidden = self.relu(self.conv2(hidden))
        hidden = self.drop(self.pool(hidden))
        output = self.fc(hidden.flatten(1))
        return output.softmax(1) if self.has_softmax else output


@functools.cache
def small_network() -> Network:
    """Return the program of the small network; tests that change nothing share it."""
    return Network(*small())


def small(*, has_softmax: bool = False) -> tuple[Small, Tensor]:
    """The small network, seeded, in float64, and four images."""
    torch.manual_seed(1)
    model = Small(has_softmax=has_softmax)
    randomise(model)
    return model.double().eval(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
