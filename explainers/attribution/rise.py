"""How well the output does behind random soft masks that let a place through."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch

from explainers import numeric
from explainers.base import Cost, Explained
from explainers.catalogue import register
from explainers.perturbing.method import Perturbation
from explainers.perturbing.stopping import is_precise
from explainers.perturbing.valuation import Space, Valuation
from explainers.sampling import chunks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from explainers.network import Network
    from explainers.perturbing.fills import Fill
    from explainers.perturbing.valuation import Which
    from explainers.targets import Target
    from explainers.trace import Trace

LOOK = 256
"""Masks between two looks at the standard errors."""

ELEMENTS = 2**21
"""Values of masks that are held at once: 41 masks of 224 pixels a side."""


@register("rise")
@dataclass(frozen=True)
class Rise(Perturbation):
    """Mean output over random masks, weighted by what each lets through of a place.

    ``1 / (p N) * sum_k f(x * M_k + b * (1 - M_k)) M_k`` (Petsiuk, Das and Saenko 2018,
    arXiv:1806.07421): a mask is a grid of cells, each open with probability p, enlarged bilinearly
    by one cell more than the image has, and cut out at a random place. All samples of a run are
    seen through the same masks. The map has one number for each pixel, whatever the channels.
    ``standard_error``, shaped like it, is that of the mean over independent masks;
    ``n_evaluations``, ``(batch,)``, counts the forward passes that a sample took.
    """

    output: Space = "probability"
    """Whether outputs are explained as probabilities, as the authors do, or as they are."""
    n_evaluations: int = 4001
    """Forward passes of a sample: one as it is, and one behind each mask. The authors take 4000
    masks for VGG16 and 8000 for ResNet50."""
    cells: int = 7
    """Of the grid that becomes a mask, along height and width."""
    probability: float = 0.5
    """That a cell of the grid is open."""
    centre: bool = False
    """Whether the mean output is subtracted from each: maps then have no constant, which tells
    nothing of places, and far smaller errors."""
    tolerance: float | None = None
    """Stop for a sample when the root mean square of its standard errors is at most this times the
    root mean square of its map; looked at after every 256 masks."""
    features: None = field(default=None, init=False, repr=False)
    background: None = field(default=None, init=False, repr=False)

    tasks: ClassVar[frozenset[str]] = frozenset({"image"})
    stochastic = True

    def __post_init__(self) -> None:
        # with a single mask there is no error, and no mean to subtract
        numeric.check_whole("n_evaluations", self.n_evaluations, 3)
        numeric.check_whole("cells", self.cells)
        numeric.check_finite("probability", self.probability)
        if not 0 < self.probability < 1:
            raise ValueError(f"got probability={self.probability}, expected one between 0 and 1")
        if self.tolerance is not None:
            numeric.check_finite("tolerance", self.tolerance)

    @property
    def cost(self) -> Cost:
        """A forward for each mask, and that of the sample."""
        return Cost(forward=self.n_evaluations)

    @property
    def n_masks(self) -> int:
        """That every sample is seen through, unless it stops before."""
        return self.n_evaluations - 1

    def dims(self, input_shape: tuple[int, ...]) -> tuple[str, ...]:
        """Return height and width: a mask covers all channels."""
        return ("height", "width")

    def check(self, network: Network) -> None:
        """Refuse inputs that are not images, and probabilities of a single output."""
        super().check(network)
        shape = tuple(network.input_shape)
        if len(shape) != 3:
            raise ValueError(
                f"rise masks images, got inputs of shape (batch, {', '.join(map(str, shape))}), "
                "expected (batch, channels, height, width); use lime with features"
            )
        if self.cells > min(shape[1:]):
            raise ValueError(
                f"got cells={self.cells} along {min(shape[1:])} pixels, expected at most as many"
            )
        if self.output == "probability" and network.n_outputs < 2:
            raise ValueError(
                "got output='probability' of a network with one output, which is always 1; take "
                "output='logit'"
            )

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the map, ``(batch, height, width)``, ``standard_error`` and ``n_evaluations``."""
        valuation = Valuation(trace, target, space=self.output)
        masks, fill = Masks.of(self, trace), self.fill(trace)
        here = valuation.rows
        sums = Sums.zero(trace.inputs, n_products=4 if self.centre else 2)
        maps = trace.inputs.new_zeros(2, trace.n_rows, *trace.inputs.shape[2:])
        n_evaluations = torch.zeros_like(here)
        step = self.n_masks if self.tolerance is None else LOOK
        for first in range(0, self.n_masks, step):
            last = min(first + step, self.n_masks)
            for some in masks.pieces(first, last):
                drawn = masks.drawn(some)
                sums.add(_values(valuation, fill, drawn, here), drawn.flatten(1).double())
            mean, error = sums.centred() if self.centre else sums.plain()
            found = torch.stack([mean, error]) / self.probability
            maps[:, here] = found.view(2, len(here), *maps.shape[2:]).to(maps)
            n_evaluations[here] = 1 + last
            goes_on = ~is_precise(mean, error, self.tolerance)
            here, sums = here[goes_on], sums.of(goes_on)
            if not len(here):
                break
        arrays = {"standard_error": maps[1], "n_evaluations": n_evaluations}
        return Explained(maps[0], arrays)


def _values(valuation: Valuation, fill: Fill, masks: Tensor, rows: Tensor) -> Tensor:
    """Return the values of rows behind masks ``(masks, height, width)``, float64."""
    nothing_drawn = torch.zeros(1, dtype=torch.int64)

    def make(which: Which, some: slice) -> Tensor:
        absent = fill.at(valuation.rows[which], nothing_drawn)
        return torch.lerp(absent, valuation.inputs[which], masks[some, None, None])

    asked = None if len(rows) == valuation.n_rows else rows
    return valuation.values(len(masks), make, asked).double()


@dataclass(frozen=True, eq=False)
class Masks:
    """Soft masks, enlarged when they are asked for."""

    grids: Tensor
    """Which cells are open, ``(masks, cells, cells)``."""
    shifts: Tensor
    """Where masks are cut out, int64 ``(masks, 2)``."""
    down: Tensor
    """For each shift, what pixels have of cells, ``(shifts, height, cells)``."""
    across: Tensor
    """The same along the other axis, ``(shifts, width, cells)``."""

    @classmethod
    def of(cls, rise: Rise, trace: Trace) -> Masks:
        """Return the masks of a run."""
        inputs = trace.inputs
        down, across = (interpolation(size, rise.cells) for size in inputs.shape[2:])
        drawn = uniform(trace.shared_seed("masks"), rise.n_masks, 2 + rise.cells**2)
        grids = (drawn[:, 2:] < rise.probability).view(-1, rise.cells, rise.cells)
        n_shifts = torch.tensor([len(down), len(across)])
        shifts = (drawn[:, :2] * n_shifts).long().minimum(n_shifts - 1)
        return cls(grids.to(inputs), shifts.to(inputs.device), down.to(inputs), across.to(inputs))

    def pieces(self, first: int, last: int) -> Iterator[slice]:
        """Yield the masks that are held at once."""
        n_pixels = self.down.shape[1] * self.across.shape[1]
        for some in chunks.pieces(last - first, max(1, ELEMENTS // n_pixels)):
            yield slice(first + some.start, first + some.stop)

    def drawn(self, some: slice) -> Tensor:
        """Return masks, from 0 to 1, ``(masks, height, width)``."""
        down = self.down[self.shifts[some, 0]]
        across = self.across[self.shifts[some, 1]]
        return down @ self.grids[some] @ across.mT


@functools.lru_cache(maxsize=4)
def uniform(seed: int, n_masks: int, n_numbers: int) -> Tensor:
    """Return numbers from [0, 1), ``(masks, numbers)``; a mask's do not depend on how many follow.

    They are kept: do not change them.
    """
    return torch.rand(n_masks, n_numbers, generator=torch.Generator().manual_seed(seed))


@functools.lru_cache(maxsize=4)
def interpolation(size: int, cells: int) -> Tensor:
    """Return the share of cells in pixels, float64 ``(shifts, size, cells)``; do not change it.

    A cell is ``ceil(size / cells)`` pixels, of which the grid is enlarged to one more than it has;
    there is a shift for each pixel of a cell. Between centres of cells shares are linear, beyond
    the outermost constant, as torch's ``interpolate`` has them.
    """
    pixels = -(-size // cells)
    shifts = torch.arange(pixels, dtype=torch.float64)[:, None]
    places = shifts + torch.arange(size) + 0.5  # (shifts, size), in pixels of the enlarged grid
    centres = places * (cells / ((cells + 1) * pixels)) - 0.5
    centres = centres.clamp(0, cells - 1)[..., None]
    return (1 - (centres - torch.arange(cells)).abs()).clamp(min=0)


@dataclass(eq=False)
class Sums:
    """Sums over masks of products of values v and masks M, in float64, of some rows."""

    n_masks: int
    of_masks: Tensor
    """M and M^2, ``(2, pixels)``."""
    of_values: Tensor
    """v and v^2, ``(2, rows)``."""
    of_products: Tensor
    """v M and v^2 M^2, and v^2 M and v M^2 where they are wanted, ``(2 | 4, rows, pixels)``."""

    @classmethod
    def zero(cls, inputs: Tensor, n_products: int) -> Sums:
        """Return sums over nothing, for images ``(rows, channels, height, width)``."""
        n_rows, n_pixels = len(inputs), inputs[0, 0].numel()
        nothing = inputs.new_zeros(n_products, n_rows, n_pixels, dtype=torch.float64)
        return cls(0, nothing[:2, 0].clone(), nothing[:2, :, 0].clone(), nothing)

    def add(self, values: Tensor, masks: Tensor) -> None:
        """Add values ``(rows, masks)`` behind masks ``(masks, pixels)``."""
        values, masks = (torch.stack([one, one.square()]) for one in (values, masks))
        self.n_masks += masks.shape[1]
        self.of_masks += masks.sum(1)
        self.of_values += values.sum(2)
        self.of_products[:2].baddbmm_(values, masks)
        if len(self.of_products) == 4:
            self.of_products[2:].baddbmm_(values.flip(0), masks)

    def of(self, rows: Tensor) -> Sums:
        """Return the sums of some rows."""
        return Sums(self.n_masks, self.of_masks, self.of_values[:, rows], self.of_products[:, rows])

    def plain(self) -> tuple[Tensor, Tensor]:
        """Return the mean of v M and its standard error, ``(rows, pixels)`` each."""
        first, second = self.of_products[:2] / self.n_masks
        return first, self._error(second - first.square())

    def centred(self) -> tuple[Tensor, Tensor]:
        """Return the covariance of v and M and its standard error, ``(rows, pixels)`` each."""
        n_masks = self.n_masks
        mask, mask_square = self.of_masks / n_masks
        value, value_square = (self.of_values / n_masks)[..., None]
        both, squares, square, other = self.of_products / n_masks
        covariance = both - value * mask
        second = (
            squares
            - 2 * mask * square
            - 2 * value * other
            + 4 * value * mask * both
            + mask.square() * value_square
            + value.square() * mask_square
            - 3 * (value * mask).square()
        )
        error = self._error(second - covariance.square())
        return covariance * (n_masks / (n_masks - 1)), error

    def _error(self, variance: Tensor) -> Tensor:
        return (variance.clamp(min=0) / (self.n_masks - 1)).sqrt()
