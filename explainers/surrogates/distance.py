"""How far a sample is from itself with some features absent, and what weight that gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.features import Partition

Distance = Literal["cosine", "euclidean", "coalition_cosine", "hamming"]
"""Between the inputs, or between the coalition and that of all features."""

# As torch's CosineSimilarity has it: what norms are at least.
LEAST_NORM = 1e-8


def is_between_inputs(distance: Distance) -> bool:
    """Whether the inputs' values make a difference."""
    return distance in ("cosine", "euclidean")


def of_coalitions(coalitions: Tensor, distance: Distance) -> Tensor:
    """Return the distance of coalitions ``(coalitions, features)`` to all features, ``(1, ...)``.

    With a share s of the features there, ``1 - sqrt(s)`` for ``coalition_cosine`` and ``1 - s`` for
    ``hamming``.
    """
    present = coalitions.double().mean(1)[None]
    return 1 - (present.sqrt() if distance == "coalition_cosine" else present)


def of_inputs(
    inputs: Tensor,
    baseline: Tensor,
    partition: Partition,
    coalitions: Tensor,
    distance: Distance,
) -> Tensor:
    """Return the distance of inputs to what coalitions make of them, ``(rows, coalitions)``.

    No perturbed input is looked at: its squares and products are sums over features, of which some
    are the sample's and the others the baseline's.

    Parameters
    ----------
    inputs
        ``(rows, ...)``.
    baseline
        ``(1 | rows, ...)``, of absent features.
    partition
        Features of these rows.
    coalitions
        Which features are there, ``(coalitions, features)``.
    distance
        ``cosine`` or ``euclidean``.
    """
    there = coalitions.double().T
    inputs, baseline = inputs.double(), baseline.double()

    def summed(values: Tensor) -> Tensor:
        return _of_features(values, partition, len(there))

    if distance == "euclidean":
        return (summed((inputs - baseline).square()) @ (1 - there)).sqrt()
    own = summed(inputs.square())
    product = own @ there + summed(inputs * baseline) @ (1 - there)
    square = own @ there + summed(baseline.square().expand_as(inputs)) @ (1 - there)
    norm = own.sum(1, keepdim=True).sqrt().clamp(min=LEAST_NORM)
    return 1 - product / (norm * square.sqrt().clamp(min=LEAST_NORM))


def exponential(distances: Tensor, width: float) -> Tensor:
    """Return the weights ``exp(-d^2 / (2 width^2))``."""
    return (distances.square() / (-2 * width**2)).exp()


def relative(distances: Tensor, width: float) -> Tensor:
    """Return the weights over the largest of a row, which do not vanish all at once."""
    exponents = distances.square() / (-2 * width**2)
    return (exponents - exponents.amax(1, keepdim=True)).exp()


def _of_features(values: Tensor, partition: Partition, n_features: int) -> Tensor:
    """Return sums over the values of each feature, ``(rows, features)``."""
    cells = partition.cells
    together = [axis for axis in range(1, values.ndim) if cells.shape[axis] == 1]
    if together:
        values = values.sum(together, keepdim=True)
    flat = values.flatten(1)
    if partition.is_shared:
        return flat.new_zeros(len(flat), n_features).index_add_(1, cells.flatten(), flat)
    return flat.new_zeros(len(flat), n_features).scatter_add_(1, cells.flatten(1), flat)
