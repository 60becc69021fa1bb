"""Rule table ``lrp``: one file per idea; see `explainers.rules.lrp.table`.

Every module of this package is imported with it, so that a new file of rules is found by itself.
"""

from __future__ import annotations

import importlib
import pkgutil

from explainers.rules.lrp.stabiliser import STABILISER, Stabiliser
from explainers.rules.lrp.table import lrp, stabilised

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["STABILISER", "Stabiliser", "lrp", "stabilised"]
