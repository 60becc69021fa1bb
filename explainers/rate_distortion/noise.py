"""What obfuscated values are replaced by: its moments, and draws of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from explainers import numeric
from explainers.rate_distortion import draws, spreads

if TYPE_CHECKING:
    from explainers.network import Network
    from explainers.rate_distortion.draws import Draws
    from explainers.rate_distortion.spreads import Mode
    from explainers.sampling.randomness import RandomRows

MODES: tuple[Mode, ...] = ("diag", "half", "full")

_EXPECTED = (
    "expected the result of the scan moments, {uniform: [low, high]}, {mean: ..., variance: ...} "
    "(or factor, or covariance), {file: path of a .safetensors file with these tensors, or with "
    "rows}, or a tensor of real rows (n, ...)"
)


@dataclass(frozen=True, eq=False)
class Noise:
    """Noise in place of values of the input, of the type and on the device of a network.

    In mode `diag` its values are taken as independent, in `half` and `full` they covary by a
    factor. Draws of uniform noise are uniform and those of real rows are rows, whatever the mode;
    draws of noise of which only moments are known are Gaussian with the moments of the mode.
    """

    mode: Mode
    mean: Tensor
    """``(...)``, shaped as one input."""
    spread: Tensor
    """In mode `diag` the variance ``(...)``; else the factor ``(K, ...)`` whose product with itself
    over ``K`` is the covariance."""
    draws: Draws
    """Its distribution."""

    def draw(self, rows: RandomRows, purpose: str, n_draws: int) -> Tensor:
        """Return draws ``(batch, draws, ...)`` for the rows of a trace.

        They follow from the trace's seed and namespace, the purpose and the sample alone; see
        `explainers.rate_distortion.draws` for draws that are kept in less memory.
        """
        return self.draws.values(self.draws.codes(rows, purpose, n_draws))


def resolve(spec: Any, network: Network, mode: Mode = "half", rank: int | None = None) -> Noise:
    """Return the noise that `spec` says, for a network's input.

    Parameters
    ----------
    spec
        What the scan `moments` has found (``mean``, ``variance``, ``factor``, ``covariance``);
        ``{"uniform": [low, high]}``; ``{"mean": m, "variance": v}``, or with ``factor`` (K, ...) or
        ``covariance`` (d, d), of numbers, of one a channel, or of tensors shaped as one input;
        ``{"file": path}`` of a ``.safetensors`` file with such tensors, or with ``rows``; or a
        tensor, or array, ``(n, ...)`` of real rows, of a floating-point type.
    network
        Gives shape, type and device.
    mode
        ``diag``: variances alone. ``half``: a factor, which may stand for a part of the covariance
        only. ``full``: all of the covariance, as its square root.
    rank
        In mode `half` the most rows that are kept of a factor, the strongest; None for all.

    Raises
    ------
    TypeError
        If it is none of these, or rows are integers.
    ValueError
        If shapes do not fit, values are not finite, or the mode needs what is not there.
    """
    _check(mode, rank)
    shape = tuple(network.input_shape)
    if isinstance(spec, Noise):
        if spec.mode != mode or tuple(spec.mean.shape) != shape:
            raise ValueError(
                f"got noise of mode {spec.mode!r} for inputs {tuple(spec.mean.shape)}, expected "
                f"mode {mode!r} and {shape}; resolve it again from what it was made of"
            )
        return spec
    if isinstance(spec, Mapping) and set(spec) == {"file"}:
        spec = _of_file(spec["file"])
    if isinstance(spec, Mapping) and set(spec) == {"rows"}:
        spec = spec["rows"]
    if isinstance(spec, np.ndarray):
        spec = torch.asarray(spec, copy=True)  # of arrays that cannot be written to, too
    if isinstance(spec, Tensor):
        mean, spread, drawn = _of_rows(spec, shape, mode, rank)
    elif isinstance(spec, Mapping) and set(spec) == {"uniform"}:
        mean, spread, drawn = _of_bounds(spec["uniform"], shape, mode, rank)
    elif isinstance(spec, Mapping):
        mean, spread, drawn = _of_moments(spec, shape, mode, rank)
    else:
        raise TypeError(f"got noise of type {type(spec).__name__!r}, {_EXPECTED}")
    if mode != "diag":
        spreads.check_n_factors(len(spread), mode)
    of = (network.device, network.dtype)
    return Noise(mode, mean.to(*of), spread.to(*of).contiguous(), drawn.to(*of))


def _check(mode: Any, rank: int | None) -> None:
    if mode not in MODES:
        raise ValueError(f"got mode {mode!r}, expected one of {', '.join(MODES)}")
    if rank is None:
        return
    numeric.check_whole("rank", rank)
    if mode != "half":
        raise ValueError(
            f"got rank={rank} in mode {mode!r}, which has no factor to cut short; leave it out, or "
            "set mode: half"
        )


def _of_moments(
    spec: Mapping[str, Any], shape: tuple[int, ...], mode: Mode, rank: int | None
) -> tuple[Tensor, Tensor, Draws]:
    given = spreads.Given(spec, shape)
    factor = None if mode == "diag" else given.factor(mode, rank)
    if factor is not None:
        return given.mean, factor, draws.Covarying(given.mean, factor)
    variance = given.variance()
    independent = draws.Independent(given.mean, variance.sqrt())
    return given.mean, _independent(variance, mode, rank), independent


def _of_bounds(
    bounds: Any, shape: tuple[int, ...], mode: Mode, rank: int | None
) -> tuple[Tensor, Tensor, Draws]:
    if not isinstance(bounds, list | tuple | Tensor | np.ndarray) or len(bounds) != 2:
        raise ValueError(f"got uniform noise from {bounds!r}, expected [low, high]")
    low, high = (spreads.shaped("bound", bound, shape).double() for bound in bounds)
    width = high - low
    if not bool(((width >= 0) & width.isfinite()).all()):
        raise ValueError(f"got uniform noise from {bounds!r}, expected finite [low, high] in order")
    variance = width.square() / 12
    return (low + high) / 2, _independent(variance, mode, rank), draws.Uniform(low, high)


def _of_rows(
    rows: Tensor, shape: tuple[int, ...], mode: Mode, rank: int | None
) -> tuple[Tensor, Tensor, Draws]:
    if tuple(rows.shape[1:]) != shape or len(rows) < 2:
        raise ValueError(
            f"got rows as noise of shape {tuple(rows.shape)}, expected (n, "
            f"{', '.join(map(str, shape))}) with n at least 2"
        )
    if not rows.is_floating_point():
        raise TypeError(
            f"got rows as noise of {rows.dtype}, expected floating-point values; give them as the "
            "model takes its inputs, scaled or normalised: integers that are meant are .float()"
        )
    wide = rows.detach().double()
    if not bool(wide.isfinite().all()):
        raise ValueError("got rows as noise with NaN or infinite values; drop those rows")
    spread = wide.var(0) if mode == "diag" else spreads.of_rows(wide, rank)
    return wide.mean(0), spread, draws.Given(rows.detach())


def _independent(variance: Tensor, mode: Mode, rank: int | None) -> Tensor:
    return variance if mode == "diag" else spreads.of_independent(variance, rank, mode)


def _of_file(path: Any) -> Mapping[str, Tensor]:
    found = Path(path)
    if found.suffix != ".safetensors" or not found.is_file():
        raise ValueError(
            f"got noise from {str(path)!r}, expected the path of a .safetensors file that exists, "
            "with the tensors mean and variance, factor or covariance, or rows"
        )
    from safetensors.torch import load_file

    loaded: dict[str, Tensor] = load_file(found)
    return loaded
