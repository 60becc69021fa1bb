from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

import explainers
from pipeline.data import sources
from pipeline.metrics import metrics
from pipeline.schema import json_schema

RUN = """
name: small
model: {source: torchvision, name: resnet18}
data: {source: mnist5k}
target: [label, 3, {weights: [1, 2]}]
explainers:
  lrp: {composite: epsilon_plus_flat}
  statistics: {method: moments, rank: 30}
metrics: {sparseness: {}}
engine: {workers: auto, batch_size: 3}
"""


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json_schema()


def test_everything_that_can_be_named_is_in_the_schema(schema: dict[str, Any]) -> None:
    definitions = schema["$defs"]
    assert {f"explainer.{name}" for name in explainers.methods} <= definitions.keys()
    assert {f"metric.{name}" for name in metrics} <= definitions.keys()
    assert {f"source.{name}" for name in sources} <= definitions.keys()


def test_parameters_have_types_and_defaults(schema: dict[str, Any]) -> None:
    properties = schema["$defs"]["source.mnist5k"]["properties"]
    assert properties["mean"]["type"] == "number"
    assert properties["mean"]["default"] == 0.1307
    assert properties["source"] == {"const": "mnist5k"}
    assert "limit" in properties


@pytest.mark.parametrize(
    ("path", "value", "is_right"),
    [
        ("explainers.saliency", None, True),
        ("explainers.target", {"method": "saliency"}, False),
        ("explainers.mine", {"method": "moments", "rank": 3}, True),
        ("data.mean", 0.5, True),
        ("data.meen", 0.5, False),
        ("data.source", "mnist", False),
        ("engine.workrs", 1, False),
        ("explainers.lrp.composit", "x", False),
        ("explainers.statistics.rank", "x", False),
        ("metrics.sparseness", {"method": "pixel_flipping", "n_steps": 3}, True),
        ("metrics.sparseness.n_steps", 3, False),
    ],
)
def test_an_editor_tells_right_from_wrong(
    schema: dict[str, Any], path: str, value: Any, is_right: bool
) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(schema)
    values = yaml.safe_load(RUN)
    assert validator.is_valid(values)
    *above, last = path.split(".")
    section = values
    for key in above:
        section = section[key]
    section[last] = value
    assert validator.is_valid(values) is is_right


def test_all_references_resolve_and_the_schema_is_json(schema: dict[str, Any]) -> None:
    text = json.dumps(schema)
    definitions = schema["$defs"]
    for piece in text.split('"$ref": "#/$defs/')[1:]:
        assert piece.partition('"')[0] in definitions
