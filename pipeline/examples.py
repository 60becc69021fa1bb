"""Samples that are tried before a run: two of the same form, or of the longest and the shortest."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pipeline.data import read_one
from pipeline.errors import PlanError
from pipeline.inputs import form_of, stacked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.data import Record, Source
    from pipeline.inputs import Inputs
    from pipeline.manifest import Manifest

_N_TRIED = 100
"""Samples that are tried before the data as a whole is taken for unreadable."""


def find_example(source: Source, manifest: Manifest) -> tuple[Inputs, list[int]]:
    """Return two readable samples of the same form, and their indices.

    Broken samples before them are passed over. Where samples say how long they are, these are of
    the longest; else one of another size than two others is outvoted. Where there is one sample
    alone, it is given twice.

    Raises
    ------
    PlanError
        If no sample can be read.
    """
    if manifest.has_lengths:
        return _of_one_length(source, manifest.by_length(is_descending=True))
    found: dict[int, Inputs] = {}
    reasons: list[str] = []
    for record in manifest.slice(0, _N_TRIED):
        sample = read_one(source, record)
        if isinstance(sample, str):
            reasons.append(f"{record.sample_id}: {sample}")
            continue
        found[record.index] = sample
        twice = _twice(found)
        if twice:
            return stacked([found[index] for index in twice]), twice
    if not found:
        raise _unreadable(reasons)
    index, sample = next(iter(found.items()))
    return stacked([sample, sample]), [index, index]


def find_shortest(source: Source, manifest: Manifest) -> tuple[Inputs, list[int]]:
    """Return two readable samples of the shortest, as `find_example` returns the longest.

    Raises
    ------
    PlanError
        If no sample can be read.
    """
    return _of_one_length(source, manifest.by_length(is_descending=False))


def _of_one_length(source: Source, records: Iterable[Record]) -> tuple[Inputs, list[int]]:
    reasons: list[str] = []
    first: tuple[Record, Inputs] | None = None
    for record in records:
        if first is not None and record.length != first[0].length:
            break
        sample = read_one(source, record)
        if isinstance(sample, str):
            reasons.append(f"{record.sample_id}: {sample}")
            if len(reasons) == _N_TRIED:
                break
        elif first is None:
            first = (record, sample)
        elif form_of(sample) == form_of(first[1]):
            return stacked([first[1], sample]), [first[0].index, record.index]
    if first is None:
        raise _unreadable(reasons)
    return stacked([first[1]] * 2), [first[0].index] * 2


def _unreadable(reasons: list[str]) -> PlanError:
    return PlanError(
        f"none of the first {len(reasons)} samples can be read; the first says: {reasons[0]}",
        fix="see the section data of the run file",
    )


def _twice(found: Mapping[int, Inputs]) -> list[int]:
    forms = {index: tuple(form_of(sample).items()) for index, sample in found.items()}
    form, count = Counter(forms.values()).most_common(1)[0]
    return [index for index, each in forms.items() if each == form] if count > 1 else []
