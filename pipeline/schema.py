"""The JSON schema of run files: sections, and the parameters of everything that can be named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import explainers
from pipeline.callbacks import listeners
from pipeline.config import TAKEN, RunConfig
from pipeline.data import sources
from pipeline.metrics import metrics
from pipeline.models import model_sources
from pipeline.parameters import schema_of

if TYPE_CHECKING:
    from explainers.registry import Registry


def json_schema() -> dict[str, Any]:
    """Return the JSON schema (2020-12) that editors complete and check run files with."""
    schema = RunConfig.model_json_schema()
    definitions = schema["$defs"]
    properties = schema["properties"]
    properties["explainers"] |= {
        "additionalProperties": False,
        "propertyNames": {"not": {"enum": list(TAKEN)}},
    }
    properties["explainers"]["patternProperties"] = {
        "^[a-z][a-z0-9_]*$": _entry(definitions, "explainer", explainers.methods)
    }
    properties["metrics"] |= {"additionalProperties": False}
    properties["metrics"]["patternProperties"] = {
        "^[a-z][a-z0-9_]*$": _entry(definitions, "metric", metrics)
    }
    properties["callbacks"] |= {"additionalProperties": False}
    properties["callbacks"]["patternProperties"] = {
        "^[a-z][a-z0-9_]*$": _entry(definitions, "callback", listeners)
    }
    _named(properties["callbacks"], definitions, "callback", listeners)
    _named(properties["explainers"], definitions, "explainer", explainers.methods)
    _named(properties["metrics"], definitions, "metric", metrics)
    definitions["DataConfig"] = _data(definitions)
    definitions["ModelConfig"]["properties"]["source"]["enum"] = list(model_sources.names())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


_CHOSEN = {
    "description": "Entries of `explainers` whose maps are scored; all if not given.",
    "type": "array",
    "items": {"type": "string"},
    "minItems": 1,
}


def _entry(definitions: dict[str, Any], kind: str, registry: Registry[Any]) -> dict[str, Any]:
    """Return the schema of an entry that may be called anything: it names its method."""
    for name in registry.names():
        own = _parameters(registry.get(name), definitions)
        own["properties"]["method"] = {"const": name}
        if kind == "metric":
            own["properties"]["explainers"] = _CHOSEN
        presets = getattr(registry.get(name), "presets", {})
        if presets:
            own["properties"]["preset"] = {"enum": sorted(presets)}
        definitions[f"{kind}.{name}"] = own
    return {
        "type": ["object", "null"],
        "allOf": [
            {
                "if": {
                    "type": "object",
                    "properties": {"method": {"const": name}},
                    "required": ["method"],
                },
                "then": {"$ref": f"#/$defs/{kind}.{name}"},
            }
            for name in registry.names()
        ],
        "properties": {"method": {"enum": list(registry.names())}},
    }


def _named(
    section: dict[str, Any], definitions: dict[str, Any], kind: str, registry: Registry[Any]
) -> None:
    """Give entries that are called as a method, and name no other, its parameters."""
    section["properties"] = {
        name: {
            "description": definitions[f"{kind}.{name}"]["description"],
            "if": {"type": "object", "not": {"required": ["method"]}},
            "then": {"$ref": f"#/$defs/{kind}.{name}"},
        }
        for name in registry.names()
    }


def _data(definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the section `data`, whose further fields depend on the source."""
    common = definitions["DataConfig"]["properties"]
    cases = []
    for name in sources.names():
        own = _parameters(sources.get(name), definitions)
        own["properties"] = {**common, **own["properties"], "source": {"const": name}}
        own["required"] = ["source", *own.get("required", [])]
        definitions[f"source.{name}"] = own
        chosen = {"properties": {"source": {"const": name}}, "required": ["source"]}
        cases.append({"if": chosen, "then": {"$ref": f"#/$defs/source.{name}"}})
    return {
        "description": definitions["DataConfig"]["description"],
        "type": "object",
        "properties": {"source": {"enum": list(sources.names())}},
        "required": ["source"],
        "allOf": cases,
    }


def _parameters(cls: type, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = schema_of(cls)
    schema.setdefault("properties", {})
    definitions.update(schema.pop("$defs", {}))
    return schema
