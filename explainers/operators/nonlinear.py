"""Operators that are not linear: activations, pools, norms, softmax, attention, recurrence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch.nn import functional

from explainers.operators.base import Operator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Activation(Operator):
    """A function of each value alone, from the ATen function of the same name."""

    kind: str
    """``relu hardtanh sigmoid tanh silu gelu hardswish hardsigmoid elu leaky_relu ...``;
    ``relu6`` is ``hardtanh`` with bounds 0 and 6, ``clamp`` has two bounds too."""
    parameters: tuple[Any, ...] = ()
    """Further positional arguments: bounds, slopes."""
    options: tuple[tuple[str, Any], ...] = ()
    """Further named arguments: gelu's ``approximate``."""

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the function's values."""
        function = getattr(torch.ops.aten, self.kind)
        value: Tensor = function(inputs[0], *self.parameters, **dict(self.options))
        return value


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool(Operator):
    """One value per window; base of `MaxPool` and `AveragePool`."""

    kind: ClassVar[Literal["max", "average"]]


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Pool):
    """The largest value of each window over the last one to three axes."""

    kind: ClassVar[Literal["max", "average"]] = "max"
    size: tuple[int, ...]
    """Of the window; of the output when adaptive."""
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    ceil_mode: bool = False
    is_adaptive: bool = False

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the maxima."""
        return self.with_indices(inputs[0])[0]

    def with_indices(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maxima and their flat positions in the spatial axes of the input."""
        n_axes = len(self.size)
        if self.is_adaptive:
            adaptive = getattr(functional, f"adaptive_max_pool{n_axes}d_with_indices")
            value, indices = adaptive(inputs, self.size)
        else:
            windowed = getattr(functional, f"max_pool{n_axes}d_with_indices")
            value, indices = windowed(
                inputs, self.size, self.stride, self.padding, self.dilation, self.ceil_mode
            )
        return value, indices

    @property
    def switches_name(self) -> str:
        """Under which a run of the network keeps the positions of the maxima, next to the value."""
        return f"{self.name}:switches"

    def switches(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the positions of the maxima, as `with_indices` does, from a run if it has them.

        Parameters
        ----------
        values
            Operator name to value; of them, only the input's has to be there.
        """
        kept = values.get(self.switches_name)
        return self.with_indices(values[self.inputs[0]])[1] if kept is None else kept


@dataclass(frozen=True, eq=False, kw_only=True)
class AveragePool(Pool):
    """The mean of each window over the last axes, or over whole axes."""

    kind: ClassVar[Literal["max", "average"]] = "average"
    form: Literal["window", "adaptive", "mean"]
    size: tuple[int, ...] = ()
    """Of the window; of the output when adaptive; unused for a mean."""
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None
    dims: tuple[int, ...] = ()
    """Axes of a mean."""
    keepdim: bool = False

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the means."""
        (value,) = inputs
        if self.form == "mean":
            return value.mean(self.dims, self.keepdim)
        n_axes = len(self.size)
        if self.form == "adaptive":
            adaptive = getattr(functional, f"adaptive_avg_pool{n_axes}d")
            mean: Tensor = adaptive(value, self.size)
            return mean
        windowed = getattr(functional, f"avg_pool{n_axes}d")
        shape = (self.size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        divisor = () if n_axes == 1 else (self.divisor,)
        result: Tensor = windowed(value, *shape, *divisor)
        return result


@dataclass(frozen=True, eq=False, kw_only=True)
class Normalise(Operator):
    """Centre and scale by statistics of the sample itself, then by fixed weights."""

    kind: Literal["layer", "group", "rms"]
    shape: tuple[int, ...]
    """Trailing axes that are normalised together; for ``group`` the number of groups."""
    weight: Tensor | None
    bias: Tensor | None
    eps: float | None

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the normalised input."""
        (value,) = inputs
        if self.kind == "rms":
            return functional.rms_norm(value, self.shape, self.weight, self.eps)
        eps = 1e-5 if self.eps is None else self.eps
        if self.kind == "group":
            return functional.group_norm(value, self.shape[0], self.weight, self.bias, eps)
        return functional.layer_norm(value, self.shape, self.weight, self.bias, eps)


@dataclass(frozen=True, eq=False, kw_only=True)
class Softmax(Operator):
    """Softmax over one axis, or its logarithm."""

    dim: int
    is_log: bool = False

    def run(self, *inputs: Tensor) -> Tensor:
        """Return probabilities, or their logarithms."""
        (value,) = inputs
        return value.log_softmax(self.dim) if self.is_log else value.softmax(self.dim)


@dataclass(frozen=True, eq=False, kw_only=True)
class Attention(Operator):
    """Scaled dot-product attention of query, key, value and, as a fourth input, a mask."""

    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the attended values."""
        query, key, value = inputs[:3]
        return functional.scaled_dot_product_attention(
            query,
            key,
            value,
            inputs[3] if len(inputs) == 4 else None,
            is_causal=self.is_causal,
            scale=self.scale,
            enable_gqa=self.enable_gqa,
        )

    def weights(self, *inputs: Tensor) -> Tensor:
        """Return what each query gives to each key, ``(..., heads, queries, keys)``.

        Parameters
        ----------
        inputs
            Those of the operator; the value is not looked at.

        Returns
        -------
        Tensor
            Rows sum to one, but for a query whose every key is masked: it gives nothing.
        """
        query, key = inputs[:2]
        if self.enable_gqa:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        scale = query.shape[-1] ** -0.5 if self.scale is None else self.scale
        logits = (query * scale) @ key.mT
        if self.is_causal:
            earlier = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
            logits.masked_fill_(~earlier, -torch.inf)
        if len(inputs) == 4:
            mask = inputs[3]
            is_choice = mask.dtype == torch.bool
            logits = logits.masked_fill(~mask, -torch.inf) if is_choice else logits + mask
        weights: Tensor = torch.ops.aten._safe_softmax(logits, -1)
        return weights


@dataclass(frozen=True, eq=False, kw_only=True)
class Recurrent(Operator):
    """LSTM, GRU or plain recurrence over a sequence; inputs: sequence, then initial state(s)."""

    kind: Literal["lstm", "gru", "rnn_tanh", "rnn_relu"]
    weights: tuple[Tensor, ...]
    """Per layer: forward w_ih, w_hh, (b_ih, b_hh), then the reverse direction's."""
    has_biases: bool
    n_layers: int
    bidirectional: bool
    batch_first: bool
    item: int
    """Which output is the value: 0 the sequence, 1 the last hidden state, 2 the last cell."""

    def run(self, *inputs: Tensor) -> Tensor:
        """Return the chosen output."""
        sequence, *states = inputs
        function = getattr(torch.ops.aten, self.kind).input
        value: Tensor = function(
            sequence,
            list(states) if self.kind == "lstm" else states[0],
            list(self.weights),
            self.has_biases,
            self.n_layers,
            0.0,
            False,
            self.bidirectional,
            self.batch_first,
        )[self.item]
        return value
