"""Moments carried through a network, objective and gradient, against bare passes; and their memory.

One evaluation of rate-distortion explanations: a mask of 0.25 blends images with noise, moments
are carried forward, half the squared mean error plus half the variance of a logit is differentiated
by the mask. Ratios of CPU seconds of this process, on one thread in float32, medians over rounds
in which all take turns: ``variance`` over torch's forward and backward of two rows a sample, and
``factor`` over that of K + 1 rows, channels last, gradients of weights off::

    OMP_NUM_THREADS=1 python -m benchmarks.propagation
    OMP_NUM_THREADS=1 python -m benchmarks.propagation --network lenet --samples 32
    OMP_NUM_THREADS=1 python -m benchmarks.propagation --memory

`benchmarks.moments` is about the scan of that name, which measures the moments of a data set.

``--memory`` runs nothing but one evaluation with factors, in this fresh process, and prints the
most memory that the process ever had.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import warnings
from functools import partial
from typing import TYPE_CHECKING

import torch

from benchmarks.lrp import NETWORKS, channels_last, measure
from configs.digits_lenet import load as lenet
from explainers import Network
from explainers.rules.moments import Form
from explainers.rules.moments.carrying import carry

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

MOST_MEMORY = 4.0
"""Gigabytes for ResNet18, four images of 224 x 224 and 30 rows."""


def built(name: str, samples: int, size: int) -> tuple[nn.Module, Tensor]:
    """Return a model without gradients of weights, and images."""
    torch.manual_seed(0)
    if name == "lenet":
        return lenet().eval().requires_grad_(False), torch.rand(samples, 1, 28, 28)
    model = NETWORKS[name]().eval().requires_grad_(False)
    return model, torch.randn(samples, 3, size, size)


def evaluation(network: Network, images: Tensor, n_factors: int | None) -> Callable[[], Tensor]:
    """Return what computes the objective's gradient by the mask; no factors: variances."""
    rows = 0.2 * torch.randn(n_factors or 1, *images.shape[1:])
    form = Form("variance", network) if n_factors is None else Form("factor", network, n_factors)

    def run() -> Tensor:
        mask = torch.full_like(images, 0.25).requires_grad_()
        obfuscated = 1 - mask
        if n_factors is None:
            spread = obfuscated.square() * rows.square()
        else:
            spread = (obfuscated[:, None] * rows).flatten(0, 1)
        found = carry(network, mask * images, spread, form)[network.output_name]
        mean, made = found.mean[:, 0], found.spread
        if made is None:
            raise ValueError(
                "got outputs without a spread, expected a network that reads its input"
            )
        variance = made[:, 0]
        if n_factors is not None:
            variance = variance.square().view(len(images), n_factors).sum(1)
        objective = ((mean - 1).square() + variance).sum() / 2
        (slope,) = torch.autograd.grad(objective, mask)
        return slope

    return run


def bare(model: nn.Module, images: Tensor, n_rows: int) -> Callable[[], Tensor]:
    """Return torch's forward and backward for so many rows of each image."""
    return channels_last(model, images.repeat_interleave(n_rows, 0))


def compare(model: nn.Module, images: Tensor, n_factors: int, rounds: int) -> None:
    """Print seconds and ratios."""
    network = Network(model, images)
    runs = {
        "variance": evaluation(network, images, None),
        "bare, 2 rows": bare(model, images, 2),
        "factor": evaluation(network, images, n_factors),
        f"bare, {n_factors + 1} rows": bare(model, images, n_factors + 1),
    }
    seconds = measure(runs, rounds)
    names = list(runs)
    for own, peer in zip(names[::2], names[1::2], strict=True):
        pairs = zip(seconds[own], seconds[peer], strict=True)
        ratios = [one / other for one, other in pairs]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"{own:10}{statistics.median(seconds[own]):8.3f} s  over {peer}: "
            f"{statistics.median(ratios):.2f} ({spread})",
            flush=True,
        )


def show_memory(model: nn.Module, images: Tensor, n_factors: int) -> None:
    """Print the most memory of this process, before and after one evaluation."""
    network = Network(model, images[:2])
    most = partial(resource.getrusage, resource.RUSAGE_SELF)
    # kibibytes, but bytes on macOS
    unit = 1e9 if sys.platform == "darwin" else 1e9 / 1024
    before = most().ru_maxrss / unit
    evaluation(network, images, n_factors)()
    print(
        f"{most().ru_maxrss / unit:.2f} GB at most, {before:.2f} GB before "
        f"(< {MOST_MEMORY} GB for resnet18, 4 images of 224 x 224, 30 rows)"
    )


def main() -> None:
    """Print a table, or the memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=["lenet", *NETWORKS], default="resnet18")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--factors", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="of one evaluation with factors")
    parser.add_argument("--quick", action="store_true", help="64 x 64, one round")
    asked = parser.parse_args()
    if asked.quick:
        asked.size, asked.rounds = 64, 1
    torch.set_num_threads(asked.threads)
    warnings.simplefilter("ignore")
    model, images = built(asked.network, asked.samples, asked.size)
    if asked.memory:
        show_memory(model, images, asked.factors)
    else:
        compare(model, images, asked.factors, asked.rounds)


if __name__ == "__main__":
    main()
