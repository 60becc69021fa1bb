"""Which operators are worth running on pieces, and from where on the rest is run whole."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from explainers.operators import Constant, Convolution, Input, Linear
from explainers.reading.program import last_uses
from explainers.regions.costs import PER_VALUE, PER_WEIGHT, multiplications
from explainers.regions.local import Local, Piece, Surroundings, local
from explainers.regions.plan import Plan, operator
from explainers.regions.reach import Reach

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.network import Network
    from explainers.operators import Operator
    from explainers.reading.program import Program
    from explainers.regions.boxes import Boxes
    from explainers.regions.local import Region
    from explainers.regions.plan import Step


def draft(network: Network, boxes: Boxes) -> Draft | None:
    """Return a program as far as it can be run on pieces; None where not even the input can."""
    program, source = network._program, network.operators[0] if network.operators else None
    if program is None or not isinstance(source, Input) or len(boxes.axes) < 2:
        return None
    region = tuple(Reach.of(axis) for axis in boxes.axes[1:])
    if all(reach.is_whole for reach in region):
        return None
    return Draft(program, source, boxes, region)


class Draft:
    """Every operator on pieces as far as that goes, and what stopping behind each would cost."""

    def __init__(self, program: Program, source: Input, boxes: Boxes, region: Region) -> None:
        self.program, self.boxes, self.source = program, boxes, source
        self.regions: dict[str, Region] = {source.name: region}
        self.reached = {source.name}
        self.named = {op.name: op for op in program.operators}
        self.operators = program.operators[1:]
        self.steps = [self._step(op) for op in self.operators]

    def cheapest(self) -> Plan:
        """Return the plan whose rest begins where that costs least."""
        return self.plan(min(range(len(self.operators)), key=self.costs.__getitem__))

    def plan(self, n_steps: int) -> Plan:
        """Return the plan whose rest begins behind so many steps."""
        steps, rest = self.steps[:n_steps], self.operators[n_steps:]
        done = {op.name for op in self.operators[:n_steps]} | {self.source.name}
        outside = dict.fromkeys(
            name for op in rest for name in op.inputs if name in done or not self._is_run(name)
        )
        sources = {name for op in rest if self._is_run(op.name) for name in op.sources}
        tail = tuple(op for op in rest if self._is_run(op.name))
        output = self.program.output_name
        return Plan(
            boxes=self.boxes,
            source=self.source.name,
            region=self.regions[self.source.name],
            steps=tuple(step for step in steps if self._is_run(operator(step).name)),
            regions=self.regions,
            last_uses=self.program.last_uses,
            tail=replace(self.program, operators=tail, last_uses=last_uses(tail, output)),
            given=tuple(name for name in outside if name in sources),
            sized=tuple(name for name in outside if name not in sources),
            cost=self.costs[n_steps] / self.costs[0],
            n_values=max(map(self._values_at_once, [*steps, *tail])),
            n_values_before=max(map(self._values_at_once, self.operators)),
        )

    @property
    def cost_of_weights(self) -> float:
        """What it costs to fetch all weights once, as a part of running everything."""
        weighted = (op for op in self.operators if isinstance(op, Convolution | Linear))
        return PER_WEIGHT * sum(op.weight.numel() for op in weighted) / self.costs[0]

    def _is_run(self, name: str) -> bool:
        """Whether a value is another for every box."""
        return name in self.reached

    def _step(self, op: Operator) -> Step:
        if not op.sources & self.reached:
            return op
        self.reached.add(op.name)
        shape, changed = self._shape(op.name), op.sources & self.reached
        is_on_pieces = op.sources == set(op.inputs) and changed <= self.regions.keys()
        if not is_on_pieces or shape is None or len(shape) != len(self.boxes.axes):
            return op
        constants = tuple(_constant(self.named[name]) for name in op.inputs)
        shapes = tuple(self._shape(name) for name in op.inputs)
        regions = tuple(self.regions.get(name) for name in op.inputs)
        made = local(op, Surroundings(regions, shapes, constants, shape))
        if made is None or all(reach.is_whole for reach in made.region):
            return op
        self.regions[op.name] = made.region
        return made

    @cached_property
    def costs(self) -> list[float]:
        """Return the cost of stopping before the first step, behind it, behind the second, ..."""
        wholes = [self._cost_whole(op) for op in self.operators]
        to_go = [*accumulate(reversed(wholes), initial=0.0)][::-1]
        last_reader = {
            name: position
            for position, op in enumerate(self.operators)
            if self._is_run(op.name)
            for name in op.sources
        }
        is_whole: set[str] = set()
        found, so_far = [], 0.0
        for n_steps in range(len(self.operators) + 1):
            alive = [name for name, last in last_reader.items() if last >= n_steps]
            done = {op.name for op in self.operators[:n_steps]} | {self.source.name}
            pieces = (done & self.regions.keys()).intersection(alive) - is_whole
            found.append(so_far + sum(map(self._cost_of_pasting, pieces)) + to_go[n_steps])
            if n_steps < len(self.operators):
                step = self.steps[n_steps]
                so_far += self._cost_on_pieces(step) if isinstance(step, Local) else wholes[n_steps]
                if not isinstance(step, Local) and self._is_run(step.name):
                    new = step.sources & self.regions.keys() - is_whole
                    so_far += sum(map(self._cost_of_pasting, new))
                    is_whole |= new
        return found

    def _cost_whole(self, op: Operator) -> float:
        if not self._is_run(op.name):
            return 0.0
        n_values = self._n_values(op.name)
        shapes = [self._shape(name) or () for name in op.inputs]
        return multiplications(op, shapes, n_values) + PER_VALUE * n_values

    def _cost_of_pasting(self, name: str) -> float:
        return PER_VALUE * self._n_values(name)

    def _cost_on_pieces(self, step: Local) -> float:
        whole, n_values = self._n_values(step.op.name), self._n_values_of(step.region, step.op.name)
        shapes = [self._shape(name) or () for name in step.op.inputs]
        # what is read is taken out, and what has changed of it is written over
        moved = 2 * self._n_values_read(step)
        made = multiplications(step.op, shapes, whole) * n_values / whole
        return made + PER_VALUE * (n_values + moved)

    def _n_values_read(self, step: Local) -> int:
        read = 0
        for name, piece in zip(step.op.inputs, step.reads, strict=True):
            region = self.regions.get(name)
            if piece is not None and (region is None or piece != Piece.of(region)):
                read += (self._shape(name) or (1,))[0] * math.prod(piece.sizes)
        return read

    def _values_at_once(self, step: Step) -> int:
        if isinstance(step, Local):
            return self._n_values_read(step) + self._n_values_of(step.region, step.op.name)
        return sum(map(self._n_values, {step.name, *step.inputs}))

    def _n_values_of(self, region: Region, name: str) -> int:
        return (self._shape(name) or (1,))[0] * math.prod(reach.size for reach in region)

    def _n_values(self, name: str) -> int:
        layout = self.program.layouts.get(name)
        return 0 if layout is None else layout.n_places * math.prod(layout.shape)

    def _shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a value for one sample; None where rows do not come first."""
        layout = self.program.layouts.get(name)
        return layout.shape if layout is not None and layout.is_plain else None


def _constant(op: Operator) -> Tensor | None:
    return op.value if isinstance(op, Constant) else None
