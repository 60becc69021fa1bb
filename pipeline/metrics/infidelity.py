"""How well relevance, as a linear model, foretells what the output does when inputs change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from explainers import numeric
from pipeline.metrics import perturbations, removal, subsets
from pipeline.metrics.correlation import rounding
from pipeline.metrics.metric import Direction, Metric, register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace
    from pipeline.metrics.metric import Case
    from pipeline.metrics.perturbations import Perturbations


@register("infidelity")
@dataclass(frozen=True)
class Infidelity(Metric):
    r"""Squared error of relevance as a linear model of changes of the output (Yeh et al. 2019).

    arXiv:1901.09392. With changes I of the input,

    .. math:: \mathrm{INFD} = E_I \big( I^\top r - (f(x) - f(x - I)) \big)^2,

    0 or more, in squared units of the output. ``infidelity_error`` is the Monte-Carlo standard
    error over the draws. The error depends on the map's scale, in which methods differ by
    convention: ``scaled_infidelity`` is that of the map times its best factor :math:`\beta =
    E(I^\top r\, \Delta) / E(I^\top r)^2`, and ``relative_infidelity`` that as a share of
    :math:`E \Delta^2`, what a map of zeros has, from 0 to 1; NaN where no change changes the
    output. A map of zeros scores :math:`E \Delta^2` itself.

    Changes follow from seed and sample; all explainers are judged by the same, and their
    ``n_draws`` forward passes are made once. Where relevance was summed over the channels of a
    pixel, each channel counts with an equal share of it.
    """

    noise: Literal["square", "gaussian", "noisy_baseline"] | None = None
    """``square``: a square of an image becomes the baseline. ``gaussian``: I is Gaussian noise.
    ``noisy_baseline``: everything becomes the baseline with Gaussian noise. Squares for images
    and Gaussian noise elsewhere by default."""
    n_draws: int = 100
    """Changes of each sample, at least 2."""
    square: int | None = None
    """Side of a square in pixels; a quarter of the image's shorter side by default. With `compat`
    the side of a patch, 4 by default."""
    std: float = 0.2
    """Standard deviation of Gaussian noise, as a share of the sample's range."""
    baseline: removal.Absence = "black"
    """What is put in: a number, ``black``, ``white``, ``mean``, ``uniform`` or ``{blur: sigma}``,
    as for `pixel_flipping`."""
    attribution: Literal["local", "global"] = "local"
    """``local``: the map is taken for a gradient, as in the formula. ``global``: it is taken for
    contributions, in which the input is a factor already (Ancona et al. 2018, arXiv:1711.06104):
    what counts is the relevance of what is removed, :math:`\\sum_{i \\in S} r_i` in place of
    :math:`I^\\top r`. Of squares only."""
    output_space: Literal["probability", "logit"] = "logit"
    """What is measured."""
    compat: Literal["quantus"] | None = None
    """``quantus``: that library's definition, in which nothing is drawn. The patches of a grid
    become the baseline one after the other, and stay so; black is the least value of the sample,
    and a sum over channels stands for each of them. Sides must divide the image's."""

    family: ClassVar[str] = "faithfulness"
    headline: ClassVar[str] = "infidelity"
    requires: ClassVar[frozenset[str]] = frozenset({"network"})
    directions: ClassVar[Mapping[str, Direction]] = {
        "scaled_infidelity": "lower",
        "relative_infidelity": "lower",
    }

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        numeric.check_whole("n_draws", self.n_draws, 2)
        numeric.check_finite("std", self.std)
        removal.check_absence(self.baseline)
        if self.compat:
            removal.check_quantus_absence(self.baseline)
        if self.square is not None:
            numeric.check_whole("square", self.square)
        if self.attribution == "global" and self.noise not in (None, "square"):
            raise ValueError(
                f"got attribution 'global' with noise {self.noise!r}, which removes nothing; "
                "expected noise 'square'"
            )
        if self.compat and (self.noise is not None or self.attribution != "local"):
            raise ValueError(
                "got noise or attribution with compat 'quantus', which has patches and gradients"
            )

    @property
    def direction(self) -> Direction:
        """Little error is good."""
        return "lower"

    @property
    def space(self) -> Literal["probability", "logit"]:
        """The output space that was asked for."""
        return self.output_space

    def check(self, network: Network | None, shape: tuple[int, ...], target: Target) -> None:
        """Refuse squares that do not fit, and what cannot be removed."""
        removal.check(network, shape, self.output_space, self.baseline)
        self._check_changes(shape)

    def prepare(self, case: Case) -> Case:
        """Share changes and what they do to the output."""
        trace = case.network_trace()
        weights = trace.cotangent(case.target)
        removal.check_space(trace.output.shape[1], self.output_space)
        changes = self._changes(trace)
        clean = removal.selected(trace.output, weights, self.output_space)
        limit = removal.rows_at_once(trace.inputs)
        found = [clean.new_empty(0)]
        for row in changes.rows(limit):
            sample = row // changes.n_draws
            with torch.no_grad():
                output = trace.network(changes.changed(row))
            values = removal.selected(output, weights[sample], self.output_space)
            found.append(clean[sample] - values)
        drops = torch.cat(found).view(-1, changes.n_draws)
        least = rounding(subsets.scale_of(trace, self.output_space)).double().square()
        return case.sharing(changes=changes, drops=drops.double(), least=least)

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return the error with its standard error, that of the scaled map, and its share."""
        inputs, drops = case.network_trace().inputs, case.shared["drops"]
        values = _of_values(relevance.double(), inputs, is_shared=self.compat is None)
        foretold = case.shared["changes"].products(values, is_local=self.attribution == "local")
        error = (foretold - drops).square()
        columns = {"infidelity": error.mean(dim=1)}
        if self.compat is None:
            columns["infidelity_error"] = error.std(dim=1) / math.sqrt(self.n_draws)
        columns |= _scaled(foretold, drops, case.shared["least"])
        finite = values.flatten(1).isfinite().all(dim=1)
        return {name: column.where(finite, math.nan) for name, column in columns.items()}

    def _changes(self, trace: Trace) -> Perturbations:
        inputs = trace.inputs
        if not inputs.is_floating_point():
            raise TypeError(
                f"got inputs of {inputs.dtype}, expected floating-point numbers: "
                f"{self.name} changes them by amounts"
            )
        side = self._check_changes(tuple(inputs.shape[1:]))
        blank = self._blank(trace)
        if side:
            if self.compat:
                return perturbations.patches(inputs, blank, side)
            return perturbations.squares(trace, blank, self.n_draws, side)
        noise = self.noise or "gaussian"
        centre = inputs if noise == "gaussian" else blank
        return perturbations.gaussian(trace, centre, self.n_draws, self.std)

    def _check_changes(self, shape: tuple[int, ...]) -> int:
        """Return the side of what is removed of samples of a shape; 0 where noise is added."""
        is_image = len(shape) == 3
        has_squares = (self.noise or ("square" if is_image else "gaussian")) == "square"
        if not (has_squares or self.compat or self.attribution == "global"):
            return 0
        if not is_image:
            raise ValueError(
                f"got samples of shape {shape}, expected images (channel, height, width): squares "
                "are removed; set `noise: gaussian`"
            )
        if self.compat:
            return perturbations.dividing(self.square or 4, shape)
        return perturbations.within(self.square or max(1, min(shape[1:]) // 4), shape)

    def _blank(self, trace: Trace) -> Tensor:
        """Return the baseline, shaped as the inputs."""
        by_pixel = self.compat is None
        features = removal.features(trace.inputs, by_pixel=by_pixel)
        absent = removal.absent(trace, self.baseline, by_pixel)
        return absent.expand_as(features).reshape(trace.inputs.shape)


def _of_values(relevance: Tensor, inputs: Tensor, *, is_shared: bool) -> Tensor:
    """Return the relevance of every value, shaped as the inputs."""
    # refuses maps that do not fit
    removal.relevance_of_features(relevance, inputs, by_pixel=False)
    if relevance.shape == inputs.shape:
        return relevance
    n_channels = inputs.shape[1] if is_shared else 1
    values = relevance.reshape(len(inputs), 1, *inputs.shape[2:])
    return values.expand(inputs.shape) / n_channels


def _scaled(foretold: Tensor, drops: Tensor, least: Tensor) -> dict[str, Tensor]:
    """Return the error of the map times its best factor, and its share of that without a map.

    A square of drops of `least` or below is rounding, of which there is no share.
    """
    own, without = foretold.square().mean(dim=1), drops.square().mean(dim=1)
    factor = (foretold * drops).mean(dim=1) / own.where(own > 0, 1.0)
    scaled = (factor[:, None] * foretold - drops).square().mean(dim=1)
    share = (scaled / without.where(without > 0, 1.0)).clamp(0.0, 1.0)
    return {
        "scaled_infidelity": scaled,
        "relative_infidelity": share.where(without > least, math.nan),
    }
