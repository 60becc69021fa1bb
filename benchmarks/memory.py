"""Peak memory of one call, ours against Captum's and zennit's, each in a process of its own.

What is counted is the kernel's high-water mark during the call, on a batch, less what was resident
before it: the model (ours: read), libraries, and the forward of one row. So it holds values,
gradients, relevance, the libraries' copies and parts of weights, and what torch and oneDNN take for
themselves. A mark of the kernel's sees all allocators, unlike torch's own profiler, and cannot miss
a peak between two samples. ResNet18, eight photographs, one thread::

    OMP_NUM_THREADS=1 python -m benchmarks.memory
    OMP_NUM_THREADS=1 python -m benchmarks.memory --method deep_lift seven

The seven are the prediction and the six methods of `benchmarks.methods`, from one trace or by seven
calls. Integrated gradients take ten steps: Captum puts all steps of all rows into one batch unless
told otherwise, and its default of 50 needs some 12 GB here; ours need the same for any number.
What reading the model takes once, mostly libraries, is shown by `--reading`.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import explainers
from benchmarks import lrp, methods
from explainers import Network

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

STEPS = 10
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "saliency": ("saliency", {}),
    "guided_backprop": ("guided_backprop", {}),
    "deep_lift": ("deep_lift", {}),
    "integrated_gradients": ("integrated_gradients", {"n_steps": STEPS}),
    "expected_gradients": ("expected_gradients", {}),
    "lrp_epsilon": ("lrp", {"composite": methods.EPSILON}),
    "epsilon_plus": ("lrp", {"composite": "epsilon_plus"}),
    "epsilon_plus_flat": ("lrp", {"composite": "epsilon_plus_flat"}),
    "epsilon_alpha2_beta1": ("lrp", {"composite": "epsilon_alpha2_beta1"}),
    "epsilon_gamma_box": ("lrp", {"composite": lrp.COMPOSITES["epsilon_gamma_box"]}),
}
"""What is measured: the method, and its parameters; `seven` besides."""
CAPTUM: dict[str, tuple[str, dict[str, Any]]] = {
    "saliency": ("Saliency", {}),
    "guided_backprop": ("GuidedBackprop", {}),
    "deep_lift": ("DeepLift", {}),
    "integrated_gradients": ("IntegratedGradients", {"n_steps": STEPS}),
    "expected_gradients": ("GradientShap", {}),
    "lrp_epsilon": ("LRP", {}),
}
"""The same in Captum; of the others zennit's composites of these names."""


TWINS = ("guided_backprop", "deep_lift", "lrp_epsilon", "seven")
"""What Captum cannot explain where modules are used twice, or in place."""


def ours(method: str) -> Callable[[Tensor], object]:
    """Return our call, the model read."""
    model, _, inputs = methods.resnet18()
    if method == "seven":
        return methods.ours(model, inputs)
    name, parameters = OURS[method]
    network = Network(model, inputs)
    network(inputs[:1])
    if name == "expected_gradients":
        parameters = {"background": torch.zeros_like(inputs[:1])}
    return functools.partial(explainers.explain, network, name, target=0, **parameters)


def peers(method: str) -> Callable[[Tensor], object]:
    """Return the peer's call, on a model that it can take."""
    model, twin, inputs = methods.resnet18()
    used = twin if method in TWINS else model
    with torch.no_grad():
        used(inputs[:1])
    if method == "seven":
        return methods.captums(used)
    return captums(used, method) if method in CAPTUM else zennits(used, method)


def captums(model: nn.Module, method: str) -> Callable[[Tensor], object]:
    """Return Captum's call."""
    import captum.attr

    name, parameters = CAPTUM[method]
    attribution = getattr(captum.attr, name)(model)

    def run(inputs: Tensor) -> object:
        given = dict(parameters)
        if method == "expected_gradients":
            given["baselines"] = torch.zeros_like(inputs[:1])
        return attribution.attribute(inputs.clone().requires_grad_(), target=0, **given)

    return run


def zennits(model: nn.Module, method: str) -> Callable[[Tensor], object]:
    """Return zennit's call; its hooks keep nothing between calls."""
    return lambda inputs: lrp.zennits(model, inputs, method)()  # type: ignore[misc]


def resident(field: str) -> float:
    """Return MiB: ``VmRSS``, now, or ``VmHWM``, the most since the mark was reset."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(field))
    return int(line.split()[1]) / 2**10


def reset_mark() -> None:
    """Give free memory back, and set the high-water mark to what is resident now."""
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as marks:
        marks.write("5")


def peak(side: str, method: str, batch: int) -> float:
    """Return MiB that a call takes at its peak, in this process, which must be fresh."""
    run = ours(method) if side == "ours" else peers(method)
    torch.manual_seed(1)
    inputs = torch.randn(batch, 3, 224, 224)
    reset_mark()
    before = resident("VmRSS")
    run(inputs)
    return resident("VmHWM") - before


def reading() -> float:
    """Return MiB that reading the model takes, libraries and all."""
    model, _, inputs = methods.resnet18()
    model(inputs[:1])
    reset_mark()
    before = resident("VmRSS")
    _kept = Network(model, inputs)
    return resident("VmRSS") - before


def elsewhere(*asked: str) -> float:
    """Return what a new process measures."""
    command = [sys.executable, "-m", "benchmarks.memory", *asked]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [*OURS, "seven"]
    parser.add_argument("--method", nargs="*", choices=known, default=known)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--reading", action="store_true", help="measure what reading takes")
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # Captum warns of every hook it sets
    if asked.reading:
        print(round(reading(), 1))
    elif asked.side:
        print(peak(asked.side, *asked.method, asked.batch))
    else:
        print(f"{'MiB at the peak':22}{'ours':>8}{'peer':>8}  ours over peer's")
        for method in asked.method:
            given = "--method", method, "--batch", str(asked.batch)
            found = [elsewhere("--side", side, *given) for side in ("ours", "peer")]
            name = "Captum" if method in CAPTUM or method == "seven" else "zennit"
            cells = f"{found[0]:8.0f}{found[1]:8.0f}  {found[0] / found[1]:.2f} of {name}"
            print(f"{method:22}{cells}", flush=True)


if __name__ == "__main__":
    main()
