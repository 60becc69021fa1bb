"""Values of Arrow columns: encoded images, and lists or tensors of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BYTES = "bytes"


def is_encoded(kind: pa.DataType) -> bool:
    """Whether a column holds files: bytes, or Hugging Face's ``{bytes, path}``."""
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index(_BYTES) >= 0)
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def is_numeric(kind: pa.DataType) -> bool:
    """Whether a column holds lists, or tensors, of numbers."""
    inner = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    if not _is_list(inner):
        return False
    while _is_list(inner):
        inner = inner.value_type
    return bool(pa.types.is_primitive(inner) and not pa.types.is_temporal(inner))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text."""
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def value_at(
    column: pa.Array, row: int, shape: tuple[int, ...] | None = None
) -> bytes | NDArray[Any]:
    """Return one value of a column, of bytes or of numbers.

    Parameters
    ----------
    column
        For which `is_encoded` or `is_numeric` holds.
    row
        Position in it.
    shape
        Of the numbers, where lists do not tell it.

    Raises
    ------
    ValueError
        If the value is missing, has gaps or rows of different lengths, or another shape.
    """
    one = column.slice(row, 1)
    if not one[0].is_valid:
        raise ValueError("the value is missing")
    if isinstance(one.type, pa.FixedShapeTensorType):
        return _shaped(np.array(one.to_numpy_ndarray()[0]), shape)
    if isinstance(one, pa.ExtensionArray):
        one = one.storage
    if pa.types.is_struct(one.type):
        return _of_struct(one)
    if is_encoded(one.type):
        return bytes(one[0].as_py())
    return _shaped(_of_lists(one), shape)


def _of_struct(one: pa.Array) -> bytes:
    row = one[0].as_py()
    if row[_BYTES] is None:
        raise ValueError(f"the image is not in the file, only its path {row.get('path')!r}")
    return bytes(row[_BYTES])


def _of_lists(one: pa.Array) -> NDArray[Any]:
    sizes: list[int] = []
    while _is_list(one.type):
        lengths = pc.list_value_length(one)
        if one.null_count:
            raise ValueError("a list inside it is missing")
        size = lengths[0].as_py() if len(lengths) else 0
        if not pc.all(pc.equal(lengths, size)).as_py() and len(lengths):
            raise ValueError("its lists differ in length")
        sizes.append(size)
        one = one.flatten()
    if one.null_count:
        raise ValueError(f"{one.null_count} of {len(one)} numbers are missing")
    return np.array(one.to_numpy(zero_copy_only=False)).reshape(sizes)


def _shaped(values: NDArray[Any], shape: tuple[int, ...] | None) -> NDArray[Any]:
    if shape is None:
        return values
    if values.size != np.prod(shape):
        raise ValueError(f"got {values.size} numbers, expected those of the shape {shape}")
    return values.reshape(shape)


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
