"""Cells that the user gives: the number of a cell for each value, for all samples or for each."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from explainers.features.axes import axes
from explainers.features.labels import Labels
from explainers.sampling.chunks import pieces

if TYPE_CHECKING:
    from typing import NoReturn

    from explainers.features.labels import Rows

_VALUES_AT_ONCE = 2**24
"""Of masks of a whole data set, when they are looked through: 128 MB."""

_NAMED = 10
"""Missing numbers that a message lists."""


@dataclass(frozen=True, eq=False)
class Masks:
    """Cells by number."""

    given: Any
    """Integers, as a tensor, nested lists or the path of a ``.npy`` file."""

    def labels(self, shape: tuple[int, ...], rows: Rows | None) -> Labels | None:
        """Return the cells of these samples, or of all that there are masks for.

        Raises
        ------
        TypeError
            If they are no integers.
        ValueError
            If there is no such file; or masks do not fit the values or the samples, or leave
            numbers out.
        """
        masks = _fitted(read(self.given), shape)
        if len(masks) == 1:
            return _numbered(masks)
        if rows is not None:
            chosen = _chosen(len(masks), rows)
            return _numbered(masks[chosen], chosen)
        at_once = max(1, _VALUES_AT_ONCE // max(1, masks[0].numel()))
        every = torch.arange(len(masks))
        parts = [every[piece] for piece in pieces(len(masks), at_once)]
        counts = tuple(count for part in parts for count in _numbered(masks[part], part).counts)
        return None if len(set(counts)) > 1 else Labels(_numbered(masks[:1]).cells, counts[:1])

    def suits(self, shape: tuple[int, ...], are_tokens: bool) -> bool:
        """Only where it is named: masks are of one input."""
        return False


def read(given: Any) -> Tensor:
    """Return what is given as a tensor of integers; a file is not read before it is looked at."""
    masks = _of_file(given) if isinstance(given, str | os.PathLike) else _of_numbers(given)
    if masks.is_floating_point() or masks.is_complex():
        raise TypeError(
            f"got masks of {masks.dtype}, expected integers, the number of a cell for each value; "
            "convert them with masks.long()"
        )
    return masks.detach().cpu()


def _of_numbers(given: Any) -> Tensor:
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"got masks of type {type(given).__name__!r}, expected a tensor of integers, nested "
            f"lists of one length each, or the path of a .npy file ({error})"
        ) from error


def _of_file(given: str | os.PathLike[str]) -> Tensor:
    path = Path(given)
    if path.suffix != ".npy":
        raise ValueError(
            f"got masks from {str(path)!r}, expected the path of a .npy file; write one with "
            "numpy.save(path, masks)"
        )
    if not path.is_file():
        raise ValueError(
            f"there is no file of masks {str(path)!r} (looked in {str(Path.cwd())!r}); give the "
            "path of a .npy file"
        )
    facts = path.stat()
    return _mapped(str(path.resolve()), facts.st_mtime_ns, facts.st_size)


@functools.lru_cache(maxsize=4)
def _mapped(path: str, changed: int, size: int) -> Tensor:
    """Return the array of a file as it is on disk; what is not looked at is not read."""
    import numpy

    try:
        # copy on write: torch wants an array that could be written to
        array = numpy.load(path, mmap_mode="c", allow_pickle=False)
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"got masks from {path!r}, expected an array of integers: {error}"
        ) from error


def _fitted(masks: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return masks ``(1 | batch, ...)`` that broadcast against values of a shape.

    Raises
    ------
    ValueError
        If they are of another shape.
    """
    given = tuple(masks.shape)
    channel = axes(shape).channel if 1 < len(shape) < 5 else None
    forms = [shape]
    if channel is not None:
        of_places = shape[:channel] + shape[channel + 1 :]
        forms = [shape, (*shape[:channel], 1, *shape[channel + 1 :]), of_places]
    for form in forms:
        is_shared = given == form
        if is_shared or (given[1:] == form and given[0] > 0):
            masks = masks[None] if is_shared else masks
            is_complete = channel is None or len(form) == len(shape)
            return masks if is_complete else masks.unsqueeze(1 + (channel or 0))
    named = dict.fromkeys(str(tuple(form)) for form in forms)
    raise ValueError(
        f"got masks of shape {given} for values of shape {shape}, expected {' or '.join(named)}, "
        "for all samples, or such for each, with an axis of samples in front"
    )


def _chosen(n_masks: int, rows: Rows) -> Tensor:
    """Return the masks of samples."""
    if not rows.is_data_set and n_masks != len(rows.values):
        raise ValueError(
            f"got masks for {n_masks} samples, the batch has {len(rows.values)}; give one for all "
            "of them, or one for each"
        )
    last = int(rows.index.max()) if len(rows.index) else -1
    if last >= n_masks:
        raise ValueError(
            f"got masks for {n_masks} samples, and there is a sample {last}; give one for all of "
            "them, or one for each in the order of the data set"
        )
    return rows.index


def _numbered(masks: Tensor, samples: Tensor | None = None) -> Labels:
    """Return masks as cells.

    Parameters
    ----------
    masks
        ``(rows, ...)``.
    samples
        Number of each row's sample, for messages; None where one mask is for all.

    Raises
    ------
    ValueError
        If a number is negative, or left out.
    """
    flat = masks.long().flatten(1)
    counts = flat.amax(1) + 1
    is_wrong = (flat.amin(1) < 0) | (counts > flat.shape[1])
    if not bool(is_wrong.any()):
        is_present = torch.zeros(len(flat), int(counts.max()), dtype=torch.bool)
        is_present.scatter_(1, flat, torch.ones_like(flat, dtype=torch.bool))
        is_wrong = is_present.sum(1) < counts
    wrong = is_wrong.nonzero().flatten().tolist()
    if wrong:
        row = wrong[0]
        of = "" if samples is None else f" of sample {int(samples[row])}"
        _refuse(torch.unique(flat[row]), of)
    return Labels(flat.view(masks.shape), tuple(counts.tolist()), samples is not None)


def _refuse(present: Tensor, of: str) -> NoReturn:
    """Refuse the numbers that are there, sorted, for those that are not."""
    first, last, known = int(present[0]), int(present[-1]), set(present.tolist())
    if first < 0:
        raise ValueError(
            f"got masks{of} with the number {first}, expected 0 and above: every value is in a "
            "feature; number what is left over too"
        )
    missing = [
        number for number in range(min(last, len(known) + _NAMED + 1)) if number not in known
    ]
    named = ", ".join(map(str, missing[:_NAMED])) + (", ..." if len(missing) > _NAMED else "")
    raise ValueError(
        f"got masks{of} with numbers up to {last} but without {named}: an empty feature; number "
        "them from 0 without gaps, for example by torch.unique(masks, return_inverse=True)[1]"
    )
