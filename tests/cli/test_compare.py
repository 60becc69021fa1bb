"""What `xpipe compare` prints, writes and exits with."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.pipeline.compared import N, make, some_maps

pytestmark = pytest.mark.slow
runner = CliRunner()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two runs, the second with better scores and other maps, and one of other targets."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed, shift, target in (
        ("a", 0, 0.0, "predicted"),
        ("b", 1, -0.2, "predicted"),
        ("c", 0, 0, "label"),
    ):
        scores = {"sparseness": np.linspace(0, 1, N) + shift}
        make(
            folder / name,
            {"lrp": some_maps(seed)},
            {"sparseness": {"lrp": scores}},
            targets=(target,),
        )
    return [str(folder / name) for name in "abc"]


def test_what_has_changed_is_told(runs: list[str]) -> None:
    answer = runner.invoke(app, ["compare", *runs[:2]])
    assert answer.exit_code == 0
    assert "12 samples, 0 predicted differently" in answer.stdout
    assert "worse" in answer.stdout
    assert "rank correlation" in answer.stdout


def test_a_broken_gate_is_an_exit_code_and_a_failed_test_case(
    runs: list[str], tmp_path: Path
) -> None:
    gate = "{metric: sparseness, max_drop: 0.1}"
    files = ["--junit", str(tmp_path / "x" / "junit.xml"), "--out", str(tmp_path / "page.html")]
    answer = runner.invoke(app, ["compare", *runs[:2], "--gate", gate, *files])
    assert answer.exit_code == 4
    assert "gate failed: lrp.sparseness.sparseness: 0.5 became 0.3" in answer.stderr
    (suite,) = ElementTree.parse(tmp_path / "x" / "junit.xml").getroot()
    assert suite.get("failures") == "1"
    page = (tmp_path / "page.html").read_text()
    assert "0 of 1 hold" in page
    assert "now" in page
    assert runner.invoke(app, ["compare", *runs[1::-1], "--gate", gate]).exit_code == 0


def test_runs_that_cannot_be_compared_are_refused(runs: list[str], tmp_path: Path) -> None:
    file = tmp_path / "junit.xml"
    answer = runner.invoke(app, ["compare", runs[0], runs[2], "--junit", str(file)])
    assert answer.exit_code == 3
    (suite,) = ElementTree.parse(file).getroot()
    assert suite.get("errors") == "1"
    assert "targets: ['predicted'] there, ['label'] here" in answer.stderr


def test_a_comparison_is_json(runs: list[str]) -> None:
    answer = runner.invoke(app, ["compare", *runs[:2], "--json"])
    found = json.loads(answer.stdout)
    assert found["maps"][0]["explainer"] == "lrp"
    assert found["scores"][0]["verdict"] == "worse"
    assert found["gates"] == []
