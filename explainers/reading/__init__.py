"""Reads an exported graph into typed operators, one parser per kind of ATen function."""

from __future__ import annotations

from explainers.reading import kernels, maps
from explainers.reading.graph import Reading, Ref

__all__ = ["Reading", "Ref", "kernels", "maps"]
