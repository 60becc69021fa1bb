"""What a model takes for a batch: one tensor, or several by argument name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Inputs: TypeAlias = Tensor | dict[str, Tensor]
"""Of a sample, or of a batch."""

ALONE = ""
"""Name of a tensor that is the only one."""


@dataclass(frozen=True)
class Part:
    """One tensor of a sample."""

    shape: tuple[int, ...]
    dtype: str
    """``float32``, ``int64`` (tokens, lengths) or ``bool`` (masks)."""


Form: TypeAlias = "Mapping[str, Part]"
"""Every tensor of a sample by its name; one alone is called ``""``."""


def parts_of(inputs: Inputs) -> dict[str, Tensor]:
    """Return the tensors by name."""
    return inputs if isinstance(inputs, dict) else {ALONE: inputs}


def joined(parts: dict[str, Tensor]) -> Inputs:
    """Return tensors by name as a model takes them."""
    return parts.get(ALONE, parts)


def mapped(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """Return what a function makes of each tensor."""
    return joined({name: function(part) for name, part in parts_of(inputs).items()})


def stacked(samples: Sequence[Inputs]) -> Inputs:
    """Return samples of one form as a batch."""
    parts = [parts_of(sample) for sample in samples]
    return joined({name: torch.stack([each[name] for each in parts]) for name in parts[0]})


def empty(form: Form) -> Inputs:
    """Return a batch of no samples."""
    return joined(
        {
            name: torch.empty(0, *part.shape, dtype=getattr(torch, part.dtype))
            for name, part in form.items()
        }
    )


def n_rows(inputs: Inputs) -> int:
    """Return the number of samples in a batch."""
    return len(next(iter(parts_of(inputs).values())))


def form_of(sample: Inputs) -> dict[str, Part]:
    """Return the form of a sample."""
    return {
        name: Part(tuple(part.shape), str(part.dtype).removeprefix("torch."))
        for name, part in parts_of(sample).items()
    }


def in_words(form: Form) -> str:
    """Return a form for people: shapes, and types where they are not float32."""
    words = [
        f"{f'{name} ' if name else ''}{part.shape}"
        f"{'' if part.dtype == 'float32' else f' of {part.dtype}'}"
        for name, part in form.items()
    ]
    return ", ".join(words)


def to_model(inputs: Inputs, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Return a batch where the network is, in its precision; integers and masks keep their type."""

    def move(part: Tensor) -> Tensor:
        moved = part.to(device, non_blocking=True)
        return moved.to(dtype) if part.is_floating_point() else moved

    return mapped(move, inputs)


def is_one_picture(form: Form) -> bool:
    """Whether a sample is one tensor of numbers, whose values can be changed one by one."""
    return list(form) == [ALONE] and form[ALONE].dtype == "float32"
