"""Which layers have no interventions, found before any are carried out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.causal.interventions.change import places_of
from explainers.causal.interventions.rows import has_rows, place_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from explainers.causal.structure import WeightedLayer
    from explainers.network import Network


def refusals(network: Network, layers: Iterable[WeightedLayer]) -> dict[str, str]:
    """Return the layers on which there are no interventions, with the reason of each.

    Parameters
    ----------
    network
        A program.
    layers
        Of its structure.

    Returns
    -------
    dict
        Name to reason; empty where there are interventions on all.
    """
    unplaced = _unplaced(network)
    found: dict[str, str] = {}
    for layer in layers:
        try:
            places_of(network, layer)
        except NotImplementedError as refusal:
            found[layer.name] = str(refusal)
            continue
        beside = unplaced and _read_beside(network, layer.operator.name, unplaced)
        if beside:
            found[layer.name] = unplaced[beside]
    return found


def _unplaced(network: Network) -> dict[str, str]:
    """Return the values whose rows do not lie along one axis, with what is to be said of them."""
    found: dict[str, str] = {}
    for op in network.operators:
        if has_rows(network, op):
            try:
                place_of(network, op)
            except NotImplementedError as refusal:
                found[op.name] = str(refusal)
    return found


def _read_beside(network: Network, name: str, unplaced: Mapping[str, str]) -> str | None:
    """Return one of some values whose rows are taken for interventions on a layer, if any is.

    What depends on the layer is computed anew and only asked for its sizes.
    """
    behind = {name}
    for op in network.operators:
        if op.sources & behind:
            behind.add(op.name)
            for read in op.inputs:
                if read in unplaced and not (read in behind and read in op.sources):
                    return read
    return None
