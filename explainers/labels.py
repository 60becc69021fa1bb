"""Labels that a caller gives: a class index for each row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from explainers.base import Samples


def samples_of(n_rows: int, labels: Any, start: int = 0) -> Samples:
    """Return who the rows of a batch are.

    Parameters
    ----------
    n_rows
        Of the batch.
    labels
        Integers ``(batch,)``, -1 where the class is not known; None where none is.
    start
        Position of the first row in the data set.

    Raises
    ------
    TypeError
        If the labels are no integers.
    ValueError
        If there is not one for each row.
    """
    index = torch.arange(start, start + n_rows)
    if labels is None:
        return Samples(index, torch.full((n_rows,), -1, dtype=torch.int64))
    return Samples(index, _class_indices(labels, n_rows))


def _class_indices(labels: Any, n_rows: int) -> Tensor:
    try:
        values = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"got labels {labels!r}, expected integers ({n_rows},); number the classes from 0"
        ) from error
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(
            f"got labels of {values.dtype}, expected integers ({n_rows},): class indices, -1 "
            "where not known; convert them, or leave them out"
        )
    if tuple(values.shape) != (n_rows,):
        raise ValueError(
            f"got labels of shape {tuple(values.shape)} for {n_rows} rows; expected ({n_rows},): "
            "give one class index for each row"
        )
    return values.to(torch.int64)
