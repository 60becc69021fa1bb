"""Operators in general: inputs, constants, and calls of ATen functions with bound arguments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Operator(ABC):
    """One step of the program: some values in, one value out.

    Operators are compared by identity; their name is unique within a network.
    """

    name: str
    """Unique within the network; also the name of the layer, see ``explainers.reading.layers``."""
    module_path: str
    """Path of the innermost module that owns it; empty for the network itself."""
    inputs: tuple[str, ...]
    """Names of the operators whose values it takes."""
    batch_axis: int = 0
    """Which axis of its value follows the batch; 1 where a model puts the sequence first."""
    batch_outer: int = 1
    """How often samples follow each other along that axis, where windows, heads or places share it
    with the batch: ``(batch_outer, batch, ...)`` flattened. At 1, rows of a sample are together."""

    @abstractmethod
    def run(self, *inputs: Tensor) -> Tensor:
        """Return the value, given those of ``inputs`` in their order."""

    @property
    def sources(self) -> frozenset[str]:
        """Names of the inputs whose values, not only whose sizes, matter."""
        return frozenset(self.inputs)


@dataclass(frozen=True, eq=False, kw_only=True)
class Input(Operator):
    """The network's input; it is never run, its value is given."""

    shape: tuple[int, ...]
    """Of one sample."""

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the one value that is given."""
        (value,) = inputs
        return value


@dataclass(frozen=True, eq=False, kw_only=True)
class Constant(Operator):
    """A value that does not depend on the network's input: a position table, a mask."""

    value: Tensor

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the value."""
        return self.value


@dataclass(frozen=True, eq=False, kw_only=True)
class Carried(Operator):
    """A value that a part of a network takes over from the whole: it is given, and stays."""

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the one value that is given."""
        (value,) = inputs
        return value


@dataclass(frozen=True)
class Slot:
    """Stands, among the arguments of a call, for the operator's input at a position."""

    position: int


@dataclass(frozen=True)
class Extent:
    """Stands for the integer ``factor * batch + offset``.

    The batch size is read off the first axis of the operator's input at `position`, which is the
    network's input.
    """

    factor: int
    offset: int
    position: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Call(Operator):
    """An ATen function with bound arguments; base of what needs no typed fields."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    """With a `Slot` for each tensor input and an `Extent` for each size that follows the batch."""
    options: Mapping[str, Any] = field(default_factory=dict)
    item: int | None = None
    """Which of several outputs is the value; None where there is one."""

    @property
    def word(self) -> str:
        """The function's name, without namespace and overload."""
        return str(getattr(self.function, "overloadpacket", self.function)).rpartition(".")[2]

    @property
    def sources(self) -> frozenset[str]:
        """Names of the inputs that stand in a `Slot`."""
        slots = _slots((self.arguments, tuple(self.options.values())))
        return frozenset(self.inputs[slot.position] for slot in slots)

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the function's value."""
        arguments = _filled(self.arguments, inputs)
        options = {name: _filled(value, inputs) for name, value in self.options.items()}
        value = self.function(*arguments, **options)
        chosen: Tensor = value if self.item is None else value[self.item]
        return chosen


def _slots(value: Any) -> Iterator[Slot]:
    if isinstance(value, Slot):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _slots(part)


def _filled(value: Any, inputs: tuple[Tensor, ...]) -> Any:
    if isinstance(value, Slot):
        return inputs[value.position]
    if isinstance(value, Extent):
        return value.factor * inputs[value.position].shape[0] + value.offset
    if isinstance(value, tuple | list):
        return type(value)(_filled(part, inputs) for part in value)
    return value


@dataclass(frozen=True, eq=False, kw_only=True)
class Reshape(Call):
    """A pure index map of its first input: view, permute, slice, expand, split, roll, flip.

    Each output value is one of the input's. What comes back along it is moved to where it came
    from, and summed where a value was repeated; the gradient's rule is right for relevance too.
    """

    is_ordered: bool = False
    """Whether all values are kept, in the same order: only the shape changes."""
    is_view: bool = False
    """Whether the value shares memory with the input, each place at most once."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Elementwise(Call):
    """A function of each value alone, or of values at the same place: exp, where, maximum."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Unary(Elementwise):
    """A function of each value of its one input alone: exp, sqrt, a fixed power."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Quotient(Elementwise):
    """The first input over the second, at the same place, broadcast."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Selection(Elementwise):
    """One of the values at the same place: where, maximum, masked_fill."""

    choosers: tuple[int, ...] = ()
    """Positions of the inputs that choose and are never chosen: conditions, masks."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Generic(Call):
    """Anything else; only rule tables that can differentiate it have a rule."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearMap(Generic):
    """A linear function of its one input, without weights: a sum, an interpolation.

    The gradient's rule is its transpose.
    """


@dataclass(frozen=True, eq=False, kw_only=True)
class Extreme(Generic):
    """Values of its first input, chosen by their order: amax, topk, sort, median."""
