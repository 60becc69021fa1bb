"""Explainers tried on the example: what only shows when they run is refused before a run begins."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from explainers import Attribution, Scan, explaining
from pipeline import sizing
from pipeline.brief import brief
from pipeline.errors import PlanError
from pipeline.fit import refusal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from explainers import Explainer, Network, Samples, Target, Trace
    from pipeline.config import RunConfig


def check_attributions(
    config: RunConfig,
    found: Mapping[str, Explainer],
    trace: Trace,
    targets: Sequence[Target],
    waiting: Collection[str],
) -> None:
    """Refuse attributions that cannot explain the example, each at its entry in the run file.

    Those in `waiting` need the result of a scan and are not tried, nor is what takes more than
    `brief.MOST_PASSES` in any form.

    Raises
    ------
    PlanError
        If one raises anything, or gives maps of another form than it says.
    """
    for name, explainer in found.items():
        if name in waiting or not isinstance(explainer, Attribution):
            continue
        tried = brief(explainer, trace.network)
        if tried is None:
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
