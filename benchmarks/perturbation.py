"""LIME, KernelSHAP and RISE on LeNet: against Captum, a plain loop, and bare forwards.

Sixteen digits; the features of LIME and KernelSHAP are the 49 cells of a grid. Ratios of CPU
seconds of this process, medians over rounds in which all take turns; Captum at the number of
perturbations per pass that suits it best, which is told. `bare` is that many forwards without
anything around them, in batches of the size that suits them best::

    OMP_NUM_THREADS=1 python -m benchmarks.perturbation
    OMP_NUM_THREADS=1 python -m benchmarks.perturbation --images 64 --rounds 9
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import captum.attr
import torch
from captum._utils.models.linear_model import SkLearnRidge

import explainers
from benchmarks.lrp import measure
from benchmarks.shapley import Setting, digits
from configs.digits_lenet import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

TARGET = 4.0
"""Times Captum, for LIME and KernelSHAP."""
AT_ONCE = (7, 16, 50, 100, 200)
"""Captum's perturbations per pass."""
IID = {"paired": False, "stratified": False, "replacement": True}
"""Captum's coalitions."""
ROWS = (32, 64, 128, 256, 512)
"""Of a bare forward, among which the fastest is found."""


def captums(setting: Setting, name: str) -> Any:
    """Return Captum's method."""
    if name.startswith("kernel_shap"):
        return captum.attr.KernelShap(setting.model)
    model = SkLearnRidge(alpha=1.0) if name == "lime, ridge" else None
    return captum.attr.Lime(setting.model, interpretable_model=model)


def by_captum(setting: Setting, method: Any, n_evaluations: int, at_once: int) -> Tensor:
    """Return Captum's map."""
    torch.manual_seed(0)
    found: Tensor = method.attribute(
        setting.images,
        target=setting.classes,
        feature_mask=setting.mask,
        n_samples=n_evaluations,
        perturbations_per_eval=at_once,
    )
    return found


def by_us(setting: Setting, name: str, parameters: dict[str, Any], seed: int | None) -> Any:
    """Return what runs our method; with a new design each time, or with a seed's."""
    state = {"seed": seed or 0}

    def run() -> Tensor:
        state["seed"] += seed is None
        bound = explainers.get(name)(setting.network, seed=state["seed"], **parameters)
        found: Tensor = bound.attribute(setting.images, setting.classes)
        return found

    return run


def bare(setting: Setting, n_evaluations: int, at_once: int) -> Tensor:
    """Return the outputs of that many forwards of each image."""
    n_rows = n_evaluations * len(setting.images)
    rows = setting.images.repeat(-(-at_once // len(setting.images)), 1, 1, 1)[:at_once]
    with torch.inference_mode():
        for first in range(0, n_rows, at_once):
            outputs: Tensor = setting.model(rows[: min(at_once, n_rows - first)])
    return outputs


def fastest(run: Callable[[int], Tensor], sizes: Iterable[int]) -> int:
    """Return the size of a pass at which `run` is fastest."""
    runs = {str(size): partial(run, size) for size in sizes}
    seconds = measure(runs, 3)
    return int(min(runs, key=lambda size: statistics.median(seconds[size])))


def ratios(seconds: dict[str, list[float]], one: str, other: str) -> list[float]:
    """Return the ratios of the rounds."""
    return [first / second for first, second in zip(seconds[one], seconds[other], strict=True)]


def surrogates(asked: argparse.Namespace) -> None:
    """Print LIME and KernelSHAP beside Captum's."""
    setting = Setting(load().requires_grad_(False), digits(asked.images), 7)
    rows = fastest(partial(bare, setting, 100), ROWS)
    print(f"{asked.images} digits, 49 features; captum over ours >= {TARGET}; bare: {rows} rows")
    print(
        f"{'method':16}{'evaluations':>12}{'captum':>9}{'per pass':>9}{'ours':>8}{'again':>8}"
        f"{'bare':>8}{'ratio':>8}{'by round':>15}{'over bare':>11}"
    )
    for name, parameters, budgets in (
        ("lime", {"surrogate": "lasso"}, (50, 200)),
        ("lime, ridge", {"surrogate": "ridge"}, (50, 200)),
        ("kernel_shap", {}, (100, 200)),  # of 50 the regression has fewer than of features
        ("kernel_shap, iid", IID, (100, 200)),
    ):
        method = captums(setting, name)
        for n_evaluations in budgets:
            sizes = [size for size in AT_ONCE if size <= n_evaluations]
            tried = partial(by_captum, setting, method, n_evaluations)
            at_once = fastest(tried, sizes)
            # Captum does not count the sample's own pass
            budget = n_evaluations + name.startswith("lime")
            own = {"features": {"grid": 7}, "n_evaluations": budget, **parameters}
            ours = partial(by_us, setting, name.partition(",")[0], own)
            runs: dict[str, Callable[[], Tensor]] = {
                "captum": partial(by_captum, setting, method, n_evaluations, at_once),
                "ours": ours(None),
                "again": ours(0),
                "bare": partial(bare, setting, n_evaluations, rows),
            }
            seconds = measure(runs, asked.rounds)
            medians = {side: statistics.median(times) for side, times in seconds.items()}
            rounds = ratios(seconds, "captum", "ours")
            over = statistics.median(ratios(seconds, "again", "bare"))
            print(
                f"{name:16}{n_evaluations:>12}{medians['captum']:>9.3f}{at_once:>9}"
                f"{medians['ours']:>8.3f}{medians['again']:>8.3f}{medians['bare']:>8.3f}"
                f"{statistics.median(rounds):>8.2f}{min(rounds):>9.2f}-{max(rounds):<6.2f}{over:>10.2f}",
                flush=True,
            )


def loop(setting: Setting, masks: Tensor) -> Tensor:
    """Return RISE's map by one pass for each mask: mean of masks, weighted by probabilities."""
    total = torch.zeros_like(setting.images[:, 0])
    with torch.inference_mode():
        for mask in masks:
            outputs = setting.model(setting.images * mask).softmax(1)
            chosen = outputs.gather(1, setting.classes[:, None])
            total += chosen[:, :, None] * mask
    return total / len(masks)


def rise(asked: argparse.Namespace) -> None:
    """Print RISE beside a loop over as many masks, and bare forwards."""
    print(
        f"\nRISE\n{'images':>6}{'masks':>7}{'loop':>8}{'ours':>8}{'bare':>8}"
        f"{'loop over ours':>16}{'ours over bare':>16}"
    )
    for n_images, n_masks in ((asked.images, 1000), (1, 4000)):
        if asked.quick:
            n_masks //= 10
        setting = Setting(load().requires_grad_(False), digits(n_images), 7)
        rows = fastest(partial(bare, setting, 1600 // n_images), ROWS)
        runs: dict[str, Callable[[], Tensor]] = {
            "loop": partial(loop, setting, torch.rand(n_masks, 28, 28)),
            "ours": by_us(setting, "rise", {"n_evaluations": n_masks + 1}, 0),
            "bare": partial(bare, setting, n_masks, rows),
        }
        seconds = measure(runs, asked.rounds)
        cells = "".join(f"{statistics.median(seconds[side]):>8.3f}" for side in runs)
        over = [
            statistics.median(ratios(seconds, *pair))
            for pair in (("loop", "ours"), ("ours", "bare"))
        ]
        print(f"{n_images:>6}{n_masks:>7}{cells}{over[0]:>16.2f}{over[1]:>16.2f}", flush=True)


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few images and rounds")
    asked = parser.parse_args()
    if asked.quick:
        asked.images, asked.rounds = 4, 2
    torch.set_num_threads(asked.threads)
    warnings.simplefilter("ignore")  # Captum warns of masks that it could do without
    surrogates(asked)
    rise(asked)


if __name__ == "__main__":
    main()
