"""One netCDF file: a group per explainer, so that xarray opens it as a tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.export.formats import library, register
from pipeline.export.hdf5 import chunks

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.export.contents import Contents, Stored


@register("netcdf", "run.nc")
def write(contents: Contents, path: Path) -> None:
    """Write a file for ``xarray.open_datatree(path, engine="h5netcdf")``.

    The root has the dimension ``sample``; the group ``samples`` has what is known of each, every
    explainer is a group with its maps, and so are the scores of each metric and explainer.
    """
    h5netcdf = library("h5netcdf")
    n_samples = contents.run.plan.n_samples
    with h5netcdf.File(path, "w") as file:
        file.attrs.update(contents.attributes)
        file.dimensions = {"sample": n_samples}
        _put(file, "sample", ("sample",), np.arange(n_samples))
        for name, values in contents.samples.items():
            _put(_group(file, "samples"), name, ("sample",), values)
        for stored in contents.arrays():
            _write_array(_group(file, stored.group), stored, contents)
        for metric, explainer, column, values in contents.scores():
            group = _group(file, f"scores/{metric}/{explainer}")
            dims = ("sample", *(f"{column}_step_{axis}" for axis in range(values.ndim - 1)))
            _dimensions(group, dims, values.shape)
            _put(group, column, dims, values)


def _group(file: Any, path: str) -> Any:
    for part in path.split("/"):
        file = file.groups[part] if part in file.groups else file.create_group(part)
    return file


def _dimensions(group: Any, dims: tuple[str, ...], shape: tuple[int, ...]) -> None:
    for dim, size in zip(dims, shape, strict=True):
        if dim != "sample" and dim not in group.dimensions:
            group.dimensions[dim] = size


def _put(group: Any, name: str, dims: tuple[str, ...], values: NDArray[Any]) -> None:
    dtype = library("h5py").string_dtype() if values.dtype == object else values.dtype
    group.create_variable(name, dims, dtype=dtype, data=values)


def _write_array(group: Any, stored: Stored, contents: Contents) -> None:
    # arrays beside a map may have axes of the same names and other sizes
    dims = tuple(
        dim
        if group.dimensions.get(dim, None) in (None, size) or dim == "sample"
        else f"{stored.name}_{dim}"
        for dim, size in zip(stored.dims, stored.shape, strict=True)
    )
    _dimensions(group, dims, stored.shape)
    variable = group.create_variable(
        stored.name.replace("/", "."),
        dims,
        dtype=stored.dtype,
        chunks=chunks(stored.shape, stored.dtype.itemsize, contents.run.plan.shard_size),
        compression="gzip",
        compression_opts=1,
        shuffle=True,
        fillvalue=np.nan if stored.dtype.kind == "f" else None,
    )
    for rows in contents.slices:
        variable[rows] = stored.rows(rows)
