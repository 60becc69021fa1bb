"""A source, an explainer and a metric are one new file each: nothing else is edited."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

import explainers.attribution
import pipeline.data
import pipeline.metrics
from pipeline.config import load
from pipeline.data import sources
from pipeline.evaluate import evaluate
from pipeline.metrics import metrics
from pipeline.run import run as start
from pipeline.store import open_run
from tests.pipeline.tiny_run import write_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

RAMP = '''
from dataclasses import dataclass

import torch

from pipeline.data import Record, Source, register


@register("ramp")
@dataclass(frozen=True)
class Ramp(Source):
    """Images of one grey value each."""

    n: int

    def records(self):
        return [Record(index, f"ramp_{index}", str(index), index % 3) for index in range(self.n)]

    def load(self, record):
        return torch.full((1, 8, 8), record.index / self.n)
'''

BRIGHTNESS = '''
from dataclasses import dataclass

from explainers import Attribution, Cost, register


@register("brightness")
@dataclass(frozen=True)
class Brightness(Attribution):
    """The input, times a factor."""

    factor: float = 2.0
    cost = Cost()

    def relevance(self, trace, target):
        return trace.inputs * self.factor
'''

PEAK = '''
from dataclasses import dataclass

from pipeline.metrics import Metric, register


@register("peak")
@dataclass(frozen=True)
class Peak(Metric):
    """The largest relevance, over a unit."""

    unit: float = 1.0
    headline = "peak"
    direction = "higher"

    def score(self, case, relevance):
        return {"peak": relevance.flatten(1).amax(dim=1) / self.unit}
'''

FILES = (
    (pipeline.data, sources, "ramp", RAMP),
    (explainers.attribution, explainers.methods, "brightness", BRIGHTNESS),
    (pipeline.metrics, metrics, "peak", PEAK),
)


@pytest.fixture
def _new_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put a file into each package, and forget it afterwards."""
    for package, registry, name, code in FILES:
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / f"{name}.py").write_text(code)
        registry.names()
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        monkeypatch.setattr(registry, "_things", dict(registry._things))
        monkeypatch.setattr(registry, "_is_discovered", False)
    yield
    for package, _, name, _ in FILES:
        sys.modules.pop(f"{package.__name__}.{name}", None)


@pytest.mark.usefixtures("_new_files")
def test_a_source_an_explainer_and_a_metric_are_one_new_file_each(tmp_path: Path) -> None:
    run_file = write_run(
        tmp_path / "run",
        tmp_path / "out",
        explainers={"brightness": {"factor": 3.0}},
        metrics={"peak": {"unit": 0.5}},
    )
    assert start(load(run_file, ["data={source: ramp, n: 12}"])).exit_code == 0
    evaluate(tmp_path / "out")
    run = open_run(tmp_path / "out")
    grey = np.arange(12) / 12
    maps = np.broadcast_to(3 * grey[:, None, None, None], (12, 1, 8, 8))
    np.testing.assert_allclose(run.maps["brightness"], maps, rtol=1e-6)
    np.testing.assert_allclose(run.scores("peak", "brightness")["peak"], 6 * grey, rtol=1e-6)
    assert run.samples()["sample_id"].to_pylist()[3] == "ramp_3"
