"""Which of a model's inputs are explained, and by which values.

A floating-point input is explained by itself, an integer one by the embeddings that it chooses
rows of. Everything else (masks, lengths) is additional: it stays as it is and has no relevance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from explainers.inputs.opaque import numbered
from explainers.inputs.tokens import lookups
from explainers.operators import Input

if TYPE_CHECKING:
    from explainers.inputs.tokens import Lookup
    from explainers.network import Network


@dataclass(frozen=True)
class Source:
    """An input that is explained."""

    part: str
    """Its name in the structure of the inputs."""
    lookups: tuple[Lookup, ...] = ()
    """Embeddings of the tokens; none for a floating-point input."""
    operator: str = ""
    """Name of a floating-point input in the program; of an opaque network, the part."""

    @property
    def points(self) -> tuple[str, ...]:
        """Names of the operators whose values stand for it."""
        if not self.lookups:
            return (self.operator,)
        return tuple(lookup.embedding.name for lookup in self.lookups)


def sources(network: Network) -> tuple[Source, ...]:
    """Return the inputs of a whole network that are explained, in their order; found once."""
    root = network.root
    if "sources" not in root._cuts:
        root._cuts["sources"] = tuple(_found(root))
    known: tuple[Source, ...] = root._cuts["sources"]
    return known


def _found(root: Network) -> list[Source]:
    inputs = [op for op in root.operators if isinstance(op, Input)]
    known = lookups(root)
    found = []
    for position, (part, example) in enumerate(
        zip(root.structure.names, root._example, strict=True)
    ):
        name = inputs[position].name if inputs else part
        of_part = tuple(lookup for lookup in known if lookup.source.name == name)
        if example.is_floating_point():
            found.append(Source(part, operator=name))
        elif of_part:
            found.append(Source(part, of_part))
        elif not root.is_program:
            lookup = numbered(root, position)
            found += [] if lookup is None else [Source(part, (lookup,))]
    return found


def is_one_tensor(network: Network) -> bool:
    """Return whether a whole network has one input, of floating-point numbers."""
    root = network.root
    return len(root._example) == 1 and root._example[0].is_floating_point()


def start_points(network: Network) -> tuple[str, ...]:
    """Return the values that a network is explained by, where they are not its one input.

    Raises
    ------
    NotImplementedError
        If no input can be explained.
    """
    present = {op.name for op in network.operators} or set(network.structure.names)
    names = (name for source in sources(network) for name in source.points)
    found = tuple(name for name in dict.fromkeys(names) if name in present)
    if not found:
        why = "" if network.is_program else f" (the model is no program: {network.root.reason})"
        raise NotImplementedError(
            f"no input can be explained: expected one of floating-point numbers, or integers that "
            f"are the indices of a torch.nn.Embedding{why}; explain a layer, or give the model "
            "what the integers stand for"
        )
    return found
