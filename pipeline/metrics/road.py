"""Whether the network still knows what it sees without the most relevant pixels, filled in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from explainers import numeric
from explainers.sampling import chunks, counted
from pipeline.metrics import imputation, removal, sampled
from pipeline.metrics.metric import Case, Curve, Direction, Metric, register

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target

_PERCENTAGES = tuple(range(10, 100, 10))
_OF_QUANTUS = tuple(range(1, 100, 2))


@register("road")
@dataclass(frozen=True)
class Road(Metric):
    r"""Output of the target while pixels are removed and debiased (Rong et al. 2022).

    arXiv:2202.00449. Remove and debias: the most relevant pixels, with all their channels, are
    replaced by the weighted mean of their neighbours, found for all of them together (see
    `imputation`), and noise. A flat patch would tell the network which pixels went; these do not.
    Images of any number of channels; pixels are ordered by the sum of their relevance, ties by
    position.

    ``curve``, ``(batch, percentages + 1)``, is the output of the target, from nothing removed on;
    ``accuracy`` says at each step whether the largest output is that of the sample's label, 1 or
    0: its mean over samples is the paper's curve. It is NaN where there is no label. ``auc`` and
    ``accuracy_auc`` are their mean heights, by trapezoids over the share removed.

    Noise follows from seed, sample and step, and is the same for all explainers. The metric takes
    a forward pass and the solution of a sparse system of equations for each percentage and map.
    """

    percentages: tuple[float, ...] | None = None
    """Of the pixels that are removed, ascending, above 0 and below 100; 10, 20, ... 90 by default.
    A step that is less than a pixel removes none."""
    order: Literal["morf", "lerf"] = "morf"
    """Most relevant first (a low curve is good) or least relevant first (a high one)."""
    noise: float = 0.01
    """Standard deviation of what is added to filled-in values, in their own units."""
    output_space: Literal["probability", "logit"] = "probability"
    """What ``curve`` measures."""
    compat: Literal["quantus"] | None = None
    """``quantus``: that library's definition. Percentages are 1, 3, ... 99 by default, curves have
    no unperturbed point, and ``accuracy`` is whether the largest output is that of the class that
    was explained, whatever the label. That library looks at the first batch only and takes no
    images of several channels; both are as they should be here. Its order of ties is that of an
    unstable sort, and not reproduced."""

    family: ClassVar[str] = "faithfulness"
    headline: ClassVar[str] = "auc"
    returned: ClassVar[str] = "curve"
    requires: ClassVar[frozenset[str]] = frozenset({"network"})
    shares: ClassVar[frozenset[str]] = frozenset({"accuracy"})

    def __post_init__(self) -> None:
        """Refuse percentages that are none, or not in order."""
        numeric.check_finite("noise", self.noise)
        given = self._percentages
        if not given or list(given) != sorted(set(given)) or not 0 < given[0] <= given[-1] < 100:
            raise ValueError(
                f"got percentages {given!r}, expected some above 0 and below 100, ascending: of "
                "nothing, nothing can be filled in"
            )
        if self.compat == "quantus" and self.order != "morf":
            raise ValueError("got order 'lerf' with compat 'quantus', which removes morf only")

    @property
    def direction(self) -> Direction:
        """Low is good when the most relevant pixels go first."""
        return "lower" if self.order == "morf" else "higher"

    @property
    def space(self) -> Literal["probability", "logit"]:
        """The output space that was asked for."""
        return self.output_space

    def curves(self, shape: tuple[int, ...]) -> tuple[Curve, ...]:
        """Return both curves over the percentage of pixels that are removed."""
        x, label = self._x, "pixels removed, %"
        most = 1.0 if self.output_space == "probability" else math.inf
        least = 0.0 if self.output_space == "probability" else -math.inf
        height = f"mean {self.output_space}"
        return (
            Curve("curve", x, label, height, "auc", self.direction, (least, most)),
            Curve("accuracy", x, label, "accuracy", "accuracy_auc", self.direction, (0.0, 1.0)),
        )

    def check(self, network: Network | None, shape: tuple[int, ...], target: Target) -> None:
        """Refuse what is no image, and probabilities of one output."""
        self._check_shape(shape)
        if network is not None:
            removal.check_space(network.n_outputs, self.output_space)

    def prepare(self, case: Case) -> Case:
        """Share target weights, classes, seeds of noise, and outputs before anything is removed."""
        trace = case.network_trace()
        self._check_shape(tuple(trace.inputs.shape[1:]))
        removal.check_space(trace.output.shape[1], self.output_space)
        if not trace.inputs.is_floating_point():
            raise TypeError(
                f"got inputs of {trace.inputs.dtype}, expected floating-point numbers: {self.name} "
                "fills in means of neighbours"
            )
        weights = trace.cotangent(case.target)
        classes = weights.argmax(dim=1) if self.compat else sampled.labels(trace)
        return case.sharing(
            weights=weights,
            classes=classes,
            seeds=sampled.seeds(trace, "noise"),
            clean=removal.selected(trace.output, weights, self.output_space),
            hit=sampled.hits(trace.output, classes),
        )

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return both curves, ``(batch, steps)``, and their mean heights."""
        shared, trace = case.shared, case.network_trace()
        per_pixel = removal.relevance_of_features(relevance, trace.inputs, by_pixel=True)
        order = per_pixel.argsort(dim=1, descending=self.order == "morf", stable=True)
        curve, accuracy = self._removed(case, order)
        if self.compat is None:
            curve = torch.cat([shared["clean"][:, None], curve], dim=1)
            accuracy = torch.cat([shared["hit"][:, None], accuracy], dim=1)
        columns = {
            "curve": curve,
            "auc": self._height(curve),
            "accuracy": accuracy,
            "accuracy_auc": self._height(accuracy),
        }
        finite = per_pixel.isfinite().all(dim=1)
        return {
            name: column.where(finite if column.ndim == 1 else finite[:, None], math.nan)
            for name, column in columns.items()
        }

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 3:
            raise ValueError(
                f"got samples of shape {shape}, expected images (channel, height, width): "
                f"{self.name} fills in pixels from their neighbours"
            )

    def _removed(self, case: Case, order: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output and whether it is right at every percentage, ``(batch, steps)``."""
        inputs, shared = case.network_trace().inputs, case.shared
        limit, n_steps = removal.rows_at_once(inputs), len(self._percentages)
        values, hits = [shared["clean"].new_empty(0)], [shared["hit"].new_empty(0)]
        for piece in chunks.pieces(len(inputs), max(1, limit // n_steps)):
            images = self._filled(case, order[piece], piece).flatten(0, 1)
            sample = torch.arange(len(inputs), device=inputs.device)[piece]
            sample = sample.repeat_interleave(n_steps)
            for rows in chunks.pieces(len(images), limit):
                with torch.no_grad():
                    output = case.network_trace().network(images[rows])
                weights, classes = shared["weights"][sample[rows]], shared["classes"][sample[rows]]
                values.append(removal.selected(output, weights, self.output_space))
                hits.append(sampled.hits(output, classes))
        return torch.cat(values).view(-1, n_steps), torch.cat(hits).view(-1, n_steps)

    def _filled(self, case: Case, order: Tensor, piece: slice) -> Tensor:
        """Return images without pixels, ``(samples, steps, channels, height, width)``."""
        images = case.network_trace().inputs[piece]
        counts = tuple(int(order.shape[1] * each / 100) for each in self._percentages)
        filled = imputation.impute(images, order, counts)
        if not self.noise:
            return filled
        ends = torch.tensor(counts, device=order.device)
        is_gone = removal.places(order)[:, None] < ends[:, None]  # (samples, steps, pixels)
        step = torch.arange(len(counts), device=order.device)
        streams = counted.word(case.shared["seeds"][piece][:, None], step).flatten()
        noise = sampled.normal(streams, images[0].numel(), images.dtype).view_as(filled)
        is_gone = is_gone.view(*is_gone.shape[:2], 1, *images.shape[2:])
        return filled + torch.where(is_gone, noise * self.noise, 0.0)

    def _height(self, curve: Tensor) -> Tensor:
        """Return the mean height of curves, ``(batch,)``."""
        x = torch.tensor(self._x, dtype=curve.dtype, device=curve.device)
        if len(x) == 1:
            return curve[:, 0]
        return torch.trapezoid(curve, x, dim=1) / (x[-1] - x[0])

    @property
    def _percentages(self) -> tuple[float, ...]:
        if self.percentages is not None:
            return self.percentages
        return _PERCENTAGES if self.compat is None else _OF_QUANTUS

    @property
    def _x(self) -> tuple[float, ...]:
        return (*([] if self.compat else [0.0]), *(float(each) for each in self._percentages))
