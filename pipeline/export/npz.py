"""One NumPy archive, written array by array and shard by shard."""

from __future__ import annotations

import zipfile
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from pipeline.export.formats import register

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.export.contents import Contents, Stored


@register("npz", "run.npz")
def write(contents: Contents, path: Path) -> None:
    """Write an archive for ``numpy.load``; nothing in it is a pickle.

    Its names are ``<explainer>/relevance``, ``samples/<fact>`` and
    ``scores/<metric>/<explainer>/<column>``.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, values in contents.samples.items():
            _put(archive, f"samples/{name}", _plain(values))
        for stored in contents.arrays():
            _write_array(archive, stored, contents)
        for metric, explainer, column, values in contents.scores():
            _put(archive, f"scores/{metric}/{explainer}/{column}", values)


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Return strings as fixed-width ones, which need no pickle."""
    return values.astype(str) if values.dtype == object else values


def _open(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    # how much follows is not known yet: it may be more than 4 GB
    return archive.open(f"{name}.npy", "w", force_zip64=True)


def _put(archive: zipfile.ZipFile, name: str, values: NDArray[Any]) -> None:
    with _open(archive, name) as file:
        npy.write_array(file, values, allow_pickle=False)


def _write_array(archive: zipfile.ZipFile, stored: Stored, contents: Contents) -> None:
    header = {
        "descr": npy.dtype_to_descr(stored.dtype),
        "fortran_order": False,
        "shape": stored.shape,
    }
    with _open(archive, f"{stored.group}/{stored.name}") as file:
        npy.write_array_header_2_0(file, header)
        for rows in contents.slices:
            file.write(np.ascontiguousarray(stored.rows(rows), stored.dtype).tobytes())
