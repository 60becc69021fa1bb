"""The entries of `explainers:` and `metrics:` in a run file, as the things that they name."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVar

import explainers
from explainers import Explainer
from pipeline import parameters
from pipeline.errors import ConfigError
from pipeline.metrics import Metric, metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from explainers.registry import Registry
    from pipeline.config import RunConfig

T = TypeVar("T")


def build_explainers(config: RunConfig) -> dict[str, Explainer]:
    """Return every explainer of a run, with the scans that others need and nobody listed.

    Parameters that take the result of a scan are left at their default; `needs_of` tells whose
    result belongs there, and the worker puts it in when it exists.

    Raises
    ------
    ConfigError
        If a method or a parameter is unknown or of the wrong type.
    """
    needs = needs_of(config)
    entries = dict(config.explainers)
    for wanted in needs.values():
        for scan in wanted.values():
            entries.setdefault(scan, {})
    return {
        name: _build(
            explainers.methods,
            ("explainers", name),
            {key: value for key, value in values.items() if key not in needs.get(name, {})},
            config,
        )
        for name, values in entries.items()
    }


def build_metrics(config: RunConfig) -> dict[str, Metric]:
    """Return every metric of a run.

    Raises
    ------
    ConfigError
        If a metric or a parameter is unknown or of the wrong type.
    """
    return {
        name: _build(metrics, ("metrics", name), values, config)
        for name, values in config.metrics.items()
    }


def needs_of(config: RunConfig) -> dict[str, dict[str, str]]:
    """Return explainer to parameter to the scan entry whose result it takes.

    Raises
    ------
    ConfigError
        If a method is unknown, or a parameter names an entry that is no such scan.
    """
    found: dict[str, dict[str, str]] = {}
    for name, values in config.explainers.items():
        cls = _class(explainers.methods, ("explainers", name), values, config)
        wanted = {
            parameter: _scan_entry(config, name, parameter, method)
            for parameter, method in cls.needs.items()
        }
        if wanted:
            found[name] = wanted
    return found


def _scan_entry(config: RunConfig, name: str, parameter: str, method: str) -> str:
    """Return the named entry, else the first of the method, else the one that is added."""
    methods = {entry: values.get("method", entry) for entry, values in config.explainers.items()}
    given = config.explainers[name].get(parameter)
    if given is None:
        return next((entry for entry, found in methods.items() if found == method), method)
    if methods.get(given) != method:
        fitting = [entry for entry, found in methods.items() if found == method]
        raise ConfigError(
            f"{config.where('explainers', name, parameter)}: got {given!r}, expected an entry of "
            f"`explainers` with the method {method!r}",
            fix=f"name one of {fitting!r}" if fitting else f"add an entry `{method}: {{}}`",
        )
    return str(given)


def _build(
    registry: Registry[type[T]],
    keys: tuple[str, str],
    values: Mapping[str, Any],
    config: RunConfig,
) -> T:
    cls = _class(registry, keys, values, config)
    own = {key: value for key, value in values.items() if key != "method"}
    return parameters.build(cls, own, functools.partial(config.where, *keys))


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
        raise ConfigError(
            f"{place}: {error}", fix=f"`xpipe {keys[0]}` lists them; `method:` names one"
        ) from error
