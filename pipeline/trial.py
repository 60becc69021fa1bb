"""Explainers tried on the example: what only shows when they run is refused before a run begins."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from explainers import Attribution, Scan, explaining
from pipeline import sizing
from pipeline.errors import PlanError
from pipeline.fit import refusal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from explainers import Explainer, Network, Samples, Target, Trace
    from pipeline.config import RunConfig

MOST_PASSES = 8.0
"""Passes per sample of what is tried: with two rows, less than finding the batch size takes."""

_COUNTS = ("n_steps", "n_samples")
"""Fields that multiply passes; two of each find the same mistakes as fifty."""


def check_attributions(
    config: RunConfig,
    found: Mapping[str, Explainer],
    trace: Trace,
    targets: Sequence[Target],
    waiting: Collection[str],
) -> None:
    """Refuse attributions that cannot explain the example, each at its entry in the run file.

    Those in `waiting` need the result of a scan and are not tried, nor is what takes more than
    `MOST_PASSES` even in few steps.

    Raises
    ------
    PlanError
        If one raises anything, or gives maps of another form than it says.
    """
    for name, explainer in found.items():
        tried = _small(explainer) if isinstance(explainer, Attribution) else None
        if tried is None or name in waiting:
            continue
        with _refusing(config, name, trace.network):
            for target in targets:
                _try(tried, trace.named(name), target)


def state_bytes(
    config: RunConfig, found: Mapping[str, Explainer], trace: Trace, samples: Samples
) -> int:
    """Return the size of one shard's states, by folding the example.

    Raises
    ------
    PlanError
        If a scan cannot.
    """
    total = 0
    for name, explainer in found.items():
        if isinstance(explainer, Scan):
            with _refusing(config, name, trace.network):
                total += sizing.state_bytes(explainer, trace.named(name), samples)
    return total


@contextlib.contextmanager
def _refusing(config: RunConfig, name: str, network: Network) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        # the workers' memory decides, and they halve batches
        return
    except PlanError:
        raise
    except Exception as error:  # explainers are anybody's code
        raise refusal(config, name, error, network) from error


def _small(attribution: Attribution) -> Attribution | None:
    """Return an attribution with few steps; None if it takes many passes all the same."""
    fields = {field.name for field in dataclasses.fields(attribution)}
    few: dict[str, Any] = {name: 2 for name in _COUNTS if name in fields}
    if _passes(attribution) > MOST_PASSES and few:
        try:
            attribution = dataclasses.replace(attribution, **few)
        except (ValueError, TypeError):
            return None
    return attribution if _passes(attribution) <= MOST_PASSES else None


def _passes(attribution: Attribution) -> float:
    cost = attribution.cost
    return cost.forward + cost.backward + cost.steps


def _try(attribution: Attribution, trace: Trace, target: Target) -> None:
    found = explaining.explained(attribution, trace, target)
    forms = explaining.form(attribution, trace.network)
    for part, relevance in explaining.by_part(found.relevance, trace.network).items():
        wanted = forms[part][1]
        if tuple(relevance.shape[1:]) != tuple(wanted):
            raise ValueError(
                f"{attribution.name} gives a map of shape {tuple(relevance.shape)}, expected "
                f"(batch, {', '.join(map(str, wanted))})"
            )
