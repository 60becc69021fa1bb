"""Parts behind choices: they come from where the whole values are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from explainers.operators import Extreme, Selection, Slot
from explainers.rules.decomposition.biases import shared
from explainers.rules.decomposition.refusing import refuse
from explainers.rules.decomposition.table import decomposition

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from explainers.operators import Call, Operator
    from explainers.rules.decomposition.parts import Parts
    from explainers.rules.decomposition.streams import Streams


@dataclass(frozen=True, eq=False)
class _Choice:
    """One of the values that may be chosen."""

    whole: Tensor
    """For each row, or broadcasting."""
    parts: tuple[Tensor, Tensor] | None
    """Relevant and irrelevant; None of what is not split."""

    def beside(self, other: _Choice) -> tuple[Tensor, Tensor]:
        """Return its parts where it is chosen; of something fixed its shares as a bias.

        They are those of the magnitudes of the other's parts, in whose place it stands.
        """
        if self.parts is not None:
            return self.parts
        if other.parts is None:
            half = self.whole / 2
            return half, half
        relevant, irrelevant = other.parts
        with_shares = shared(relevant, irrelevant, self.whole)
        return with_shares[0] - relevant, with_shares[1] - irrelevant


@decomposition.rule(Selection)
def selected(op: Selection, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Take both parts from the value that is chosen.

    Something fixed that is chosen in place of a value is a bias, which the parts of that value
    share: bounds, floors, masks.
    """
    condition, *values = _written_out(op)
    first, second = (_choice(op, value, inputs, streams) for value in values)
    if condition is None:
        is_more = op.word == "maximum"
        chosen = first.whole >= second.whole if is_more else first.whole <= second.whole
    else:
        chosen = _choice(op, condition, inputs, streams).whole
    pairs = zip(first.beside(second), second.beside(first), strict=True)
    relevant, irrelevant = (torch.where(chosen, *pair) for pair in pairs)
    return streams.both(relevant, irrelevant)


def _written_out(op: Selection) -> tuple[Any, Any, Any]:
    """Return the condition, what is chosen where it holds, and what elsewhere.

    No condition stands for a comparison of both.
    """
    if op.word == "where":
        return op.arguments[0], op.arguments[1], op.arguments[2]
    if op.word == "masked_fill":
        return op.arguments[1], op.arguments[2], op.arguments[0]
    return None, op.arguments[0], op.arguments[1]


def _choice(op: Selection, value: Any, inputs: tuple[Parts, ...], streams: Streams) -> _Choice:
    if isinstance(value, torch.Tensor):
        return _Choice(value, None)
    if not isinstance(value, Slot):
        like = next(one for one in map(streams.total, op.inputs) if one.is_floating_point())
        return _Choice(like.new_tensor(value), None)
    name, parts = op.inputs[value.position], inputs[value.position]
    if parts.relevant is None:
        return _Choice(streams.constant(name), None)
    whole = streams.total(name)
    if not whole.is_floating_point():
        return _Choice(whole, None)
    return _Choice(whole, (parts.relevant, streams.irrelevant(name, parts)))


@decomposition.rule(Extreme)
def ordered(op: Extreme, inputs: tuple[Parts, ...], streams: Streams) -> Parts:
    """Take both parts from where the whole value stands in the order; of equal ones, the first."""
    (value,), whole = inputs, streams.total(op.inputs[0])
    bound = arguments_of(op)
    dims = sorted(dim % whole.ndim for dim in _each(bound["dim"]))
    places = _places(op.word, bound, _last(whole, dims))
    irrelevant = streams.irrelevant(op.inputs[0], value) if streams.is_strict else None
    parts = []
    for part in (value.of_rows, irrelevant):
        if part is None:
            continue
        taken = _last(part, dims).gather(-1, places)
        if op.word in ("topk", "sort"):
            parts.append(taken.movedim(-1, dims[0]))
            continue
        taken = taken.squeeze(-1)
        for dim in dims if bound["keepdim"] else ():
            taken = taken.unsqueeze(dim)
        parts.append(taken)
    return streams.both(parts[0], parts[-1])


def _places(word: str, bound: Mapping[str, Any], whole: Tensor) -> Tensor:
    """Return where along the last axis the chosen values are."""
    if word in ("amax", "max"):
        return whole.argmax(-1, keepdim=True)
    if word in ("amin", "min"):
        return whole.argmin(-1, keepdim=True)
    descending = bound["largest"] if word == "topk" else bound.get("descending", False)
    order: Tensor = whole.sort(dim=-1, descending=descending, stable=True).indices
    if word == "sort":
        return order
    if word == "topk":
        return order[..., : bound["k"]]
    rank = bound["k"] - 1 if word == "kthvalue" else (whole.shape[-1] - 1) // 2
    return order[..., rank : rank + 1]


def arguments_of(op: Call) -> dict[str, Any]:
    """Return the arguments of a call by the names of the function's schema."""
    schema = op.function._schema.arguments  # type: ignore[attr-defined]  # an ATen overload
    positional = [one.name for one in schema if not one.kwarg_only]
    return {**dict(zip(positional, op.arguments, strict=True)), **op.options}


def _each(dim: int | list[int]) -> list[int]:
    return [dim] if isinstance(dim, int) else list(dim)


def _last(value: Tensor, dims: list[int]) -> Tensor:
    """Return the value with some axes last, as one."""
    return value.movedim(dims, list(range(-len(dims), 0))).flatten(-len(dims))


def check_choice(op: Operator, split: Collection[str]) -> None:
    """Refuse choices whose values cannot be told.

    Raises
    ------
    NotImplementedError
        If all that can be chosen is fixed, while what chooses depends on the input; or values are
        chosen in no order.
    """
    if isinstance(op, Selection):
        _, *values = _written_out(op)
        names = {op.inputs[one.position] for one in values if isinstance(one, Slot)}
        if names.isdisjoint(split):
            refuse(op, "chooses between constants by values of the input")
    elif isinstance(op, Extreme) and op.word == "topk" and not arguments_of(op)["sorted"]:
        refuse(op, "returns values in no order")
