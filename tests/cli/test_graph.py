"""Compositions of concepts of a run's samples, from the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from cli.main import app
from pipeline.concept_graphs import Asked, sample_composition
from pipeline.errors import PlanError, SampleError, StoreError
from tests.pipeline.tiny_run import run_tiny

if TYPE_CHECKING:
    from pathlib import Path

runner = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with a scan of one layer and a sample that cannot be used."""
    made = tmp_path_factory.mktemp("graphs")
    data = {"params": {"bad": {"3": "nan"}}}
    explainers = {
        "relmax": {
            "method": "relevance_maximization",
            "layers": ["0", "2"],
            "k": 2,
            "concepts": {"0": "tokens"},
        },
        "crp": {"method": "concept_relevance", "conditions": {"2": 0}, "concepts": {"2": "tokens"}},
        "plain": {"method": "lrp", "composite": "lrp_epsilon"},
    }
    assert run_tiny(made, explainers=explainers, data=data, target="predicted").exit_code == 5
    return made / "out"


@pytest.mark.slow
def test_the_graph_of_a_sample_is_shown_and_written(folder: Path, tmp_path: Path) -> None:
    networkx = pytest.importorskip("networkx")
    words = ["graph", str(folder), "image_5", "--concept", "1", "--width", "3"]
    for name in ("graph.json", "graph.graphml"):
        answer = runner.invoke(app, [*words, "--out", str(tmp_path / name), "--json"])
        assert answer.exit_code == 0, answer.output
        shown = json.loads(answer.stdout)
        assert shown["graph"] == {"top": "2:1"}
        assert {edge["target"].partition(":")[0] for edge in shown["edges"]} == {"0"}
    read = json.loads((tmp_path / "graph.json").read_text())
    again = networkx.read_graphml(tmp_path / "graph.graphml")
    assert set(again.nodes) == {node["id"] for node in read["nodes"]}
    assert runner.invoke(app, words).stdout.count("2:1") == len(read["edges"])


@pytest.mark.slow
def test_a_sample_is_found_by_its_position_too(folder: Path) -> None:
    assert sample_composition(folder, "5") == sample_composition(folder, "image_5")


@pytest.mark.slow
def test_a_sample_that_is_not_there_is_refused_in_few_words(folder: Path) -> None:
    with pytest.raises(StoreError) as refused:
        sample_composition(folder, "999999")
    assert str(refused.value).count("image_") <= 1
    with pytest.raises(StoreError, match="did you mean 'image_5'"):
        sample_composition(folder, "imag_5")


@pytest.mark.slow
def test_what_is_asked_for_is_what_is_decomposed(folder: Path) -> None:
    by_scan = sample_composition(folder, "0")
    assert by_scan.tops[0].layer == "2"
    asked = Asked("5", 2, ("2",), "runner_up", "plain", {"width": (9,), "start": "activation"})
    found = sample_composition(folder, "0", asked)
    assert found.tops[0].name == "5:2"
    assert {edge.lower_layer for edge in found.edges} == {"2"}
    assert len(found.edges) > 1


@pytest.mark.slow
def test_concepts_are_those_of_the_runs_entries(folder: Path) -> None:
    fields = {"width": (99,)}
    for layers in ((), ("0",)):
        found = sample_composition(folder, "0", Asked("2", layers=layers, fields=fields))
        # 36 tokens, of which few get nothing, where there are 4 channels
        assert len(found.edges) > 4
        assert found.tops[0].concept < 6  # the scan has channels of it


@pytest.mark.slow
def test_that_nothing_is_found_is_told(folder: Path) -> None:
    answer = runner.invoke(app, ["graph", str(folder), "0", "--layer", "0"])
    assert answer.exit_code == 0
    assert "none of the layers that are looked at is below 0" in answer.stderr
    dead = ["--layer", "5", "--concept", "1", "--target", "2"]
    for more in ([], ["--json"]):
        answer = runner.invoke(app, ["graph", str(folder), "0", *dead, *more])
        assert "concept 1 of 5 has no relevance in this sample" in answer.stderr


@pytest.mark.slow
def test_what_does_not_exist_is_told(folder: Path) -> None:
    with pytest.raises(StoreError, match="did you mean"):
        sample_composition(folder, "image_55")
    with pytest.raises(SampleError, match="image_3"):
        sample_composition(folder, "3")
    for asked, said, fix in (
        (Asked("99"), "no layer matches", "inspect"),
        (Asked(target=7), "class 7 does not exist", "--target"),
        (Asked(target="foo"), "unknown target 'foo'", "--target"),
        (Asked("2", 99), "choose from 0 to 5", "--help"),
    ):
        with pytest.raises(PlanError, match=said) as caught:
            sample_composition(folder, "0", asked)
        assert fix in caught.value.fix
    with pytest.raises(PlanError, match="'plain'"):
        sample_composition(folder, "0", Asked(explainer="plane"))


@pytest.mark.parametrize(
    "words", [["--width", "4,x"], ["--out", "graph.png"], ["--out", "no/graph.json"]]
)
def test_wrong_usage_is_told_before_anything_is_read(words: list[str]) -> None:
    answer = runner.invoke(app, ["graph", "nowhere", "0", *words])
    assert answer.exit_code == 2
    assert "expected" in answer.stderr
