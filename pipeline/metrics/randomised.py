"""Metrics that explain networks whose layers have random weights: what they have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from explainers import Trace, numeric
from explainers.randomised import Randomisation, check_layers, randomised
from pipeline.metrics import similarity
from pipeline.metrics.again import ExplainingAgain, State
from pipeline.metrics.metric import Curve, Direction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from explainers import Network
    from explainers.randomised import Order, Step
    from explainers.targets import Target
    from pipeline.metrics.metric import Case


@dataclass(frozen=True)
class InRandomised(ExplainingAgain):
    """A score of what becomes of maps when weights are random.

    The random weights follow from the seed and the path of the layer: explainers, metrics, batches
    and workers see the same networks, which are made once per worker. What a network is asked for
    stays what it was of the trained one, sample by sample.
    """

    seed: int | None = None
    """Seeds the random weights; by default the run's seed."""
    compat: Literal["quantus"] | None = None
    """``quantus``: layers are all modules that have a method ``reset_parameters``, in order of
    registration (``top_down``: in reverse), each drawn from ``seed + 1`` (42 + 1 without a seed);
    each value of an image is a feature."""

    family: ClassVar[str] = "randomisation"

    def check(self, network: Network | None, shape: tuple[int, ...], target: Target) -> None:
        """Refuse a network without the layers that are to be random."""
        if network is not None:
            check_layers(network, Randomisation(layers=self._patterns, compat=self.compat))

    def randomisation(self, trace: Trace) -> Randomisation:
        """Return which layers are randomised, in which order."""
        seed = self.seed
        if seed is None:
            seed = trace.seed if self.compat is None else 42
        return Randomisation(seed=seed, compat=self.compat)

    @property
    def _patterns(self) -> tuple[str, ...]:
        """Paths of layers and patterns of them; all layers if empty."""
        return ()

    def steps(self, case: Case) -> tuple[Step, ...]:
        """Return the networks, from the first layer that is random to all."""
        trace = case.network_trace()
        return randomised(trace.network, self.randomisation(trace))

    def maps(self, case: Case, relevance: Tensor) -> Tensor:
        """Return maps as they are compared; see `similarity.maps`."""
        inputs = case.network_trace().inputs
        return similarity.maps(relevance, inputs, by_value=self.compat is not None)


@dataclass(frozen=True)
class AlongLayers(InRandomised):
    """A curve over layers, of how alike maps of the trained and the randomised network are."""

    order: Order = "top_down"
    """``top_down``: layers become random from the output on, and stay so; ``bottom_up``: from the
    input on; ``independent``: each alone."""
    layers: Literal["auto", "all"] | tuple[str, ...] = "auto"
    """``auto``: all, neighbouring ones together so that there are no more than `n_steps` networks;
    ``all``: a network for each layer; or paths of modules and patterns of them (``*conv*``), a
    network for each, the other layers stay as they are."""
    n_steps: int = 8
    """Most networks where `layers` is ``auto``; the last is random in all layers. Each costs an
    explanation of every sample by every explainer."""
    similarity: similarity.Similarity = "spearman"
    """``spearman``: rank correlation; ``pearson``: correlation; ``ssim``: structural similarity of
    maps over their greatest magnitude."""
    absolute: bool = True
    """Whether maps are compared by magnitude, without signs."""

    headline: ClassVar[str] = "average"
    returned: ClassVar[str] = "similarity"
    directions: ClassVar[Mapping[str, Direction]] = {"last": "lower"}

    def __post_init__(self) -> None:
        """Refuse to take no step, and to randomise nothing."""
        numeric.check_whole("n_steps", self.n_steps)
        if self.layers == ():
            raise ValueError("got no layers, expected 'auto', 'all' or patterns of their paths")

    @property
    def direction(self) -> Direction:
        """Maps that change with the weights are better."""
        return "lower"

    def curves(self, shape: tuple[int, ...]) -> tuple[Curve, ...]:
        """Return the curve over the steps, for each number of steps that there can be."""
        if self.layers != "auto" or self.compat is not None:
            return ()
        return tuple(self._curve(n_steps) for n_steps in range(1, self.n_steps + 1))

    def _curve(self, n_steps: int) -> Curve:
        which = {"top_down": "from the output", "bottom_up": "from the input"}
        return Curve(
            "similarity",
            tuple(float(step) for step in range(1, n_steps + 1)),
            f"steps of random layers, {which.get(self.order, 'each alone')}",
            f"{self.similarity} with the map of the trained network",
            "average",
            "lower",
            bounds=(-1.0, 1.0),
        )

    def randomisation(self, trace: Trace) -> Randomisation:
        """Return which layers are randomised, in which order."""
        how = super().randomisation(trace)
        is_bounded = self.layers == "auto" and self.compat is None
        return Randomisation(
            order=self.order,
            layers=self._patterns,
            n_steps=self.n_steps if is_bounded else None,
            seed=how.seed,
            compat=how.compat,
        )

    @property
    def _patterns(self) -> tuple[str, ...]:
        return () if isinstance(self.layers, str) else self.layers

    def prepared(self, case: Case, relevance: Tensor) -> Tensor:
        """Return what is compared of maps."""
        maps = self.maps(case, relevance)
        return similarity.prepared(self.similarity, maps.abs() if self.absolute else maps)

    def with_step(self, state: State, again: Tensor, known: Tensor) -> State:
        """Return the state after a step of the curve.

        Parameters
        ----------
        state
            ``trained``, what is compared of the trained network's maps; ``similarity``, ``(batch,
            steps)``, as far as it is known.
        again
            What is compared of the maps of the next network.
        known
            Which samples have both maps, and one of the trained network that says something,
            ``(batch,)``.
        """
        found = similarity.alike(self.similarity, state["trained"], again)
        found = found.where(known, torch.nan)[:, None]
        return {**state, "similarity": torch.cat([state["similarity"], found], dim=1)}

    def concluded(self, case: Case, relevance: Tensor, state: State) -> dict[str, Tensor]:
        """Return the curve, its mean, and its end, float64."""
        curve = state["similarity"]
        return {"similarity": curve, "average": curve.mean(dim=1), "last": curve[:, -1]}


def trace_in(trace: Trace, network: Network) -> Trace:
    """Return the trace of the same samples in another network of the same inputs."""
    return Trace(
        network,
        trace.inputs,
        samples=trace.samples,
        seed=trace.seed,
        namespace=trace.namespace,
        for_gradients=trace.for_gradients,
    )


def finite(relevance: Tensor) -> Tensor:
    """Return which maps have only finite values, ``(batch,)``."""
    return relevance.flatten(1).isfinite().all(dim=1)
