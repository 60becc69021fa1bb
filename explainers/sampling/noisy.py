"""What smooth_grad, smooth_grad_squared and var_grad share: maps of noisy copies of a sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from explainers import catalogue, numeric
from explainers.base import Attribution, Cost, Explained
from explainers.sampling import chunks
from explainers.sampling.map_moments import MapMoments
from explainers.sampling.row_noise import RowNoise
from explainers.targets import Target

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from explainers.network import Network
    from explainers.sampling.map_moments import Change
    from explainers.trace import Trace


@dataclass(frozen=True)
class Noisy(Attribution):
    """Statistics of another method's maps at a sample plus Gaussian noise.

    The class that is explained is that of the sample itself in all copies. Noise depends on the
    run's seed and the sample alone, and the n-th copy's not on how many there are.
    """

    attribution: str = "gradient"
    """Whose maps they are: any attribution."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Of that attribution; `preset` among them."""
    n_samples: int = 5
    """Copies of each sample."""
    stdev: float = 1.0
    """Standard deviation of the noise, in units of the inputs."""
    noise_level: float | None = None
    """If set, the standard deviation is this times the sample's largest minus its smallest value,
    and `stdev` is not used."""
    is_last_clean: bool = False
    """Whether the last copy is the sample itself, without noise."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "innvestigate": {"n_samples": 64, "stdev": 1.0},
        "zennit": {"n_samples": 20, "noise_level": 0.1, "is_last_clean": True},
    }
    requires = frozenset({"gradient"})
    stochastic = True

    def __post_init__(self) -> None:
        numeric.check_whole("n_samples", self.n_samples)
        numeric.check_finite("stdev", self.stdev)
        if self.noise_level is not None:
            numeric.check_finite("noise_level", self.noise_level)
        # what is required depends on the method inside; labels, for example
        object.__setattr__(self, "requires", self.inner.requires)

    @cached_property
    def inner(self) -> Attribution:
        """The attribution whose maps they are.

        Raises
        ------
        LookupError
            If there is none of this name.
        TypeError
            If it is a scan, or has no such parameters.
        ValueError
            If it explains a layer.
        """
        made = catalogue.build(self.attribution, **self.parameters)
        if not isinstance(made, Attribution):
            raise TypeError(
                f"{self.name} averages maps, but {self.attribution!r} is a scan and has none; "
                "set attribution to one that has, such as gradient"
            )
        if made.source_layer is not None:
            raise ValueError(
                f"{self.name} got the layer {made.source_layer!r} among the parameters of "
                f"{self.attribution!r}; give it as layer of {self.name}: noise is added there"
            )
        return made

    @property
    def cost(self) -> Cost:
        """That of the method inside, for each copy, and a forward for the class."""
        return self._times(self.inner.cost)

    def cost_on(self, network: Network) -> Cost:
        """Return that of the method inside, for each copy, and a forward for the class."""
        return self._times(self.inner.cost_on(network))

    def _times(self, one: Cost) -> Cost:
        return Cost(
            1 + self.n_samples * one.forward,
            self.n_samples * one.backward,
            self.n_samples * one.steps,
        )

    def dims(self, input_shape: tuple[int, ...]) -> tuple[str, ...]:
        """Return the names that the method inside gives."""
        return self.inner.dims(input_shape)

    def check(self, network: Network) -> None:
        """Refuse what the method inside refuses."""
        self.inner.check(network)

    def check_rows(self, trace: Trace) -> None:
        """Refuse what the method inside refuses of samples."""
        self.inner.check_rows(trace)

    def spread(
        self, trace: Trace, target: Target, change: Change | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return statistics of the maps, each ``(batch, ...)``.

        Parameters
        ----------
        trace
            Of the samples.
        target
            What is explained.
        change
            Applied to every map before anything is summed.

        Returns
        -------
        The mean over all copies, their mean squared deviation from it, and the standard error of
        the mean: NaN where fewer than two copies are noisy.
        """
        n_noisy = self.n_samples - self.is_last_clean
        parts = []
        if n_noisy:
            rows = self._noisy_maps(trace, target, n_noisy)
            parts.append(MapMoments.joined([MapMoments.over(maps, change) for maps in rows]))
        if self.is_last_clean:
            parts.append(MapMoments.over([_map(self.inner, trace, target)[None]], change))
        total = parts[0].merged(parts[1]) if len(parts) == 2 else parts[0]
        # noise is in the first part; of a clean copy alone the error is NaN, as it should be
        error = parts[0].standard_error * (n_noisy / self.n_samples if n_noisy else 1)
        return total.mean, total.squares / self.n_samples, error

    def _noisy_maps(
        self, trace: Trace, target: Target, n_copies: int
    ) -> Iterator[Iterator[Tensor]]:
        """Yield, for each piece of the rows, its maps ``(copies, rows, ...)``, piece by piece."""
        weights = trace.cotangent(target)
        for rows in chunks.row_pieces(trace.inputs):
            yield self._maps_of_rows(trace, weights, rows, n_copies)

    def _maps_of_rows(
        self, trace: Trace, weights: Tensor, rows: slice, n_copies: int
    ) -> Iterator[Tensor]:
        inputs = trace.inputs[rows]
        here = torch.arange(len(trace.inputs), device=inputs.device)[rows]
        noise, scale = RowNoise(trace, rows), self._scale(inputs)
        for copies in self._pieces_of_copies(inputs, n_copies):
            n_here = copies.stop - copies.start
            points = (inputs + scale * noise.draw(n_here)).flatten(0, 1)
            every = here.repeat(n_here)
            noisy = trace.at(points, every)
            if self.inner.stochastic:
                # a copy has the sample's own generators: without this, all copies' would be equal
                noisy.namespace = f"{trace.namespace}.copy{copies.start}"
            maps = _map(self.inner, noisy, Target("weights", weights[every]))
            yield maps.view(n_here, len(inputs), *maps.shape[1:])

    def _pieces_of_copies(self, inputs: Tensor, n_copies: int) -> Iterator[slice]:
        if self.inner.stochastic:
            return chunks.pieces(n_copies, 1)
        return chunks.repeat_pieces(inputs, len(inputs), n_copies)

    def _scale(self, inputs: Tensor) -> Tensor | float:
        if self.noise_level is None:
            return self.stdev
        flat = inputs.flatten(1)
        extent = self.noise_level * (flat.amax(1) - flat.amin(1))
        return extent.view(-1, *[1] * (inputs.ndim - 1))


def _map(attribution: Attribution, trace: Trace, target: Target) -> Tensor:
    found = attribution.relevance(trace, target)
    return found.relevance if isinstance(found, Explained) else found
