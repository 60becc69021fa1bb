"""Metrics of Quantus (Hedstroem et al. 2023, arXiv:2202.06861) that have no counterpart here."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from pipeline.metrics.metric import Case, Direction, Metric, Space, register
from pipeline.metrics.quantus_calls import (
    Explaining,
    Logits,
    Noise,
    called,
    correlated,
    library,
    scaled,
    unchecked,
)
from pipeline.metrics.quantus_known import Known, known

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target

_SET_HERE = frozenset(
    {
        "aggregate_func",
        "default_plot_func",
        "disable_warnings",
        "display_progressbar",
        "kwargs",
        "normalise_func",
        "normalise_func_kwargs",
        "perturb_func",
        "return_aggregate",
        "self",
        "similarity_func",
    }
)
"""Parameters of Quantus' metrics that a run file cannot say, or that sharding rules out."""


@register("quantus")
@dataclass(frozen=True)
class Quantus(Metric):
    """A metric of the library Quantus, of each sample by itself (extra ``quantus``).

    Quantus divides maps by the largest value of all it is given, draws from NumPy's global
    generator and returns means; here a map is divided by its own largest magnitude, draws follow
    from the run's seed and the sample's id, the same for all explainers, and each sample has its
    score. What Quantus cannot score so is refused, with what to take instead: see docs/quantus.md.
    """

    metric: str = "RelativeInputStability"
    """Class of Quantus' metric."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Its own parameters, such as ``nr_samples``."""
    output_space: Literal["probability", "logit"] | None = None
    """Which outputs it looks at; by default what its default is."""

    family: ClassVar[str] = "quantus"
    headline: ClassVar[str] = "score"
    requires: ClassVar[frozenset[str]] = frozenset({"network", "explainer"})

    def __post_init__(self) -> None:
        """Refuse metrics that cannot be called sample by sample."""
        known(self.metric)
        for name in sorted(_SET_HERE & self.parameters.keys()):
            raise ValueError(f"got parameters {name!r}, which the adapter sets; leave it out")

    @property
    def direction(self) -> Direction:
        """Which end Quantus' documentation calls better."""
        return self._known.direction

    @property
    def space(self) -> Space:
        """What was asked for, or the metric's own; none where no output is looked at."""
        if self._known.softmax is None:
            return "none"
        return "probability" if self._softmax else "logit"

    def check(self, network: Network | None, shape: tuple[int, ...], target: Target) -> None:
        """Refuse what is no class, parameters that Quantus does not know, and to do without it."""
        self._check_target(target)
        self._kind()

    def prepare(self, case: Case) -> Case:
        """Share the class that is explained of each sample, and the model as Quantus takes it."""
        trace = case.network_trace()
        self._check_target(case.target)
        self._kind()
        classes = trace.cotangent(case.target).argmax(1)
        network = trace.network
        model = network.module if self._known.has_layers else Logits(network)
        return case.sharing(classes=classes, model=model)

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return ``score``, float64.

        NaN where Quantus has NaN, and of a map of zeros, which explains nothing.
        """
        trace = case.network_trace()
        flat = relevance.flatten(1)
        has_score = (flat.isfinite().all(dim=1) & (flat != 0).any(dim=1)).cpu()
        rows = has_score.nonzero()[:, 0]
        scores = torch.full((trace.n_rows,), torch.nan, dtype=torch.float64)
        if self._known.is_batched and len(rows):
            with called(trace.shared_seed("quantus")):
                scores[rows] = self._scored(case, relevance, rows)
        elif len(rows):  # its draws are those of one sample, and its batch too
            for row in rows.tolist():
                with called(trace.generator("quantus", row).initial_seed()):
                    scores[row] = self._scored(case, relevance, torch.tensor([row]))
        return {"score": scores.to(relevance.device)}

    def _check_target(self, target: Target) -> None:
        if target.kind == "weights":  # a unit of a layer, too
            raise ValueError(
                f"got a target that is no class, expected one for {self.name}: Quantus scores "
                "explanations of classes"
            )

    @unchecked()
    def _scored(self, case: Case, relevance: Tensor, rows: Tensor) -> Tensor:
        """Return what Quantus makes of these rows, float64 ``(rows,)``."""
        trace, model = case.network_trace(), case.shared["model"]
        given = rows.to(relevance.device)
        metric = self._built(Noise(trace, rows))
        scores = metric(
            model=model,
            x_batch=_array(trace.inputs[given].float()),
            y_batch=_array(case.shared["classes"][given]),
            a_batch=_array(relevance[given]),
            explain_func=Explaining(case, rows, tuple(relevance.shape[1:]), model),
            softmax=self._softmax,
            channel_first=True,
            device=str(trace.network.device),
            batch_size=len(rows),
        )
        found = np.asarray(scores, dtype=np.float64)
        if found.shape != (len(rows),):
            raise ValueError(
                f"got scores of shape {found.shape} from Quantus' {self.metric} for {len(rows)} "
                "samples, expected a number for each; change its parameters"
            )
        return torch.from_numpy(found)

    def _kind(self) -> Any:
        """Return Quantus' class.

        Raises
        ------
        PlanError
            If Quantus is not installed.
        ValueError
            If the class has no such parameter: Quantus itself would go on without it.
        """
        kind = getattr(library(), self.metric)
        signature = inspect.signature(kind.__init__).parameters
        unknown = sorted(self.parameters.keys() - signature.keys())
        if unknown:
            names = ", ".join(sorted(signature.keys() - _SET_HERE))
            raise ValueError(
                f"got parameters {unknown} for Quantus' {self.metric}, expected some of {names}"
            )
        return kind

    def _built(self, noise: Noise) -> Callable[..., Any]:
        """Return Quantus' metric, which perturbs by our draws where its own are of a batch."""
        kind = self._kind()
        settings: dict[str, Any] = {
            "return_aggregate": False,
            "disable_warnings": True,
            "normalise_func": scaled,
        }
        if self.metric == "MonotonicityCorrelation":
            settings["similarity_func"] = correlated
        baseline = inspect.signature(kind.__init__).parameters.get("perturb_baseline")
        if self._known.has_noise:
            settings["perturb_func"] = noise
        elif baseline is not None and self._known.is_batched:
            chosen = self.parameters.get("perturb_baseline", baseline.default)
            if chosen == "uniform":
                settings["perturb_func"] = noise.filled
        built: Callable[..., Any] = kind(**settings, **self.parameters)
        return built

    @property
    def _known(self) -> Known:
        return known(self.metric)

    @property
    def _softmax(self) -> bool | None:
        if self._known.softmax is None or self.output_space is None:
            return self._known.softmax
        return self.output_space == "probability"


def _array(tensor: Tensor) -> NDArray[Any]:
    """Return a copy that Quantus may write to."""
    return np.array(tensor.detach().cpu())
