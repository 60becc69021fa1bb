"""Objective and cost of the batched solvers against SciPy's L-BFGS-B, one image after the other.

Digits and the quickstart's LeNet; noise with the moments of the digits that are not explained. The
reference is the loop that the authors of the method run: each problem by itself, every evaluation
a batch of one, SciPy's defaults with bounds, the same distortions in float32. A round takes the
solvers in turns on digits of its own; costs are CPU seconds of this process on one thread::

    OMP_NUM_THREADS=1 python -m benchmarks.rate_distortion
    OMP_NUM_THREADS=1 python -m benchmarks.rate_distortion --mode half --digits 8 --rounds 1

`worst` and `mean` are objectives over those of SciPy for the same problem; `cheaper` is SciPy's
cost over the solver's. The last table divides the batch in two, or permutes it, and tells by how
much masks then differ.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import torch

from configs.digits_lenet import load
from explainers import Network, Target, Trace
from explainers.rate_distortion.assumed import AssumedDensity
from explainers.rate_distortion.noise import resolve
from explainers.rate_distortion.solvers.adam import Adam
from explainers.rate_distortion.solvers.lbfgsb import LBFGSB
from explainers.rate_distortion.solvers.problem import Problems
from explainers.rate_distortion.solvers.projected_gradient import ProjectedGradient
from explainers.rate_distortion.solvers.projected_lbfgs import ProjectedLBFGS
from explainers.rate_distortion.solvers.spectral import SpectralProjectedGradient
from pipeline.data.mnist5k import Mnist5k

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.distortion import Distortion

PEER = "lbfgsb"
SOLVERS: dict[str, Any] = {
    PEER: LBFGSB(),
    "projected_lbfgs": ProjectedLBFGS(),
    "spectral": SpectralProjectedGradient(),
    "adam, 100": Adam(n_steps=100),
    "adam, 300": Adam(),
}
SLOW: dict[str, Any] = {"projected_gradient, 100": ProjectedGradient(n_steps=100)}
OTHERS = 4000
"""Digits whose moments the noise has."""
RANK = 30


class Counted:
    """A distortion that counts rows."""

    def __init__(self, distortion: AssumedDensity) -> None:
        self.distortion = distortion
        self.n_rows = 0
        self.selected = distortion.selected
        self.n_maps = distortion.n_maps

    def __call__(self, masks: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return distortions and gradients."""
        self.n_rows += len(rows)
        return self.distortion(masks, rows)

    def value(self, masks: Tensor, rows: Tensor) -> Tensor:
        """Return distortions."""
        self.n_rows += len(rows)
        return self.distortion.value(masks, rows)


def shuffled_digits() -> Tensor:
    """Return all digits as LeNet takes them, ``(5000, 1, 28, 28)``, in a fixed random order."""
    source = Mnist5k()
    images = torch.stack([source.load(record) for record in source.records()])
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]


def moments(images: Tensor, mode: str) -> dict[str, Tensor]:
    """Return what the scan ``moments`` would find of some images."""
    mean = images.mean(0)
    if mode == "diag":
        return {"mean": mean, "variance": images.var(0)}
    _, sizes, rows = torch.linalg.svd((images - mean).flatten(1), full_matrices=False)
    factor = sizes[:RANK, None] * rows[:RANK] / (len(images) - 1) ** 0.5
    return {"mean": mean, "factor": factor.view(RANK, *mean.shape)}


def counted(images: Tensor, noise: dict[str, Tensor], mode: Any) -> Counted:
    """Return the distortion of some images."""
    network = Network(load(), images[:1])
    found = resolve(noise, network, mode)
    return Counted(AssumedDensity(Trace(network, images), Target.parse("predicted"), found))


def asked(distortion: Distortion, multipliers: list[float]) -> Problems:
    """Return a problem for every image and multiplier, from the method's start."""
    n_images = len(distortion.selected)
    rows = torch.arange(n_images).repeat_interleave(len(multipliers))
    start = torch.full((len(rows), 1, 28, 28), 0.5)
    scale = distortion.selected[rows].square()
    return Problems(rows, start, torch.tensor(multipliers).repeat(n_images), None, scale)


def compared(options: argparse.Namespace, solvers: dict[str, Any]) -> None:
    """Print objectives and costs, a line for each solver."""
    images = shuffled_digits()
    noise = moments(images[:OTHERS], options.mode)
    ratios: dict[str, list[Tensor]] = {name: [] for name in solvers}
    seconds, rows = dict.fromkeys(solvers, 0.0), dict.fromkeys(solvers, 0)
    for number in range(options.rounds):
        first = OTHERS + number * options.digits
        distortion = counted(images[first : first + options.digits], noise, options.mode)
        problems = asked(distortion, options.multipliers)
        reference = None
        for name, solver in solvers.items():
            distortion.n_rows, begun = 0, time.process_time()
            found = solver.solve(distortion, problems)
            seconds[name] += time.process_time() - begun
            rows[name] += distortion.n_rows
            reference = found.objective if reference is None else reference
            ratios[name].append(found.objective / reference)
    n_problems = options.rounds * options.digits * len(options.multipliers)
    print(f"{'solver':32} {'worst':>7} {'mean':>7} {'rows':>7} {'ms':>8} {'cheaper':>8}")
    for name in solvers:
        ratio, cost = torch.cat(ratios[name]), seconds[name] / n_problems
        cheaper = seconds[PEER] / seconds[name]
        print(
            f"{name:32} {ratio.max():7.4f} {ratio.mean():7.4f} {rows[name] / n_problems:7.1f} "
            f"{1e3 * cost:8.1f} {cheaper:8.1f}",
            flush=True,
        )


def drifts(options: argparse.Namespace, solvers: dict[str, Any]) -> None:
    """Print by how much masks differ where a batch is permuted, or cut in two."""
    images = shuffled_digits()[: OTHERS + options.digits]
    noise = moments(images[:OTHERS], options.mode)
    chosen = images[OTHERS:]

    def masks(part: Tensor, solver: Any) -> Tensor:
        distortion = counted(part, noise, options.mode)
        found: Tensor = solver.solve(distortion, asked(distortion, options.multipliers)).mask
        return found.view(len(part), -1)

    print(f"{'solver':32} {'permuted':>9} {'cut':>9}")
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(1))
    middle = len(chosen) // 2 - 1
    for name, solver in solvers.items():
        together = masks(chosen, solver)
        permuted = (masks(chosen[order], solver) - together[order]).abs().max()
        apart = torch.cat([masks(part, solver) for part in (chosen[:middle], chosen[middle:])])
        print(f"{name:32} {permuted:9.1e} {(apart - together).abs().max():9.1e}", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", choices=("diag", "half"), default="diag")
    parser.add_argument("--digits", type=int, default=32, help="of a batch")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--multipliers", type=float, nargs="+", default=[0.1, 0.5, 1.0])
    parser.add_argument("--solvers", nargs="+", choices=[*SOLVERS, *SLOW], default=[*SOLVERS])
    parser.add_argument("--without-drifts", action="store_true")
    options = parser.parse_args()
    every = {**SOLVERS, **SLOW}
    compared(options, {name: every[name] for name in dict.fromkeys((PEER, *options.solvers))})
    if not options.without_drifts:
        drifts(options, {name: every[name] for name in options.solvers if name != PEER})


if __name__ == "__main__":
    main()
