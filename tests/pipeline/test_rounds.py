"""Scans of several rounds: what they read, what is stored of it, and how it is read again."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from pipeline import paths
from pipeline.ledger import Ledger
from pipeline.run import resume
from pipeline.sinks import results, states
from pipeline.store import open_run
from pipeline.verify import verify
from tests.pipeline.tiny_run import run_tiny, stored
from tests.pipeline.two_rounds import _two_rounds

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_two_rounds")]
__all__ = ["_two_rounds"]

EXPLAINERS = {"brightest": {}, "statistics": {"method": "moments"}}
BAD = {"3": "nan", "17": "truncated"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, _two_rounds: None) -> Path:
    folder = tmp_path_factory.mktemp("rounds")
    source = {"params": {"bad": BAD}}
    summary = run_tiny(folder / "run", folder / "out", explainers=EXPLAINERS, data=source)
    assert summary.exit_code == 5  # for its broken samples
    return folder / "out"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "out")
    shutil.copytree(made.parent / "run", tmp_path / "run")
    return tmp_path / "out"


def images() -> torch.Tensor:
    return torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def expected() -> dict[str, np.ndarray]:
    """Indices of the three brightest good samples of each quarter."""
    found = {"layer.a": images()[:, 0, :4, :4], "layer.b": images()[:, 0, 4:, 4:]}
    good = [index for index in range(40) if str(index) not in BAD]
    sums = {layer: values.sum((1, 2)).double() for layer, values in found.items()}
    return {
        layer: np.array(sorted(good, key=lambda index: -float(values[index]))[:3])
        for layer, values in sums.items()
    }


def test_a_round_reads_the_samples_that_it_wants_and_its_result_joins_that_of_the_first(
    made: Path,
) -> None:
    run = open_run(made)
    result = run.scans["brightest"]
    wanted = np.unique(np.concatenate(list(expected().values())))
    shards = {int(sample) // 8 for sample in wanted}
    assert list(result) == ["layer.a", "layer.b"]
    for layer, best in expected().items():
        assert (result[layer]["sample"] == best).all()
        pictures = result[layer]["pictures"]
        assert (pictures["sample"] == np.sort(best)).all()
        assert (pictures["picture"] == images()[np.sort(best)].half().numpy()).all()
        within = [int((wanted // 8 == sample // 8).sum()) for sample in np.sort(best)]
        assert (pictures["batch"] == [min(4, n) for n in within]).all()  # nobody else was there
    entries = run.entries("brightest.pictures")
    assert set(entries) == set(range(5))
    of_states = {n: states.names(made, "brightest", "pictures", n) for n in entries}
    assert {shard for shard, names in of_states.items() if names} == shards
    assert verify(made) == []


def test_classes_that_are_alike_are_one_array(made: Path) -> None:
    per_class = open_run(made).scans["brightest"]["layer.a"]["per_class"]
    assert list(per_class) == [0, 2]
    assert per_class[2]["sample"].tolist() == [2, 4]  # sample 3 is NaN
    assert per_class.together.shape("sample") == (2, 2)
    objects = results.objects(made, "brightest")
    assert sum("layer.a/per_class" in name for name in objects) == 3  # documents and a chunk
    whole = results.read(made, "brightest")["layer.a"]["per_class"]
    assert {key: found["sample"].tolist() for key, found in whole.items()} == {
        0: [0, 1],
        2: [2, 4],
    }


def test_what_a_scan_keeps_of_each_sample_is_an_array_over_samples(made: Path) -> None:
    run = open_run(made)
    assert run.arrays("brightest") == (
        "layer.a/position",
        "layer.a/total",
        "layer.b/position",
        "layer.b/total",
        "relevance",
    )
    total = run.array("brightest", "layer.b/total")
    assert total.dims == ("sample", "channel")
    good = [index for index in range(40) if str(index) not in BAD]
    bright = images()[:, 0, 4:, 4:].sum((1, 2)).numpy()
    np.testing.assert_allclose(total.values[good, 0], bright[good], rtol=1e-6)
    assert np.isnan(total.values[[3, 17]]).all()
    assert (run.array("brightest", "layer.a/position").values[[3, 17]] == -1).all()
    assert "brightest" not in run.maps
    assert run.not_finite() == {}


def test_a_result_says_where_it_comes_from(made: Path) -> None:
    run = open_run(made)
    origin = results.provenance(made, "brightest")
    assert origin["method"] == "brightest"
    assert origin["parameters"] == {"n": 3}
    assert origin["digests"]["weights"] == run.plan.weights_digest
    assert origin["digests"]["manifest"] == run.plan.manifest_digest
    assert origin["model"]["name"] == "tiny.py:model"
    assert run.scans["brightest"].attributes["provenance"] == origin


def test_a_broken_record_is_noticed_and_mended_to_the_same_bytes(copy: Path) -> None:
    before = stored(copy)
    path = next((copy / "maps.zarr" / "brightest" / "layer.a" / "total").glob("c.1*"))
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    state = copy / "states" / "brightest" / "pictures" / "0.safetensors"
    state.write_bytes(state.read_bytes() + b" ")
    assert {(each.pass_name, each.shard) for each in verify(copy)} == {
        ("explain", 1),
        ("brightest.pictures", 0),
    }
    verify(copy, repair=True)
    assert not results.exists(copy, "brightest")
    assert Ledger(copy).shards("explain") == (0, 2, 3, 4)
    assert resume(copy).exit_code == 5
    assert stored(copy) == before
    assert verify(copy) == []


def test_groups_are_documents_that_verify_knows(copy: Path) -> None:
    group = copy / paths.MAPS / "brightest" / "layer.a" / "zarr.json"
    group.write_text("{}")
    found = {each.object for each in verify(copy)}
    assert found == {"maps.zarr/brightest/layer.a/zarr.json", "maps.zarr/zarr.json"}
    verify(copy, repair=True)
    assert verify(copy) == []
