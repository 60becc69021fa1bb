"""How a model takes its inputs: one tensor, a tuple of them, or a dict by argument name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torch import Tensor

from explainers.inference import ordinary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Inputs: TypeAlias = "Tensor | tuple[Tensor, ...] | dict[str, Tensor]"


@dataclass(frozen=True)
class Structure:
    """What holds the tensors, and what each is called."""

    kind: Literal["tensor", "tuple", "dict"]
    names: tuple[str, ...]
    """Of the parts: the keys of a dict, positions in a tuple; ``""`` for a tensor alone."""

    @classmethod
    def of(cls, inputs: Any) -> Structure:
        """Return the structure of inputs.

        Raises
        ------
        TypeError
            If they are no tensor, nor a tuple or dict of tensors.
        """
        if isinstance(inputs, Tensor):
            return cls("tensor", ("",))
        found = _held(inputs)
        if isinstance(inputs, dict):
            return cls("dict", tuple(str(name) for name in inputs))
        return cls("tuple", tuple(str(position) for position in range(len(found))))

    def parts(self, inputs: Any) -> tuple[Tensor, ...]:
        """Return the tensors of inputs, in the order of `names`.

        Where there is one part, any tuple or dict of one tensor will do.

        Raises
        ------
        TypeError
            If they have another structure.
        """
        held = (inputs,) if isinstance(inputs, Tensor) else _held(inputs)
        if len(self.names) == len(held) == 1:
            return (ordinary(held[0]),)
        given = Structure.of(inputs)
        if given.kind != self.kind or set(given.names) != set(self.names):
            raise TypeError(f"got {_described(given)}, expected {_described(self)}")
        if self.kind == "dict":
            return tuple(ordinary(inputs[name]) for name in self.names)
        return tuple(ordinary(part) for part in held)

    def filled(self, parts: Mapping[str, Any] | Sequence[Any]) -> Any:
        """Return something for each part in the structure; None where a mapping has nothing."""
        found = [parts.get(name) for name in self.names] if hasattr(parts, "get") else list(parts)
        if self.kind == "tensor":
            return found[0]
        return tuple(found) if self.kind == "tuple" else dict(zip(self.names, found, strict=True))


def _held(inputs: Any) -> tuple[Tensor, ...]:
    held = list(inputs.values()) if isinstance(inputs, dict) else inputs
    tensors = list(held) if isinstance(held, tuple | list) else [held]
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"got inputs of type {type(tensor).__name__!r}, expected a tensor (batch, ...), or "
                "a tuple or dict of such tensors; convert them with torch.as_tensor(inputs)"
            )
    if not tensors:
        raise TypeError("got no inputs, expected a tensor (batch, ...), or a tuple or dict of them")
    return tuple(tensors)


def _described(structure: Structure) -> str:
    if structure.kind == "tensor":
        return "a tensor"
    if structure.kind == "tuple":
        return f"a tuple of {len(structure.names)} inputs"
    return f"a dict of the inputs {', '.join(map(repr, structure.names))}"
