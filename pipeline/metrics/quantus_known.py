"""Which metrics of Quantus 0.6 are worth calling, and why the others are not."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.metrics.metric import Direction


@dataclass(frozen=True)
class Known:
    """What has to be known of a metric to call it on shards."""

    direction: Direction
    softmax: bool | None
    """Whether it looks at probabilities by default; None if it looks at no output."""
    is_batched: bool = True
    """Whether its numbers do not depend on the other samples of a call, with our noise and our
    normaliser; if not, it is called with one sample at a time."""
    has_noise: bool = False
    """Whether it perturbs by noise, which is then ours: the same for a sample in any shard."""
    has_layers: bool = False
    """Whether it looks into the model, which then is the module itself."""


KNOWN = {
    "RelativeInputStability": Known("lower", False, has_noise=True),
    "RelativeOutputStability": Known("lower", False, has_noise=True),
    "RelativeRepresentationStability": Known("lower", False, has_noise=True, has_layers=True),
    "Continuity": Known("lower", False),
    "MonotonicityCorrelation": Known("higher", True),
    "NonSensitivity": Known("lower", True),
    "InputInvariance": Known("higher", None, has_layers=True),
    "FaithfulnessCorrelation": Known("higher", False, is_batched=False),
    "FaithfulnessEstimate": Known("higher", False, is_batched=False),
    "Infidelity": Known("lower", False, is_batched=False),
    "MaxSensitivity": Known("lower", False, is_batched=False),
    "AvgSensitivity": Known("lower", False, is_batched=False),
    "LocalLipschitzEstimate": Known("lower", True, is_batched=False),
    "Sparseness": Known("higher", None, is_batched=False),
    "Complexity": Known("lower", None, is_batched=False),
    "EffectiveComplexity": Known("lower", None, is_batched=False),
}

_CURVE = "it has a curve for each sample and no number"
_LAYERS = "it has a score for each layer, and seeds NumPy's and torch's generators anew"
_MASK = "Quantus has to be given masks shaped as its maps"
_PAIRS = (
    "it compares the samples of a batch with one another, so that its scores depend on how "
    "samples are put into batches"
)

REFUSED = {
    "ROAD": ("it scores its first batch only, as a mean, and no maps of colour images", "road"),
    "SensitivityN": ("it scores its first batch only, across samples", "sensitivity_n"),
    "Monotonicity": (
        "its black baseline is what it starts from: it is always true",
        "monotonicity",
    ),
    "Completeness": ("it asks sums of floats to be equal: it is always false", "completeness"),
    "Consistency": (_PAIRS, ""),
    "Sufficiency": (_PAIRS, ""),
    "Focus": ("it needs mosaics of four samples, which a run has not", ""),
    "PixelFlipping": (_CURVE, "pixel_flipping"),
    "RegionPerturbation": (_CURVE, "region_perturbation"),
    "Selectivity": (_CURVE, "selectivity"),
    "IROF": (_CURVE, "irof"),
    "MPRT": (_LAYERS, "mprt"),
    "SmoothMPRT": (_LAYERS, "smooth_mprt"),
    "EfficientMPRT": (_LAYERS, "efficient_mprt"),
    "RandomLogit": ("it seeds NumPy's generator anew for each batch", "random_logit"),
    "PointingGame": (_MASK, "pointing_game"),
    "TopKIntersection": (_MASK, "top_k_intersection"),
    "RelevanceRankAccuracy": (_MASK, "relevance_rank_accuracy"),
    "RelevanceMassAccuracy": (_MASK, "relevance_mass_accuracy"),
    "AttributionLocalisation": (_MASK, "attribution_localisation"),
    "AUC": (_MASK, "localisation_auc"),
}
"""Name to the reason and our own metric instead, if there is one."""


def known(name: str) -> Known:
    """Return what is known of a metric that can be called.

    Raises
    ------
    ValueError
        If it cannot be called, with the reason and what to take instead.
    """
    if name in KNOWN:
        return KNOWN[name]
    if name in REFUSED:
        reason, native = REFUSED[name]
        instead = f"; take the metric {native}" if native else ""
        raise ValueError(f"got metric {name!r}, which is not called: {reason}{instead}")
    near = difflib.get_close_matches(name, [*KNOWN, *REFUSED], n=1)
    asked = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"got metric {name!r}, expected one of {', '.join(KNOWN)}{asked}")
