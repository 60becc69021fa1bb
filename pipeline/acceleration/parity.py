"""Are the maps of faster passes those of float32: measured on a batch before anything is stored."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from explainers import explaining
from pipeline.errors import PlanError
from pipeline.paths import Folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from explainers import Attribution, Target, Trace
    from pipeline.acceleration.switches import Accelerator

BOUND = 0.1
"""Largest median of relative differences that is let pass. At 0.1 the angle between two maps is
less than 6 degrees (cosine 0.995), and the difference is as large as the standard error of a
method that averages a hundred draws as large as the map: less than what sampling methods add."""
FAR = 3 * BOUND
"""Difference of a single map that is told though the median is let pass: a cosine of 0.95, beyond
which the strongest places of a map begin to be others."""
MOST_ROWS = 16
"""Samples that are compared: a batch that large fits wherever the planned ones do."""


@dataclass(frozen=True)
class Difference:
    """How much the maps of one explainer differ."""

    explainer: str
    """Name of the entry."""
    median: float
    """Over maps: the norm of the difference over the norm of the map in float32."""
    largest: float
    """Of all maps."""
    n_maps: int
    """That were compared: samples times targets."""


def differences(
    attributions: Mapping[str, Attribution],
    fast: Trace,
    exact: Trace,
    targets: Sequence[Target],
    accelerator: Accelerator,
) -> list[Difference]:
    """Return how maps of faster passes differ from those of float32, by explainer.

    Parameters
    ----------
    attributions
        By name of their entry.
    fast, exact
        Of the same rows: on a network that `accelerator` was applied to, and on the plain one.
    targets
        What is explained.
    accelerator
        The switches.
    """
    device = exact.network.device
    plain = type(accelerator)()
    found = []
    for name, each in attributions.items():
        ratios = []
        for target in targets:
            with accelerator.numbers(device):
                maps = explaining.explained(each, fast.named(name), target).relevance
            with plain.numbers(device):
                expected = explaining.explained(each, exact.named(name), target).relevance
            pairs = zip(
                explaining.by_part(maps, fast.network).values(),
                explaining.by_part(expected, exact.network).values(),
                strict=True,
            )
            ratios += [relative(one, other) for one, other in pairs]
        every = torch.cat(ratios)
        found.append(Difference(name, float(every.median()), float(every.max()), n_maps=len(every)))
    return found


def relative(found: Tensor, expected: Tensor) -> Tensor:
    """Return the norm of the difference over that of what is expected, of each row, ``(batch,)``.

    Zero where both are the same, values that are no numbers among them; infinite where only one
    has such, or is not zero.
    """
    found, expected = found.double().flatten(1), expected.double().flatten(1)
    is_same = (found == expected) | (found.isnan() & expected.isnan())
    difference = (found - expected).where(~is_same, 0.0).norm(dim=1)
    size = expected.nan_to_num(0.0, 0.0, 0.0).norm(dim=1)
    ratio: Tensor = difference / size
    ratio = ratio.where(difference > 0, 0.0)
    return ratio.where(~difference.isnan(), torch.inf)


def write(root: str, pass_name: str, worker: str, found: Sequence[Difference]) -> None:
    """Write what a worker measured into the run's folder: ``parity/<pass>.<worker>.json``.

    Workers may be on GPUs of several kinds, so each writes its own.
    """
    content = json.dumps([asdict(each) for each in found], indent=2) + "\n"
    Folder(root).write(f"parity/{pass_name}.{worker}.json", content.encode())


def in_words(found: Sequence[Difference], asked: str) -> str:
    """Return the differences for people."""
    listed = ", ".join(
        f"{each.explainer} {each.median:.2g} (at most {each.largest:.2g})" for each in found
    )
    return f"{asked}: maps differ from those of float32 by {listed}, relative to their norm"


def outliers(found: Sequence[Difference]) -> str:
    """Return what is to be said of single maps that are far off; empty if there is none."""
    far = [each for each in found if each.median <= BOUND and not each.largest <= FAR]
    if not far:
        return ""
    listed = ", ".join(f"{each.explainer} ({each.largest:.2g})" for each in far)
    return (
        f"some maps are far from those of float32, though most are near: {listed}; "
        f"below {FAR:g} nothing is said"
    )


def refuse(found: Sequence[Difference], where: str, asked: str) -> None:
    """Refuse faster passes whose maps are others.

    Parameters
    ----------
    found
        As `differences` returns it.
    where
        Place in the run file, for the message.
    asked
        The switches, in words.

    Raises
    ------
    PlanError
        If the median difference of any explainer is beyond `BOUND`, or not a number.
    """
    beyond = [each for each in found if not each.median <= BOUND]
    if beyond:
        raise PlanError(
            f"{where}: {in_words(beyond, asked)}; a median of {BOUND:g} is let pass",
            fix="take `precision: float32` (or tf32 in place of bfloat16), without `compile`, or "
            "leave these explainers out",
            page="faster-passes-differ",
        )
