"""Reads an exported graph into operators: every node is looked at once, here."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch._ops import OpOverload

from explainers.operators import Constant, Extent, Generic, Input, Operator, Reshape, Slot
from explainers.reading.export import UnreadableError, calls

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor
    from torch.fx import Node

    from explainers.reading.export import Exported
    from explainers.reading.layers import Names


@dataclass(frozen=True)
class Ref:
    """A value that is computed from the input, or at least for each batch anew."""

    name: str
    """Of the operator."""
    shape: tuple[str, ...]
    """Sizes as text, so that comparing symbolic ones adds no guard."""
    dtype: torch.dtype


@dataclass(frozen=True)
class Size:
    """The integer ``factor * batch + offset``."""

    factor: int
    offset: int


@dataclass(frozen=True)
class Bound:
    """A node with its arguments bound by the operator's schema.

    Argument values are plain Python values, `Ref`, `Size`, or a tensor where the value is fixed.
    """

    name: str
    owner: str
    function: OpOverload
    arguments: Mapping[str, Any]
    shape: tuple[str, ...]
    dtype: torch.dtype | None
    item: int | None
    """Which of several outputs is meant."""
    program: Reading

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    @property
    def word(self) -> str:
        """The function's name without namespace and overload."""
        return self.function._schema.name.partition("::")[2]

    def header(self, *inputs: Ref | Tensor) -> dict[str, Any]:
        """Return what every operator has; fixed inputs become constants of the program."""
        names = tuple(self.program.entered(self, value) for value in inputs)
        return {"name": self.name, "module_path": self.owner, "inputs": names}


Parser = Callable[[Bound], "Operator | Ref | Tensor | None"]
"""Makes an operator of a node, or says which value it is; None where it cannot."""

P = TypeVar("P", bound=Parser)
parsers: dict[str, Parser] = {}
"""ATen name, without namespace and overload, to parser."""


def parses(*words: str) -> Callable[[P], P]:
    """Return a decorator that enters a parser for ATen functions."""

    def enter(parser: P) -> P:
        for word in words:
            parsers[word] = parser
        return parser

    return enter


@dataclass
class Reading:
    """The program so far."""

    graph: Exported
    names: Names
    device: torch.device
    operators: list[Operator] = field(default_factory=list)
    values: dict[Node, Any] = field(default_factory=dict)
    """Node to `Ref`, `Size`, fixed tensor, or several of these."""
    norms: set[str] = field(default_factory=set)
    """Names of affine operators that were batch norms: what may be folded."""
    input_name: str = "input"
    """Of the first input, whose rows are the batch."""
    parts: tuple[str, ...] = ("",)
    """What the inputs are called, in the order of the graph's."""
    batch: str = ""
    """Symbol of the batch size."""
    shapes: dict[str, tuple[tuple[str, ...], torch.dtype]] = field(default_factory=dict)
    """Operator to sizes and type of its value, where they are known."""

    def read(self) -> Ref:
        """Read every node, in order; return what holds the output."""
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node)
        for node in calls(self.graph.graph):
            if node.users:
                self.values[node] = self._call(node)
        output = next(
            value for node, value in self.values.items() if node.name == self.graph.output_name
        )
        if not isinstance(output, Ref):
            raise UnreadableError("the output does not depend on the input")
        return output

    def entered(self, bound: Bound, value: Ref | Tensor) -> str:
        """Return the name of a value, after entering it as a constant where it is fixed."""
        if isinstance(value, Ref):
            return value.name
        name = f"{bound.name}:constant{sum(isinstance(op, Constant) for op in self.operators)}"
        self.operators.append(Constant(name=name, module_path=bound.owner, inputs=(), value=value))
        return name

    def add(self, made: Operator, shape: tuple[str, ...], dtype: torch.dtype) -> Ref:
        """Append an operator and return a reference to it."""
        axis = _batch_axis(shape)
        outer = self._outer(made, shape)
        is_first = axis == 0 and outer == 1
        self.operators.append(
            made if is_first else replace(made, batch_axis=axis, batch_outer=outer)
        )
        self.shapes[made.name] = (shape, dtype)
        return Ref(made.name, shape, dtype)

    def _outer(self, made: Operator, shape: tuple[str, ...]) -> int:
        """Return how often samples follow each other along the batch's axis; see `Operator`."""
        followed = {op.name: op for op in self.operators if op.name in made.inputs}
        sources = [followed[name] for name in made.inputs if name in made.sources & followed.keys()]
        of_batch = [op for op in sources if any(not size.isdigit() for size in self._shape(op))]
        if not of_batch:
            return 1
        source = of_batch[0]
        if not (isinstance(made, Reshape) and made.is_ordered):
            return source.batch_outer
        before = _n_before(self._shape(source)) * source.batch_outer
        return max(1, before // _n_before(shape))

    def _shape(self, op: Operator) -> tuple[str, ...]:
        return self.shapes[op.name][0] if op.name in self.shapes else ()

    def _placeholder(self, node: Node) -> Any:
        static = self.graph.statics.get(node.name)
        if static is not None or node.name not in self.graph.input_names:
            return static
        part = self.parts[self.graph.input_names.index(node.name)]
        shape = node.meta["val"].shape
        self.batch = str(shape[0])
        name = f"input.{part}" if part else "input"
        while name in self.names.nodes.values():
            name += "#"
        if not self.operators:
            self.input_name = name
        made = Input(
            name=name,
            module_path="",
            inputs=(),
            shape=tuple(int(size) for size in shape[1:]),
        )
        return self.add(made, _text(shape), node.meta["val"].dtype)

    def _call(self, node: Node) -> Any:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor | tuple | list):
            return self._size(value)
        if node.target is operator.getitem:
            return self._item(node)
        if not isinstance(node.target, OpOverload):
            raise UnreadableError(f"operator {node.target!s} is not an ATen function")
        arguments = self._bound(node)
        if not any(isinstance(part, Ref | Size) for part in _leaves(arguments)):
            return _evaluated(node.target, arguments)
        if _has_several(node.target):
            return node  # read when one of its outputs is taken
        return self._read(node, node, None)

    def _size(self, value: Any) -> Any:
        """Return an integer that may follow the batch size, as a linear function of it."""
        if not isinstance(value, torch.SymInt):
            if isinstance(value, int | float):
                return value
            raise UnreadableError("a number follows the values of the input")
        expression = value.node.expr
        symbols = expression.free_symbols
        if not symbols:
            return int(expression)
        if {str(symbol) for symbol in symbols} != {self.batch}:
            raise UnreadableError(f"the size {expression} follows the values of the input")
        (symbol,) = symbols
        at = [int(expression.subs({symbol: batch})) for batch in (2, 3, 12)]
        factor = at[1] - at[0]
        if at[2] != at[0] + 10 * factor:
            raise UnreadableError(f"the size {expression} is not linear in the batch")
        return Size(factor, at[0] - 2 * factor)

    def _item(self, node: Node) -> Any:
        source, position = node.args
        if isinstance(source, torch.fx.Node) and isinstance(position, int):
            held = self.values[source]
            if isinstance(held, tuple | list):
                return held[position]
            if held is source:
                return self._read(source, node, position)
        raise UnreadableError(f"cannot take {position!r} of {source!r}")

    def _read(self, node: Node, output: Node, item: int | None) -> Any:
        meta = output.meta["val"]
        function = node.target
        if not isinstance(function, OpOverload):
            raise UnreadableError(f"operator {function!s} is not an ATen function")
        bound = Bound(
            self.names.nodes[node] if not item else f"{self.names.nodes[node]}:{item}",
            self.names.owners[node],
            function,
            self._bound(node),
            _text(meta.shape),
            meta.dtype,
            item,
            self,
        )
        parser = parsers.get(bound.word)
        made = parser(bound) if parser is not None else None
        if isinstance(made, Ref | torch.Tensor):
            return made
        return self.add(made or generic(bound), bound.shape, meta.dtype)

    def _bound(self, node: Node) -> dict[str, Any]:
        function = node.target
        arguments: dict[str, Any] = {}
        schema = function._schema.arguments  # type: ignore[union-attr]  # checked by the callers
        for position, argument in enumerate(schema):
            if position < len(node.args):
                value: Any = node.args[position]
            elif argument.name in node.kwargs:
                value = node.kwargs[argument.name]
            else:
                value = argument.default_value if argument.has_default_value() else None
            arguments[argument.name] = self._resolved(value)
        return arguments

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, torch.fx.Node):
            return self.values[value]
        if isinstance(value, tuple | list):
            return [self._resolved(part) for part in value]
        return value


def generic(bound: Bound, kind: type[Any] = Generic, **fields: Any) -> Operator:
    """Return the node as a call of its function, with slots for what is computed."""
    inputs: list[str] = []
    source = bound.program.input_name

    def placed(value: Any) -> Any:
        if isinstance(value, Ref):
            inputs.append(value.name)
            return Slot(len(inputs) - 1)
        if isinstance(value, Size):
            inputs.append(source)
            return Extent(value.factor, value.offset, len(inputs) - 1)
        if isinstance(value, list):
            return [placed(part) for part in value]
        return value

    schema = {argument.name: argument for argument in bound.function._schema.arguments}
    arguments = tuple(
        placed(value) for name, value in bound.arguments.items() if not schema[name].kwarg_only
    )
    options = {
        name: placed(value) for name, value in bound.arguments.items() if schema[name].kwarg_only
    }
    made: Operator = kind(
        name=bound.name,
        module_path=bound.owner,
        inputs=tuple(inputs),
        arguments=arguments,
        options=options,
        item=bound.item,
        **{"function": bound.function, **fields},
    )
    return made


def _batch_axis(shape: tuple[str, ...]) -> int:
    return next((axis for axis, size in enumerate(shape) if not size.isdigit()), 0)


def _n_before(shape: tuple[str, ...]) -> int:
    """Return how many places there are along the axes before the batch's."""
    return math.prod(int(size) for size in shape[: _batch_axis(shape)])


def _text(shape: Any) -> tuple[str, ...]:
    return tuple(str(size) for size in shape)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _has_several(function: OpOverload) -> bool:
    returns = function._schema.returns
    return len(returns) > 1 or "[]" in str(returns[0].type) or "List" in str(returns[0].type)


def _evaluated(function: OpOverload, arguments: dict[str, Any]) -> Any:
    """Run what does not depend on the batch, now and once."""
    schema = {argument.name: argument for argument in function._schema.arguments}
    positional = [value for name, value in arguments.items() if not schema[name].kwarg_only]
    named = {name: value for name, value in arguments.items() if schema[name].kwarg_only}
    with torch.no_grad():
        return function(*positional, **named)
