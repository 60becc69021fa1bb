"""How passes go through a network: precision of products, layout of images, compiled or not."""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from explainers.operators import Convolution

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from explainers.network import Network
    from explainers.operators import Operator

PRODUCTS = frozenset(
    {
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "convolution",
        "convolution_backward",
        "linear",
        "bilinear",
        "matmul",
        "__matmul__",
        "__rmatmul__",
        "mm",
        "bmm",
        "addmm",
        "baddbmm",
        "einsum",
        "scaled_dot_product_attention",
    }
)
"""Torch's functions that multiply matrices, by name; all but these stay in float32."""
COMPOSED = frozenset({"multi_head_attention_forward"})
"""Those that call others, in python: their products are narrowed one by one."""
WHOLE = frozenset(
    f"{kind}{suffix}"
    for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")
    for suffix in ("", "_cell")
) | {"_native_multi_head_attention", "_transformer_encoder_layer_fwd"}
"""Those that multiply and hand values on inside, where nobody can keep these in float32: they are
left as they are."""


@dataclass(frozen=True)
class Passing:
    """How passes go through a network; by default as its inputs are."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the factors of matrix products and convolutions. Sums, and everything between products,
    are float32 in either case: the rest of a method divides and subtracts, which 8 bits of
    precision do not survive."""
    is_channels_last: bool = False
    """Whether images and the weights of convolutions are laid out channels last on any device; on
    the CPU they always are."""
    compiler: str | Callable[..., Any] = ""
    """Backend of `torch.compile` for passes that need outputs alone, and for all of an opaque
    network; empty if they are not compiled."""

    def context(self) -> AbstractContextManager[Any]:
        """Return what a pass is made in."""
        return HalfProducts() if self.precision == "bfloat16" else contextlib.nullcontext()


class HalfProducts(TorchFunctionMode):
    """Products of float32 tensors are computed from bfloat16 factors, and are float32 again.

    `torch.autocast` would hand bfloat16 on to the next operator, and rules of relevance would
    then divide numbers of 8 bits. Derivatives by autograd are those of the rounded product.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch."""
        named = dict(kwargs or {})
        word = _word(func)
        if word in COMPOSED:
            with self:  # which is off in here
                return _unguarded(func)(*args, **named)
        if "out" in named or word not in PRODUCTS:
            return func(*args, **named)
        rounded = _mapped(args, torch.float32, torch.bfloat16)
        options = _mapped(named, torch.float32, torch.bfloat16)
        return _mapped(func(*rounded, **options), torch.bfloat16, torch.float32)


class CountedProducts(HalfProducts):
    """The same, which also says what it did; not for compiled passes, which would see it change."""

    def __init__(self) -> None:
        super().__init__()
        self.n_narrowed = 0
        """Products that were computed so."""
        self.whole: set[str] = set()
        """Functions of `WHOLE` that were called."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch."""
        word = _word(func)
        self.n_narrowed += word in PRODUCTS and "out" not in (kwargs or {})
        self.whole |= {word} & WHOLE
        return super().__torch_function__(func, types, args, kwargs)


@functools.cache
def _unguarded(func: Any) -> Any:
    """Return a function of torch's python code that does not ask modes first, as they ask it."""
    names = {**func.__globals__, "has_torch_function": _nobody_overrides}
    copied = types.FunctionType(func.__code__, names, func.__name__, func.__defaults__)
    copied.__kwdefaults__ = func.__kwdefaults__
    return copied


def _nobody_overrides(_arguments: Any) -> bool:
    return False


def _word(func: Any) -> str:
    packet = getattr(func, "overloadpacket", func)
    return str(getattr(packet, "__name__", ""))


def _mapped(value: Any, old: torch.dtype, new: torch.dtype) -> Any:
    """Return tensors of a type in another, wherever they are."""
    if isinstance(value, Tensor):
        return value.to(new) if value.dtype == old else value
    if isinstance(value, tuple | list):
        return type(value)(_mapped(part, old, new) for part in value)
    if isinstance(value, dict):
        return {key: _mapped(part, old, new) for key, part in value.items()}
    return value


def passed(network: Network, passing: Passing) -> Network:
    """Return a network whose passes are made otherwise; it shares the module with the one given.

    What is compiled is compiled at the first pass, for batches of any size.

    Parameters
    ----------
    network
        Of a whole model.
    passing
        How.
    """
    found = copy.copy(network)
    found.passing, found._cuts = passing, {}
    program = network._program
    if program is not None and passing.is_channels_last:
        operators = tuple(_laid_out(op) for op in program.operators)
        found._program = program = replace(program, operators=operators)
    elif passing.is_channels_last:
        found._model = copy.copy(network._model)
        # to() changes a module in place
        module = copy.deepcopy(network._model.module)
        found._model.module = module.to(memory_format=torch.channels_last)
    if not passing.compiler:
        return found
    if program is not None:
        outputs = _Outputs(program.operators, program.output_name)
        found._compiled = torch.compile(outputs, dynamic=True, backend=passing.compiler)
    else:
        model = copy.copy(found._model)
        model.module = _Compiled(found._model.module, passing.compiler)
        found._compiled = model
    return found


def _laid_out(op: Operator) -> Operator:
    if isinstance(op, Convolution) and op.weight.ndim == 4:
        return replace(op, weight=op.weight.contiguous(memory_format=torch.channels_last))
    return op


class _Compiled(nn.Module):
    """A module that is compiled when it is called."""

    def __init__(self, module: nn.Module, backend: Any) -> None:
        super().__init__()
        self.run = torch.compile(module, dynamic=True, backend=backend)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        return self.run(*inputs, **named)


class _Outputs(nn.Module):
    """The operators of a program one after the other, without branches: what compilers take."""

    def __init__(self, operators: Sequence[Operator], output_name: str) -> None:
        super().__init__()
        self.operators = tuple(operators)
        self.output_name = output_name

    def forward(self, *parts: Tensor) -> Tensor:
        values = {op.name: part for op, part in zip(self.operators, parts, strict=False)}
        for op in self.operators[len(parts) :]:
            values[op.name] = op.run(*[values[name] for name in op.inputs])
        return values[self.output_name]
