"""The report's drawings, tables and matrices of causal graphs, and what is told of them shortly."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from html import unescape
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch

from explainers.causal.results import HOW
from explainers.causal.structure import structure_of
from pipeline import aggregate, causal_links, inspection, paths
from pipeline.aggregate import Judged
from pipeline.causal_links import GraphsOfAll, LayerOfAll
from pipeline.errors import StoreError
from pipeline.report import causal_drawing, causal_faithfulness, causal_overlap, page
from pipeline.report.causal_drawing import in_words
from pipeline.report.causal_table import COLUMNS, rows
from pipeline.report.sections import causal_graphs
from pipeline.sinks import graphs
from pipeline.store import open_run
from pipeline.verify import verify
from tests.explainers.causal_graphs import CLASSES, graph_result, network
from tests.pipeline.causal_run import SCAN, make_run, tiny_run
from tests.pipeline.test_report import Checker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.store import Run


@pytest.fixture(scope="module", autouse=True)
def _a_disk_that_does_not_wait() -> Iterator[None]:
    """Syncing is tested in test_paths; here it would only take time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_run(tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="module")
def html(run: Run) -> str:
    return causal_graphs.render(run) or ""


def document(**changes: Any) -> dict[str, Any]:
    """Two layers: neurons 0 and 1 of the first make channels 0 and 1, which the second reads."""
    nodes = [
        {"id": 0, "sign": 1, "te": -2.0, "sources": [["a", 0]]},
        {"id": 1, "sign": -1, "te": 1.0, "sources": [["a", 1]]},
    ]
    layer = {"n_inputs": 4, "n_tested": 4, "is_root": False, "how": "paired"}
    edges = [
        {"cause": 0, "effect": 0, "weight": -1.0},
        {"cause": 0, "effect": 1, "weight": 0.5},
        {"cause": 1, "effect": 7, "weight": 9.0},
    ]
    last = [{"cause": 0, "effect": 3, "weight": -2.0}, {"cause": 1, "effect": 3, "weight": 1.0}]
    lower = [{**node, "sources": []} for node in nodes]
    return {
        "class": 3,
        "layers": [
            {**layer, "name": "root", "is_root": True, "effects": [0], "nodes": [], "edges": []},
            {**layer, "name": "a", "level": 1, "effects": [0, 1], "nodes": lower, "edges": edges},
            {**layer, "name": "b", "level": 0, "effects": [3], "nodes": nodes, "edges": last},
        ],
        **changes,
    }


def titles(picture: str, shape: str) -> list[str]:
    """What is said under the mouse of all shapes of a kind."""
    return [
        unescape(text)
        for text in re.findall(
            rf"<{shape} (?:(?!</{shape}>).)*?<title>(.*?)</title>", picture, re.S
        )
    ]


def test_lines_go_to_the_neurons_that_are_made_of_their_channels_and_to_the_logit() -> None:
    drawing = causal_drawing.draw(document(), "three")
    # the channel 7 is read by nobody that is drawn
    assert sorted(titles(drawing.picture, "path")) == [
        "neuron 0 of a to neuron 0 of b: \N{MINUS SIGN}1.00",
        "neuron 0 of a to neuron 1 of b: 0.500",
        "neuron 0 of b to the logit: \N{MINUS SIGN}2.00",
        "neuron 1 of b to the logit: 1.00",
    ]
    assert (drawing.n_nodes, drawing.n_edges, drawing.n_hidden, drawing.limit) == (4, 4, 0, 2.0)


def test_what_speaks_for_the_class_is_red_and_what_speaks_against_it_is_blue() -> None:
    picture = causal_drawing.draw(document(), "three").picture
    fills = re.findall(r'<circle cx="\d+" cy="[\d.]+" r="10.5" fill="#(..)(..)(..)"', picture)
    strokes = re.findall(r'stroke="#(..)(..)(..)"', picture)
    is_red = [int(red, 16) > int(blue, 16) for red, _, blue in fills]
    assert is_red == [True, False, True, False]
    # sorted by strength: half of the strongest twice, then those of each column
    assert [int(red, 16) > int(blue, 16) for red, _, blue in strokes] == [
        False,
        False,
        True,
        True,
    ]


def test_of_many_neurons_the_strongest_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal_drawing, "MOST_NODES", 1)
    drawing = causal_drawing.draw(document(), "three")
    assert (drawing.n_nodes, drawing.n_hidden) == (2, 2)
    assert len(titles(drawing.picture, "path")) == 2
    assert drawing.picture.count("+ 1</text>") == 2


def test_layers_without_effects_are_named_and_not_drawn() -> None:
    changed = document()
    changed["layers"][1] |= {"effects": [], "nodes": [], "edges": []}
    drawing = causal_drawing.draw(changed, "three")
    assert drawing.unreached == ("a",)
    assert drawing.n_edges == 2


def test_layers_that_were_left_out_are_not_unreached_ones() -> None:
    changed = document()
    changed["layers"][1] |= {"nodes": [], "edges": [], "n_tested": 0}
    del changed["layers"][1]["how"]
    drawing = causal_drawing.draw(changed, "three")
    assert (drawing.unreached, drawing.untested) == ((), ("a",))


def test_effects_are_told_as_far_as_they_are_known() -> None:
    layer = document()["layers"][2]
    node = {**layer["nodes"][0], "te_low": None, "te_high": None}
    assert "its removal changes the logit by \N{MINUS SIGN}2.00\n" in in_words(layer, node)
    said = in_words({**layer, "u": 0.25}, {**node, "te_low": -3.0, "te_high": -1.0})
    assert "setting its weights to 0.250 changes the logit by" in said
    assert "(\N{MINUS SIGN}3.00 to \N{MINUS SIGN}1.00)" in said


def test_medians_are_of_classes_with_a_test() -> None:
    values = {
        "how": np.array([HOW.index(each) for each in ("paired", "too few samples", "not reached")]),
        "tested": np.array([[1, 1], [0, 0], [0, 0]]),
        "effects": np.array([[0, 2], [-1, -1], [-1, -1]]),
        "sign": np.array([[1, -1], [0, 0], [0, 0]]),
    }
    layer = LayerOfAll("fc", cast("Any", values), is_stacked=True)
    shown = ("tested", "effects", "causes", "negative", "classes", "selected by")
    columns = [each for each in COLUMNS if each.name in shown]
    assert rows(columns, [layer]) == [("fc", ["2", "2", "1", "1", "1 of 3", "paired"])]


@pytest.mark.slow
def test_what_graphs_alone_keep_is_a_table(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    measures = {"logit": 4.0, "probability": 0.5, "accuracy": 1.0}
    columns = {
        f"{kind}_{measure}": np.array([value, np.nan, value / (1 + place)])
        for place, kind in enumerate(causal_faithfulness.KINDS)
        for measure, value in measures.items()
    }
    method = "graph_faithfulness"
    judged = Judged("kept", method, {}, "higher", "logit", "gain", (SCAN,), "digest")
    monkeypatch.setattr(aggregate, "judged", lambda _: [judged])
    monkeypatch.setattr(type(run), "scores", lambda *_: columns)
    html = (causal_graphs.render(run) or "").partition("What the graphs alone keep")[2]
    cell = re.compile(r">([^<>]+)</t[dh]>")
    found = [cell.findall(row) for row in re.findall("<tr>.*?</tr>", html, re.S)]
    assert found[:2] == [
        ["weights that stay", "logit", "probability", "accuracy"],
        ["the whole network", "4.00", "50.0 %", "100.0 %"],
    ]
    assert found[2] == ["the graph alone", "3.00", "37.5 %", "75.0 %"]
    assert [row[0] for row in found[3:5]] == [*causal_faithfulness.KINDS.values()][2:]
    assert "Means over the 2 samples" in html


@pytest.mark.parametrize("long", [False, True])
def test_headings_stay_in_the_picture_and_in_their_columns(long: bool) -> None:
    changed = document()
    for place, layer in enumerate(changed["layers"][1:]):
        layer["name"] = f"features.denseblock{place}.denselayer16.conv2" if long else "conv"
    picture = causal_drawing.draw(changed, "three").picture
    assert picture.count('class="slanted"') == (2 if long else 0)
    width, height = map(int, re.findall(r'viewBox="0 0 (\d+) (\d+)"', picture)[0])
    for x, y in re.findall(r"translate\((\d+) (\d+)\)", picture):
        # letters of 12 px, about 6.4 wide, up to the right
        assert int(x) + 0.64 * 6.4 * len("features.denseblock0.denselayer16.conv2 1 of 4") < width
        assert int(y) - 0.77 * 6.4 * len("features.denseblock0.denselayer16.conv2 1 of 4") > 0
        assert int(y) < height


def test_links_that_were_not_weighed_are_grey() -> None:
    changed = document()
    for layer in changed["layers"]:
        layer["edges"] = []
    picture = causal_drawing.draw(changed, "three").picture
    assert picture.count('stroke="var(--faint)"') == 6


def test_the_section_is_well_formed_and_asks_for_nothing(html: str) -> None:
    checker = Checker()
    checker.feed(page.document("x", [("causal", causal_graphs.title, html)]))
    assert not checker.open
    assert "<svg" in html
    assert html.count("<details") == len(CLASSES)


def test_the_table_counts_what_the_result_has(run: Run, html: str) -> None:
    found = GraphsOfAll.read(run.scans[SCAN])
    assert found is not None
    assert found.labels == CLASSES
    assert [layer.name for layer in found.layers] == ["0", "2", "5", "7"]
    rows = re.findall(r'<tr><th scope="row">(\w+)</th>(.*?)</tr>', html, re.S)
    cells = {name: re.findall(r"<td[^>]*>(.*?)</td>", row) for name, row in rows}
    for layer in found.tested:
        links = [run.scans[SCAN]["classes"][label][layer.name] for label in CLASSES]
        n_causes = [int((each["causes"] >= 0).sum()) for each in links]
        assert layer.causes.sum(1).tolist() == n_causes
        n_causes = [n for n, tested in zip(n_causes, layer.has_test, strict=True) if tested]
        low, high = min(n_causes), max(n_causes)
        middle = f"{np.median(n_causes):,.0f}"
        expected = middle if low == high else f"{middle} <small>({low}\N{EN DASH}{high})</small>"
        assert cells[layer.name][3] == expected
        assert cells[layer.name][0] == str(layer.n_neurons)


def test_overlap_is_the_jaccard_index_of_pairs_of_layer_and_neuron(run: Run) -> None:
    found = GraphsOfAll.read(run.scans[SCAN])
    assert found is not None
    sets = [
        {
            (layer.name, neuron)
            for layer in found.tested
            for neuron in np.nonzero(layer.causes[row])[0].tolist()
        }
        for row in range(len(CLASSES))
    ]
    expected = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    assert causal_links.overlap(found.tested) == pytest.approx(
        np.array([[1, expected], [expected, 1]])
    )
    assert 0 < expected < 1
    drawings = causal_overlap.matrices(found.tested, ["nought", "a very long name"])
    assert [name for name, _ in drawings] == ["all layers", "2", "5", "7"]
    assert "nought and a very long name: " in drawings[0][1]


def test_of_many_classes_the_overlap_is_a_picture(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal_overlap, "MOST_SQUARES", 1)
    found = GraphsOfAll.read(run.scans[SCAN])
    assert found is not None
    assert '<img src="data:' in causal_overlap.matrices(found.tested, ["0", "2"])[0][1]


@pytest.mark.slow
def test_a_reader_is_warned_of_fallbacks_and_of_classes_with_too_few_samples(
    tmp_path: Path,
) -> None:
    structure = structure_of(network())
    result = graph_result(structure)
    result[2]["5"]["how"] = "fallback"
    result[0]["7"]["how"] = "too few samples"
    html = causal_graphs.render(make_run(tmp_path, structure, result)) or ""
    assert "In 1 of 6 layers of a class the test found nothing" in html
    assert "Class 0 (8 of 9) has too few samples that are classified as such." in html
    assert "numbered" not in html


def test_labels_that_fit_no_output_are_told(run: Run) -> None:
    found = GraphsOfAll.read(run.scans[SCAN])
    assert found is not None
    samples = {"seen": np.array([9, 9]), "correct": np.array([0, 0])}
    said = causal_graphs.few_samples(replace(found, samples=samples), {0, 2}, str)
    assert said.startswith("2 classes have too few samples")
    assert ": 0 (0 of 9), 2 (0 of 9)." in said
    assert "labels and outputs are numbered alike" in said


@pytest.mark.slow
def test_a_single_class_a_sweep_and_screening_have_a_section_too(tmp_path: Path) -> None:
    structure = structure_of(network())
    swept = {"u": torch.tensor([0.0, 0.1]), "jaccard": torch.tensor([1.0, 0.5])}
    screened = {"recall": 0.75, "recall_of_strongest": 1.0, "n_audited": 2}
    changes: dict[str, Any] = {**screened, "screen_correlation": float("nan")}
    result = graph_result(structure, (1,), sweep={**swept, "nogueira": 0.5}, **changes)
    html = causal_graphs.render(make_run(tmp_path, structure, result)) or ""
    assert "Other weights" in html
    assert "What classes share" not in html
    cells = re.findall(r"<td[^>]*>(.*?)</td>", html.partition("<h3>Screening</h3>")[2])
    assert cells[:6] == ["4", "4", "2", "0.75", "1.0", "\N{EN DASH}"]


def test_graphs_are_told_shortly(run: Run) -> None:
    rows = {row["name"]: row for row in inspection.contents(run.path)}
    row = rows[f"graphs/{SCAN}/2"]
    document = run.graphs(SCAN)["2"]
    counts = [sum(node["sign"] != 0 for node in each["nodes"]) for each in document["layers"][1:]]
    assert row["dims"] == "2, 5, 7"
    assert row["shape"] == " x ".join(map(str, counts))


def test_graphs_are_read_when_they_are_asked_for(run: Run) -> None:
    found = run.graphs(SCAN)
    assert list(found) == ["0", "2"]
    assert found["2"] == json.loads(paths.Folder(run.path).read("graphs/graph/2.json"))
    with pytest.raises(KeyError, match="there are: 0, 2"):
        found["1"]
    with pytest.raises(StoreError, match="no graphs of 'statistics', but of 'graph'"):
        run.graphs("statistics")


@pytest.mark.slow
def test_graphs_that_are_gone_are_told(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    run_file = tmp_path / "run.yaml"
    run_file.write_text(run_file.read_text().replace("lrp: {}", "graph: {method: causal_graph}"))
    paths.Folder(run.path).remove(paths.graph_record_path(SCAN))
    found = {each.object: each for each in verify(tmp_path)}
    assert found["graphs/graph.json"].kind == "missing"
    assert "xpipe resume" in found["graphs/graph.json"].detail
    html = causal_graphs.render(open_run(tmp_path)) or ""
    assert "The graphs of graph are missing" in html
    assert "xpipe resume" in html


def test_what_json_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="JSON has not"):
        graphs.write(tmp_path, SCAN, [("0", {"layers": [], "p": float("nan")})])
    assert not graphs.exists(tmp_path, SCAN)


@pytest.mark.slow
def test_damaged_graphs_are_found_and_withdrawn(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    (tmp_path / "graphs/graph/0.json").write_text("{}")
    (tmp_path / "graphs/other").mkdir()
    (tmp_path / "graphs/other/1.json").write_text("{}")
    found = {(each.object, each.kind) for each in verify(tmp_path, repair=True)}
    assert found >= {("graphs/graph/0.json", "damaged"), ("graphs/other/1.json", "orphan")}
    assert graphs.names(tmp_path) == ()
    # the result is sound, and graphs are made of it again
    assert SCAN in run.scans
    assert causal_graphs.render(run) is None
