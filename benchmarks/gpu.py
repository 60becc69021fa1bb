"""Seconds of methods, and how far their maps are from float32, with each switch of the engine.

``python benchmarks/gpu.py --device cuda --model resnet50``; also on the CPU, where narrow products
are slower than float32 unless the processor multiplies bfloat16.
"""

from __future__ import annotations

import argparse
import time

import torch
from torchvision import models

import explainers
from explainers import Attribution, Network, Target, Trace, explaining
from pipeline.acceleration.parity import differences
from pipeline.acceleration.switches import Accelerator

SWITCHES = (
    Accelerator(),
    Accelerator("tf32"),
    Accelerator("bfloat16"),
    Accelerator(is_channels_last=True),
    Accelerator("bfloat16", is_channels_last=True),
    Accelerator("bfloat16", is_channels_last=True, is_compiled=True),
)
METHODS: dict[str, dict[str, int]] = {
    "gradient": {},
    "lrp": {},
    "integrated_gradients": {"n_steps": 8},
    "occlusion": {"window": 56, "stride": 56},
}


def main() -> None:
    """Print a line for each switch and method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=16)
    asked = parser.parse_args()
    torch.manual_seed(0)
    inputs = torch.randn(asked.batch, 3, 224, 224, device=asked.device)
    network = Network(models.get_model(asked.model).eval().to(asked.device), inputs[:2])
    for accelerator in SWITCHES:
        fast = accelerator.applied(network)
        for name, parameters in METHODS.items():
            explainer = explainers.build(name, **parameters)
            if isinstance(explainer, Attribution):
                report(accelerator, fast, network, explainer, inputs)


def report(
    accelerator: Accelerator,
    fast: Network,
    network: Network,
    explainer: Attribution,
    inputs: torch.Tensor,
) -> None:
    """Print what one method takes with one switch."""
    target = Target.parse("predicted")
    traces = [Trace(each, inputs) for each in (fast, network)]
    # it compiles, too
    found = differences({explainer.name: explainer}, *traces, [target], accelerator)[0]
    with accelerator.numbers(network.device):
        started = time.perf_counter()
        explaining.explained(explainer, Trace(fast, inputs), target)
        if network.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    switches = accelerator.in_words() or "float32"
    print(
        f"{switches:50} {explainer.name:22} {seconds:8.3f} s   "
        f"median {found.median:.4f}, at most {found.largest:.4f}"
    )


if __name__ == "__main__":
    main()
