"""A few samples of the data set, drawn at random, that stand for what is usual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers import numeric, register
from explainers.base import Cost, Scan
from explainers.sampling.counted import numbered

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.base import Result, Samples, State
    from explainers.trace import Trace


INPUTS = "inputs"
"""Key of the samples in a state and a result."""


@register("background")
@dataclass(frozen=True)
class Background(Scan):
    """Inputs of `n_samples` samples drawn without replacement, for expectations over baselines.

    Every sample gets a pseudo-random number from the run's seed and its index, and those with the
    smallest numbers are kept (bottom-k sampling, Cohen and Kaplan 2007,
    doi:10.1145/1281100.1281133). So the draw depends on neither shards, batches nor their order,
    and a smaller `n_samples` gives the first rows of a larger one. The result has ``inputs``
    ``(n, ...)``, as the network takes them, and ``sample`` ``(n,)``, their indices; fewer than
    `n_samples` where the data set has fewer. Several inputs are a mapping by their names, which of
    a tuple are ``"0"``, ``"1"``, and so on.

    A state holds the same beside ``rank``, the numbers, in ascending order, with one of several
    inputs as ``inputs.<name>``; it has no inputs before there is a sample.
    """

    n_samples: int = 16
    """How many are kept."""

    def __post_init__(self) -> None:
        numeric.check_whole("n_samples", self.n_samples)

    @property
    def cost(self) -> Cost:
        """Nothing: the inputs are there already."""
        return Cost()

    def init(self) -> State:
        """Return the state of no samples."""
        return {name: torch.zeros(0, dtype=torch.int64) for name in ("rank", "sample")}

    def update(self, state: State, trace: Trace, samples: Samples) -> State:
        """Return the state with one batch added."""
        index = samples.index.cpu()
        rank = _ranks(index, trace.seed)
        kept = rank.argsort()[: self.n_samples]
        if len(kept) == 0:
            return state
        drawn = {"rank": rank[kept], "sample": index[kept]}
        parts = trace.parts
        for name, part in parts.items():
            key = INPUTS if len(parts) == 1 else f"{INPUTS}.{name}"
            drawn[key] = part.detach()[kept.to(part.device)].cpu()
        return self.merge(state, drawn)

    def merge(self, left: State, right: State) -> State:
        """Return the samples of both parts with the smallest numbers."""
        if not len(left["rank"]) or not len(right["rank"]):
            return dict(left if len(left["rank"]) else right)
        kept = torch.cat([left["rank"], right["rank"]]).argsort()[: self.n_samples]
        return {name: torch.cat([left[name], right[name]])[kept] for name in left}

    def finalise(self, state: State) -> Result:
        """Return the samples; of none, no rows."""
        prefix = f"{INPUTS}."
        named = {key.removeprefix(prefix): part for key, part in state.items() if prefix in key}
        return {INPUTS: named or state.get(INPUTS, torch.zeros(0)), "sample": state["sample"]}


def _ranks(index: Tensor, seed: int) -> Tensor:
    """Return a pseudo-random int64 for each index, different ones for different indices."""
    return numbered(index, str(seed))
