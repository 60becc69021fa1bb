"""A folder that ViRelAy opens: inputs, maps, their clusters, and a project for each explainer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from pipeline.data import open_source, read_batch
from pipeline.errors import ConfigError
from pipeline.export.contents import main_array
from pipeline.export.formats import library, register
from pipeline.export.hdf5 import chunks
from pipeline.inputs import ALONE, is_one_picture, parts_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.export.contents import Contents, Stored
    from pipeline.spray.result import Analysis, View
    from pipeline.store import Run

UNKNOWN = "unknown"
"""Name of the label of samples that have none."""
PLAIN = {"up_sampling_method": "none", "down_sampling_method": "none"}


@register("virelay", "virelay")
def write(contents: Contents, path: Path) -> None:
    """Write ``project-<explainer>.yaml`` for each explainer of images, and what they name.

    ``data.h5`` has all samples as 8-bit RGB; ``attributions-<explainer>.h5`` the maps of samples
    that have one, under the numbers of the samples; ``analysis-<explainer>.h5`` the embeddings and
    clusters of its spectral relevance analysis, if there is one. Of several targets the maps are
    of the first. ViRelAy draws the sum over three channels: that of other maps is the first, and
    the others are zero. Where it expects the network's output there is a 1 at the predicted class.

    Raises
    ------
    ConfigError
        If the run's samples are no images.
    """
    library("h5py")
    maps = [stored for stored in contents.arrays() if main_array(stored) and _is_image(stored)]
    if not is_one_picture(contents.run.plan.form) or not maps:
        raise ConfigError(
            f"ViRelAy shows maps of images, and {contents.run.path} has none",
            fix="export it as hdf5, netcdf or npz",
        )
    path.mkdir(parents=True)
    labels = _Labels.of(contents)
    (path / "label-map.json").write_text(json.dumps(labels.entries(), indent=1))
    height, width = _write_inputs(contents, labels, path / "data.h5")
    for stored in maps:
        _write_maps(contents, labels, stored, path / f"attributions-{stored.group}.h5")
        has_analysis = _write_analysis(contents.run, stored.group, path)
        project = _project(contents, stored.group, (height, width), has_analysis=has_analysis)
        text = yaml.safe_dump(project, sort_keys=False)
        (path / f"project-{stored.group}.yaml").write_text(text)


@dataclass(frozen=True)
class _Labels:
    """The classes, with one more for samples whose class is not known."""

    names: tuple[str, ...]
    of_samples: NDArray[np.int64]
    predictions: NDArray[np.int64]

    @classmethod
    def of(cls, contents: Contents) -> _Labels:
        run = contents.run
        known = open_source(run.config.data, run.config.base).class_names or ()
        given = contents.samples["label"]
        predictions = contents.samples.get("prediction", np.full(len(given), -1))
        n = max(run.plan.n_classes, len(known), int(given.max(initial=-1)) + 1)
        names = (*known, *map(str, range(len(known), n)), UNKNOWN)
        return cls(names, np.where(given < 0, n, given), predictions)

    def entries(self) -> list[dict[str, Any]]:
        """Return the label map; ViRelAy wants all three keys, whatever the data set."""
        return [
            {"index": index, "word_net_id": _category(index), "name": name}
            for index, name in enumerate(self.names)
        ]

    def outputs(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return a 1 at the predicted class of each sample, ``(rows, classes)``."""
        found = np.zeros((len(rows), len(self.names)), np.float32)
        known = self.predictions[rows] >= 0
        found[known, self.predictions[rows][known]] = 1
        return found


def _category(index: int) -> str:
    return f"{index:08d}"


def _is_image(stored: Stored) -> bool:
    return stored.dims[-2:] == ("height", "width")


def _write_inputs(contents: Contents, labels: _Labels, path: Path) -> tuple[int, int]:
    """Write the samples as people see them and return their height and width."""
    run = contents.run
    height, width = run.plan.input_shape[-2:]
    shape = (run.plan.n_samples, height, width, 3)
    with library("h5py").File(path, "w") as file:
        # channels last: ViRelAy takes the shortest axis for the channels
        data = file.create_dataset("data", shape, np.uint8, chunks=chunks(shape, 1, 256))
        file.create_dataset("label", data=labels.of_samples.astype(np.uint16))
        for rows, pictures in _pictures(run, contents.slices):
            data[rows] = pictures
    return height, width


def _pictures(run: Run, slices: Iterator[slice]) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
    """Yield the samples of each shard, black where one cannot be read."""
    source = open_source(run.config.data, run.config.base)
    height, width = run.plan.input_shape[-2:]
    for rows in slices:
        records = run.manifest.slice(rows.start, rows.stop)
        found = np.zeros((len(records), height, width, 3), np.uint8)
        inputs, good, _ = read_batch(source, records, run.plan.form)
        if good:
            shown = source.display(parts_of(inputs)[ALONE]).float().numpy()
            found[good] = _rgb(shown.reshape(len(good), -1, height, width))
        yield rows, found


def _rgb(shown: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return pictures ``(rows, channels, height, width)`` in [0, 1] as 0 to 255, channels last."""
    channels = [0, 1, 2] if shown.shape[1] == 3 else [0, 0, 0]
    return np.rint(np.clip(np.moveaxis(shown[:, channels], 1, -1), 0, 1) * 255)


def _write_maps(contents: Contents, labels: _Labels, stored: Stored, path: Path) -> None:
    """Write the finite maps of an explainer, each under the number of its sample."""
    with library("h5py").File(path, "w") as file:
        for rows in contents.slices:
            values = of_first_target(stored, rows)
            good = np.isfinite(values).all(axis=(1, 2, 3))
            index = np.arange(rows.start, rows.stop)[good]
            parts = {
                "attribution": values[good].astype(np.float32),
                "index": index.astype(np.uint32),
                "label": labels.of_samples[index].astype(np.uint16),
                "prediction": labels.outputs(index),
            }
            _append(file, parts)


def _append(file: Any, parts: Mapping[str, NDArray[Any]]) -> None:
    """Add rows to data sets, which are made when the first come."""
    for name, values in parts.items():
        if name not in file:
            file.create_dataset(
                name,
                data=values,
                maxshape=(None, *values.shape[1:]),
                chunks=chunks(values.shape, values.itemsize, 256),
            )
            continue
        n = len(file[name])
        file[name].resize(n + len(values), axis=0)
        file[name][n:] = values


def of_first_target(stored: Stored, rows: slice) -> NDArray[Any]:
    """Return maps ``(rows, height, width, 3)``, of the first of several maps of a sample."""
    of_map = 3 if "channel" in stored.dims else 2
    values = stored.rows(rows)
    values = values.reshape(len(values), -1, *values.shape[-of_map:])[:, 0]
    if of_map == 3 and values.shape[1] == 3:
        return np.moveaxis(values, 1, -1)
    summed = values.sum(axis=1) if of_map == 3 else values
    return np.stack([summed, np.zeros_like(summed), np.zeros_like(summed)], axis=-1)


def _write_analysis(run: Run, explainer: str, path: Path) -> bool:
    """Write the spectral analysis of an explainer, and whether there is one."""
    if explainer not in run.spray:
        return False
    analysis: Analysis = run.spray[explainer]
    with library("h5py").File(path / f"analysis-{explainer}.h5", "w") as file:
        for view in analysis.views.values():
            _write_view(file, view)
    return bool(analysis.views)


def _write_view(file: Any, view: View) -> None:
    """Write what ViRelAy calls a category; all have the same embeddings and clusterings."""
    group = file.create_group(_category(view.target) if view.target >= 0 else view.name)
    index = view.samples.astype(np.uint32)
    group.create_dataset("index", data=index)
    spectral = group.create_dataset("embedding/spectral", data=view.embedding.astype(np.float32))
    spectral.attrs.update(
        embedding="spectral", eigenvalue=view.eigenvalues.astype(np.float32), index=index
    )
    clusters = group.create_dataset("cluster/kmeans", data=view.labels.astype(np.int32))
    clusters.attrs.update(embedding="spectral", k=len(view.clusters), index=index)


def _project(
    contents: Contents, explainer: str, size: tuple[int, int], *, has_analysis: bool
) -> dict[str, Any]:
    config = contents.run.config
    height, width = size
    is_of_label = str(contents.run.plan.targets[0]) == "label"
    project: dict[str, Any] = {
        "name": f"{config.name}: {explainer}",
        "model": config.model.name,
        "label_map": "label-map.json",
        "dataset": {
            "name": config.data.source,
            "type": "hdf5",
            "path": "data.h5",
            "input_width": width,
            "input_height": height,
            **PLAIN,
        },
        "attributions": {
            "attribution_method": explainer,
            "attribution_strategy": "true_label" if is_of_label else "predicted_label",
            "sources": [f"attributions-{explainer}.h5"],
        },
    }
    if has_analysis:
        analysis = {"analysis_method": "spectral", "sources": [f"analysis-{explainer}.h5"]}
        project["analyses"] = [analysis]
    return {"project": project}
