"""Cells that the user gives: the number of a cell for each value, for all samples or for each."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from explainers.features.labels import Labels
from explainers.sampling.chunks import pieces

if TYPE_CHECKING:
    from explainers.features.labels import Rows

_VALUES_AT_ONCE = 2**24
"""Of masks of a whole data set, when they are looked through: 128 MB."""


@dataclass(frozen=True, eq=False)
class Masks:
    """Cells by number."""

    given: Any
    """Integers, as a tensor, nested lists or the path of a ``.npy`` file."""

    def labels(self, shape: tuple[int, ...], rows: Rows | None) -> Labels | None:
        """Return the cells of these samples, or of all that there are masks for.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        TypeError
            If they are no integers.
        ValueError
            If they do not fit the values or the samples, or leave numbers out.
        """
        masks = _fitted(read(self.given), shape)
        if len(masks) == 1:
            return _numbered(masks)
        if rows is not None:
            return _numbered(masks[_chosen(len(masks), rows)])
        at_once = max(1, _VALUES_AT_ONCE // max(1, masks[0].numel()))
        found = [_numbered(masks[piece], piece.start) for piece in pieces(len(masks), at_once)]
        counts = tuple(count for labels in found for count in labels.counts)
        return None if len(set(counts)) > 1 else Labels(found[0].cells[:1], counts[:1])

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
        raise FileNotFoundError(
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
    channel = 1 if len(shape) == 2 else 0
    of_places = shape[:channel] + shape[channel + 1 :]
    if _is_like(given, shape):
        return masks[None]
    if len(shape) > 1 and given == of_places:
        return masks.unsqueeze(channel)[None]
    if _is_like(given[1:], shape) and given[:1] != (0,):
        return masks
    if len(shape) > 1 and given[1:] == of_places and given[:1] != (0,):
        return masks.unsqueeze(1 + channel)
    known = [shape, ("batch", *shape)]
    if len(shape) > 1:
        known = [of_places, shape, ("batch", *of_places), ("batch", *shape)]
    named = " or ".join(f"({', '.join(map(str, one))})" for one in known)
    raise ValueError(f"got masks of shape {given} for inputs {shape}, expected {named}")


def _is_like(given: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    fits = all(own in (1, size) for own, size in zip(given, shape, strict=False))
    return len(given) == len(shape) and fits and (not shape or given != (1,) * len(shape))


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


def _numbered(masks: Tensor, first: int = 0) -> Labels:
    """Return masks as cells.

    Raises
    ------
    ValueError
        If a number is negative, or left out.
    """
    flat = masks.long().flatten(1)
    where = f" of sample {first}" if len(masks) > 1 else ""
    if bool((flat < 0).any()):
        raise ValueError(
            f"got masks with the number {int(flat.min())}, expected 0 and above: every value is "
            "in a cell; number what is left over too"
        )
    counts = flat.amax(1) + 1
    if int(counts.max()) > flat.shape[1]:
        ordered = torch.unique(flat[counts.argmax()])
        _refuse_gaps(ordered, where)
    is_present = torch.zeros(len(flat), int(counts.max()), dtype=torch.bool, device=flat.device)
    is_present.scatter_(1, flat, torch.ones_like(flat, dtype=torch.bool))
    incomplete = (is_present.sum(1) < counts).nonzero().flatten()
    if len(incomplete):
        row = int(incomplete[0])
        where = f" of sample {first + row}" if len(masks) > 1 else ""
        _refuse_gaps(torch.unique(flat[row]), where)
    return Labels(flat.view(masks.shape), tuple(counts.tolist()))


def _refuse_gaps(present: Tensor, where: str) -> None:
    """Refuse the numbers that are there, sorted, for those that are not."""
    last, known = int(present[-1]), set(present.tolist())
    missing = [number for number in range(min(last, 2 * len(known) + 20)) if number not in known]
    named = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
    raise ValueError(
        f"got masks{where} with numbers up to {last} but without {named}: an empty feature; number "
        "them from 0 without gaps, for example by torch.unique(masks, return_inverse=True)[1]"
    )
