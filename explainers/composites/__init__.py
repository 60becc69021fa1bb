"""Which LRP rule each operator of a network gets: composites, and those that have a name."""

from __future__ import annotations

from explainers.composites.assignment import Assignment
from explainers.composites.choice import Composite
from explainers.composites.named import composites, find
from explainers.composites.zennit_presets import EPSILON_PLUS, EPSILON_PLUS_FLAT

__all__ = ["EPSILON_PLUS", "EPSILON_PLUS_FLAT", "Assignment", "Composite", "composites", "find"]
