"""One HDF5 file: a group per explainer, facts and scores beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.export.formats import library, register

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.export.contents import Contents, Stored

CHUNK_BYTES = 2**20
"""Of a chunk, about: a few samples of photographs, some hundred of digits."""


@register("hdf5", "run.h5")
def write(contents: Contents, path: Path) -> None:
    """Write ``/<explainer>/relevance``, ``/samples/<fact>``, ``/scores/<metric>/<explainer>/...``.

    Axes carry the names of the run's dimensions.
    """
    h5py = library("h5py")
    with h5py.File(path, "w") as file:
        file.attrs.update(contents.attributes)
        for name, values in contents.samples.items():
            put(file, f"samples/{name}", values)
        for stored in contents.arrays():
            _write_array(file, f"{stored.group}/{stored.name}", stored, contents)
        for metric, explainer, column, values in contents.scores():
            put(file, f"scores/{metric}/{explainer}/{column}", values)


def put(file: Any, path: str, values: NDArray[Any]) -> Any:
    """Write a small array, of strings as variable-length UTF-8; return the data set."""
    dtype = library("h5py").string_dtype() if values.dtype == object else values.dtype
    return file.create_dataset(path, data=values, dtype=dtype)


def chunks(shape: tuple[int, ...], itemsize: int, n_rows: int) -> tuple[int, ...]:
    """Return the shape of chunks: whole samples, at most `n_rows` of them."""
    size = itemsize
    for axis in shape[1:]:
        size *= axis
    # of no more rows than there are, but for arrays that grow from none
    return (max(1, min(CHUNK_BYTES // max(1, size), n_rows, shape[0] or n_rows)), *shape[1:])


def _write_array(file: Any, path: str, stored: Stored, contents: Contents) -> None:
    data = file.create_dataset(
        path,
        shape=stored.shape,
        dtype=stored.dtype,
        chunks=chunks(stored.shape, stored.dtype.itemsize, contents.run.plan.shard_size),
        compression="gzip",
        compression_opts=1,
        shuffle=True,
    )
    for axis, dim in enumerate(stored.dims):
        data.dims[axis].label = dim
    for rows in contents.slices:
        data[rows] = stored.rows(rows)
