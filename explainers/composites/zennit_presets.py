"""zennit's composites (Anders et al. 2021, arXiv:2106.13200) under the names that it gives them."""

from __future__ import annotations

from explainers.composites.assignment import Assignment
from explainers.composites.named import constant

CONVOLUTIONS = ("type:Convolution",)
LINEAR = ("type:Convolution", "type:Linear")

_EPSILON = Assignment("epsilon", ("type:Linear",))
_FLAT = Assignment("flat", LINEAR, "first")
_Z_PLUS = Assignment("z_plus", CONVOLUTIONS)

EPSILON_PLUS = constant("epsilon_plus", _Z_PLUS, _EPSILON)
"""Positive contributions in convolutions, all contributions in matrix products."""

EPSILON_PLUS_FLAT = constant("epsilon_plus_flat", _FLAT, _Z_PLUS, _EPSILON)
"""`EPSILON_PLUS`, but the first convolution or matrix product shares equally."""
