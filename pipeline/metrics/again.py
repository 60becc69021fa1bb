"""Metrics that explain again: the same samples, in other circumstances.

All explainers explain the same variants, one variant after the other: what a forward pass through
noisy inputs or a randomised network finds is shared by all of them and then let go.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from explainers import Bound, Target, explaining
from pipeline.metrics.metric import Metric, Subject

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from explainers.trace import Trace
    from pipeline.metrics.metric import Case

State = dict[str, "Tensor"]
"""What is remembered of the variants so far, for one explainer."""


@dataclass(frozen=True, eq=False)
class Variant:
    """The samples of a batch in other circumstances."""

    trace: Trace
    """Other inputs, or the same ones in another network."""
    target: Target
    """What is explained of them."""
    rows: Tensor
    """The sample of the batch that each row of the trace belongs to, int64 ``(rows,)``."""
    key: Any = None
    """What the metric wants to remember of it, such as the number of a layer."""


@dataclass(frozen=True)
class ExplainingAgain(Metric):
    """A score of how maps change when what is explained changes."""

    requires: ClassVar[frozenset[str]] = frozenset({"network", "explainer"})

    @abstractmethod
    def variants(self, case: Case) -> Iterator[Variant]:
        """Yield what is explained again, the same for all explainers.

        A variant is let go before the next one is asked for.
        """

    @abstractmethod
    def begun(self, case: Case, relevance: Tensor) -> State:
        """Return what is remembered before the first variant."""

    @abstractmethod
    def compared(
        self, case: Case, relevance: Tensor, state: State, variant: Variant, again: Tensor
    ) -> State:
        """Return what is remembered after a variant.

        Parameters
        ----------
        case
            As `prepare` returned it.
        relevance
            Maps of the batch itself, ``(batch, ...)``.
        state
            What was remembered before.
        variant
            What was explained again.
        again
            Its maps, ``(rows, ...)``.
        """

    @abstractmethod
    def concluded(self, case: Case, relevance: Tensor, state: State) -> dict[str, Tensor]:
        """Return the columns of `score` when all variants are done."""

    def score(self, case: Case, relevance: Tensor) -> dict[str, Tensor]:
        """Return one row per sample of a case that `prepare` has returned."""
        return self._driven(case, {"": Subject(relevance, case.explainer)})[""]

    def scores(self, case: Case, subjects: Mapping[str, Subject]) -> dict[str, dict[str, Tensor]]:
        """Return the columns of each explainer; every variant is made once."""
        return self._driven(self.prepare(case), subjects)

    def _driven(self, case: Case, subjects: Mapping[str, Subject]) -> dict[str, dict[str, Tensor]]:
        states = {name: self.begun(case, each.relevance) for name, each in subjects.items()}
        for variant in self.variants(case):
            for name, each in subjects.items():
                again = explained(each.explainer, variant.trace, variant.target, case)
                shape = (len(variant.rows), *each.relevance.shape[1:])
                if again.shape != shape:
                    raise ValueError(
                        f"got maps of shape {tuple(again.shape)} when explaining again, expected "
                        f"{shape} as before: pass the explainer that made the maps"
                    )
                again = again.to(each.relevance)
                states[name] = self.compared(case, each.relevance, states[name], variant, again)
            del variant  # its values, before those of the next are computed
        return {
            name: self.concluded(case, each.relevance, states[name])
            for name, each in subjects.items()
        }


def explained(explainer: Any, trace: Trace, target: Target, case: Case) -> Tensor:
    """Return maps of the rows of a trace.

    Parameters
    ----------
    explainer
        See `Subject.explainer`; a `Bound` explains the trace as it is, whatever its own model.
    trace
        Samples, in a network.
    target
        What is explained.
    case
        The batch that is scored.

    Raises
    ------
    TypeError
        If there is no explainer, or it cannot explain this.
    """
    if isinstance(explainer, Bound):
        named = trace.named(explainer.namespace or explainer.explainer.name)
        found: Tensor = explaining.explained(explainer.explainer, named, target).relevance
        return found
    if hasattr(explainer, "explain"):
        return explainer.explain(trace, target)  # type: ignore[no-any-return]
    if not hasattr(explainer, "attribute"):
        raise TypeError(
            f"got {explainer!r} as the explainer, expected one, as maps are explained again: pass "
            "explainer=explainers.get(name)(model)"
        )
    if trace.network is not case.network_trace().network or trace.parent is not None:
        raise TypeError(
            f"got an explainer {type(explainer).__name__}, expected one of "
            "explainers.get(name)(model): others explain the outputs of their own model only"
        )
    classes = trace.cotangent(target).argmax(1)
    return explainer.attribute(trace.inputs, target=classes)  # type: ignore[no-any-return]


def fixed(trace: Trace, target: Target) -> Target:
    """Return what is explained of each row, so that it stays when the inputs change.

    Parameters
    ----------
    trace
        The samples as they are.
    target
        Of the outputs.
    """
    return fixed_at(trace, target, torch.arange(trace.n_rows))


def fixed_at(trace: Trace, target: Target, rows: Tensor) -> Target:
    """Return what `fixed` returns, for the sample that each of other rows belongs to."""
    weights = trace.cotangent(target)[rows]
    if target.kind == "weights":
        return Target("weights", weights)
    return Target("index", weights.argmax(1))
