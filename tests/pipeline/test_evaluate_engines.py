"""Scores are the same to the byte, whoever computes them and however often they are begun."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from pipeline.evaluate import evaluate
from tests.pipeline import tiny_run

if TYPE_CHECKING:
    from pathlib import Path

METRICS = {
    "faithfulness_correlation": {"n_draws": 6},
    "max_sensitivity": {"n_draws": 2},
    "mprt": {},
    "road": {"percentages": [20, 60]},
}
EXPLAINERS = {"saliency": {}, "smooth": {"method": "smooth_grad", "n_samples": 2}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without scores, beside its code."""
    folder = tmp_path_factory.mktemp("engines")
    tiny_run.run_tiny(folder, folder / "out", explainers=EXPLAINERS, metrics=METRICS)
    shutil.rmtree(folder / "out" / "scores")
    for path in (folder / "out" / "ledger").glob("evaluate.*"):
        shutil.rmtree(path)
    return folder


def scores_of(run: Path) -> dict[str, bytes]:
    files = sorted((run / "scores").rglob("*.parquet"))
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, bytes]:
    copy = shutil.copytree(folder / "out", folder / "serial")
    assert evaluate(copy, METRICS).exit_code == 0
    found = scores_of(copy)
    assert len(found) == len(METRICS) * len(EXPLAINERS) * 5
    return found


@pytest.mark.ray
def test_two_workers_give_the_scores_of_one(folder: Path, expected: dict[str, bytes]) -> None:
    copy = shutil.copytree(folder / "out", folder / "ray")
    assert evaluate(copy, METRICS, engine="ray").exit_code == 0
    assert scores_of(copy) == expected


@pytest.mark.slow
def test_a_killed_evaluation_is_whole_when_it_is_begun_again(
    folder: Path, expected: dict[str, bytes]
) -> None:
    copy = shutil.copytree(folder / "out", folder / "killed")
    code = (
        f"import sys\nfrom pipeline.evaluate import evaluate\nevaluate(sys.argv[1], {METRICS!r})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(copy)], cwd=tiny_run.ROOT)
    record = copy / "ledger" / "evaluate.max_sensitivity" / "1.json"
    deadline = time.monotonic() + 120
    while not record.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert 0 < len(scores_of(copy)) < len(expected)
    assert evaluate(copy, METRICS).exit_code == 0
    assert scores_of(copy) == expected
