"""Rule table ``lrp``: one file per kind of operator; see `explainers.rules.lrp.table`."""

from __future__ import annotations

from explainers.rules.lrp import conserving, flat, linear
from explainers.rules.lrp.table import STABILISER, lrp, stabilised

__all__ = ["STABILISER", "conserving", "flat", "linear", "lrp", "stabilised"]
