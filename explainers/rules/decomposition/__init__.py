"""Rule table ``decomposition``: relevant parts of values, carried forward; see `carrying`.

Every module of this package is imported with it, so that a new file of rules is found by itself.
"""

from __future__ import annotations

import importlib
import pkgutil

from explainers.rules.decomposition.parts import Parts
from explainers.rules.decomposition.streams import Streams
from explainers.rules.decomposition.table import decomposition

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Parts", "Streams", "decomposition"]
