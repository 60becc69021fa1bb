"""Erase a cluster's hot region, paste it elsewhere, and see whether the network follows.

A cluster of maps is a strategy of the network, good or bad. It is a Clever Hans where its region
alone, without the object, makes the network say the class (Anders et al. 2022, arXiv:1912.11425).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from explainers import Network
from pipeline.spray.probes import (
    INSIDE,
    KINDS,
    OUTSIDE,
    PASTED,
    Facts,
    probes,
    values_of,
)
from pipeline.spray.regions import imputation
from pipeline.spray.result import CLEVER_HANS, CLUSTER, Analysis, Counterfactual
from pipeline.statistics.shares import wilson

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from pipeline.spray.probes import Probe

Outcomes = dict[str, "NDArray[Any]"]
"""Columns with a row for each change: ``probe`` and ``kind`` (indices), ``sample``, ``before`` and
``after`` (probabilities of the class), ``said`` (whether the network says the class after it)."""

N_ROWS = 64
"""Of a forward pass, outside a run."""


def confirm(
    analysis: Analysis,
    model: nn.Module | Network,
    inputs: Tensor,
    labels: Tensor | NDArray[Any] | None = None,
) -> Analysis:
    """Return the analysis of maps in memory with its clusters checked.

    Parameters
    ----------
    analysis
        Of maps of these inputs, in their resolution.
    model
        The network.
    inputs
        ``(samples, channel, height, width)`` or ``(samples, values)``.
    labels
        The truth, if it is known: samples of the class are then not taken for those of others.
    """
    network = model if isinstance(model, Network) else Network(model, inputs[:2])
    parts = [network(inputs[rows]) for rows in _cut(np.arange(len(inputs)), N_ROWS)]
    said = torch.cat(parts).argmax(dim=1).cpu().numpy()
    known = Facts(said, np.full(len(said), -1) if labels is None else np.asarray(labels))

    def read(samples: Sequence[int]) -> NDArray[Any]:
        return inputs[list(samples)].cpu().numpy()

    sizes = tuple(inputs.shape[1:])[-len(analysis.grid) :]
    checks = list(probes(analysis, known, sizes, read))
    found = outcomes(network, inputs, np.arange(len(inputs)), checks, N_ROWS)
    return judged(analysis, checks, found)


def outcomes(
    network: Network,
    inputs: Tensor,
    samples: NDArray[Any],
    checks: Sequence[Probe],
    n_rows: int,
) -> Outcomes:
    """Return what the network says of changed samples.

    Parameters
    ----------
    network
        What is asked.
    inputs
        Of some samples, ``(samples, ...)``, where the network is.
    samples
        Which they are, int64, ascending; checks of others are left out.
    checks
        Of all clusters.
    n_rows
        Rows of a forward pass.
    """
    changes = list(_changes(samples, checks))
    columns: Outcomes = {name: np.empty(0, kind) for name, kind in _COLUMNS.items()}
    if not changes:
        return columns
    probe, kind, row, rank = (np.concatenate(each) for each in zip(*changes, strict=True))
    targets = np.array([check.target for check in checks])[probe]
    needed, place = np.unique(row, return_inverse=True)
    before = [_probabilities(network, inputs[rows]) for rows in _cut(needed, n_rows)]
    after, said = [], []
    for part in _cut(np.arange(len(row)), n_rows):
        changed = _changed(inputs, checks, probe[part], kind[part], row[part], rank[part])
        probabilities = _probabilities(network, changed)
        wanted = torch.from_numpy(targets[part]).to(probabilities.device)
        after.append(probabilities.gather(1, wanted[:, None])[:, 0])
        said.append(probabilities.argmax(dim=1) == wanted)
    unchanged = torch.cat(before).cpu().numpy()
    return {
        "probe": probe.astype(np.int32),
        "kind": kind.astype(np.int8),
        "sample": samples[row],
        "before": unchanged[place, targets].astype(np.float32),
        "after": torch.cat(after).cpu().numpy().astype(np.float32),
        "said": torch.cat(said).cpu().numpy(),
    }


_COLUMNS = {
    "probe": np.int32,
    "kind": np.int8,
    "sample": np.int64,
    "before": np.float32,
    "after": np.float32,
    "said": np.bool_,
}


def judged(analysis: Analysis, checks: Sequence[Probe], found: Outcomes) -> Analysis:
    """Return an analysis with a verdict on each cluster that was checked."""
    verdicts = {
        (check.target, check.label): _counterfactual(found, position)
        for position, check in enumerate(checks)
    }
    threshold = analysis.parameters["flip_rate"]
    views = {}
    for name, view in analysis.views.items():
        clusters = []
        for cluster in view.clusters:
            outcome = verdicts.get((view.target, cluster.label))
            is_bad = outcome is not None and _is_clever_hans(outcome, threshold)
            verdict = CLEVER_HANS if is_bad else CLUSTER
            clusters.append(replace(cluster, verdict=verdict, counterfactual=outcome))
        views[name] = replace(view, clusters=tuple(clusters))
    return replace(analysis, views=views)


def _is_clever_hans(outcome: Counterfactual, threshold: float) -> bool:
    """Whether the region alone is enough, and not merely that something is put there."""
    return outcome.flip_low >= threshold and outcome.flip_low > outcome.control_high


def _counterfactual(found: Outcomes, position: int) -> Counterfactual:
    of = found["probe"] == position
    kinds = [of & (found["kind"] == number) for number in range(len(KINDS))]
    inside, outside, pasted, control = kinds
    low, high = wilson(found["said"][pasted].sum(), pasted.sum())
    _, control_high = wilson(found["said"][control].sum(), control.sum())
    gain = found["after"].astype(np.float64) - found["before"]
    return Counterfactual(
        n_inside=int(inside.sum()),
        n_outside=int(outside.sum()),
        n_pasted=int(pasted.sum()),
        confidence_inside=_mean(found["before"], inside),
        confidence_outside=_mean(found["before"], outside),
        erase_drop_inside=_mean(-gain, inside),
        erase_drop_outside=_mean(-gain, outside),
        erase_lost_inside=_mean(~found["said"], inside),
        erase_lost_outside=_mean(~found["said"], outside),
        paste_gain=_mean(gain, pasted),
        flip_rate=_mean(found["said"], pasted),
        flip_low=float(low),
        flip_high=float(high),
        control_gain=_mean(gain, control),
        control_rate=_mean(found["said"], control),
        control_high=float(control_high),
    )


def _mean(values: NDArray[Any], of: NDArray[np.bool_]) -> float:
    return float(values[of].mean(dtype=np.float64)) if of.any() else float("nan")


def _changes(
    samples: NDArray[Any], checks: Sequence[Probe]
) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Yield probes, kinds, rows of `samples`, and places in the probe's list of samples."""
    for position, check in enumerate(checks):
        for number, kind in enumerate(KINDS):
            _, rows, ranks = np.intersect1d(
                samples, check.samples(kind), assume_unique=True, return_indices=True
            )
            if len(rows):
                numbers = np.full((2, len(rows)), [[position], [number]])
                yield numbers[0], numbers[1], rows, ranks


def _cut(rows: NDArray[Any], size: int) -> list[NDArray[Any]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _changed(
    inputs: Tensor,
    checks: Sequence[Probe],
    probe: NDArray[Any],
    kind: NDArray[Any],
    row: NDArray[Any],
    rank: NDArray[Any],
) -> Tensor:
    """Return copies of samples with their regions changed, ``(rows, ...)``."""
    changed = inputs[row]
    for position in np.unique(probe):
        check = checks[position]
        values = values_of(changed, check.mask.ndim)  # writes through to `changed`
        for name in KINDS:
            part = np.flatnonzero((probe == position) & (kind == KINDS.index(name)))
            if len(part):
                _change(values, check, name, part, rank[part])
    return changed


def _change(
    values: Tensor, check: Probe, kind: str, rows: NDArray[Any], rank: NDArray[Any]
) -> None:
    """Put other values into the region of some rows, in place."""
    inside = torch.from_numpy(np.flatnonzero(check.mask)).to(values.device)
    at = torch.from_numpy(rows).to(values.device)
    if kind in (INSIDE, OUTSIDE) and check.mask.ndim == 2:
        outside = torch.from_numpy(np.flatnonzero(~check.mask)).to(values.device)
        weights = torch.from_numpy(imputation(check.mask)).to(values)
        values[at[:, None], :, inside] = (values[at][:, :, outside] @ weights.T).transpose(1, 2)
        return
    # a row of values has no neighbours to impute from: it gets what the other cluster has there
    donors = check.patches if kind == PASTED else check.controls
    patch = torch.from_numpy(donors[rank % len(donors)]).to(values)
    values[at[:, None], :, inside] = patch.transpose(1, 2)


def _probabilities(network: Network, inputs: Tensor) -> Tensor:
    output = network(inputs)
    return output.to(torch.promote_types(output.dtype, torch.float32)).softmax(dim=1)
