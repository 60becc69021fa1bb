"""A model read as a program: typed operators in execution order, layers named by module path."""

from __future__ import annotations

import copy
import fnmatch
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from explainers import operators as operator_classes
from explainers.export import UnreadableError
from explainers.layers import silent_modules
from explainers.operators import MaxPool
from explainers.program import Layer, Program, read_program
from explainers.registry import suggest
from explainers.rules.gradient import normalised as softmax_rule
from explainers.trust import disagreement, random_like

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from explainers.operators import Operator


class Network:
    """A model that can be run, differentiated and, where it is a program, walked.

    The model itself is not touched: a copy in eval mode is read, and kept where reading fails.

    Parameters
    ----------
    model
        Maps ``(batch, ...)`` to logits or probabilities, ``(batch, classes)``, each row alone.
    example_inputs
        One row or more; shape and type of the inputs are taken from them.

    Raises
    ------
    TypeError
        If the output is not a tensor, nor has one called ``logits``.
    ValueError
        If there is no row, the model fails for the example, or its output is not
        ``(batch, classes)``.
    """

    is_program: bool
    """Whether the model could be read; if not, only outputs and plain gradients are available."""
    reason: str | None
    """Why it is not a program; and that its outputs are probabilities, where they look so."""
    has_softmax: bool
    """Whether a trailing softmax was found and stripped: outputs are then logits."""
    input_shape: tuple[int, ...]
    """Of one sample."""
    example: Tensor
    """Two rows that fit."""
    n_outputs: int
    device: torch.device
    dtype: torch.dtype
    """Of the inputs."""

    def __init__(self, model: nn.Module | Callable[..., Tensor], example_inputs: Tensor) -> None:
        self._model = _copied(model)
        example, position = _fitting(self._model, example_inputs)
        self.example = example
        self.input_shape = tuple(example.shape[1:])
        self.device, self.dtype = example.device, example.dtype
        self.reason = None
        self._program: Program | None = None
        with torch.no_grad():
            outputs = self._outputs(example)
        self.n_outputs = outputs.shape[1]
        try:
            self._program = read_program(self._model, example, position)
        except UnreadableError as error:
            self.reason = str(error)
        else:
            self.reason = disagreement(self._outputs, self)
        if self.reason is None:
            self._name_silent_modules()
        else:
            self.reason += _normalised(outputs)
            self._program = None
        self.is_program = self._program is not None
        self.has_softmax = self._program is not None and self._program.softmax is not None

    @property
    def module(self) -> nn.Module:
        """The network's own copy of the model, in eval mode; whoever changes it copies it first."""
        return self._model

    @property
    def operators(self) -> tuple[Operator, ...]:
        """In execution order; the first is the `Input`; empty when opaque."""
        return () if self._program is None else self._program.operators

    @property
    def output_name(self) -> str:
        """Name of the operator whose value is the output."""
        return self._readable().output_name

    @property
    def dependent(self) -> frozenset[str]:
        """Names of the operators that depend on the input."""
        return self._readable().dependent

    @property
    def layers(self) -> tuple[str, ...]:
        """Everything that can be asked for by name, in execution order; empty when opaque."""
        return () if self._program is None else tuple(self._program.layers)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return logits, ``(batch, classes)``, without keeping values and without gradients."""
        self.check(inputs)
        with torch.no_grad():
            if self._program is None:
                return self._outputs(inputs)
            values = {self._program.operators[0].name: _laid_out(inputs.detach())}
            return self._run(values, is_kept=False)[self._program.output_name]

    def run(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return the value of every operator by its name.

        Raises
        ------
        NotImplementedError
            If the network is not a program.
        """
        self.check(inputs)
        source = self._readable().operators[0].name
        with torch.no_grad():
            return self._run({source: _laid_out(inputs.detach())}, is_kept=True)

    def value(self, layer: str, values: Mapping[str, Tensor]) -> Tensor:
        """Return a layer's value, as a hook on its module sees it, given those of the operators."""
        found = self._layer(layer)
        if found.unfolded is None:
            return values[found.operator]
        with torch.no_grad():
            return found.unfolded.run(*(values[name] for name in found.unfolded.inputs))

    def with_softmax(self, inputs: Tensor) -> Tensor:
        """Return the model's own outputs: probabilities where a softmax was stripped."""
        softmax = self._readable().softmax
        logits = self(inputs)
        return logits if softmax is None else softmax.run(logits)

    def before_softmax(self, values: Mapping[str, Tensor], weights: Tensor) -> Tensor:
        """Return weights of the logits that do what `weights` of the model's outputs do."""
        softmax = self._readable().softmax
        if softmax is None:
            return weights
        logits = values[self.output_name]
        (start,) = softmax_rule(softmax, weights, {softmax.name: softmax.run(logits)})
        return weights if start is None else start

    def recorded(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return a leaf and the output computed from it under autograd; for opaque networks."""
        self.check(inputs)
        leaf = inputs.detach().clone().requires_grad_(inputs.is_floating_point())
        with torch.enable_grad():
            return leaf, self._outputs(leaf)

    def operator(self, layer: str) -> Operator:
        """Return the operator whose output is a layer's; for a folded norm, the convolution.

        Raises
        ------
        LookupError
            If there is no such layer.
        """
        name = self._layer(layer).operator
        return next(op for op in self.operators if op.name == name)

    def match(self, patterns: str | Sequence[str]) -> tuple[str, ...]:
        """Return the layers that patterns name, in execution order.

        Parameters
        ----------
        patterns
            Each the name of a layer, a pattern for the whole name (``*conv*``), or
            ``type:Convolution`` for the operators of a class.

        Raises
        ------
        LookupError
            If a pattern names nothing.
        """
        asked = (patterns,) if isinstance(patterns, str) else tuple(patterns)
        found = {name for pattern in asked for name in self._matched(pattern)}
        return tuple(name for name in self.layers if name in found)

    def check(self, inputs: Tensor) -> None:
        """Refuse inputs that do not fit.

        Raises
        ------
        ValueError
            If shape, dtype or device differ from those of the network.
        """
        if inputs.ndim == 0 or tuple(inputs.shape[1:]) != self.input_shape:
            expected = ", ".join(["batch", *map(str, self.input_shape)])
            raise ValueError(
                f"got inputs of shape {tuple(inputs.shape)}, expected ({expected}); "
                f"{_remedy(tuple(inputs.shape), self.input_shape)}"
            )
        if inputs.dtype != self.dtype or inputs.device.type != self.device.type:
            raise ValueError(
                f"got inputs of {inputs.dtype} on {inputs.device}, expected {self.dtype} on "
                f"{self.device}; convert the inputs, or move the network with .to()"
            )

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Network:
        """Return the network elsewhere, or in another precision; it is read anew."""
        model = copy.deepcopy(self._model).to(device=device, dtype=dtype)
        example = self.example.to(device=device)
        if dtype is not None and example.is_floating_point():
            example = example.to(dtype)
        return Network(model, example)

    def _run(self, values: dict[str, Tensor], *, is_kept: bool) -> dict[str, Tensor]:
        program = self._readable()
        for op in program.operators[1:]:
            inputs = [values[name] for name in op.inputs]
            if is_kept and isinstance(op, MaxPool):
                values[op.name], values[op.switches_name] = op.with_indices(*inputs)
            else:
                values[op.name] = op.run(*inputs)
            if not is_kept:
                for name in program.last_uses[op.name]:
                    del values[name]
        return values

    def _outputs(self, inputs: Tensor) -> Tensor:
        # a copy, because a model may change its input in place
        return _logits(self._model(inputs.clone()))

    def _name_silent_modules(self) -> None:
        program = self._readable()
        inputs = random_like(self.example)
        values = self.run(inputs)
        aliases = silent_modules(self._model, program.layers, values, inputs)
        order = {op.name: position for position, op in enumerate(program.operators)}
        layers = {**program.layers, **{path: Layer(name) for path, name in aliases.items()}}
        ordered = dict(sorted(layers.items(), key=lambda item: order[item[1].operator]))
        self._program = replace(program, layers=ordered)

    def _readable(self) -> Program:
        if self._program is None:
            raise NotImplementedError(
                f"the model cannot be read as a program: {self.reason}; "
                f"use a method that needs outputs or plain gradients only"
            )
        return self._program

    def _layer(self, name: str) -> Layer:
        layers = self._readable().layers
        if name not in layers:
            raise LookupError(f"unknown layer {name!r}; {suggest(name, list(layers))}")
        return layers[name]

    def _matched(self, pattern: str) -> tuple[str, ...]:
        layers = self._readable().layers
        if pattern in layers:
            return (pattern,)
        _, is_type, kind = pattern.partition("type:")
        if is_type:
            return self._of_kind(kind)
        found = tuple(name for name in layers if fnmatch.fnmatchcase(name, pattern))
        if not found:
            raise LookupError(f"no layer matches {pattern!r}; {suggest(pattern, list(layers))}")
        return found

    def _of_kind(self, kind: str) -> tuple[str, ...]:
        wanted: Any = getattr(operator_classes, kind, None)
        if kind not in operator_classes.__all__:
            raise LookupError(
                f"unknown operator class {kind!r}; {suggest(kind, operator_classes.__all__)}"
            )
        found = tuple(op.name for op in self.operators[1:] if isinstance(op, wanted))
        if not found:
            present = sorted({type(op).__name__ for op in self.operators})
            raise LookupError(f"no layer is a {kind!r}; there are: {', '.join(present)}")
        return found


class _Logits(nn.Module):
    """A callable as a module that returns one tensor, ``(batch, classes)``."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return _logits(self.function(inputs))


def _logits(output: Any) -> Tensor:
    found = output if isinstance(output, torch.Tensor) else getattr(output, "logits", None)
    if not isinstance(found, torch.Tensor):
        raise TypeError(
            f"got an output of type {type(output).__name__!r}, expected a tensor of logits; "
            f"wrap the model so that it returns one"
        )
    return found


def _copied(model: nn.Module | Callable[..., Tensor]) -> nn.Module:
    """Return a copy in eval mode whose parameters want no gradient."""
    if not isinstance(model, nn.Module) and not callable(model):
        raise TypeError(f"got {type(model).__name__!r}, expected a module or a function")
    copied = copy.deepcopy(model)
    module = copied if isinstance(copied, nn.Module) else _Logits(copied)
    return module.eval().requires_grad_(False)


def _fitting(model: nn.Module, example_inputs: Tensor) -> tuple[Tensor, int]:
    """Return two rows of the example, fit for the model, and where its logits are."""
    example = example_inputs.detach()
    if example.ndim == 0 or len(example) == 0:
        raise ValueError(
            f"got example inputs of shape {tuple(example.shape)}, expected (batch, ...) "
            f"with at least one row"
        )
    example = torch.cat([example, example])[:2] if len(example) == 1 else example[:2].clone()
    held = [tensor for tensor in model.parameters() if tensor.is_floating_point()]
    if held:
        example = example.to(held[0].device)
        example = example.to(held[0].dtype) if example.is_floating_point() else example
    try:
        with torch.no_grad():
            returned = model(example.clone())
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(
            f"got inputs of shape {tuple(example_inputs.shape)}, expected (batch, ...) as the "
            f"model takes them, but it raised {type(error).__name__}: {error}; a single sample "
            f"needs a batch axis: inputs[None]"
        ) from error
    output = _logits(returned)
    if output.ndim != 2 or len(output) != len(example):
        raise ValueError(
            f"got an output of shape {tuple(output.shape)} for {len(example)} rows, expected "
            f"(batch, classes); wrap the model so that it returns one row of logits per sample"
        )
    return example, [leaf is output for leaf in tree_leaves(returned)].index(True)


def _remedy(shape: tuple[int, ...], sample_shape: tuple[int, ...]) -> str:
    if shape == sample_shape:
        return "a single sample needs a batch axis: inputs[None]"
    return "make a Network with an example of the new shape, or resize the inputs"


def _normalised(outputs: Tensor) -> str:
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


def _laid_out(inputs: Tensor) -> Tensor:
    """Return images channels last on the CPU, as the convolutions' weights are."""
    if inputs.ndim == 4 and inputs.device.type == "cpu":
        batch, channels, height, width = inputs.shape
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        # With one channel both layouts are the same memory, and torch takes it for contiguous;
        # only strides as channels last has them keep the layout (twice as fast on digits).
        strides = (height * width * channels, 1, width * channels, channels)
        return inputs.as_strided((batch, channels, height, width), strides)
    return inputs
