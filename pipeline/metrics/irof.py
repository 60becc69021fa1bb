"""How the output falls when superpixels are removed in the order of their relevance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from explainers.features.labels import Rows
from explainers.features.slic import Slic
from pipeline.metrics import removal
from pipeline.metrics.metric import Case, Curve, Direction, register
from pipeline.metrics.regions import RegionMetric

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.features.labels import Labels
    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace
    from pipeline.metrics.exchange import Exchange


@register("irof")
@dataclass(frozen=True)
class IROF(RegionMetric):
    r"""Area over the curve of the output while superpixels go (Rieger and Hansen 2020).

    Iterative removal of features, arXiv:2003.08747. An image is divided into L superpixels by
    SLIC; they are replaced by the mean colour cumulatively, those of the greatest mean relevance
    first, ties by their number. With the output f of the target,

    .. math:: \mathrm{IROF} = 1 - \int_0^1 \frac{f(x^{(l)})}{f(x^{(0)})} \, \mathrm{d}\frac{l}{L},

    by the trapezoid rule over all l from 0 to L. It is at most 1, and below 0 where outputs rise.
    The paper counts in superpixels, L times as much; of shares, images with more superpixels do not
    weigh more. ``aoc`` is the area; ``curve`` the ratio, between superpixels interpolated at
    `n_steps` even shares after 1, ``(batch, steps + 1)``, so that samples with different numbers
    of superpixels can be averaged. Where f is not positive at the sample there is no ratio, and
    the score is NaN. Superpixels are found once for all explainers; they need the extra
    ``superpixels``.
    """

    n_segments: int = 100
    """About how many superpixels there should be."""
    compactness: float = 10.0
    """Of SLIC, see `explainers.features.slic.Slic`."""
    sigma: float = 0.0
    """Width of the Gaussian that smooths the image before it is divided, in pixels."""
    n_steps: int = 32
    """Steps of the stored curve; `aoc` is of all superpixels."""
    baseline: removal.Absence = "mean"
    """What a removed superpixel becomes, as for `pixel_flipping`: a number, ``black``, ``white``,
    ``mean`` (of the channel in the same sample), ``uniform`` or ``{blur: sigma}``."""
    compat: Literal["quantus"] | None = None
    """``quantus``: that library's numbers with a ``batch_size`` of 1; in larger batches its
    baseline is that of all images and its area depends on the one with most superpixels. ``aoc``
    counts in superpixels and has no unperturbed point, a baseline is that of all channels and
    ``mean`` that of the image as it is after the steps before. Its superpixels of grey images are
    almost squares: lightness from 0 to 1 is compared by `compactness` as that of colours from 0
    to 100. Quantus itself takes images of one channel only."""

    headline: ClassVar[str] = "aoc"
    returned: ClassVar[str] = "aoc"
    by_mean: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse what SLIC does not take."""
        Slic(self.n_segments, self.compactness, self.sigma)
        removal.check_steps(self.n_steps, None)
        removal.check_absence(self.baseline)
        if self.compat == "quantus" and self.baseline != "mean":
            removal.check_quantus_absence(self.baseline)

    @property
    def direction(self) -> Direction:
        """A low curve, and so a great area over it, is good."""
        return "higher"

    def curves(self, shape: tuple[int, ...]) -> tuple[Curve, ...]:
        """Return the curve over the share of superpixels that are removed."""
        x = tuple((torch.arange(self.n_steps + 1) / self.n_steps).tolist())
        label = f"mean share of the {self.output_space}"
        return (Curve("curve", x, "share of superpixels removed", label, "aoc", "higher"),)

    def check(self, network: Network | None, shape: tuple[int, ...], target: Target) -> None:
        """Refuse what has no superpixels, and what cannot be removed."""
        removal.check(network, shape, self.output_space, self.baseline)
        self._slic(shape).labels(shape, None)

    def prepare(self, case: Case) -> Case:
        """Share the superpixels, the mean colour, and the outputs before and after all go."""
        by_pixel = self.compat is None
        return self._shared(case, removal.absent(case.network_trace(), self.baseline, by_pixel))

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return ``aoc`` and ``curve``."""
        exchange, counts = case.shared["exchange"], case.shared["counts"]
        places, is_finite = self._places(case, relevance)
        if self.compat == "quantus" and self.baseline == "mean":
            exchange = _drifting(exchange, places, counts)
        outputs = _outputs(exchange, places, counts)
        counts = counts.to(outputs.device)
        is_defined = is_finite & (outputs[:, 0] > 0)
        ratio = (outputs / outputs[:, :1]).where(is_defined[:, None], torch.nan)
        curve = _at_shares(ratio, counts, self.n_steps)
        area = ratio.sum(dim=1) - (ratio[:, 0] + ratio.gather(1, counts[:, None])[:, 0]) / 2
        if self.compat is None:
            return {"aoc": 1 - area / counts, "curve": curve}
        area = area - (ratio[:, 0] + ratio[:, 1]) / 2
        return {"aoc": counts - area, "curve": curve}

    def _slic(self, shape: tuple[int, ...]) -> Slic:
        scale = 100.0 if self.compat == "quantus" and shape[0] != 3 else 1.0
        return Slic(self.n_segments, self.compactness * scale, self.sigma)

    def _labels(self, trace: Trace) -> Labels:
        shape = tuple(trace.inputs.shape[1:])
        rows = Rows(trace.inputs, trace.inputs, "", trace.who().index, trace.samples is not None)
        labels = self._slic(shape).labels(shape, rows)
        if labels is None:
            raise RuntimeError("superpixels were not found for a batch; please report this")
        return labels


def _drifting(exchange: Exchange, places: Tensor, counts: Tensor) -> Exchange:
    """Return the exchange for the mean of what is left and what was filled in before, each time.

    Parameters as for `_outputs`.
    """
    values = exchange.start.to(torch.float64)  # (batch, channels, features)
    n_values = values[0].numel()
    sums = values.new_zeros(len(values), int(counts.max()))
    sizes = torch.zeros_like(sums)
    sums.scatter_add_(1, places.long(), values.sum(dim=1))
    sizes.scatter_add_(1, places.long(), torch.full_like(values[:, 0], values.shape[1]))
    total, fills = values.sum(dim=(1, 2)), torch.empty_like(sums)
    for step in range(sums.shape[1]):
        fills[:, step] = total / n_values
        total = total - sums[:, step] + sizes[:, step] * fills[:, step]
    end = fills.gather(1, places.long())[:, None].to(exchange.start).expand_as(exchange.start)
    with torch.no_grad():
        output = exchange.trace.network(end.reshape(exchange.trace.inputs.shape))
    last = removal.selected(output, exchange.weights, exchange.space)
    return replace(exchange, end=end, last=last)


def _outputs(exchange: Exchange, places: Tensor, counts: Tensor) -> Tensor:
    """Return what is explained after each superpixel, ``(batch, most + 1)``; 0 beyond a row's.

    Parameters
    ----------
    exchange
        Samples and what removed superpixels become.
    places
        When each feature goes, ``(batch, features)``.
    counts
        Superpixels of each sample, int64 ``(batch,)``, on the host.
    """
    step = torch.arange(int(counts.max()) + 1).expand(len(counts), -1)
    is_inner = (step > 0) & (step < counts[:, None])
    sample = torch.arange(len(counts))[:, None].expand_as(step)
    found = exchange.first.new_zeros(step.shape)
    device = found.device
    found[is_inner.to(device)] = exchange.outputs(places, sample[is_inner], step[is_inner])
    found[:, 0] = exchange.first
    return found.scatter(1, counts[:, None].to(device), exchange.last[:, None])


def _at_shares(curve: Tensor, counts: Tensor, n_steps: int) -> Tensor:
    """Return curves over ``counts`` steps each, interpolated at even shares of them."""
    at = torch.arange(n_steps + 1, device=curve.device) * counts[:, None]  # in n_steps-ths
    before = at // n_steps
    part = (at % n_steps).to(curve.dtype) / n_steps
    after = (before + 1).minimum(counts[:, None])
    return curve.gather(1, before).lerp(curve.gather(1, after), part)
