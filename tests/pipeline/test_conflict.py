"""What is said of a configuration that is another than that of a folder."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pipeline.conflict import changes
from tests.pipeline.tiny_run import config_of

if TYPE_CHECKING:
    from pathlib import Path


def test_what_a_digest_leaves_out_is_named_by_its_default(tmp_path: Path) -> None:
    plain = config_of(tmp_path)
    other = config_of(tmp_path, engine={"precision": "bfloat16"}, explainers={"ig": {}})
    assert "precision" not in plain.canonical()["engine"]
    began: Any = SimpleNamespace(environment={"config": plain.canonical()}, config=plain)
    assert changes(began, plain) == []
    found = changes(began, other)
    assert "engine.precision: 'float32' there, 'bfloat16' here" in found
    # what an explainer takes by default, its entry does not say
    assert "explainers.ig.n_steps: 4 there, not given here" in found
    began.environment["config"] = other.canonical()
    assert "engine.precision: 'bfloat16' there, 'float32' here" in changes(began, plain)
