"""Changes of inputs, many of each sample, and what a map says of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from explainers.sampling import chunks, counted
from pipeline.metrics import sampled
from pipeline.metrics.subsets import MOST_KEPT, products

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from explainers.trace import Trace


@dataclass(frozen=True, eq=False)
class Perturbations(ABC):
    """Changes of each sample of a batch; a row is number ``sample * draws + draw``."""

    inputs: Tensor
    """``(batch, ...)``."""
    n_draws: int
    """Changes of each sample."""

    def rows(self, limit: int) -> Iterator[Tensor]:
        """Yield the numbers of all changes in order, `limit` at a time."""
        n_rows = len(self.inputs) * self.n_draws
        for start in range(0, n_rows, limit):
            yield torch.arange(start, min(start + limit, n_rows), device=self.inputs.device)

    @abstractmethod
    def changed(self, row: Tensor) -> Tensor:
        """Return changed inputs, ``(rows, ...)``."""

    @abstractmethod
    def products(self, relevance: Tensor, *, is_local: bool) -> Tensor:
        """Return what a map says of each change, float64 ``(batch, draws)``.

        Parameters
        ----------
        relevance
            Float64, shaped as the inputs.
        is_local
            Whether relevance is weighed by how much its value changes, or by whether it does.
        """


@dataclass(frozen=True, eq=False)
class Boxes(Perturbations):
    """Rectangles of images become a baseline."""

    blank: Tensor
    """The baseline, shaped as the inputs."""
    top: Tensor
    """First row of each, int64 ``(batch, draws)``."""
    left: Tensor
    height: int
    width: int

    def changed(self, row: Tensor) -> Tensor:
        """Return images with a rectangle replaced."""
        sample = row // self.n_draws
        y = torch.arange(self.inputs.shape[2], device=row.device)[:, None]
        x = torch.arange(self.inputs.shape[3], device=row.device)
        top, left = (each.flatten()[row][:, None, None] for each in (self.top, self.left))
        is_in = (y >= top) & (y < top + self.height) & (x >= left) & (x < left + self.width)
        return torch.where(is_in[:, None], self.blank[sample], self.inputs[sample])

    def products(self, relevance: Tensor, *, is_local: bool) -> Tensor:
        """Return sums over rectangles, from those over everything above and left of a corner."""
        values = relevance
        if is_local:
            values = relevance * (self.inputs - self.blank).double()
        corners = pad(values.sum(dim=1), (1, 0, 1, 0)).cumsum(dim=1).cumsum(dim=2)
        row = torch.arange(len(values), device=values.device)[:, None]
        bottom, right = self.top + self.height, self.left + self.width
        return (
            corners[row, bottom, right]
            - corners[row, self.top, right]
            - corners[row, bottom, self.left]
            + corners[row, self.top, self.left]
        )


@dataclass(frozen=True, eq=False)
class Patches(Perturbations):
    """The patches of a grid become a baseline one after the other, and stay so."""

    blank: Tensor
    """The baseline, shaped as the inputs."""
    order: Tensor
    """Number of the patch that each pixel belongs to, int64 ``(height, width)``."""

    def changed(self, row: Tensor) -> Tensor:
        """Return images of which some patches are left."""
        sample, last = row // self.n_draws, row % self.n_draws
        is_gone = self.order <= last[:, None, None]
        return torch.where(is_gone[:, None], self.blank[sample], self.inputs[sample])

    def products(self, relevance: Tensor, *, is_local: bool) -> Tensor:
        """Return sums over the patches that are gone."""
        values = relevance
        if is_local:
            values = relevance * (self.inputs - self.blank).double()
        sums = values.new_zeros(len(values), self.n_draws)
        of_pixels = values.sum(dim=1).flatten(1)
        sums.scatter_add_(1, self.order.flatten().expand_as(of_pixels), of_pixels)
        return sums.cumsum(dim=1)


@dataclass(frozen=True, eq=False)
class Gaussian(Perturbations):
    """Samples become a centre with Gaussian noise."""

    centre: Tensor
    """Shaped as the inputs."""
    std: Tensor
    """Of each sample's noise, ``(batch, 1)``."""
    seeds: Tensor
    """Of the samples, int64 ``(batch,)``."""
    kept: Tensor | None = None
    """Changed inputs, ``(batch * draws, ...)``, where these take little memory."""

    def changed(self, row: Tensor) -> Tensor:
        """Return centres with noise; the same for the same row."""
        if self.kept is not None:
            return self.kept[row]
        sample = row // self.n_draws
        streams = counted.word(self.seeds[sample], row % self.n_draws)
        noise = sampled.normal(streams, self.inputs[0].numel(), self.inputs.dtype)
        return self.centre[sample] + (noise * self.std[sample]).view(-1, *self.inputs.shape[1:])

    def products(self, relevance: Tensor, *, is_local: bool) -> Tensor:
        """Return products of relevance and change.

        Raises
        ------
        ValueError
            If relevance is of what is removed: noise removes nothing.
        """
        if not is_local:
            raise ValueError("got maps of contributions, expected gradients: noise removes nothing")
        of_samples, inputs = relevance.flatten(1), self.inputs.flatten(1)
        if self.kept is not None:
            changed = self.kept.reshape(len(inputs), self.n_draws, -1)
            clean = (of_samples * inputs).sum(dim=1, keepdim=True)
            return clean - products(changed, of_samples)
        found = [relevance.new_empty(0)]
        for row in self.rows(chunks.rows_at_once(self.inputs)):
            sample = row // self.n_draws
            change = inputs[sample] - self.changed(row).flatten(1)
            found.append((of_samples[sample] * change).sum(dim=1))
        return torch.cat(found).view(-1, self.n_draws)


def within(side: int, shape: tuple[int, ...]) -> int:
    """Return the side of squares in images ``(channel, height, width)``.

    Raises
    ------
    ValueError
        If a square is larger than the image.
    """
    height, width = shape[1:]
    if side > min(height, width):
        raise ValueError(
            f"got squares of {side} pixels in images of {height} x {width}, expected smaller ones; "
            "set `square`"
        )
    return side


def dividing(side: int, shape: tuple[int, ...]) -> int:
    """Return the side of patches of images ``(channel, height, width)``.

    Raises
    ------
    ValueError
        If patches do not fill the image.
    """
    height, width = shape[1:]
    if height % side or width % side:
        raise ValueError(
            f"got patches of {side} pixels in images of {height} x {width}, expected a side that "
            "divides both; set `square`"
        )
    return side


def squares(trace: Trace, blank: Tensor, n_draws: int, side: int) -> Boxes:
    """Return squares at random places, all within the image; of a side that is `within` it."""
    height, width = trace.inputs.shape[2:]
    numbers = counted.uniform(sampled.seeds(trace, "squares"), 2 * n_draws, torch.float64)
    top, left = numbers.view(-1, n_draws, 2).unbind(dim=2)
    return Boxes(
        trace.inputs,
        n_draws,
        blank,
        (top * (height - side + 1)).long(),
        (left * (width - side + 1)).long(),
        side,
        side,
    )


def patches(inputs: Tensor, blank: Tensor, side: int) -> Patches:
    """Return the patches of a grid, row by row; of a side that is `dividing` the image's."""
    height, width = inputs.shape[2:]
    y = torch.arange(height, device=inputs.device)[:, None] // side
    x = torch.arange(width, device=inputs.device) // side
    n_across = width // side
    return Patches(inputs, height // side * n_across, blank, y * n_across + x)


def gaussian(trace: Trace, centre: Tensor, n_draws: int, share: float) -> Gaussian:
    """Return centres with noise of a share of each sample's range."""
    low, high = trace.inputs.flatten(1).aminmax(dim=1, keepdim=True)
    seeds = sampled.seeds(trace, "noise")
    made = Gaussian(trace.inputs, n_draws, centre, (high - low) * share, seeds)
    if trace.inputs.numel() * trace.inputs.element_size() * n_draws > MOST_KEPT:
        return made
    parts = [made.changed(row) for row in made.rows(chunks.rows_at_once(trace.inputs))]
    # inputs that were permuted lie otherwise in memory
    kept = torch.cat(parts).contiguous() if parts else None
    return Gaussian(trace.inputs, n_draws, centre, made.std, seeds, kept)
