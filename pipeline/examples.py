"""Samples that are tried before a run: two of the same form, or of the longest and the shortest.

Texts that the model does not take are passed over: tokens it does not know, or too few of them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

from pipeline.data import read_one
from pipeline.errors import PlanError
from pipeline.inputs import form_of, mapped, parts_of, stacked
from pipeline.planning import fit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor, nn

    from pipeline.data import Record, Source
    from pipeline.inputs import Inputs
    from pipeline.manifest import Manifest

_UNKNOWN = "the model does not take its tokens, but takes others"

_N_TRIED = 100
"""Samples that are tried before the data as a whole is taken for unreadable."""


def find_example(source: Source, manifest: Manifest, model: nn.Module) -> tuple[Inputs, list[int]]:
    """Return two readable samples of the same form, and their indices.

    Broken samples before them are passed over, and so are tokens that `model` does not take, unless
    there are no others. Where samples say how long they are, these are of the longest; else one of
    another size than two others is outvoted. Where there is one sample alone, it is given twice.

    Raises
    ------
    PlanError
        If no sample can be read.
    """
    if manifest.has_lengths:
        return _of_one_length(source, manifest.by_length(is_descending=True), model)
    found: dict[int, Inputs] = {}
    refused: dict[int, Inputs] = {}
    reasons: list[str] = []
    for record in manifest.slice(0, _N_TRIED):
        sample = read_one(source, record)
        if isinstance(sample, str):
            reasons.append(f"{record.sample_id}: {sample}")
            continue
        if _misfit(model, sample) == _UNKNOWN:
            refused.setdefault(record.index, sample)
            continue
        found[record.index] = sample
        twice = _twice(found)
        if twice:
            return stacked([found[index] for index in twice]), twice
    found = found or refused
    if not found:
        raise _unreadable(reasons)
    index, sample = next(iter(found.items()))
    return stacked([sample, sample]), [index, index]


def find_shortest(source: Source, manifest: Manifest, model: nn.Module) -> tuple[Inputs, list[int]]:
    """Return two readable samples of the shortest, as `find_example` returns the longest.

    Raises
    ------
    PlanError
        If no sample can be read.
    """
    return _of_one_length(source, manifest.by_length(is_descending=False), model)


def _of_one_length(
    source: Source, records: Iterable[Record], model: nn.Module
) -> tuple[Inputs, list[int]]:
    reasons: list[str] = []
    first: tuple[Record, Inputs] | None = None
    refused: tuple[Record, Inputs] | None = None
    without: int | None = None
    for record in records:
        if first is not None and record.length != first[0].length:
            break
        if record.length == without:
            continue
        sample = read_one(source, record)
        if isinstance(sample, str):
            reasons.append(f"{record.sample_id}: {sample}")
            if len(reasons) == _N_TRIED:
                break
        elif misfit := _misfit(model, sample):
            refused = refused or (record, sample)
            # another of this length may have tokens that it knows, but will be no longer
            without = None if misfit == _UNKNOWN else record.length
        elif first is None:
            first = (record, sample)
        elif form_of(sample) == form_of(first[1]):
            return stacked([first[1], sample]), [first[0].index, record.index]
    first = first or refused
    if first is None:
        raise _unreadable(reasons)
    return stacked([first[1]] * 2), [first[0].index] * 2


def _misfit(model: nn.Module, sample: Inputs) -> str:
    """Return why a model does not take the tokens of a sample; empty if it does."""
    has_tokens = any(part.dtype == torch.int64 for part in parts_of(sample).values())
    if not has_tokens or _takes(model, sample):
        return ""
    # rows 0 and 1 of an embedding; what counts or masks tokens is still of use
    return _UNKNOWN if _takes(model, mapped(_first_tokens, sample)) else "of that size"


def _first_tokens(part: Tensor) -> Tensor:
    return part.clamp(0, 1) if part.dtype == torch.int64 else part


def _takes(model: nn.Module, sample: Inputs) -> bool:
    try:
        fit.output_of(model, stacked([sample]))
    except Exception:  # the model is anybody's code
        return False
    return True


def _unreadable(reasons: list[str]) -> PlanError:
    return PlanError(
        f"none of the first {len(reasons)} samples can be read; the first says: {reasons[0]}",
        fix="see the section data of the run file",
        page="no-samples",
    )


def _twice(found: Mapping[int, Inputs]) -> list[int]:
    forms = {index: tuple(form_of(sample).items()) for index, sample in found.items()}
    form, count = Counter(forms.values()).most_common(1)[0]
    return [index for index, each in forms.items() if each == form] if count > 1 else []
