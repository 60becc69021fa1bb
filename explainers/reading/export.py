"""The step from a module to a functional ATen graph, or to the reason why there is none."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.export import Dim, ShapesCollection, default_decompositions, export

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.fx import Graph, Node

    from explainers.reading.user_model import UserModel

# torch.export keeps global state while it runs.
_lock = threading.Lock()

# Any batch size a caller could mean; export needs a bound, and 1 has to be inside.
_LARGEST_BATCH = 65536


class UnreadableError(ValueError):
    """The model cannot be read as a program; the message says why."""


@dataclass(frozen=True)
class Exported:
    """A functional graph with what its placeholders stand for."""

    graph: Graph
    statics: dict[str, Tensor]
    """Placeholder name to parameter, buffer or lifted constant."""
    paths: dict[str, str]
    """Placeholder name to the tensor's name in the model."""
    input_names: tuple[str, ...]
    """Placeholders of the network's inputs, in the order of its parts."""
    output_name: str
    """Node that holds the logits."""


def exported(model: UserModel, example: Sequence[Tensor], position: int = 0) -> Exported:
    """Return the model's functional graph for any batch size.

    Parameters
    ----------
    model
        In eval mode; its tensors are shared with the graph.
    example
        At least two rows of each input: sizes 0 and 1 would be taken for fixed.
    position
        Of the logits among the outputs, where the model has several.

    Raises
    ------
    UnreadableError
        If neither way of exporting works, or the graph is not a function of the input alone.
    """
    first = ""
    for is_strict in (False, True):
        try:
            return _checked(_exported(model, example, is_strict), position)
        except UnreadableError:
            raise
        except Exception as error:  # torch.export documents no common base for what it raises
            first = first or _summary(error)
    raise UnreadableError(f"torch.export failed: {first}")


def _exported(model: UserModel, example: Sequence[Tensor], is_strict: bool) -> ExportedProgram:
    batch = Dim("batch", min=1, max=_LARGEST_BATCH)
    shapes = ShapesCollection()  # type: ignore[no-untyped-call]
    for part in example:
        shapes[part] = {0: batch}
    positional, named = model.arguments(example)
    with _lock, _silenced(), torch.no_grad():
        program = export(model.module, positional, named, dynamic_shapes=shapes, strict=is_strict)
        functional: ExportedProgram = program.run_decompositions(_written_out(program))
        return functional


def _written_out(program: ExportedProgram) -> dict[Any, Any]:
    """Return how to write out what has no operator of its own: Einstein's sums, as products."""
    einsum = torch.ops.aten.einsum.default
    if not any(node.target is einsum for node in program.graph.nodes):
        return {}
    return {einsum: default_decompositions()[einsum]}


def _checked(program: ExportedProgram, position: int) -> Exported:
    signature = program.graph_signature
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        changed = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
        raise UnreadableError(f"the forward pass changes {changed[0]!r}")
    paths = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    held = {**program.constants, **program.state_dict}
    missing = [path for path in paths.values() if not isinstance(held.get(path), torch.Tensor)]
    if missing:
        raise UnreadableError(f"the graph refers to {missing[0]!r}, which is not a tensor")
    return Exported(
        program.graph,
        {name: held[path].detach() for name, path in paths.items()},
        dict(paths),
        tuple(str(name) for name in signature.user_inputs),
        str(signature.user_outputs[position]),
    )


def calls(graph: Graph) -> Iterator[Node]:
    """Yield the nodes that compute something, in execution order."""
    return (node for node in graph.nodes if node.op == "call_function")


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keep torch's warnings, log records and printed graphs from the user; the reason is enough."""
    handlers = list(logging.getLogger("torch").handlers)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for handler in handlers:
            handler.addFilter(_nothing)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False


def _summary(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0][:300] if lines else "no message"
    return f"{type(error).__name__}: {text}"
