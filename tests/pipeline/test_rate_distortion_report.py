"""The report's table of rates and distortions, on columns and arrays whose figures are known."""

from __future__ import annotations

import re
from html import unescape
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.report.formats import MISSING
from pipeline.report.sections import rate_distortion

NAN = float("nan")
DRAWN = "distortion_monte_carlo"
FACTS = {
    "status": ["", "", "broken", ""],
    "index": [0, 1, 2, 3],
    "half.selected": [2.0, 4.0, NAN, 2.0],
    "half.multiplier": [0.5, 0.5, NAN, 0.5],
    "half.rate": [0.25, 0.5, NAN, 0.75],
    "half.distortion": [0.4, 1.6, NAN, 0.4],
    "half.start_distortion": [4.0, 16.0, NAN, 4.0],
    "half.distortion_monte_carlo": [0.44, 1.92, NAN, 1.0],
    "half.distortion_monte_carlo_error": [0.04, 0.16, NAN, 0.04],
    "half.objective": [0.9, 5.6, NAN, 1.9],
    "half.iterations": [10, 20, -1, 30],
    "half.gap": [0.004, 0.016, NAN, 0.004],
    "grid.selected": [1.0, 1.0, NAN, 1.0],
    "unchecked.selected": [1.0, 1.0, NAN, 1.0],
    "unchecked.asked_rate": [0.1, 0.1, NAN, 0.1],
    "unchecked.rate": [0.1, 0.1, NAN, 0.1],
    "unchecked.distortion": [0.5, NAN, NAN, 0.5],
    "unchecked.iterations": [7, 7, -1, 7],
    "exact.selected": [1.0, 1.0, NAN, 1.0],
    "exact.multiplier": [0.5, 0.5, NAN, 0.5],
    "exact.rate": [0.2, 0.2, NAN, 0.2],
    "exact.distortion": [0.0, 0.0, NAN, 0.0],
    "exact.distortion_monte_carlo": [0.05, 0.05, NAN, 0.0],
    "exact.distortion_monte_carlo_error": [0.01, 0.01, NAN, 0.0],
    "exact.objective": [0.1, 0.1, NAN, 0.1],
    "exact.iterations": [7, 7, -1, 7],
    "plain.sum": [1.0, 1.0, NAN, 1.0],
}
GRID: dict[str, list[list[float]]] = {
    "multiplier": [[0.1, 1.0]] * 4,
    "rate": [[0.5, 0.25]] * 4,
    "distortion": [[0.01, 0.1]] * 4,
    "distortion_monte_carlo": [[0.1, 0.1], [0.2, 0.1], [9.0, 9.0], [0.3, 0.1]],
    "distortion_monte_carlo_error": [[0.01, 0.01]] * 4,
    "objective": [[0.06, 0.35]] * 4,
    "iterations": [[5.0, 6.0]] * 4,
}


def run(*names: str, grid: Any = GRID, **entry: str) -> Any:
    """A run in which all explainers have the same entry."""
    stored = {("grid", array): np.array(values) for array, values in grid.items()}
    return SimpleNamespace(
        maps=list(names),
        config=SimpleNamespace(explainers=dict.fromkeys(names, entry)),
        plan=SimpleNamespace(targets=("predicted",), has_target_dimension=False),
        pass_of=lambda _: "explain.moments",
        samples=lambda _: pa.table(FACTS),
        arrays=lambda name: ["relevance", *(array for of, array in stored if of == name)],
        array=lambda name, array: SimpleNamespace(values=stored[name, array]),
    )


def warnings_of(html: str | None) -> list[str]:
    found = re.findall(r'<p class="warn">(.*?)</p>', html or "", re.DOTALL)
    return [" ".join(unescape(re.sub("<[^>]*>", "", each)).split()) for each in found]


def rows_of(html: str | None) -> list[list[str]]:
    assert html is not None
    return [
        [
            " ".join(unescape(re.sub("<[^>]*>", " ", cell)).split())
            for cell in row.split("</td>")[:-1]
        ]
        for row in re.findall(r'<tr>(<th scope="row">[\w<>]+</th>\s*<td.*?)</tr>', html, re.DOTALL)
    ]


def test_distortions_are_shown_in_units_of_what_is_explained() -> None:
    html = rate_distortion.render(run("half", "plain"))
    assert rows_of(html) == [
        [
            "half multiplier 0.500",
            "50.0 %",
            "1.00",
            "0.100",
            "0.120 ± 0.010",
            "1.2 1.1 to 2.5",
            "1 of 3",
            "20 30",
            "0.00100",
        ]
    ]
    assert html is not None
    assert "Over 3 samples" in html
    assert 'class="warn"' not in html


def test_every_mask_of_a_sample_has_a_row_and_disagreement_is_said() -> None:
    html = rate_distortion.render(run("grid"))
    first, second = rows_of(html)
    assert first[:2] == ["grid multiplier 0.100", "50.0 %"]
    assert first[5:7] == ["20 10 to 30", "3 of 3"]
    assert second[5:7] == ["1.0 1.0 to 1.0", "0 of 3"]
    (warning,) = warnings_of(html)
    assert "disagree for 1 of 2 masks at multiplier 0.100" in warning
    assert "draws give 0.200 in the median where 0.0100 was optimised" in warning
    assert "3 of 3 samples (100 %) are off by more than 2 times" in warning


def test_an_explainer_has_one_warning_whatever_the_number_of_its_masks() -> None:
    grid = GRID | {"distortion": [[0.01, 0.02]] * 4}
    (warning,) = warnings_of(rate_distortion.render(run("grid", grid=grid)))
    assert "for 2 of 2 masks, most at multiplier 0.100" in warning


@pytest.mark.parametrize(
    ("optimised", "drawn", "error", "expected"),
    [
        (1e-8, 0.0, 0.0, "0 of 3"),  # 0 of so many draws is no proof
        (0.1, 0.03, 0.07, "0 of 3"),  # by luck, of all three too
        (0.1, 0.03, 0.01, "3 of 3"),
        (1e-4, 1e-3, 1e-4, "0 of 3"),  # beside 0.25 for the mask
        (1e-3, 9e-3, 1e-3, "3 of 3"),
    ],
)
def test_only_what_can_be_told_apart_and_matters_counts(
    optimised: float, drawn: float, error: float, expected: str
) -> None:
    figures = {"distortion": optimised, DRAWN: drawn, f"{DRAWN}_error": error}
    figures["objective"] = optimised + 0.25
    grid = GRID | {name: [[value] * 2] * 4 for name, value in figures.items()}
    html = rate_distortion.render(run("grid", grid=grid))
    assert [row[6] for row in rows_of(html)] == [expected] * 2
    assert bool(warnings_of(html)) == (expected != "0 of 3")


def test_samples_that_are_off_together_are_warned_of_where_none_is_for_sure() -> None:
    # 0.07 is less than two errors of a sample, and more than two of the mean of three
    figures = {"distortion": 0.1, DRAWN: 0.03, f"{DRAWN}_error": 0.04, "objective": 0.35}
    grid = GRID | {name: [[value] * 2] * 4 for name, value in figures.items()}
    html = rate_distortion.render(run("grid", grid=grid))
    assert [row[6] for row in rows_of(html)] == ["0 of 3"] * 2
    (warning,) = warnings_of(html)
    assert "the one by Monte Carlo disagree for 2 of 2 masks" in warning


def test_a_distortion_that_was_to_be_zero_and_is_not_is_warned_of_without_infinities() -> None:
    html = rate_distortion.render(run("exact"))
    assert rows_of(html)[0][5:7] == ["∞ 1.0 to ∞", "2 of 3"]
    (warning,) = warnings_of(html)
    assert "draws give 0.0500 in the median where 0 was optimised" in warning
    assert "∞" not in warning


@pytest.mark.parametrize(
    ("entry", "has_half", "advice"),
    [
        ({"mode": "diag"}, True, "density: sampled"),
        ({"mode": "half"}, False, "density: sampled"),
        ({}, False, "density: sampled"),
        ({"solver": "monte_carlo"}, False, "larger n_draws"),
        ({"density": "sampled", "mode": "diag"}, False, "larger n_draws"),
    ],
)
def test_the_advice_is_one_that_the_entry_does_not_follow_yet(
    entry: dict[str, str], has_half: bool, advice: str
) -> None:
    (warning,) = warnings_of(rate_distortion.render(run("grid", **entry)))
    assert advice in warning
    assert ("mode: half" in warning) == has_half


def test_what_was_not_drawn_or_is_not_finite_is_said() -> None:
    html = rate_distortion.render(run("unchecked")) or ""
    (row,) = rows_of(html)
    assert row[0] == "unchecked rate 10.0 %"
    assert row[4:7] == [MISSING] * 3
    text = " ".join(re.sub("<[^>]*>", " ", html).split())
    assert "unchecked: no finite distortion for 1 mask, which is NaN" in text
    assert "n_verify: 0" in text


def test_a_run_without_such_masks_has_no_such_section() -> None:
    assert rate_distortion.render(run("plain")) is None
