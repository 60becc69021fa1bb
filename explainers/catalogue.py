"""Which explainers there are: names to classes, discovered on first use."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from explainers.base import Explainer
from explainers.registry import Registry, suggest

if TYPE_CHECKING:
    from collections.abc import Callable

E = TypeVar("E", bound=type[Explainer])

methods: Registry[type[Explainer]] = Registry(
    "explainer", ("explainers.attribution", "explainers.scan"), "xpipe.explainers"
)


def register(name: str) -> Callable[[E], E]:
    """Return a class decorator that enters an explainer under `name` and tells it so.

    Raises
    ------
    TypeError
        If what is decorated is no explainer.
    ValueError
        If another explainer has the name.
    """

    def enter(explainer: E) -> E:
        if not (isinstance(explainer, type) and issubclass(explainer, Explainer)):
            raise TypeError(
                f"explainer {name!r} is {explainer!r}; derive a class from "
                "explainers.Attribution or explainers.Scan"
            )
        explainer.name = name
        methods.register(name)(explainer)
        return explainer

    return enter


def method(name: str) -> type[Explainer]:
    """Return the class of the explainer `name`; its dataclass fields are its parameters.

    Raises
    ------
    LookupError
        If there is none; the message names the nearest.
    """
    return methods.get(name)


def preset_of(explainer: type[Explainer], preset: str | None) -> dict[str, Any]:
    """Return the parameters that a preset sets for an explainer; none without a preset.

    Raises
    ------
    LookupError
        If the explainer has no such preset; the message says which it has.
    """
    if preset is None:
        return {}
    if preset not in explainer.presets:
        known = list(explainer.presets)
        hint = suggest(preset, known) if known else "it has none"
        raise LookupError(f"explainer {explainer.name!r} has no preset {preset!r}; {hint}")
    return dict(explainer.presets[preset])


def build(name: str, *, preset: str | None = None, **params: Any) -> Explainer:
    """Return the explainer `name` with these parameters, the others at their defaults.

    Parameters
    ----------
    name
        One of `available()`.
    preset
        Whose defaults are taken in place of the explainer's: ``deepexplain``, ``innvestigate``,
        ``zennit`` or ``rde``, as far as it has them.
    **params
        The explainer's parameters; they win over those of the preset.

    Raises
    ------
    LookupError
        If there is no such explainer, or it has no such preset.
    TypeError
        If it has no such parameter, or one that must be given is missing.
    """
    explainer = methods.get(name)
    params = preset_of(explainer, preset) | params
    fields = _fields(explainer)
    # more than the fields: the initialiser may know other libraries' names for them
    known = list(inspect.signature(explainer).parameters)
    for parameter in params:
        if parameter not in known:
            hint = suggest(parameter, known) if known else "it takes no parameters"
            raise TypeError(f"explainer {name!r} has no parameter {parameter!r}; {hint}")
    missing = [field.name for field in fields if _is_required(field) and field.name not in params]
    if missing:
        raise TypeError(f"explainer {name!r} needs the parameters {', '.join(missing)}")
    return explainer(**params)


def available() -> list[dict[str, Any]]:
    """Return what is known about every explainer, by name.

    Returns
    -------
    list of dict
        ``name``, ``kind``, ``summary``, ``parameters`` (name to default; ``...`` where one must
        be given), ``presets`` (name to the parameters that it sets), ``cost`` at the defaults
        (None where a parameter must be given), ``requires``, ``tasks``, ``needs`` and
        ``stochastic``.
    """
    return [_describe(name, methods.get(name)) for name in methods.names()]


def _describe(name: str, explainer: type[Explainer]) -> dict[str, Any]:
    fields = _fields(explainer)
    needs_nothing = not any(_is_required(field) for field in fields)
    return {
        "name": name,
        "kind": explainer.kind,
        "summary": (inspect.getdoc(explainer) or "").partition("\n\n")[0].replace("\n", " "),
        "parameters": {field.name: _default(field) for field in fields},
        "presets": {preset: dict(values) for preset, values in explainer.presets.items()},
        "cost": explainer().cost if needs_nothing else None,
        "requires": explainer.requires,
        "tasks": explainer.tasks,
        "needs": explainer.needs,
        "stochastic": explainer.stochastic,
    }


def _fields(explainer: type[Explainer]) -> list[dataclasses.Field[Any]]:
    if not dataclasses.is_dataclass(explainer):
        return []
    return [field for field in dataclasses.fields(explainer) if field.init]


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return _default(field) is ...


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return ...
