"""Parameters of explainers, metrics and sources: checked against the fields of their dataclass."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import json
import sys
import typing
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticOmit

from pipeline.complaints import complaints, places, told_of
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

T = TypeVar("T")


def build(
    cls: type[T],
    parameters: Mapping[str, Any],
    where: str | Callable[..., str],
    ready: Mapping[str, Any] = MappingProxyType({}),
) -> T:
    """Return an instance of a dataclass with these parameters.

    Parameters
    ----------
    cls
        A dataclass from the standard library; its annotations are the types that are accepted.
    parameters
        Names to values, as YAML has them: lists for tuples, text for literals.
    where
        Where the parameters were written, for messages; or a function of keys, as
        `RunConfig.where`, that can tell it for each.
    ready
        Values that are taken as they are, in place of those in `parameters`.

    Raises
    ------
    ConfigError
        If a name is unknown, a value missing or of the wrong type, or the class refuses them.
    """
    place = where if callable(where) else functools.partial(_dotted, where)
    values = dict(parameters)
    model = model_of(cls)  # type: ignore[arg-type]
    try:
        checked = _validate(model, values)
    except ValidationError as error:
        found = complaints(error, values, place, functools.partial(_fields_at, model, values))
        (keys, *others) = places(error, values)
        # what is wrong inside a parameter is told that parameter's own
        inner = (
            ()
            if others
            else _fields_at(model, values, keys) or _fields_at(model, values, keys[:-1])
        )
        names = inner or tuple(model.model_fields)
        fix = f"its parameters are: {', '.join(names)}" if names else "it has no parameters"
        raise ConfigError("\n".join(found), fix=fix) from error
    given = {name: getattr(checked, name) for name in checked.model_fields_set} | dict(ready)
    try:
        return cls(**given)
    except (ValueError, TypeError, LookupError) as error:
        # KeyError puts quotes around its message
        message = str(error.args[0] if error.args else error)
        spoken_of = place(*told_of(message, values))
        raise ConfigError(f"{spoken_of}: {message}", fix="correct the parameter") from error


def schema_of(cls: type) -> dict[str, Any]:
    """Return the JSON schema of a dataclass's parameters."""
    schema = model_of(cls).model_json_schema(schema_generator=_Writable)
    schema["description"] = (cls.__doc__ or "").strip().partition("\n")[0]
    schema.pop("title", None)
    return schema


@functools.cache
def model_of(cls: type) -> type[BaseModel]:
    """Return a pydantic model with the fields of a dataclass."""
    hints = _hints(cls)
    definitions: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        if field.default is not dataclasses.MISSING:
            default = Field(default=field.default)
        elif field.default_factory is not dataclasses.MISSING:
            default = Field(default_factory=field.default_factory)
        else:
            default = Field()
        definitions[field.name] = (hints[field.name], default)
    config = ConfigDict(
        extra="forbid", strict=True, arbitrary_types_allowed=True, protected_namespaces=()
    )
    model: type[BaseModel] = create_model(cls.__name__, __config__=config, **definitions)
    return model


def _fields_at(
    model: type[BaseModel], values: Mapping[str, Any], keys: tuple[str | int, ...]
) -> tuple[str, ...]:
    """Return the names that can be written below some keys; of several kinds, of the nearest."""
    if not keys:
        return tuple(model.model_fields)
    field = model.model_fields.get(str(keys[0]))
    kinds = _dataclasses_in(None if field is None else field.annotation)
    names = [tuple(each.name for each in dataclasses.fields(kind)) for kind in kinds]
    value = values.get(str(keys[0]))
    given = set(value) if isinstance(value, collections.abc.Mapping) else set()
    most = max((len(given.intersection(each)) for each in names), default=0)
    nearest = (each for each in names if len(given.intersection(each)) == most)
    return tuple(dict.fromkeys(name for each in nearest for name in each))


def _dataclasses_in(annotation: Any) -> Iterator[type]:
    """Yield the dataclasses that a type is, or has among its alternatives."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _dataclasses_in(inner)


class _Writable(GenerateJsonSchema):
    """Leaves out what a run file cannot say, such as tensors."""

    def handle_invalid_for_json_schema(
        self, schema: CoreSchema, error_info: str
    ) -> JsonSchemaValue:
        raise PydanticOmit


def _validate(model: type[BaseModel], values: dict[str, Any]) -> BaseModel:
    try:
        text = json.dumps(values)
    except TypeError:
        # tensors and the like, from a caller in Python: no YAML types to be strict about
        return model.model_validate(values, strict=False)
    return model.model_validate_json(text)


def _hints(cls: type) -> dict[str, Any]:
    """Return the types of a class's fields, also those that are imported for type checkers only.

    What cannot be found out is Any; the class itself checks such a parameter.
    """
    import torch

    known = {**vars(typing), **vars(collections.abc), "torch": torch, "Tensor": torch.Tensor}
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        module = sys.modules.get(base.__module__)
        names = {**known, **(vars(module) if module else {})}
        for name, annotation in inspect.get_annotations(base).items():
            hints[name] = _evaluate(annotation, names)
    return hints


def _evaluate(annotation: Any, names: dict[str, Any]) -> Any:
    while isinstance(annotation, str):
        try:
            # an alias may be text in its turn
            annotation = eval(annotation, names)
        except NameError as error:
            if error.name is None or error.name in names:
                return Any
            names = {**names, error.name: Any}
        except (AttributeError, TypeError):
            return Any
    return annotation


def _dotted(*keys: str | int) -> str:
    return ".".join(str(key) for key in keys if key != "")
