"""Nodes and weights with which an integral over [0, 1] becomes a sum."""

from __future__ import annotations

from typing import Literal

import torch

Quadrature = Literal[
    "gausslegendre",
    "riemann_left",
    "riemann_right",
    "riemann_middle",
    "riemann_trapezoid",
    "riemann_inclusive",
]


def nodes_and_weights(method: Quadrature, n_steps: int) -> tuple[list[float], list[float]]:
    """Return where to evaluate and how much each evaluation counts.

    Those that Captum has are Captum's to the bit, which rounds its weights to float32 and its
    equidistant nodes to torch's default type; otherwise, results in float64 would differ by 3e-8 of
    their size.

    Parameters
    ----------
    method
        ``gausslegendre`` is exact for polynomials of degree 2 n_steps - 1. The Riemann sums give
        equal weights to equidistant nodes; ``riemann_trapezoid`` halves the two at the ends.
        ``riemann_inclusive`` has nodes at both ends too, and halves nothing: iNNvestigate's mean.
    n_steps
        How many evaluations.

    Raises
    ------
    ValueError
        If there is no such method, or a Riemann sum has fewer than two steps.
    """
    if method == "gausslegendre":
        return _gauss_legendre(n_steps)
    ends = {
        "riemann_left": (0.0, 1 - 1 / n_steps),
        "riemann_right": (1 / n_steps, 1.0),
        "riemann_middle": (1 / (2 * n_steps), 1 - 1 / (2 * n_steps)),
        "riemann_trapezoid": (0.0, 1.0),
        "riemann_inclusive": (0.0, 1.0),
    }
    if method not in ends:
        raise ValueError(f"got method {method!r}, expected gausslegendre or one of {list(ends)}")
    if n_steps < 2:
        raise ValueError(f"got n_steps={n_steps}, expected at least 2 for {method!r}")
    nodes = torch.linspace(*ends[method], n_steps).tolist()
    weights = [1 / n_steps] * n_steps
    if method == "riemann_trapezoid":
        weights[0] /= 2
        weights[-1] /= 2
    return nodes, _rounded(weights)


def _gauss_legendre(n_steps: int) -> tuple[list[float], list[float]]:
    from numpy.polynomial import legendre

    nodes, weights = legendre.leggauss(n_steps)
    return (0.5 * (1 + nodes)).tolist(), _rounded((0.5 * weights).tolist())


def _rounded(weights: list[float]) -> list[float]:
    rounded: list[float] = torch.tensor(weights, dtype=torch.float32).tolist()
    return rounded
