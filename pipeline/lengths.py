"""Samples of different lengths: batches of one length each, stored as long as the longest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import PlanError
from pipeline.inputs import form_of, in_words

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from explainers.explaining import Form as MapForm
    from pipeline.inputs import Form, Inputs, Part

TOKEN = "token"
"""Name of the dimension whose size is the length; what is stored is filled up along it."""

GROWING = f"{TOKEN}_"
"""What names of other dimensions begin with whose size depends on the length."""


@dataclass(frozen=True)
class Lengths:
    """Of a data set whose samples differ in length."""

    known: tuple[int, ...]
    """Those that samples have, ascending, from the shortest to the longest that is explained."""
    inputs: tuple[str, ...]
    """Inputs whose one axis is as long, by name."""

    @classmethod
    def of(cls, lengths: Sequence[int], examples: Sequence[tuple[Inputs, int]]) -> Lengths:
        """Return the lengths of a data set.

        Parameters
        ----------
        lengths
            Of all samples; 0 where it is not known.
        examples
            A sample of the longest that can be read and that the model takes, and one of the
            shortest, with their lengths.

        Raises
        ------
        PlanError
            If no input is as long as a sample says, or one differs otherwise.
        """
        forms = [form_of(sample) for sample, _ in examples]
        names = [
            name
            for name, part in forms[0].items()
            if part.dtype != "float32" and part.shape == (examples[0][1],)
        ]
        longest, shortest = examples[0][1], examples[-1][1]
        known = {n for n in lengths if 0 < shortest <= n <= longest}
        found = cls(tuple(sorted(known)), tuple(names))
        for form, (_, length) in zip(forms, examples, strict=True):
            wanted = found.form(forms[0], length)
            if not names or form != wanted:
                raise PlanError(
                    f"a sample of length {length} has inputs {in_words(form)}, expected "
                    f"{in_words(wanted) if names else 'tokens of that length'}",
                    fix="let samples that differ in length differ in their tokens, int64 "
                    "(length,), and masks beside them, alone",
                    page="model-does-not-take-data",
                )
        return found

    @property
    def longest(self) -> int:
        """The size that is stored."""
        return self.known[-1]

    def misfit(self, length: int) -> str:
        """Return why a sample of a length is not explained; empty if it is."""
        if self.known[0] <= length <= self.longest:
            return ""
        return f"{length} tokens; the model takes from {self.known[0]} to {self.longest} of them"

    def form(self, longest: Form, length: int | None) -> dict[str, Part]:
        """Return the form of a sample, given that of the longest; no sample is longer than that."""
        size = min(length or self.longest, self.longest)
        return {
            name: replace(part, shape=(size,)) if name in self.inputs else part
            for name, part in longest.items()
        }


def batches(lengths: Sequence[int | None], size: int) -> list[list[int]]:
    """Return positions in batches of one length each: the longest first, in order within a length.

    The longest come first because they take most memory: where it is too little, little is lost.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-(lengths[row] or 0), row))
    found: list[list[int]] = []
    for row in order:
        is_same = found and (lengths[found[-1][0]] or 0) == (lengths[row] or 0)
        if is_same and len(found[-1]) < size:
            found[-1].append(row)
        else:
            found.append([row])
    return found


def axes(
    longest: MapForm, shortest: tuple[int, ...], ends: Collection[tuple[int, int]]
) -> tuple[str, ...]:
    """Return what the dimensions of maps are called: those that depend on the length, by that.

    Parameters
    ----------
    longest
        Form of the maps of the longest samples.
    shortest
        Sizes of those of the shortest.
    ends
        Lengths of both, of each input that differs in length.
    """
    dims, sizes = longest
    differing = [axis for axis, size in enumerate(sizes) if size != shortest[axis]]
    if len(differing) == 1 and (sizes[differing[0]], shortest[differing[0]]) in ends:
        return tuple(TOKEN if axis in differing else name for axis, name in enumerate(dims))
    return tuple(
        f"{GROWING}{axis}" if axis in differing else name for axis, name in enumerate(dims)
    )


def whole_shape(
    array: str,
    shape: tuple[int, ...],
    named: tuple[str, ...] | None,
    here: Mapping[str, MapForm],
    longest: Mapping[str, MapForm],
    length: int,
) -> tuple[int, ...]:
    """Return the shape, of one sample of the longest, of an array that a method found.

    Parameters
    ----------
    array
        Its name; what follows the first point is the input that it belongs to, as for a map.
    shape
        For one sample of this batch.
    named
        What the method calls its axes; None where it does not say.
    here, longest
        Form of the method's maps for this batch, and for the longest sample, by input.
    length
        Of the longest sample.
    """
    if named is not None and len(named) == len(shape):
        known = {
            name: size
            for form in longest.values()
            for name, size in zip(*form, strict=True)
            if name.startswith(GROWING)
        } | {TOKEN: length}
        return tuple(known.get(name, size) for name, size in zip(named, shape, strict=True))
    part = array.partition(".")[2]
    if part in here and tuple(here[part][1]) == shape:
        return tuple(longest[part][1])
    return shape


def without_filling(
    values: NDArray[np.float32], dims: Sequence[str], length: int
) -> NDArray[np.float32]:
    """Return maps of samples of one length ``(batch, ...)`` without what fills them up.

    `dims` are the names of the axes, the batch's excepted.
    """
    kept = [slice(length if name == TOKEN else None) for name in dims]
    for axis, name in enumerate(dims, 1):
        if name.startswith(GROWING):
            # nobody says how far a layer of such samples goes
            others = tuple(other for other in range(values.ndim) if other != axis)
            there = np.flatnonzero(~np.isnan(values).all(axis=others))
            kept[axis - 1] = slice(there[-1] + 1 if len(there) else None)
    return values[(slice(None), *kept)]


def beyond(extents: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return what lies beyond the extents of rows, ``(rows, *shape)``.

    Parameters
    ----------
    extents
        How far each row goes along each axis, ``(rows, axes)``.
    shape
        Of one row.
    """
    found = np.zeros((len(extents), *shape), dtype=bool)
    for axis, size in enumerate(shape):
        outside = np.arange(size) >= extents[:, axis, None]
        others = [size if each == axis else 1 for each in range(len(shape))]
        found |= outside.reshape(len(extents), *others)
    return found
