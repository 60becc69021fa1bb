"""Structure of a network: weighted layers, their neurons, and which channels these stand for."""

from __future__ import annotations

from explainers.causal.structure.deriving import structure_of
from explainers.causal.structure.layers import Sources, Structure, WeightedLayer

__all__ = ["Sources", "Structure", "WeightedLayer", "structure_of"]
