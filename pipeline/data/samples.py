"""Items of other people's data sets, ``(input, label)`` or mappings, as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pipeline.data import decoding

if TYPE_CHECKING:
    from pipeline.inputs import Inputs


def input_of(item: Any) -> Inputs:
    """Return the model's input of an item: a tensor, or several by argument name.

    Images of PIL are scaled to [0, 1], those of 16 bits as files of them are.

    Raises
    ------
    KeyError
        If a mapping has no field ``input``.
    TypeError
        If the input is nothing that makes a tensor.
    """
    value = item
    if isinstance(item, Mapping):
        if "input" not in item:
            raise KeyError(f"got fields {list(item)!r}, expected 'input'")
        value = item["input"]
    elif isinstance(item, Sequence):
        value = item[0]
    if isinstance(value, Mapping):
        return {str(name): _tensor(part) for name, part in value.items()}
    return _tensor(value)


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    if hasattr(value, "getbands"):
        pixels = np.asarray(decoding.of_8_bits(value), dtype=np.float32) / np.float32(255)
        image = torch.from_numpy(pixels.copy())
        return image.movedim(-1, 0) if image.ndim == 3 else image[None]
    if isinstance(value, np.ndarray | Sequence) and not isinstance(value, str):
        array = np.asarray(value)
        is_whole = isinstance(value, np.ndarray) and array.dtype.kind in "ib"
        return torch.as_tensor(array if is_whole else array.astype(np.float32))
    raise TypeError(f"got an input of type {type(value).__name__}, expected a tensor or array")


def label_of(item: Any) -> int:
    """Return the label of an item, or -1 where it has none."""
    value: Any = None
    if isinstance(item, Mapping):
        value = item.get("label")
    elif isinstance(item, Sequence) and len(item) > 1:
        value = item[1]
    return -1 if value is None else int(value)


def labels_of(dataset: Any) -> list[int]:
    """Return all labels: from ``targets`` or ``labels`` if the data set has them.

    Otherwise every item is read once, where a bad one has the label -1.
    """
    n_samples = len(dataset)
    for name in ("targets", "labels"):
        values = getattr(dataset, name, None)
        if values is not None and not callable(values) and len(values) == n_samples:
            return [int(value) for value in values]
    return [_label_at(dataset, position) for position in range(n_samples)]


def _label_at(dataset: Any, position: int) -> int:
    try:
        return label_of(dataset[position])
    except Exception:
        # an item that cannot be read gets its status when it is explained
        return -1
