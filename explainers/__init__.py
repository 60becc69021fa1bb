"""Attributions and scans over networks that are read as programs.

``explain`` gives one map, ``get`` binds a method to a model, ``scan`` folds a method over a
loader, ``propagate_moments`` carries mean and spread, ``decompose`` splits outputs by masks of the
inputs, ``available`` lists what there is. Methods are discovered on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from explainers.base import (
        Attribution,
        Cost,
        Explained,
        Explainer,
        Result,
        Round,
        Samples,
        Scan,
        State,
    )
    from explainers.bound import Bound, Factory, explain, get
    from explainers.catalogue import available, build, method, methods, register
    from explainers.composites import Composite
    from explainers.decomposition import decompose
    from explainers.driver import scan
    from explainers.network import Network
    from explainers.propagation import propagate_moments
    from explainers.targets import Target
    from explainers.trace import Trace

__all__ = [
    "Attribution",
    "Bound",
    "Composite",
    "Cost",
    "Explained",
    "Explainer",
    "Factory",
    "Network",
    "Result",
    "Round",
    "Samples",
    "Scan",
    "State",
    "Target",
    "Trace",
    "available",
    "build",
    "decompose",
    "explain",
    "get",
    "method",
    "methods",
    "propagate_moments",
    "register",
    "scan",
]

_HOMES = {
    "base": (
        "Attribution",
        "Cost",
        "Explained",
        "Explainer",
        "Result",
        "Round",
        "Samples",
        "Scan",
        "State",
    ),
    "bound": ("Bound", "Factory", "explain", "get"),
    "catalogue": ("available", "build", "method", "methods", "register"),
    "composites": ("Composite",),
    "decomposition": ("decompose",),
    "network": ("Network",),
    "propagation": ("propagate_moments",),
    "targets": ("Target",),
    "trace": ("Trace",),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that importing the package costs nothing."""
    if name == "scan":
        return importlib.import_module("explainers.scan")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"explainers.{home}"), name)
    raise AttributeError(f"module 'explainers' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
