"""A network for inputs of other sizes, such as longer sentences: the same module, read again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

from explainers.network import Network
from explainers.passing import passed

if TYPE_CHECKING:
    from explainers.inputs.structure import Inputs

MOST_KEPT = 64
"""Networks that are kept of one module. A program holds no tensors but the module's own (folded
norms and constants apart), so this bounds the memory of what is computed of them."""

_Kept = OrderedDict[tuple[tuple[int, ...], ...], Network]


def resized(network: Network, inputs: Inputs) -> Network:
    """Return the network that takes inputs of these sizes.

    A program is that of one size: a recurrence has so many steps, a table of positions so many
    rows. The last `MOST_KEPT` networks that were asked for are kept.

    Parameters
    ----------
    network
        Of a whole model, for inputs of one size.
    inputs
        One row or more, of other sizes; held as those of the network, of their types.

    Returns
    -------
    Network
        The network itself where sizes are its own; else one of the same module, which is not
        copied.

    Raises
    ------
    TypeError
        If the inputs are not held as those of the network.
    ValueError
        If the model does not take them, or can be read at one size and not at the other.
    """
    parts = network.structure.parts(inputs)
    shapes = tuple(tuple(part.shape[1:]) for part in parts)
    if shapes == tuple(network.input_shapes.values()):
        return network
    kept: _Kept = network._cuts.setdefault("resized", OrderedDict())
    if shapes not in kept:
        made = Network(network._model, network.structure.filled(parts))
        if made.is_program != network.is_program:
            raise ValueError(_told(network, made))
        # compiling takes longer than what it would save of one size among many
        kept[shapes] = passed(made, replace(network.passing, compiler=""))
        if len(kept) > MOST_KEPT:
            kept.popitem(last=False)
    kept.move_to_end(shapes)
    return kept[shapes]


def _told(*networks: Network) -> str:
    readable, other = sorted(networks, key=lambda each: not each.is_program)
    return (
        f"the model can be read as a program for inputs of {_sizes(readable)}, but not for those "
        f"of {_sizes(other)}: {other.reason}; leave samples of that size out"
    )


def _sizes(network: Network) -> str:
    shapes = network.input_shapes.items()
    return ", ".join(f"{name} {shape}".lstrip() for name, shape in shapes)
