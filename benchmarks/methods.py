"""Seven methods from one trace, and integrated gradients, against the same calls in Captum.

The seven: the prediction, saliency, input x gradient, guided backprop, deconvnet, DeepLIFT and
epsilon-LRP of the predicted class. Captum gets what it needs: a twin with a ReLU and a pool for
each use, sums as modules, nothing in place, no gradients of weights. Medians of interleaved rounds
in CPU seconds of this process; both sides are given contiguous images::

    OMP_NUM_THREADS=1 python -m benchmarks.methods --network resnet18 --rounds 5

DeepLIFT's maps differ a little: where a ReLU and a max-pool are neighbours, as in both networks,
Captum falls back to the gradient of the pool.

Peak memory is that of a process of its own for each side: the kernel's high-water mark less what
was resident when the network was made and one row had been explained, so that it counts what torch
and oneDNN take for themselves, but neither weights nor libraries.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

import captum.attr
import torch
from captum.attr._utils.custom_modules import Addition_Module
from torch import nn
from torchvision import models

import explainers
from configs.quickstart.lenet import LeNet
from explainers import Composite, Network, Target, Trace
from explainers.composites import Assignment

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

EPSILON = Composite(
    (Assignment("epsilon", ("type:Convolution", "type:Linear"), parameters=(("epsilon", 1e-9),)),)
)
"""Captum's rule and stabiliser."""
METHODS: dict[str, dict[str, Any]] = {
    "saliency": {},
    "input_x_gradient": {},
    "guided_backprop": {},
    "deconvnet": {},
    "deep_lift": {},
    "lrp": {"composite": EPSILON},
}
CAPTUM = {
    "saliency": captum.attr.Saliency,
    "input_x_gradient": captum.attr.InputXGradient,
    "guided_backprop": captum.attr.GuidedBackprop,
    "deconvnet": captum.attr.Deconvolution,
    "deep_lift": captum.attr.DeepLift,
    "lrp": captum.attr.LRP,
}
CHUNKS = (64, 128, 256, 512, 1024)
"""Sizes of internal batches among which Captum's integrated gradients find the best."""


class LeNetTwin(nn.Module):
    """The same weights with modules of their own for each use, and no `nn.Flatten`."""

    def __init__(self, net: LeNet) -> None:
        super().__init__()
        self.conv1, self.conv2 = net.conv1, net.conv2
        self.linear1, self.linear2 = net.linear1, net.linear2
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.pool1, self.pool2 = nn.MaxPool2d(2), nn.MaxPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        features = self.pool1(self.relu1(self.conv1(images)))
        features = self.pool2(self.relu2(self.conv2(features)))
        logits: Tensor = self.linear2(self.relu3(self.linear1(torch.flatten(features, 1))))
        return logits


class BlockTwin(nn.Module):
    """A residual block with a ReLU for each use, and its sum as Captum's module."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = block.conv1, block.bn1, nn.ReLU()
        self.conv2, self.bn2, self.relu2 = block.conv2, block.bn2, nn.ReLU()
        self.downsample, self.add = block.downsample, Addition_Module()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's value."""
        kept = x if self.downsample is None else self.downsample(x)
        x = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        summed: Tensor = self.relu2(self.add(x, kept))
        return summed


def lenet() -> tuple[nn.Module, nn.Module, Tensor]:
    """Return a network, the twin for Captum, and 256 digits' worth of noise."""
    torch.manual_seed(0)
    net = LeNet().eval().requires_grad_(False)
    return net, LeNetTwin(net).eval(), torch.randn(256, 1, 28, 28)


def resnet18() -> tuple[nn.Module, nn.Module, Tensor]:
    """Return a network with norms as if trained, the twin for Captum, and eight images."""

    def made() -> Any:
        torch.manual_seed(0)
        net = models.resnet18(weights=None).eval().requires_grad_(False)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0.0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0.0, 0.1)
        return net

    twin = made()
    twin.relu = nn.ReLU()
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        blocks = (BlockTwin(block) for block in getattr(twin, stage))
        setattr(twin, stage, nn.Sequential(*blocks))
    return made(), twin.eval(), torch.randn(8, 3, 224, 224)


NETWORKS = {"lenet": lenet, "resnet18": resnet18}


def ours(model: nn.Module, example: Tensor) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return what gives prediction and maps, all from one trace."""
    network = Network(model, example)
    built = {name: explainers.build(name, **parameters) for name, parameters in METHODS.items()}
    for attribution in built.values():
        attribution.check(network)

    def run(inputs: Tensor) -> dict[str, Tensor]:
        trace, target = Trace(network, inputs), Target()
        found = {name: one.relevance(trace, target) for name, one in built.items()}
        maps = {name: getattr(each, "relevance", each) for name, each in found.items()}
        return {"prediction": trace.prediction, **maps}

    return run


def captums(twin: nn.Module) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return what gives the same by one call after the other."""

    def run(inputs: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            prediction = twin(inputs).argmax(1)
        found = {"prediction": prediction}
        for name, kind in CAPTUM.items():
            leaf = inputs.clone().requires_grad_()
            found[name] = kind(twin).attribute(leaf, target=prediction).detach()
        return found

    return run


def medians(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return median CPU seconds of each, in turns, after a round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.process_time()
            run()
            if number:
                seconds[name].append(time.process_time() - began)
    return {name: round(statistics.median(times), 4) for name, times in seconds.items()}


def high_water() -> float:
    """Return the most MiB that were resident since the mark was reset."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10


def reset_high_water() -> None:
    """Set the mark to what is resident now; Linux has this."""
    with open("/proc/self/clear_refs", "w") as marks:
        marks.write("5")


def peak(side: str, name: str) -> float:
    """Return MiB that one round takes at its peak, in this process, which must be fresh."""
    model, twin, inputs = NETWORKS[name]()
    run = ours(model, inputs) if side == "ours" else captums(twin)
    run(inputs[:1])
    reset_high_water()
    before = high_water()
    run(inputs)
    return high_water() - before


def peak_elsewhere(side: str, name: str, threads: int) -> float:
    """Return `peak` as a new process measures it."""
    asked = ["--peak", side, "--network", name, "--threads", str(threads)]
    command = [sys.executable, "-m", "benchmarks.methods", *asked]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def seven(name: str, rounds: int, threads: int) -> dict[str, Any]:
    """Return medians, memory and agreement of both sides."""
    model, twin, inputs = NETWORKS[name]()
    sides = {"ours": ours(model, inputs), "captum": captums(twin)}
    runs = {side: functools.partial(run, inputs) for side, run in sides.items()}
    seconds = medians(runs, rounds)
    found, expected = runs["ours"](), runs["captum"]()
    return {
        "seconds": seconds,
        "captum_over_ours": round(seconds["captum"] / seconds["ours"], 2),
        "peak_MiB": {side: round(peak_elsewhere(side, name, threads), 1) for side in sides},
        "correlation": {
            method: round(_correlation(found[method], expected[method]), 6) for method in METHODS
        },
    }


def _correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]).double())[0, 1])


def integrated(rounds: int) -> dict[str, Any]:
    """Return medians of integrated gradients of 50 steps on LeNet, by internal batch size."""
    model, twin, inputs = lenet()
    network = Network(model, inputs)
    method = captum.attr.IntegratedGradients(twin)
    classes = network(inputs).argmax(1)

    def by_captum(size: int | None) -> Tensor:
        found: Tensor = method.attribute(inputs, target=classes, internal_batch_size=size)
        return found

    runs: dict[str, Callable[[], object]] = {
        "ours": functools.partial(explainers.explain, network, "integrated_gradients", inputs),
        **{f"captum {size}": functools.partial(by_captum, size) for size in CHUNKS},
        "captum default": functools.partial(by_captum, None),
    }
    seconds = medians(runs, rounds)
    best = min(value for name, value in seconds.items() if name[-1].isdigit())
    return {
        "seconds": seconds,
        "best_over_ours": round(best / seconds["ours"], 2),
        "default_over_ours": round(seconds["captum default"] / seconds["ours"], 2),
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=tuple(NETWORKS), nargs="*", default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", choices=("ours", "captum"), help=argparse.SUPPRESS)
    parser.add_argument("--no-integrated", action="store_true", help="leave them out")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    warnings.simplefilter("ignore")  # Captum warns of every hook it sets
    if asked.peak:
        print(peak(asked.peak, *asked.network))
        return
    report: dict[str, Any] = {"threads": asked.threads, "rounds": asked.rounds}
    for name in asked.network:
        report[name] = seven(name, asked.rounds, asked.threads)
    if not asked.no_integrated:
        report["integrated_gradients"] = integrated(asked.rounds)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
