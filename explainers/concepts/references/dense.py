"""References in the order of the lists that they were taken from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from explainers.concepts.quality import quality

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.concepts.references.listed import Listed

_ABSENT = {"scale": torch.nan, "receptive_field": -1, "crop": -1}
"""What stands where there is no reference; zeros elsewhere."""


def result_of(
    listed: Listed, entries: Mapping[str, Tensor], sample: Tensor, embedding: Tensor
) -> dict[str, Any]:
    """Return a layer's references, ``(rank, concept, ...)``, and the scores of its concepts.

    Parameters
    ----------
    listed
        Which references there should be.
    entries
        Those that there are, in any order.
    sample, embedding
        Samples with their embeddings, in any order.
    """
    place = _place(listed, entries["sample"], entries["channel"])
    is_there = place >= 0
    found: dict[str, Any] = {
        "sample": torch.where(is_there, listed.sample, -1),
        "position": torch.where(is_there, listed.position, -1),
    }
    for name, entry in entries.items():
        if name not in ("sample", "channel"):
            found[name] = _arranged(entry, place, _ABSENT.get(name, 0))
    return {"references": found, "quality": _quality(found["sample"].T, sample, embedding)}


def _place(listed: Listed, sample: Tensor, concept: Tensor) -> Tensor:
    """Return which entry each reference is, ``(rank, concept)``; -1 where there is none."""
    concepts = torch.arange(listed.sample.shape[1]).expand_as(listed.sample)
    n_concepts = listed.sample.shape[1]
    keys, order = (sample * n_concepts + concept).sort(stable=True)
    asked = listed.sample * n_concepts + concepts
    at = torch.searchsorted(keys, asked.contiguous()).clamp(max=len(keys) - 1)
    is_there = (keys[at] == asked) & (listed.sample >= 0)
    return torch.where(is_there, order[at], -1)


def _arranged(entry: Tensor, place: Tensor, absent: float) -> Tensor:
    """Return entries where they belong."""
    if bool((place >= 0).all()):
        return entry[place]
    found = entry.new_full((*place.shape, *entry.shape[1:]), absent)
    rank, concept = (place >= 0).nonzero().unbind(1)
    found[rank, concept] = entry[place[rank, concept]]
    return found


def _quality(references: Tensor, sample: Tensor, embedding: Tensor) -> dict[str, Any]:
    """Return the scores of concepts, by the embeddings of their samples ``(concept, rank)``."""
    known, order = sample.sort(stable=True)
    at = torch.searchsorted(known, references.contiguous()).clamp(max=len(known) - 1)
    return quality(embedding[order[at]], (known[at] == references) & (references >= 0))
