"""From a method, a batch and a target to a map: the one place where they meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.base import Explained

if TYPE_CHECKING:
    from explainers.base import Attribution, Explainer
    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace


def explained(attribution: Attribution, trace: Trace, target: Target) -> Explained:
    """Return what a method finds for a batch, in the form of what is explained."""
    found = attribution.relevance(trace, target)
    return found if isinstance(found, Explained) else Explained(found)


def check(explainer: Explainer, network: Network) -> None:
    """Refuse a network that an explainer cannot serve, before any sample is read."""
    explainer.check(network)


def form(
    attribution: Attribution, network: Network
) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Return names and sizes of a map's axes after ``sample``, by the name of what it is for.

    The one map of a network of one input, or of a layer, has the name ``""``.
    """
    shape = tuple(network.input_shape)
    return {"": (attribution.dims(shape), shape)}
