"""Atlases at the end of real runs: of scans that take a layer apart in different ways, or none."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline import atlas
from pipeline.run import resume
from pipeline.store import open_run
from tests.pipeline.tiny_run import run_tiny

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

EXPLAINERS: dict[str, Any] = {
    "relmax": {
        "method": "relevance_maximization",
        "layers": ["0", "2"],
        "k": 3,
        "references": 2,
        "target": ["label", "predicted"],
    },
    "act": {
        "method": "activation_maximization",
        "layers": ["0"],
        "k": 3,
        "references": 2,
        "concepts": {"0": {"directions": "d.npy"}},
    },
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browsed")
    np.save(folder / "d.npy", np.eye(3, 4))
    data = {"params": {"n": 8}}
    assert run_tiny(folder, explainers=EXPLAINERS, data=data).exit_code == 0
    return folder / "out"


def test_a_layer_has_a_page_for_each_kind_of_its_concepts(out: Path) -> None:
    layers = json.loads((out / "atlas" / "atlas.json").read_text())["layers"]
    assert [(entry["name"], entry["n_concepts"]) for entry in layers] == [
        ("0", 4),
        ("0 · directions d", 3),
        ("2", 6),
    ]
    assert [entry["kind"] for entry in layers] == ["Convolution"] * 3
    for page in ("atlas/index.html", "report.html"):
        assert "13 concepts of 2 layers" in " ".join((out / page).read_text().split())


def test_captions_say_what_the_network_took_a_sample_for(out: Path) -> None:
    rows = open_run(out).samples().to_pydict()
    wrong = {
        sample: prediction
        for sample, label, prediction in zip(
            rows["sample_id"], rows["label"], rows["prediction"], strict=True
        )
        if label != prediction
    }
    assert wrong
    html = (out / "atlas" / "layers" / "2.html").read_text()
    for sample in rows["sample_id"]:
        for item in html.split(f'title="{sample}')[1:]:
            said = item.partition("</li>")[0]
            assert ("→" in said) == (sample in wrong)
            assert sample not in wrong or f"→ {wrong[sample]}</i>" in said


def test_a_run_is_done_whether_its_atlas_can_be_built_or_not(
    out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(out / "atlas")
    (out / "report.html").unlink()

    def fail(*_: Any, **__: Any) -> str:
        raise IndexError("of a page")

    with monkeypatch.context() as patch:
        patch.setattr(atlas, "build", fail)
        assert resume(out).exit_code == 0
    assert "xpipe atlas" in caplog.text
    assert (out / "report.html").exists()
    assert resume(out).exit_code == 0
    assert (out / "atlas" / "index.html").exists()
