"""Names of nodes: module paths where a module made them, else owner, operator and number."""

from __future__ import annotations

import operator
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch

from explainers.reading.export import calls

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from torch import Tensor, nn
    from torch.fx import Graph, Node

    from explainers.reading.user_model import UserModel


@dataclass(frozen=True)
class Names:
    """What nodes and modules are called."""

    nodes: dict[Node, str]
    """Node to its name, unique."""
    owners: dict[Node, str]
    """Node to the path of the innermost module that owns it."""
    modules: dict[str, Node]
    """Module path (``path#1`` for the second use) to the node that holds the module's output."""


def named(graph: Graph) -> Names:
    """Name the nodes of a graph.

    A module's output is the node of its group that is used outside of the group. A module that
    has no module within gives its output node its own name; any other node is called
    ``<owner path>.<operator>#<k>``, k counting from 0 in execution order and leaving out what is
    the name of a module's use.
    """
    groups: dict[str, list[Node]] = defaultdict(list)
    paths: dict[str, str] = {}
    inner: set[str] = set()
    for node in calls(graph):
        keys = list(_stack(node))
        for key, path in keys:
            groups[key].append(node)
            paths[key] = path
        inner.update(key for key, _ in keys[:-1])
    outputs = {key: _output(nodes) for key, nodes in groups.items()}
    modules = {
        _numbered(paths[key], key): node
        for key, node in outputs.items()
        if node is not None and paths[key]
    }
    leaves = {
        _computing(node): _numbered(paths[key], key)
        for key, node in outputs.items()
        if node is not None and paths[key] and key not in inner
    }
    owners = {node: _owner(node) for node in calls(graph)}
    taken = {_numbered(path, key) for key, path in paths.items()}
    return Names(_distinct(graph, leaves, owners, taken), owners, modules)


def _stack(node: Node) -> Iterator[tuple[str, str]]:
    for key, entry in node.meta.get("nn_module_stack", {}).items():
        if not key.startswith("_empty"):
            yield key, entry[0]


def _owner(node: Node) -> str:
    paths = [path for _, path in _stack(node)]
    return paths[-1] if paths else ""


def _numbered(path: str, key: str) -> str:
    _, _, call = key.rpartition("@")
    return f"{path}#{call}" if "@" in key and call.isdigit() else path


def _output(nodes: list[Node]) -> Node | None:
    """Return the one node that is read from outside the group; None if there are several."""
    group = set(nodes)
    read = [node for node in nodes if any(user not in group for user in node.users)]
    return read[0] if len(read) == 1 else None


def _computing(node: Node) -> Node:
    """Return the node itself, or the one of whose several outputs it is the first."""
    if node.target is operator.getitem and node.args[1] == 0:
        return cast("Node", node.args[0])
    return node


def _distinct(
    graph: Graph, leaves: dict[Node, str], owners: dict[Node, str], taken: set[str]
) -> dict[Node, str]:
    names: dict[Node, str] = {}
    counts: dict[str, int] = defaultdict(int)
    for node in calls(graph):
        if node in leaves:
            names[node] = leaves[node]
            continue
        word = getattr(node.target, "__name__", str(node.target)).partition(".")[0].strip("_")
        name = f"{owners[node]}.{word}" if owners[node] else word
        while f"{name}#{counts[name]}" in taken:
            counts[name] += 1
        names[node] = f"{name}#{counts[name]}"
        counts[name] += 1
    return names


def silent_modules(
    model: UserModel,
    known: Collection[str],
    values: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
) -> dict[str, str]:
    """Return the operators whose values modules hand on that left no node: dropout, identity.

    Parameters
    ----------
    model
        Is run once, with hooks that are removed again.
    known
        Modules that need no search.
    values
        Of the program's operators, in execution order, for the same inputs.
    inputs
        Not the example: values that differ between operators tell them apart.
    """
    seen: dict[str, Tensor] = {}
    counts: dict[str, int] = defaultdict(int)

    def hook_of(path: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, received: object, output: object) -> None:
            name = f"{path}#{counts[path]}" if counts[path] else path
            counts[path] += 1
            if name not in known and isinstance(output, torch.Tensor):
                seen[name] = output.clone()

        return hook

    modules = {path: module for path, module in model.module.named_modules() if path}
    handles = [module.register_forward_hook(hook_of(path)) for path, module in modules.items()]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    found = {path: _holder(output, values) for path, output in seen.items()}
    return {path: name for path, name in found.items() if name is not None}


def _holder(output: Tensor, values: Mapping[str, Tensor]) -> str | None:
    """Return the first operator that has the value; folding may have rounded it otherwise."""
    scale = float(output.abs().max()) if output.numel() else 0.0
    for name, value in values.items():
        is_comparable = value.shape == output.shape and value.dtype == output.dtype
        if is_comparable and torch.allclose(value, output, rtol=0.0, atol=1e-5 * scale):
            return name
    return None
