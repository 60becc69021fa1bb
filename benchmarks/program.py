"""Three readings of one trace against one plain forward and backward pass of the same network.

Saliency, gradient x input and the prediction come out of one trace; the yardstick is what
autograd needs for the gradient alone. Interleaved, one thread, medians::

    python -m benchmarks.program --batch 8 --repeats 9
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import TYPE_CHECKING

import torch
import torchvision

from explainers.network import Network
from explainers.targets import Target
from explainers.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


def plain(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the gradient of the predicted output by one forward and one backward pass."""
    leaf = inputs.clone().requires_grad_()
    output = model(leaf)
    (gradient,) = torch.autograd.grad(output.amax(1).sum(), leaf)
    return gradient


def three_from_one_trace(network: Network, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return saliency, gradient x input and prediction."""
    trace = Trace(network, inputs)
    target = Target.parse("predicted")
    saliency = trace.gradient(target).abs()
    product = trace.gradient(target) * trace.inputs
    return saliency, product, trace.prediction


def medians(candidates: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each, run in turns so that all see the same machine."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeats + 1):
        for name, candidate in candidates.items():
            began = time.perf_counter()
            candidate()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measured(name: str, batch: int, repeats: int) -> dict[str, object]:
    """Return medians and ratios for one torchvision network with seeded random weights."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval().requires_grad_(False)
    inputs = torch.randn(batch, 3, 224, 224)
    network = Network(model, inputs)
    began = time.perf_counter()
    Network(model, inputs)
    reading = time.perf_counter() - began
    seconds = medians(
        {
            "plain forward+backward": lambda: plain(model, inputs),
            "three from one trace": lambda: three_from_one_trace(network, inputs),
            "plain forward": lambda: model(inputs),
            "network forward": lambda: network(inputs),
        },
        repeats,
    )
    return {
        "network": name,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "seconds": {what: round(value, 4) for what, value in seconds.items()},
        "read_seconds": round(reading, 2),
        "ratio_trace_to_forward_backward": round(
            seconds["three from one trace"] / seconds["plain forward+backward"], 3
        ),
        "ratio_forward": round(seconds["network forward"] / seconds["plain forward"], 3),
    }


def main() -> None:
    """Print one JSON line per network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=["resnet18"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.networks:
        found = measured(name, options.batch, options.repeats)
        ratio = found["ratio_trace_to_forward_backward"]
        print(f"{name}: saliency + gradient x input + prediction at {ratio} of forward+backward")
        print(json.dumps(found))


if __name__ == "__main__":
    main()
