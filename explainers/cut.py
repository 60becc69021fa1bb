"""The part of a network behind some of its values, or up to one of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from explainers.inputs.packing import Packing, flattened
from explainers.inputs.points import UNFOLDED, Point
from explainers.inputs.rows import gathered
from explainers.inputs.structure import Structure
from explainers.network import Network
from explainers.operators import Call, Carried, Input, MaxPool, Operator, Pad
from explainers.reading.program import Layer, Layout, Program, dependent, last_uses

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence
    from typing import NoReturn

    from torch import Tensor, nn

_ALONE = Structure("tensor", ("",))


class Cut(Network):
    """Part of a network that is a network itself; operators keep their names and values.

    Values that it takes over from the whole without their being its input are `carried`: they
    are given to it, row by row, and do not change with its input.
    """

    parent: Network
    points: tuple[Point, ...]
    """Whose values are its input; none where its input is that of its parent."""
    packing: Packing
    end: str | None
    """Layer whose value is its output; None where that is the output of its parent."""
    replaced: frozenset[str]
    """Operators whose values are not those of the same name in the parent."""

    def __init__(self, parent: Network) -> None:
        self.parent = parent
        self.points, self.end, self.replaced = (), None, frozenset()
        self.structure, self._example = parent.structure, parent._example
        self._model, self._program, self._cuts = parent._model, parent._program, {}
        self.is_program, self.reason = parent.is_program, parent.reason
        self.n_outputs, self.device, self.dtype = parent.n_outputs, parent.device, parent.dtype
        self.carried, self.has_softmax = parent.carried, parent.has_softmax
        self.passing = parent.passing

    @property
    def is_begun(self) -> bool:
        """Whether its input is a value of the whole, or several that are packed."""
        parent = self.parent
        return bool(self.points) or (isinstance(parent, Cut) and parent.is_begun)

    @property
    def root(self) -> Network:
        """The whole network."""
        return self.parent.root

    @property
    def module(self) -> nn.Module:
        """None: a part of a model is no module.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            "hooks on modules serve whole models, and this is a part of one (a layer, a unit, or "
            "packed inputs); use one of our own composites"
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Network:
        """Return the same part of the whole elsewhere."""
        moved = self.parent.to(device, dtype)
        if self.end is not None:
            return ended(moved, self.end)
        return begun(moved, tuple(point.layer for point in self.points))

    def entered(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return its input, given the values of its parent."""
        found = {point.name: point.value(self.parent, values) for point in self.points}
        return self.packing.pack(found)

    def completed(
        self, parts: Sequence[Tensor], values: Mapping[str, Tensor], unread: Container[str] = ()
    ) -> dict[str, Tensor]:
        """Return its values but those named by `unread`, given those of its parent for the same."""
        own = [op for op in self.operators if op.name not in self.replaced]
        names = [op.name for op in own]
        names += [op.switches_name for op in own if isinstance(op, MaxPool)]
        found = {name: values[name] for name in names if name in values}
        if self.points:
            found |= self._entered(parts, {})
        return self._run(found, unread)

    def gathered(self, carried: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        """Return what is carried, for rows of the batch."""
        if self._program is None:
            return {name: value[rows.to(value.device)] for name, value in carried.items()}
        return {
            name: gathered(self.root, name, value, self._program.layouts.get(name), rows)
            for name, value in carried.items()
        }

    def _outputs(self, parts: Sequence[Tensor], carried: Mapping[str, Tensor]) -> Tensor:
        if not self.points:
            return self.parent._outputs(parts, carried)
        found = {**self.packing.unpack(parts[0]), **carried}
        found |= {point.name: point.taken(found[point.name]) for point in self.points}
        return self.parent._outputs([found[name] for name in self.parent.structure.names], {})


def begun(parent: Network, layers: tuple[str, ...]) -> Cut:
    """Return the part of a network behind layers or inputs, whose values become its one input.

    Several are packed into one tensor ``(batch, total)``, in the order that is asked for.

    Raises
    ------
    LookupError
        If there is no such layer.
    NotImplementedError
        If the network is opaque and something else than inputs is asked for.
    ValueError
        If the output does not depend on a layer, or the layer has no rows of its own.
    """
    key = ("begun", layers)
    if key not in parent._cuts:
        points = [_point(parent, layer) for layer in layers]
        if len({point.dtype for point in points}) > 1:
            types = ", ".join(f"{point.layer!r} is {point.dtype}" for point in points)
            raise ValueError(f"values of several types cannot be explained together: {types}")
        made = Cut(parent)
        made.points = tuple(points)
        made.packing = Packing({point.name: point.shape for point in points})
        made.dtype, made.structure = points[0].dtype, _ALONE
        shape = (2, *made.packing.shape)
        made._example = (torch.zeros(shape, dtype=made.dtype, device=parent.device),)
        if parent._program is None:
            names = parent.structure.names
            made.carried = tuple(name for name in names if name not in made.packing.shapes)
        else:
            made._program, made.carried = _behind(parent, parent._program, made)
        parent._cuts[key] = made
    found: Cut = parent._cuts[key]
    return found


def _point(parent: Network, layer: str) -> Point:
    program = parent._program
    names = parent.structure.names
    if program is None and layer in names:
        return Point.of_opaque(parent, layer)
    if program is None:
        _opaque(parent, layer)
    inputs = {op.name: Layer(op.name) for op in parent.operators if isinstance(op, Input)}
    found = inputs[layer] if layer in inputs else _found(parent, layer)
    if isinstance(found.unfolded, Pad):
        raise ValueError(
            f"cannot start at layer {layer!r}: its zeros are part of the convolution behind it; "
            f"start at {found.operator!r}, which is before it, or at the convolution "
            f"{_reader(program, found.operator)!r}"
        )
    layout = _plain(program, found.operator, layer)
    name = f"{found.operator}{UNFOLDED}" if found.norm is not None else found.operator
    return Point(layer, name, layout.shape, layout.dtype, found.norm)


def _found(network: Network, layer: str) -> Layer:
    if layer not in network.layers and layer in network.root.layers:
        end = network.end if isinstance(network, Cut) else None
        of = "the outputs" if end is None else f"the target in layer {end!r}"
        raise ValueError(
            f"layer {layer!r} is not between the inputs and {of}; "
            f"there are: {', '.join(list(network.layers)[:20]) or 'none'}"
        )
    return network._layer(layer)


def _reader(program: Program, name: str) -> str:
    return next(op.name for op in program.operators if name in op.inputs)


def _opaque(network: Network, layer: str) -> NoReturn:
    raise NotImplementedError(
        f"layer {layer!r} cannot be found: the model cannot be read as a program: "
        f"{network.reason}; explain the inputs, or change the model"
    )


def _plain(program: Program, operator: str, layer: str) -> Layout:
    layout = program.layouts.get(operator)
    if layout is None or not layout.is_plain:
        raise ValueError(
            f"the value of layer {layer!r} does not have the samples of the batch as its first "
            "axis, so it has no relevance for each of them; take a layer before or behind it"
        )
    return layout


def _behind(parent: Network, program: Program, cut: Cut) -> tuple[Program, tuple[str, ...]]:
    """Return the program from the points on, and the names of what it takes over."""
    entries = cut.packing.operators()
    for point in cut.points:
        if point.norm is not None:
            entries.append(replace(point.norm, name=point.operator, inputs=(point.name,)))
    kept, needed = _kept(program, entries)
    inputs = {op.name for op in parent.operators if isinstance(op, Input)}
    for point in cut.points:
        if point.operator not in needed | inputs:
            raise ValueError(
                f"what is explained does not depend on layer {point.layer!r}; "
                "name one that lies before it"
            )
    operators = [*entries, *kept]
    layouts = {point.name: Layout(0, 1, point.shape, point.dtype) for point in cut.points}
    made = replace(
        program,
        operators=tuple(operators),
        dependent=dependent(operators),
        layers=_layers(program, operators, cut.points),
        last_uses=last_uses(operators, program.output_name),
        layouts={**program.layouts, **layouts},
    )
    return made, tuple(op.name for op in kept if isinstance(op, Carried))


def _kept(program: Program, entries: Sequence[Operator]) -> tuple[list[Operator], set[str]]:
    """Return what the output needs behind the entries, what is taken over first; and their names.

    What depends on an entry is computed, and what depends on no input; anything else is taken over.
    """
    given = {op.name for op in entries}
    source, batch = entries[0].name, program.operators[0].name
    behind, needed = set(given), {program.output_name}
    for op in program.operators:
        if op.sources & behind:
            behind.add(op.name)
    kept: list[Operator] = []
    for op in reversed(program.operators):
        if op.name not in needed or op.name in given:
            continue
        if op.name in behind or op.name not in program.dependent:
            kept.append(_rebatched(op, batch, source))
            needed.update(kept[-1].inputs)
        else:
            axis, owner = op.batch_axis, op.module_path
            kept.append(Carried(name=op.name, module_path=owner, inputs=(), batch_axis=axis))
    return sorted(reversed(kept), key=lambda op: not isinstance(op, Carried)), needed


def _rebatched(op: Operator, batch: str, source: str) -> Operator:
    """Read sizes that follow the batch off the part's own input."""
    if not isinstance(op, Call) or batch not in op.inputs or batch in op.sources:
        return op
    return replace(op, inputs=tuple(source if name == batch else name for name in op.inputs))


def _layers(
    program: Program, operators: Sequence[Operator], points: Sequence[Point] = ()
) -> dict[str, Layer]:
    """Return those layers of a program whose values a part of it has."""
    present = {op.name for op in operators}
    renamed = {point.layer: Layer(point.name) for point in points if point.norm is not None}
    found: dict[str, Layer] = {}
    for path, layer in program.layers.items():
        needs = {layer.operator} if layer.unfolded is None else set(layer.unfolded.inputs)
        if path in renamed:
            found[path] = renamed[path]
        elif needs | {layer.operator} <= present:
            found[path] = layer
    return found


def ended(parent: Network, layer: str) -> Cut:
    """Return the part of a network up to a layer, whose value, ``(batch, units)``, is its output.

    Raises
    ------
    LookupError
        If there is no such layer.
    NotImplementedError
        If the network is opaque.
    ValueError
        If the layer does not depend on the input, or has no rows of its own.
    """
    key = ("ended", layer)
    if key not in parent._cuts:
        program = parent._program
        if program is None:
            _opaque(parent, layer)
        found = _found(parent, layer)
        if found.operator not in program.dependent:
            raise ValueError(f"layer {layer!r} does not depend on the input; name another")
        made = Cut(parent)
        made.end, made.has_softmax = layer, False
        made._program, made.replaced = _up_to(program, found, layer)
        made.packing = Packing({})
        made.n_outputs = math.prod(unit_shape(parent, layer))
        present = {op.name for op in made._program.operators}
        made.carried = tuple(name for name in parent.carried if name in present)
        parent._cuts[key] = made
    cut: Cut = parent._cuts[key]
    return cut


def ends_inside(network: Network) -> bool:
    """Return whether a network's output is the value of a layer of the whole."""
    while isinstance(network, Cut):
        if network.end is not None:
            return True
        network = network.parent
    return False


def unit_shape(network: Network, layer: str) -> tuple[int, ...]:
    """Return the shape of a layer's value for one sample."""
    program = network._program
    if program is None:
        _opaque(network, layer)
    found = _found(network, layer)
    name = found.unfolded.name if isinstance(found.unfolded, Pad) else found.operator
    return _plain(program, name, layer).shape


def _up_to(program: Program, found: Layer, layer: str) -> tuple[Program, frozenset[str]]:
    """Return the program that ends with a layer's value, and which operators compute others."""
    operators = list(program.operators)
    last, replaced = found.operator, frozenset[str]()
    if isinstance(found.unfolded, Pad):
        operators.append(found.unfolded)
        last = found.unfolded.name
    elif found.unfolded is not None:
        unfolded = replace(found.unfolded, name=found.operator)
        operators = [unfolded if op.name == found.operator else op for op in operators]
        replaced = frozenset({found.operator})
    layout = _plain(program, last, layer)
    if len(layout.shape) != 1:
        operators.append(flattened(f"{last}:units", last, math.prod(layout.shape)))
        last = f"{last}:units"
    needed = {last}
    for op in reversed(operators):
        if op.name in needed:
            needed.update(op.inputs)
    operators = [op for op in operators if op.name in needed or isinstance(op, Input)]
    made = replace(
        program,
        operators=tuple(operators),
        output_name=last,
        dependent=dependent(operators),
        layers=_layers(program, operators),
        softmax=None,
        last_uses=last_uses(operators, last),
    )
    layers = {path: _without_norm(one, found) for path, one in made.layers.items()}
    return replace(made, layers={path: one for path, one in layers.items() if one}), replaced


def _without_norm(layer: Layer, end: Layer) -> Layer | None:
    """Return a layer of a part that ends before the norm which a convolution had taken in."""
    if end.norm is None or layer.operator != end.operator:
        return layer
    return Layer(end.operator) if layer.unfolded is not None else None
