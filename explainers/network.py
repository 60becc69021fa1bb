"""A model read as a program: typed operators in execution order, layers named by module path."""

from __future__ import annotations

import copy
import fnmatch
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from explainers import operators as operator_classes
from explainers import running
from explainers.inference import outside_inference_mode
from explainers.passing import Passing
from explainers.reading.export import UnreadableError
from explainers.reading.layers import silent_modules
from explainers.reading.program import Layer, Layout, Program, read_program
from explainers.reading.trust import disagreement, random_like
from explainers.reading.user_model import copied, fitting, normalised, structured
from explainers.reading.watching import Watched, watched
from explainers.registry import suggest
from explainers.rules.gradient import normalised as softmax_rule

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Hashable, Mapping, Sequence

    from torch import Tensor, nn

    from explainers.inputs.structure import Inputs, Structure
    from explainers.operators import Operator


class Network:
    """A model that can be run, differentiated and, where it is a program, walked.

    The model itself is not touched: a copy in eval mode is read, and kept where reading fails.

    Parameters
    ----------
    model
        Maps ``(batch, ...)`` to logits or probabilities, ``(batch, classes)``, each row alone.
    example_inputs
        One row or more; shape and type of the inputs are taken from them. A tensor, a tuple of
        them (``model(*inputs)``), or a dict by argument name (``model(**inputs)``).

    Raises
    ------
    TypeError
        If the output is not a tensor, nor has one called ``logits``; or inputs are no tensors.
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
    structure: Structure
    """How the model takes its inputs, and what each is called."""
    n_outputs: int
    device: torch.device
    dtype: torch.dtype
    """Of the inputs: of the first that is floating-point, if any is."""
    carried: tuple[str, ...] = ()
    """What a part of a network takes over from the whole: see `explainers.cut`."""
    passing = Passing()
    """How passes go through it: see `explainers.passing.passed`."""
    _compiled: Callable[..., Tensor] | None = None

    @outside_inference_mode
    def __init__(self, model: nn.Module | Callable[..., Any], example_inputs: Inputs) -> None:
        self.structure = structured(model, example_inputs)
        self._model = copied(model, self.structure)
        example, position = fitting(self._model, self.structure.parts(example_inputs))
        self._example = example
        self.device, self.dtype = example[0].device, _dtype(example)
        self.reason, self.watched = None, Watched()
        self._program: Program | None = None
        self._cuts: dict[Hashable, Any] = {}
        with torch.no_grad():
            outputs = self._outputs(example, {})
        self.n_outputs = outputs.shape[1]
        try:
            self._program = read_program(self._model, example, position)
        except UnreadableError as error:
            self.reason = str(error)
        else:
            self.reason = disagreement(self._model, self, example)
        if self.reason is None:
            self._name_silent_modules()
        else:
            self.watched = watched(self._model, example)
            self.reason += self.watched.reason + normalised(outputs)
            self._program = None
        self.is_program = self._program is not None
        self.has_softmax = self._program is not None and self._program.softmax is not None

    @property
    def module(self) -> nn.Module:
        """The network's own copy of the model, in eval mode; whoever changes it copies it first."""
        return self._model.module

    @property
    def root(self) -> Network:
        """The whole network, of which a cut is a part."""
        return self

    @property
    def example(self) -> Inputs:
        """Two rows that fit, in the structure of the inputs."""
        example: Inputs = self.structure.filled(self._example)
        return example

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample of the one input.

        Raises
        ------
        TypeError
            If there are several inputs; see `input_shapes`.
        """
        if len(self._example) > 1:
            raise TypeError(
                f"the network has {len(self._example)} inputs, with a shape each; "
                "take network.input_shapes"
            )
        return tuple(self._example[0].shape[1:])

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one sample of each input, by its name: ``""`` for a tensor alone."""
        shapes = [tuple(part.shape[1:]) for part in self._example]
        return dict(zip(self.structure.names, shapes, strict=True))

    @property
    def operators(self) -> tuple[Operator, ...]:
        """In execution order, an `Input` for each input first; empty when opaque."""
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

    def __call__(self, inputs: Inputs, carried: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return logits, ``(batch, classes)``, without keeping values and without gradients."""
        parts, others = self.parts(inputs), self._taken_over(carried)
        with torch.no_grad(), self.passing.context():
            if self._program is None:
                return self._outputs(parts, others)
            values = self._entered(parts, others)
            if self._compiled is not None:
                return self._compiled(*values.values())
            return self._run(values, None)[self._program.output_name]

    def run(
        self,
        inputs: Inputs,
        carried: Mapping[str, Tensor] | None = None,
        unread: Container[str] = (),
    ) -> dict[str, Tensor]:
        """Return the value of every operator by its name, but for those named by `unread`.

        Parameters
        ----------
        carried
            Of a part of a network: the values that it takes over, for the same rows.

        Raises
        ------
        NotImplementedError
            If the network is not a program.
        """
        values = self._entered(self.parts(inputs), self._taken_over(carried))
        with torch.no_grad(), self.passing.context():
            return self._run(values, unread)

    def show(
        self, inputs: Inputs, names: Collection[str], seen: Callable[[str, Tensor], None]
    ) -> None:
        """Show values of operators as they come, and run no further; see `running.show`."""
        values = self._entered(self.parts(inputs), self._taken_over(None))
        with torch.no_grad(), self.passing.context():
            running.show(self._readable(), values, names, seen)

    def value(self, layer: str, values: Mapping[str, Tensor]) -> Tensor:
        """Return a layer's value, as a hook on its module sees it, given those of the operators."""
        found = self._layer(layer)
        if found.unfolded is None:
            return values[found.operator]
        with torch.no_grad():
            return found.unfolded.run(*(values[name] for name in found.unfolded.inputs))

    def layout(self, operator: str) -> Layout | None:
        """Return how an operator's value is laid out; None where rows are not along one axis."""
        return self._readable().layouts.get(operator)

    def with_softmax(self, inputs: Inputs) -> Tensor:
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

    def recorded(
        self, inputs: Inputs, carried: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return a leaf and the output computed from it under autograd; for opaque networks."""
        (part,) = self.parts(inputs)
        leaf = part.detach().clone().requires_grad_(part.is_floating_point())
        with torch.enable_grad(), self.passing.context():
            return leaf, self._outputs((leaf,), self._taken_over(carried))

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

    def check(self, inputs: Inputs) -> None:
        """Refuse inputs that do not fit.

        Raises
        ------
        TypeError
            If they are not held as the example was.
        ValueError
            If shape, dtype or device differ from those of the network.
        """
        self.parts(inputs)

    def parts(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """Return the tensors of inputs that fit; see `check`."""
        parts = self.structure.parts(inputs)
        for name, part, example in zip(self.structure.names, parts, self._example, strict=True):
            _check(name, part, example)
        if len({len(part) for part in parts}) > 1:
            raise ValueError(
                f"got inputs of {', '.join(str(len(part)) for part in parts)} rows, expected as "
                "many of each"
            )
        return parts

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Network:
        """Return the network elsewhere, or in another precision; it is read anew."""
        model = copy.deepcopy(self._model.module).to(device=device, dtype=dtype)
        example = [part.to(device=device) for part in self._example]
        if dtype is not None:
            example = [part.to(dtype) if part.is_floating_point() else part for part in example]
        return Network(model, self.structure.filled(example))

    def _taken_over(self, carried: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
        given = carried or {}
        if set(given) != set(self.carried):
            raise ValueError(
                f"this part of the network takes over values of the whole, "
                f"{', '.join(self.carried)}; run it by trace.at(inputs, rows), which brings them"
            )
        return given

    def _entered(self, parts: Sequence[Tensor], carried: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named = zip(self.operators, parts, strict=False)
        is_last = self.passing.is_channels_last
        return {op.name: running.laid_out(part.detach(), is_last) for op, part in named} | {
            **carried
        }

    def _run(self, values: dict[str, Tensor], unread: Container[str] | None) -> dict[str, Tensor]:
        return running.run(self._readable(), values, unread)

    def _outputs(self, parts: Sequence[Tensor], carried: Mapping[str, Tensor]) -> Tensor:
        return (self._compiled or self._model)(*parts)

    def _name_silent_modules(self) -> None:
        program = self._readable()
        parts = [random_like(part) for part in self._example]
        values = self.run(self.structure.filled(parts))
        aliases = silent_modules(self._model, program.layers, values, parts)
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
        found = tuple(op.name for op in self.operators if isinstance(op, wanted))
        if not found:
            present = sorted({type(op).__name__ for op in self.operators})
            raise LookupError(f"no layer is a {kind!r}; there are: {', '.join(present)}")
        return found


def _remedy(shape: tuple[int, ...], sample_shape: tuple[int, ...]) -> str:
    if shape == sample_shape:
        return "a single sample needs a batch axis: inputs[None]"
    return "make a Network with an example of the new shape, or resize the inputs"


def _dtype(example: Sequence[Tensor]) -> torch.dtype:
    return next((part.dtype for part in example if part.is_floating_point()), example[0].dtype)


def _check(name: str, part: Tensor, example: Tensor) -> None:
    shape, found = tuple(example.shape[1:]), tuple(part.shape)
    inputs = f"input {name!r}" if name else "inputs"
    if part.ndim == 0 or found[1:] != shape:
        expected = ", ".join(["batch", *map(str, shape)])
        raise ValueError(
            f"got {inputs} of shape {found}, expected ({expected}); {_remedy(found, shape)}"
        )
    if part.dtype != example.dtype or part.device.type != example.device.type:
        raise ValueError(
            f"got {inputs} of {part.dtype} on {part.device}, expected {example.dtype} on "
            f"{example.device}; convert the inputs, or move the network with .to()"
        )
