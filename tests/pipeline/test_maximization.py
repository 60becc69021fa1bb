"""Real scans of several rounds in real runs: killed, repaired, with broken samples, and re-read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr

from pipeline import maxima
from pipeline.config import load
from pipeline.errors import StoreError
from pipeline.ledger import Ledger
from pipeline.run import resume, run
from pipeline.store import open_run
from pipeline.verify import verify
from tests.pipeline.tiny_run import run_in_process, stored, write_run

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store import Run

pytestmark = pytest.mark.slow

SHARED = {"layers": "type:Convolution", "k": 5, "references": 2}
EXPLAINERS: dict[str, Any] = {
    "relmax": {"method": "relevance_maximization", "keep": "scores", **SHARED},
    "actmax": {"method": "activation_maximization", **SHARED, "references": 0},
}
BAD = {"3": "nan", "17": "truncated"}
SECTIONS = {"explainers": EXPLAINERS, "data": {"params": {"bad": BAD}}}
LAYERS = {"0": 4, "2": 6}
GOOD = np.array([index for index in range(40) if str(index) not in BAD])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maximization")
    # killed in the middle of the first pass, and resumed
    run_file = write_run(folder / "run", folder / "out", **SECTIONS)
    (folder / "run" / "kill_28").write_text("once")
    process = run_in_process(run_file)
    process.communicate(timeout=200)
    assert process.returncode == -9
    assert 0 < len(Ledger(folder / "out").entries("explain")) < 5
    assert resume(folder / "out").exit_code == 5  # for its broken samples
    return folder / "out"


def scores_of(found: Run, layer: str) -> dict[str, np.ndarray]:
    """Return all four scores of the good samples, as they are defined."""
    raw = {
        "sum": found.array("relmax", f"{layer}/total").values[GOOD],
        "max": found.array("relmax", f"{layer}/peak").values[GOOD],
    }
    normed = {
        f"{name}_normed": values / (np.abs(values).sum(1, keepdims=True) + np.float32(1e-10))
        for name, values in raw.items()
    }
    return raw | normed


def best(values: np.ndarray, samples: np.ndarray, k: int) -> np.ndarray:
    """Return the samples of the greatest values of every channel, ties by sample, (rank, n)."""
    order = [np.lexsort((samples, -column)) for column in values.T]
    return np.stack([samples[each[:k]] for each in order], 1)


def test_lists_are_those_of_the_kept_scores_and_broken_samples_are_in_none(made: Path) -> None:
    found = open_run(made)
    labels = found.manifest.labels[GOOD]
    for layer in LAYERS:
        for score, values in scores_of(found, layer).items():
            lists = found.scans["relmax"][layer][score]
            assert (lists["sample"] == best(values, GOOD, 5)).all()
            assert not np.isin(lists["sample"], [3, 17]).any()
            # one rounding of a division; sums are as they were
            ranked = -np.sort(-values, axis=0)[:5]
            np.testing.assert_allclose(lists["value"], ranked, rtol=3e-7)
            for label, of_class in found.scans["relmax"][layer]["per_class"].items():
                is_class = labels == label
                expected = best(values[is_class], GOOD[is_class], 5)
                assert (of_class[score]["sample"] == expected).all()
    assert np.isnan(found.array("relmax", "0/total").values[[3, 17]]).all()


def test_references_follow_the_lists(made: Path) -> None:
    found = open_run(made).scans["relmax"]
    for layer, n in LAYERS.items():
        references = found[layer]["references"]
        assert (references["sample"] == found[layer]["sum_normed"]["sample"][:2]).all()
        assert references.shape("heatmap") == (2, n, 8, 8)
        assert np.abs(references.part("heatmap", (0, slice(2)))).max() == 1
        assert found[layer]["quality"].shape("clarity") == (n,)


def test_xarray_knows_ranks_channels_and_classes(made: Path) -> None:
    layer = xr.open_datatree(made / "scans/relmax.zarr", engine="zarr")["2"]
    best_sums = layer["sum/value"].where(layer["sum/sample"] >= 0)
    assert best_sums.sizes == {"rank": 5, "channel": 6}
    of_class = layer["per_class/sum/sample"]
    assert of_class.sizes == {"class": 3, "rank": 5, "channel": 6}
    whole = open_run(made).scans["relmax"]["2"]["per_class"]
    assert layer["per_class"]["class"].values.tolist() == list(whole) == [0, 1, 2]
    sizes = {"rank": 2, "channel": 6, "height": 8, "width": 8}
    assert layer["references/heatmap"].sizes == sizes
    assert layer["references/crop"].dims == ("rank", "channel", "box")
    assert layer["quality/nearest"].dims == ("channel",)


def test_kept_scores_give_the_same_lists_and_others_without_a_forward(made: Path) -> None:
    found = open_run(made)
    again = maxima.lists(found, "relmax", k=5, per_class=5)
    whole = found.scans["relmax"].load()
    for layer in LAYERS:
        for score in ("sum", "sum_normed", "max", "max_normed"):
            for entry in ("sample", "value", "position"):
                same = whole[layer][score][entry]
                np.testing.assert_array_equal(again[layer][score][entry], same)
                for label in range(3):
                    of_class = whole[layer]["per_class"][label][score][entry]
                    other = again[layer]["per_class"][label][score][entry]
                    np.testing.assert_array_equal(other, of_class)
    values = scores_of(found, "2")["sum"]
    longer = maxima.lists(found, "relmax", k=50, per_class=True, layers="2")["2"]["sum"]["sample"]
    assert (longer.numpy() == best(values, GOOD, 50)).all()
    halves = np.arange(40) // 20
    split = maxima.lists(found, "relmax", k=1, per_class=3, by=halves, layers=["2"])["2"]
    is_late = halves[GOOD] == 1
    expected = best(values[is_late], GOOD[is_late], 3)
    assert (split["per_class"][1]["sum"]["sample"].numpy() == expected).all()
    predicted = maxima.lists(found, "relmax", per_class=1, by="prediction", layers=["0"])
    assert set(predicted["0"]["per_class"]) == set(found.array("", "prediction").values[GOOD])
    with pytest.raises(StoreError, match="keep: scores"):
        maxima.lists(found, "actmax")
    with pytest.raises(StoreError, match="name one of 0, 2"):
        maxima.lists(found, "relmax", layers=["7"])
    with pytest.raises(TypeError, match="whole numbers"):
        maxima.lists(found, "relmax", by=np.zeros(40))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one for each of the 40 samples"):
        maxima.lists(found, "relmax", by=[0, 1])


def test_plan_tells_of_later_passes_and_of_what_is_stored(made: Path) -> None:
    plan = open_run(made).plan
    assert any("example references, which read some of" in note for note in plan.notes)
    # 4 + 6 channels with two floats and an integer, of 40 samples
    assert 40 * 10 * (4 + 4 + 4) <= plan.bytes["arrays"] <= 40 * 10 * (4 + 4 + 8)
    assert plan.bytes["results"] > 2 * 10 * 64 * 2
    names = ("maps", "arrays", "states", "results")
    assert plan.bytes["total"] == sum(plan.bytes[name] for name in names)


def test_a_flipped_byte_of_a_result_is_found_and_mended(made: Path) -> None:
    before = stored(made)
    path = made / "scans/relmax.zarr/0/references/heatmap/c.0.0.0.0"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot read the result"):
        open_run(made).scans["relmax"]["0"]["references"]["heatmap"]
    problems = [problem for problem in verify(made) if not problem.is_note]
    assert [problem.kind for problem in problems] == ["damaged"]
    verify(made, repair=True)
    assert resume(made).exit_code == 5
    assert verify(made) == []
    assert stored(made) == before


@pytest.mark.ray
@pytest.mark.long
def test_several_workers_give_the_bytes_of_one_that_was_killed(made: Path, tmp_path: Path) -> None:
    run_file = write_run(tmp_path / "run", tmp_path / "out", **SECTIONS)
    config = load(run_file, ["engine.kind=ray", "engine.workers=2"])
    assert run(config).exit_code == 5
    assert stored(tmp_path / "out") == stored(made)
