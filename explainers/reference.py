"""The input that stands for absence, also where it is not the network's one tensor.

Several inputs have a baseline each. That of a token is the embedding of another token, or zero.
That of a layer is its value where the inputs are at their baseline, while what does not pass the
layer stays as the sample has it: Captum's convention for layers.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from explainers import baselines
from explainers.cut import Cut
from explainers.inputs.sources import Source, is_one_tensor, sources, start_points

if TYPE_CHECKING:
    from explainers.baselines import Draw, Statistics
    from explainers.inputs.points import Point
    from explainers.inputs.tokens import Lookup
    from explainers.network import Network
    from explainers.trace import Trace


DRAW = "baseline"
"""Purpose of the random numbers of baselines that are noise; of several inputs with their names."""


def of_trace(trace: Trace, spec: Any) -> Tensor:
    """Return a baseline that broadcasts against the inputs of a trace, ``(1 | batch, ...)``.

    Raises
    ------
    TypeError
        If it is nothing that a baseline can be.
    ValueError
        If it does not fit; see `baselines.resolve`.
    """
    network, parent = trace.network, trace.parent
    if not isinstance(network, Cut) or parent is None:
        own = of_part(spec, network, "")
        return baselines.resolve(own, trace.inputs, functools.partial(trace.noise, DRAW))
    # parts are made once, for whoever asks first; what is drawn is the asking explainer's
    parent = parent.named(trace.namespace)
    if not network.points:
        return of_trace(parent, spec)
    values = network.packing.unpack(trace.inputs)
    found = {
        point.name: _of_point(parent, point, spec, values[point.name]) for point in network.points
    }
    return network.packing.pack(found)


def check(spec: Any, network: Network, statistics: Statistics = None) -> None:
    """Refuse a baseline that does not fit a network, unless it has rows of its own.

    Parameters
    ----------
    spec
        See `Trace.baseline`.
    network
        What a method gets to see.
    statistics
        Of the data set; None too where a scan is still to find them.

    Raises
    ------
    TypeError
        If it is nothing that a baseline can be.
    ValueError
        If it does not fit.
    """
    if statistics is not None:
        spec = baselines.settled(spec, statistics)
    root = network.root
    for source in sources(root):
        own = of_part(spec, root, source.part)
        if isinstance(own, Tensor) and statistics is None:
            continue
        shape = root.input_shapes[source.part]
        if source.lookups:
            for lookup in source.lookups:
                _of_tokens(own, lookup, shape, torch.empty(0))
        elif baselines.is_data_mean(own) and len(root.structure.names) > 1:
            baselines.resolve(own, torch.zeros(1, *shape))
        else:
            baselines.check(own, shape)


def is_same(one: Any, other: Any) -> bool:
    """Whether two baselines are known to be equal; tensors are not compared."""
    if baselines.is_made(one) and baselines.is_made(other):
        return bool(one == other)
    are_plain = isinstance(one, float | int | str) and isinstance(other, float | int | str)
    return one is other or (are_plain and one == other)


def _of_point(parent: Trace, point: Point, spec: Any, value: Tensor) -> Tensor:
    root = parent.network.root
    for source in sources(root):
        if point.layer in source.points:
            own = of_part(spec, root, source.part)
            draw = functools.partial(parent.noise, f"{DRAW}.{source.part}" if source.part else DRAW)
            return _of_source(source, point, own, root, value, draw)
    if isinstance(spec, Tensor) and point.shape in (tuple(spec.shape), tuple(spec.shape[1:])):
        of_inputs = [*root.input_shapes.values()]
        if not any(shape in (tuple(spec.shape), tuple(spec.shape[1:])) for shape in of_inputs):
            return baselines.resolve(spec, value)
    home = at_inputs(parent)
    return home.reference(spec).layer(point.layer)


def at_inputs(trace: Trace) -> Trace:
    """Return a trace whose input is one tensor: of the inputs, or of their embeddings."""
    network = trace.network
    is_begun = isinstance(network, Cut) and network.is_begun
    if is_begun or is_one_tensor(network):
        return trace
    return trace.starting_at(start_points(network))


def _of_source(
    source: Source, point: Point, own: Any, root: Network, value: Tensor, draw: Draw
) -> Tensor:
    for lookup in source.lookups:
        if lookup.embedding.name == point.layer:
            return _of_tokens(own, lookup, root.input_shapes[source.part], value)
    return baselines.resolve(own, value, draw)


def _of_tokens(own: Any, lookup: Lookup, shape: tuple[int, ...], value: Tensor) -> Tensor:
    """Return the embedding of tokens, zeros for None."""
    weight = lookup.embedding.weight
    if own is None:
        return value.new_zeros(1, *value.shape[1:])
    if isinstance(own, Tensor) and own.is_floating_point() and own.ndim:
        return baselines.resolve(own, value)
    if isinstance(own, str | Mapping):
        raise TypeError(f"got baseline {own!r} for tokens, expected the index of a token, or None")
    tokens = torch.as_tensor(own, device=weight.device)
    if bool((tokens != tokens.long()).any()):
        raise ValueError(f"got baseline {own!r} for tokens, expected the index of a token, or None")
    tokens = tokens.long()
    if tokens.ndim == 0:
        tokens = tokens.expand(1, *shape)
    tokens = tokens[None] if tuple(tokens.shape) == shape else tokens
    if tuple(tokens.shape[1:]) != shape:
        raise ValueError(
            f"baseline has shape {tuple(tokens.shape)}, the tokens (batch, "
            f"{', '.join(map(str, shape))}); give one token for all, or one for each place"
        )
    indices = lookup.indices(tokens)
    if bool(((indices < 0) | (indices >= len(weight))).any()):
        raise ValueError(
            f"got baseline {own!r} for tokens, expected indices from 0 to {len(weight) - 1}"
        )
    return lookup.embedding.run(indices)


def of_part(spec: Any, root: Network, part: str) -> Any:
    """Return what a baseline, or a row of a background, says about one input of a whole network.

    Raises
    ------
    ValueError
        If it names inputs that there are not, or has not one for each.
    """
    names = root.structure.names
    if baselines.is_made(spec) and not {*spec} <= {*names}:
        return spec
    if isinstance(spec, dict):
        unknown = set(spec) - set(names)
        if unknown and len(names) > 1:
            raise ValueError(
                f"got baselines for {', '.join(map(repr, sorted(unknown)))}, the inputs are "
                f"{', '.join(map(repr, names))}"
            )
        return spec.get(part) if len(names) > 1 else next(iter(spec.values()), None)
    if len(names) == 1:
        is_held = isinstance(spec, tuple | list) and len(spec) == 1 and isinstance(spec[0], Tensor)
        return spec[0] if is_held else spec
    if isinstance(spec, tuple | list) and len(spec) == len(names):
        return spec[names.index(part)]
    if isinstance(spec, Tensor) and [source.part for source in sources(root)] == [part]:
        return spec
    if isinstance(spec, tuple | list) or (isinstance(spec, Tensor) and spec.ndim):
        raise ValueError(
            f"got one baseline for {len(names)} inputs, expected None, a number for all, or a "
            "tuple or dict with one for each input"
        )
    return spec
