"""What the output loses when a window of the input is covered."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch

from explainers import explaining, numeric
from explainers.base import Cost, Explained
from explainers.catalogue import register
from explainers.cut import Cut
from explainers.inputs.sources import sources
from explainers.perturbing.method import Perturbation
from explainers.perturbing.valuation import Valuation
from explainers.regions import Boxes, values_without
from explainers.regions.boxes import Intervals

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace

Convention = Literal["captum", "deepexplain"]
Channels = Literal["together", "apart"]
_PER_SIDE = 14
"""Windows along each side of a picture by default: 16 pixels of 224, or 2 of a digit."""


@register("occlusion")
@dataclass(frozen=True)
class Occlusion(Perturbation):
    """Output at the sample minus output with a window covered, for windows all over the input.

    With ``d(w) = f(x) - f(x with window w at the baseline)``, the relevance of a value under
    windows ``W`` is, by `convention`,

    - ``captum``: ``sum over w in W of d(w) / |W|``: each window gives all that it loses to every
      value under it (a sum, where one window covers a value), and overlapping windows are averaged;
    - ``deepexplain``: ``sum over w in W of d(w) / sum over w in W of size(w)``: each window shares
      what it loses among its values, an average per element.

    Of a token, every value of the embedding has an equal part. What no window covers has relevance
    0; where there are such values, the array ``uncovered``, ``(batch,)``, says how many, and
    `notes` say it before a run. Zeiler and Fergus 2014, arXiv:1311.2901; Captum's Occlusion;
    DeepExplain's occlusion, Ancona et al. 2018, arXiv:1711.06104. Of the program, only what a
    window can reach is recomputed: see `explainers.regions`.
    """

    window: int | list[int | None] | None = None
    """Size of the window: a number for all axes but the channels (the embedding, for tokens), or
    one for each of these, or one for each axis of the input, null for all of an axis. By default a
    fourteenth of each side of a picture, otherwise 1."""
    stride: int | list[int] | None = None
    """From one window to the next, for all axes or each as in `window`; by default the window's
    size, so that windows do not overlap."""
    channels: Channels = "together"
    """Whether a window covers all channels, or one alone, where `window` does not say it."""
    convention: Convention = "captum"
    """How windows make up a map, and whether they end where the input does: ``captum`` cuts the
    last off there, ``deepexplain`` leaves out what does not fit."""
    # windows are the features, and each is covered in one way alone
    features: None = field(default=None, init=False, repr=False)
    background: None = field(default=None, init=False, repr=False)

    needs: ClassVar[Mapping[str, str]] = {"statistics": "moments"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deepexplain": {
            "window": 1,
            "stride": 1,
            "channels": "apart",
            "baseline": 0.0,
            "convention": "deepexplain",
        }
    }

    def __post_init__(self) -> None:
        for name, given in (("window", self.window), ("stride", self.stride)):
            for each in given if isinstance(given, Sequence) else [given]:
                if each is not None:
                    numeric.check_whole(name, each)
        for name, word, known in (
            ("convention", self.convention, get_args(Convention)),
            ("channels", self.channels, get_args(Channels)),
        ):
            if word not in known:
                raise ValueError(f"got {name}={word!r}, expected one of {', '.join(known)}")

    @property
    def cost(self) -> Cost:
        """A forward for each window, and that of the sample."""
        return Cost(forward=math.nan)

    def cost_on(self, network: Network) -> Cost:
        """Return a forward for each window, and that of the sample."""
        return Cost(forward=1 + len(self.boxes(network)))

    def check(self, network: Network) -> None:
        """Refuse windows and baselines that do not fit the input."""
        super().check(network)
        self.boxes(network)

    def briefer(self, network: Network) -> Iterator[Mapping[str, Any]]:
        """Yield windows that cover half of each axis."""
        halves = [(size + 1) // 2 for size in network.input_shape]
        yield {"window": halves, "stride": None}

    def notes(self, network: Network) -> tuple[str, ...]:
        """Return how many values no window covers, if any."""
        seen = network if isinstance(network, Cut) else explaining.seen_by(self, network)
        n_uncovered, n_values = _uncovered(self.boxes(seen), seen)
        return (_told(n_uncovered, n_values),) if n_uncovered else ()

    def boxes(self, network: Network) -> Boxes:
        """Return the windows on an input of a network.

        Raises
        ------
        NotImplementedError
            If there are several inputs.
        ValueError
            If a window is larger than the input, or has another number of axes.
        """
        if isinstance(network, Cut) and len(network.points) > 1:
            raise NotImplementedError(
                f"windows slide over one input, and there are {len(network.points)}: "
                f"{', '.join(point.layer for point in network.points)}; use feature_ablation"
            )
        shape = tuple(network.input_shape)
        sliding = _sliding(network)
        windows = self._windows(shape, sliding)
        strides = _per_axis("stride", self.stride, windows, shape, sliding)
        is_clipped = self.convention == "captum"
        return Boxes(
            tuple(
                Intervals.sliding(size, window, stride, is_clipped=is_clipped)
                for size, window, stride in zip(shape, windows, strides, strict=True)
            )
        )

    def _windows(self, shape: tuple[int, ...], sliding: range) -> list[int]:
        """Return the size of the window along each axis."""
        others = shape if self.channels == "together" else (1,) * len(shape)
        default: int | list[int] | None = self.window  # type: ignore[assignment]
        if self.window is None:
            is_picture = len(shape) > 2
            default = [max(1, round(shape[a] / _PER_SIDE)) if is_picture else 1 for a in sliding]
        windows = _per_axis("window", default, others, shape, sliding)
        for size, window in zip(shape, windows, strict=True):
            if window > size:
                raise ValueError(
                    f"got a window of {tuple(windows)} on inputs of {shape}, expected one that fits"
                )
        return windows

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the map, ``n_evaluations`` and, where there are any, ``uncovered``."""
        boxes = self.boxes(trace.network)
        valuation = Valuation(trace, target, space=self.output)
        values = values_without(valuation, boxes, self.fill(trace))
        relevance = self._map(valuation.full[:, None] - values, boxes, trace.network)
        arrays = {"n_evaluations": torch.full_like(valuation.rows, 1 + len(boxes))}
        n_uncovered, n_values = _uncovered(boxes, trace.network)
        if n_uncovered:
            warnings.warn(_told(n_uncovered, n_values), UserWarning, stacklevel=2)
            arrays["uncovered"] = torch.full_like(valuation.rows, n_uncovered)
        return Explained(relevance, arrays)

    def _map(self, lost: Tensor, boxes: Boxes, network: Network) -> Tensor:
        coverage = boxes.coverage().clamp(min=1).to(lost)
        if self.convention == "deepexplain":
            lost = lost / boxes.sizes.to(lost)
        elif _is_embedding(network):
            lost = lost / boxes.axes[-1].stops[0]
        return boxes.summed(lost) / coverage


def _uncovered(boxes: Boxes, network: Network) -> tuple[int, int]:
    """Return how many values, or tokens, no window covers, and how many there are."""
    each = boxes.shape[-1] if _is_embedding(network) else 1
    return boxes.n_uncovered // each, math.prod(boxes.shape) // each


def _told(n_uncovered: int, n_values: int) -> str:
    return (
        f"no window covers {n_uncovered} of the {n_values} values of a sample: their relevance is "
        "set to 0; take a stride of at most the window, and convention: captum to go on until the "
        "border"
    )


def _sliding(network: Network) -> range:
    """Return the axes of a sample along which a window slides by itself."""
    n_axes = len(network.input_shape)
    if n_axes == 1:
        return range(1)
    return range(n_axes - 1) if _is_embedding(network) else range(1, n_axes)


def _is_embedding(network: Network) -> bool:
    """Whether the input is the embedding of tokens, whose relevance is summed."""
    if not isinstance(network, Cut) or not network.points:
        return False
    embeddings = {name for each in sources(network) if each.lookups for name in each.points}
    return network.points[0].layer in embeddings


def _per_axis(
    name: str,
    given: int | Sequence[int | None] | None,
    others: Sequence[int],
    shape: tuple[int, ...],
    sliding: range,
) -> list[int]:
    """Return a number for each axis of a sample, that of `others` where it is not given."""
    found = list(others)
    if given is None:
        return found
    if not isinstance(given, Sequence):
        given = [given] * len(sliding)
    axes = range(len(shape)) if len(given) == len(shape) else sliding
    if len(given) != len(axes):
        expected = f"{len(sliding)} or {len(shape)}" if len(sliding) < len(shape) else len(shape)
        raise ValueError(
            f"got {name}={list(given)} for inputs of shape {shape}, expected a number or "
            f"{expected} of them"
        )
    for axis, number in zip(axes, given, strict=True):
        if number is not None:
            found[axis] = int(number)
        elif name == "window":
            found[axis] = shape[axis]
    return found
