"""Exports, each read back and compared with the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr

from pipeline.errors import ConfigError, StoreError
from pipeline.evaluate import evaluate
from pipeline.export import export, formats
from pipeline.export.contents import Stored
from pipeline.export.virelay import of_first_target
from tests.pipeline.explained import FAILED, explained

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store import Run

pytestmark = pytest.mark.slow
SPRAY = {
    "min_samples": 3,
    "n_neighbors": 2,
    "n_eigenvalues": 3,
    "max_clusters": 2,
    "n_components": 2,
    "n_checked": 0,
    "by": "label",
}
"""For classes of three maps."""
COLOURS = (
    "gray-red",
    "black-green",
    "black-yellow",
    "black-fire-red",
    "blue-white-red",
    "afm-hot",
    "jet",
    "seismic",
)
"""All colour maps of ViRelAy; some take maps of three channels alone."""
LATE = slice(8, 11)
"""Samples of the shard that is not done."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = explained(tmp_path_factory.mktemp("export"), done=(0, 1))
    evaluate(run)
    return run


def maps_of(run: Run, name: str) -> np.ndarray[Any, Any]:
    return np.asarray(run.maps[name].values)


def test_every_format_is_discovered() -> None:
    assert formats.names() == ("hdf5", "netcdf", "npz", "virelay")


def test_npz_holds_maps_facts_and_scores(run: Run) -> None:
    with np.load(export(run, "npz"), allow_pickle=False) as archive:
        for name in ("gradient", "saliency"):
            np.testing.assert_array_equal(archive[f"{name}/relevance"], maps_of(run, name))
        assert np.isnan(archive["gradient/relevance"][LATE]).all()
        assert archive["samples/status"][FAILED].startswith("<i>")
        assert list(archive["samples/status"][LATE]) == ["not done"] * 3
        assert list(archive["samples/label"]) == [index % 3 for index in range(11)]
        curve = archive["scores/pixel_flipping/saliency/curve"]
        np.testing.assert_array_equal(curve, run.scores("pixel_flipping", "saliency")["curve"])


def test_hdf5_holds_maps_facts_and_scores(run: Run, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(export(run, "hdf5", tmp_path / "some.h5", ["saliency"])) as file:
        assert set(file) == {"saliency", "samples", "scores"}
        np.testing.assert_array_equal(file["saliency/relevance"][:], maps_of(run, "saliency"))
        labels = [axis.label for axis in file["saliency/relevance"].dims]
        assert labels == ["sample", "channel", "height", "width"]
        ids = file["samples/sample_id"].asstr()[:]
        assert list(ids) == [record.sample_id for record in run.manifest.slice(0, 11)]
        scored = file["scores/sparseness/gradient/sparseness"][:]
        expected = run.scores("sparseness", "gradient")["sparseness"]
        np.testing.assert_array_equal(scored, expected)
        assert file.attrs["digest"] == run.plan.digest


def test_xarray_opens_netcdf_as_a_tree(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("h5netcdf")
    path = export(run, "netcdf", tmp_path / "run.nc")
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        found = tree["saliency/relevance"]
        assert found.dims == ("sample", "channel", "height", "width")
        np.testing.assert_array_equal(found.values, maps_of(run, "saliency"))
        picked = tree["samples"].to_dataset().sel(sample=7)
        assert int(picked["label"]) == 1
        said = run.maps["gradient"].sel(sample=7)
        assert int(picked["prediction"]) == int(said.prediction)
        assert int(picked["target"]) == int(said.target)
        curve = tree["scores/pixel_flipping/gradient/curve"].values
        np.testing.assert_array_equal(curve, run.scores("pixel_flipping", "gradient")["curve"])


def test_virelay_loads_its_project(run: Run, tmp_path: Path) -> None:
    virelay = pytest.importorskip("virelay.model")
    folder = export(run, "virelay", tmp_path / "virelay")
    project = virelay.Project(str(folder / "project-saliency.yaml"))
    try:
        maps = maps_of(run, "saliency")
        for index in (0, 7):
            attribution = project.get_attribution(index)
            expected = np.moveaxis(maps[index], 0, -1)
            np.testing.assert_array_equal(attribution.data, expected)
            assert attribution.labels[0].index == index % 3
            assert attribution.labels[0].name == ["ant & co", "<b>bee</b>", "cat"][index % 3]
            said = int(run.maps["saliency"].sel(sample=index).prediction)
            assert int(attribution.prediction.argmax()) == said
            sample = project.get_sample(index)
            assert sample.data.shape == (6, 6, 3)
            assert sample.data.dtype == np.uint8
            for colours in COLOURS:
                assert attribution.render_heatmap(colours).shape == (6, 6, 3)
        for missing in (FAILED, 9):
            with pytest.raises(LookupError):
                project.get_attribution(missing)
    finally:
        project.close()


@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        (("height", "width"), (5, 4)),
        (("channel", "height", "width"), (1, 5, 4)),
        (("channel", "height", "width"), (32, 5, 4)),
        (("target", "channel", "height", "width"), (2, 7, 5, 4)),
    ],
)
@pytest.mark.parametrize("colours", COLOURS)
def test_virelay_draws_the_sum_of_maps_of_any_number_of_channels(
    dims: tuple[str, ...], shape: tuple[int, ...], colours: str
) -> None:
    virelay = pytest.importorskip("virelay.model")
    values = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    stored = Stored("lrp", "relevance", xr.DataArray(values, dims=("sample", *dims)))
    (_, found) = of_first_target(stored, slice(0, 2))
    expected = values[1, 0] if "target" in dims else values[1]
    expected = expected.sum(axis=0) if expected.ndim == 3 else expected
    np.testing.assert_array_equal(found.sum(axis=-1), expected)
    drawn = virelay.Attribution(1, found.copy(), [], np.zeros(3)).render_heatmap(colours)
    assert drawn.shape == (5, 4, 3)


def test_virelay_loads_the_clusters_of_maps(run: Run, tmp_path: Path) -> None:
    virelay = pytest.importorskip("virelay.model")
    pytest.importorskip("sklearn")
    evaluate(run, spray={"gradient": SPRAY})
    found = run.spray["gradient"]
    assert set(found.views) == {"class:0", "class:1", "global"}
    folder = export(run, "virelay", tmp_path / "virelay")
    assert not (folder / "analysis-saliency.h5").exists()
    project = virelay.Project(str(folder / "project-gradient.yaml"))
    try:
        assert project.get_analysis_methods() == ["spectral"]
        categories = {
            each.name: each.human_readable_name
            for each in project.get_analysis_categories("spectral")
        }
        assert categories["00000000"] == "ant & co"
        assert categories["00000001"] == "<b>bee</b>"
        assert set(categories) == {"00000000", "00000001", "global"}
        assert project.get_analysis_clustering_names("spectral") == ["kmeans"]
        assert project.get_analysis_embedding_names("spectral") == ["spectral"]
        for category, view in zip(sorted(categories), found.views.values(), strict=True):
            analysis = project.get_analysis("spectral", category, "kmeans", "spectral")
            np.testing.assert_array_equal(analysis.clustering, view.labels)
            np.testing.assert_array_equal(analysis.embedding, view.embedding)
            np.testing.assert_array_equal(analysis.attribution_indices, view.samples)
            expected = view.eigenvalues.astype(np.float32)
            np.testing.assert_array_equal(analysis.eigenvalues, expected)
            # what a point of the embedding shows when one asks for it
            shown = project.get_attribution(int(analysis.attribution_indices[-1]))
            stored = maps_of(run, "gradient")[view.samples[-1]]
            np.testing.assert_array_equal(shown.data, np.moveaxis(stored, 0, -1))
    finally:
        project.close()


def test_what_was_exported_before_is_replaced_but_nothing_else(run: Run, tmp_path: Path) -> None:
    first = export(run, "npz")
    assert export(run, "npz") == first
    assert [path.name for path in first.parent.glob("*npz*")] == ["run.npz"]
    other = tmp_path / "mine.npz"
    other.write_text("precious")
    with pytest.raises(StoreError, match="is there already"):
        export(run, "npz", other)
    assert other.read_text() == "precious"


def test_what_cannot_be_exported_is_refused(run: Run) -> None:
    with pytest.raises(ConfigError, match="did you mean 'netcdf'"):
        export(run, "netcdf4")
    with pytest.raises(ConfigError, match="did you mean 'saliency'"):
        export(run, "npz", explainers=["salience"])
