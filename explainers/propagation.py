"""Moments of a network's outputs, given those of its inputs: assumed density filtering."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from explainers.cut import ended, unit_shape
from explainers.inference import outside_inference_mode
from explainers.network import Network
from explainers.rules.moments import Form
from explainers.rules.moments.carrying import carry, check

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


@outside_inference_mode
def propagate_moments(
    model: nn.Module | Network | Callable[..., Any],
    mean: Tensor,
    variance: Tensor | None = None,
    factor: Tensor | None = None,
    covariance: Tensor | None = None,
    *,
    layer: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the mean of a network's outputs and their spread, in the form that is given.

    At every operator the incoming values are taken as Gaussian. ``variance`` takes them as
    independent of each other too and is exact operator by operator; errors add up, because
    hidden values are not independent. ``factor`` and ``covariance`` keep linear dependence, and
    activations pass it on to first order (Stein's lemma). Differentiable once in the mean and in
    variance or factor, by `torch.autograd` but not by `torch.func` (MacDonald, Waeldchen, Hauch and
    Kutyniok 2019, arXiv:1905.11092).

    Parameters
    ----------
    model
        A module, a function, or a `Network`, whose outputs are ``(batch, classes)``: behind others
        put an ``nn.Flatten``, or ask for a layer.
    mean
        Of the inputs, ``(batch, ...)``.
    variance
        Of the inputs, ``(batch, ...)``; values are independent of each other.
    factor
        ``(batch, K, ...)``: the covariance is ``L^T L`` for the K rows ``L`` of a sample.
    covariance
        ``(batch, d, d)`` over the ``d`` flattened values of a sample, symmetric and positive
        semidefinite. It costs as much as a factor of ``d`` rows, and must not require a gradient:
        square roots of a covariance with equal eigenvalues have none.
    layer
        Whose value's moments are returned; by default those of the outputs, logits where the
        network ends in a softmax.

    Returns
    -------
    tuple[Tensor, Tensor]
        Mean ``(batch, ...)``, and variance ``(batch, ...)``, factor ``(batch, K, ...)`` or
        covariance ``(batch, d', d')`` of the value.

    Raises
    ------
    LookupError
        If there is no such layer.
    NotImplementedError
        If the model is no program of one input, an operator has no rule, or a covariance requires
        a gradient.
    TypeError
        If not exactly one of variance, factor and covariance is given, one of the arguments is no
        tensor, or the layer no name.
    ValueError
        If shapes do not fit, values are no finite numbers, a variance is negative, a covariance is
        none, or the network is a part that takes over values of the whole.
    """
    given = {"variance": variance, "factor": factor, "covariance": covariance}
    named = [(name, value) for name, value in given.items() if value is not None]
    if len(named) != 1:
        got = ", ".join(name for name, _ in named) or "none of them"
        raise TypeError(f"got {got}; expected exactly one of variance, factor and covariance")
    ((kind, spread),) = named
    _check_types(kind, spread, mean, layer)
    network = model if isinstance(model, Network) else Network(model, mean.detach())
    if network.carried:
        raise ValueError(
            f"got a part of a network that takes over {', '.join(network.carried)} from the whole; "
            "expected a whole network, or a part that takes over nothing"
        )
    network.check(mean.detach())
    _check(kind, spread, mean)
    shape: tuple[int, ...] = (network.n_outputs,)
    if layer is not None:
        shape, network = unit_shape(network, layer), ended(network, layer)
    if kind == "variance":
        found_mean, found = _carried(network, mean, spread, Form("variance", network))
        return found_mean.reshape(-1, *shape), found.reshape(-1, *shape)
    rows = spread
    if kind == "covariance":
        rows = square_root(spread).reshape(*spread.shape[:2], *mean.shape[1:])
    form = Form("factor", network, rows.shape[1])
    found_mean, found = _carried(network, mean, rows.flatten(0, 1), form)
    found = found.reshape(*rows.shape[:2], -1)
    if kind == "covariance":
        return found_mean.reshape(-1, *shape), found.mT @ found
    return found_mean.reshape(-1, *shape), found.reshape(*rows.shape[:2], *shape)


def square_root(covariance: Tensor) -> Tensor:
    """Return a factor ``L`` of covariances, ``L^T L = C``, computed in float64.

    Parameters
    ----------
    covariance
        ``(..., d, d)``, symmetric and positive semidefinite.

    Returns
    -------
    Tensor
        ``(..., d, d)``, of the same type.

    Raises
    ------
    ValueError
        If it is not symmetric, or has eigenvalues that are negative beyond rounding.
    """
    matrix = covariance.double()
    scale = matrix.detach().diagonal(dim1=-2, dim2=-1).abs().amax(-1)
    tolerance = torch.finfo(covariance.dtype).eps * matrix.shape[-1] * 8
    odd = (matrix.detach() - matrix.detach().mT).abs().amax((-2, -1)) > tolerance * scale
    if bool(odd.any()):
        raise ValueError("got a covariance that is not symmetric; expected C with C = C^T")
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    if bool((values.detach()[..., 0] < -tolerance * scale).any()):
        raise ValueError(
            f"got a covariance with the eigenvalue {float(values.detach().min()):.3g}; expected "
            "none below zero; check that it is a covariance, or add to its diagonal"
        )
    root = values.clamp(min=0).sqrt().unsqueeze(-1) * vectors.mT
    rounded: Tensor = root.to(covariance.dtype)
    return rounded


def _carried(network: Network, mean: Tensor, spread: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    check(network, form.kind)
    found = carry(network, mean, spread, form)[network.output_name]
    if found.spread is None:
        n_rows = len(found.mean) * form.n_factors
        return found.mean, found.mean.new_zeros((n_rows, *found.mean.shape[1:]))
    return found.mean, found.spread


def _check_types(kind: str, spread: object, mean: object, layer: object) -> None:
    for name, value in (("mean", mean), (kind, spread)):
        if not isinstance(value, torch.Tensor):
            raise TypeError(
                f"got {name}={value!r} of type {type(value).__name__}, expected a tensor; make "
                "one, as by torch.full_like(mean, 0.1) or torch.from_numpy"
            )
    if layer is not None and not isinstance(layer, str):
        raise TypeError(f"got layer={layer!r}, expected the name of one layer, or None")


def _check(kind: str, spread: Tensor, mean: Tensor) -> None:
    """Refuse a spread that does not fit the mean.

    Raises
    ------
    ValueError
        If shape, type or device do not fit, values are no finite numbers, or a variance is
        negative.
    """
    batch, *shape = mean.shape
    n_values = math.prod(shape)
    n_rows = spread.shape[1] if kind == "factor" and spread.ndim > 1 else "K"
    expected = {
        "variance": (batch, *shape),
        "factor": (batch, n_rows, *shape),
        "covariance": (batch, n_values, n_values),
    }[kind]
    if tuple(spread.shape) != expected:
        raise ValueError(
            f"got a {kind} of shape {tuple(spread.shape)}, expected "
            f"({', '.join(map(str, expected))}) for a mean of shape {tuple(mean.shape)}"
        )
    if spread.dtype != mean.dtype or spread.device != mean.device:
        raise ValueError(
            f"got a {kind} of {spread.dtype} on {spread.device}, expected {mean.dtype} on "
            f"{mean.device}, as the mean"
        )
    if kind == "factor" and not n_rows:
        raise ValueError(
            "got a factor of no rows, expected at least one; of what is certain, rows are zero"
        )
    if kind == "covariance" and spread.requires_grad:
        raise NotImplementedError(
            "got a covariance that requires a gradient, and where eigenvalues are equal there is "
            "none; give a factor of it (factor=...), in which the result is differentiable"
        )
    for name, value in (("mean", mean), (kind, spread)):
        if not bool(value.detach().isfinite().all()):
            raise ValueError(
                f"got a {name} with values that are no finite numbers; expected numbers throughout"
            )
    if kind == "variance" and bool((spread.detach() < 0).any()):
        raise ValueError("got negative variances; expected none below zero")
