"""Reads a model as a program of typed operators, and believes it once it agrees with the model."""

from __future__ import annotations

from explainers.reading import kernels, maps
from explainers.reading.graph import Reading, Ref

__all__ = ["Reading", "Ref", "kernels", "maps"]
