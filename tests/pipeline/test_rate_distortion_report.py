"""The report's table of rates and distortions, on columns and arrays whose figures are known."""

from __future__ import annotations

import re
from html import unescape
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.report.formats import MISSING
from pipeline.report.sections import rate_distortion

NAN = float("nan")
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
    "half.iterations": [10, 20, -1, 30],
    "half.gap": [0.004, 0.016, NAN, 0.004],
    "grid.selected": [1.0, 1.0, NAN, 1.0],
    "unchecked.selected": [1.0, 1.0, NAN, 1.0],
    "unchecked.asked_rate": [0.1, 0.1, NAN, 0.1],
    "unchecked.rate": [0.1, 0.1, NAN, 0.1],
    "unchecked.distortion": [0.5, NAN, NAN, 0.5],
    "unchecked.iterations": [7, 7, -1, 7],
    "plain.sum": [1.0, 1.0, NAN, 1.0],
}
GRID: dict[str, list[list[float]]] = {
    "multiplier": [[0.1, 1.0]] * 4,
    "rate": [[0.5, 0.25]] * 4,
    "distortion": [[0.01, 0.1]] * 4,
    "distortion_monte_carlo": [[0.1, 0.1], [0.2, 0.1], [9.0, 9.0], [0.3, 0.1]],
    "distortion_monte_carlo_error": [[0.01, 0.01]] * 4,
    "iterations": [[5.0, 6.0]] * 4,
}


def run(*names: str) -> Any:
    stored = {("grid", array): np.array(values) for array, values in GRID.items()}
    return SimpleNamespace(
        maps=list(names),
        plan=SimpleNamespace(targets=("predicted",), has_target_dimension=False),
        pass_of=lambda _: "explain.moments",
        samples=lambda _: pa.table(FACTS),
        arrays=lambda name: ["relevance", *(array for of, array in stored if of == name)],
        array=lambda name, array: SimpleNamespace(values=stored[name, array]),
    )


def rows_of(html: str | None) -> list[list[str]]:
    assert html is not None
    return [
        [
            " ".join(unescape(re.sub("<[^>]*>", " ", cell)).split())
            for cell in row.split("</td>")[:-1]
        ]
        for row in re.findall(r"<tr>(<th>[\w<>]+</th><td.*?)</tr>", html, re.DOTALL)
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
            "1.2 1.1 to 1.9",
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
    assert first[5:7] == ["20 15 to 25", "3 of 3"]
    assert second[5:7] == ["1.0 1.0 to 1.0", "0 of 3"]
    text = " ".join(re.sub("<[^>]*>", " ", html or "").split())
    assert "grid, multiplier 0.100: the distortion that was optimised" in text
    assert "20 times larger, and 3 of 3 samples (100 %) are off by more than 2 times" in text
    assert "multiplier 1.00:" not in text


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
