from __future__ import annotations

import json
from typing import Any

import pytest

import explainers
from pipeline.data import sources
from pipeline.metrics import metrics
from pipeline.schema import json_schema


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


def test_all_references_resolve_and_the_schema_is_json(schema: dict[str, Any]) -> None:
    text = json.dumps(schema)
    definitions = schema["$defs"]
    for piece in text.split('"$ref": "#/$defs/')[1:]:
        assert piece.partition('"')[0] in definitions
