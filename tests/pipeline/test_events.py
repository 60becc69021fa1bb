"""The page about observability says what there is: events, figures, columns, parameters."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest
import yaml

import explainers
from pipeline import events, timings
from pipeline.callbacks import listeners
from pipeline.config import load
from pipeline.engine import metrics
from pipeline.entries import build_callbacks
from tests.pipeline.tiny_run import write_run

ROOT = Path(explainers.__file__).parents[1]
PAGE = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
KINDS = events.Event.__subclasses__()


def row_of(first: str) -> str:
    (row,) = re.findall(rf"^\| `{first}` \|.*$", PAGE, flags=re.MULTILINE)
    return str(row)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_event_is_on_the_page_with_its_fields(kind: type[events.Event]) -> None:
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
    _, _, fields, what, _ = row_of(name).split("|")
    assert re.findall(r"`(\w+)`", fields) == [field.name for field in dataclasses.fields(kind)]
    assert what.strip() == (kind.__doc__ or "").splitlines()[0]


def test_every_field_of_an_event_is_explained() -> None:
    tree = ast.parse(Path(events.__file__).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in {kind.__name__ for kind in KINDS}:
            pairs = zip(node.body, [*node.body[1:], None], strict=True)
            for field, after in pairs:
                if isinstance(field, ast.AnnAssign):
                    assert isinstance(after, ast.Expr), (node.name, ast.unparse(field))


def test_every_figure_for_prometheus_is_on_the_page() -> None:
    kinds = {"counter": metrics.COUNTERS, "gauge": metrics.GAUGES, "histogram": metrics.HISTOGRAMS}
    for kind, names in kinds.items():
        for name in names:
            assert f"| {kind} |" in row_of(name)


def test_every_column_of_timings_is_on_the_page() -> None:
    section = PAGE.partition("## Timings")[2].partition("## Events")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(rows)) == timings.SCHEMA.names


@pytest.mark.parametrize("name", ["mlflow", "wandb", "tensorboard", "opentelemetry"])
def test_every_parameter_of_a_callback_is_on_the_page(name: str) -> None:
    kind = listeners.get(name)
    row = row_of(name)
    assert f"xpipe-xai[{kind.extra}]" in row
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        assert f"`{field.name}`" in row or field.name == "every"


def test_the_entries_that_are_shown_can_be_written(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    config = load(write_run(tmp_path, **yaml.safe_load(block)))
    assert list(build_callbacks(config)) == ["mlflow", "tensorboard"]


def test_the_callback_that_is_shown_works(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    given = {"__name__": __name__}
    try:
        # as a module of its own would be: without this file's annotations from the future
        exec(compile(block, "observability.md", "exec", dont_inherit=True), given)
        shout = listeners.get("shout")(file=str(tmp_path / "said"))  # type: ignore[call-arg]
        told = shout.open(None, "")  # type: ignore[arg-type]
        told(events.ScanFinished("x"))
        told(events.RunFinished(4, 1, 0, (), 1.0))
        told.close()
    finally:
        del listeners._things["shout"]
    assert (tmp_path / "said").read_text() == "exit code 4\n"
