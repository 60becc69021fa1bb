"""What a user gives as a model, as a module that maps inputs to logits and is left alone."""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from explainers.inputs.structure import Structure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from explainers.inputs.structure import Inputs


class _Function(nn.Module):
    """A callable as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        return logits(self.function(*inputs, **named))


class UserModel:
    """A copy in eval mode whose parameters want no gradient, called with the parts of inputs.

    Parameters
    ----------
    model
        A module, or any callable.
    structure
        How it takes its inputs.
    """

    def __init__(self, model: nn.Module | Callable[..., Any], structure: Structure) -> None:
        if not isinstance(model, nn.Module) and not callable(model):
            raise TypeError(f"got {type(model).__name__!r}, expected a module or a function")
        own = copy.deepcopy(model)
        module = own if isinstance(own, nn.Module) else _Function(own)
        self.module = _written_out(module.eval().requires_grad_(False))
        self.structure = structure

    def __call__(self, *parts: Tensor) -> Tensor:
        """Return logits; the parts are copied, because a model may change its inputs in place."""
        return logits(self.raw(*(part.clone() for part in parts)))

    def raw(self, *parts: Tensor) -> Any:
        """Return what the model returns."""
        positional, named = self.arguments(parts)
        return self.module(*positional, **named)

    def arguments(self, parts: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Return positional and named arguments for the parts."""
        if self.structure.kind != "dict":
            return tuple(parts), {}
        return (), dict(zip(self.structure.names, parts, strict=True))


def _written_out(module: nn.Module) -> nn.Module:
    """Keep torch from taking a whole transformer layer as one kernel, which nothing can look into.

    It does so where no parameter wants a gradient, and then has other values where a mask is.
    """
    for part in module.modules():
        if isinstance(part, nn.TransformerEncoder):
            part.use_nested_tensor = False
        elif isinstance(part, nn.TransformerEncoderLayer):
            part.activation_relu_or_gelu = 0
    return module


def copied(model: nn.Module | Callable[..., Any], structure: Structure) -> UserModel:
    """Return a model's copy; of what is one already, that itself."""
    return model if isinstance(model, UserModel) else UserModel(model, structure)


def structured(model: nn.Module | Callable[..., Any], inputs: Inputs) -> Structure:
    """Return how a model takes inputs like these, names in the order of its arguments.

    A dict of one tensor whose name is no argument of the model is the tensor alone.

    Raises
    ------
    TypeError
        If the inputs are neither a tensor nor a tuple or dict of tensors.
    """
    structure = Structure.of(inputs)
    if isinstance(model, UserModel):
        model.structure.parts(inputs)
        return model.structure
    if structure.kind != "dict":
        return structure
    function = model.forward if isinstance(model, nn.Module) else model
    known = inspect.signature(function).parameters
    if len(structure.names) == 1 and structure.names[0] not in known:
        return Structure("tensor", ("",))
    order = {name: position for position, name in enumerate(known)}
    names = sorted(structure.names, key=lambda name: order.get(name, len(order)))
    return Structure("dict", tuple(names))


def fitting(model: UserModel, example: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], int]:
    """Return two rows of each part that the model takes, and where its logits are."""
    for part in example:
        if part.ndim == 0 or len(part) == 0:
            raise ValueError(
                f"got example inputs of shape {tuple(part.shape)}, expected (batch, ...) "
                f"with at least one row"
            )
    if len({len(part) for part in example}) > 1:
        raise ValueError(
            f"got inputs of {', '.join(str(len(part)) for part in example)} rows, expected as "
            "many of each: every input has a batch axis"
        )
    parts = tuple(_two_rows(part.detach(), model.module) for part in example)
    try:
        with torch.no_grad():
            returned = model.raw(*(part.clone() for part in parts))
    except (RuntimeError, ValueError, IndexError) as error:
        shapes = ", ".join(str(tuple(part.shape)) for part in example)
        raise ValueError(
            f"got inputs of shape {shapes}, expected (batch, ...) as the "
            f"model takes them, but it raised {type(error).__name__}: {error}; a single sample "
            f"needs a batch axis: inputs[None]"
        ) from error
    output = logits(returned)
    if output.ndim != 2 or len(output) != len(parts[0]):
        raise ValueError(
            f"got an output of shape {tuple(output.shape)} for {len(parts[0])} rows, expected "
            f"(batch, classes); wrap the model so that it returns one row of logits per sample"
        )
    return parts, [leaf is output for leaf in tree_leaves(returned)].index(True)


def _two_rows(part: Tensor, module: nn.Module) -> Tensor:
    rows = torch.cat([part, part])[:2] if len(part) == 1 else part[:2].clone()
    held = [tensor for tensor in module.parameters() if tensor.is_floating_point()]
    if not held:
        return rows
    rows = rows.to(held[0].device)
    return rows.to(held[0].dtype) if rows.is_floating_point() else rows


def logits(output: Any) -> Tensor:
    """Return the tensor of logits in what a model returns.

    Raises
    ------
    TypeError
        If there is none.
    """
    found = output if isinstance(output, torch.Tensor) else getattr(output, "logits", None)
    if not isinstance(found, torch.Tensor):
        raise TypeError(
            f"got an output of type {type(output).__name__!r}, expected a tensor of logits; "
            f"wrap the model so that it returns one"
        )
    return found


def normalised(outputs: Tensor) -> str:
    """Return what to add about outputs that a softmax has made, which nobody could strip."""
    if outputs.shape[1] < 2 or not outputs.is_floating_point():
        return ""
    # the second is for half precision, which rounds each output by more
    tolerance = max(1e-4, torch.finfo(outputs.dtype).eps)
    outputs = outputs.double()
    if bool((outputs >= 0).all() and ((outputs.sum(1) - 1).abs() <= tolerance).all()):
        found = "probabilities"
    elif bool((outputs.logsumexp(1).abs() <= tolerance).all()):
        found = "log-probabilities"
    else:
        return ""
    return f"; its outputs are {found}, which are explained as they are"
