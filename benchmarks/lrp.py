"""LRP against a bare forward and backward pass, and against zennit in the same run.

Ratios to torch's own forward and backward to the pixels (contiguous, gradients of the weights off,
the same threads), medians of interleaved rounds, in CPU seconds of this process::

    OMP_NUM_THREADS=1 python -m benchmarks.lrp --network resnet18 --batch 8 --rounds 7
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torchvision import models

import explainers
from explainers import Network

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

NETWORKS = ("resnet18", "vgg16_bn", "densenet121")


def make(name: str) -> nn.Module:
    """Return a network with seeded weights and batch norms as if trained."""
    torch.manual_seed(0)
    model = getattr(models, name)(weights=None).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0.0, 0.1)
    return model


def bare(model: nn.Module, inputs: Tensor) -> Callable[[], Tensor]:
    """Return torch's forward and backward to the pixels."""

    def run() -> Tensor:
        leaf = inputs.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(leaf).amax(1).sum(), leaf)
        return gradient

    return run


def zennit(model: nn.Module, inputs: Tensor) -> Callable[[], Tensor]:
    """Return zennit's EpsilonPlusFlat, hooks registered once outside what is timed."""
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonPlusFlat
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    is_resnet = isinstance(model, models.ResNet)
    composite = EpsilonPlusFlat(canonizers=[ResNetCanonizer() if is_resnet else VGGCanonizer()])
    composite.register(model)
    attributor = Gradient(model=model, attr_output=_largest)

    def run() -> Tensor:
        relevance: Tensor = attributor(inputs.clone().requires_grad_())[1]
        return relevance

    return run


def _largest(output: Tensor) -> Tensor:
    return output * torch.nn.functional.one_hot(output.argmax(1), output.shape[1])


def _channels_last(model: nn.Module, inputs: Tensor) -> tuple[nn.Module, Tensor]:
    layout = torch.channels_last
    return copy.deepcopy(model).to(memory_format=layout), inputs.contiguous(memory_format=layout)


def contenders(model: nn.Module, inputs: Tensor, with_zennit: bool) -> dict[str, Any]:
    """Return what is timed, by name; the bare pass first."""
    network = Network(model, inputs)

    def lrp() -> Tensor:
        return explainers.explain(network, "lrp", inputs, composite="epsilon_plus_flat")

    found: dict[str, Any] = {
        "bare forward and backward": bare(model, inputs),
        "bare, channels last": bare(*_channels_last(model, inputs)),
        "lrp epsilon_plus_flat": lrp,
    }
    if with_zennit:
        found["zennit EpsilonPlusFlat"] = zennit(model, inputs)
    return found


def measure(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return median CPU seconds of each, after a round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.process_time()
            run()
            if number:
                seconds[name].append(time.process_time() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet18", choices=NETWORKS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = make(asked.network)
    inputs = torch.randn(asked.batch, 3, asked.size, asked.size)
    # zennit's canonizers do not fit DenseNet: merging its norms fails half-way.
    runs = contenders(model, inputs, with_zennit=asked.network != "densenet121")
    medians = measure(runs, asked.rounds)
    least = next(iter(medians.values()))
    report = {
        **vars(asked),
        "seconds": {name: round(time, 4) for name, time in medians.items()},
        "ratio_to_bare": {name: round(time / least, 3) for name, time in medians.items()},
    }
    if "zennit EpsilonPlusFlat" in runs:
        pair = [runs[name]().flatten() for name in list(runs)[-2:]]
        report["correlation_with_zennit"] = float(torch.corrcoef(torch.stack(pair))[0, 1])
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
