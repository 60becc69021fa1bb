"""From a method, a batch and a target to a map: the one place where they meet.

A network is cut where the target's layer ends and where the explained layer begins, so that a
method sees one tensor of floating-point inputs and a target among outputs, whatever it is that is
explained.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from explainers.base import Attribution, Explained
from explainers.cut import Cut, begun, ended
from explainers.inputs.opaque import refuse_tokens
from explainers.inputs.sources import is_one_tensor, sources, start_points
from explainers.reference import at_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers.base import Cost, Explainer
    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace

Form = tuple[tuple[str, ...], tuple[int, ...]]
"""Names and sizes of the axes of a map after ``sample``."""


def explained(attribution: Attribution, trace: Trace, target: Target) -> Explained:
    """Return what a method finds for a batch, in the form of what is explained.

    Parameters
    ----------
    attribution
        Explains its `source_layer`, or the inputs.
    trace
        Of the whole network.
    target
        Of the outputs, or a unit of a layer.

    Returns
    -------
    Explained
        Its relevance is shaped as the layer's value, or as the inputs: of several, a tuple or
        dict as they are, None for what is additional; one number for each token.
    """
    part, of = trace.ending_at(target)
    layer = attribution.source_layer
    begun_ = at_inputs(part) if layer is None else part.starting_at(layer)
    found = attribution.relevance(begun_, of)
    whole = found if isinstance(found, Explained) else Explained(found)
    if layer is not None:
        return whole
    maps = _by_part(attribution, whole.relevance, trace, begun_)
    arrays: dict[str, Tensor] = {}
    # what a method names the axes of is no map, though it may happen to be as large
    named = attribution.axes(attribution.dims(tuple(whole.relevance.shape[1:])))
    for name, array in whole.arrays.items():
        is_map = name not in named and array.shape == whole.relevance.shape
        if is_map and not is_one_tensor(trace.network):
            parts = _by_part(attribution, array, trace, begun_)
            arrays |= {f"{name}.{part}" if part else name: one for part, one in parts.items()}
        else:
            arrays[name] = array
    relevance: Any = trace.network.structure.filled(maps)
    return replace(whole, relevance=relevance, arrays=arrays)


def _by_part(
    attribution: Attribution, relevance: Tensor, trace: Trace, begun_: Trace
) -> dict[str, Tensor]:
    """Return the relevance of each input that is explained, by its name."""
    root, cut = trace.network, begun_.network
    if is_one_tensor(root) or not isinstance(cut, Cut):
        return {root.structure.names[0]: relevance}
    sizes = (len(begun_.inputs), *attribution.leading.values())
    if relevance.shape != (*sizes, *begun_.inputs.shape[1:]):
        raise NotImplementedError(
            f"{attribution.name} gives a map of shape {tuple(relevance.shape)} for packed inputs "
            f"{tuple(begun_.inputs.shape)}, which cannot be divided among them; "
            "it serves networks of one floating-point input"
        )
    values = cut.packing.unpack(relevance.flatten(0, len(sizes) - 1))
    found: dict[str, Tensor] = {}
    for source in sources(root):
        given = trace.parts[source.part].repeat_interleave(math.prod(sizes[1:]), 0)
        if not source.lookups:
            found[source.part] = values.get(source.operator, torch.zeros_like(given))
            continue
        of_tokens = relevance.new_zeros(given.shape)
        for lookup in source.lookups:
            if lookup.embedding.name in values:
                of_tokens = of_tokens + lookup.of_tokens(values[lookup.embedding.name], given)
        found[source.part] = of_tokens
    return {part: one.reshape(*sizes, *one.shape[1:]) for part, one in found.items()}


def by_part(relevance: Any, network: Network) -> dict[str, Tensor]:
    """Return the maps that `explained` found, by the names that `form` gives them."""
    if isinstance(relevance, torch.Tensor):
        return {"": relevance}
    names = network.structure.names
    held = relevance if isinstance(relevance, dict) else dict(zip(names, relevance, strict=True))
    found = {name: part for name, part in held.items() if part is not None}
    return {"": found[names[0]]} if len(names) == 1 else found


def check(explainer: Explainer, network: Network, target: Target | None = None) -> None:
    """Refuse a network, or a target, that an explainer cannot serve before any sample is read.

    Raises
    ------
    LookupError
        If a named layer does not exist.
    NotImplementedError
        If an operator has no rule in the tables that are required, or the network is opaque.
    ValueError
        If parameters, target and network do not fit.
    """
    if not isinstance(explainer, Attribution):
        explainer.check(network)
        return
    if target is not None:
        target.check(network)
    if explainer.source_layer is None and not explainer.only_replaces:
        refuse_tokens(explainer.name, network)
    explainer.check(seen_by(explainer, network, target))


def check_rows(attribution: Attribution, trace: Trace) -> None:
    """Refuse samples that an attribution cannot serve with these parameters.

    Raises
    ------
    ValueError
        If they do not fit.
    """
    layer = attribution.source_layer
    attribution.check_rows(at_inputs(trace) if layer is None else trace.starting_at(layer))


def cost(explainer: Explainer, network: Network) -> Cost:
    """Return the passes per sample of an explainer; NaN where they depend on the sample."""
    if isinstance(explainer, Attribution):
        network = seen_by(explainer, network)
    return explainer.cost_on(network)


def seen_by(attribution: Attribution, network: Network, target: Target | None = None) -> Network:
    """Return the network that a method gets to see."""
    if target is not None and target.layer is not None:
        network = ended(network, target.layer)
    if attribution.source_layer is not None:
        return begun(network, (attribution.source_layer,))
    return network if is_one_tensor(network) else begun(network, start_points(network))


def form(attribution: Attribution, network: Network) -> Mapping[str, Form]:
    """Return names and sizes of a map's axes, by the name of what it is of.

    The one map of a layer, or of a network of one tensor, has the name ``""``; of a network of
    several inputs each that is explained has one.
    """
    if attribution.source_layer is not None:
        return {"": _form(attribution, seen_by(attribution, network).input_shape)}
    found: dict[str, Form] = {}
    for source in sources(network):
        shape = network.input_shapes[source.part]
        of_part = _form(attribution, shape, _of_tokens(shape) if source.lookups else None)
        found["" if len(network.structure.names) == 1 else source.part] = of_part
    return found


def _form(
    attribution: Attribution, shape: tuple[int, ...], dims: tuple[str, ...] | None = None
) -> Form:
    dims = attribution.dims(shape) if dims is None else dims
    leading = attribution.leading
    # a map with fewer axes than what is explained has its last ones
    return (*leading, *dims), (*leading.values(), *shape[len(shape) - len(dims) :])


def _of_tokens(shape: tuple[int, ...]) -> tuple[str, ...]:
    return ("token",) if len(shape) == 1 else tuple(f"token_{axis}" for axis in range(len(shape)))
