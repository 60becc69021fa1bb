"""Directions: vectors in the space of a layer's channels, such as those of a probe or of a PCA."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from explainers.concepts.kinds.base import Concepts
from explainers.concepts.kinds.channels import axis_of_channels
from explainers.concepts.kinds.form import form_of
from explainers.concepts.kinds.reducing import reduced
from explainers.concepts.kinds.resolving import kinds

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.concepts.kinds.form import Form
    from explainers.concepts.scores import Scores
    from explainers.network import Network


@dataclass(frozen=True, eq=False, kw_only=True)
class Directions(Concepts):
    r"""Concepts that are vectors over the channels; positions are all other axes.

    With the directions :math:`v_k` as columns of :math:`V`, its pseudo-inverse :math:`V^+`, a value
    :math:`h` at a position and its relevance :math:`R = h \odot c + r`, where :math:`c` is 0 where
    :math:`h` is, and :math:`r` the relevance there, which some rules give to what is zero:

    - a direction is active by :math:`a_k = (V^+ h)_k`, its coordinate;
    - it has the relevance :math:`a_k\, (v_k \cdot c) + \sum_i V^+_{ki} v_{ki} r_i`;
    - of which channel :math:`i` gets :math:`V^+_{ki} (h_i\, (v_k \cdot c) + v_{ki} r_i)`, so that
      relevance of a channel at zero stays in the channel.

    For orthonormal directions this is Chormai et al. (2022, arXiv:2212.14855). Relevances of a
    complete set sum to :math:`R`; of others, what is orthogonal to all is left over, see `rest`.
    Coordinates depend on the other directions where they are not orthogonal.
    """

    needs_value: ClassVar[bool] = True
    form: Form
    """Of the operator's value."""
    axis: int
    """Of a sample, along which the channels lie."""
    directions: Tensor
    """Rows are directions, ``(n, channels)``."""
    inverse: Tensor
    """:math:`V^+`, ``(n, channels)``: times a value, its coordinates."""

    def scores(self, amounts: Tensor, value: Tensor | None = None) -> Scores:
        """Return sum, maximum and its position of coordinates, or of relevances."""
        if value is None:
            found = self._laid(amounts) @ self.inverse.to(amounts).mT
        else:
            held = self._laid(value)
            found = held @ self.inverse.to(held).mT
            found = found * self._along(amounts, value)
            found = found + self._unheld(amounts, value) @ self._own(held).mT
        return reduced(found.movedim(-1, 1), 1)

    def masked(self, relevance: Tensor, value: Tensor, chosen: Tensor) -> Tensor:
        """Return what the chosen directions give to each channel at each place."""
        along = self._along(relevance, value)
        kept = chosen.view(len(chosen), *[1] * (along.ndim - 2), self.n)
        given = torch.where(kept, along, along.new_zeros(())) @ self.inverse.to(along)
        shares = kept.to(along) @ self._own(along)
        given = self._laid(value) * given + self._unheld(relevance, value) * shares
        return self._unlaid(given)

    def at_positions(
        self,
        relevance: Tensor,
        value: Tensor,
        concept: Tensor,
        position: Tensor,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Return what directions give to the channels at single places; sums at a shared one."""
        if rows is None:
            rows = torch.arange(len(concept), device=concept.device)
        held = self._laid(value)
        place = (rows, *(torch.unravel_index(position, self.shape) if self.shape else ()))
        arrived, held_here = self._laid(relevance)[place], held[place]  # (neurons, channels)
        context = _context(arrived, held_here)
        along = (context * self.directions.to(held)[concept]).sum(-1, keepdim=True)
        given = held_here * self.inverse.to(held)[concept] * along
        given = given + _unheld(arrived, held_here) * self._own(held)[concept]
        found = torch.zeros_like(held)
        found.index_put_(place, given, accumulate=True)
        return self._unlaid(found)

    def rest(self, relevance: Tensor, value: Tensor) -> Tensor:
        """Return the relevance that no direction explains."""
        batch = self.form.samples(value).shape[0]
        chosen = torch.ones(batch, self.n, dtype=torch.bool, device=relevance.device)
        return relevance - self.masked(relevance, value, chosen)

    def _along(self, relevance: Tensor, value: Tensor) -> Tensor:
        """Return ``v_k . c`` at every place, ``(batch, *positions, n)``."""
        context = _context(self._laid(relevance), self._laid(value))
        return context @ self.directions.to(context).mT

    def _unheld(self, relevance: Tensor, value: Tensor) -> Tensor:
        """Return the relevance of channels at zero, ``(batch, *positions, channels)``."""
        return _unheld(self._laid(relevance), self._laid(value))

    def _own(self, like: Tensor) -> Tensor:
        """Return what of a channel's own relevance each direction has, ``(n, channels)``."""
        return self.inverse.to(like) * self.directions.to(like)

    def _laid(self, value: Tensor) -> Tensor:
        """Return a view ``(batch, *positions, channels)``."""
        return self.form.samples(value).movedim(self.axis + 1, -1)

    def _unlaid(self, laid: Tensor) -> Tensor:
        return self.form.value(laid.movedim(-1, self.axis + 1))


@kinds.register("directions")
def directions(network: Network, layer: str, matrix: Any) -> Directions:
    """Return given directions as the concepts of a layer.

    Parameters
    ----------
    network
        Must be a program.
    layer
        Whose channels the directions combine; see `explainers.concepts.kinds.channels`.
    matrix
        ``(directions, channels)``: a tensor, an array, nested lists, or the path of a ``.npy``
        file. Lengths matter for activations alone, not for relevances.

    Raises
    ------
    TypeError
        If it is no matrix of numbers.
    ValueError
        If it does not fit the layer, is not finite, a direction is zero, or the file cannot be
        read.
    """
    op = network.operator(layer)
    form = form_of(network, op.name, layer)
    axis = axis_of_channels(network, layer, form)
    rows = _matrix(matrix, layer)
    channels = form.shape[axis]
    if rows.ndim != 2 or rows.shape[1] != channels or not len(rows):
        raise ValueError(
            f"got directions of shape {tuple(rows.shape)} for layer {layer!r}, expected "
            f"(directions, {channels}): each a row with a number for every channel"
        )
    if not bool(rows.isfinite().all()) or not bool(rows.any(1).all()):
        raise ValueError(
            f"got directions for layer {layer!r} that are zero or not finite; leave them out"
        )
    return Directions(
        layer=layer,
        operator=op.name,
        n=len(rows),
        shape=tuple(size for place, size in enumerate(form.shape) if place != axis),
        form=form,
        axis=axis,
        directions=rows.to(network.device, form.dtype),
        inverse=torch.linalg.pinv(rows).mT.to(network.device, form.dtype).contiguous(),
    )


def _matrix(matrix: Any, layer: str) -> Tensor:
    """Return it in double precision, on the host: its inverse is found once."""
    if isinstance(matrix, str | os.PathLike):
        import numpy as np

        try:
            matrix = np.load(matrix, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(
                f"got directions {os.fspath(matrix)!r} for layer {layer!r}, expected a .npy file "
                f"with a matrix (directions, channels): {error}"
            ) from error
    try:
        return torch.as_tensor(matrix).detach().to("cpu", torch.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"got directions {matrix!r} for layer {layer!r}, expected a matrix (directions, "
            "channels) of numbers, or the path of a .npy file with one"
        ) from error


def _context(relevance: Tensor, value: Tensor) -> Tensor:
    """Return relevance per unit of a value; none where there is no value."""
    is_zero = value == 0
    return torch.where(is_zero, 0.0, relevance / torch.where(is_zero, 1.0, value))


def _unheld(relevance: Tensor, value: Tensor) -> Tensor:
    """Return the relevance where there is no value; none where there is one."""
    return torch.where(value == 0, relevance, 0.0)
