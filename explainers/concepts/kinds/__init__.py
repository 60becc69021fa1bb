"""Kinds of concepts: one file each, found by name.

A kind turns a layer of a network into `Concepts`: what each of them is in the layer's value, how
much of it there is, and how relevance is restricted to some of them. `resolve` makes them of what a
run file says (``channels``, ``heads``, ``tokens``, ``{directions: matrix}``), `select` does so for
all layers that patterns name.
"""

from __future__ import annotations

from explainers.concepts.kinds.base import Concepts
from explainers.concepts.kinds.resolving import kinds, resolve
from explainers.concepts.kinds.selection import given_kinds, select

__all__ = ["Concepts", "given_kinds", "kinds", "resolve", "select"]
