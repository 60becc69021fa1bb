"""What a run says of methods that sample: errors beside maps, in facts, and on the page."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import explainers
from explainers import Attribution, Explained
from pipeline.relative_errors import relative_error
from pipeline.report.formats import MISSING
from pipeline.report.sections import precision
from pipeline.store import open_run
from tests.pipeline.tiny_run import run_tiny

if TYPE_CHECKING:
    from pathlib import Path

FACTS = {
    "status": ["", "", "broken"],
    "index": [0, 1, 2],
    "rough.sum": [1.0, 1.0, float("nan")],
    "rough.relative_error": [0.3, 0.1, float("nan")],
    "rough.n_evaluations": [1000, 2100, -1],
    "fitted.residual": [0.25, 0.75, float("nan")],
    "fitted.n_evaluations": [50, 50, -1],
    "fitted.residual.1": [9.0, 9.0, float("nan")],
    "once.relative_error": [float("nan"), float("nan"), float("nan")],
    "plain.sum": [1.0, 1.0, float("nan")],
}


def run(*names: str) -> Any:
    return SimpleNamespace(
        maps=list(names),
        plan=SimpleNamespace(targets=("predicted",)),
        pass_of=lambda _: "explain",
        samples=lambda _: pa.table(FACTS),
    )


def test_the_page_says_how_precise_maps_are_and_what_they_took() -> None:
    html = precision.render(run("rough", "fitted", "once", "plain"))
    assert html is not None
    rows = {
        found[1]: re.findall("[^ \n]+", re.sub("<[^>]*>", " ", found[2]))
        for found in re.finditer(r'<tr><th scope="row">(\w+)</th>(.*?)</tr>', html, re.DOTALL)
    }
    assert rows["rough"] == [
        "20.0",
        "%",
        "30.0",
        "%",
        MISSING,
        MISSING,
        "1\N{NARROW NO-BREAK SPACE}550",
        "1\N{NARROW NO-BREAK SPACE}000",
        "to",
        "2\N{NARROW NO-BREAK SPACE}100",
    ]
    assert rows["fitted"] == [MISSING, MISSING, "0.500", "0.750", "50"]
    assert rows["once"] == [MISSING] * 5
    assert "plain" not in rows
    assert 'class="value warn"><b>20.0' in html
    assert "Over 2 samples" in html


def test_a_run_whose_methods_do_not_sample_has_no_such_section() -> None:
    assert precision.render(run("plain")) is None


@pytest.mark.parametrize("postprocess", ["none", "abs", "square"])
def test_an_error_is_measured_by_the_map_it_is_of(postprocess: str) -> None:
    # of one tensor a network is not asked for its parts
    network: Any = None
    method = explainers.build("expected_gradients", postprocess=postprocess)
    assert isinstance(method, Attribution)
    relevance = torch.tensor([[3.0, 0, 0, 4.0], [0, 0, 0, 2.0]])
    error = torch.tensor([[0.5, 0, 0, 0], [0, 1.0, 0, 0]])
    found = relative_error(method, Explained(relevance, {"standard_error": error}), network)
    if postprocess == "square":
        assert found is None
    else:
        assert found is not None
        assert found.tolist() == [0.1, 0.5]
    assert relative_error(method, Explained(relevance), network) is None
    short = {"standard_error": error[:, :2]}
    assert relative_error(method, Explained(relevance, short), network) is None


@pytest.mark.slow
@pytest.mark.parametrize("channels", ["keep", "sum"])
def test_errors_and_evaluations_are_stored_beside_maps(tmp_path: Path, channels: str) -> None:
    entries = {
        "shapley": {
            "method": "shapley_value_sampling",
            "estimator": "permutation",
            "n_evaluations": 20,
            "features": {"grid": 2},
        }
    }
    run_tiny(tmp_path, explainers=entries, output={"channels": channels})
    stored = open_run(tmp_path / "out")
    maps = stored.maps["shapley"]
    errors = stored.array("shapley", "standard_error")
    # the sum over channels that a feature covers together has no error of its own
    assert errors.dims == ("sample", "channel", "height", "width")
    assert maps.dims == (errors.dims if channels == "keep" else ("sample", "height", "width"))
    facts = stored.samples().to_pydict()
    assert set(facts["shapley.n_evaluations"]) == {20}
    flat = maps.values.reshape(40, -1), errors.values.reshape(40, -1)
    expected = np.linalg.norm(flat[1], axis=1) / np.linalg.norm(flat[0], axis=1)
    # float32 maps
    np.testing.assert_allclose(facts["shapley.relative_error"], expected, rtol=1e-5)
    assert 'id="precision"' in (tmp_path / "out" / "report.html").read_text()
