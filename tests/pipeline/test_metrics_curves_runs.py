"""Curves of stored maps: the same numbers in any shards and batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.data import open_source
from pipeline.evaluate import evaluate
from pipeline.metrics import build
from pipeline.networks import network_of
from tests.pipeline.explained import FAILED, explained

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store import Run

pytestmark = pytest.mark.slow

METRICS: dict[str, dict[str, Any]] = {
    "insertion": {"baseline": {"blur": 1.0}},
    "noise": {"method": "insertion", "baseline": "uniform", "features_in_step": 5},
    "region_perturbation": {"patch_size": [4, 2]},
    "selectivity": {"patch_size": 2, "output_space": "logit"},
    "irof": {"n_segments": 6},
    "monotonicity": {"n_steps": 6},
}


def scored(folder: Path, shard_size: int, batch_size: int) -> Run:
    folder.mkdir()
    run = explained(
        folder,
        tuple(range(-(-11 // shard_size))),
        metrics=METRICS,
        explainers={"gradient": {}},
        output={"path": str(folder / "run"), "shard_size": shard_size},
        engine={"kind": "serial", "batch_size": batch_size},
    )
    source = open_source(run.config.data, run.config.base)
    # as long as somebody holds the network, evaluations do not read the model again
    network = network_of(run.config, run.plan, source, run.manifest)
    assert evaluate(run).exit_code == 5  # one sample is NaN
    del network
    return run


def test_scores_of_a_run_depend_on_neither_shards_nor_batches(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    few, many = scored(tmp_path / "few", 11, 64), scored(tmp_path / "many", 2, 1)
    for name, settings in METRICS.items():
        whole, split = few.scores(name, "gradient"), many.scores(name, "gradient")
        metric = build(name, settings)
        assert metric.headline in whole
        for curve in metric.curves((3, 6, 6)):
            assert whole[curve.column].shape[1] == len(curve.x)
            assert curve.area in whole
        for column, values in whole.items():
            # float32: batches of other sizes sum in another order
            np.testing.assert_allclose(values, split[column], rtol=1e-5, atol=1e-5)
            assert np.isnan(values[FAILED]).all()
            assert np.isfinite(np.delete(values, FAILED, axis=0)).all()
