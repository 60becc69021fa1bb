"""How much a layer's outputs change when weights that read a neuron are set."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from explainers.causal.interventions.rows import place_of
from explainers.operators import Convolution

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.causal.interventions.rows import Place
    from explainers.causal.interventions.stack import Pairs, Reference
    from explainers.causal.structure import WeightedLayer
    from explainers.network import Network


class Change:
    """The change of a layer's outputs under ``do(n, u)``.

    ``z'[e] = z[e] + scale_e sum_f (u - W[e, f]) a[f]`` over the features f of neuron n, at every
    place and, of a convolution, every tap; the weights are those before a norm that was folded.

    Parameters
    ----------
    network
        A program.
    layer
        Of it.

    Raises
    ------
    NotImplementedError
        See `places_of`.
    """

    def __init__(self, network: Network, layer: WeightedLayer) -> None:
        self.layer, self.operator = layer, layer.operator
        self.place, self.source_place = places_of(network, layer)
        self.is_convolution = isinstance(layer.operator, Convolution)
        self.weight = _by_output(layer)
        norm = layer.norm
        self.scale = None if norm is None or norm.scale is None else norm.scale.flatten()
        self.features, self.is_feature = _features(layer)
        self._reach = self._reached()
        self._touched: dict[float, Tensor] = {}

    @cached_property
    def kinds(self) -> tuple[Tensor, Tensor]:
        """Which outputs read neurons at all, bool ``(kinds, n_outputs)``, and the kind of each."""
        if self.layer.groups == 1:
            every = self._reach.new_ones(1, self.layer.n_outputs)
            return every, self.features.new_zeros(self.layer.n_neurons)
        kinds, of_neuron = torch.unique(self._reach.mT, dim=0, return_inverse=True)
        return kinds, of_neuron

    def touched(self, u: float | Tensor) -> Tensor:
        """Return where an intervention changes a weight, bool ``(n_outputs, n_neurons)``."""
        if not isinstance(u, int | float):
            return self._reach
        if u in self._touched:
            return self._touched[u]
        n_neurons, most = self.features.shape
        differs = (self.weight != u).any(2)  # (out, in / groups)
        if not self._is_in_order:
            differs = differs.index_select(1, self.features.flatten() % self.weight.shape[1])
        found = differs.reshape(-1, n_neurons, most)
        if self._is_ragged:
            found = found & self.is_feature
        if self.layer.groups > 1:
            found = found & self._reads(self.features.flatten()).reshape(found.shape)
        self._touched = {u: found.any(2)}  # of one u: that of all calls, mostly
        return self._touched[u]

    def is_active(self, source: Tensor) -> Tensor:
        """Return where a neuron is not all zeros, bool ``(rows, n_neurons)``.

        Parameters
        ----------
        source
            What the layer reads.
        """
        front = self.source_place.front(source)
        axis = 1 if self.is_convolution else front.ndim - 1
        others = [one for one in range(1, front.ndim) if one != axis]
        is_active = (front != 0).any(dim=others) if others else front != 0
        return (is_active[:, self.features] & self.is_feature).any(2)

    def changed(self, reference: Reference, pairs: Pairs, columns: Tensor) -> Tensor:
        """Return the layer's outputs under interventions, only some channels of them.

        Parameters
        ----------
        reference
            Values of the rows.
        pairs
            Sorted by neuron.
        columns
            int64 ``(columns,)``: the effects.

        Returns
        -------
        Tensor
            Laid out as the layer's value, of a pair in each row.
        """
        base = reference.once("base", lambda: self._base(reference, columns))
        n_pairs, extent = len(pairs.rows), base.shape[1:-1]
        change = self._product(reference, self._windows(reference, pairs), pairs, columns)
        change = change.reshape(n_pairs, -1, len(columns))
        rest = base.flatten(1, -2) if extent else base[:, None]
        made = change.add_(rest.index_select(0, pairs.own)).reshape(n_pairs, *extent, -1)
        return made.movedim(-1, 1) if self.is_convolution else self.place.back(made)

    def _base(self, reference: Reference, columns: Tensor) -> Tensor:
        """Return the outputs without interventions, ``(rows, ..., columns)``."""
        value = reference.taken(self.operator)
        front = value.movedim(1, -1) if self.is_convolution else self.place.front(value)
        return front.index_select(-1, columns)

    def _windows(self, reference: Reference, pairs: Pairs) -> tuple[Tensor, Tensor | None]:
        """Return what the weights read, ``(neurons, most rows, places, features * taps)``.

        And where the pairs are among the first two axes, flattened; None for all, in order.
        """
        source = self.source_place.front(reference.values[self.operator.inputs[0]])
        grid, slots = pairs.grid()
        features = self.features[pairs.distinct]
        if isinstance(self.operator, Convolution):
            read = source[grid[:, :, None], features[:, None, :]]
            read = read * self._kept(pairs, read.ndim) if self._is_ragged else read
            n_first = read.shape[:2]
            taps = _taps(self.operator, read.flatten(0, 1))
            return taps.reshape(*n_first, *taps.shape[1:]), slots
        flat = source.reshape(len(source), -1, source.shape[-1])
        read = flat.mT[grid[:, :, None], features[:, None, :]]
        read = read * self._kept(pairs, read.ndim) if self._is_ragged else read
        return read.mT, slots

    @cached_property
    def _is_ragged(self) -> bool:
        return self.features.shape[1] > 1 and not bool(self.is_feature.all())

    @cached_property
    def _is_in_order(self) -> bool:
        """Whether all features belong to neurons, those of each together."""
        flat = self.features.flatten()
        return torch.equal(flat, torch.arange(self.weight.shape[1], device=flat.device))

    def _kept(self, pairs: Pairs, n_axes: int) -> Tensor:
        kept = self.is_feature[pairs.distinct][:, None].to(self.weight.dtype)
        return kept.reshape(*kept.shape, *[1] * (n_axes - 3))

    def _product(
        self,
        reference: Reference,
        read: tuple[Tensor, Tensor | None],
        pairs: Pairs,
        columns: Tensor,
    ) -> Tensor:
        """Return the change, ``(pairs, places, columns)``."""
        windows, slots = read
        feature, u = self.features[pairs.distinct], pairs.u
        if isinstance(u, int | float):
            table = reference.once(("change", u), lambda: self._table(columns, u))
            return _selected(_multiplied(windows, self._of(table, feature, columns)), slots)
        table = reference.once("weights", lambda: self._table(columns, None))
        own = _selected(_multiplied(windows, self._of(table, feature, columns)), slots)
        ones = reference.once("ones", lambda: self._table(columns, None, is_of_ones=True))
        per_u = _selected(_multiplied(windows, self._of(ones, feature, columns)), slots)
        return per_u * u[:, None, None] - own

    def _table(self, columns: Tensor, u: float | None, *, is_of_ones: bool = False) -> Tensor:
        """Return ``scale (u - W)`` of some outputs, ``(in / groups, taps, columns)``.

        Without u it is ``scale W``, or the scale alone.
        """
        weight = self.weight.index_select(0, columns).permute(1, 2, 0).contiguous()
        if u is not None:
            weight = u - weight
        elif is_of_ones:
            weight = torch.ones_like(weight)
        return weight if self.scale is None else weight * self.scale[columns]

    def _of(self, table: Tensor, feature: Tensor, columns: Tensor) -> Tensor:
        """Return the rows of a table for neurons, ``(neurons, features * taps, columns)``."""
        found = table[feature % len(table)]
        if self.layer.groups > 1 and feature.shape[1] > 1:
            reads = self._reads(feature.flatten(), columns).mT.reshape(*feature.shape, 1, -1)
            found = found * reads
        return found.flatten(1, 2)

    def _reads(self, features: Tensor, columns: Tensor | None = None) -> Tensor:
        """Return which outputs have a weight for features, bool ``(outputs, features)``."""
        n_outputs, n_inner = self.weight.shape[:2]
        n_groups = self.layer.groups
        outputs = torch.arange(n_outputs, device=features.device) if columns is None else columns
        group = outputs.div(n_outputs // n_groups, rounding_mode="floor")
        return group[:, None] == features.div(n_inner, rounding_mode="floor")

    def _reached(self) -> Tensor:
        n_outputs, n_neurons = self.layer.n_outputs, self.layer.n_neurons
        if self.layer.groups == 1:
            device = self.weight.device
            return torch.ones(n_outputs, n_neurons, dtype=torch.bool, device=device)
        reads = self._reads(self.features.flatten()).reshape(-1, *self.features.shape)
        return (reads & self.is_feature).any(2)


def places_of(network: Network, layer: WeightedLayer) -> tuple[Place, Place]:
    """Return where rows are in a layer's value, and in what it reads.

    Raises
    ------
    NotImplementedError
        If the layer's neurons are not known, or the rows do not lie along one axis, or share it
        with places that a convolution reads.
    """
    if layer.refusal is not None:
        raise NotImplementedError(layer.refusal)
    op = layer.operator
    source = next(one for one in network.operators if one.name == op.inputs[0])
    places = place_of(network, op), place_of(network, source)
    if isinstance(op, Convolution) and not all(place.is_plain for place in places):
        raise NotImplementedError(
            f"the convolution {op.name!r} reads values in which samples share an axis with "
            "places; there are no interventions on it"
        )
    return places


def _multiplied(windows: Tensor, weight: Tensor) -> Tensor:
    """Return ``(neurons, most rows, places, columns)``, by one product for each neuron."""
    n_neurons, n_rows, n_places = windows.shape[:3]
    product = windows.reshape(n_neurons, n_rows * n_places, -1) @ weight
    return product.reshape(n_neurons, n_rows, n_places, -1)


def _selected(grid: Tensor, slots: Tensor | None) -> Tensor:
    flat = grid.flatten(0, 1)
    return flat if slots is None else flat.index_select(0, slots)


def _by_output(layer: WeightedLayer) -> Tensor:
    """Return the weights before a folded norm, ``(out, in / groups, taps)``.

    Of a transposed convolution they are turned so that it reads its input, with zeros between.
    """
    op = layer.operator if layer.unfolded is None else layer.unfolded
    weight: Tensor = op.weight  # type: ignore[attr-defined]
    if not isinstance(op, Convolution) or not op.transposed:
        return weight.reshape(*weight.shape[:2], -1)
    by_group = weight.reshape(op.groups, -1, *weight.shape[1:])
    apart = by_group.transpose(1, 2).flatten(0, 1)
    return apart.flip(tuple(range(2, apart.ndim))).flatten(2)


def _features(layer: WeightedLayer) -> tuple[Tensor, Tensor]:
    """Return the features of each neuron, int64 ``(n_neurons, most)``, and which of them exist."""
    owner = layer.neuron_of
    order = torch.argsort(owner, stable=True)
    order = order[owner[order] >= 0]
    sizes = torch.bincount(owner[order], minlength=layer.n_neurons)
    starts = sizes.cumsum(0) - sizes
    most = int(sizes.max()) if len(sizes) else 0
    within = torch.arange(most, device=owner.device)
    exists = within < sizes[:, None]
    position = (starts[:, None] + within).clamp_max(max(len(order) - 1, 0))
    return torch.where(exists, order[position], torch.zeros_like(position)), exists


def _taps(op: Convolution, inputs: Tensor) -> Tensor:
    """Return what each place of a convolution's output reads, ``(batch, places, features * taps)``.

    Parameters
    ----------
    inputs
        ``(batch, features, *extent)``.
    """
    n_axes, kernel = inputs.ndim - 2, op.weight.shape[2:]
    stride, zeros = op.stride, op.extents_of_zeros
    if op.transposed:
        inputs, zeros = _spread(op, inputs)
        stride = (1,) * n_axes
    widths = [width for pair in reversed(zeros) for width in pair]
    found = functional.pad(inputs, widths) if any(widths) else inputs
    for axis in range(n_axes):
        reach = op.dilation[axis] * (kernel[axis] - 1) + 1
        found = found.unfold(2 + axis, reach, stride[axis])[..., :: op.dilation[axis]]
    order = (0, *range(2, 2 + n_axes), 1, *range(2 + n_axes, 2 + 2 * n_axes))
    n_taps = inputs.shape[1] * math.prod(kernel)
    return found.permute(order).reshape(len(inputs), -1, n_taps)


def _spread(op: Convolution, inputs: Tensor) -> tuple[Tensor, tuple[tuple[int, int], ...]]:
    """Return the input of a transposed convolution with zeros between, and those around it."""
    extent = inputs.shape[2:]
    sizes = [(size - 1) * step + 1 for size, step in zip(extent, op.stride, strict=True)]
    spread = inputs.new_zeros(*inputs.shape[:2], *sizes)
    steps = tuple(slice(None, None, step) for step in op.stride)
    spread[(slice(None), slice(None), *steps)] = inputs
    zeros = []
    for axis, size in enumerate(op.weight.shape[2:]):
        before = op.dilation[axis] * (size - 1) - op.padding[axis]
        zeros.append((before, before + op.output_padding[axis]))
    return spread, tuple(zeros)
