"""Spectral analyses in a run's folder: one file of arrays each, and a record of its digest."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from pipeline import paths
from pipeline.errors import StoreError
from pipeline.sinks.records import Records
from pipeline.spray.probes import Probe
from pipeline.spray.result import Analysis, Cluster, Counterfactual, View

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

RESULT = "result.safetensors"
"""What was found, with the verdicts."""
CLUSTERS = "clusters.safetensors"
"""The same before anything was checked."""
PROBES = "probes.safetensors"
"""What is checked."""
STAGE = "stage.json"
"""Digests that the records of its passes carry, and what the parts were made from."""
POOL, CHECK = "pool", "check"
"""Last parts of the names of its passes."""

DOCUMENT = "document"
"""Metadata of a file: all that is no array, as JSON."""

_RECORDS = Records(paths.SPRAY, paths.spray_path)
exists, names, objects = _RECORDS.exists, _RECORDS.names, _RECORDS.objects

_OF_VIEWS = ("samples", "labels", "embedding", "eigenvalues")
_OF_CLUSTERS = ("mean", "contrast", "hot")
_OF_PROBES = ("mask", "patches", "controls", "inside", "outside", "others")


def pooled_path(explainer: str, shard: int) -> str:
    """Where the pooled maps of one shard are."""
    return paths.spray_path(explainer, f"{POOL}/{shard}.safetensors")


def outcomes_path(explainer: str, shard: int) -> str:
    """Where the outcomes of one shard's checks are."""
    return paths.spray_path(explainer, f"{CHECK}/{shard}.parquet")


def read(root: str | os.PathLike[str], explainer: str, file: str = RESULT) -> Analysis:
    """Return an analysis.

    Raises
    ------
    StoreError
        If there is none or it cannot be read.
    """
    if file == RESULT and not exists(root, explainer):
        raise StoreError(
            f"there is no finished spectral analysis of {explainer!r}",
            fix=f"xpipe evaluate --spray {explainer} makes it",
            page="not-in-run",
        )
    document, arrays = arrays_of(root, paths.spray_path(explainer, file))
    views = {name: _view(name, told, arrays) for name, told in document.pop("views").items()}
    skipped = {int(target): count for target, count in document.pop("skipped").items()}
    return Analysis(**{**document, "grid": tuple(document["grid"])}, views=views, skipped=skipped)


def write(
    root: str | os.PathLike[str], explainer: str, analysis: Analysis, file: str
) -> dict[str, str]:
    """Write an analysis as one file, and return its path and SHA-256."""
    document: dict[str, Any] = _plain(analysis, ("views",))
    document["views"] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for name, view in analysis.views.items():
        own = _plain(view, (*_OF_VIEWS, "clusters"))
        arrays |= {f"{name}/{key}": getattr(view, key) for key in _OF_VIEWS}
        own["clusters"] = []
        for cluster in view.clusters:
            told = _plain(cluster, (*_OF_CLUSTERS, "counterfactual"))
            outcome = cluster.counterfactual
            told["counterfactual"] = None if outcome is None else asdict(outcome)
            own["clusters"].append(told)
            arrays |= {
                f"{name}/{cluster.label}/{key}": getattr(cluster, key) for key in _OF_CLUSTERS
            }
        document["views"][name] = own
    return put(root, paths.spray_path(explainer, file), document, arrays)


def withdraw(root: str | os.PathLike[str], explainer: str) -> None:
    """Remove an analysis, the record first; what is pooled and the outcomes of checks stay."""
    folder = paths.Folder(root)
    folder.remove(paths.spray_record_path(explainer))
    for file in (RESULT, CLUSTERS, PROBES):
        folder.remove(paths.spray_path(explainer, file))


def finish(root: str | os.PathLike[str], explainer: str, written: dict[str, str]) -> None:
    """Write the record of an analysis, last of all."""
    _RECORDS.write(root, explainer, written)


def write_probes(
    root: str | os.PathLike[str], explainer: str, probes: Sequence[Probe]
) -> dict[str, str]:
    """Write what is to be checked, and return path and SHA-256."""
    arrays = {
        f"{number}/{key}": getattr(probe, key)
        for number, probe in enumerate(probes)
        for key in _OF_PROBES
    }
    of = [[probe.target, probe.label] for probe in probes]
    return put(root, paths.spray_path(explainer, PROBES), {"of": of}, arrays)


def read_probes(root: str | os.PathLike[str], explainer: str) -> list[Probe]:
    """Return what is to be checked.

    Raises
    ------
    StoreError
        If it cannot be read.
    """
    document, arrays = arrays_of(root, paths.spray_path(explainer, PROBES))
    return [
        Probe(target, label, **{key: arrays[f"{number}/{key}"] for key in _OF_PROBES})
        for number, (target, label) in enumerate(document["of"])
    ]


def stage(root: str | os.PathLike[str], explainer: str) -> dict[str, Any]:
    """Return the digests of an analysis's parts; empty if nothing is known."""
    try:
        content = paths.Folder(root).read(paths.spray_path(explainer, STAGE))
        return dict(json.loads(content))
    except (FileNotFoundError, ValueError):
        return {}


def digest_of_pass(root: str | os.PathLike[str], pass_name: str) -> str | None:
    """Return the digest that records of ``spray.<explainer>.<stage>`` carry; None if unknown."""
    _, explainer, part = pass_name.split(".")
    digest = stage(root, explainer).get(part)
    return None if digest is None else str(digest)


def put(
    root: str | os.PathLike[str],
    path: str,
    document: Any,
    arrays: dict[str, NDArray[Any]],
) -> dict[str, str]:
    """Write arrays and plain values as one file; equal ones give equal bytes."""
    held = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    text = json.dumps(document, sort_keys=True)
    return {path: paths.Folder(root).write(path, save(held, {DOCUMENT: text}))}


def arrays_of(root: str | os.PathLike[str], path: str) -> tuple[Any, dict[str, NDArray[Any]]]:
    """Return plain values and arrays of a file that `put` wrote.

    Raises
    ------
    StoreError
        If it cannot be read.
    """
    folder = paths.Folder(root)
    try:
        with folder.local(path) as local, safe_open(local, framework="numpy") as file:
            document = json.loads((file.metadata() or {})[DOCUMENT])
        return document, load(folder.read(path))
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise StoreError(
            f"cannot read {path!r}: {error}",
            fix="run `xpipe verify --repair` on the run, then `xpipe evaluate` again",
            page="integrity",
        ) from error


def _plain(value: Any, without: Sequence[str]) -> dict[str, Any]:
    kept = (field.name for field in fields(value) if field.name not in without)
    return {name: getattr(value, name) for name in kept}


def _view(name: str, told: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> View:
    own: dict[str, Any] = {key: arrays[f"{name}/{key}"] for key in _OF_VIEWS}
    clusters = tuple(_cluster(name, each, arrays) for each in told["clusters"])
    return View(**{**told, **own, "clusters": clusters})


def _cluster(view: str, told: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Cluster:
    own: dict[str, Any] = {key: arrays[f"{view}/{told['label']}/{key}"] for key in _OF_CLUSTERS}
    own |= {name: tuple(told[name]) for name in ("medoids", "location")}
    outcome = told["counterfactual"]
    own["counterfactual"] = None if outcome is None else Counterfactual(**outcome)
    return Cluster(**{**told, **own})
