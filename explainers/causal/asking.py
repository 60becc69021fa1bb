"""What is asked of a layer, and of a batch of rows in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from explainers.causal.interventions import Interventions, Outcome
from explainers.causal.subsampling import subsampled

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.causal.audit import Chosen
    from explainers.causal.folding import Batch
    from explainers.causal.structure import WeightedLayer


@dataclass(frozen=True, eq=False)
class Task:
    """What is asked of a layer."""

    effects: Tensor
    """The effects E of each class, bool ``(classes, channels)``; empty where it is not reached."""
    u: float
    """What weights are set to."""
    n_neurons: int
    """Of the layer."""
    screened: Chosen | None = None
    """What is verified of all neurons; None for all."""
    estimates: Tensor | None = None
    """Means of first-order effects, by which they were screened, ``(classes, neurons)``."""

    @property
    def reached(self) -> Tensor:
        """Whether the layer has effects, bool ``(classes,)``."""
        return self.effects.any(1)

    def tested(self, layer: WeightedLayer, most: int | None) -> Tensor:
        """Return which neurons of each class are tested, bool ``(classes, neurons)``.

        Parameters
        ----------
        layer
            In the network.
        most
            How many neurons are tested without the original's sub-sampling; None for no such.
        """
        reached = self.reached[:, None]
        if self.screened is not None:
            return self.screened.verified & reached
        if most is not None and self.n_neurons > most:
            return subsampled(layer, self.effects) & reached
        return reached.expand(-1, self.n_neurons)


@dataclass(frozen=True, eq=False)
class Asked:
    """Which neurons of a layer are intervened on for which rows of a batch."""

    batch: Batch
    layer: WeightedLayer
    task: Task
    tested: Tensor
    """Bool ``(rows, neurons)``, on the CPU."""

    def looked_at(self, *, is_compat: bool) -> Tensor:
        """Return which rows say anything, bool ``(rows,)``.

        By the original's rule, these are also rows of classes that the layer is asked about on
        which nothing is tested: the reference has them.
        """
        is_tested = self.tested.any(1)
        return is_tested | self.task.reached[self.batch.member] if is_compat else is_tested

    def outcome(self, u: float | None = None) -> Outcome:
        """Return what interventions do, ``(rows, neurons)``; zeros where none was asked for."""
        trace, u = self.batch.trace, self.task.u if u is None else u
        device, classes = trace.network.device, self.batch.classes
        effects = self.task.effects[self.batch.member].to(device)
        interventions = Interventions(trace.network, self.layer)
        if self.tested.all():
            return interventions.all(trace, effects, classes, u)
        rows, neurons = (each.to(device) for each in self.tested.nonzero(as_tuple=True))
        found = interventions.pairs(trace, rows, neurons, effects, classes, u)
        filled = [trace.output.new_zeros(self.tested.shape) for _ in range(2)]
        for values, of_pairs in zip(filled, (found.logit, found.divergence), strict=True):
            values[rows, neurons] = of_pairs
        return Outcome(*filled)
