"""Rate-distortion masks in runs: the scan that is added, what a plan refuses, what is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import save_file

from explainers.rate_distortion import spreads
from pipeline import array_files
from pipeline.entries import build_explainers, needs_of
from pipeline.errors import ConfigError, PlanError
from pipeline.planner import make_plan
from pipeline.run import resume
from pipeline.store import open_run
from tests.pipeline.tiny_run import committed, config_of, run_tiny

if TYPE_CHECKING:
    from pathlib import Path

RDE = {"method": "rate_distortion", "n_steps": 6, "n_verify": 8}
ENTRIES: dict[str, dict[str, Any]] = {
    "half": {**RDE, "rank": 3, "multipliers": [0.1, 1.0]},
    "one": {**RDE, "mode": "diag", "start": {"mean": 0.5, "stdev": 0.1}},
    "bounded": {**RDE, "solver": "rate", "rates": 0.2, "noise": {"uniform": [0.0, 1.0]}},
    "drawn": {
        **RDE,
        "solver": "monte_carlo",
        "n_draws": 8,
        "noise": {"mean": 0.5, "variance": 0.08},
    },
}


def scan_added(folder: Path, **entries: dict[str, Any]) -> Any:
    return build_explainers(config_of(folder, explainers=entries))["moments"]


def test_the_scan_that_is_added_has_what_the_modes_take(tmp_path: Path) -> None:
    assert scan_added(tmp_path, rate_distortion={}).rank == 30
    assert scan_added(tmp_path, rate_distortion={"mode": "diag"}).rank is None
    wide, narrow = ({"method": "rate_distortion", "rank": rank} for rank in (40, 5))
    full = {"method": "rate_distortion", "mode": "full"}
    lift = {"method": "deep_lift", "baseline": "data_mean"}
    shared = scan_added(tmp_path, narrow=narrow, wide=wide, full=full, lift=lift)
    assert (shared.rank, shared.covariance) == (40, "exact")


def test_a_method_inside_another_asks_the_scan_too(tmp_path: Path) -> None:
    around = {"attribution": "rate_distortion", "parameters": {"rank": 7}}
    assert scan_added(tmp_path, smooth_grad=around).rank == 7


def test_an_entry_that_is_listed_is_taken_as_it_is(tmp_path: Path) -> None:
    entries = {"few": {"method": "moments", "rank": 2}, "rate_distortion": {"noise": "few"}}
    config = config_of(tmp_path, explainers=entries)
    assert needs_of(config) == {"rate_distortion": {"noise": "few"}}
    found: Any = build_explainers(config)
    assert list(found) == ["few", "rate_distortion"]
    assert found["few"].rank == 2


def test_noise_that_is_given_needs_no_scan_and_a_file_is_beside_the_run_file(
    tmp_path: Path,
) -> None:
    entries = {"a": {**RDE, "noise": {"file": "n.safetensors"}}, "b": ENTRIES["bounded"]}
    config = config_of(tmp_path, explainers=entries)
    assert needs_of(config) == {}
    found: Any = build_explainers(config)
    assert found["a"].noise == {"file": str(config.base / "n.safetensors")}
    files = array_files.of_entries(config.explainers, config.base)
    assert files == (config.base / "n.safetensors",)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"noise": "uniform"}, r"explainers.a.noise: got 'uniform', expected an entry"),
        ({"mode": "low"}, r"explainers.a.mode: .*'diag', 'half' or 'full'"),
        ({"solver": "rate", "multipliers": 0.5}, r"explainers.a.multipliers: .*give rates"),
        ({"rank": 3, "mode": "diag"}, r"explainers.a.mode: got rank=3"),
    ],
)
def test_parameters_are_refused_at_their_lines(
    tmp_path: Path, entry: dict[str, Any], said: str
) -> None:
    config = config_of(tmp_path, explainers={"a": {"method": "rate_distortion", **entry}})
    with pytest.raises(ConfigError, match=said):
        build_explainers(config)


@pytest.mark.slow
def test_a_plan_refuses_noise_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spreads, "MOST_FACTORS", 20)
    statistics = {"statistics": {"method": "moments"}}
    refused: list[tuple[dict[str, Any], str]] = [
        ({"noise": "statistics"}, "set rank: 30 on the entry of the scan moments"),
        ({"mode": "full", "noise": "statistics"}, "noise has a factor of 64 rows, at most 20"),
        ({"noise": {"uniform": [0.0, 1.0]}}, "noise has a factor of 64 rows, at most 20"),
        ({"noise": {"file": "gone.safetensors"}}, "a .safetensors file that exists"),
        ({"layer": "2"}, "statistics of the inputs are no noise for it"),
        ({"layer": "2", "noise": {"mean": [0.0, 1.0], "variance": 1.0}}, "noise has a mean of"),
    ]
    for number, (entry, said) in enumerate(refused):
        entries = {"a": {"method": "rate_distortion", **entry}, **statistics}
        config = config_of(tmp_path / str(number), explainers=entries)
        with pytest.raises(PlanError, match=said):
            make_plan(config)


@pytest.mark.slow
def test_a_plan_counts_the_maps_that_are_carried_and_the_masks_that_are_stored(
    tmp_path: Path,
) -> None:
    save_file(
        {"mean": torch.zeros(1, 8, 8), "factor": torch.ones(2, 1, 8, 8)}, tmp_path / "n.safetensors"
    )
    given = {**RDE, "noise": {"file": "n.safetensors"}}
    plan = make_plan(config_of(tmp_path, explainers={**ENTRIES, "given": given})).plan
    assert plan.costs["half"]["backward"] == 2 * 6 * (1 + 3)
    assert plan.costs["given"]["backward"] == 6 * (1 + 2)
    assert plan.costs["one"]["backward"] == 6 * 2
    assert plan.costs["drawn"]["backward"] == 6 * 8
    assert plan.bytes["arrays"] >= 40 * 2 * 64 * 4
    assert any("moments: added with rank: 3, as other" in note for note in plan.notes)
    assert any("half: passes are at most: of 6 steps" in note for note in plan.notes)
    changed = torch.full((2, 1, 8, 8), 2.0)
    save_file({"mean": torch.zeros(1, 8, 8), "factor": changed}, tmp_path / "n.safetensors")
    again = make_plan(config_of(tmp_path, explainers={**ENTRIES, "given": given})).plan
    assert again.digest != plan.digest


@pytest.mark.slow
def test_masks_and_figures_are_stored_and_a_resumed_run_finds_the_same(tmp_path: Path) -> None:
    run_tiny(tmp_path, explainers=ENTRIES, target=["predicted", 0], data={"sample": 8})
    run = open_run(tmp_path / "out")
    assert run.array("half", "masks").dims == (
        *("sample", "target", "mask"),
        *("channel", "height", "width"),
    )
    masks = run.array("half", "masks").values
    assert ((masks >= 0) & (masks <= 1)).all()
    np.testing.assert_allclose(run.maps["half"].values, masks.mean(2), rtol=0, atol=1e-6)
    assert run.array("half", "distortion_monte_carlo").dims == ("sample", "target", "mask")
    assert run.array("half", "multiplier").values[0, 0].tolist() == pytest.approx([0.1, 1.0])
    facts = run.samples("explain.moments").to_pydict()
    assert {f"one.{name}" for name in ("rate", "distortion_monte_carlo", "selected.1")} <= {*facts}
    with xr.open_datatree(tmp_path / "out" / "maps.zarr", engine="zarr") as tree:
        assert tree["half"].sizes["mask"] == 2
    assert 'id="rate_distortion"' in (tmp_path / "out" / "report.html").read_text()
    before = {name: run.maps[name].values for name in ENTRIES}
    run.ledger.withdraw("explain.moments", 0)
    n_before = len(committed(tmp_path / "out"))
    resume(tmp_path / "out")
    assert committed(tmp_path / "out")[n_before:] == [("explain.moments", 0)]
    for name, values in before.items():
        np.testing.assert_array_equal(run.maps[name].values, values)
