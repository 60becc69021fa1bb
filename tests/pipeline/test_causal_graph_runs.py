"""Runs of the scan `causal_graph`: its graphs as files, however often it is killed on the way."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

import pytest

from pipeline.ledger import Ledger
from pipeline.report.sections import causal_graphs
from pipeline.run import resume
from pipeline.sinks import graphs
from pipeline.store import open_run
from pipeline.verify import verify
from tests.pipeline.tiny_run import run_in_process, run_tiny, stored, write_run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

LEVEL = 0.5
"""Of random weights and eight samples, nothing has effects at a usual level."""
EXPLAINERS = {
    "graph": {
        "method": "causal_graph",
        "n_samples": 8,
        "n_held_out": 4,
        "level": LEVEL,
        "follow": "both",
    }
}
LEVELS = ("graph.level_0", "graph.level_1", "graph.graph")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("scipy")
    folder = tmp_path_factory.mktemp("causal")
    assert run_tiny(folder, explainers=EXPLAINERS).exit_code == 0
    return folder / "out"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made.parent, tmp_path, dirs_exist_ok=True)
    run_file = tmp_path / "out" / "run.yaml"
    run_file.write_text(run_file.read_text().replace(str(made.parent), str(tmp_path)))
    return tmp_path / "out"


def files(path: Path) -> dict[str, bytes]:
    """Everything that was computed, graphs among it."""
    found = sorted(each for each in (path / "graphs").rglob("*") if each.is_file())
    return stored(path) | {str(each.relative_to(path)): each.read_bytes() for each in found}


def test_a_graph_has_what_the_result_has_and_says_where_it_comes_from(made: Path) -> None:
    run = open_run(made)
    assert list(run.graphs("graph")) == ["0", "1", "2"]
    n_nodes = 0
    for label in range(3):
        document = run.graphs("graph")[str(label)]
        origin = document["provenance"]
        assert origin["method"] == "causal_graph"
        assert origin["digests"]["weights"] == run.plan.weights_digest
        assert (document["class"], document["rule"], document["level"]) == (label, "paired", LEVEL)
        assert document["n"] <= document["n_correct"] <= document["n_seen"]
        layers = run.scans["graph"]["classes"][label]
        for layer in document["layers"]:
            values = layers[layer["name"]]
            causes = [node["id"] for node in layer["nodes"] if node["sign"] > 0]
            assert causes == [each for each in values["causes"].tolist() if each >= 0]
            te = {node["id"]: node["te"] for node in layer["nodes"]}
            assert all(values["te"][each] == te[each] for each in te)
            n_nodes += len(te)
    assert n_nodes
    assert verify(made) == []


def test_the_report_shows_them(made: Path) -> None:
    html = causal_graphs.render(open_run(made)) or ""
    assert '<svg class="causal"' in html
    assert '<section id="causal_graphs">' in (made / "report.html").read_text()


def test_graphs_that_are_lost_or_damaged_are_written_again_to_the_same_bytes(copy: Path) -> None:
    before = files(copy)
    shutil.rmtree(copy / "graphs")
    assert [each.object for each in verify(copy)] == ["graphs/graph.json"]
    assert resume(copy).exit_code == 0
    assert files(copy) == before
    (copy / "graphs" / "graph" / "1.json").write_text("{}")
    verify(copy, repair=True)
    assert not graphs.exists(copy, "graph")
    assert resume(copy).exit_code == 0
    assert files(copy) == before


@pytest.mark.parametrize(
    "n_done", [pytest.param(0, marks=pytest.mark.long), 1, pytest.param(2, marks=pytest.mark.long)]
)
def test_a_run_that_ended_between_rounds_is_resumed_to_the_same_bytes(
    copy: Path, n_done: int
) -> None:
    before = files(copy)
    for name in LEVELS[n_done:]:
        shutil.rmtree(copy / "ledger" / name)
    shutil.rmtree(copy / "scans")
    (copy / "ledger" / "graph.result" / "basis.json").unlink()
    assert resume(copy).exit_code == 0
    assert files(copy) == before


@pytest.mark.long
def test_a_run_that_is_killed_in_a_round_is_resumed_to_the_same_bytes(
    tmp_path: Path, made: Path
) -> None:
    run_file = write_run(tmp_path, explainers=EXPLAINERS)
    (tmp_path / "slow").write_text("0.02")
    process = run_in_process(run_file)
    path = tmp_path / "out"
    deadline = time.monotonic() + 100
    while not Ledger(path).shards(LEVELS[1]):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not graphs.exists(path, "graph")
    (tmp_path / "slow").unlink()
    assert resume(path).exit_code == 0
    assert files(path) == files(made)


@pytest.mark.long
@pytest.mark.ray
def test_ray_gives_the_graphs_of_the_serial_engine(tmp_path: Path, made: Path) -> None:
    engine = {"kind": "ray", "workers": 2}
    assert run_tiny(tmp_path, explainers=EXPLAINERS, engine=engine).exit_code == 0
    assert files(tmp_path / "out") == files(made)
