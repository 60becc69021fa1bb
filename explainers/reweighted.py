"""Networks with the layers of another and other weights, without exporting the model again."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch.utils._pytree import tree_leaves

from explainers.network import Network
from explainers.reading.export import exported
from explainers.reading.layers import named
from explainers.reading.program import Program, program_of
from explainers.reading.trust import agree
from explainers.reading.user_model import fitting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn
    from torch.fx import Node

    from explainers.operators import Operator
    from explainers.reading.export import Exported


class Reweighted(Network):
    """A network whose operators have the names of another's, and other tensors.

    Parameters
    ----------
    original
        Whose layers it has.
    module
        The model with other weights, in eval mode; is kept, not copied.
    program
        What was read of it; None where the original is no program.
    """

    def __init__(self, original: Network, module: nn.Module, program: Program | None) -> None:
        self._model = copy.copy(original._model)
        self._model.module = module
        self.structure, self._example = original.structure, original._example
        self.device, self.dtype = original.device, original.dtype
        self.reason, self.watched = original.reason, original.watched
        self.n_outputs, self._program, self._cuts = original.n_outputs, program, {}
        self.is_program, self.has_softmax = original.is_program, original.has_softmax

    def agrees(self) -> bool:
        """Whether program and module have the same outputs for the example."""
        with torch.no_grad():
            expected = self._outputs(self._example, {})
        return agree(expected, self.with_softmax(self.example))


class Graph:
    """The graph of a network, into which other tensors can be put.

    What reading a model costs is the export, 0.1 to 5 seconds, which is done once as long as the
    network lives; other tensors are read in milliseconds. Batch norms are folded with the new
    weights. Operators whose tensors have not changed are those of the network that came before, so
    that they are in memory once.

    Parameters
    ----------
    exported
        None where the network is no program.
    """

    def __init__(self, exported: Exported | None) -> None:
        self._exported = exported

    def places(self, original: Network, end: str | None = None) -> dict[int, int] | None:
        """Return where tensors of the model are first used on the way to the output.

        Parameters
        ----------
        original
            Whose graph this is.
        end
            Layer that stands for the output.

        Returns
        -------
        Identity of each tensor that is used to its place; None where that cannot be known.
        """
        if self._exported is None:
            return None
        tensors = dict(tensors_of(original.module))
        order = {node: place for place, node in enumerate(self._exported.graph.nodes)}
        reaching = _reaching(_node(self._exported, end))
        found: dict[int, int] = {}
        for node in reaching:
            path = self._exported.paths.get(node.name)
            if node.op == "placeholder" and path in tensors:
                place = min(order[user] for user in node.users if user in reaching)
                identity = id(tensors[path])
                found[identity] = min(place, found.get(identity, place))
        return found

    def network(self, original: Network, module: nn.Module, before: Network) -> Network:
        """Return the network of a model that has the original's layers.

        Parameters
        ----------
        original
            Whose graph this is.
        module
            The model's copy with other weights.
        before
            Network of the same layers, whose operators are kept where they are the same.
        """
        program = None
        if self._exported is not None:
            graph = _with_tensors(self._exported, module)
            read = program_of(graph, original.structure, original._example)
            program = _named_as(_kept(read, before), original._program)
        made = Reweighted(original, module, program)
        if program is not None and not made.agrees():
            # what was read may depend on values; then the model is read as any other
            return Network(module, original.example)
        return made


def graph_of(network: Network) -> Graph:
    """Return the graph of a whole network; exported once."""
    if network not in _graphs:
        found = None
        if network.is_program:
            parts, position = fitting(network._model, network._example)
            found = exported(network._model, parts, position)
        _graphs[network] = Graph(found)
    return _graphs[network]


_graphs: WeakKeyDictionary[Network, Graph] = WeakKeyDictionary()


def _with_tensors(graph: Exported, module: nn.Module) -> Exported:
    tensors = dict(tensors_of(module))
    held = {
        name: tensors[path].detach() if path in tensors else graph.statics[name]
        for name, path in graph.paths.items()
    }
    return replace(graph, statics=held)


def tensors_of(module: nn.Module, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers by their paths, shared ones by each of theirs."""
    yield from module.named_parameters(recurse=recurse, remove_duplicate=False)
    yield from module.named_buffers(recurse=recurse, remove_duplicate=False)


def _node(graph: Exported, layer: str | None) -> Node:
    """Return the node that holds a layer's value; that of the output where there is none."""
    names = named(graph.graph)
    by_name = {name: node for node, name in names.nodes.items()} | names.modules
    output: Node = next(node for node in graph.graph.nodes if node.name == graph.output_name)
    return output if layer is None else by_name.get(layer, output)


def _reaching(end: Node) -> set[Node]:
    """Return the nodes that a node depends on, and itself."""
    found, waiting = {end}, [end]
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node not in found:
                found.add(node)
                waiting.append(node)
    return found


def _kept(program: Program, before: Network) -> Program:
    """Return a program with the operators of a network where their tensors are the same."""
    known = {op.name: op for op in before.operators}
    operators = tuple(
        known[op.name] if op.name in known and _is_same(op, known[op.name]) else op
        for op in program.operators
    )
    return replace(program, operators=operators)


def _is_same(one: Operator, other: Operator) -> bool:
    if type(one) is not type(other) or one.inputs != other.inputs:
        return False
    pairs = zip(_tensors(one), _tensors(other), strict=True)
    return all(a is b or (a.shape == b.shape and torch.equal(a, b)) for a, b in pairs)


def _tensors(op: Operator) -> list[Tensor]:
    values = [getattr(op, each.name) for each in fields(op)]
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _named_as(program: Program, original: Program | None) -> Program:
    """Return a program with the names of the original, of modules too that left no node."""
    if original is None:
        return program
    layers = {path: program.layers.get(path, layer) for path, layer in original.layers.items()}
    return replace(program, layers=layers)
