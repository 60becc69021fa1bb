"""Rate-distortion curves and masks in a run and on its page."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from pipeline.config import load
from pipeline.data import Record, read_masks
from pipeline.report import build
from pipeline.run import run as run_config
from pipeline.store import Run, open_run

if TYPE_CHECKING:
    from pathlib import Path

SOURCES = """
import torch
from torch import nn


class Rows(torch.utils.data.Dataset):
    targets = [index % 3 for index in range(7)]

    def __init__(self, shape):
        self.shape = shape

    def __len__(self):
        return 7

    def __getitem__(self, index):
        inputs = torch.rand(*self.shape, generator=torch.Generator().manual_seed(index))
        mask = inputs.sum(0) > inputs.sum(0).mean() if inputs.ndim > 1 else inputs > 0.5
        return {"input": inputs, "label": self.targets[index], "mask": mask & (index != 4)}


def model(n=48):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(n, 8), nn.ReLU(), nn.Linear(8, 3))
"""
METRICS = {
    "rate_distortion_curve": {"n_draws": 4, "n_steps": 5},
    "mask_correlation": {},
    "mask_jaccard": {"channels": "each"},
}


def made(folder: Path, shape: tuple[int, ...], shard_size: int, **fields: Any) -> Run:
    (folder / "sources.py").write_text(SOURCES)
    settings = {
        "name": "curves",
        "model": {"source": "python", "name": "sources.py:model"},
        "data": {
            "source": "python",
            "function": "sources.py:Rows",
            "params": {"shape": shape},
            "masks": True,
        },
        "explainers": {"gradient": {}, "input_x_gradient": {}},
        "metrics": METRICS,
        "output": {"path": str(folder / f"run{shard_size}"), "shard_size": shard_size},
        "engine": {"kind": "serial", "batch_size": min(3, shard_size)},
        **fields,
    }
    (folder / "run.yaml").write_text(json.dumps(settings))
    summary = run_config(load(folder / "run.yaml"))
    assert summary.exit_code == 0
    return open_run(settings["output"]["path"])


@pytest.mark.slow
def test_shards_change_no_score_and_the_page_shows_curves_beside_the_control(
    tmp_path: Path,
) -> None:
    run, other = (made(tmp_path, (3, 4, 4), size) for size in (7, 2))
    for metric in METRICS:
        for column, values in run.scores(metric, "gradient").items():
            # float32 rows in batches of other sizes
            other_values = other.scores(metric, "gradient")[column]
            np.testing.assert_allclose(values, other_values, rtol=1e-4, atol=1e-6)
    columns = run.scores("rate_distortion_curve", "gradient")
    assert columns["distortion"].shape == (7, 6)
    assert np.isfinite(columns["accuracy"]).all()
    assert np.isnan(run.scores("mask_jaccard", "gradient")["mask_jaccard"]).tolist() == [
        index == 4 for index in range(7)
    ]
    html = build(run).read_text()
    page = html[html.index('id="curves"') : html.index('id="classes"')]
    assert page.count("<svg") == 2  # errors and controls are no curves of their own
    assert page.count('class="line control"') == 2
    assert page.count('class="band"') == 2 * (2 + 1)  # of two explainers and the control
    assert page.count("non-randomised components, %</text>") == 2
    # the share of the variance that comes from drawing, of two explainers and two curves
    shares = [float(share) for share in re.findall(r"([\d.]+) %</td>", page)]
    assert len(shares) == 4
    error, spread = columns["distortion_error"], columns["distortion"].std(axis=0, ddof=1)
    expected = 100 * (error**2).mean(axis=0).sum() / (spread**2).sum()
    assert any(abs(share - expected) < 0.06 for share in shares[:2])


@pytest.mark.slow
def test_a_run_of_rows_has_masks_of_rows(tmp_path: Path) -> None:
    model = {"source": "python", "name": "sources.py:model", "params": {"n": 10}}
    run = made(tmp_path, (10,), 7, model=model)
    assert np.isfinite(run.scores("rate_distortion_curve", "gradient")["auc"]).all()
    defined = np.isfinite(run.scores("mask_correlation", "gradient")["mask_correlation"])
    assert defined.tolist() == [index != 4 for index in range(7)]


def test_a_mask_of_a_row_has_height_1() -> None:
    class Source:
        def load_mask(self, record: Record) -> torch.Tensor:
            return torch.arange(3 + record.index) > 1

    records = [Record(index, str(index), str(index), 0, str(index)) for index in range(2)]
    found = read_masks(Source(), records, (1, 3))  # type: ignore[arg-type]
    assert found.tolist() == [[[False, False, True]], [[False] * 3]]
