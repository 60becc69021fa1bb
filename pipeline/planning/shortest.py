"""The other end of data whose samples differ in length: what fits the longest must fit these."""

from __future__ import annotations

import operator
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

import torch

from explainers import Samples
from explainers.resizing import MOST_KEPT, resized
from pipeline.errors import PlanError, written_at
from pipeline.examples import find_shortest
from pipeline.inputs import mapped
from pipeline.lengths import Lengths
from pipeline.planning import fit

if TYPE_CHECKING:
    from collections.abc import Callable

    from explainers import Network
    from pipeline.config import RunConfig
    from pipeline.data import Source
    from pipeline.inputs import Inputs
    from pipeline.manifest import Manifest

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Shortest:
    """Two of the shortest samples, with the network that takes them."""

    lengths: Lengths
    """Of all samples."""
    network: Network
    example: Inputs
    samples: Samples
    seconds: float
    """That reading a network takes: the mean of the longest and the shortest."""
    n_outside: int
    """Samples that are shorter or longer than what the model takes."""

    @classmethod
    def of(
        cls,
        config: RunConfig,
        source: Source,
        manifest: Manifest,
        network: Network,
        longest: tuple[Inputs, list[int], float],
    ) -> Self | None:
        """Return the shortest samples; None where samples do not say how long they are.

        Parameters
        ----------
        config, source, manifest
            What was asked for, and of which samples.
        network
            For the longest.
        longest
            Two of these, their indices, and the seconds that reading the network took.

        Raises
        ------
        PlanError
            If samples differ otherwise than in length, or the model does not take the shortest.
        """
        if not manifest.has_lengths:
            return None
        example, indices = find_shortest(source, manifest, network.module)
        found = [
            (mapped(operator.itemgetter(0), inputs), int(manifest.lengths[rows[0]]))
            for inputs, rows in (longest[:2], (example, indices))
        ]
        with written_at(config.where("data")):
            lengths = Lengths.of(manifest.lengths.tolist(), found)
        fit.count_classes(network.module, example, config.where("model"))
        other, seconds = timed(_read, network, example, config.where("model"))
        mean = (longest[2] + seconds) / 2
        n_outside = sum(bool(n and lengths.misfit(n)) for n in manifest.lengths.tolist())
        return cls(lengths, other, example, who(manifest, indices), mean, n_outside)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the plan should know."""
        known = self.lengths.known
        taken = " to ".join(str(each) for each in dict.fromkeys((known[0], known[-1])))
        outside = (
            f"{self.n_outside} samples do not have {taken} tokens, which is what "
            "the model takes: they fail, each by itself"
        )
        reading = (
            f"samples have {len(known)} lengths, from {known[0]} to {known[-1]} tokens: a worker "
            f"reads the model anew for each that it meets and keeps the last {MOST_KEPT}, which "
            f"takes it about {len(known) * self.seconds:.2g} s for all; batches hold one length, "
            "and costs are those of the longest"
        )
        said = ((reading, len(known) > 1), (outside, self.n_outside > 0))
        return tuple(text for text, is_so in said if is_so)


def who(manifest: Manifest, indices: list[int]) -> Samples:
    """Return who samples are."""
    return Samples(torch.tensor(indices), torch.from_numpy(manifest.labels[indices].copy()))


def timed(make: Callable[P, T], *args: P.args, **named: P.kwargs) -> tuple[T, float]:
    """Return what a function makes, and the seconds that it took."""
    started = time.perf_counter()
    made = make(*args, **named)
    return made, time.perf_counter() - started


def _read(network: Network, example: Inputs, where: str) -> Network:
    """Return a network for inputs of another size, of the same module.

    Raises
    ------
    PlanError
        If the model cannot be read so.
    """
    try:
        return resized(network, example)
    except (ValueError, TypeError, RuntimeError, LookupError) as error:
        raise PlanError(
            f"{where}: the model cannot be explained: {error}",
            fix="let the model take every length that the data has, or cut the data",
            page="model-does-not-take-data",
        ) from error
