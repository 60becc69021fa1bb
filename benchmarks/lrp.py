"""LRP with five composites against a bare forward and backward pass, and against zennit.

Ratios of CPU seconds of this process, on one thread, in float32; medians over rounds in which all
take turns, each over the bare pass of its own round, so that a busy machine slows both. The bare
pass is torch's forward and backward to the pixels, gradients of weights off, once as torch lays
images out (contiguous) and once channels last::

    OMP_NUM_THREADS=1 python -m benchmarks.lrp
    OMP_NUM_THREADS=1 python -m benchmarks.lrp --network vgg16 --composite epsilon_plus --rounds 9

ResNet18 and VGG16 have random weights and norms as if trained; EfficientNet-Lite0, whose inner
convolutions have inputs of either sign, is the one of `configs`.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torchvision import models

import explainers
from configs.efficientnet_lite0 import load as efficientnet_lite0
from explainers import Composite, Network
from explainers.composites import Assignment

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

EVERYWHERE = ("type:Convolution", "type:Linear")
BOX = {"low": -2.5, "high": 2.5}
COMPOSITES: dict[str, Any] = {
    "epsilon_plus": "epsilon_plus",
    "epsilon_plus_flat": "epsilon_plus_flat",
    "lrp_epsilon": Composite((Assignment("epsilon", EVERYWHERE),)),
    "epsilon_alpha2_beta1": "epsilon_alpha2_beta1",
    "epsilon_gamma_box": {"name": "epsilon_gamma_box", **BOX},
}
TARGETS = {"epsilon_plus": 1.5, "epsilon_plus_flat": 1.5, "lrp_epsilon": 1.5}
"""Times a bare pass, where inputs of convolutions are not negative; of the others 2.2."""
SIGNED_TARGETS = {name: 1.8 for name in TARGETS}
"""Where they are of either sign; the others have none there."""
BATCHES = {"vgg16": 2}
"""Of a network; otherwise 8."""


def resnet18() -> nn.Module:
    """Return a network with norms as if trained."""
    model: nn.Module = models.resnet18(weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.1)
    return model


def vgg16() -> nn.Module:
    """Return a network without norms."""
    model: nn.Module = models.vgg16(weights=None)
    return model


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": resnet18,
    "vgg16": vgg16,
    "efficientnet_lite0": efficientnet_lite0,
}


def bare(model: nn.Module, inputs: Tensor) -> Callable[[], Tensor]:
    """Return torch's forward and backward to the pixels."""

    def run() -> Tensor:
        leaf = inputs.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(leaf).amax(1).sum(), leaf)
        return gradient

    return run


def channels_last(model: nn.Module, inputs: Tensor) -> Callable[[], Tensor]:
    """Return the same in the other layout."""
    layout = torch.channels_last
    moved = copy.deepcopy(model).to(memory_format=layout)
    return bare(moved, inputs.contiguous(memory_format=layout))


def ours(network: Network, inputs: Tensor, composite: Any) -> Callable[[], Tensor]:
    """Return our LRP; the network is read, and the rules are chosen, once."""
    bound = explainers.get("lrp")(network, composite=composite)
    return lambda: bound.attribute(inputs)


def zennits(model: nn.Module, inputs: Tensor, composite: str) -> Callable[[], Tensor] | None:
    """Return zennit's LRP, hooks registered once outside what is timed; None where it cannot."""
    from zennit import composites
    from zennit.attribution import Gradient
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    if not isinstance(model, models.ResNet | models.VGG) or not composite.startswith("epsilon_"):
        return None
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    canonizer = ResNetCanonizer() if isinstance(model, models.ResNet) else VGGCanonizer()
    kind = getattr(composites, "".join(part.title() for part in composite.split("_")))
    bounds = {}
    if composite == "epsilon_gamma_box":
        bounds = {name: torch.full_like(inputs[:1], bound) for name, bound in BOX.items()}
    kind(canonizers=[canonizer], **bounds).register(model)
    attributor = Gradient(model=model, attr_output=_largest)

    def run() -> Tensor:
        relevance: Tensor = attributor(inputs.clone().requires_grad_())[1]
        return relevance

    return run


def _largest(output: Tensor) -> Tensor:
    return output * torch.nn.functional.one_hot(output.argmax(1), output.shape[1])


def contenders(
    model: nn.Module, inputs: Tensor, names: list[str], with_zennit: bool
) -> dict[str, Callable[[], Tensor]]:
    """Return what is timed, by name; the bare passes first."""
    network = Network(model, inputs)
    runs = {"bare": bare(model, inputs), "channels last": channels_last(model, inputs)}
    for name in names:
        runs[name] = ours(network, inputs, COMPOSITES[name])
        found = zennits(model, inputs, name) if with_zennit else None
        if found is not None:
            runs[f"zennit {name}"] = found
    return runs


def measure(runs: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, list[float]]:
    """Return CPU seconds of each, round by round, after a round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.process_time()
            run()
            if number:
                seconds[name].append(time.process_time() - began)
    return seconds


def over(seconds: dict[str, list[float]], name: str, yardstick: str) -> float:
    """Return the median of the ratios of each round."""
    pairs = zip(seconds[name], seconds[yardstick], strict=True)
    return statistics.median(one / other for one, other in pairs)


def measured(network: str, names: list[str], asked: argparse.Namespace) -> None:
    """Print the rows of one network."""
    torch.manual_seed(0)
    model = NETWORKS[network]().eval().requires_grad_(False)
    inputs = torch.randn(asked.batch or BATCHES.get(network, 8), 3, asked.size, asked.size)
    runs = contenders(model, inputs, names, with_zennit=not asked.no_zennit)
    seconds = measure(runs, asked.rounds)
    for name in names:
        target = TARGETS.get(name, 2.2)
        if network == "efficientnet_lite0":
            target = SIGNED_TARGETS.get(name)
        peer = f"zennit {name}"
        cells = [
            f"{network:19}{len(inputs):>5} {name:21}",
            f"{statistics.median(seconds[name]):>8.3f}",
            f"{over(seconds, name, 'bare'):>10.2f}",
            f"{'' if target is None else f'<= {target}':>8}",
            f"{over(seconds, name, 'channels last'):>14.2f}",
            f"{over(seconds, peer, 'bare') if peer in runs else float('nan'):>8.2f}",
        ]
        print(" ".join(cells).replace("nan", "  -"), flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="*", choices=[*NETWORKS], default=list(NETWORKS))
    parser.add_argument("--composite", nargs="*", choices=[*COMPOSITES], default=list(COMPOSITES))
    parser.add_argument("--batch", type=int, help="8 by default, 2 for vgg16")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-zennit", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"torch {torch.__version__}, {asked.threads} thread(s), {asked.rounds} rounds, CPU time")
    print(
        f"{'network':19}{'batch':>5} {'composite':21} {'seconds':>8} {'over bare':>10} "
        f"{'target':>8} {'channels last':>14} {'zennit':>8}"
    )
    for network in asked.network:
        measured(network, asked.composite, asked)


if __name__ == "__main__":
    main()
