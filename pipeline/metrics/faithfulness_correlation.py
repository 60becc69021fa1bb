"""Whether what random features are said to matter is what the output loses without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from explainers import numeric
from pipeline.metrics import removal, subsets
from pipeline.metrics.correlation import pearson
from pipeline.metrics.metric import Direction, Metric, register

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target
    from pipeline.metrics.metric import Case

_SHARE = 0.2
_QUANTUS_SIZE = 224


@register("faithfulness_correlation")
@dataclass(frozen=True)
class FaithfulnessCorrelation(Metric):
    r"""Correlation of relevance and drop of the output over random subsets (Bhatt et al. 2020).

    arXiv:2005.00631, doi:10.24963/ijcai.2020/417. With subsets S of one size, drawn uniformly,

    .. math:: \rho = \mathrm{corr}_S \Big( \sum_{i \in S} r_i,\; f(x) - f(x_{S \to b}) \Big),

    Pearson's, from -1 to 1, where the features of S become the baseline b. In images a feature is
    a pixel: its channels go together, and its relevance is their sum. The score does not depend
    on the map's scale.

    ``faithfulness_correlation_error`` is the Monte-Carlo standard error of one sample's score: of
    the draws, not of the samples. Subsets follow from seed and sample; all explainers are judged
    by the same, so differences between them are paired, and their ``n_draws`` forward passes are
    made once. A map whose features are all alike, such as one of zeros, and an output that no
    subset changes, correlate with nothing: NaN, which aggregates count as undefined.
    """

    n_draws: int = 100
    """Subsets of each sample, at least 3."""
    subset_size: int | float | None = None
    """Features in a subset: a number of them, or a share between 0 and 1 (not included); a fifth
    by default."""
    baseline: removal.Absence = "black"
    """What a removed feature becomes: a number, ``black``, ``white``, ``mean``, ``uniform`` or
    ``{blur: sigma}``, as for `pixel_flipping`."""
    output_space: Literal["probability", "logit"] = "logit"
    """What is measured."""
    compat: Literal["quantus"] | None = None
    """``quantus``: that library's definition. Every channel value is a feature of its own, a sum
    over channels stands for each of them, subsets have 224 features by default, and black is the
    least value of the sample. Draws are ours."""

    family: ClassVar[str] = "faithfulness"
    headline: ClassVar[str] = "faithfulness_correlation"
    requires: ClassVar[frozenset[str]] = frozenset({"network"})

    def __post_init__(self) -> None:
        """Refuse too few draws and sizes that are none."""
        numeric.check_whole("n_draws", self.n_draws, 3)
        removal.check_absence(self.baseline)
        check_size("subset_size", self.subset_size)

    @property
    def direction(self) -> Direction:
        """Relevance should say what is lost."""
        return "higher"

    @property
    def space(self) -> Literal["probability", "logit"]:
        """The output space that was asked for."""
        return self.output_space

    def check(self, network: Network | None, shape: tuple[int, ...], target: Target) -> None:
        """Refuse subsets of more features than there are, and what cannot be removed."""
        removal.check(network, shape, self.output_space, self.baseline)
        self._size(removal.count(shape, by_pixel=self._by_pixel))

    def prepare(self, case: Case) -> Case:
        """Share subsets and what the output loses without each."""
        trace = case.network_trace()
        removing = subsets.removing(
            trace,
            trace.cotangent(case.target),
            self.baseline,
            self.output_space,
            by_pixel=self._by_pixel,
        )
        size = self._size(removing.n_features)
        drawn = subsets.drawn(trace, removing.n_features, self.n_draws, size)
        return case.sharing(subsets=drawn, drops=removing.without(drawn), scale=removing.scale)

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return the correlation and its standard error, float64."""
        shared = case.shared
        per_feature = removal.relevance_of_features(
            relevance.double(), case.network_trace().inputs, by_pixel=self._by_pixel
        )
        sums = shared["subsets"].sums(per_feature)
        size = per_feature.abs().sum(dim=1)
        found, error = pearson(sums, shared["drops"], size, shared["scale"])
        finite = per_feature.isfinite().all(dim=1)
        nan = float("nan")
        return {
            "faithfulness_correlation": found.where(finite, nan),
            "faithfulness_correlation_error": error.where(finite, nan),
        }

    @property
    def _by_pixel(self) -> bool:
        return self.compat is None

    def _size(self, n_features: int) -> int:
        size = self.subset_size
        if size is None:
            size = _SHARE if self.compat is None else _QUANTUS_SIZE
        return whole_size("subset_size", size, n_features)


def check_size(name: str, size: float | None) -> None:
    """Refuse what is neither a number of features nor a share of them.

    Raises
    ------
    ValueError
        If it is not.
    """
    if size is None or (size >= 1 and float(size).is_integer()) or 0 < size < 1:
        return
    raise ValueError(f"got {name} {size!r}, expected a number of features, or a share below 1")


def whole_size(name: str, size: float, n_features: int) -> int:
    """Return how many features a size means, at least one.

    Raises
    ------
    ValueError
        If a sample has fewer; all of them make one subset only, which tells nothing.
    """
    n_members = max(1, round(size * n_features)) if size < 1 else int(size)
    if n_members >= n_features:
        raise ValueError(
            f"got {name} {size!r} of {n_features} features, expected fewer than there are"
        )
    return n_members
