"""How many samples of each class are drawn, and which."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

from pipeline.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.config import DataConfig
    from pipeline.data.source import Record

_NAMED = 5
"""Classes that a note names; more are counted."""


def draw(config: DataConfig, records: Sequence[Record], seed: int) -> list[Record]:
    """Return what `sample` draws of records, in their order.

    All are shuffled by the seed. Without strata, the first so many are taken; else the first so
    many of each class, see `quotas`.

    Raises
    ------
    PlanError
        If classes are asked for and samples have none.
    """
    check(config, records)
    if config.sample is None:
        return list(records)
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(records), generator=generator).tolist()
    if config.stratify == "none":
        return [records[position] for position in sorted(shuffled[: config.sample])]
    left = quotas(_counts(records), config.sample, is_equal=config.stratify == "equal")
    drawn: list[int] = []
    for position in shuffled:
        label = records[position].label
        if left[label]:
            left[label] -= 1
            drawn.append(position)
    return [records[position] for position in sorted(drawn)]


def quotas(counts: Mapping[int, int], n_drawn: int, *, is_equal: bool) -> dict[int, int]:
    """Return how many samples of each class are drawn.

    By largest remainder (Hamilton): each class gets the whole part of its share, and what is left
    goes, one each, to the largest fractions; of equal ones to the lower class indices. Shares are
    computed in whole numbers, so that the result is that on every machine.

    Parameters
    ----------
    counts
        Class index to samples that there are.
    n_drawn
        Samples to draw in all.
    is_equal
        Whether all classes have one share; else they are as frequent as in `counts`.

    Returns
    -------
    dict
        Class index to number, at most what there is: where a class has fewer than its share, fewer
        are drawn in all, as others would no longer be equally frequent if they stood in for it.
    """
    labels = sorted(counts)
    weights = {label: 1 if is_equal else counts[label] for label in labels}
    total = sum(weights.values())
    found = {label: n_drawn * weights[label] // total for label in labels}
    n_left = n_drawn - sum(found.values())
    by_fraction = sorted((-(n_drawn * weights[label] % total), label) for label in labels)
    for _, label in by_fraction[:n_left]:
        found[label] += 1
    return {label: min(found[label], counts[label]) for label in labels}


def notes(config: DataConfig, records: Sequence[Record]) -> tuple[str, ...]:
    """Return what a reader of the plan should know: classes with fewer samples than asked for.

    Parameters
    ----------
    config
        The section `data`.
    records
        All samples of the source.
    """
    if config.sample is None or config.stratify != "equal":
        return ()
    counts = _counts(records[: config.limit])
    # as if there were enough
    asked = quotas(dict.fromkeys(counts, config.sample), config.sample, is_equal=True)
    short = [label for label in counts if counts[label] < asked[label]]
    if not short:
        return ()
    n_missing = sum(asked[label] - counts[label] for label in short)
    told = ", ".join(f"class {each} has {counts[each]} of {asked[each]}" for each in short[:_NAMED])
    more = f" and {len(short) - _NAMED} more" if len(short) > _NAMED else ""
    return (
        f"data.sample draws {config.sample - n_missing} samples, not {config.sample}, as classes "
        f"have fewer than an equal share: {told}{more}",
    )


def check(config: DataConfig, records: Sequence[Record]) -> None:
    """Refuse strata where nothing is drawn, or that are not known.

    Raises
    ------
    PlanError
        As said.
    """
    if config.stratify == "none":
        return
    if config.sample is None:
        raise PlanError(
            f"data.stratify is {config.stratify!r}, but data.sample draws nothing",
            fix="say with data.sample how many samples to draw, or remove data.stratify",
        )
    unknown = [record for record in records if record.label < 0]
    if unknown:
        raise PlanError(
            f"data.stratify needs the class of every sample, but {len(unknown)} of {len(records)} "
            f"have no label, the first is {unknown[0].sample_id!r}",
            fix="label them, or remove data.stratify",
            page="labels-or-masks-needed",
        )


def _counts(records: Sequence[Record]) -> dict[int, int]:
    return dict(sorted(Counter(record.label for record in records).items()))
