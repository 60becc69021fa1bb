"""The entries of `explainers:`, `metrics:` and `callbacks:`, as the things that they name."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, TypeVar

import explainers
from explainers import Explainer
from explainers.catalogue import preset_of
from explainers.registry import suggest
from pipeline import array_files, callbacks, parameters
from pipeline.complaints import told_of
from pipeline.errors import ConfigError
from pipeline.metrics import RESERVED as BESIDE
from pipeline.metrics import Metric, metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from explainers.registry import Registry
    from pipeline.callbacks import Listener
    from pipeline.config import RunConfig

T = TypeVar("T")
E = TypeVar("E", bound=Explainer)

RESERVED = ("method", "preset")
"""What an explainer's entry can say beside parameters."""

INNER = ("attribution", "parameters")
"""Fields of a method that goes around another: whose maps, and that method's parameters."""


def build_explainers(config: RunConfig) -> dict[str, Explainer]:
    """Return every explainer of a run, with the scans that others need and nobody listed.

    Parameters that take the result of a scan are left at their default; `needs_of` tells whose
    result belongs there, and the worker puts it in when it exists.

    Raises
    ------
    ConfigError
        If a method, a preset or a parameter is unknown or of the wrong type.
    """
    needs = needs_of(config)
    entries = {**config.explainers, **_added(config, needs)}
    return {
        name: _explainer(
            _class(explainers.methods, ("explainers", name), values, config),
            _without(array_files.located(values, config.base), needs.get(name, ())),
            functools.partial(config.where, "explainers", name),
        )
        for name, values in entries.items()
    }


def _added(config: RunConfig, needs: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Any]]:
    """Return entries of the scans that are needed and that nobody listed.

    They are asked for all that any explainer needs of them; of two numbers, for the larger.

    Raises
    ------
    ConfigError
        If two explainers need what one scan cannot give.
    """
    added: dict[str, dict[str, Any]] = {}
    for name, wanted in needs.items():
        asked = _asked(config, name)
        for parameter, scan in wanted.items():
            if scan in config.explainers:
                continue
            entry = added.setdefault(scan, {})
            for key, value in asked.get(parameter, {}).items():
                known = entry.setdefault(key, value)
                if known == value:
                    continue
                if not isinstance(known, int | float) or not isinstance(value, int | float):
                    raise ConfigError(
                        f"{config.where('explainers', name)}: needs a scan {scan!r} with "
                        f"{key}: {value!r}, another explainer one with {key}: {known!r}",
                        fix=f"add an entry with the method {scan!r} for each, and name them in "
                        f"`{parameter}`",
                    )
                entry[key] = max(known, value)
    return added


def _asked(config: RunConfig, name: str) -> dict[str, Mapping[str, Any]]:
    """Return what scans have to be asked for, by the dotted path of the parameter in an entry."""
    values = config.explainers[name]
    cls = _class(explainers.methods, ("explainers", name), values, config)
    return _asked_of(cls, values, functools.partial(config.where, "explainers", name))


def _asked_of(
    cls: type[Explainer], values: Mapping[str, Any], where: Callable[..., str]
) -> dict[str, Mapping[str, Any]]:
    given = _given(cls, values, where)
    found = dict(cls.parameters_of_needs(given))
    inner, own = _inner(cls, given)
    if inner is not None and inner in explainers.methods:
        below = _asked_of(explainers.methods.get(inner), own, functools.partial(where, INNER[1]))
        found |= {f"{INNER[1]}.{key}": asked for key, asked in below.items()}
    return found


def build_metrics(config: RunConfig) -> dict[str, Metric]:
    """Return every metric of a run.

    Raises
    ------
    ConfigError
        If a metric, a parameter or a name in ``explainers`` is unknown or of the wrong type.
    """
    built = {}
    for name, values in config.metrics.items():
        cls = _class(metrics, ("metrics", name), values, config)
        own = {key: value for key, value in values.items() if key not in BESIDE}
        where = functools.partial(config.where, "metrics", name)
        check_chosen(values.get("explainers"), config, where("explainers"))
        built[name] = parameters.build(cls, own, where)
    return built


def build_callbacks(config: RunConfig) -> dict[str, Listener]:
    """Return everybody else who is told what happens in a run.

    Raises
    ------
    ConfigError
        If a name or a parameter is unknown or of the wrong type.
    PlanError
        If a library is not installed.
    """
    built = {}
    for name, values in config.callbacks.items():
        cls = _class(callbacks.listeners, ("callbacks", name), values, config)
        own = {key: value for key, value in values.items() if key not in callbacks.RESERVED}
        where = functools.partial(config.where, "callbacks", name)
        built[name] = parameters.build(cls, own, where)
        built[name].check(where())
    return built


def check_chosen(names: Any, config: RunConfig, where: str) -> None:
    """Refuse a choice of explainers that a metric's entry cannot mean.

    Raises
    ------
    ConfigError
        If it is no list of entries of the section explainers.
    """
    if names is None:
        return
    if not isinstance(names, list | tuple) or not names:
        raise ConfigError(
            f"{where}: got {names!r}, expected a list of explainers",
            fix="write `explainers: [lrp, saliency]`, or leave it out to score all",
        )
    for name in names:
        if name not in config.explainers:
            raise ConfigError(
                f"{where}: there is no explainer {name!r}; "
                f"{suggest(str(name), list(config.explainers))}",
                fix="name entries of the section explainers",
                page="unknown-name",
            )


def needs_of(config: RunConfig) -> dict[str, dict[str, str]]:
    """Return explainer to parameter to the scan entry whose result it takes.

    A parameter of a method inside another's is ``parameters.<name>``.

    Raises
    ------
    ConfigError
        If a method is unknown, or a parameter names an entry that is no such scan.
    """
    found: dict[str, dict[str, str]] = {}
    for name, values in config.explainers.items():
        cls = _class(explainers.methods, ("explainers", name), values, config)
        where = functools.partial(config.where, "explainers", name)
        wanted = {
            ".".join(keys): _scan_entry(config, (name, *keys), method)
            for keys, method in _needs(cls, values, where).items()
        }
        if wanted:
            found[name] = wanted
    return found


def servable(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Return the entries of metrics that have something to score, of the explainers that there are.

    Whom they name and is not there is left out; so are metrics of graphs where no scan has any.

    Raises
    ------
    ConfigError
        If a metric is unknown, or an explainer of a run with metrics of graphs.
    """
    found = {}
    for name, values in config.metrics.items():
        cls = _class(metrics, ("metrics", name), values, config)
        if "graph" in cls.requires and not graph_scans(config):
            continue
        named = values.get("explainers")
        if isinstance(named, list):
            values = {**values, "explainers": [each for each in named if each in config.explainers]}
        if values.get("explainers") != []:
            found[name] = values
    return found


def graph_scans(config: RunConfig) -> tuple[str, ...]:
    """Return the entries of scans that find graphs, those added by themselves among them."""
    methods = {name: str(own.get("method", name)) for name, own in config.explainers.items()}
    wanted = {scan for needs in needs_of(config).values() for scan in needs.values()}
    methods |= {scan: scan for scan in sorted(wanted - methods.keys())}
    return tuple(
        name
        for name, method in methods.items()
        if getattr(explainers.methods.get(method), "has_graphs", False)
    )


def with_results(explainer: E, needs: Mapping[str, str], results: Mapping[str, Any]) -> E:
    """Return an explainer with the results of scans in their places.

    Parameters
    ----------
    explainer
        As `build_explainers` made it.
    needs
        Parameter to scan: see `needs_of`.
    results
        Of scans, by their names.
    """
    for parameter, scan in needs.items():
        explainer = _with_result(explainer, parameter.split("."), results[scan])
    return explainer


def _with_result(found: Any, keys: Sequence[str], result: Any) -> Any:
    """Return an explainer, or parameters of one inside it, with a result in its place."""
    first, *rest = keys
    is_mapping = isinstance(found, dict)
    if rest:
        below = found.get(first, {}) if is_mapping else getattr(found, first)
        result = _with_result(below, rest, result)
    # explainers are frozen dataclasses
    return {**found, first: result} if is_mapping else dataclasses.replace(found, **{first: result})


def _needs(
    cls: type[Explainer], values: Mapping[str, Any], where: Callable[..., str]
) -> dict[tuple[str, ...], str]:
    """Return the path of each parameter that takes the result of a scan, with the scan's method."""
    given = _given(cls, values, where)
    try:
        wanted = cls.needs_of(given)
    except (ValueError, TypeError) as error:
        message = str(error.args[0] if error.args else error)
        place = where(*told_of(message, values))
        raise ConfigError(f"{place}: {message}", fix="correct the parameter") from error
    found: dict[tuple[str, ...], str] = {(name,): method for name, method in wanted.items()}
    inner, own = _inner(cls, given)
    if inner is not None and inner in explainers.methods:
        below = _needs(explainers.methods.get(inner), own, functools.partial(where, INNER[1]))
        found |= {(INNER[1], *keys): method for keys, method in below.items()}
    return found


def _scan_entry(config: RunConfig, keys: tuple[str, ...], method: str) -> str:
    """Return the entry that is named, else the only one of the method, else the one to be added."""
    methods = {entry: values.get("method", entry) for entry, values in config.explainers.items()}
    fitting = [entry for entry, found in methods.items() if found == method]
    given: Any = config.explainers
    for key in keys:
        given = given.get(key) if isinstance(given, dict) else None
    place = config.where("explainers", *keys)
    if given is None and len(fitting) > 1:
        raise ConfigError(
            f"{place}: there are {len(fitting)} entries with the method {method!r}, and none is "
            "named here",
            fix=f"name one: `{keys[-1]}: {fitting[0]}`, of {fitting!r}",
        )
    if given is None and not fitting and method in methods:
        raise ConfigError(
            f"{place}: the result of the scan {method!r} is needed, but the entry {method!r} "
            f"has the method {methods[method]!r}",
            fix=f"give that entry another name; `{method}` is then added by itself",
        )
    if given is None:
        return fitting[0] if fitting else method
    if given == method and method not in methods:
        return method
    if not isinstance(given, str) or given not in fitting:
        raise ConfigError(
            f"{place}: got {given!r}, expected an entry of `explainers` with the method {method!r}",
            fix=f"name one of {fitting!r}" if fitting else f"add an entry `{method}: {{}}`",
        )
    return given


def _without(values: Mapping[str, Any], paths: Collection[str]) -> dict[str, Any]:
    """Return values but for those at these dotted paths."""
    kept = {}
    for key, value in values.items():
        below = [path.partition(".")[2] for path in paths if path.startswith(f"{key}.")]
        if key not in paths:
            kept[key] = _without(value, below) if below and isinstance(value, dict) else value
    return kept


def _explainer(
    cls: type[Explainer], values: Mapping[str, Any], where: Callable[..., str]
) -> Explainer:
    """Return an explainer with the parameters of its entry, those of its preset below them."""
    given = _given(cls, values, where)
    inner, of_inner = _inner(cls, given)
    if inner is None:
        return parameters.build(cls, given, where)
    place = functools.partial(where, INNER[1])
    try:
        kind = explainers.methods.get(inner)
    except LookupError as error:
        raise ConfigError(
            f"{where(INNER[0])}: {error}", fix="`xpipe explainers` lists them", page="unknown-name"
        ) from error
    built = _explainer(kind, of_inner, place)
    names = {*_preset(kind, of_inner.get("preset"), place), *of_inner} - set(RESERVED)
    # with the types that its fields have: a list of a run file is a tuple, and so on
    checked = {name: getattr(built, name) for name in names}
    return parameters.build(cls, given, where, {INNER[1]: checked})


def _given(
    cls: type[Explainer], values: Mapping[str, Any], where: Callable[..., str]
) -> dict[str, Any]:
    """Return the parameters of an entry, those of its preset below them."""
    own = {key: value for key, value in values.items() if key not in RESERVED}
    return _preset(cls, values.get("preset"), where) | own


def _preset(cls: type[Explainer], preset: Any, where: Callable[..., str]) -> dict[str, Any]:
    try:
        return preset_of(cls, preset if preset is None else str(preset))
    except LookupError as error:
        raise ConfigError(
            f"{where('preset')}: {error.args[0]}",
            fix=f"`xpipe explainers {cls.name}` lists its presets",
            page="unknown-name",
        ) from error


def _inner(cls: type, values: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Return the method that another goes around, and its parameters; None if there is none."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if not fields.keys() >= set(INNER):
        return None, {}
    own = values.get(INNER[1], {})
    return values.get(INNER[0], fields[INNER[0]].default), own if isinstance(own, dict) else {}


def _class(
    registry: Registry[type[T]],
    keys: tuple[str, str],
    values: Mapping[str, Any],
    config: RunConfig,
) -> type[T]:
    method = values.get("method", keys[1])
    try:
        return registry.get(str(method))
    except LookupError as error:
        place = config.where(*keys, "method") if "method" in values else config.where(*keys)
        listed = "docs/observability.md" if keys[0] == "callbacks" else f"`xpipe {keys[0]}`"
        raise ConfigError(
            f"{place}: {error}",
            fix=f"{listed} lists them; `method:` names one",
            page="unknown-name",
        ) from error
