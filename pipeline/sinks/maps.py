"""Relevance maps and arrays per sample, in ``maps.zarr``: a group per explainer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline import paths
from pipeline.errors import StoreError
from pipeline.sinks import encoding, nodes

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    import zarr
    from numpy.typing import NDArray

    from pipeline.shards import Shard

RELEVANCE = "relevance"
SCALE = "scale"
HALF_EXPONENT = 15
"""float16 ends at 65504; scaled to below 2**15, values keep full precision down to 2**-28 of it."""


def relevance_of(part: str) -> str:
    """Return the array of an input's relevance: ``relevance``, or ``relevance.<input>``."""
    return f"{RELEVANCE}.{part}" if part else RELEVANCE


def is_relevance(array: str) -> bool:
    """Whether an array is the relevance of an input."""
    return array.partition(".")[0] == RELEVANCE


class Layout(NamedTuple):
    """What an array holds for one sample."""

    dims: tuple[str, ...] = ()
    """Names of the dimensions after ``sample``."""
    shape: tuple[int, ...] = ()
    """Their lengths."""
    dtype: str = "float32"
    """Of what is stored."""


COORDINATES: Mapping[str, Layout] = {
    "sample": Layout(dtype="int64"),
    "target": Layout(dtype="int64"),
    "prediction": Layout(dtype="int64"),
}
"""Beside the groups, written by the first pass alone; ``target`` is -1 where it is no class."""


LENGTH = "length"
"""Coordinate of samples that differ in it: tokens; 0 where not known, -1 where not done."""


class MapSink:
    """Writes whole shards of arrays over samples, one object each.

    Parameters
    ----------
    root
        The run folder, a path or any fsspec URL.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._folder = paths.Folder(root)
        self._known: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}

    def create(
        self,
        arrays: Mapping[str, Layout | tuple[tuple[str, ...], tuple[int, ...], str]],
        n_samples: int,
        shard_size: int,
        coordinates: Mapping[str, Layout] = COORDINATES,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the metadata of all arrays; doing it again changes nothing.

        Parameters
        ----------
        arrays
            ``explainer`` (its relevance) or ``explainer/array`` to layout. Relevance in float16
            gets an array ``scale`` beside it, or ``scale.<input>``.
        n_samples
            Length of the first dimension.
        shard_size
            Samples per shard of the pipeline, which is also the Zarr shard.
        coordinates
            Arrays beside the groups; several targets give ``target`` a dimension ``target``.
        attributes
            Of the root, for readers that have only the Zarr hierarchy.
        """
        others = [name for name in coordinates if name != "sample"]
        root = {"coordinates": " ".join(others)} | dict(attributes or {})
        for node, layout in coordinates.items():
            self._put(node, _document(Layout(*layout), n_samples, shard_size))
        for path, of_sample in arrays.items():
            name, _, array = path.partition("/")
            self.add(name, array or RELEVANCE, Layout(*of_sample), n_samples, shard_size)
        self._consolidate(nodes.group_document(root))

    def add(self, name: str, array: str, layout: Layout, n_samples: int, shard_size: int) -> None:
        """Write the metadata of one array; any worker may, because all write the same bytes."""
        for group in sorted(groups([f"{name}/{array}"])):
            self._put(group, nodes.group_document())
        is_scaled = is_relevance(array) and layout.dtype == "float16"
        scale = SCALE + array.removeprefix(RELEVANCE)
        attributes = {"scaled_by": scale} if is_scaled else {}
        self._put(f"{name}/{array}", _document(layout, n_samples, shard_size, attributes))
        if is_scaled:
            self._put(f"{name}/{scale}", _document(Layout(), n_samples, shard_size))

    def has(self, name: str, array: str = RELEVANCE) -> bool:
        """Whether the array has been created."""
        return self._folder.exists(_path(f"{name}/{array}".lstrip("/"), nodes.DOCUMENT))

    def consolidate(self) -> None:
        """Copy all metadata into the root's, for readers; the driver does it after each pass."""
        self._consolidate(self._folder.read(_path("", nodes.DOCUMENT)))

    def _consolidate(self, root: bytes) -> None:
        below = {
            node: self._folder.read(_path(node, nodes.DOCUMENT)) for node in stored(self._folder)
        }
        self._folder.write(_path("", nodes.DOCUMENT), nodes.consolidated(root, below))

    def write(self, name: str, array: str, shard: Shard, values: NDArray[Any]) -> dict[str, str]:
        """Write one shard of one array durably and return its objects and their SHA-256.

        The array's metadata is among them: without it the shard cannot be read.

        Parameters
        ----------
        name
            Explainer; the empty string for a coordinate.
        array
            ``relevance`` or one of the arrays beside it.
        shard
            Which samples.
        values
            One row per sample of the shard; NaN (or -1) where a sample could not be explained.

        Raises
        ------
        StoreError
            If rows or shapes are not those of the array, or the file system refuses.
        """
        node = f"{name}/{array}".lstrip("/")
        document, objects = self._document(node)
        _check(node, document, shard, values)
        scaled_by = document["attributes"].get("scaled_by")
        if scaled_by:
            values, scale = halve(values)
            objects = objects | self.write(name, scaled_by, shard, scale)
        content = _encode(document, values.astype(document["data_type"], copy=False))
        path = object_path(node, shard.index, values.ndim)
        return objects | {path: self._folder.write(path, content)}

    def write_coordinates(self, shard: Shard, values: Mapping[str, NDArray[Any]]) -> dict[str, str]:
        """Write one shard of coordinates and return their objects and SHA-256."""
        objects: dict[str, str] = {}
        for name, rows in values.items():
            objects |= self.write("", name, shard, rows)
        return objects

    def _document(self, node: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Return an array's metadata, and the object that holds it with its SHA-256."""
        if node not in self._known:
            path = _path(node, nodes.DOCUMENT)
            try:
                content = self._folder.read(path)
            except FileNotFoundError:
                raise StoreError(
                    f"there is no array {node!r} in {self._folder.at(paths.MAPS)!r}",
                    fix="create it before its shards are written",
                ) from None
            self._known[node] = (json.loads(content), {path: paths.sha256(content)})
        return self._known[node]

    def _put(self, node: str, document: bytes) -> None:
        """Write a document unless an equal one is there, which records may vouch for."""
        path = _path(node, nodes.DOCUMENT)
        if not self._folder.exists(path):
            self._folder.write(path, document)
        elif _form(self._folder.read(path)) != _form(document):
            raise StoreError(
                f"{self._folder.at(path)!r} describes another array than the plan does",
                fix="run `xpipe verify --repair` on the run, or write to another folder",
                page="integrity",
            )


def read(root: str | os.PathLike[str], name: str, array: str = RELEVANCE) -> zarr.Array[Any]:
    """Open an array for reading, as stored; the caller consults the ledger and the scale.

    Raises
    ------
    StoreError
        If there is no such array.
    """
    import zarr

    folder = paths.Folder(root)
    node = f"{name}/{array}".lstrip("/")
    try:
        return zarr.open_array(nodes.readable(folder, paths.MAPS), path=node, mode="r")
    except (FileNotFoundError, KeyError) as error:
        raise StoreError(
            f"there is no array {node!r} in {folder.at(paths.MAPS)!r}",
            fix="see `xpipe status` for what the run holds",
            page="not-in-run",
        ) from error


def object_path(node: str, shard: int, n_dims: int) -> str:
    """Return where one shard of an array is, relative to the run folder."""
    return _path(node, ".".join(["c", str(shard), *["0"] * (n_dims - 1)]))


def stored(folder: paths.Folder) -> list[str]:
    """Return the paths of all groups and arrays below the root, sorted."""
    ending = f"/{nodes.DOCUMENT}"
    documents = (name for name in folder.files(paths.MAPS) if name.endswith(ending))
    below = (name.removeprefix(paths.MAPS).removesuffix(ending).strip("/") for name in documents)
    return sorted(node for node in below if node)


def groups(nodes: Iterable[str]) -> set[str]:
    """Return the paths of all groups that these nodes are in."""
    parts = [node.split("/") for node in nodes]
    return {"/".join(each[:end]) for each in parts for end in range(1, len(each))}


def without_channels(layout: Layout) -> Layout:
    """Return the layout of relevance that is summed over its channels."""
    kept = [axis for axis, dim in enumerate(layout.dims) if dim != "channel"]
    dims = tuple(layout.dims[axis] for axis in kept)
    return Layout(dims, tuple(layout.shape[axis] for axis in kept), layout.dtype)


def halve(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    r"""Return rows as float16 and the power of two by which each has to be multiplied.

    With :math:`2^{e-1} \le \max|R| < 2^e` the scale is :math:`2^{e-15}`, so nothing overflows, and
    scaling itself is exact. What is lost is float16's rounding: at most :math:`2^{-11}|R|` where
    :math:`|R| \ge 2^{-28}\max|R|`, and at most :math:`2^{-39}\max|R|` below.
    """
    axes = tuple(range(1, values.ndim))
    with np.errstate(invalid="ignore", over="ignore"):
        return _halved(values, axes)


def _halved(values: NDArray[Any], axes: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
    largest = np.abs(values).max(axis=axes, initial=0)
    if not np.isfinite(largest).all():
        largest = np.abs(np.where(np.isfinite(values), values, 0)).max(axis=axes, initial=0)
    # float32's smallest normal number is 2**-126.
    exponent = np.maximum(np.frexp(largest)[1] - HALF_EXPONENT, -126)
    scale = np.where(largest > 0, np.ldexp(1.0, exponent), 1.0).astype(np.float32)
    factor = (1 / scale).reshape(-1, *[1] * len(axes))  # a power of two, so this is exact
    return (values * factor).astype(np.float16), scale


def _path(node: str, key: str) -> str:
    return "/".join(part for part in (paths.MAPS, node, key) if part)


def _document(
    layout: Layout, n_samples: int, shard_size: int, attributes: Mapping[str, Any] | None = None
) -> bytes:
    return nodes.array_document(
        n_samples=n_samples,
        shard_size=shard_size,
        dims=layout.dims,
        shape=layout.shape,
        dtype=layout.dtype,
        attributes=attributes,
    )


def _form(document: bytes) -> Any:
    """Return what two descriptions of the same array have in common; None if it is not JSON."""
    try:
        values = json.loads(document)
        names = ("node_type", "shape", "data_type", "chunk_grid", "dimension_names")
        return [values.get(name) for name in names]
    except (ValueError, AttributeError):
        return None


def _check(node: str, document: dict[str, Any], shard: Shard, values: NDArray[Any]) -> None:
    n_samples, *shape = document["shape"]
    shard_size = _shard_size(document)
    if (shard.start, shard.stop) != (
        shard.index * shard_size,
        min((shard.index + 1) * shard_size, n_samples),
    ):
        raise StoreError(
            f"got {shard!r} for {node!r}, whose shards have {shard_size} of {n_samples} samples",
            fix="cut the data set with the shard size of the plan",
        )
    if values.shape != (len(shard), *shape):
        raise StoreError(
            f"got values of shape {values.shape!r} for {node!r}, expected {(len(shard), *shape)!r}",
            fix="write the whole shard at once, failed samples as rows of NaN",
        )


def _shard_size(document: dict[str, Any]) -> int:
    return int(document["chunk_grid"]["configuration"]["chunk_shape"][0])


def _encode(document: dict[str, Any], values: NDArray[Any]) -> bytes:
    shard_size = _shard_size(document)
    if document["codecs"][0]["name"] == "sharding_indexed":
        return encoding.encode_shard(list(values), shard_size)
    # Without inner chunks every chunk has its full length, even past the end of the array.
    fill = nodes.fill_value(document["data_type"])
    padded = np.full((shard_size, *values.shape[1:]), fill, dtype=values.dtype)
    padded[: len(values)] = values
    return encoding.encode_chunk(padded)
