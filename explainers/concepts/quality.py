"""How well defined concepts are, by embeddings of the samples that show each best.

Clarity, redundancy and polysemanticity as in Dreyer et al. 2025 (SemanticLens, arXiv:2501.05398).
A concept of which there are fewer than two samples, or of which an embedding has no direction
because it is zero, has scores NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

_BLOCK = 2**22
"""So many values of embeddings are looked at together, in double precision."""
_SEED = 123
_N_STARTS = 10
_N_TRIALS = 2
"""Candidates for the second centre, of which the better is taken: 2 + int(log(2))."""
_MAX_ITERATIONS = 300
_N_COMPARED = 10
"""So many samples are compared with the mean where there are no two clusters."""


def quality(embeddings: Tensor, valid: Tensor) -> dict[str, Any]:
    """Return all scores of a layer's concepts, by name, as results of scans have them."""
    redundant, nearest = redundancy(embeddings, valid)
    return {
        "clarity": clarity(embeddings, valid),
        "polysemanticity": polysemanticity(embeddings, valid),
        "redundancy": redundant,
        "nearest": nearest,
    }


def clarity(embeddings: Tensor, valid: Tensor) -> Tensor:
    r"""Return how much alike the samples of each concept are.

    The mean cosine of two different samples,
    :math:`\frac{n}{n-1}(\|\frac{1}{n}\sum_i v_i/\|v_i\|\|^2 - \frac{1}{n})`.

    Parameters
    ----------
    embeddings
        ``(concepts, n, d)``; what is not valid may have any value.
    valid
        Which samples there are, bool, ``(concepts, n)``.

    Returns
    -------
    Tensor
        ``(concepts,)``, from -1/(n - 1) to 1.
    """
    return _by_block(_clarity, embeddings, valid)


def redundancy(embeddings: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return how much alike the concepts of a layer are.

    Concepts whose mean embedding has no direction are left out.

    Parameters
    ----------
    embeddings
        ``(concepts, n, d)``; what is not valid may have any value.
    valid
        Which samples there are, bool, ``(concepts, n)``.

    Returns
    -------
    tuple of Tensor
        The mean over concepts of the greatest cosine of a concept's mean embedding and another's,
        ``()``, and which the other is, int64, ``(concepts,)``, the first of several; -1 if none.
    """
    _check(embeddings, valid)
    unit = _unit(torch.cat([_means(*block) for block in _blocks(embeddings, valid)]))
    is_defined = unit.isfinite().all(1)
    nearest = torch.full((len(unit),), -1, dtype=torch.int64, device=unit.device)
    where = is_defined.nonzero().squeeze(1)
    if len(where) < 2:
        return _as_given(unit.new_tensor(float("nan")), embeddings), nearest
    unit = unit[where]
    greatest = []
    rows = torch.arange(len(unit), device=unit.device)
    for some in torch.split(rows, max(1, _BLOCK // len(unit))):
        cosines = unit[some] @ unit.T
        cosines[torch.arange(len(some), device=unit.device), some] = -torch.inf
        value, other = cosines.max(1)
        greatest.append(value)
        nearest[where[some]] = where[other]
    return _as_given(torch.cat(greatest).mean(), embeddings), nearest


def polysemanticity(embeddings: Tensor, valid: Tensor) -> Tensor:
    """Return how little the two halves of each concept's samples are alike.

    One minus the cosine of the centres of two clusters, found by k-means: the best of 10 starts
    (k-means++ with seed 123). Where one of them has fewer than two samples, the mean of one minus
    the cosine of a sample and the mean of all, over the first 10 samples.

    Parameters
    ----------
    embeddings
        ``(concepts, n, d)``; what is not valid may have any value.
    valid
        Which samples there are, bool, ``(concepts, n)``.

    Returns
    -------
    Tensor
        ``(concepts,)``, from 0 to 2.
    """
    return _by_block(_polysemanticity, embeddings, valid)


def _clarity(vectors: Tensor, valid: Tensor) -> Tensor:
    n = valid.sum(1).to(vectors)
    unit = _unit(vectors).where(valid.unsqueeze(2), 0.0)
    mean = unit.sum(1) / n.unsqueeze(1)
    found = (mean.square().sum(1) - 1 / n) * n / (n - 1)
    return found.where(n > 1, torch.nan)


def _polysemanticity(vectors: Tensor, valid: Tensor) -> Tensor:
    if not valid.shape[1]:
        return vectors.new_full((len(vectors),), torch.nan)
    products = vectors @ vectors.mT  # (concepts, n, n)
    members = _two_means(products, valid)
    weights = members / members.sum(2, keepdim=True).clamp(min=1)
    of_centres = weights @ products @ weights.mT  # (concepts, 2, 2)
    norms = of_centres.diagonal(dim1=1, dim2=2)
    apart = 1 - of_centres[:, 0, 1] / norms.prod(1).sqrt()
    are_two = (members.sum(2) > 1).all(1)
    found = torch.where(are_two, apart, _distance_to_mean(vectors, valid))
    has_directions = (vectors.square().sum(2) > 0).logical_or(~valid).all(1)
    return found.where(has_directions & (valid.sum(1) > 1), torch.nan)


def _distance_to_mean(vectors: Tensor, valid: Tensor) -> Tensor:
    cosines = (_unit(vectors) @ _unit(_means(vectors, valid)).unsqueeze(2)).squeeze(2)
    first = valid & (valid.cumsum(1) <= _N_COMPARED)
    return (1 - cosines).where(first, 0.0).sum(1) / first.sum(1)


def _two_means(products: Tensor, valid: Tensor) -> Tensor:
    """Return the members of each of two clusters, 0 or 1, ``(concepts, 2, n)``.

    Distances to a mean of samples follow from their inner products, so that a step costs n^2 and
    not n d, for all concepts and starts at once.
    """
    centres = _first_centres(products, valid)  # (concepts, starts, 2, n), weights of samples
    squares = products.diagonal(dim1=1, dim2=2)[:, None, None]
    is_second = None
    for _ in range(_MAX_ITERATIONS):
        cross = centres @ products.unsqueeze(1)
        distances = squares - 2 * cross + (cross * centres).sum(3, keepdim=True)
        before, is_second = is_second, distances[:, :, 1] < distances[:, :, 0]
        members = torch.stack([~is_second, is_second], 2).logical_and(valid[:, None, None])
        counts = members.sum(3, keepdim=True)
        # a centre without samples stays where it is
        centres = torch.where(counts > 0, members / counts.clamp(min=1), centres)
        if before is not None and torch.equal(before, is_second):
            break
    # a cluster's sum of squared distances is that of its squares less n times the centre's
    spread = (members * squares).sum((2, 3))
    spread = spread - (counts.squeeze(3) * _norms(centres, products)).sum(2)
    best = spread.argmin(1)
    return members[torch.arange(len(best), device=best.device), best].to(products)


def _first_centres(products: Tensor, valid: Tensor) -> Tensor:
    """Return a sample for each of the centres, ``(concepts, starts, 2, n)``: k-means++.

    The first is drawn evenly, the second by squared distance from it (Arthur and Vassilvitskii
    2007). All concepts share the numbers that are drawn, so that none depends on the others.
    """
    drawn = torch.rand(
        (_N_STARTS, 1 + _N_TRIALS),
        generator=torch.Generator().manual_seed(_SEED),
        dtype=torch.float64,
    ).to(products)
    n_concepts, n = valid.shape
    first = _drawn(valid.to(products).unsqueeze(1).expand(-1, _N_STARTS, -1), drawn[:, :1])
    distances = _distances(products, first).squeeze(2).where(valid.unsqueeze(1), 0.0)
    tried = _drawn(distances, drawn[:, 1:])  # (concepts, starts, trials)
    nearer = torch.minimum(_distances(products, tried), distances.unsqueeze(2))
    best = nearer.where(valid[:, None, None], 0.0).sum(3).argmin(2, keepdim=True)
    both = torch.cat([first, tried.gather(2, best)], 2)
    return products.new_zeros(n_concepts, _N_STARTS, 2, n).scatter_(3, both.unsqueeze(3), 1.0)


def _drawn(weights: Tensor, numbers: Tensor) -> Tensor:
    """Return indices for numbers from 0 to 1, as often as weights say, ``(..., numbers)``."""
    sums = weights.cumsum(-1)
    below = (numbers * sums[..., -1:]).contiguous()
    index = torch.searchsorted(sums.contiguous(), below, right=True)
    return index.clamp(max=weights.shape[-1] - 1)


def _distances(products: Tensor, index: Tensor) -> Tensor:
    """Return squared distances of all samples from some, ``(concepts, starts, some, n)``."""
    n = products.shape[1]
    squares = products.diagonal(dim1=1, dim2=2)
    flat = index.flatten(1)
    cross = products.gather(1, flat.unsqueeze(2).expand(-1, -1, n))
    found = squares.unsqueeze(1) - 2 * cross + squares.gather(1, flat).unsqueeze(2)
    return found.clamp(min=0.0).reshape(*index.shape, n)


def _norms(centres: Tensor, products: Tensor) -> Tensor:
    return (centres @ products.unsqueeze(1) * centres).sum(3)


def _means(vectors: Tensor, valid: Tensor) -> Tensor:
    return vectors.sum(1) / valid.sum(1, keepdim=True)


def _unit(vectors: Tensor) -> Tensor:
    """Return vectors of length one; NaN where there is no direction."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / length


def _by_block(
    score: Callable[[Tensor, Tensor], Tensor], embeddings: Tensor, valid: Tensor
) -> Tensor:
    _check(embeddings, valid)
    found = [score(*block) for block in _blocks(embeddings, valid)]
    return _as_given(torch.cat(found), embeddings)


def _blocks(embeddings: Tensor, valid: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield some concepts after the other, in double precision, zero where there is no sample."""
    _, n, d = embeddings.shape
    size = max(1, _BLOCK // max(1, n * max(d, n * _N_STARTS)))
    for vectors, are in zip(torch.split(embeddings, size), torch.split(valid, size), strict=True):
        yield vectors.double().where(are.unsqueeze(2), 0.0), are


def _as_given(scores: Tensor, embeddings: Tensor) -> Tensor:
    return scores.to(torch.float64 if embeddings.dtype == torch.float64 else torch.float32)


def _check(embeddings: Tensor, valid: Tensor) -> None:
    if embeddings.ndim != 3 or valid.shape != embeddings.shape[:2]:
        raise ValueError(
            f"got embeddings {tuple(embeddings.shape)} and valid {tuple(valid.shape)}, expected "
            "(concepts, n, d) and (concepts, n); stack the samples of each concept"
        )
    if valid.dtype != torch.bool:
        raise TypeError(f"got valid of dtype {valid.dtype}, expected torch.bool")
