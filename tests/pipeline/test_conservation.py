"""The report's account of relevance, on columns whose account is known."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.report.formats import MISSING
from pipeline.report.sections import conservation

FACTS = {
    "status": ["", "", "broken"],
    "rule.sum": [6.0, 2.0, float("nan")],
    "rule.output_relevance": [10.0, 6.0, float("nan")],
    "rule.absorbed_by_bias": [3.0, 3.0, float("nan")],
    "rule.absorbed_by_stabiliser": [0.5, 0.5, float("nan")],
    "rule.lost": [0.5, 0.5, float("nan")],
    "open.sum": [5.0, 3.0, float("nan")],
    "open.output_relevance": [10.0, 6.0, float("nan")],
    "path.sum": [2.0, -3.0, float("nan")],
    "path.convergence_delta": [0.5, -0.5, float("nan")],
    "path.convergence_delta.1": [9.0, 9.0, float("nan")],
    "sizes.sum": [2.0, 3.0, float("nan")],
    "sizes.convergence_delta": [0.5, -0.5, float("nan")],
    "plain.sum": [1.0, 1.0, float("nan")],
}
EXPLAINERS: dict[str, dict[str, Any]] = {
    "rule": {"method": "gradient"},
    "open": {"method": "gradient"},
    "path": {"method": "integrated_gradients"},
    "sizes": {"method": "integrated_gradients", "postprocess": "abs"},
    "plain": {"method": "gradient"},
}


def run(explainers: dict[str, dict[str, Any]]) -> Any:
    config = RunConfig.model_validate(
        {
            "name": "x",
            "model": {"source": "python", "name": "m:f"},
            "data": {"source": "mnist5k"},
            "explainers": explainers,
        }
    )
    return SimpleNamespace(
        config=config,
        maps=list(explainers),
        plan=SimpleNamespace(
            targets=("label", {"layer": "conv2", "unit": 3}),
            notes=("rule: rules that cannot conserve relevance: gamma", "weights are random"),
        ),
        pass_of=lambda _: "explain",
        samples=lambda _: pa.table(FACTS),
    )


def rows_of(html: str) -> dict[str, list[str]]:
    found = {}
    for row in re.findall(r'<tr><th scope="row">(.*?)</tr>', html, re.DOTALL):
        name, *cells = re.split(r"</th>|</td>", row)
        found[name] = [re.sub(r"<[^>]*>|\s+", " ", cell).split() for cell in cells if cell.strip()]
    return {name: [" ".join(cell) for cell in cells] for name, cells in found.items()}


def test_what_is_kept_back_and_what_is_missing_are_told_apart() -> None:
    html = conservation.render(run(EXPLAINERS))
    assert html is not None
    rows = rows_of(html)
    assert rows["rule"] == [
        "8.00",
        "4.00 50.0 %",
        "3.00 37.5 %",
        "0.500 6.2 %",
        "0.500 6.2 %",
        "0 0.0 %",
        "0",
    ]
    assert rows["open"][-2:] == ["4.00 50.0 %", "5.00"]
    assert "beyond 0.1 %: open." in re.sub(r"<[^>]*>|\s+", " ", html).replace("  ", " ")
    assert "plain" not in rows


def test_a_delta_is_measured_by_the_difference_that_is_explained() -> None:
    rows = rows_of(conservation.render(run(EXPLAINERS)) or "")
    # differences are 1.5 and -2.5
    assert rows["path"] == ["2.00", "0", "0.500", "25.0 %", "0.500"]
    assert rows["sizes"] == [MISSING, "0", "0.500", MISSING, "0.500"]


def test_a_run_whose_methods_keep_no_account_has_no_such_section() -> None:
    assert conservation.render(run({"plain": {"method": "gradient"}})) is None


def test_rules_that_cannot_conserve_and_the_target_are_named() -> None:
    html = conservation.render(run(EXPLAINERS))
    assert html is not None
    assert "<li>rule: rules that cannot conserve relevance: gamma</li>" in html
    assert "weights are random" not in html
    assert "this is the first:\nthe true class." in html
