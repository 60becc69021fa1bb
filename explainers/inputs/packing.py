"""Several values as one flat tensor, and the operators that take them apart again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers.operators import Input, Operator, Reshape, Slot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """What is in ``(batch, total)``; one value alone is left in its shape."""

    shapes: Mapping[str, tuple[int, ...]]
    """Name of each value to its shape for one sample, in order."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample of all together."""
        if len(self.shapes) == 1:
            (shape,) = self.shapes.values()
            return shape
        return (sum(math.prod(shape) for shape in self.shapes.values()),)

    def pack(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the values, ``(batch, *shape)`` or ``(1, *shape)`` each, as one tensor."""
        parts = [values[name] for name in self.shapes]
        if len(parts) == 1:
            return parts[0]
        n_rows = max(len(part) for part in parts)
        return torch.cat([part.flatten(1).expand(n_rows, -1) for part in parts], 1)

    def unpack(self, packed: Tensor) -> dict[str, Tensor]:
        """Return the values of ``(batch, total)`` by name."""
        if len(self.shapes) == 1:
            return dict.fromkeys(self.shapes, packed)
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = torch.split(packed, sizes, 1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.reshape(-1, *shape) for (name, shape), part in named}

    def operators(self) -> list[Operator]:
        """Return the input, and what makes each value of it under its name."""
        if len(self.shapes) == 1:
            ((name, shape),) = self.shapes.items()
            return [Input(name=name, module_path="", inputs=(), shape=shape)]
        source = "packed"
        while source in self.shapes:
            source += "#"
        made: list[Operator] = [Input(name=source, module_path="", inputs=(), shape=self.shape)]
        start = 0
        for name, shape in self.shapes.items():
            size = math.prod(shape)
            made += [
                _call(f"{name}:slice", source, torch.ops.aten.narrow.default, (1, start, size)),
                _call(name, f"{name}:slice", torch.ops.aten.reshape.default, ([-1, *shape],)),
            ]
            start += size
        return made


def flattened(name: str, source: str, n_values: int) -> Operator:
    """Return the operator that makes a value ``(batch, values)``."""
    return _call(name, source, torch.ops.aten.reshape.default, ([-1, n_values],))


def _call(name: str, source: str, function: object, arguments: tuple[object, ...]) -> Operator:
    is_ordered = function is torch.ops.aten.reshape.default
    return Reshape(
        name=name,
        module_path="",
        inputs=(source,),
        function=function,  # type: ignore[arg-type]  # an ATen function
        arguments=(Slot(0), *arguments),
        is_ordered=is_ordered,
        is_view=not is_ordered,
    )
